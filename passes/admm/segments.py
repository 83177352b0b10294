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
from smec.passes.mapping.jit import compiled, in_chunks

#: Bytes of results that a step of a run may make, and the most images in it.
_STEP_BYTES, _MOST_IMAGES = 64 << 20, 64

#: Threads of onnxruntime.
THREADS = 2

#: Integers up to here are exact in float32.
_EXACT = 1 << 24

#: Sums that a thread requantizes at least.
_LEAST_WORK = 1 << 16

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
        found: dict[Value, np.ndarray] = {}
        for part in steps(images, size):
            for value, result in zip(self.outputs, self._step([a[part] for a in arrays]), strict=True):
                if value not in found:  # not put together at the end: both would be in memory
                    found[value] = np.empty((images, *result.shape[1:]), result.dtype)
                found[value][part] = result
        return found

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

    The convolution runs on float32 integers below 2^24, whose sums no order of summation changes; where they could
    become larger, on some of the input channels at a time.
    """
    x, y = op.x.type.quantized, op.out.type.element
    weight = op.integers()
    parts = channel_parts(op, weight) if isinstance(y, Quantized) and q.dtype == np.uint8 else []
    if not parts or not isinstance(y, Quantized):
        return None
    mult, off = requantize_params(op.weight_scale.array, op.bias.array, x, y)
    low, high = clamp_bounds(y, op.clamp_min, op.clamp_max)
    sessions = [Session(_convolution(op, weight[:, part]), threads=THREADS) for part in parts]
    out = np.empty((len(q), *op.out.type.shape), op.out.type.dtype)
    for step in steps(len(q), op.out.type.size + op.x.type.size):
        levels = q[step].reshape(-1, *q.shape[2:])
        # a layer with groups has all channels in one part, of its inputs and of its weights
        found = [
            s.run({"x": levels if len(parts) == 1 else np.ascontiguousarray(levels[:, part])})[0]
            for s, part in zip(sessions, parts, strict=True)
        ]
        sums: np.ndarray = found[0]
        if len(found) > 1:
            sums = np.stack(found).sum(axis=0, dtype=np.float64).astype(np.float32)
        _requantize_all(sums, mult, off, low, high, out[step].reshape(sums.shape))
    return out


def channel_parts(op: Conv, weight: np.ndarray) -> list[slice]:
    """The fewest equal parts of the input channels whose sums all stay below 2^24; none if there are no such parts."""
    channels, count = weight.shape[1], 1
    while count <= channels and (count == 1 or op.groups == 1):
        size = -(-channels // count)
        parts = [slice(first, first + size) for first in range(0, channels, size)]
        if all(accumulator_bound(weight[:, part], op.x.type.quantized) < _EXACT for part in parts):
            return parts
        count += 1
    return []


def _requantize_all(sums: np.ndarray, mult: np.ndarray, off: np.ndarray, low: int, high: int, out: np.ndarray) -> None:
    """clip(rint(f32(f32(sums mult) + off))), channel by channel: `out` [N, C, H, W]."""
    bounds = np.float32(low), np.float32(high)

    def work(start: int, stop: int) -> None:
        _requantize(start, stop, sums, mult, off, *bounds, out)

    in_chunks(out.shape[0] * out.shape[1], work, least=max(1, _LEAST_WORK // max(out.shape[2] * out.shape[3], 1)))


@compiled
def _requantize(
    start: int, stop: int, sums: np.ndarray, mult: np.ndarray, off: np.ndarray, low: np.float32, high: np.float32,
    out: np.ndarray,
) -> None:  # fmt: skip
    for item in range(start, stop):
        n, c = divmod(item, out.shape[1])
        for h in range(out.shape[2]):
            acc, levels = sums[n, c, h], out[n, c, h]
            for w in range(len(acc)):
                levels[w] = min(max(np.rint(acc[w] * mult[c] + off[c]), low), high)


def _convolution(op: Conv, weight: np.ndarray) -> bytes:
    """A model of the sums of `op` with these of its weights, on levels of the input channels that they belong to."""
    from onnx import TensorProto, helper, numpy_helper

    constants = {"w": weight.astype(np.float32), "z": np.float32(op.x.type.quantized.zero_point)}
    top, left, bottom, right = op.pads
    spatial: dict[str, Any] = {"strides": op.strides, "dilations": op.dilations, "pads": (top, left, bottom, right)}
    nodes = [
        helper.make_node("Cast", ["x"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["f", "z"], ["centred"]),
        helper.make_node("Conv", ["centred", "w"], ["sums"], group=op.groups, **spatial),
    ]
    graph = helper.make_graph(
        nodes,
        "layer",
        [
            helper.make_tensor_value_info(
                "x", TensorProto.UINT8, ["N", weight.shape[1] * op.groups, *op.x.type.shape[2:]]
            )
        ],
        [helper.make_tensor_value_info("sums", TensorProto.FLOAT, ["N", *op.out.type.shape[1:]])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    opsets = [helper.make_opsetid("", _OPSET)]
    version = helper.find_min_ir_version_for(opsets)
    data: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=version).SerializeToString()
    return data
