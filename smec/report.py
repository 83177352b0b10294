"""Tables for the terminal. Each takes the document that `--json` writes and shows the part that people look at."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console
    from rich.table import Table

    from smec.driver import Progress

Document = Mapping[str, Any]

#: Width of tables where standard output is no terminal: nothing is cut or wrapped then.
PIPE_WIDTH = 200


def console() -> Console:
    """Standard output: a terminal's own width, or wide enough for any table in a pipe."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else PIPE_WIDTH, highlight=False, soft_wrap=False)


@contextmanager
def terminal_progress() -> Iterator[Progress | None]:
    """A progress callback that draws on standard error while it is a terminal; None elsewhere."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    # Nothing is drawn before the first step has a name.
    columns = (TextColumn("{task.description:>20}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", visible=False)

        def show(what: str, done: int, total: int) -> None:
            bar.update(task, description=what, completed=done, total=max(total, 1), visible=True)

        yield show


def _table(title: str, columns: Sequence[str], right: Sequence[str] = ()) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in columns:
        numeric = name in right
        table.add_column(name, justify="right" if numeric else "left", no_wrap=numeric, overflow="fold")
    return table


def _facts(rows: Sequence[tuple[str, object]]) -> Table:
    """Names and values without a frame."""
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    for name, value in rows:
        table.add_row(name, _plain(value))
    return table


def _plain(value: object) -> Any:
    from rich.text import Text

    return Text(str(value))  # model and node names may hold square brackets, which are markup elsewhere


def _ratio(document: Document, columns: int) -> str:
    """A dense mapping's crossbars, and their ratio to the physical ones that the program fills."""
    dense, own = document[f"crossbars_dense_{columns}"], document["crossbars"]
    return f"{dense:,} ({dense / own:.2f} x)" if own else f"{dense:,}"


def _crossbar_rows(document: Document) -> list[tuple[str, object]]:
    return [
        (
            "crossbars",
            f"{document['crossbars']:,} on {document['cores']} cores, holding {document['blocks']:,} blocks",
        ),
        ("dense, 16 columns a weight", _ratio(document, 16)),
        ("dense, 8 columns a weight", _ratio(document, 8)),
    ]


# -- compile and inspect -----------------------------------------------------------------------------------------------


def show_compile(document: Document) -> None:
    """The layers, crossbar counts and time of a compile."""
    out = console()
    out.print(_layer_table(document["layers"]))
    _show_host(out, document["host"])
    out.print(
        _facts(
            [
                ("model", document["model"]),
                ("program", f"{document['program']} ({document['program_bytes'] / 2**20:.1f} MiB)"),
                ("target", document["target"]["name"]),
                ("calibration", document["calibration"]),
                *_crossbar_rows(document),
                *_hint_rows(document["passes"]),
                ("instructions", f"{document['instructions']:,}"),
                ("MACs on crossbars", f"{100 * document['crossbar_mac_share']:.2f} %"),
                *_budget_rows(document["passes"]),
                ("time", f"{document['wall_s']:.2f} s, {document['peak_rss_mb']:.0f} MiB at most"),
            ]
        )
    )


def _hint_rows(passes: Document) -> list[tuple[str, object]]:
    """How to get fewer crossbars, where every bit of the weights has its own."""
    if "quantize-nearest" not in passes or "squeeze-out" in passes:
        return []
    return [("fewer crossbars", "--scheme sme, with --calib: ADMM, and the bits that each layer needs")]


def _budget_rows(passes: Document) -> list[tuple[str, object]]:
    """What `allocate` expected of its choice, and what became of it."""
    if (choice := passes.get("allocate")) is None:
        return []
    measured = [p["network_error"] for p in passes.values() if isinstance(p, Mapping) and "network_error" in p]
    found = "".join(f", {error:.3g} on calibration images" for error in measured)
    return [("error of the outputs", f"{choice['predicted_error']:.3g} expected{found}")]


