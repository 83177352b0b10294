"""The table of `smec compare`: the same columns on a terminal and in Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: Titles; the first column is text, the others are numbers. A column x holds the ratio of the one before it.
COLUMNS = (
    "scheme", "top-1 %", "crossbars", "x", "cells in use", "latency us", "x", "images/s", "at budget", "x",
    "energy uJ", "x", "area mm2",
)  # fmt: skip


def rows(document: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """A row of text for each scheme."""
    return [_row(scheme) for scheme in document["schemes"]]


def caption(document: Mapping[str, Any]) -> list[str]:
    """What a reader must know to read the table, a sentence each."""
    float_top1 = document["float_top1"]
    base, budget = document["baseline"], document["budget_crossbars"]
    accuracy = "no labels" if float_top1 is None else f"float model: {float_top1:.2f} %"
    return [
        f"{document['images']} images ({document['inputs']}); {accuracy}.",
        f"Columns x: times better than {base}, with one copy of each layer; throughput at budget: at the same budget.",
        f"At budget: images/s with copies of slow layers in {budget:,} crossbars.",
        "Energy is that of one image, area that of the cores in use.",
    ]


def markdown(document: Mapping[str, Any]) -> str:
    """The table and its caption."""
    lines = [
        f"# {document['model']}",
        "",
        _line(COLUMNS),
        _line(["---", *["---:"] * (len(COLUMNS) - 1)]),
        *(_line(row) for row in rows(document)),
        "",
        *caption(document),
    ]
    return "\n".join(lines) + "\n"


def _line(cells: Any) -> str:
    return "| " + " | ".join(cells) + " |"


def _row(s: Mapping[str, Any]) -> tuple[str, ...]:
    ratios = s["ratios"]

    def ratio(name: str) -> str:
        return "-" if ratios[name] is None else f"{ratios[name]:.2f}"

    return (
        s["scheme"],
        "-" if s["top1"] is None else f"{s['top1']:.2f}",
        f"{s['crossbars']:,}",
        ratio("crossbars_fewer"),
        f"{100 * s['cells_in_use'] / s['cells']:.0f} %" if s["cells"] else "-",
        f"{s['latency_ns'] / 1e3:,.0f}",
        ratio("latency_shorter"),
        f"{s['throughput_images_per_s']:,.0f}",
        f"{s['throughput_at_budget']:,.0f}",
        ratio("throughput_higher"),
        f"{s['energy_pj'] / 1e6:,.1f}",
        ratio("energy_less"),
        f"{s['area_mm2']:.1f}",
    )
