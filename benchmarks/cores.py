"""Measure what `assign-cores` does after packing: equal work for banks of converters, and places on the grid of cores.

    python benchmarks/cores.py                     # three topologies
    python benchmarks/cores.py resnet20

Networks are those of `topologies.py` (or ONNX files), at 8-bit weights and activations, rounded to nearest, on the
preset `sme` with 6-bit converters, of which eight crossbars share two. Work is in conversions of an image, in slots as
they were packed and levelled; us is the steady interval between images with the former and the latter. Traffic is in
bytes x routers of an image, with cores in layer order and arranged.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

import smec
from smec import targets
from smec.runtime.timing import time_program
from topologies import TOPOLOGIES, model_file

TARGET = {"inherits": "sme", "adc_bits": 6, "adc": {"crossbars": 8, "per_bank": 2}}


def measure(path: Path) -> tuple[list[str], list[str]]:
    """A row of each table."""
    text = smec.default_pipeline().text()
    figures: dict[str, Any] = {}
    micros: list[float] = []
    for way in ("assign-cores{level=false}", "assign-cores"):
        report: dict[str, Any] = {}
        program = smec.compile(
            str(path), target=targets.from_values(TARGET), pipeline=text.replace("assign-cores", way), report=report
        )
        figures = report["assign-cores"]
        micros.append(1e6 / time_program(program).throughput_images_per_s)
    work, network = figures["workload"], figures["network"]
    before, after = (f"{us:,.0f}" for us in micros)
    banks = [f"{work[key]:,}" for key in ("unlevelled", "objective", "bound")] + [f"{100 * work['gap']:.1f} %"]
    places = ["-"] * 4
    if network:
        places = [f"{network[key]:,}" for key in ("in_layer_order", "objective", "bound")]
        places.append(f"{100 * network['gap']:.0f} %")
    return [path.stem, *banks, before, after], [path.stem, str(figures["cores"]), *places]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("networks", nargs="*", help=f"of {', '.join(TOPOLOGIES)}, or ONNX files; default these three")
    arguments = parser.parse_args()
    banks, places = Table(title="work of the busiest bank"), Table(title="traffic between cores")
    for column in ("network", "as packed", "levelled", "bound", "gap", "us before", "us after"):
        banks.add_column(column, justify="right")
    for column in ("network", "cores", "in layer order", "arranged", "bound", "gap"):
        places.add_column(column, justify="right")
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.networks or TOPOLOGIES:
            path = model_file(name, Path(folder))
            row = measure(path)
            banks.add_row(*row[0])
            places.add_row(*row[1])
    console = Console(width=120)
    console.print(banks)
    console.print(places)


if __name__ == "__main__":
    main()
