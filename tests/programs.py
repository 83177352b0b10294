"""From a quantized module to a validated program, for tests that do not need the whole driver."""

from __future__ import annotations

from typing import Any, cast

from smec import targets
from smec.ir.dialects.builtin import ModuleOp
from smec.ir.dialects.isa import to_words
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
