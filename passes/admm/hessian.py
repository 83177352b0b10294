"""What a layer's problem takes from calibration data: H = X^T X, X^T Y and means, summed over samples in a stream.

A sample is one row of im2col: what the layer reads for one output pixel of one image. Layers with many pixels are
sampled at random ones, as many of each image: a K x K matrix needs some multiple of K samples, not all of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from smec.ir.dialects.quant import Conv, WeightedOp
from smec.ir.types import Quantized
from smec.passes.admm.products import gram, matmul
from smec.passes.mapping.jit import compiled, in_chunks
from smec.passes.mapping.tiling import conv_blocks

#: Samples: this many for each row of H, but no fewer and no more than these numbers (if there are so many).
SAMPLES_PER_ROW, LEAST_SAMPLES, MOST_SAMPLES = 128, 1 << 14, 1 << 17

#: Rows of a matrix that is summed up in float32, to save memory.
_LARGE = 1024

#: Bytes of one step's samples.
_STEP_BYTES = 48 << 20

#: Elements that a thread gathers at least.
_LEAST_WORK = 1 << 16


@dataclass(frozen=True)
class Moments:
    """Sums over samples (rows x of X, y of Y) of x x^T [G, K, K], x y^T [G, K, M], x [G, K] and y [G, M].

    The first two are float64, float32 for large K. `hessian` and `cross` are what the means leave of them: what a bias
    can do is left to the bias.
    """

    xx: np.ndarray
    xy: np.ndarray
    x: np.ndarray
    y: np.ndarray
    samples: int

    @staticmethod
    def none(groups: int, k: int, m: int) -> Moments:
        wide = np.float64 if k <= _LARGE else np.float32
        square, cross = np.zeros((groups, k, k), wide), np.zeros((groups, k, m), wide)
        return Moments(square, cross, np.zeros((groups, k)), np.zeros((groups, m)), 0)

    def __add__(self, other: Moments) -> Moments:
        return Moments(
            self.xx + other.xx, self.xy + other.xy, self.x + other.x, self.y + other.y, self.samples + other.samples
        )

    def added(self, x: np.ndarray, y: np.ndarray) -> Moments:
        """These and those of the samples x [G, n, K] and y [G, n, M]; the arrays of `self` are used up."""
        np.add(self.xx, gram(x), out=self.xx)
        np.add(self.xy, matmul(x.transpose(0, 2, 1), y), out=self.xy)
        np.add(self.x, x.sum(axis=1, dtype=np.float64), out=self.x)
        np.add(self.y, y.sum(axis=1, dtype=np.float64), out=self.y)
        return Moments(self.xx, self.xy, self.x, self.y, self.samples + x.shape[1])

    @property
    def mean_x(self) -> np.ndarray:
        return self.x / max(self.samples, 1)

    @property
    def mean_y(self) -> np.ndarray:
        return self.y / max(self.samples, 1)

    def bias_shift(self, weights: np.ndarray) -> np.ndarray:
        """What a bias must add to X Z so that its mean is that of Y, [G, M]; `weights`: Z, [G, K, M]."""
        shift: np.ndarray = self.mean_y - np.einsum("gk,gkm->gm", self.mean_x, weights)
        return shift

    @property
    def hessian(self) -> np.ndarray:
        """H: the covariance of x, [G, K, K]."""
        return _covariance(self.xx, self.samples, self.mean_x, self.mean_x)

    @property
    def cross(self) -> np.ndarray:
        """The covariance of x and y, [G, K, M]."""
        return _covariance(self.xy, self.samples, self.mean_x, self.mean_y)


def _covariance(products: np.ndarray, samples: int, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Mean of the products less the product of the means, of the dtype of `products`."""
    found: np.ndarray = products / max(samples, 1)
    found -= (a[:, :, None] * b[:, None, :]).astype(found.dtype)
    return found


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


@dataclass(frozen=True)
class Addend:
    """What is added to a layer's result: levels and their type in the quantized network, values in the float one.

    Both are (B, *shape of the result).
    """

    levels: np.ndarray
    element: Quantized
    real: np.ndarray


def measure(
    op: WeightedOp,
    levels: np.ndarray,
    real: np.ndarray | None,
    weight: np.ndarray,
    random: np.random.Generator,
    addend: Addend | None = None,
) -> tuple[Moments, Moments]:
    """Moments of a layer, one for every other image (of a single image: pixel), to hold one against the other.

    Args:
        op: the layer.
        levels: what the quantized layer reads, (B, *shape of its input).
        real: what the float layer reads, as many values; None: the same values as `levels` stand for.
        weight: float weights, [G, K, M].
        random: of the sampled pixels.
        addend: if the result is added to other values, those: Y then is what brings the sum, not the result, to what
            it is in the float network.

    Raises:
        SmecError: sums are not finite.
    """
    groups, k, m = weight.shape
    folds = [Moments.none(groups, k, m), Moments.none(groups, k, m)]
    for fold in (0, 1):
        for x, x_real, missing in _samples(op, (levels, real, addend), fold, k, random):
            with np.errstate(over="ignore", invalid="ignore"):  # told below
                y = matmul(x if x_real is None else x_real, weight)
                if missing is not None:
                    y += missing
                folds[fold] = folds[fold].added(x, y)
        if not all(np.isfinite(sums).all() for sums in (folds[fold].xx, folds[fold].xy)):
            raise op.error(
                f"on calibration data, squares of what layer '{op.label}' reads or computes are not finite",
                expected="numbers whose squares float32 holds",
                hint="scale the calibration data as the network was trained with",
            )
    return folds[0], folds[1]


