"""The arithmetic of quantized networks (DESIGN 2): bounds, multipliers and offsets, rounding, windows.

The interpretations of `smec.ir.dialects.quant`, engines, exported ONNX and emitted instructions share it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

if TYPE_CHECKING:
    from smec.ir.dialects.quant import AvgPool
    from smec.ir.types import Quantized

F32 = np.float32


def clamp_bounds(q: Quantized, clamp_min: float, clamp_max: float) -> tuple[int, int]:
    """Integer bounds [lo, hi] of a quantized result whose real value is clamped to [clamp_min, clamp_max]."""

    def level(x: float) -> int:
        if math.isinf(x):
            return 0 if x < 0 else q.qmax
        return int(min(max(np.rint(x / q.scale + q.zero_point), 0), q.qmax))

    return level(clamp_min), level(clamp_max)


def round_clip(y: np.ndarray, lo: int, hi: int, q: Quantized) -> np.ndarray:
    """clip(rint(y), lo, hi) of a float32 array, as the integer dtype of `q`."""
    levels: np.ndarray = np.clip(np.rint(y), F32(lo), F32(hi)).astype(q.dtype)
    return levels


def requantize_params(
    weight_scale: np.ndarray, bias: np.ndarray, x: Quantized, y: Quantized
) -> tuple[np.ndarray, np.ndarray]:
    """Multiplier and offset, both float32 [M], that take an accumulator to the levels of `y`."""
    mult = (np.float64(x.scale) * weight_scale.astype(np.float64) / y.scale).astype(F32)
    off = (bias.astype(np.float64) / y.scale + y.zero_point).astype(F32)
    return np.broadcast_to(mult, off.shape).copy(), off


def dequantize_params(weight_scale: np.ndarray, bias: np.ndarray, x: Quantized) -> tuple[np.ndarray, np.ndarray]:
    """Multiplier and bias, both float32 [M], that take an accumulator to real units."""
    mult = (np.float64(x.scale) * weight_scale.astype(np.float64)).astype(F32)
    return np.broadcast_to(mult, bias.shape).copy(), bias.astype(F32)


def accumulator_bound(weight: np.ndarray, x: Quantized) -> int:
    """Largest |accumulator| that any input can cause, for integer weights [M, ...] and inputs of type `x`."""
    flat = weight.reshape(weight.shape[0], -1).astype(np.int64)
    reach = max(x.qmax - x.zero_point, x.zero_point)
    # A partial sum over raw (not zero-point-corrected) inputs can reach qmax * sum |w|: bound that too.
    return int(np.abs(flat).sum(axis=1).max(initial=0)) * max(reach, x.qmax)


def add_params(a: Quantized, b: Quantized, y: Quantized) -> tuple[np.float32, np.float32, np.float32]:
    """(ma, mb, off) of `quant.add`."""
    off = y.zero_point - a.zero_point * a.scale / y.scale - b.zero_point * b.scale / y.scale
    return F32(a.scale / y.scale), F32(b.scale / y.scale), F32(off)


def rescale_params(x: Quantized, y: Quantized) -> tuple[np.float32, np.float32]:
    """(m, off) of `quant.rescale`."""
    return F32(x.scale / y.scale), F32(y.zero_point - x.zero_point * x.scale / y.scale)


def average_factors(op: AvgPool) -> np.ndarray:
    """float32 [OH, OW]: s_x / s_y / (number of inputs in the window), of `quant.avg_pool`."""
    _, _, h, w = op.x.type.shape
    _, _, oh, ow = op.out.type.shape
    count = np.full((oh, ow), op.kernel[0] * op.kernel[1], np.float64)
    if not op.count_include_pad:
        ones = np.zeros((h + op.pads[0] + op.pads[2], w + op.pads[1] + op.pads[3]))
        ones[op.pads[0] : op.pads[0] + h, op.pads[1] : op.pads[1] + w] = 1
        count = sliding_window_view(ones, op.kernel)[:: op.strides[0], :: op.strides[1]][:oh, :ow].sum((-2, -1))
    ratio = float(op.x.type.quantized.scale / op.out.type.quantized.scale)
    return (ratio / np.maximum(count, 1)).astype(F32)


def windows(x: np.ndarray, kernel: tuple[int, ...], strides: tuple[int, ...], dilations: tuple[int, ...]) -> np.ndarray:
    """Strided view [..., OH, OW, kh, kw] of the sliding windows of [..., H, W] (padded already)."""
    span = tuple((k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True))
    view = sliding_window_view(x, span, axis=(-2, -1))
    return view[..., :: strides[0], :: strides[1], :: dilations[0], :: dilations[1]]


def pad_spatial(x: np.ndarray, pads: tuple[int, ...], value: int) -> np.ndarray:
    """Pad the last two axes by (top, left, bottom, right)."""
    if not any(pads):
        return x
    width = [(0, 0)] * (x.ndim - 2) + [(pads[0], pads[2]), (pads[1], pads[3])]
    return np.pad(x, width, constant_values=value)


def align(a: np.ndarray, rank: int) -> np.ndarray:
    """Insert unit axes behind the image axis so that logical shapes broadcast as NumPy's do."""
    return a.reshape(a.shape[0], *(1,) * (rank - (a.ndim - 1)), *a.shape[1:])
