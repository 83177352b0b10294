"""Folds per-channel arithmetic with constants, and zero padding, into the weighted operator in front.

Weights are computed in float64 and rounded once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from smec.frontend.canonical import constant_before, ints, number, take_place
from smec.ir.core import AttrValue, Value
from smec.ir.dialects.builtin import GraphOp
from smec.ir.dialects.nn import NNOp
from smec.ir.rewriter import Rewriter


@dataclass
class _Affine:
    """y = scale[c] * x + shift[c] along one axis of x; both float64 [M]."""

    x: Value
    axis: int
    scale: np.ndarray
    shift: np.ndarray

    @property
    def finite(self) -> bool:
        return bool(np.isfinite(self.scale).all() and np.isfinite(self.shift).all())


def fold_affine(op: NNOp, rewriter: Rewriter) -> None:
    """Case 5 of the normal form."""
    producer = _weighted_producer(op)
    if producer is None:
        return
    affine = _affine(op, producer.results[0], 1 if producer.op_type in ("Conv", "BatchNormalization") else -1)
    if affine is None or not affine.finite:
        return
    if producer.op_type in ("Conv", "Gemm"):
        _into_bias(op, producer, affine, rewriter)
    elif producer.op_type == "BatchNormalization":
        _into_norm(op, producer, affine, rewriter)
    else:
        _into_matmul(op, producer, affine, rewriter)


def _weighted_producer(op: NNOp) -> NNOp | None:
    """The operator whose result only `op` uses: a Conv, Gemm, MatMul, BatchNormalization, or an Add after a MatMul."""
    for value in op.operands:
        source = value.defining_op()
        if not isinstance(source, NNOp) or source.domain or len(value.uses) != 1:
            continue
        if source.op_type in ("Conv", "Gemm", "MatMul") and source.constant_input(1) is not None:
            return source
        if source.op_type == "BatchNormalization" and op.op_type != "BatchNormalization" and _norm(source) is not None:
            return source
        if source.op_type == "Add" and _matmul_of_add(source) is not None:
            return source
    return None


def _matmul_of_add(op: NNOp) -> NNOp | None:
    for value in op.operands:
        source = value.defining_op()
        if isinstance(source, NNOp) and source.op_type == "MatMul" and source.constant_input(1) is not None:
            return source if len(value.uses) == 1 else None
    return None


# -- reading -----------------------------------------------------------------------------------------------------------


def _affine(op: NNOp, x: Value, axis: int) -> _Affine | None:
    """`op` as per-channel arithmetic on `x`; None if it is none."""
    shape = x.type.shape
    if not shape or not x.type.is_static or x.type.element not in ("f16", "f32", "f64"):
        return None
    if op.results[0].type.shape != shape:
        return None
    axis %= len(shape)
    width = shape[axis]
    if op.op_type == "BatchNormalization":
        norm = _norm(op)
        # BatchNormalization's channels are axis 1.
        if norm is None or axis != 1 or op.operands[0] is not x:
            return None
        return _Affine(x, axis, *norm)
    left = op.operands[0] is x
    array = op.constant_input(1 if left else 0)
    if array is None or op.operands[0] is op.operands[1]:
        return None
    row = _per_channel(array, shape, axis)
    if row is None:
        return None
    one, zero = np.ones(width), np.zeros(width)
    with np.errstate(all="ignore"):
        if op.op_type == "Mul":
            return _Affine(x, axis, row, zero)
        if op.op_type == "Add":
            return _Affine(x, axis, one, row)
        if op.op_type == "Sub":
            return _Affine(x, axis, one, -row) if left else _Affine(x, axis, -one, row)
        if op.op_type == "Div" and left:
            return _Affine(x, axis, 1.0 / row, zero)
    return None


def _per_channel(array: np.ndarray, shape: tuple[int, ...], axis: int) -> np.ndarray | None:
    """float64 [M] of a constant that broadcasts to `shape` and varies along `axis` only; None if there is no such."""
    if array.ndim > len(shape):
        return None
    full = array.reshape((1,) * (len(shape) - array.ndim) + array.shape)
    if any(d != 1 for i, d in enumerate(full.shape) if i != axis):
        return None
    return np.broadcast_to(full.reshape(-1), (shape[axis],)).astype(np.float64)


def _norm(op: NNOp) -> tuple[np.ndarray, np.ndarray] | None:
    """Scale and shift (float64 [C]) of a BatchNormalization with constant statistics."""
    if number(op, "training_mode", 0) or not number(op, "spatial", 1) or len(op.results) != 1:
        return None
    arrays = [op.constant_input(i) for i in range(1, 5)]
    if len(op.operands) != 5 or any(a is None for a in arrays):
        return None
    gamma, beta, mean, variance = (np.asarray(a, dtype=np.float64) for a in arrays)
    with np.errstate(all="ignore"):
        scale = gamma / np.sqrt(variance + number(op, "epsilon", 1e-5))
    return scale, beta - mean * scale


# -- writing -----------------------------------------------------------------------------------------------------------


def _replace(op: NNOp, producer: NNOp, operands: list[Value], rewriter: Rewriter) -> None:
    """Put a copy of `producer` with other operands in the place of `op`, which is its only user."""
    attributes: dict[str, AttrValue] = {
        k: v for k, v in producer.attributes.items() if k not in ("_tensor", "_present")
    }
    if op.tensor:
        attributes["_tensor"] = op.tensor
    new = NNOp.make(producer.op_type, operands, [op.results[0].type], attributes, producer.location)
    rewriter.insert_before(op, new)
    take_place(op, new.results[0], rewriter)
    rewriter.erase_op(producer)


def _into_bias(op: NNOp, producer: NNOp, affine: _Affine, rewriter: Rewriter) -> None:
    weight, bias = producer.constant_input(1), producer.constant_input(2)
    if weight is None or (producer.input(2) is not None and bias is None):
        return
    if producer.op_type == "Gemm" and not _is_plain(producer):
        return
    if bias is not None and bias.shape != affine.scale.shape:
        return
    old = np.zeros(len(affine.scale)) if bias is None else bias.astype(np.float64)
    hint = producer.operands[1].name_hint
    operands = [producer.operands[0], _scaled(op, producer.operands[1], weight, affine.scale, 0, rewriter)]
    row = (old * affine.scale + affine.shift).astype(weight.dtype)
    operands.append(constant_before(op, row, rewriter, f"{hint}_bias"))
    _replace(op, producer, operands, rewriter)


def _is_plain(gemm: NNOp) -> bool:
    """Whether a Gemm has its normal form, in which its weight's first axis is the outputs."""
    return number(gemm, "transB", 0) == number(gemm, "alpha", 1.0) == number(gemm, "beta", 1.0) == 1.0


