"""Measure what tiles save by sharing physical crossbars, and what it costs: crossbars, throughput, latency, messages.

    python benchmarks/places.py                          # three topologies, 8 planes of each sign
    python benchmarks/places.py resnet20 --planes 2      # so many planes of two's complement

Networks are those of `topologies.py` (or ONNX files), at 8-bit activations on the preset `sme`, weights rounded to
nearest. *none*: no tile shares with another (`assign-cores{share=false}`); *free*: as far as that costs no time, the
default; *fewest*: without a bound on the time (`crossbars=0`). `fewer`: the crossbars of *none* over those of the row.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

import smec
from smec.runtime.timing import time_program
from topologies import TOPOLOGIES, model_file

WAYS = {"none": "assign-cores{share=false}", "free": "assign-cores", "fewest": "assign-cores{crossbars=0}"}


def measure(path: Path, planes: int) -> list[list[str]]:
    """A row for each way."""
    options: dict[str, Any] = {}
    if planes:
        options = {"sign": "twos-complement", "squeeze": 8 - planes, "shift": "fit" if planes < 8 else None}
    text = smec.default_pipeline(**options).text()
    rows: list[list[str]] = []
    alone = 0
    for name, way in WAYS.items():
        report: dict[str, Any] = {}
        program = smec.compile(str(path), target="sme", pipeline=text.replace("assign-cores", way), report=report)
        placed, timed = report["assign-cores"], time_program(program)
        alone = alone or placed["crossbars"]
        rows.append(
            [
                path.stem,
                str(planes or "8 of each sign"),
                name,
                f"{placed['crossbars']:,}",
                f"{placed['bound']:,}",
                f"{alone / placed['crossbars']:.2f}",
                f"{timed.throughput_images_per_s:,.1f}",
                f"{timed.latency_ns / 1e3:,.0f}",
                f"{placed['network'].get('objective', 0):,}",
            ]
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("networks", nargs="*", help=f"of {', '.join(TOPOLOGIES)}, or ONNX files; default these three")
    parser.add_argument("--planes", type=int, action="append", help="of two's complement; 0: 8 of each sign; default 0")
    arguments = parser.parse_args()
    table = Table(title="physical crossbars by how far tiles share them")
    for column in ("network", "planes", "sharing", "crossbars", "bound", "fewer", "images/s", "latency us", "traffic"):
        table.add_column(column, justify="right")
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.networks or TOPOLOGIES:
            path = model_file(name, Path(folder))
            for planes in arguments.planes or [0]:
                for row in measure(path, planes):
                    table.add_row(*row)
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