def _samples(
    op: WeightedOp,
    arrays: tuple[np.ndarray, np.ndarray | None, Addend | None],
    fold: int,
    k: int,
    random: np.random.Generator,
) -> Iterator[tuple[np.ndarray, np.ndarray | None, np.ndarray | None]]:
    """Samples of the quantized and of the float layer, float32 [G, n, K], and of what the addend lacks, [G, n, M]."""
    levels, real, addend = arrays
    q = op.x.type.quantized
    window = _Window.of(op)
    wanted = min(max(SAMPLES_PER_ROW * k, LEAST_SAMPLES), MOST_SAMPLES)
    levels, floats = _as_images(op, levels), None if real is None else _as_images(op, real)
    positions = window.out[0] * window.out[1]
    each = min(positions, -(-wanted // max(len(levels), 1)))
    step = max(1, min(_STEP_BYTES // max(4 * each * k * window.groups, 1), len(levels)))
    for start in range(0, len(levels), step):
        part = slice(start, start + step)
        picked = _choose(len(levels[part]), positions, each, random)
        picked = picked[(picked // positions + start if len(levels) > 1 else picked) % 2 == fold]
        if not len(picked):
            continue
        x = window.take(levels[part], picked, q.zero_point, q.scale)
        x_real = None if floats is None else window.take(floats[part], picked, 0.0, 1.0)
        yield x, x_real, None if addend is None else _missing(op, addend, part, picked)


def _missing(op: WeightedOp, addend: Addend, part: slice, picked: np.ndarray) -> np.ndarray:
    """Float less quantized addend at the picked pixels, float32 [G, n, M]."""
    shape = op.out.type.shape[1:]
    window = _Window(op.groups if isinstance(op, Conv) else 1, (1, 1), (1, 1), (1, 1), (0, 0), (shape[1], shape[2]))
    q = addend.element
    real, levels = (a.reshape(-1, *shape)[part] for a in (addend.real, addend.levels))
    missing: np.ndarray = window.take(real, picked, 0.0, 1.0)
    missing -= window.take(levels, picked, q.zero_point, q.scale)
    return missing


def _as_images(op: WeightedOp, array: np.ndarray) -> np.ndarray:
    """(B, *shape of a layer's input) as (images, C, H, W)."""
    if isinstance(op, Conv):
        return array.reshape(-1, *op.x.type.shape[1:])
    k = op.x.type.shape[-1]
    return array.reshape(len(array), -1, k).transpose(0, 2, 1)[..., None]


@dataclass(frozen=True)
class _Window:
    """Where a convolution's samples lie in its input (C, H, W); a matrix product is a 1 x 1 one over (K, rows, 1)."""

    groups: int
    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    pads: tuple[int, int]
    out: tuple[int, int]

    @staticmethod
    def of(op: WeightedOp) -> _Window:
        if not isinstance(op, Conv):
            rows = int(np.prod(op.x.type.shape[:-1]))
            return _Window(1, (1, 1), (1, 1), (1, 1), (0, 0), (rows, 1))
        strides, dilations = (op.strides[0], op.strides[1]), (op.dilations[0], op.dilations[1])
        out = op.out.type.shape
        return _Window(op.groups, op.kernel, strides, dilations, (op.pads[0], op.pads[1]), (out[2], out[3]))

    def take(self, x: np.ndarray, picked: np.ndarray, zero: float, scale: float) -> np.ndarray:
        """The samples `picked` of images (B, C, H, W), (x - zero) scale, float32 [G, n, K]; padding counts as 0."""
        depth, positions = x.shape[1] // self.groups, self.kernel[0] * self.kernel[1]
        out = np.empty((self.groups, len(picked), positions * depth), np.float32)
        shape = np.array([*self.kernel, *self.strides, *self.dilations, *self.pads, *self.out], np.int64)
        origin, step = np.float32(zero), np.float32(scale)

        def work(start: int, stop: int) -> None:
            _gather(start, stop, x, picked, shape, origin, step, out)

        in_chunks(len(picked), work, least=max(1, _LEAST_WORK // max(out.shape[0] * out.shape[2], 1)))
        return out


@compiled
def _gather(
    start: int, stop: int, x: np.ndarray, picked: np.ndarray, shape: np.ndarray, zero: np.float32, scale: np.float32,
    out: np.ndarray,
) -> None:  # fmt: skip
    kh, kw, sh, sw, dh, dw, top, left, oh, ow = shape
    groups, depth = out.shape[0], out.shape[2] // (kh * kw)
    for i in range(start, stop):
        image, pixel = divmod(picked[i], oh * ow)
        oy, ox = divmod(pixel, ow)
        for position in range(kh * kw):
            ky, kx = divmod(position, kw)
            row, col = oy * sh + ky * dh - top, ox * sw + kx * dw - left
            inside = 0 <= row < x.shape[2] and 0 <= col < x.shape[3]
            for g in range(groups):
                for c in range(depth):
                    value = np.float32(0)
                    if inside:
                        value = (np.float32(x[image, g * depth + c, row, col]) - zero) * scale
                    out[g, i, position * depth + c] = value


def _choose(images: int, positions: int, each: int, random: np.random.Generator) -> np.ndarray:
    """Indices into images x positions: `each` different positions of every image, in order."""
    if each >= positions:
        return np.arange(images * positions)
    # One position of each of `each` equal stretches: spread over the image, and drawn without looking at the others.
    edges = np.arange(each + 1) * positions // each
    within: np.ndarray = edges[:-1] + (random.random((images, each)) * np.diff(edges)).astype(np.int64)
    return (within + np.arange(images)[:, None] * positions).reshape(-1)