def _scaled(op: NNOp, value: Value, weight: np.ndarray, scale: np.ndarray, axis: int, rewriter: Rewriter) -> Value:
    """The weight times `scale` along `axis`, as a constant before `op`; `value` itself where nothing changes."""
    if (scale == 1.0).all():
        return value
    shape = [1] * weight.ndim
    shape[axis] = -1
    array = (weight.astype(np.float64) * scale.reshape(shape)).astype(weight.dtype)
    return constant_before(op, array, rewriter, value.name_hint)


def _into_norm(op: NNOp, producer: NNOp, affine: _Affine, rewriter: Rewriter) -> None:
    gamma, beta = producer.constant_input(1), producer.constant_input(2)
    if gamma is None or beta is None:
        return
    operands = list(producer.operands)
    for index, array in ((1, gamma * affine.scale), (2, beta * affine.scale + affine.shift)):
        array = array.astype(gamma.dtype)
        operands[index] = constant_before(op, array, rewriter, operands[index].name_hint)
    _replace(op, producer, operands, rewriter)


def _into_matmul(op: NNOp, producer: NNOp, affine: _Affine, rewriter: Rewriter) -> None:
    """Scale a MatMul's weight; what is added stays (or becomes) one Add behind it."""
    if producer.op_type == "MatMul" and (affine.scale == 1.0).all():
        return  # the bias of a MatMul: normal form
    matmul, shift = producer, affine.shift
    if producer.op_type == "Add":
        found = _matmul_of_add(producer)
        inner = _affine(producer, found.results[0], -1) if found is not None else None
        if found is None or inner is None or not inner.finite:
            return
        matmul, shift = found, inner.shift * affine.scale + affine.shift
    weight = matmul.constant_input(1)
    if weight is None or weight.ndim != 2:
        return
    operands = list(matmul.operands)
    operands[1] = _scaled(op, operands[1], weight, affine.scale, 1, rewriter)
    attributes: dict[str, AttrValue] = {"_tensor": op.tensor} if op.tensor else {}
    types = [op.results[0].type]
    if not shift.any():
        last = rewriter.insert_before(op, NNOp.make("MatMul", operands, types, attributes, matmul.location))
    else:
        product = rewriter.insert_before(op, NNOp.make("MatMul", operands, types, {}, matmul.location))
        row = constant_before(op, shift.astype(weight.dtype), rewriter, f"{operands[1].name_hint}_bias")
        location = producer.location if producer is not matmul else op.location
        last = rewriter.insert_before(op, NNOp.make("Add", [product.results[0], row], types, attributes, location))
    take_place(op, last.results[0], rewriter)
    rewriter.erase_op(producer)
    if matmul is not producer:
        rewriter.erase_op(matmul)


# -- padding -----------------------------------------------------------------------------------------------------------


def merge_pad(op: NNOp, rewriter: Rewriter) -> None:
    """Case 6 of the normal form."""
    pad = op.operands[0].defining_op()
    if not isinstance(pad, NNOp) or pad.op_type != "Pad" or pad.domain or "auto_pad" in op.attributes:
        return
    amounts = _zero_pads(pad)
    if amounts is None:
        return
    begins, ends = amounts
    if any([*begins[:2], *ends[:2]]) or min([*begins, *ends]) < 0:
        return
    own = ints(op, "pads", (0,) * (2 * (len(begins) - 2)))
    op.attributes["pads"] = tuple(a + b for a, b in zip(own, [*begins[2:], *ends[2:]], strict=True))
    rewriter.set_operand(op, 0, pad.operands[0])


def _zero_pads(pad: NNOp) -> tuple[list[int], list[int]] | None:
    """What a Pad adds before and behind each axis, if it adds constant amounts of zeros."""
    graph = pad.parent_op()
    # Up to operator set 10 the amounts are an attribute; such models are raised to a newer one where that is possible.
    if not isinstance(graph, GraphOp) or graph.opset < 11 or pad.attributes.get("mode", "constant") != "constant":
        return None
    amounts, value, axes = pad.constant_input(1), pad.constant_input(2), pad.constant_input(3)
    if amounts is None or (pad.input(2) is not None and (value is None or value.any())):
        return None
    rank = len(pad.operands[0].type.shape)
    if axes is None:
        if pad.input(3) is not None:
            return None
        axes = np.arange(rank)
    begins, ends = [0] * rank, [0] * rank
    for axis, begin, end in zip(axes, amounts[: len(axes)], amounts[len(axes) :], strict=True):
        begins[int(axis)], ends[int(axis)] = int(begin), int(end)
    return begins, ends
