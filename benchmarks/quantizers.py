"""Accuracy and crossbars of the weight quantizers at every depth of squeeze-out, measured through compiled programs.

    python benchmarks/quantizers.py MODEL.onnx --calib CALIB.npz --input TEST.npz            # a Markdown table
    python benchmarks/quantizers.py MODEL.onnx --calib CALIB.npz --input TEST.npz --planes 3,2 --quantizers admm

TEST.npz holds labels. Rows: planes that remain of 8-bit weights, by sign scheme; and plain integers of 8, 4 and 3 bits
(two's complement, no squeeze-out) beside them. The columns give top-1 in percent for each quantizer, and the physical
crossbars that ADMM's program fills.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import smec


def measure(model: str, calib: str, images: str, **options: Any) -> tuple[float, int]:
    """(top-1 in percent, physical crossbars) of one configuration."""
    program = smec.compile(model, calib=calib, shift="fit", **options)
    result = program.simulate(images, engine="exact")
    if result.top1 is None:
        sys.exit(f"{images} holds no labels")
    return result.top1, int(program.metadata["crossbars"])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--calib", required=True)
    parser.add_argument("--input", required=True)
    parser.add_argument("--planes", default="8,5,4,3,2,1")
    parser.add_argument("--patterns", default="uniform,window")
    parser.add_argument("--signs", default="differential,twos-complement")
    parser.add_argument("--sign-rows", type=int, default=8, help="with the sign scheme polarized, which is not rounded")
    parser.add_argument("--quantizers", default="nearest,greedy,admm")
    parser.add_argument("--scale", default="column")
    arguments = parser.parse_args()
    quantizers = arguments.quantizers.split(",")
    print("| sign | pattern | planes | crossbars a tile |", " | ".join(quantizers), "| crossbars |")
    print("| --- " * (5 + len(quantizers)) + "|")
    planes = [int(p) for p in arguments.planes.split(",")]
    # One plane of two's complement is a sign bit: the integers 0 and -1.
    rows = [
        (sign, pattern, kept, {"bits": 8, "squeeze": 8 - kept})
        for sign in arguments.signs.split(",")
        for pattern in arguments.patterns.split(",")
        for kept in planes
        if not (sign == "twos-complement" and kept == 1)
    ]
    rows += [("twos-complement", f"int{bits}", bits, {"bits": bits, "squeeze": 0}) for bits in (8, 4, 3)]
    for sign, pattern, kept, options in rows:
        cells, crossbars = [], 0
        for quantizer in quantizers:
            if sign == "polarized" and quantizer == "nearest":
                cells.append("-")
                continue
            chosen = "uniform" if pattern.startswith("int") else pattern
            top1, crossbars = measure(
                arguments.model, arguments.calib, arguments.input, sign=sign, pattern=chosen, quantizer=quantizer,
                scale=arguments.scale, sign_rows=arguments.sign_rows, **options,
            )  # fmt: skip
            cells.append(f"{top1:.2f}")
        tile = 2 * kept if sign == "differential" else kept
        print(f"| {sign} | {pattern} | {kept} | {tile} |", " | ".join(cells), f"| {crossbars} |", flush=True)


if __name__ == "__main__":
    main()
