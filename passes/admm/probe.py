"""What an error of one layer does to the network's outputs: that layer is run with other weights, the rest in float."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from smec.ir.core import Operation, Value
from smec.ir.dialects.builtin import GraphOp
from smec.ir.dialects.nn import Constant, graph_opsets
from smec.ir.dialects.quant import Conv, WeightedOp
from smec.ir.onnx_session import Session, SessionError
from smec.passes.admm.prefix import FloatPrefix
from smec.passes.admm.segments import THREADS, Segment, steps
from smec.passes.quantization.units import graph_units

#: Operator set of the models that run one convolution.
_OPSET = 17

Outputs = dict[Value, np.ndarray]


class Reference:
    """The float network's outputs, and how far others are from them.

    Outputs are those that hold real numbers; where none does, the last layer's results.

    Args:
        graph: partitioned, of `nn` operations, with a layer.
        arrays: (B, *shape) for each graph input.

    Raises:
        SmecError: onnxruntime fails on the network.
    """

    def __init__(self, graph: GraphOp, arrays: Mapping[str, np.ndarray]) -> None:
        self.graph = graph
        values = [v for v in dict.fromkeys(graph.terminator.operands) if v.type.element == "f32"]
        made = [v for v in values if (op := v.defining_op()) is not None and not isinstance(op, Constant)]
        self.values = made or [unit.result for unit in graph_units(graph) if unit.on_crossbars][-1:]
        inputs: Outputs = {v: arrays[n] for n, v in zip(graph.input_names, graph.block.args, strict=True)}
        self.images = max((len(a) for a in arrays.values()), default=1)
        ops = [op for op in graph.ops if not isinstance(op, Constant) and not op.is_terminator]
        self.outputs = run(Segment(ops, list(inputs), self.values, graph_opsets(graph)), inputs, self.images, ops[0])

    def error(self, found: Mapping[Value, np.ndarray]) -> float:
        """Squared error of outputs over their power, the mean over images taken out of it; several outputs: the mean.

        Outputs that `found` lacks are without error; values in it that are none of the outputs, and numbers that are
        infinite or none in either, do not count.
        """
        total = 0.0
        for value, array in found.items():
            if value not in self.outputs:
                continue
            right = self.outputs[value]
            counts = np.isfinite(right) & np.isfinite(array)
            right = np.where(counts, right, 0).astype(np.float64)
            mean = right.mean(axis=0) if len(right) > 1 else 0.0
            power = float(np.square(right - mean).sum())
            difference = np.where(counts, array, 0) - right
            total += float(np.square(difference).sum()) / power if power > 0 else 0.0
        return total / len(self.values)


def run(segment: Segment, live: Mapping[Value, np.ndarray], images: int, first: Operation) -> Outputs:
    """`Segment.run`, with an error that tells where.

    Raises:
        SmecError: onnxruntime fails.
    """
    try:
        return segment.run(live, images)
    except SessionError as error:
        raise first.error(f"onnxruntime fails on the operations that begin here: {error}") from error


class Probe:
    """One layer of the float network, and what follows it.

    Args:
        op: the layer in the quantized network.
        prefix: the float network, run up to the layer (`FloatPrefix.input_of`).
        reference: the network's outputs on the first images of the prefix.
    """

    def __init__(self, op: WeightedOp, prefix: FloatPrefix, reference: Reference) -> None:
        self.op, self.reference = op, reference
        index = prefix.place[op.label]
        unit = prefix.units[index]
        self.result, images = unit.result, reference.images
        self.x = prefix.live[unit.inputs[0]][:images].reshape(-1, *op.x.type.shape)
        ops: list[Operation] = [o for u in prefix.units[index + 1 :] for o in u.ops]
        made = {r for o in ops for r in o.results}
        used = dict.fromkeys(v for o in ops for v in o.operands if v not in made)
        inputs = [v for v in used if v is self.result or v in prefix.live]
        self.live = {v: prefix.live[v][:images] for v in inputs if v is not self.result}
        wanted = [v for v in reference.values if v in made]
        self.ops = ops
        self.rest = Segment(ops, inputs, wanted, graph_opsets(prefix.graph)) if wanted else None
        self.session = Session(_model(op), threads=THREADS) if isinstance(op, Conv) else None

    def error(self, weight: np.ndarray, bias: np.ndarray, x: np.ndarray | None = None) -> float:
        """The error of the network's outputs if this layer alone has other weights.

        Args:
            weight: real, of the layout of the layer's weights.
            bias: real [M].
            x: other inputs than the float network's, as many; None: those.
        """
        given = self.x if x is None else x.reshape(self.x.shape)
        out = self._layer(given, weight.astype(np.float32), bias.astype(np.float32))
        out = out.reshape(-1, *self.result.type.shape)
        found: Outputs = {}
        if self.rest is not None:
            found = run(self.rest, {**self.live, self.result: out}, self.reference.images, self.ops[0])
        if self.result in self.reference.outputs:
            found[self.result] = out
        return self.reference.error(found)

    def _layer(self, x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
        low, high = np.float32(self.op.clamp_min), np.float32(self.op.clamp_max)
        if self.session is None:
            product: np.ndarray = np.clip(x @ weight.T + bias, low, high)
            return product
        out = np.empty((len(x), *self.op.out.type.shape), np.float32)
        for part in steps(len(x), self.op.out.type.size + self.op.x.type.size):
            feed = {"x": x[part].reshape(-1, *x.shape[2:]), "w": weight, "b": bias}
            out[part] = self.session.run(feed)[0].reshape(out[part].shape)
        clipped: np.ndarray = np.clip(out, low, high)
        return clipped


def _model(op: Conv) -> bytes:
    """A convolution whose weights are inputs."""
    from onnx import TensorProto, helper

    top, left, bottom, right = op.pads
    node = helper.make_node(
        "Conv", ["x", "w", "b"], ["y"], group=op.groups, strides=op.strides, dilations=op.dilations,
        pads=(top, left, bottom, right),
    )  # fmt: skip
    shapes: dict[str, list[Any]] = {
        "x": ["N", *op.x.type.shape[1:]],
        "w": list(op.float_weight.shape),
        "b": list(op.bias.shape),
        "y": ["N", *op.out.type.shape[1:]],
    }
    infos = {n: helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n, shape in shapes.items()}
    graph = helper.make_graph([node], "layer", [infos["x"], infos["w"], infos["b"]], [infos["y"]])
    opsets = [helper.make_opsetid("", _OPSET)]
    version = helper.find_min_ir_version_for(opsets)
    data: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=version).SerializeToString()
    return data
