"""Measure the IR: print, parse, verify and rewrite a module of 5,000 operations.

    python benchmarks/ir_bench.py [--ops 5000] [--json FILE]

Seconds depend on the machine, so that each figure also comes as a ratio to a fixed loop in pure Python, timed in turns
with it in the same run. Where xDSL is installed, its parser reads the same text for comparison.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from smec.ir.core import Block, Operation, Region, Value, attr, operand, result, tuple_attr
from smec.ir.dialects.builtin import GraphOp, ModuleOp, ReturnOp
from smec.ir.parser import parse_module
from smec.ir.printer import print_module
from smec.ir.rewriter import Rewriter, apply_patterns, pattern
from smec.ir.types import Location, Quantized, TensorType
from smec.ir.verifier import verify

SCHEMA = "smec-ir-bench-1"
REPEATS = 5


class Add(Operation):
    """An operation of average size."""

    name = "bench.add"
    a = operand()
    b = operand()
    out = result()
    label = attr(str)
    bits = attr(int)
    pads = tuple_attr(int)
    clamp_max = attr(float)


def build(ops: int) -> ModuleOp:
    """A chain of `ops` additions with four attributes and a location each."""
    type = TensorType((1, 16, 32, 32), Quantized(8, 0.0123, 128))
    block = Block([type])
    before: Value = block.args[0]
    last: Value = block.args[0]
    for i in range(ops):
        attributes: dict[str, Any] = {"name": f"layer{i}", "bits": 8, "pads": (1, 1, 1, 1), "clamp_max": 0.1 * (i % 13)}
        op = Add.create([last, before], [type], attributes, location=Location("net.onnx", f"/layer{i}/Add"))
        block.append(op)
        before, last = last, op.out
    block.append(ReturnOp.create([last], location=Location("net.onnx")))
    attributes = {"opset": 17, "input_names": ("x",), "output_names": ("y",)}
    graph = GraphOp.create(attributes=attributes, regions=[Region([block])], location=Location("net.onnx"))
    return ModuleOp.create(regions=[Region([Block([], [graph])])], location=Location("net.onnx"))


@pattern(Add)
def narrow(op: Add, rewriter: Rewriter) -> None:
    """Replace each 8-bit addition by a 7-bit one."""
    if op.bits == 8:
        attributes = {**op.attributes, "bits": 7}
        rewriter.replace_op(op, Add.create(op.operands, [op.out.type], attributes, location=op.location))


def yardstick() -> int:
    """The fixed loop: look-ups, attribute-free arithmetic and list appends, as an interpreter of IR does them."""
    table = {i: i * 7 % 1000 for i in range(1000)}
    out: list[int] = []
    at = 1
    for _ in range(500_000):
        at = table[at]
        out.append(at + 1)
        at = (at + len(out)) % 1000
    return at


def seconds(function: Callable[[], Any]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def measure(ops: int) -> dict[str, dict[str, float]]:
    """Best time of each step in seconds, and its ratio to the best time of the loop."""
    module = build(ops)
    text = print_module(module)
    parse_module(text)  # makes the parser, once a process
    steps: dict[str, Callable[[], float]] = {
        "print": lambda: seconds(lambda: print_module(module)),
        "parse": lambda: seconds(lambda: parse_module(text)),
        "verify": lambda: seconds(lambda: verify(module)),
        "rewrite": lambda: _rewrite(ops),
    }
    if importlib.util.find_spec("xdsl") is not None:
        steps["parse with xDSL"] = lambda: seconds(lambda: _xdsl(text))
    best = dict.fromkeys(["loop", *steps], float("inf"))
    for _ in range(REPEATS):
        best["loop"] = min(best["loop"], seconds(yardstick))
        for name, step in steps.items():
            best[name] = min(best[name], step())
    return {name: {"seconds": t, "ratio": t / best["loop"]} for name, t in best.items()}


def _rewrite(ops: int) -> float:
    module = build(ops)
    return seconds(lambda: apply_patterns(module, [narrow]))


def _xdsl(text: str) -> None:
    from xdsl.context import Context
    from xdsl.dialects.builtin import Builtin
    from xdsl.parser import Parser

    context = Context(allow_unregistered=True)
    context.load_dialect(Builtin)
    Parser(context, text).parse_module()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ops", type=int, default=5000, help="operations in the module")
    parser.add_argument("--json", metavar="FILE", help="write the figures as JSON; '-' is standard output")
    arguments = parser.parse_args()
    figures = measure(arguments.ops)
    document = json.dumps({"schema": SCHEMA, "ops": arguments.ops, "steps": figures}, indent=2)
    if arguments.json == "-":
        sys.stdout.write(document + "\n")
        return
    if arguments.json:
        Path(arguments.json).write_text(document + "\n", encoding="utf-8")
    print(f"{arguments.ops} operations, best of {REPEATS}")
    for name, figure in figures.items():
        print(f"  {name:16} {figure['seconds']:8.4f} s   {figure['ratio']:7.3f} x the loop")


if __name__ == "__main__":
    main()
