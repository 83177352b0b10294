"""Whether images may be stacked along the leading axis of `nn` operations: one call for many, with the same results.

A value is *stacked* along an axis if the images' blocks lie one behind the other there, each independent of the others.
The inputs are stacked along their leading axis; a transposition moves it. Rules say for each operator along which axis
its results are stacked when operands are; an operator without a rule, or outside of its rule, mixes images (or may do
so): then images are computed one by one. Trying it out is no substitute: a condition on the sum over all images may
well hold for the images tried.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from smec.ir.core import Operation, Value
from smec.ir.dialects.nn import Constant, NNOp

#: The axis of each stacked value.
Axes = Mapping[Value, int]

#: The axis along which an operator's results are stacked, given those of its operands (one at least); None: not at all.
Rule = Callable[[NNOp, Axes], "int | None"]

#: Operators that draw random numbers, even from no operand.
_RANDOM = ("Random", "Multinomial", "Bernoulli")


@dataclass
class Stacking:
    """Which values are stacked when all inputs are.

    Attributes:
        axes: the axis of each stacked value.
        mixed: results of operators that mix images or may do so, and all that follows from them.

    Values that depend on no input are in neither: they are constants.
    """

    axes: dict[Value, int]
    mixed: set[Value]


def stacking(ops: Iterable[Operation], inputs: Sequence[Value]) -> Stacking:
    """Follow the leading axis of `inputs` through `ops` (in order)."""
    axes = {v: 0 for v in inputs if _extent(v, 0) > 0}
    mixed = {v for v in inputs if v not in axes}
    for op in ops:
        if isinstance(op, Constant):
            continue
        if any(v in mixed for v in op.operands) or not isinstance(op, NNOp):
            mixed.update(op.results)
        elif any(v in axes for v in op.operands):
            rule = None if op.domain or op.captured else RULES.get(op.op_type)
            axis = rule(op, axes) if rule is not None else None
            if axis is None or any(_extent(r, axis) <= 0 for r in op.results):
                mixed.update(op.results)
            else:
                axes.update(dict.fromkeys(op.results, axis))
        elif op.op_type.startswith(_RANDOM):
            mixed.update(op.results)
    return Stacking(axes, mixed)


def can_stack(ops: Iterable[Operation], inputs: Sequence[Value], outputs: Sequence[Value]) -> bool:
    """Whether a region with this interface computes the same for stacked images as for each on its own."""
    found = stacking(ops, inputs)
    return bool(inputs) and not found.mixed and all(found.axes.get(v) == 0 for v in outputs)


def _extent(value: Value, axis: int) -> int:
    """The extent of an axis; -1 if it is unknown or there is no such axis."""
    return value.type.shape[axis] if axis < _rank(value) else -1


def _rank(value: Value) -> int:
    return len(value.type.shape)


def _aligned(op: NNOp, operands: Sequence[Value], axes: Axes) -> int | None:
    """The result's axis where operands broadcast: stacked ones agree on it, others have extent 1 (or nothing) there."""
    result = op.results[0]
    found = {_rank(result) - _rank(v) + axes[v] for v in operands if v in axes}
    if len(found) != 1:
        return None
    axis = found.pop()
    for value in operands:
        at = axis - (_rank(result) - _rank(value))
        extent = _extent(value, at) if at >= 0 else 1
        if extent != (_extent(result, axis) if value in axes else 1):
            return None
    return axis


def _elementwise(op: NNOp, axes: Axes) -> int | None:
    return _aligned(op, op.operands, axes)


def _data_axis(op: NNOp, axes: Axes) -> int | None:
    """The axis of the data operand, if all others (weights, statistics, scales, indices) are not stacked."""
    if any(v in axes for v in op.operands[1:]):
        return None
    return axes.get(op.operands[0])


def _per_image(op: NNOp, axes: Axes) -> int | None:
    # The indices of MaxPool count through all images.
    return 0 if _data_axis(op, axes) == 0 and len(op.results) == 1 else None


def _matmul(op: NNOp, axes: Axes) -> int | None:
    a, b, result = op.operands[0], op.operands[1], op.results[0]
    if any(v in axes for v in op.operands[2:]):
        return None
    if a in axes and axes[a] == _rank(a) - 2 and b not in axes and _rank(b) <= 2:
        return axes[a]  # rows of the left operand
    if min(_rank(a), _rank(b)) < 2:
        return None
    axis = _aligned(op, [a, b], axes)
    return axis if axis is not None and axis < _rank(result) - 2 else None


def _gemm(op: NNOp, axes: Axes) -> int | None:
    c = op.input(2)
    plain_c = c is None or _rank(c) < 2 or _extent(c, 0) == 1
    return 0 if _data_axis(op, axes) == 0 and not op.attributes.get("transA", 0) and plain_c else None


def _reshape(op: NNOp, axes: Axes) -> int | None:
    # The writer replaces a constant target (see `onnx_model`): row-major order keeps the images apart.
    known = op.constant_input(1) is not None and all(d > 0 for d in op.results[0].type.shape)
    return 0 if _data_axis(op, axes) == 0 and known else None


def _flatten(op: NNOp, axes: Axes) -> int | None:
    return 0 if _data_axis(op, axes) == 0 and _axis(op, op.operands[0], 1) == 1 else None


def _transpose(op: NNOp, axes: Axes) -> int | None:
    axis, perm = _data_axis(op, axes), op.attributes.get("perm")
    if not isinstance(perm, tuple):
        perm = tuple(reversed(range(_rank(op.operands[0]))))
    return perm.index(axis) if axis is not None else None


def _axis(op: NNOp, value: Value, default: int) -> int:
    axis = op.attributes.get("axis", default)
    axis = axis if isinstance(axis, int) else 0
    return axis + _rank(value) if axis < 0 else axis


