"""From a quantized module to a validated program, for tests that do not need the whole driver."""

from __future__ import annotations

from typing import Any, cast

import numpy as np

from smec import targets
from smec.ir.dialects.builtin import ModuleOp
from smec.ir.dialects.isa import to_words
from smec.ir.interpreter import interpret
from smec.ir.isa_machine import run_machine
from smec.passes.base import PassContext
from smec.passes.pipeline import parse_pipeline
from smec.runtime.container import Program
from smec.runtime.metadata import Metadata


def lower(
    module: ModuleOp, pipeline: str, *, act_bits: int = 8, report: dict[str, Any] | None = None, **target: Any
) -> Program:
    """Run the mapping passes on a module at level `quant`; `target` overrides numbers of the default target.

    `report`, where given, is filled with what the passes report.
    """
    machine = targets.load("sme")
    machine = type(machine).model_validate({**machine.model_dump(), **target})
    context = PassContext(target=machine, act_bits=act_bits, report={} if report is None else report)
    parse_pipeline(pipeline).run(module, context)
    return assembled(module)


def assert_passes(module: ModuleOp, pipeline: str, context: PassContext, inputs: dict[str, Any]) -> None:
    """Run passes on a module with the output y0: each leaves it what it was, and so does the program."""
    expected = interpret(module, inputs)["y0"]
    for item in parse_pipeline(pipeline).passes:
        item.run(module, context)
        if item.name != "emit":
            np.testing.assert_array_equal(interpret(module, inputs)["y0"], expected, item.name)
    np.testing.assert_array_equal(run_machine(assembled(module), inputs).outputs()["y0"], expected)


def assembled(module: ModuleOp) -> Program:
    """The validated program of a module that `emit` has seen."""
    sections, emitted = to_words(module.program)
    metadata = {
        "smec_version": "0", "options": {}, "crossbars_dense_16": 0, "crossbars_dense_8": 0,
        "source": {"file": "test.onnx", "sha256": ""}, **emitted,
    }  # fmt: skip
    program = Program(sections, cast("Metadata", metadata))
    program.validate()
    return program
