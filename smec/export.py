"""The quantized network as a plain ONNX model: a second, independent reading of the integer arithmetic.

Integer layers become ConvInteger and MatMulInteger, everything after an accumulator becomes plain float32 operators
(Cast, Mul, Add, Round, Clip), and host regions are inlined. ONNX Runtime with graph optimisation disabled computes the
very bits that the interpretation of the `quant` dialect defines: `smec verify` stands on that.

Tensors of up to 8 bits are uint8; wider activations are int32, because few ONNX kernels take uint16.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from smec.ir.core import Operation, Value
from smec.ir.dialects.builtin import GraphOp, HostOp, ModuleOp
from smec.ir.dialects.nn import graph_opsets
from smec.ir.dialects.nn_proto import rename_graph, subgraphs, type_proto
from smec.ir.dialects.quant import Add, Concat, Mul, Pad, Slice, Transpose, WeightedOp
from smec.ir.errors import SmecError
from smec.ir.onnx_model import serialize
from smec.ir.types import Quantized, TensorType

if TYPE_CHECKING:
    from pathlib import Path

#: Suffix of the tensor that holds a layer's accumulators.
ACC_SUFFIX = ".acc"

#: Oldest operator set in which Pad, Clip, Gather and Transpose take 8-bit integers.
MIN_OPSET = 13


class GraphBuilder:
    """Nodes and initializers of the ONNX graph under construction; every tensor and node name is used once."""

    def __init__(self, batch: str | int) -> None:
        #: What stands for the batch axis: a symbol, or 1.
        self.batch = batch
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, onnx.TensorProto] = {}
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._tensors: set[str] = set()
        self._node_names: set[str] = set()

    @property
    def symbolic(self) -> bool:
        """Whether the batch axis takes any number of images."""
        return isinstance(self.batch, str)

    def reserve(self, name: str) -> str:
        """Claim a tensor name that must appear as it is.

        Raises:
            SmecError: it is taken.
        """
        if name in self._tensors:
            raise SmecError(f"two tensors of the exported model are called '{name}'")
        self._tensors.add(name)
        return name

    def fresh(self, hint: str) -> str:
        """A tensor name that is not taken yet: `hint`, or that and a number."""
        name, n = hint, 1
        while name in self._tensors:
            name, n = f"{hint}_{n}", n + 1
        self._tensors.add(name)
        return name

    def node(self, kind: str, inputs: Sequence[str], *, hint: str, out: str | None = None, **attributes: Any) -> str:
        """Append a node of the default domain with one output and return that output's name."""
        output = self.fresh(f"{hint}.{kind.lower()}") if out is None else out
        self.append(helper.make_node(kind, list(inputs), [output], name=output, **attributes))
        return output

    def append(self, node: onnx.NodeProto) -> None:
        """Append a node whose outputs are named already; its own name is made unique."""
        base = node.name or node.op_type
        name, n = base, 1
        while name in self._node_names:
            name, n = f"{base}_{n}", n + 1
        self._node_names.add(name)
        node.name = name
        self.nodes.append(node)

    def const(self, array: Any, hint: str) -> str:
        """Name of an initializer with these contents; equal arrays share one."""
        array = np.asarray(array)
        key = (array.dtype.str, array.shape, hashlib.sha256(np.ascontiguousarray(array).tobytes()).digest())
        if key not in self._constants:
            name = self.fresh(hint)
            self.initializers[name] = numpy_helper.from_array(np.ascontiguousarray(array), name)
            self._constants[key] = name
        return self._constants[key]

    def cast(self, x: str, to: int, *, hint: str, out: str | None = None) -> str:
        """Cast to a TensorProto data type."""
        return self.node("Cast", [x], hint=hint, out=out, to=to)

    def round_clip(self, f: str, lo: float, hi: float, q: Quantized, *, hint: str, out: str | None = None) -> str:
        """Float levels -> integers of `q` within lo..hi, as `smec.ir.dialects.arithmetic.round_clip`."""
        rounded = self.node("Round", [f], hint=hint)
        bounds = [self.const(np.float32(lo), f"{hint}.lo"), self.const(np.float32(hi), f"{hint}.hi")]
        return self.cast(self.node("Clip", [rounded, *bounds], hint=hint), storage(q), hint=hint, out=out)

    def dims(self, shape: Sequence[int]) -> list[str | int]:
        """A value's shape as ONNX dimensions: the leading axis is the batch where that is symbolic."""
        return [self.batch, *shape[1:]] if self.symbolic else list(shape)