def _along(default: int) -> Rule:
    """For operators along one axis of the first operand."""

    def rule(op: NNOp, axes: Axes) -> int | None:
        axis = _data_axis(op, axes)
        return axis if axis != _axis(op, op.operands[0], default) else None

    return rule


def _softmax(op: NNOp, axes: Axes) -> int | None:
    if op.opsets().get("", 13) >= 13:
        return _along(-1)(op, axes)
    # It used to be over all axes from `axis` on.
    return 0 if _data_axis(op, axes) == 0 and _axis(op, op.operands[0], 1) > 0 else None


def _from_axis(op: NNOp, axes: Axes) -> int | None:
    """For normalizations over all axes from `axis` on."""
    axis = _data_axis(op, axes)
    inside = axis is not None and axis < _axis(op, op.operands[0], -1) and len(op.results) == 1
    return axis if inside else None


def _concat(op: NNOp, axes: Axes) -> int | None:
    found = {axes.get(v) for v in op.operands}
    axis = found.pop()
    return axis if not found and axis != _axis(op, op.operands[0], 0) else None


def _gather(op: NNOp, axes: Axes) -> int | None:
    data, indices = op.operands
    along = _axis(op, data, 0)
    if data not in axes:
        return axes[indices] if along == 0 else None  # a look-up of stacked indices
    axis = _data_axis(op, axes)
    if axis is None or axis == along:
        return None
    return axis if axis < along else axis + _rank(indices) - 1


def _given_axes(op: NNOp, position: int, rank: int) -> tuple[int, ...]:
    """Axes from an attribute or a constant input, as non-negative numbers; empty if unknown or omitted."""
    axes = op.attributes.get("axes")
    if not isinstance(axes, tuple):
        given = op.constant_input(position)
        axes = () if given is None else tuple(int(a) for a in given.reshape(-1))
    return tuple(a + rank if a < 0 else a for a in axes)


def _reduce(op: NNOp, axes: Axes) -> int | None:
    axis, gone = _data_axis(op, axes), _given_axes(op, 1, _rank(op.operands[0]))
    if axis is None or not gone or axis in gone:
        return None
    return axis if op.attributes.get("keepdims", 1) else axis - sum(a < axis for a in gone)


def _squeeze(op: NNOp, axes: Axes) -> int | None:
    axis, gone = _data_axis(op, axes), _given_axes(op, 1, _rank(op.operands[0]))
    return axis - sum(a < axis for a in gone) if axis is not None and gone and axis not in gone else None


def _unsqueeze(op: NNOp, axes: Axes) -> int | None:
    axis, new = _data_axis(op, axes), _given_axes(op, 1, _rank(op.results[0]))
    if axis is None or not new:
        return None
    kept = [a for a in range(_rank(op.results[0])) if a not in new]
    return kept[axis]


def _slice(op: NNOp, axes: Axes) -> int | None:
    axis, cut = _data_axis(op, axes), _given_axes(op, 3, _rank(op.operands[0]))
    return axis if cut and axis not in cut else None


def _pad(op: NNOp, axes: Axes) -> int | None:
    axis, pads = _data_axis(op, axes), op.constant_input(1)
    if axis is None or pads is None:
        return None
    if op.input(3) is not None:
        padded = _given_axes(op, 3, _rank(op.operands[0]))
        return axis if padded and axis not in padded else None
    return axis if pads[axis] == 0 and pads[axis + len(pads) // 2] == 0 else None


def _resize(op: NNOp, axes: Axes) -> int | None:
    # The writer takes the leading extent out of constant sizes.
    same = _extent(op.results[0], 0) == _extent(op.operands[0], 0)
    return 0 if _data_axis(op, axes) == 0 and same else None


def _tile(op: NNOp, axes: Axes) -> int | None:
    axis, repeats = _data_axis(op, axes), op.constant_input(1)
    return axis if axis is not None and repeats is not None and repeats[axis] == 1 else None


def _expand(op: NNOp, axes: Axes) -> int | None:
    axis, shape = _data_axis(op, axes), op.constant_input(1)
    if axis is None or shape is None:
        return None
    more = len(shape) - _rank(op.operands[0])
    if more <= 0:
        return axis if axis + more < 0 or shape[axis + more] == 1 else None
    return axis + more if shape[axis + more] == 1 else None


def _attention(op: NNOp, axes: Axes) -> int | None:
    query, key, value = op.operands[:3]
    mask, past = op.input(3), op.inputs[4:]
    if any(axes.get(v) != 0 for v in (query, key, value)) or any(past) or len(op.results) != 1:
        return None
    shared_mask = mask is None or (mask not in axes and (_rank(mask) < 4 or _extent(mask, 0) == 1))
    return 0 if shared_mask else None


def _norm(op: NNOp, axes: Axes) -> int | None:
    return 0 if _data_axis(op, axes) == 0 and not op.attributes.get("training_mode", 0) else None


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
    **dict.fromkeys(_REDUCTIONS.split(), _reduce),
    **dict.fromkeys(["MatMul", "MatMulInteger"], _matmul),
    **dict.fromkeys(["Hardmax", "LogSoftmax", "Softmax"], _softmax),
    **dict.fromkeys(["LpNormalization", "TopK"], _along(-1)),
    **dict.fromkeys(["DequantizeLinear", "QuantizeLinear"], _along(1)),
    **dict.fromkeys(["LayerNormalization", "RMSNormalization"], _from_axis),
    "Attention": _attention,
    "BatchNormalization": _norm,
    "Concat": _concat,
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "Gemm": _gemm,
    "Pad": _pad,
    "Reshape": _reshape,
    "Resize": _resize,
    "Slice": _slice,
    "Split": _along(0),
    "Squeeze": _squeeze,
    "Tile": _tile,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
