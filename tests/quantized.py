"""Runs a float model and its quantized form side by side, for tests of the quantization passes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx

from smec.frontend.load import import_model
from smec.ir.core import Operation
from smec.ir.dialects.builtin import ModuleOp
from smec.ir.float_runner import FloatRunner
from smec.ir.images import image_arrays
from smec.ir.interpreter import interpret
from smec.ir.verifier import verify
from smec.passes.base import PassContext
from smec.passes.calibrate import Calibrate
from smec.passes.partition import Partition
from smec.passes.quantize_activations import QuantizeActivations
from smec.passes.quantize_nearest import QuantizeNearest


def lower(
    model: onnx.ModelProto | ModuleOp,
    calibration: Mapping[str, np.ndarray] | None = None,
    act_bits: int = 8,
    calibrate: Calibrate | None = None,
    weights: QuantizeNearest | None = None,
) -> tuple[ModuleOp, PassContext]:
    """Import a model and run the four passes; the module is verified after each."""
    module = model if isinstance(model, ModuleOp) else import_model(model)
    context = PassContext(calibration=None if calibration is None else dict(calibration), act_bits=act_bits)
    for step in (Partition(), calibrate or Calibrate(), QuantizeActivations(), weights or QuantizeNearest()):
        step.run(module, context)
        verify(module)
    return module, context


def both(
    model: onnx.ModelProto, inputs: Mapping[str, np.ndarray], **options: Any
) -> tuple[ModuleOp, PassContext, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The quantized module, its context, and the outputs of the float and of the quantized model on `inputs`.

    `inputs` are user arrays, and calibrate the model too unless `calibration` is among the options.
    """
    exact = FloatRunner(import_model(model)).outputs(inputs)
    module, context = lower(model, options.pop("calibration", inputs), **options)
    found = interpret(module, image_arrays(inputs, module.graph))
    return module, context, exact, found


def snr(found: np.ndarray, exact: np.ndarray) -> float:
    """Signal-to-noise ratio in dB; infinite where both are equal."""
    noise = float(np.square(found.astype(np.float64) - exact).mean())
    power = float(np.square(exact.astype(np.float64)).mean())
    return float("inf") if noise == 0 else float(10 * np.log10(power / noise)) if power else float("-inf")


def names(module: ModuleOp) -> list[str]:
    """Names of the graph's operations, in order, without the terminator."""
    return [op.name for op in module.graph.ops]


def find(module: ModuleOp, name: str) -> list[Any]:
    """The graph's operations of a name."""
    found: list[Operation] = [op for op in module.graph.ops if op.name == name]
    return found
