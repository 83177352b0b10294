"""ONNX files that carry integer weights and their scales.

Every layer that is held on a set becomes `DequantizeLinear(integers, scales)` in front of its operator: int8 where all
integers fit, else int16 (operator set 21). `smec compile --pattern external` keeps those integers as they are.
"""

from __future__ import annotations

import copy
import logging
import os
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from torch import Tensor, nn
from torch.nn.utils import parametrize

from smec.ir.errors import SmecError
from smec.train.held import Held
from smec.train.matrices import from_blocks

#: The first operator set whose DequantizeLinear takes int16.
OPSET = 21

#: Operators whose second input is a layer's weight.
_WEIGHTED = ("Conv", "Gemm", "MatMul")


def export_onnx(
    model: nn.Module,
    inputs: Tensor | tuple[Tensor, ...],
    path: str | os.PathLike[str] | None = None,
    *,
    input_names: Sequence[str] = ("input",),
    output_names: Sequence[str] = ("output",),
) -> onnx.ModelProto:
    """Export a model whose weights are held on their sets (`Admm.finish`), and write it to `path` if there is one.

    Args:
        model: it is copied, and exported in evaluation mode.
        inputs: an example of each input; the first axis is the batch and stays symbolic, so give two images or more.
        path: of the ONNX file.
        input_names, output_names: of the graph.

    Raises:
        SmecError: no weight is held on a set, or the exported graph does not use one as it is.
    """
    plain = copy.deepcopy(model).cpu().eval()
    held: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}
    for name, module in plain.named_modules():
        if not parametrize.is_parametrized(module, "weight"):
            continue
        entry = module.parametrizations.weight[0]
        if isinstance(entry, Held):
            original = module.parametrizations.weight.original.detach()
            integers = from_blocks(torch.from_numpy(entry.integers(original)), tuple(original.shape)).numpy()
            entry.fixed = module.weight.detach().clone()
            held[name] = entry.fixed.numpy(), integers, entry.scales()
    if not held:
        raise SmecError("no weight of the model is held on a set", hint="call Admm.finish first")
    examples = inputs if isinstance(inputs, tuple) else (inputs,)
    proto = float_onnx(plain, tuple(x.detach().cpu() for x in examples), input_names, output_names)
    for name, (real, integers, scales) in held.items():
        if not _carry(proto, name, real, integers, scales):
            raise SmecError(
                "the exported graph does not use this layer's weight as it is",
                location=name,
                expected="an initializer that is the second input of Conv, Gemm or MatMul",
            )
    used = {name for node in proto.graph.node for name in node.input}
    for tensor in [t for t in proto.graph.initializer if t.name not in used]:
        proto.graph.initializer.remove(tensor)
    onnx.checker.check_model(proto, full_check=True)
    if path is not None:
        onnx.save(proto, path)
    return proto


def float_onnx(
    model: nn.Module,
    inputs: tuple[Tensor, ...],
    input_names: Sequence[str] = ("input",),
    output_names: Sequence[str] = ("output",),
) -> onnx.ModelProto:
    """A model as `torch.onnx.export` writes it, with a symbolic batch axis, without notes on where nodes came from."""
    batch = torch.export.Dim("N")
    # The exporter warns of what it does not find or has deprecated itself: nothing that a user could change.
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder) / "model.onnx"
        logger.setLevel(logging.ERROR)
        torch.onnx.export(
            model,
            inputs,
            path,
            input_names=list(input_names),
            output_names=list(output_names),
            dynamic_shapes=tuple({0: batch} for _ in inputs),
            opset_version=OPSET,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
        logger.setLevel(level)
        proto = onnx.load(path)
    graph = proto.graph
    # Stack traces name files of the machine that the model was trained on.
    for entry in (proto, graph, *graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        del entry.metadata_props[:]
    return proto


def _carry(proto: onnx.ModelProto, name: str, real: np.ndarray, integers: np.ndarray, scales: np.ndarray) -> bool:
    """Put integers in the place of a layer's float weight; return whether it is there."""
    graph = proto.graph
    arrays = {t.name: t for t in graph.initializer}
    users: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        if node.op_type in _WEIGHTED and len(node.input) > 1 and node.input[1] in arrays:
            users.setdefault(node.input[1], []).append(node)
    for initializer, nodes in users.items():
        array = numpy_helper.to_array(arrays[initializer])
        transposed = array.ndim == 2 and array.shape != real.shape and array.shape == real.T.shape
        if array.ndim == 2 and array.shape == real.shape and not np.array_equal(array, real):
            transposed = array.shape == real.T.shape and np.array_equal(array, real.T)
        if not np.array_equal(array, real.T if transposed else real):
            continue
        stored = np.ascontiguousarray(integers.T if transposed else integers)
        axis = 1 if transposed else 0
        low, high = int(stored.min()), int(stored.max())
        stored = stored.astype(np.int8 if low >= -128 and high <= 127 else np.int16)
        graph.initializer.append(numpy_helper.from_array(stored, f"{name}.integers"))
        factor = scales if scales.size > 1 else scales.reshape(())
        graph.initializer.append(numpy_helper.from_array(factor.astype(np.float32), f"{name}.scales"))
        attributes: dict[str, Any] = {"axis": axis} if scales.size > 1 else {}
        made = helper.make_node(
            "DequantizeLinear",
            [f"{name}.integers", f"{name}.scales"],
            [f"{name}.dequantized"],
            name=f"{name}.dequantize",
            **attributes,
        )
        first = min(i for i, node in enumerate(graph.node) if any(node is n or node == n for n in nodes))
        graph.node.insert(first, made)
        for node in graph.node:
            if node.op_type in _WEIGHTED and len(node.input) > 1 and node.input[1] == initializer:
                node.input[1] = f"{name}.dequantized"
        return True
    return False
