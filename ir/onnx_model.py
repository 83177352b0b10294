"""Writes `nn` operations as an ONNX model of their own: host regions, and whole float graphs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from smec.ir.batching import can_stack
from smec.ir.core import Operation, Value
from smec.ir.dialects.builtin import GraphOp, HostOp
from smec.ir.dialects.nn import Constant, NNOp, Opsets, graph_opsets, to_node
from smec.ir.dialects.nn_proto import handle_to_tensor, type_proto
from smec.ir.errors import SmecError
from smec.ir.onnx_session import LIGHT_LIMIT, Session, SessionError, mark_external
from smec.ir.types import ELEMENT_DTYPES, TensorType

if TYPE_CHECKING:
    import onnx

#: Name of the symbolic batch extent in the models written here.
BATCH = "N"


@dataclass
class Serialized:
    """A light model (see `onnx_session`), its weights, and the tensor name of each value in it."""

    model: onnx.ModelProto
    weights: dict[str, np.ndarray]
    names: dict[Value, str]

    def to_bytes(self) -> bytes:
        """The model with its weights inside.

        Raises:
            SmecError: it is larger than protobuf allows (2 GiB).
        """
        import onnx

        full = onnx.ModelProto()
        full.CopyFrom(self.model)
        for tensor in full.graph.initializer:
            if tensor.name in self.weights:
                tensor.CopyFrom(onnx.numpy_helper.from_array(self.weights[tensor.name], tensor.name))
        try:
            data: bytes = full.SerializeToString(deterministic=True)
        except ValueError as error:
            raise SmecError("region is larger than an ONNX message may be", expected="under 2 GiB") from error
        return data


class _Writer:
    """Collects nodes and initializers, and gives values their names."""

    def __init__(self, batchable: bool) -> None:
        self.batchable = batchable
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.weights: dict[str, np.ndarray] = {}
        self.names: dict[Value, str] = {}
        self.taken: set[str] = set()
        self.node_names: set[str] = set()

    def fresh(self, wanted: str | None) -> str:
        # Two colons are for names inside subgraphs (see `to_node`).
        if wanted and wanted not in self.taken and "::" not in wanted:
            name = wanted
        else:
            name = f"v{len(self.taken)}"
            while name in self.taken:
                name += "_"
        self.taken.add(name)
        return name

    def define(self, value: Value, wanted: str | None = None) -> str:
        name = self.names[value] = self.fresh(wanted or value.name_hint)
        return name

    def constant(self, op: Constant) -> str:
        value = op.results[0]
        if value in self.names:
            return self.names[value]
        name = self.define(value)
        tensor_type = value.type
        if tensor_type.element in ELEMENT_DTYPES and op.value.array.nbytes >= LIGHT_LIMIT:
            self.weight(name, op.value.array, tensor_type)
        else:
            self.initializers.append(handle_to_tensor(op.value, name, tensor_type))
        return name

    def weight(self, name: str, array: np.ndarray, type: TensorType) -> None:
        import onnx

        number = type_proto(type).tensor_type.elem_type
        tensor = onnx.TensorProto(name=name, data_type=number, dims=array.shape)
        mark_external(tensor)
        self.initializers.append(tensor)
        self.weights[name] = array

    def small(self, array: np.ndarray) -> str:
        import onnx

        name = self.fresh(None)
        self.initializers.append(onnx.numpy_helper.from_array(array, name))
        return name

    def operand(self, op: Operation, value: Value) -> str:
        if value in self.names:
            return self.names[value]
        source = value.defining_op()
        if isinstance(source, Constant):
            return self.constant(source)
        raise op.error("operand comes from outside the region and is none of its inputs")

    def add(self, op: Operation) -> None:
        if isinstance(op, Constant):
            return  # written when first used
        if not isinstance(op, NNOp):
            raise op.error("operation has no ONNX form", expected="an operation of the nn dialect")
        inputs = [self.operand(op, v) for v in op.operands]
        if self.batchable:
            self._free_batch(op, inputs)
        node = to_node(op, inputs, [self.names[r] for r in op.results])
        # Operations that a rewrite put in the place of one share its location, but onnxruntime wants names apart.
        if node.name in self.node_names:
            node.name = f"{node.name}_{node.output[0]}"
        self.node_names.add(node.name)
        self.nodes.append(node)

    def _free_batch(self, op: NNOp, inputs: list[str]) -> None:
        """Take the batch extent out of constants that spell a whole shape."""
        position = {"Reshape": 1, "Resize": 3}.get(op.op_type)
        if position is None or op.domain or op.attributes.get("axes") is not None:
            return
        shape = op.results[0].type.shape
        wanted = op.constant_input(position)
        if wanted is None or not shape or any(d <= 0 for d in shape[1:]) or wanted.size != len(shape):
            return
        rest = np.array(shape[1:], dtype=np.int64)
        if op.op_type == "Reshape":
            # Row-major order keeps images apart: whatever the leading extent is, it follows from the rest.
            inputs[1] = self.small(np.concatenate([np.array([-1], dtype=np.int64), rest]))
            return
        leading = self._leading_extent(inputs[0])
        sizes = self.fresh(None)
        self._node("Concat", [leading, self.small(rest)], sizes, axis=0)
        given = op._tuple("_present")
        inputs[sum(map(bool, given[:3])) if given else 3] = sizes

    def _leading_extent(self, name: str) -> str:
        whole, leading = self.fresh(None), self.fresh(None)
        self._node("Shape", [name], whole)
        self._node("Gather", [whole, self.small(np.array([0], dtype=np.int64))], leading, axis=0)
        return leading

    def _node(self, op_type: str, inputs: list[str], output: str, axis: int | None = None) -> None:
        import onnx

        self.nodes.append(onnx.helper.make_node(op_type, inputs, [output], name=output, axis=axis))


def serialize(
    ops: Iterable[Operation],
    inputs: Sequence[Value],
    outputs: Sequence[Value],
    opsets: Opsets,
    *,
    input_names: Sequence[str],
    output_names: Sequence[str],
    batchable: bool = False,
) -> Serialized:
    """Write operations of the `nn` dialect as a model.

    Args:
        ops: in order; constants that they use may lie outside.
        inputs, outputs: what becomes the model's inputs and outputs, with the names that they get.
        opsets: operator sets by domain.
        batchable: leave the leading extent of inputs and outputs symbolic (`N`), and free Reshape and Resize of it.

    Raises:
        SmecError: an operation is none of the `nn` dialect, or uses a value that is not at hand.
    """
    import onnx

    helper = onnx.helper
    writer = _Writer(batchable)
    writer.taken.update(output_names)
    for value, name in zip(inputs, input_names, strict=True):
        writer.names[value] = name
        writer.taken.add(name)
    ops = list(ops)
    # Values first, so that their names do not depend on what is added beside them.
    for op in ops:
        if not isinstance(op, Constant):
            for result in op.results:
                writer.define(result)
    for op in ops:
        writer.add(op)
    results = []
    for value, name in zip(outputs, output_names, strict=True):
        source = value.defining_op()
        inner = writer.names.get(value)
        if inner is None:
            if not isinstance(source, Constant):
                raise SmecError(f"output '{name}' is not computed by the region")
            inner = writer.constant(source)
        writer._node("Identity", [inner], name)
        results.append(helper.make_value_info(name, type_proto(value.type, _leading(value.type, batchable))))
    arguments = [
        helper.make_value_info(name, type_proto(value.type, _leading(value.type, batchable)))
        for value, name in zip(inputs, input_names, strict=True)
    ]
    graph = helper.make_graph(writer.nodes, "graph", arguments, results, writer.initializers)
    opset_ids = [helper.make_opsetid(domain, version) for domain, version in sorted(opsets.items())]
    version = helper.find_min_ir_version_for(opset_ids, ignore_unknown=True)
    model = helper.make_model(graph, opset_imports=opset_ids, ir_version=version, producer_name="smec")
    return Serialized(model, writer.weights, writer.names)


def _leading(type: TensorType, batchable: bool) -> str | None:
    if not batchable or not type.shape:
        return None
    return BATCH if type.shape[0] == 1 else f"{BATCH}{type.shape[0]}"


# -- host regions ------------------------------------------------------------------------------------------------------


def region_interface(ops: Sequence[Operation]) -> tuple[list[Value], list[Value]]:
    """What operations take from outside (constants excepted), by first use, and what of theirs is used outside."""
    inside = set(ops)
    inputs: dict[Value, None] = {}
    outputs: list[Value] = []
    for op in ops:
        for value in op.operands:
            source = value.defining_op()
            if source not in inside and not isinstance(source, Constant):
                inputs[value] = None
        if not isinstance(op, Constant):
            outputs.extend(r for r in op.results if any(user not in inside for user in r.users))
    return list(inputs), outputs


def region_to_model(
    region: HostOp | Sequence[Operation], graph: GraphOp, *, batchable: bool = True, check: bool = True
) -> bytes:
    """A host region as a self-contained ONNX model, serialized: inputs arg0, arg1, ..., outputs out0, out1, ...

    Args:
        region: the region, or the operations (in order) that would make one; their interface is `region_interface`.
        graph: the graph that they are in (for its operator sets).
        batchable: make the leading extents of inputs and outputs symbolic, so that images can be stacked along them,
            unless an operator of the region mixes images (see `batching`).
        check: load the model in onnxruntime once.

    Raises:
        SmecError: the region cannot be written, or onnxruntime refuses it.
    """
    if isinstance(region, HostOp):
        block = region.body.block
        ops = [op for op in block.ops if not op.is_terminator]
        inputs, outputs = list(block.args), block.terminator.operands
    else:
        ops = list(region)
        inputs, outputs = region_interface(ops)
    written = serialize(
        ops,
        inputs,
        outputs,
        graph_opsets(graph),
        input_names=[f"arg{i}" for i in range(len(inputs))],
        output_names=[f"out{i}" for i in range(len(outputs))],
        batchable=batchable and can_stack(ops, inputs, outputs),
    )
    data = written.to_bytes()
    if check:
        try:
            Session(data, level="none")
        except SessionError as error:
            location = region.location if isinstance(region, HostOp) else ops[0].location if ops else None
            raise SmecError(f"onnxruntime refuses the host region: {error}", location=location) from error
    return data


def probe_batchable(model: bytes, sample_inputs: Sequence[np.ndarray] | None = None, *, exact: bool = False) -> bool:
    """Whether a region's model computes the same for images stacked along the leading axis as for each on its own.

    It must be written for it (symbolic leading extents), and is tried on two images.

    Args:
        model: from `region_to_model` with `batchable`.
        sample_inputs: for each input an array with an image axis, (B, *shape), B >= 2; if absent, seeded random ones.
        exact: ask for equal bits; else differences of the size that another order of summation makes are allowed.
    """
    import onnx

    proto = onnx.ModelProto.FromString(model)
    if not proto.graph.input:
        return False
    types = [i.type.tensor_type for i in proto.graph.input]
    # An extent that is not symbolic means that the region was not written for stacking.
    if any(not t.shape.dim or not t.shape.dim[0].dim_param for t in types):
        return False
    if sample_inputs is None or any(len(x) < 2 for x in sample_inputs):
        rng = np.random.default_rng(0)
        sample_inputs = [_random(t, rng) for t in types]
    try:
        session = Session(proto, level="none")
        names = [i.name for i in proto.graph.input]
        single = [session.run({n: x[i] for n, x in zip(names, sample_inputs, strict=True)}) for i in (0, 1)]
        both = session.run({n: x[:2].reshape(-1, *x.shape[2:]) for n, x in zip(names, sample_inputs, strict=True)})
    except SessionError:
        return False
    return all(agree(b, [s[k] for s in single], exact=exact) for k, b in enumerate(both))


def agree(stacked: np.ndarray, singles: Sequence[np.ndarray], *, exact: bool = False) -> bool:
    """Whether `stacked` is `singles` one after the other along the leading axis (up to rounding unless `exact`)."""
    if any(not isinstance(s, np.ndarray) or s.ndim == 0 for s in singles):
        return False
    expected_shape = (sum(len(s) for s in singles), *singles[0].shape[1:])
    if any(s.shape != singles[0].shape for s in singles) or stacked.shape != expected_shape:
        return False
    expected = np.concatenate(singles)
    if exact or expected.dtype.kind not in "fc":
        return bool(np.array_equal(stacked, expected, equal_nan=expected.dtype.kind in "fc"))
    finite = np.abs(expected[np.isfinite(expected)])
    bound = 1e-5 * float(finite.max()) if finite.size else 0.0
    return bool(np.allclose(stacked, expected, rtol=1e-4, atol=bound, equal_nan=True))


def _random(type: onnx.TypeProto.Tensor, rng: np.random.Generator) -> np.ndarray:
    """Two images of seeded values: normal for floats, 0 or 1 for integers (safe as indices)."""
    import onnx

    dims = [d.dim_value for d in type.shape.dim]
    leading = type.shape.dim[0].dim_param.removeprefix(BATCH)
    dims[0] = int(leading) if leading.isdigit() else 1
    dtype = onnx.helper.tensor_dtype_to_np_dtype(type.elem_type)
    if np.dtype(dtype).kind in "iub":
        return rng.integers(0, 2, (2, *dims)).astype(dtype)
    return rng.standard_normal((2, *dims)).astype(dtype)
