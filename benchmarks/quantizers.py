"""Accuracy, output error and crossbars of the weight quantizers at every depth, measured through compiled programs.

    python benchmarks/quantizers.py MODEL.onnx --calib CALIB.npz --input TEST.npz            # a Markdown table
    python benchmarks/quantizers.py MODEL.onnx --calib CALIB.npz --input TEST.npz --planes 3,2 --quantizers admm

Rows: planes that remain of 8-bit weights, by sign scheme and pattern; and plain integers of 8, 4 and 3 bits (two's
complement, no squeeze-out) beside them. The columns give, for each quantizer, top-1 in percent where TEST.npz holds
labels, and the error of the outputs (`judge.py`) in percent; and the physical crossbars that the last one's program
fills.

No such row: one plane of two's complement is a sign bit, the integers 0 and -1; `offset` makes the top plane dense, so
that it does not squeeze; polarized weights are not rounded, the signs are to be chosen first.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

import smec
from judge import Judge


def configurations(arguments: argparse.Namespace) -> Iterator[tuple[list[str], dict[str, Any]]]:
    """For each row: sign scheme, pattern, planes and crossbars of a tile, and the options of the compiler."""
    planes = [int(p) for p in arguments.planes.split(",")]
    groups = [int(g) for g in arguments.sign_rows.split(",")]
    for sign in arguments.signs.split(","):
        for rows in groups if sign == "polarized" else [None]:
            name, more = (sign, {}) if rows is None else (f"{sign}, g = {rows}", {"sign_rows": rows})
            for pattern in arguments.patterns.split(","):
                for kept in planes:
                    if (sign == "twos-complement" and kept == 1) or (sign == "offset" and kept < 8):
                        continue
                    tile = 2 * kept if sign == "differential" else kept
                    options = {"sign": sign, "pattern": pattern, "bits": 8, "squeeze": 8 - kept, **more}
                    yield [name, pattern, str(kept), str(tile)], options
    for bits in map(int, filter(None, arguments.integers.split(","))):
        options = {"sign": "twos-complement", "pattern": "uniform", "bits": bits, "squeeze": 0}
        yield ["twos-complement", f"int{bits}", str(bits), str(bits)], options


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--calib", required=True)
    parser.add_argument("--input", required=True)
    parser.add_argument("--planes", default="8,5,4,3,2,1")
    parser.add_argument("--patterns", default="uniform,window")
    parser.add_argument("--signs", default="differential,twos-complement,offset,polarized")
    parser.add_argument("--sign-rows", default="8,16", help="groups of polarized weights")
    parser.add_argument("--integers", default="8,4,3", help="bits of plain integers; empty: none")
    parser.add_argument("--quantizers", default="nearest,greedy,admm")
    parser.add_argument("--scale", default="column")
    arguments = parser.parse_args()
    quantizers = arguments.quantizers.split(",")
    judge = Judge(arguments.model, arguments.input)
    print("| sign | pattern | planes | crossbars a tile |", " | ".join(quantizers), "| crossbars |")
    print("| --- | --- |" + " ---: |" * (3 + len(quantizers)))
    for labels, options in configurations(arguments):
        cells, crossbars = [], 0
        for quantizer in quantizers:
            if options["sign"] == "polarized" and quantizer == "nearest":
                cells.append("-")
                continue
            options |= {"quantizer": quantizer, "scale": arguments.scale, "shift": "fit"}
            program = smec.compile(arguments.model, calib=arguments.calib, **options)
            error, top1 = judge(program)
            crossbars = int(program.metadata["crossbars"])
            cells.append(f"{100 * error:.3g}" if top1 is None else f"{top1:.2f} ({100 * error:.3g})")
        print("|", " | ".join([*labels, *cells, str(crossbars)]), "|", flush=True)


if __name__ == "__main__":
    main()
