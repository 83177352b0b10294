"""Chains: connected elementwise operations that together are a function of one value.

x * sigmoid(x), hard-swish spelled with Add, Clip, Mul and Div, or 0.5 x (1 + erf(x / sqrt 2)) read one tensor and
scalar constants only: on the levels of that tensor they are one table.

A chain's root is the value it is a function of. An operation belongs to a chain when all its non-constant inputs have
the same root; then its result has that root too. Results that are used outside of their chain end it: what follows has
them for its root.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from smec.ir.core import Value
from smec.ir.dialects.nn import Constant, NNOp, Opsets, to_node
from smec.passes.quantization.units import fits_device, is_constant

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

#: Operators of ONNX's own domain that work element by element on their non-constant inputs.
# fmt: off
ELEMENTWISE = frozenset((
    "Abs", "Acos", "Acosh", "Add", "Asin", "Asinh", "Atan", "Atanh", "Ceil", "Celu", "Clip", "Cos", "Cosh",
    "Div", "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Log", "Max", "Mean",
    "Min", "Mish", "Mod", "Mul", "Neg", "PRelu", "Pow", "Reciprocal", "Relu", "Round", "Selu", "Shrink",
    "Sigmoid", "Sign", "Sin", "Sinh", "Softplus", "Softsign", "Sqrt", "Sub", "Sum", "Swish", "Tan", "Tanh",
    "ThresholdedRelu",
))
# fmt: on


def is_elementwise(op: NNOp) -> bool:
    """Whether an operation computes each element of its result from the same element of its inputs and from scalars."""
    if op.op_type not in ELEMENTWISE or op.domain or len(op.results) != 1 or not op.operands:
        return False
    out = op.results[0].type
    if not fits_device(out):
        return False
    variables = [v for v in op.operands if not is_constant(v)]
    scalars = all(v.type.is_static and v.type.size == 1 for v in op.operands if is_constant(v))
    return scalars and bool(variables) and all(v.type == out for v in variables)


def find_roots(ops: Iterable[NNOp], taken: set[NNOp]) -> dict[Value, Value]:
    """The root of each chain value; results that end a chain map to the root as well.

    Args:
        ops: in order.
        taken: operations that belong to other units (a Relu that a layer absorbs): in no chain.
    """
    ops = list(ops)
    members = [op for op in ops if op not in taken and is_elementwise(op)]
    cut: set[Value] = set()
    while True:
        roots: dict[Value, Value] = {}
        for op in members:
            found = {v if v in cut else roots.get(v, v) for v in op.operands if not is_constant(v)}
            if len(found) == 1:
                roots[op.results[0]] = found.pop()
        fresh = _ends_within(roots) - cut
        if not fresh:
            return roots
        cut |= fresh


def _ends_within(roots: dict[Value, Value]) -> set[Value]:
    """Chain values that are used both inside their chain and beyond it, or that lead to more than one end."""
    found = set()
    ends: dict[Value, set[Value]] = {}
    for value in reversed(roots):
        ends[value] = set()
        inner = outer = False
        for user in value.users:
            following = user.results[0] if len(user.results) == 1 else None
            if following is not None and roots.get(following) is roots[value]:
                inner = True
                ends[value] |= ends[following] or {following}
            else:
                outer = True
        if (inner and outer) or len(ends[value]) > 1:
            found.add(value)
            ends[value] = set()
    return found


def chain_ops(end: Value, roots: dict[Value, Value]) -> list[NNOp]:
    """The operations from a root to one of its ends, unordered."""
    root, pending = roots[end], [end]
    found: dict[NNOp, None] = {}
    while pending:
        value = pending.pop()
        op = value.defining_op()
        if value is root or not isinstance(op, NNOp) or op in found:
            continue
        found[op] = None
        pending.extend(v for v in op.operands if not is_constant(v))
    return list(found)


def evaluate(ops: Sequence[NNOp], root: Value, levels: np.ndarray, opsets: Opsets) -> np.ndarray:
    """The chain's function of each of `levels`.

    Args:
        ops: of the chain, in order.
        root: the value that they are a function of.
        levels: f32 [L], values of the root.
        opsets: the graph's operator sets.

    Returns:
        f32 [L]; NaN and infinities where the function has them.

    Raises:
        SmecError: onnxruntime cannot compute the chain.
    """
    import onnx

    from smec.ir.onnx_session import Session, SessionError

    helper = onnx.helper
    names = {root: "x"}
    initializers: list[onnx.TensorProto] = []
    nodes: list[onnx.NodeProto] = []
    for op in ops:
        for value in op.operands:
            source = value.defining_op()
            if value not in names and isinstance(source, Constant):
                names[value] = f"c{len(initializers)}"
                # Scalars of rank 0, so that they do not raise the rank of the vector of levels.
                initializers.append(onnx.numpy_helper.from_array(source.array.reshape(()), names[value]))
        names[op.results[0]] = f"v{len(nodes)}"
        nodes.append(to_node(op, [names[v] for v in op.operands], [names[op.results[0]]]))
    shape = helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, [len(levels)])
    result = names[ops[-1].results[0]]
    graph = helper.make_graph(
        nodes, "chain", [helper.make_value_info("x", shape)], [helper.make_value_info(result, shape)], initializers
    )
    ids = [helper.make_opsetid(domain, version) for domain, version in sorted(opsets.items())]
    model = helper.make_model(
        graph, opset_imports=ids, ir_version=helper.find_min_ir_version_for(ids, ignore_unknown=True)
    )
    try:
        found: np.ndarray = Session(model, level="none").run({"x": levels.astype(np.float32)})[0]
    except SessionError as error:
        raise ops[-1].error(f"onnxruntime cannot compute the function: {error}") from error
    return found
