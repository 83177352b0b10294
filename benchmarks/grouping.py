"""Measure row grouping on full-size topologies with narrow converters: objective, lower bound, gap, effort and time.

    python benchmarks/grouping.py                       # three topologies, 6 and 5 ADC bits, squeezed and not
    python benchmarks/grouping.py resnet50 --adc-bits 5 --json -
    python benchmarks/grouping.py --sizes               # where CP-SAT pays: small random crossbars
    python benchmarks/grouping.py --copies              # replication: its gap above the continuous bound

Networks are those of `topologies.py` (or ONNX files), at 8-bit weights and activations on the preset `sme`, whose ADC
a user's TOML file overrides. Reads are those of all physical crossbars for one input vector. `fixed` are consecutive
groups of the largest number of rows that no input can overflow, 2^B - 1 for one-bit cells. Every group is checked with
its worst input.

`--copies` has the preset's own ADC. Budgets are the whole chips that one copy needs, and 2 and 10 times its crossbars.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import smec
from smec import targets
from smec.ir.dialects.builtin import ModuleOp
from smec.passes.base import PassContext
from smec.passes.group_rows import GroupRows
from smec.passes.mapping.grouping import Reader, group_rows
from smec.passes.mapping.layers import crossbar_layers
from smec.passes.mapping.row_improve import Effort
from smec.passes.mapping.slicing import unpack_cells
from smec.passes.replicate import Replicate
from topologies import TOPOLOGIES, model_file

SCHEMA = "smec-grouping-1"


def sliced(name: str, squeeze: int, folder: Path) -> ModuleOp:
    """A network's crossbars, as far as pass `slice-bits`; `name` of a topology or a file."""
    return smec.lower(str(model_file(name, folder)), "xbar.sliced", target="sme", squeeze=squeeze)


def lossless(module: ModuleOp, capacity: int) -> bool:
    """Whether all-one inputs, the worst for cells that are never negative, leave all columns within the ADC."""
    for op in crossbar_layers(module):
        for cells, group in zip(op.cells.array, op.row_group.array, strict=True):
            values = unpack_cells(cells, op.geometry[1], op.cell_bits)
            load = np.zeros((int(group.max(initial=-1)) + 1, values.shape[1]), np.int64)
            np.add.at(load, group[group >= 0], values[group >= 0])
            if load.max(initial=0) > capacity or values[group < 0].any():
                return False
    return True


def measure(module: ModuleOp, adc_bits: int, folder: Path) -> dict[str, Any]:
    """The figures of one network and converter."""
    file = folder / f"adc{adc_bits}.toml"
    file.write_text(f'inherits = "sme"\nname = "adc{adc_bits}"\nadc_bits = {adc_bits}\n')
    context = PassContext(target=targets.load(str(file)))
    GroupRows(rows=(1 << adc_bits) - 1).run(module, context)
    fixed = context.report["group-rows"]["reads"]
    started = time.perf_counter()
    GroupRows().run(module, context)
    seconds = time.perf_counter() - started
    report = context.report["group-rows"]
    return {
        "crossbars": sum(layer["crossbars"] for layer in report["layers"]),
        "reads": report["reads"],
        "bound": report["bound"],
        "gap": report["gap"],
        "fixed": fixed,
        "fewer": fixed / report["reads"],
        "lossless": lossless(module, (1 << adc_bits) - 1),
        "seconds": seconds,
        **report["effort"],
    }


def copies(module: ModuleOp) -> list[dict[str, Any]]:
    """Reads of the busiest copy that `replicate` reaches at three budgets; `gap` is above the continuous bound."""
    context = PassContext(target=targets.load("sme"))
    GroupRows().run(module, context)
    rows: list[dict[str, Any]] = []
    budget = None
    for name, times in (("whole chips", 0), ("2 x one copy", 2), ("10 x one copy", 10)):
        if times:
            budget = times * context.report["replicate"]["crossbars_once"]
        started = time.perf_counter()
        Replicate(crossbars=budget).run(module, context)
        report = context.report["replicate"]
        rows.append(
            {
                "budget": name,
                "crossbars": report["budget"],
                "taken": report["crossbars"],
                "reads": report["cycles"],
                "bound": report["bound"],
                "continuous": report["continuous_bound"],
                "gap": report["continuous_gap"],
                "shared_pixels": report["shared_pixels"],
                "seconds": time.perf_counter() - started,
            }
        )
    return rows


