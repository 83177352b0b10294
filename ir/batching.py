"""Whether images may be stacked along the leading axis of `nn` operations: one call for many, with the same results.

A value is *stacked* if its leading axis is the images', each independent of the others. Rules say for each operator
when a stacked operand makes a stacked result; an operator without a rule, or outside of its rule, mixes images (or may
do so): then images are computed one by one. Trying it out is no substitute: a condition on the sum over all images may
well hold for the images tried.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from smec.ir.core import Operation, Value
from smec.ir.dialects.nn import Constant, NNOp

#: Whether the results of an operator are stacked, given which of its operands are; at least one is.
Rule = Callable[[NNOp, "set[Value]"], bool]

#: Operators that draw random numbers, even from no operand.
_RANDOM = ("Random", "Multinomial", "Bernoulli")


@dataclass
class Stacking:
    """Which values are stacked when all inputs are.

    Attributes:
        stacked: values whose leading axis is the images'.
        mixed: results of operators that mix images or may do so, and all that follows from them.

    Values that depend on no input are in neither: they are constants.
    """

    stacked: set[Value]
    mixed: set[Value]


def stacking(ops: Iterable[Operation], inputs: Sequence[Value]) -> Stacking:
    """Follow the leading axis of `inputs` through `ops` (in order)."""
    stacked = {v for v in inputs if _has_leading(v)}
    mixed = {v for v in inputs if v not in stacked}
    for op in ops:
        if isinstance(op, Constant):
            continue
        if any(v in mixed for v in op.operands) or not isinstance(op, NNOp):
            mixed.update(op.results)
        elif any(v in stacked for v in op.operands):
            rule = None if op.domain or op.captured else RULES.get(op.op_type)
            fits = rule is not None and all(_has_leading(r) for r in op.results) and rule(op, stacked)
            (stacked if fits else mixed).update(op.results)
        elif op.op_type.startswith(_RANDOM):
            mixed.update(op.results)
    return Stacking(stacked, mixed)


def can_stack(ops: Iterable[Operation], inputs: Sequence[Value], outputs: Sequence[Value]) -> bool:
    """Whether a region with this interface computes the same for stacked images as for each on its own."""
    found = stacking(ops, inputs)
    return bool(inputs) and not found.mixed and all(v in found.stacked for v in outputs)


def _has_leading(value: Value) -> bool:
    return len(value.type.shape) > 0 and value.type.shape[0] > 0


def _rank(value: Value) -> int:
    return len(value.type.shape)


def _broadcasts(value: Value, result: Value, stacked: set[Value]) -> bool:
    """Whether an operand lines up with a result: a stacked one from the first axis on, another one below it."""
    if value in stacked:
        return _rank(value) == _rank(result) and value.type.shape[0] == result.type.shape[0]
    return _rank(value) < _rank(result) or value.type.shape[0] == 1


def _elementwise(op: NNOp, stacked: set[Value]) -> bool:
    return all(_broadcasts(v, op.results[0], stacked) for v in op.operands)


def _first_only(op: NNOp, stacked: set[Value]) -> bool:
    """The data operand is stacked, all others (weights, statistics, scales) are not."""
    return op.operands[0] in stacked and not any(v in stacked for v in op.operands[1:])


def _per_image(op: NNOp, stacked: set[Value]) -> bool:
    # The indices of MaxPool count through all images.
    return _first_only(op, stacked) and len(op.results) == 1


def _matmul(op: NNOp, stacked: set[Value]) -> bool:
    a, b, result = op.operands[0], op.operands[1], op.results[0]
    if any(v in stacked for v in op.operands[2:]):
        return False
    if _rank(a) == _rank(result) == 2 and a in stacked:
        return b not in stacked
    return _rank(result) >= 3 and _broadcasts(a, result, stacked) and _broadcasts(b, result, stacked)


def _gemm(op: NNOp, stacked: set[Value]) -> bool:
    c = op.input(2)
    return (
        _first_only(op, stacked)
        and not op.attributes.get("transA", 0)
        and (c is None or _rank(c) < 2 or c.type.shape[0] == 1)
    )


def _reshape(op: NNOp, stacked: set[Value]) -> bool:
    # The writer replaces a constant target (see `onnx_model`): row-major order keeps the images apart.
    shape = op.results[0].type.shape
    return _first_only(op, stacked) and op.constant_input(1) is not None and all(d > 0 for d in shape)


def _flatten(op: NNOp, _stacked: set[Value]) -> bool:
    return _axis(op, op.operands[0], 1) == 1


def _transpose(op: NNOp, _stacked: set[Value]) -> bool:
    perm = op.attributes.get("perm")
    return isinstance(perm, tuple) and perm[:1] == (0,)


def _axis(op: NNOp, value: Value, default: int) -> int:
    axis = op.attributes.get("axis", default)
    axis = axis if isinstance(axis, int) else 0
    return axis + _rank(value) if axis < 0 else axis


def _inner_axis(default: int) -> Rule:
    """For operators along one axis of the first operand, which may not be the first."""

    def rule(op: NNOp, stacked: set[Value]) -> bool:
        return _first_only(op, stacked) and _axis(op, op.operands[0], default) != 0

    return rule


def _concat(op: NNOp, stacked: set[Value]) -> bool:
    return all(v in stacked for v in op.operands) and _axis(op, op.operands[0], 0) != 0


def _gather(op: NNOp, stacked: set[Value]) -> bool:
    data, indices = op.operands
    if data in stacked:
        return indices not in stacked and _axis(op, data, 0) != 0
    return _axis(op, data, 0) == 0  # a look-up of stacked indices


def _axes(op: NNOp, position: int, rank: int) -> tuple[int, ...] | None:
    """Axes from an attribute or a constant input, as non-negative numbers; None if unknown or omitted."""
    axes = op.attributes.get("axes")
    if not isinstance(axes, tuple):
        given = op.constant_input(position)
        if given is None:
            return None
        axes = tuple(int(a) for a in given.reshape(-1))
    return tuple(a + rank if a < 0 else a for a in axes)


def _inner_axes(position: int, *, of_result: bool = False) -> Rule:
    """For operators along given axes (attribute `axes`, or the input at `position`), none of which may be the first."""

    def rule(op: NNOp, stacked: set[Value]) -> bool:
        axes = _axes(op, position, _rank(op.results[0] if of_result else op.operands[0]))
        return _first_only(op, stacked) and bool(axes) and 0 not in (axes or ())

    return rule


def _pad(op: NNOp, stacked: set[Value]) -> bool:
    if not _first_only(op, stacked):
        return False
    if op.input(3) is not None:
        axes = _axes(op, 3, _rank(op.operands[0]))
        return bool(axes) and 0 not in (axes or ())
    pads = op.constant_input(1)
    return pads is not None and pads[0] == 0 and pads[len(pads) // 2] == 0


def _keeps_leading(op: NNOp, stacked: set[Value]) -> bool:
    return _first_only(op, stacked) and op.results[0].type.shape[0] == op.operands[0].type.shape[0]


def _tile(op: NNOp, stacked: set[Value]) -> bool:
    repeats = op.constant_input(1)
    return _first_only(op, stacked) and repeats is not None and repeats[0] == 1


def _expand(op: NNOp, stacked: set[Value]) -> bool:
    shape, rank = op.constant_input(1), _rank(op.operands[0])
    return (
        _first_only(op, stacked) and shape is not None and (len(shape) < rank or (len(shape) == rank and shape[0] == 1))
    )


def _norm(op: NNOp, stacked: set[Value]) -> bool:
    return _first_only(op, stacked) and not op.attributes.get("training_mode", 0)


def _layer_norm(op: NNOp, stacked: set[Value]) -> bool:
    return _first_only(op, stacked) and _axis(op, op.operands[0], -1) != 0 and len(op.results) == 1


# Words in a string: one to a line they would be a page long.
_ELEMENTWISE = """
    Abs Acos Acosh Add And Asin Asinh Atan Atanh BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Cast Ceil Celu Clip Cos Cosh
    Div Elu Equal Erf Exp Floor Gelu Greater GreaterOrEqual HardSigmoid HardSwish Identity IsInf IsNaN LeakyRelu Less
    LessOrEqual Log Max Mean Min Mish Mod Mul Neg Not Or PRelu Pow Reciprocal Relu Round Selu Shrink Sigmoid Sign Sin
    Sinh Softplus Softsign Sqrt Sub Sum Swish Tan Tanh ThresholdedRelu Where Xor