def show_lower(document: Document) -> None:
    """Where the module of a partial compile went."""
    rows = [(key, document[key]) for key in ("model", "module", "level")]
    console().print(_facts([*rows, ("time", f"{document['wall_s']:.2f} s")]))


def show_export(document: Document) -> None:
    """What the exported model consists of."""
    operators = ", ".join(f"{n} {name}" for name, n in document["operators"].items())
    size = f"{document['model_bytes'] / 2**20:.1f} MiB, operator set {document['opset']}"
    rows = [
        ("program", document["program"]),
        ("model", f"{document['model']} ({size})"),
        ("nodes", f"{document['nodes']:,}: {operators}"),
    ]
    console().print(_facts(rows))


def show_inspect(document: Document) -> None:
    """Layers, crossbars and, where asked for, one layer's tiles and the map of crossbars."""
    out = console()
    out.print(_layer_table(document["layers"]))
    for layer in document["layers"]:
        if "tile_list" in layer:
            _show_tiles(out, layer)
    _show_host(out, document["host"])
    if "map" in document:
        _show_map(out, document["map"])
    kinds = document["instructions_by_kind"]
    out.print(
        _facts(
            [
                ("program", document["program"]),
                ("model", f"{document['source']['file']}, SHA-256 {document['source']['sha256'][:16]}..."),
                ("target", document["target"]["name"]),
                ("pipeline", document["options"].get("pipeline", "")),
                ("inputs", _ports(document["inputs"])),
                ("outputs", _ports(document["outputs"])),
                ("activation bits", document["act_bits"]),
                *_crossbar_rows(document),
                ("instructions", f"{document['instructions']:,}: " + ", ".join(f"{n} {k}" for k, n in kinds.items())),
                ("MACs on crossbars", f"{100 * document['crossbar_mac_share']:.2f} %"),
                ("bytes", f"{sum(document['sections'].values()):,}"),
            ]
        )
    )


def _ports(ports: Sequence[Mapping[str, Any]]) -> str:
    return ", ".join(f"{p['name']} {p['dtype']} {tuple(p['shape'])}" for p in ports)


def _layer_table(layers: Sequence[Mapping[str, Any]]) -> Table:
    numbers = [
        "K x M",
        "pixels",
        "tiles",
        "planes",
        "blocks",
        "empty",
        "crossbars",
        "groups",
        "reads/image",
        "squeeze error",
    ]
    table = _table("layers on crossbars", ["layer", "kind", *numbers, "row shifts (rows)"], numbers)
    for layer in layers:
        shifts = ", ".join(f"{k}: {n}" for k, n in layer["row_shifts"].items())
        groups = f" / {layer['groups']}" if layer.get("groups", 1) > 1 else ""
        table.add_row(
            _plain(layer["name"]),
            layer["kind"],
            f"{layer['K']} x {layer['M']}{groups}",
            f"{layer['pixels']:,}",
            str(layer["tiles"]),
            str(layer["planes"]),
            f"{layer['blocks']:,}",
            str(layer["blocks_empty"]),
            f"{layer['crossbars']:,}",
            f"{layer['row_groups']:,}",
            f"{layer['read_cycles']:,}",
            f"{layer['squeeze_error']:.2e}" if layer["squeeze_error"] else "0",
            shifts,
        )
    return table


def _show_host(out: Console, regions: Sequence[Mapping[str, Any]]) -> None:
    if not regions:
        return
    numbers = ["MACs/image", "FLOPs/image"]
    table = _table("host regions", ["region", "operators", *numbers], numbers)
    for region in regions:
        operators = ", ".join(f"{n} {name}" for name, n in region["ops"].items())
        table.add_row(_plain(region["name"]), operators, f"{region['macs']:,}", f"{region['flops']:,}")
    out.print(table)


