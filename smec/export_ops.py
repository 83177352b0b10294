"""How each `quant` operation is written in ONNX; see `smec.export`.

An emitter appends nodes whose last one produces the tensor `out`. Weights and activations meet as uint8 x uint8 only:
the uint8 x int8 kernels of processors without VNNI add pairs of products in saturating 16-bit arithmetic, so they are
not exact.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import TensorProto

from smec.export import GraphBuilder, storage
from smec.ir.core import Operation
from smec.ir.dialects.arithmetic import (
    accumulator_bound,
    add_params,
    average_factors,
    clamp_bounds,
    dequantize_params,
    requantize_params,
    rescale_params,
)
from smec.ir.dialects.quant import (
    F32,
    Add,
    AvgPool,
    Concat,
    Conv,
    Dequantize,
    Gemm,
    Lut,
    MaxPool,
    Mul,
    Pad,
    Quantize,
    Rescale,
    Reshape,
    Slice,
    Transpose,
    WeightedOp,
)
from smec.ir.types import Quantized

if TYPE_CHECKING:
    from smec.ir.types import TensorType

#: emitter(builder, operation, operand names, result name, accumulator name)
Emitter = Callable[[GraphBuilder, Any, list[str], str, str], None]
EMITTERS: dict[str, Emitter] = {}

INT32_LIMIT = 2**31
BYTE = 256


def _emits(cls: type[Operation]) -> Callable[[Emitter], Emitter]:
    def register(emitter: Emitter) -> Emitter:
        EMITTERS[cls.name] = emitter
        return emitter

    return register


# -- integer products --------------------------------------------------------------------------------------------------


def accumulator_element(op: WeightedOp) -> int:
    """TensorProto data type of a layer's accumulators: int32 where they provably fit, else int64."""
    bound = accumulator_bound(op.integers(), op.x.type.quantized)
    return int(TensorProto.INT32 if bound < INT32_LIMIT else TensorProto.INT64)


def byte_parts(weight: np.ndarray, reduce_axes: tuple[int, ...]) -> Iterator[tuple[np.ndarray, int, int]]:
    """Write integer weights as a sum of factor * (part - zero point) with uint8 parts.

    Yields (part, zero point, factor). One part is enough where the weights span at most 255; else magnitudes are split
    by sign and byte. Parts that are zero everywhere are left out, unless there is no other.

    Every part is kept small enough that products with bytes, summed over `reduce_axes`, stay in 32 bits; longer sums
    are split too.
    """
    low, high = int(weight.min(initial=0)), int(weight.max(initial=0))
    parts: list[tuple[np.ndarray, int, int]] = []
    if high - low < BYTE:
        parts.append(((weight.astype(np.int32) - low).astype(np.uint8), -low, 1))
    else:
        for sign in (1, -1):
            magnitude = np.maximum(sign * weight.astype(np.int32), 0)
            for shift in (0, 8):
                digit = (magnitude >> shift) & (BYTE - 1)
                if digit.any():
                    parts.append((digit.astype(np.uint8), 0, sign << shift))
    for part, zero, factor in parts:
        for chunk in _short_sums(part, zero, reduce_axes):
            yield chunk, zero, factor


