"""What a layer's problem takes from calibration data: H = X^T X, X^T Y and means, summed over samples in a stream.

A sample is one row of im2col: what the layer reads for one output pixel of one image. Layers with many pixels are
sampled at random ones, as many of each image: a K x K matrix needs some multiple of K samples, not all of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from smec.ir.dialects.quant import Conv, WeightedOp
from smec.passes.mapping.tiling import conv_blocks

#: Samples: this many for each row of H, but no fewer and no more than these numbers (if there are so many).
SAMPLES_PER_ROW, LEAST_SAMPLES, MOST_SAMPLES = 128, 1 << 14, 1 << 17

#: Bytes of one step's samples.
_STEP_BYTES = 48 << 20


@dataclass(frozen=True)
class Moments:
    """Means over samples (rows x of X, y = x_f W of Y): H = <x x^T> - <x><x>^T float64 [G, K, K], likewise
    <x y^T> - <x><y>^T [G, K, M]; `mean_x` [G, K], `mean_y` [G, M]; `samples`: how many.

    Taking the means out leaves to the bias what a bias can do.
    """

    hessian: np.ndarray
    cross: np.ndarray
    mean_x: np.ndarray
    mean_y: np.ndarray
    samples: int


def weight_blocks(op: WeightedOp, weight: np.ndarray) -> np.ndarray:
    """A layer's weights in the layout of im2col, [G, K, M]: rows (ky kw + kx) C_in / G + c, as tiles have them."""
    if isinstance(op, Conv):
        return conv_blocks(weight, op.groups)[0]
    return np.ascontiguousarray(weight.T)[None]


def blocks_to_weight(op: WeightedOp, blocks: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The inverse of `weight_blocks`."""
    if not isinstance(op, Conv):
        return np.ascontiguousarray(blocks[0].T)
    m, depth, kh, kw = shape
    split = blocks.reshape(op.groups, kh * kw, depth, m // op.groups)
    return np.ascontiguousarray(split.transpose(0, 3, 2, 1)).reshape(shape)


def measure(
    op: WeightedOp, levels: np.ndarray, real: np.ndarray | None, weight: np.ndarray, random: np.random.Generator
) -> Moments:
    """Moments of a layer.

    Args:
        op: the layer.
        levels: what the quantized layer reads, (B, *shape of its input).
        real: what the float layer reads, as many values; None: the same values as `levels` stand for.
        weight: float weights, [G, K, M].
        random: of the sampled pixels.
    """
    groups, k, m = weight.shape
    wide = np.float64 if k <= 1024 else np.float32
    h, cross = np.zeros((groups, k, k), wide), np.zeros((groups, k, m), wide)
    mean_x, mean_y = np.zeros((groups, k)), np.zeros((groups, m))
    count = 0
    for x, x_real in _samples(op, levels, real, k, random):
        y = (x if x_real is None else x_real) @ weight
        xt = x.transpose(0, 2, 1)
        h += xt @ x
        cross += xt @ y
        mean_x += x.sum(axis=1, dtype=np.float64)
        mean_y += y.sum(axis=1, dtype=np.float64)
        count += x.shape[1]
    n = max(count, 1)
    mean_x, mean_y = mean_x / n, mean_y / n
    h = h / n - mean_x[:, :, None] * mean_x[:, None, :]
    cross = cross / n - mean_x[:, :, None] * mean_y[:, None, :]
    return Moments(h, cross, mean_x, mean_y, count)


def _samples(
    op: WeightedOp, levels: np.ndarray, real: np.ndarray | None, k: int, random: np.random.Generator
) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """Samples of the quantized and of the float layer, float32 [G, n, K] each, step by step."""
    q = op.x.type.quantized
    shape = op.x.type.shape
    wanted = min(max(SAMPLES_PER_ROW * k, LEAST_SAMPLES), MOST_SAMPLES)
    if isinstance(op, Conv):
        patches: _Patches | _Rows = _Patches(op)
    else:
        patches = _Rows(shape[-1])
    levels = levels.reshape(-1, *shape[1:]) if isinstance(op, Conv) else levels.reshape(len(levels), -1, shape[-1])
    float_rows = None if real is None else real.reshape(levels.shape)
    each = min(patches.positions(levels), -(-wanted // max(len(levels), 1)))
    step = max(1, min(_STEP_BYTES // max(4 * each * k * patches.groups, 1), 1 << 10))
    for start in range(0, len(levels), step):
        part = slice(start, start + step)
        picked = patches.pick(levels[part], each, random)
        centred = (levels[part].astype(np.float32) - np.float32(q.zero_point)) * np.float32(q.scale)
        yield patches.take(centred, picked), None if float_rows is None else patches.take(float_rows[part], picked)


class _Rows:
    """Samples of a matrix product: rows (images, rows of an image, K)."""

    groups = 1

    def __init__(self, k: int) -> None:
        self.k = k

    def positions(self, x: np.ndarray) -> int:
        return int(x.shape[1])

    def pick(self, x: np.ndarray, each: int, random: np.random.Generator) -> np.ndarray:
        return _choose(len(x), self.positions(x), each, random)

    def take(self, x: np.ndarray, picked: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(x.reshape(-1, self.k)[picked], np.float32)[None]


class _Patches:
    """Samples of a convolution over (images, C, H, W)."""

    def __init__(self, op: Conv) -> None:
        self.op, self.groups = op, op.groups
        self.out = op.out.type.shape[2:]

    def positions(self, x: np.ndarray) -> int:
        return int(self.out[0] * self.out[1])

    def pick(self, x: np.ndarray, each: int, random: np.random.Generator) -> np.ndarray:
        return _choose(len(x), self.positions(x), each, random)

    def take(self, x: np.ndarray, picked: np.ndarray) -> np.ndarray:
        op = self.op
        (kh, kw), (sh, sw), (dh, dw) = op.kernel, op.strides, op.dilations
        top, left, bottom, right = op.pads
        images, channels, height, width = x.shape
        padded = np.zeros((images, height + top + bottom, width + left + right, channels), np.float32)
        padded[:, top : top + height, left : left + width] = x.transpose(0, 2, 3, 1)
        line = padded.shape[2]
        image, pixel = np.divmod(picked, self.out[0] * self.out[1])
        oy, ox = np.divmod(pixel, self.out[1])
        base = (image * padded.shape[1] + oy * sh) * line + ox * sw
        offset = (np.arange(kh)[:, None] * (dh * line) + np.arange(kw) * dw).reshape(-1)
        rows = padded.reshape(-1, channels)[base[:, None] + offset]
        split = rows.reshape(len(picked), kh * kw, self.groups, channels // self.groups)
        return np.ascontiguousarray(split.transpose(2, 0, 1, 3)).reshape(self.groups, len(picked), -1)


def _choose(images: int, positions: int, each: int, random: np.random.Generator) -> np.ndarray:
    """Indices into images x positions: `each` different positions of every image, in order."""
    if each >= positions:
        return np.arange(images * positions)
    # One position of each of `each` equal stretches: spread over the image, and drawn without looking at the others.
    edges = np.arange(each + 1) * positions // each
    within = edges[:-1] + (random.random((images, each)) * np.diff(edges)).astype(np.int64)
    return (within + np.arange(images)[:, None] * positions).reshape(-1)