def _show_tiles(out: Console, layer: Mapping[str, Any]) -> None:
    numbers = ["tile", "rows", "columns", "core", "slot", "at row", "at column", "weight", "rows driven", "groups"]
    table = _table(f"tiles of {layer['name']}", [*numbers[:3], "shifts", *numbers[3:]], numbers)
    for tile in layer["tile_list"]:
        head = [str(tile["tile"]), str(tile["rows"]), str(tile["columns"]), f"{tile['shift_min']}..{tile['shift_max']}"]
        for x in tile["blocks"]:
            keys = ("core", "slot", "row", "column", "weight", "rows_driven", "row_groups")
            table.add_row(*head, *(str(x[key]) for key in keys))
            head = [""] * 4
        if not tile["blocks"]:
            table.add_row(*head, *[""] * 7)
    out.print(table)


def _show_map(out: Console, crossbars: Sequence[Mapping[str, Any]]) -> None:
    numbers = ["core", "slot", "rows", "columns", "weight"]
    table = _table("crossbar map", ["core", "slot", "layer", "tile", "rows", "columns", "weight"], numbers)
    for crossbar in crossbars:
        head = [str(crossbar["core"]), str(crossbar["slot"])]
        for block in crossbar["blocks"]:
            rows = f"{block['row']}..{block['row'] + block['rows'] - 1}"
            columns = f"{block['column']}..{block['column'] + block['columns'] - 1}"
            name = _plain(block["layer"])
            table.add_row(*head, name, str(block["tile"]), rows, columns, f"{block['weight']:+d}")
            head = ["", ""]
    out.print(table)


# -- simulate and verify -----------------------------------------------------------------------------------------------


def show_simulate(document: Document) -> None:
    """Results of a run, and the layers whose reads the ADC clipped."""
    out = console()
    clipped = [layer for layer in document["layers"] if layer["saturated_reads"]]
    if clipped:
        numbers = ["saturated reads", "of reads", "share"]
        table = _table("layers with clipped reads", ["layer", *numbers], numbers)
        for layer in clipped:
            share = 100 * layer["saturated_reads"] / layer["reads"] if layer["reads"] else 0.0
            reads = f"{layer['reads']:,}" if layer["reads"] else "-"
            table.add_row(_plain(layer["name"]), f"{layer['saturated_reads']:,}", reads, f"{share:.4f} %")
        out.print(table)
    rows: list[tuple[str, object]] = [
        ("program", document["program"]),
        ("inputs", document["inputs"]),
        ("engine", document["engine"]),
        ("images", document["images"]),
    ]
    if document["top1"] is not None:
        rows.append(("top-1", f"{document['top1']:.2f} %"))
    rows += [(f"output {o['name']}", _output(o)) for o in document["outputs"]]
    rows += [
        ("saturated reads", f"{document['saturated_reads']:,}"),
        ("cycles/image", ", ".join(f"{n:,} {unit}" for unit, n in document["cycles"].items())),
        *_hardware(document),
        ("time", f"{document['wall_s']:.3f} s, {document['images_per_s']:.1f} images/s"),
        ("memory", f"{document['peak_rss_mb']:.0f} MiB at most"),
    ]
    out.print(_facts(rows))


def _hardware(document: Document) -> list[tuple[str, object]]:
    """Latency, throughput, energy and area on the target, where it was timed."""
    if "latency_ns" not in document:
        return []
    limit = document["bottleneck"]
    where = f", layer {limit['layer']}" if limit["layer"] else ""
    return [
        ("latency", f"{document['latency_ns'] / 1e3:,.1f} us, first image"),
        ("throughput", f"{document['throughput_images_per_s']:,.1f} images/s; bottleneck: {limit['resource']}{where}"),
        ("energy", f"{document['energy_pj'] / 1e6:,.2f} uJ an image"),
        ("area", f"{document['area_mm2']:.2f} mm2 on {document['chips']} chips"),
    ]


def _output(output: Mapping[str, Any]) -> str:
    text = f"{output['dtype']} {tuple(output['shape'])}"
    if output["mean"] is not None:
        text += f", mean {output['mean']:.4g}, from {output['min']:.4g} to {output['max']:.4g}"
    return text