def storage(q: Quantized) -> int:
    """TensorProto data type that holds levels of `q` in the exported model."""
    return int(TensorProto.UINT8 if q.bits <= 8 else TensorProto.INT32)


def onnx_element(type: TensorType) -> int:
    """TensorProto data type of a value of this type."""
    if isinstance(type.element, Quantized):
        return storage(type.element)
    return int(type_proto(type).tensor_type.elem_type)


# -- the batch axis ----------------------------------------------------------------------------------------------------


def is_batchable(graph: GraphOp) -> bool:
    """Whether axis 0 of every value of the graph is the batch, so that images may be stacked along it."""
    values: list[Value] = [*graph.block.args]
    for op in graph.ops:
        if not _keeps_batch(op):
            return False
        values.extend(op.results)
    return all(v.type.shape[:1] == (1,) for v in values) and bool(graph.block.args)


def _keeps_batch(op: Operation) -> bool:
    if not op.operands:
        return False  # a constant: its leading axis does not grow with the batch
    if isinstance(op, HostOp):
        return op.batchable
    if isinstance(op, WeightedOp):
        return len(op.x.type.shape) > 1
    if isinstance(op, (Add, Mul)):
        return len(op.a.type.shape) == len(op.b.type.shape)
    if isinstance(op, Transpose):
        return bool(op.perm[:1] == (0,))
    if isinstance(op, Concat):
        return op.axis != 0
    if isinstance(op, Pad):
        return op.pads[0] == op.pads[len(op.pads) // 2] == 0
    if isinstance(op, Slice):
        return op.starts[0] == 0
    return True


# -- the graph ---------------------------------------------------------------------------------------------------------


def export_onnx(module: ModuleOp, *, accumulators: bool = False) -> onnx.ModelProto:
    """The quantized network as an ONNX model whose results equal the interpretation bit for bit.

    Args:
        module: a module whose graph holds `quant` operations with integer weights and host regions.
        accumulators: make every layer's accumulators (`<layer>.acc`, int32 or int64, in the layout of the layer's
            result) graph outputs too, after the model's own, in the order of execution.

    Returns:
        A model with the inputs and outputs of the original. The batch axis is symbolic where every operation allows
        it, else 1.

    Raises:
        SmecError: an operation is neither, or a layer has no integer weights yet.
    """
    from smec.export_ops import EMITTERS  # it needs the builder of this file

    graph = module.graph
    b = GraphBuilder("N" if is_batchable(graph) else 1)
    names: dict[Value, str] = {}
    inputs = []
    for name, arg in zip(graph.input_names, graph.block.args, strict=True):
        names[arg] = b.reserve(name)
        inputs.append(_value_info(b, name, arg.type))
    returned = graph.terminator.operands
    for name, value in zip(graph.output_names, returned, strict=True):
        b.reserve(name)
        if value not in names:
            names[value] = name
    acc = {op: b.reserve(op.label + ACC_SUFFIX) for op in graph.ops if isinstance(op, WeightedOp)}

    for op in graph.ops:
        if isinstance(op, HostOp):
            _inline(b, op, [names[v] for v in op.operands], names, graph_opsets(graph))
            continue
        emitter = EMITTERS.get(op.name)
        if emitter is None:
            raise op.error(
                "operation has no ONNX form", hint="export takes a module of quant operations and host regions"
            )
        out = op.results[0]
        if out not in names:
            names[out] = b.fresh(_hint(op))
        emitter(b, op, [names[v] for v in op.operands], names[out], acc[op] if isinstance(op, WeightedOp) else "")
    for name, value in zip(graph.output_names, returned, strict=True):
        if names[value] != name:
            b.node("Identity", [names[value]], hint=name, out=name)

    outputs = [_value_info(b, name, v.type) for name, v in zip(graph.output_names, returned, strict=True)]
    if accumulators:
        outputs += [_accumulator_info(b, op, name) for op, name in acc.items()]
    proto = helper.make_graph(b.nodes, graph.sym_name or "main", inputs, outputs, list(b.initializers.values()))
    opsets = _opsets(graph)
    version = helper.find_min_ir_version_for(opsets, ignore_unknown=True)
    model = helper.make_model(proto, opset_imports=opsets, ir_version=version)
    model.producer_name = "smec"
    return model


def save_onnx(module: ModuleOp, path: str | Path) -> onnx.ModelProto:
    """Export to a file, which appears whole or not at all; returns the model."""
    from smec.files import write_whole

    model = export_onnx(module)
    write_whole(path, model.SerializeToString(deterministic=True))
    return model


def _hint(op: Operation) -> str:
    if isinstance(op, WeightedOp):
        return op.label
    hint = op.results[0].name_hint
    return hint or op.location.node or op.name.rpartition(".")[2]


def _opsets(graph: GraphOp) -> list[onnx.OperatorSetIdProto]:
    if graph.opset < MIN_OPSET:
        message = "operator set is too old for an integer model"
        raise graph.error(message, expected=f"{MIN_OPSET} or newer", found=graph.opset)
    return [helper.make_opsetid(domain, version) for domain, version in graph_opsets(graph).items()]


def _value_info(b: GraphBuilder, name: str, type: TensorType) -> onnx.ValueInfoProto:
    shape: list[str | int | None] = [None if d == -1 else d for d in b.dims(type.shape)]
    return helper.make_tensor_value_info(name, onnx_element(type), shape)


def _accumulator_info(b: GraphBuilder, op: WeightedOp, name: str) -> onnx.ValueInfoProto:
    from smec.export_ops import accumulator_element

    return helper.make_tensor_value_info(name, accumulator_element(op), b.dims(op.out.type.shape))


def _inline(
    b: GraphBuilder, op: HostOp, inputs: Sequence[str], names: dict[Value, str], opsets: dict[str, int]
) -> None:
    """Append a host region's nodes, as its own model has them; results without a name yet get one of the region's."""
    arguments = [f"arg{i}" for i in range(len(op.operands))]
    outputs = [f"out{i}" for i in range(len(op.results))]
    ops = [inner for inner in op.body.block.ops if not inner.is_terminator]
    written = serialize(
        ops,
        op.body.block.args,
        op.body.block.terminator.operands,
        opsets,
        input_names=arguments,
        output_names=outputs,
        batchable=b.symbolic,
    )
    rename = dict(zip(arguments, inputs, strict=True))
    for name, res in zip(outputs, op.results, strict=True):
        if res not in names:
            names[res] = b.fresh(f"{op.label}.{name}")
        rename[name] = names[res]
    graph = written.model.graph
    for tensor in graph.initializer:
        name = rename[tensor.name] = b.fresh(f"{op.label}.{tensor.name}")
        if tensor.name in written.weights:
            b.initializers[name] = numpy_helper.from_array(written.weights[tensor.name], name)
        else:
            tensor.name = name
            b.initializers[name] = tensor
    for node in graph.node:
        for name in node.output:
            if name and name not in rename:
                rename[name] = b.fresh(f"{op.label}.{name}")
    for node in graph.node:
        for part in (node.input, node.output):
            part[:] = [rename[name] if name else "" for name in part]
        for inner in subgraphs(node):
            rename_graph(inner, rename, f"{op.label}::")
        b.append(node)
