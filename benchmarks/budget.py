"""Crossbars and error of uniform squeeze depths, and of depths chosen for each layer, through compiled programs.

    python benchmarks/budget.py MODEL.onnx --calib CALIB.npz --input TEST.npz                    # a Markdown table
    python benchmarks/budget.py MODEL.onnx --calib CALIB.npz --input TEST.npz --max-crossbars 40,60 --max-error 0.01

The error is that of the program's outputs on TEST.npz against the float network's: squared, over their power, the mean
over images taken out of that. `predicted` is what the pass `allocate` expected from calibration data, `calibration` the
error on those. TEST.npz may hold labels.
"""

from __future__ import annotations

import argparse
from typing import Any, ClassVar

import smec
from judge import Judge
from smec.ir.dialects.builtin import ModuleOp
from smec.passes.allocate import Allocate, Measured
from smec.passes.base import PassContext


class Remembering(Allocate):
    """The pass `allocate`, which measures the network once for all bounds."""

    known: ClassVar[list[Measured]] = []

    def measure(self, module: ModuleOp, context: PassContext) -> Measured:
        if not self.known:
            self.known.append(super().measure(module, context))
        return self.known[0]


def row(judge: Judge, name: str, model: str, calib: str, **options: Any) -> str:
    """One line of the table."""
    report: dict[str, Any] = {}
    pipeline = smec.default_pipeline(quantizer="admm", **options)
    if options["squeeze"] == "auto":
        (found,) = (item for item in pipeline if isinstance(item, Allocate))
        pipeline.replace(found.name, Remembering(**vars(found)))
    program = smec.compile(model, calib=calib, report=report, pipeline=pipeline)
    error, top1 = judge(program)
    expected = report.get("allocate", {}).get("predicted_error")
    seen = report["quantize-admm"].get("network_error")
    cells = [name, str(program.metadata["crossbars"])]
    cells += ["" if e is None else f"{e:.3g}" for e in (expected, seen, error)]
    return f"| {' | '.join(cells)} | {'' if top1 is None else f'{top1:.2f}'} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--calib", required=True)
    parser.add_argument("--input", required=True)
    parser.add_argument("--planes", default="2,3,4,5,6,8", help="of two's complement")
    parser.add_argument("--split-planes", default="1,2,3,4", help="of each sign, with signs split")
    parser.add_argument("--max-crossbars", default="")
    parser.add_argument("--max-error", default="0.05,0.02,0.01,0.005")
    arguments = parser.parse_args()
    given = (arguments.model, arguments.calib)
    judge = Judge(arguments.model, arguments.input)
    print("| depth | crossbars | predicted | calibration | measured | top-1 % |")
    print("| --- " + "| ---: " * 5 + "|")
    for sign, planes in (("twos-complement", arguments.planes), ("differential", arguments.split_planes)):
        for kept in map(int, filter(None, planes.split(","))):
            options: dict[str, Any] = {"sign": sign, "squeeze": 8 - kept, "shift": "fit"}
            print(row(judge, f"{sign}, {kept} planes", *given, **options), flush=True)
    for bound in map(int, filter(None, arguments.max_crossbars.split(","))):
        name = f"auto, {bound} crossbars"
        print(row(judge, name, *given, squeeze="auto", max_crossbars=bound), flush=True)
    for error in map(float, filter(None, arguments.max_error.split(","))):
        print(row(judge, f"auto, error {error:g}", *given, squeeze="auto", max_error=error), flush=True)


if __name__ == "__main__":
    main()