def show_verify(document: Document) -> None:
    """Layer by layer: equal or not, and the signal-to-noise ratio against the float model."""
    out = console()
    for title in ("layers", "outputs"):
        table = _table(title, [title[:-1], "integers", "elements", "SNR (dB)"], ["elements", "SNR (dB)"])
        for check in document[title]:
            name, equal = _plain(check["name"]), "equal" if check["equal"] else "DIFFER"
            table.add_row(name, equal, f"{check['elements']:,}", _snr(check))
        if document[title]:
            out.print(table)
    rows: list[tuple[str, object]] = [
        ("model", document["model"]),
        ("program", document["program"]),
        ("inputs", document["inputs"]),
        ("images", document["images"]),
    ]
    if document["equal"]:
        counts = [f"{len(document[kind])} {kind}" for kind in ("layers", "outputs")]
        rows.append(("result", f"all of {' and '.join(counts)} are equal"))
    out.print(_facts(rows))


def _snr(check: Mapping[str, Any]) -> str:
    if check["noise_free"]:
        return "no noise"
    return "-" if check["snr_db"] is None else f"{check['snr_db']:.1f}"


# -- passes and targets ------------------------------------------------------------------------------------------------


def show_passes(document: Document) -> None:
    """Names, levels, options and one line of documentation of each pass."""
    out = console()
    table = _table("passes", ["pass", "requires", "ensures", "what it does"])
    for item in document["passes"]:
        table.add_row(item["name"], "\n".join(item["requires"]), "\n".join(item["ensures"]), _plain(item["doc"]))
    out.print(table)
    for item in document["passes"] if len(document["passes"]) == 1 else []:
        _show_options(out, item)


def _show_options(out: Console, item: Mapping[str, Any]) -> None:
    table = _table(f"options of {item['name']}", ["option", "type", "default", "meaning"])
    for option in item["options"]:
        default = "(required)" if option["required"] else option["default"]
        table.add_row(option["name"], _plain(option["type"]), _plain(default), _plain(option["doc"]))
    out.print(table)


def show_targets(document: Document) -> None:
    """The presets, or all numbers of one."""
    out = console()
    if "targets" not in document:
        facts: list[tuple[str, object]] = []
        for key, value in document.items():
            if isinstance(value, dict):  # a part of the machine
                facts += [(f"{key}.{inner}", number) for inner, number in value.items() if number is not None]
            elif key != "schema":
                facts.append((key, f"{value:,.6g}" if isinstance(value, float) else value))
        out.print(_facts(facts))
        return
    columns = ["rows", "columns", "cell_bits", "dac_bits", "adc_bits", "concurrent_rows"]
    table = _table("targets", ["target", *(c.replace("_", " ") for c in columns), "description"])
    for item in document["targets"]:
        table.add_row(item["name"], *(str(item[c]) for c in columns), _plain(item.get("description", "")))
    out.print(table)


def show_schemes(document: Document) -> None:
    """The schemes, or options and passes of one."""
    out = console()
    table = _table("schemes", ["scheme", "what it does"])
    for item in document["schemes"]:
        table.add_row(item["name"], _plain(item["doc"]))
    out.print(table)
    for item in document["schemes"] if len(document["schemes"]) == 1 else []:
        _show_options(out, item)
        out.print(_facts([("passes on the default target", item.get("pipeline", "depend on its options"))]))


def show_compare(document: Document) -> None:
    """Schemes side by side."""
    from smec.comparison_table import COLUMNS, caption, rows

    out = console()
    table = _table(document["model"], COLUMNS, COLUMNS[1:])
    for row in rows(document):
        table.add_row(*map(_plain, row))
    out.print(table)
    for line in caption(document):
        out.print(_plain(line))


#: How each command shows its document.
SHOW: dict[str, Callable[[Document], None]] = {
    "compare": show_compare,
    "compile": show_compile,
    "export": show_export,
    "inspect": show_inspect,
    "lower": show_lower,
    "passes": show_passes,
    "schemes": show_schemes,
    "simulate": show_simulate,
    "targets": show_targets,
    "verify": show_verify,
}