"""

_PER_IMAGE = """
    AveragePool Conv ConvInteger ConvTranspose DepthToSpace GlobalAveragePool GlobalLpPool GlobalMaxPool GridSample
    GroupNormalization InstanceNormalization LRN LpPool MaxPool QLinearConv SpaceToDepth
"""

_REDUCTIONS = """
    ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare
"""

RULES: dict[str, Rule] = {
    **dict.fromkeys(_ELEMENTWISE.split(), _elementwise),
    **dict.fromkeys(_PER_IMAGE.split(), _per_image),
    **dict.fromkeys(_REDUCTIONS.split(), _inner_axes(1)),
    "ArgMax": _inner_axis(0),
    "ArgMin": _inner_axis(0),
    "BatchNormalization": _norm,
    "Concat": _concat,
    "DequantizeLinear": _inner_axis(1),
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "Gemm": _gemm,
    "Hardmax": _inner_axis(-1),
    "LayerNormalization": _layer_norm,
    "LogSoftmax": _inner_axis(-1),
    "LpNormalization": _inner_axis(-1),
    "MatMul": _matmul,
    "MatMulInteger": _matmul,
    "Pad": _pad,
    "QuantizeLinear": _inner_axis(1),
    "RMSNormalization": _layer_norm,
    "Reshape": _reshape,
    "Resize": _keeps_leading,
    "Slice": _inner_axes(3),
    "Softmax": _inner_axis(-1),
    "Split": _inner_axis(0),
    "Squeeze": _inner_axes(1),
    "Tile": _tile,
    "TopK": _inner_axis(-1),
    "Transpose": _transpose,
    "Unsqueeze": _inner_axes(1, of_result=True),
}
