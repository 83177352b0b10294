"""Runs pieces of a graph on many images with onnxruntime: float operations, and layers with integer weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from smec.ir.batching import can_stack
from smec.ir.core import Operation, Value
from smec.ir.dialects.arithmetic import accumulator_bound, clamp_bounds, requantize_params
from smec.ir.dialects.nn import Opsets
from smec.ir.dialects.quant import Conv
from smec.ir.onnx_model import serialize
from smec.ir.onnx_session import Session, SessionError
from smec.ir.types import Quantized

#: Bytes of results that a step of a run may make, and the most images in it.
_STEP_BYTES, _MOST_IMAGES = 64 << 20, 64

#: Threads of onnxruntime.
THREADS = 2

#: Integers up to here are exact in float32.
_EXACT = 1 << 24

#: Operator set of the layers' models.
_OPSET = 17


def steps(images: int, size: int) -> Iterator[slice]:
    """Ranges of images of which `size` elements each, as float32, fit into memory."""
    step = max(1, min(_MOST_IMAGES, _STEP_BYTES // max(4 * size, 1)))
    return (slice(start, min(start + step, images)) for start in range(0, images, step))


class Segment:
    """Operations of the `nn` dialect between values that are at hand and values that are wanted.

    Args:
        ops: in order; their constants may lie outside.
        inputs: values that they use.
        outputs: values that they compute and that are wanted.
        opsets: operator sets by domain.
    """

    def __init__(self, ops: Sequence[Operation], inputs: Sequence[Value], outputs: Sequence[Value], opsets: Opsets):
        self.inputs, self.outputs = list(inputs), list(outputs)
        self.stacked = can_stack(ops, self.inputs, self.outputs)
        self.input_names = [f"arg{i}" for i in range(len(self.inputs))]
        written = serialize(
            ops,
            self.inputs,
            self.outputs,
            opsets,
            input_names=self.input_names,
            output_names=[f"out{i}" for i in range(len(self.outputs))],
            batchable=self.stacked,
        )
        try:
            self.session = Session(written.model, written.weights, threads=THREADS)
        except SessionError as error:
            raise ops[0].error(f"onnxruntime refuses the operations that begin here: {error}") from error

    def run(self, live: Mapping[Value, np.ndarray], images: int) -> dict[Value, np.ndarray]:
        """Compute the outputs, (B, *shape) each, from the inputs' arrays in `live`.

        Raises:
            SessionError: onnxruntime fails.
        """
        arrays = [live[v] for v in self.inputs]
        size = sum(max(v.type.size, 1) for v in self.outputs)
        found: list[list[np.ndarray]] = [[] for _ in self.outputs]
        for part in steps(images, size):
            for collected, results in zip(found, self._step([a[part] for a in arrays]), strict=True):
                collected.append(results)
        return {v: np.concatenate(parts) for v, parts in zip(self.outputs, found, strict=True)}

    def _step(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        if self.stacked:
            feed = {n: a.reshape(-1, *a.shape[2:]) for n, a in zip(self.input_names, arrays, strict=True)}
            return [a.reshape(len(arrays[0]), -1, *a.shape[1:]) for a in self.session.run(feed)]
        count = len(arrays[0]) if arrays else 1
        rows = [
            self.session.run({n: a[i] for n, a in zip(self.input_names, arrays, strict=True)}) for i in range(count)
        ]
        return [np.stack(found) for found in zip(*rows, strict=True)]


def run_convolution(op: Conv, q: np.ndarray) -> np.ndarray | None:
    """What `op.interpret` returns for levels `q` (B, ...), sooner; None where onnxruntime cannot be exact.

    The convolution runs on float32 integers below 2^24, whose sums no order of summation changes. What follows are the
    single float32 operations of the definition, which onnxruntime does not join when its optimizations are off.
    """
    x, y = op.x.type.quantized, op.out.type.element
    weight = op.integers()
    if not isinstance(y, Quantized) or q.dtype != np.uint8 or accumulator_bound(weight, x) >= _EXACT:
        return None
    mult, off = requantize_params(op.weight_scale.array, op.bias.array, x, y)
    low, high = clamp_bounds(y, op.clamp_min, op.clamp_max)
    session = Session(_convolution(op, weight, mult, off, low, high), level="none", threads=THREADS)
    out = np.empty((len(q), *op.out.type.shape), op.out.type.dtype)
    for part in steps(len(q), op.out.type.size + op.x.type.size):
        found = session.run({"x": q[part].reshape(-1, *q.shape[2:])})[0]
        out[part] = found.reshape(out[part].shape)
    return out


def _convolution(op: Conv, weight: np.ndarray, mult: np.ndarray, off: np.ndarray, low: int, high: int) -> bytes:
    from onnx import TensorProto, helper, numpy_helper

    column = (1, -1, 1, 1)
    constants = {
        "w": weight.astype(np.float32),
        "z": np.float32(op.x.type.quantized.zero_point),
        "mult": mult.reshape(column),
        "off": off.reshape(column),
        "low": np.float32(low),
        "high": np.float32(high),
    }
    top, left, bottom, right = op.pads
    kind = TensorProto.UINT8 if op.out.type.dtype == np.uint8 else TensorProto.INT32
    spatial: dict[str, Any] = {"strides": op.strides, "dilations": op.dilations, "pads": (top, left, bottom, right)}
    nodes = [
        helper.make_node("Cast", ["x"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["f", "z"], ["centred"]),
        helper.make_node("Conv", ["centred", "w"], ["acc"], group=op.groups, **spatial),
        helper.make_node("Mul", ["acc", "mult"], ["scaled"]),
        helper.make_node("Add", ["scaled", "off"], ["moved"]),
        helper.make_node("Round", ["moved"], ["rounded"]),
        helper.make_node("Clip", ["rounded", "low", "high"], ["held"]),
        helper.make_node("Cast", ["held"], ["y"], to=kind),
    ]
    graph = helper.make_graph(
        nodes,
        "layer",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, ["N", *op.x.type.shape[1:]])],
        [helper.make_tensor_value_info("y", kind, ["N", *op.out.type.shape[1:]])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    opsets = [helper.make_opsetid("", _OPSET)]
    version = helper.find_min_ir_version_for(opsets)
    data: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=version).SerializeToString()
    return data