def _short_sums(part: np.ndarray, zero: int, axes: tuple[int, ...]) -> list[np.ndarray]:
    """The part itself, or several that add up to it, each with sums over `axes` below 2^31 / 255."""
    reach = int(np.abs(part.astype(np.int64) - zero).sum(axis=axes).max(initial=0)) * (BYTE - 1)
    pieces = -(-reach // (INT32_LIMIT - 1))
    if pieces <= 1:
        return [part]
    axis = max(axes, key=lambda a: part.shape[a])
    # No cut spares a sum whose large entries lie together, so cut into twice as many and try again on each.
    cuts = np.array_split(np.arange(part.shape[axis]), 2 * pieces)
    found = []
    for cut in cuts:
        chunk = np.full_like(part, zero)
        index = tuple(cut if a == axis else slice(None) for a in range(part.ndim))
        chunk[index] = part[index]
        found += _short_sums(chunk, zero, axes)
    return found


def input_bytes(b: GraphBuilder, x: str, q: Quantized, hint: str) -> list[tuple[str, int, int]]:
    """A quantized tensor as uint8 tensors: (name, zero point, factor), x - z = sum of factor * (byte - zero point)."""
    if q.bits <= 8:
        return [(x, q.zero_point, 1)]
    byte = b.const(np.int32(BYTE), "byte")
    high = b.cast(b.node("Div", [x, byte], hint=hint), TensorProto.UINT8, hint=f"{hint}.high")
    low = b.cast(b.node("Mod", [x, byte], hint=hint), TensorProto.UINT8, hint=f"{hint}.low")
    return [(low, q.zero_point % BYTE, 1), (high, q.zero_point // BYTE, BYTE)]


def _product(b: GraphBuilder, op: WeightedOp, x: str, out: str, kind: str, **attributes: Any) -> None:
    """Accumulators sum_k (q_k - z) w[k, n] of a layer, exactly, as the tensor `out`."""
    q, weight, hint = op.x.type.quantized, op.integers(), op.label
    if isinstance(op, Gemm):
        weight = weight.T
        reduce_axes: tuple[int, ...] = (0,)
    else:
        reduce_axes = tuple(range(1, weight.ndim))
    element = accumulator_element(op)
    parts = list(byte_parts(weight, reduce_axes))
    terms = []
    for name, zero, x_factor in input_bytes(b, x, q, hint):
        for part, part_zero, w_factor in parts:
            operands = [
                name,
                b.const(part, f"{hint}.weight"),
                b.const(np.uint8(zero), "zero_point"),
                b.const(np.uint8(part_zero), "zero_point"),
            ]
            terms.append((operands, x_factor * w_factor))
    _weighted_sum(b, kind, terms, element, out, hint, attributes)


def _weighted_sum(
    b: GraphBuilder,
    kind: str,
    terms: list[tuple[list[str], int]],
    element: int,
    out: str,
    hint: str,
    attributes: dict[str, Any],
) -> None:
    """out = sum of factor * kind(operands), in 32 or 64 bits."""
    dtype = np.int32 if element == TensorProto.INT32 else np.int64
    terms = sorted(terms, key=lambda t: t[1] < 0)
    if terms[0][1] == 1 and len(terms) == 1 and dtype is np.int32:
        b.node(kind, terms[0][0], hint=hint, out=out, **attributes)
        return
    total = ""
    for i, (operands, factor) in enumerate(terms):
        # The first term keeps its sign; the others are added or subtracted.
        scale = factor if i == 0 else abs(factor)
        last = i == len(terms) - 1
        term = b.node(kind, operands, hint=hint, **attributes)
        if dtype is np.int64:
            term = b.cast(term, TensorProto.INT64, hint=hint, out=out if last and i == 0 and scale == 1 else None)
        if scale != 1:
            factor_name = b.const(dtype(scale), "factor")
            term = b.node("Mul", [term, factor_name], hint=hint, out=out if last and i == 0 else None)
        if i == 0:
            total = term
        else:
            total = b.node("Add" if factor > 0 else "Sub", [total, term], hint=hint, out=out if last else None)


def _finish(b: GraphBuilder, op: WeightedOp, acc: str, out: str) -> None:
    """Accumulators -> the result: scale, bias and clamp in float32, as `WeightedOp.finish`."""
    hint, x = op.label, op.x.type.quantized
    shape = [1] * (op.channel_axis() - 1) + [-1] + [1] * (len(op.out.type.shape) - op.channel_axis())
    f = b.cast(acc, TensorProto.FLOAT, hint=hint)
    quantized = op.out.type.element if isinstance(op.out.type.element, Quantized) else None
    if quantized is not None:
        mult, off = requantize_params(op.weight_scale.array, op.bias.array, x, quantized)
    else:
        mult, off = dequantize_params(op.weight_scale.array, op.bias.array, x)
    f = b.node("Mul", [f, b.const(mult.reshape(shape), f"{hint}.multiplier")], hint=hint)
    offset = b.const(off.reshape(shape), f"{hint}.offset")
    if quantized is not None:
        f = b.node("Add", [f, offset], hint=hint)
        b.round_clip(f, *clamp_bounds(quantized, op.clamp_min, op.clamp_max), quantized, hint=hint, out=out)
        return
    bounds = [F32(op.clamp_min), F32(op.clamp_max)]
    if all(math.isinf(v) for v in bounds):
        b.node("Add", [f, offset], hint=hint, out=out)
        return
    f = b.node("Add", [f, offset], hint=hint)
    names = ["" if math.isinf(v) else b.const(v, f"{hint}.clamp") for v in bounds]
    b.node("Clip", [f, *names], hint=hint, out=out)


@_emits(Conv)
def _conv(b: GraphBuilder, op: Conv, x: list[str], out: str, acc: str) -> None:
    # ConvInteger pads with the input's zero point, which is what real zeros are.
    _product(
        b, op, x[0], acc, "ConvInteger",
        group=op.groups, strides=list(op.strides), pads=list(op.pads), dilations=list(op.dilations),
        kernel_shape=list(op.kernel),
    )  # fmt: skip
    _finish(b, op, acc, out)


@_emits(Gemm)
def _gemm(b: GraphBuilder, op: Gemm, x: list[str], out: str, acc: str) -> None:
    _product(b, op, x[0], acc, "MatMulInteger")
    _finish(b, op, acc, out)


# -- conversions -------------------------------------------------------------------------------------------------------


@_emits(Quantize)
def _quantize(b: GraphBuilder, op: Quantize, x: list[str], out: str, _: str) -> None:
    q, f = op.out.type.quantized, x[0]
    if op.x.type.element != "f32":
        f = b.cast(f, TensorProto.FLOAT, hint=out)
    zero = b.const(F32(q.zero_point), "zero_point")
    f = b.node("Div", [f, b.const(F32(q.scale), "scale")], hint=out)
    f = b.node("Add", [b.node("Round", [f], hint=out), zero], hint=out)
    f = b.node("Where", [b.node("IsNaN", [f], hint=out), zero, f], hint=out)
    bounds = [b.const(F32(0), "lowest"), b.const(F32(q.qmax), "highest")]
    b.cast(b.node("Clip", [f, *bounds], hint=out), storage(q), hint=out, out=out)


@_emits(Dequantize)
def _dequantize(b: GraphBuilder, op: Dequantize, x: list[str], out: str, _: str) -> None:
    q = op.x.type.quantized
    f = b.cast(_centred(b, x[0], q, np.int32, out), TensorProto.FLOAT, hint=out)
    b.node("Mul", [f, b.const(F32(q.scale), "scale")], hint=out, out=out)


@_emits(Rescale)
def _rescale(b: GraphBuilder, op: Rescale, x: list[str], out: str, _: str) -> None:
    y = op.out.type.quantized
    m, off = rescale_params(op.x.type.quantized, y)
    f = b.node("Mul", [b.cast(x[0], TensorProto.FLOAT, hint=out), b.const(m, "multiplier")], hint=out)
    f = b.node("Add", [f, b.const(off, "offset")], hint=out)
    b.round_clip(f, *clamp_bounds(y, op.clamp_min, op.clamp_max), y, hint=out, out=out)


def _centred(b: GraphBuilder, x: str, q: Quantized, dtype: Any, hint: str) -> str:
    """q - z as int32 or int64."""
    if dtype is np.int64:
        x = b.cast(x, TensorProto.INT64, hint=hint)
    elif storage(q) != TensorProto.INT32:
        x = b.cast(x, TensorProto.INT32, hint=hint)
    return b.node("Sub", [x, b.const(dtype(q.zero_point), "zero_point")], hint=hint)


# -- elementwise -------------------------------------------------------------------------------------------------------


@_emits(Add)
def _add(b: GraphBuilder, op: Add, x: list[str], out: str, _: str) -> None:
    y = op.out.type.quantized
    ma, mb, off = add_params(op.a.type.quantized, op.b.type.quantized, y)
    terms = [
        b.node("Mul", [b.cast(name, TensorProto.FLOAT, hint=out), b.const(m, "multiplier")], hint=out)
        for name, m in zip(x, (ma, mb), strict=True)
    ]
    f = b.node("Add", [b.node("Add", terms, hint=out), b.const(off, "offset")], hint=out)
    b.round_clip(f, *clamp_bounds(y, op.clamp_min, op.clamp_max), y, hint=out, out=out)


@_emits(Mul)
def _mul(b: GraphBuilder, op: Mul, x: list[str], out: str, _: str) -> None:
    qa, qb, y = op.a.type.quantized, op.b.type.quantized, op.out.type.quantized
    dtype = np.int32 if qa.qmax * qb.qmax < INT32_LIMIT else np.int64
    product = b.node("Mul", [_centred(b, n, q, dtype, out) for n, q in zip(x, (qa, qb), strict=True)], hint=out)
    scale = b.const(F32(qa.scale * qb.scale / y.scale), "multiplier")
    f = b.node("Mul", [b.cast(product, TensorProto.FLOAT, hint=out), scale], hint=out)
    f = b.node("Add", [f, b.const(F32(y.zero_point), "zero_point")], hint=out)
    b.round_clip(f, *clamp_bounds(y, op.clamp_min, op.clamp_max), y, hint=out, out=out)


@_emits(Lut)
def _lut(b: GraphBuilder, op: Lut, x: list[str], out: str, _: str) -> None:
    dtype = np.uint8 if storage(op.out.type.quantized) == TensorProto.UINT8 else np.int32
    index = x[0]
    if storage(op.x.type.quantized) != TensorProto.INT32:
        index = b.cast(index, TensorProto.INT32, hint=out)
    b.node("Gather", [b.const(op.table.array.astype(dtype), "table"), index], hint=out, out=out, axis=0)


# -- windows -----------------------------------------------------------------------------------------------------------


def _padded(b: GraphBuilder, x: str, pads: tuple[int, ...], value: int, q: Quantized, hint: str) -> str:
    """Pad the last two of four axes with a level."""
    if not any(pads):
        return x
    width = np.array([0, 0, pads[0], pads[1], 0, 0, pads[2], pads[3]], np.int64)
    fill = np.uint8(value) if storage(q) == TensorProto.UINT8 else np.int32(value)
    return b.node("Pad", [x, b.const(width, "pads"), b.const(fill, "fill")], hint=hint)


def _cropped(b: GraphBuilder, x: str, op: MaxPool | AvgPool, span: tuple[int, ...], hint: str) -> str:
    """Drop the input rows and columns that no window of the result reaches, so that none is computed in excess."""
    need = [(n - 1) * s + k for n, s, k in zip(op.out.type.shape[2:], op.strides, span, strict=True)]
    have = [h + p + q for h, p, q in zip(op.x.type.shape[2:], op.pads[:2], op.pads[2:], strict=True)]
    if need == have:
        return x
    bounds = [b.const(np.array(v, np.int64), "crop") for v in ([0, 0], need, [2, 3])]
    return b.node("Slice", [x, *bounds], hint=hint)


@_emits(MaxPool)
def _max_pool(b: GraphBuilder, op: MaxPool, x: list[str], out: str, _: str) -> None:
    q = op.out.type.quantized
    span = tuple((k - 1) * d + 1 for k, d in zip(op.kernel, op.dilations, strict=True))
    y = _cropped(b, _padded(b, x[0], op.pads, 0, q, out), op, span, out)
    window: dict[str, Any] = {
        "kernel_shape": list(op.kernel),
        "strides": list(op.strides),
        "dilations": list(op.dilations),
    }
    if storage(q) == TensorProto.UINT8:
        b.node("MaxPool", [y], hint=out, out=out, **window)
        return
    # No MaxPool takes int32; float32 holds 16-bit levels exactly.
    f = b.node("MaxPool", [b.cast(y, TensorProto.FLOAT, hint=out)], hint=out, **window)
    b.cast(f, TensorProto.INT32, hint=out, out=out)


@_emits(AvgPool)
def _avg_pool(b: GraphBuilder, op: AvgPool, x: list[str], out: str, _: str) -> None:
    q, y = op.x.type.quantized, op.out.type.quantized
    padded = _cropped(b, _padded(b, x[0], op.pads, q.zero_point, q, out), op, op.kernel, out)
    total = _window_sums(b, op, padded, q, out)
    f = b.cast(total, TensorProto.FLOAT, hint=out)
    f = b.node("Mul", [f, b.const(average_factors(op)[None, None], "factors")], hint=out)
    f = b.node("Add", [f, b.const(F32(y.zero_point), "zero_point")], hint=out)
    b.round_clip(f, 0, y.qmax, y, hint=out, out=out)


def _window_sums(b: GraphBuilder, op: AvgPool, x: str, q: Quantized, hint: str) -> str:
    """sum (q - z) over each window, int32: an average pool of floats would round, an integer convolution does not."""
    _, channels, oh, ow = op.out.type.shape
    if (oh, ow) == (1, 1):
        axes = b.const(np.array([2, 3], np.int64), "axes")
        return b.node("ReduceSum", [_centred(b, x, q, np.int32, hint), axes], hint=hint, keepdims=1)
    # Each channel is an image of its own: one filter of ones, not a depthwise layer with a filter a channel.
    height, width = ((n - 1) * s + k for n, s, k in zip((oh, ow), op.strides, op.kernel, strict=True))
    flat = b.node("Reshape", [x, b.const(np.array([-1, 1, height, width], np.int64), "shape")], hint=hint)
    ones = b.const(np.ones((1, 1, *op.kernel), np.uint8), "ones")
    terms = [
        ([name, ones, b.const(np.uint8(zero), "zero_point")], factor)
        for name, zero, factor in input_bytes(b, flat, q, hint)
    ]
    sums = b.fresh(f"{hint}.sums")
    _weighted_sum(b, "ConvInteger", terms, TensorProto.INT32, sums, hint, {"strides": list(op.strides)})
    return b.node("Reshape", [sums, b.const(np.array([-1, channels, oh, ow], np.int64), "shape")], hint=hint)


# -- data movement -----------------------------------------------------------------------------------------------------


@_emits(Concat)
def _concat(b: GraphBuilder, op: Concat, x: list[str], out: str, _: str) -> None:
    b.node("Concat", x, hint=out, out=out, axis=op.axis)


@_emits(Pad)
def _pad(b: GraphBuilder, op: Pad, x: list[str], out: str, _: str) -> None:
    q = op.out.type.quantized
    fill = np.uint8(op.value) if storage(q) == TensorProto.UINT8 else np.int32(op.value)
    b.node("Pad", [x[0], b.const(np.array(op.pads, np.int64), "pads"), b.const(fill, "fill")], hint=out, out=out)


@_emits(Slice)
def _slice(b: GraphBuilder, op: Slice, x: list[str], out: str, _: str) -> None:
    rows = []
    source, wanted = op.x.type.shape, op.out.type.shape
    for axis, (start, step, have, want) in enumerate(zip(op.starts, op.steps, source, wanted, strict=True)):
        if start == 0 and step == 1 and have == want:
            continue  # keeps a symbolic batch axis whole
        end = start + step * want
        # A negative end counts from the back in ONNX: "before the first" is the smallest integer.
        rows.append((start, end if end >= 0 else np.iinfo(np.int64).min, axis, step))
    if not rows:
        b.node("Identity", x, hint=out, out=out)
        return
    bounds = [b.const(np.array(v, np.int64), "slice") for v in zip(*rows, strict=True)]
    b.node("Slice", [x[0], *bounds], hint=out, out=out)


@_emits(Transpose)
def _transpose(b: GraphBuilder, op: Transpose, x: list[str], out: str, _: str) -> None:
    b.node("Transpose", x, hint=out, out=out, perm=list(op.perm))


@_emits(Reshape)
def _reshape(b: GraphBuilder, op: Reshape, x: list[str], out: str, _: str) -> None:
    b.node("Reshape", [x[0], b.const(_shape(b, op.out.type), "shape")], hint=out, out=out)


def _shape(b: GraphBuilder, type: TensorType) -> np.ndarray:
    """Shape operand of Reshape; 0 copies the batch axis where that is symbolic."""
    return np.array([0, *type.shape[1:]] if b.symbolic else type.shape, np.int64)