def sizes(limit: float, seed: int = 0) -> list[dict[str, Any]]:
    """What CP-SAT makes of random crossbars that local search leaves above the bound, by rows times groups."""
    random = np.random.default_rng(seed)
    rows_of: dict[int, dict[str, Any]] = {}
    for _ in range(150):
        rows, columns = int(random.choice([8, 12, 16, 24, 32, 48, 64, 128])), int(random.choice([8, 32, 128]))
        cells = random.random((4, rows, columns)) < random.uniform(0.2, 0.7)
        packed = np.packbits(cells, axis=-1, bitorder="little")
        shifts = random.integers(0, int(random.choice([1, 3])), (4, rows)).astype(np.uint8)
        reader = Reader(int(random.choice([2, 3])), 1, rows, 8)
        found = group_rows(packed, shifts, columns, 1, reader, effort=Effort(limit=0.0))
        for x in np.flatnonzero(found.reads > found.bound).tolist():
            size = int(np.count_nonzero(found.row_group[x] >= 0) * found.groups[x])
            started = time.perf_counter()
            effort = Effort(limit=limit, size=1 << 30)
            exact = group_rows(packed[x : x + 1], shifts[x : x + 1], columns, 1, reader, effort=effort)
            row = rows_of.setdefault(
                1 << (size - 1).bit_length(),
                {"crossbars": 0, "decided": 0, "saved": 0, "raised": 0, "time": 0.0, "seconds": 0.0},
            )
            row["crossbars"] += 1
            row["decided"] += exact.spent.decided
            row["saved"] += int(found.reads[x] - exact.reads[0])
            row["raised"] += int(exact.bound[0] - found.bound[x])
            row["time"] += exact.spent.exact_time
            row["seconds"] += time.perf_counter() - started
    return [{"size": size, **row} for size, row in sorted(rows_of.items())]


def show(rows: list[dict[str, Any]], title: str) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title)
    for heading in rows[0]:
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(*(_text(name, value) for name, value in row.items()))
    Console(width=None if sys.stdout.isatty() else 200).print(table)


def _text(name: str, value: Any) -> str:
    if name == "gap":
        return f"{100 * value:.2f} %"
    if isinstance(value, float):
        return f"{value:.2f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure row grouping with narrow converters.")
    parser.add_argument("networks", nargs="*", help=f"of {', '.join(TOPOLOGIES)}, or ONNX files; default these three")
    parser.add_argument("--adc-bits", type=int, action="append", help="may be repeated; default 6 and 5")
    parser.add_argument("--squeeze", type=int, action="append", help="squeeze depth, may be repeated; default 0 and 4")
    parser.add_argument("--sizes", action="store_true", help="measure CP-SAT on random crossbars by their size instead")
    parser.add_argument("--copies", action="store_true", help="measure replication instead, without squeeze by default")
    parser.add_argument("--limit", type=float, default=0.2, help="CP-SAT's deterministic time for --sizes")
    parser.add_argument("--json", metavar="FILE", help="write the figures there; - is standard output")
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    if arguments.sizes:
        rows = sizes(arguments.limit)
        title = "CP-SAT on random crossbars that local search leaves above the bound, by rows times groups (at most)"
    elif arguments.copies:
        title = (
            "replication, 1-bit cells, 8-bit weights and activations, 8-bit ADC; reads of the busiest copy for an image"
        )
        with tempfile.TemporaryDirectory() as folder:
            for name in arguments.networks or TOPOLOGIES:
                for squeeze in arguments.squeeze or (0,):
                    head = {"network": Path(name).stem, "squeeze": squeeze}
                    rows += [{**head, **row} for row in copies(sliced(name, squeeze, Path(folder)))]
    else:
        title = "row grouping, 1-bit cells, 8-bit weights and activations; reads of one input vector, all crossbars"
        with tempfile.TemporaryDirectory() as folder:
            for name in arguments.networks or TOPOLOGIES:
                for squeeze in arguments.squeeze or (0, 4):
                    module = sliced(name, squeeze, Path(folder))
                    for bits in arguments.adc_bits or (6, 5):
                        head = {"network": Path(name).stem, "squeeze": squeeze, "adc_bits": bits}
                        rows.append({**head, **measure(module, bits, Path(folder))})
    if arguments.json:
        text = json.dumps({"schema": SCHEMA, "rows": rows}, indent=2) + "\n"
        if arguments.json == "-":
            sys.stdout.write(text)
            return
        Path(arguments.json).write_text(text)
    show(rows, title)


if __name__ == "__main__":
    main()
