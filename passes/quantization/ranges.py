"""Statistics of activations, collected in one stream, and the range of real values that levels should cover.

A histogram must know its range before it counts. Here the range is +-2^e, which grows with the data: doubling it merges
bins in pairs. So one pass over the calibration data does, and the bins of the final range are never coarser than
1 / 2048 of the largest magnitude.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from smec.ir.types import Quantized

Method = Literal["min-max", "percentile", "mse"]

#: Bins of each sign.
BINS = 4096
#: About how many values of a tensor enter its histogram, over all images: enough for 99.99 % to rest on hundreds.
SAMPLES = 1 << 22
#: Different values up to which a graph input counts as discrete (three colours of 256 levels, each with its own scale).
SUPPORT = 1024
#: Bounds of a scale: below and above, products and quotients of scales would leave float32's normal numbers.
SMALLEST_SCALE, LARGEST_SCALE = 2.0**-60, 2.0**60


@dataclass
class Statistics:
    """What calibration remembers of one tensor.

    Attributes:
        low, high: least and greatest finite value seen; 0 before anything was.
        integral: whether every value was an integer.
        finite: whether every value was finite.
        count: values in the histogram, zeros included.
        zeros: values among them that are exactly 0 (levels always represent it exactly).
        reach: the histogram covers -reach .. reach, a power of two.
        bins: int64 [2 BINS]; zeros are not counted here.
        support: how often each different value occurs, while there are at most `SUPPORT`; None where that is not asked
            for or there are more.
    """

    low: float = 0.0
    high: float = 0.0
    integral: bool = True
    finite: bool = True
    count: int = 0
    zeros: int = 0
    reach: float = 0.0
    bins: np.ndarray = field(default_factory=lambda: np.zeros(2 * BINS, np.int64))
    support: dict[float, int] | None = None
    _seen: bool = False

    def add(self, values: np.ndarray, images: int) -> None:
        """Take in values of the tensor, any shape; `images` is how many images there will be altogether."""
        flat = values.reshape(-1)
        if not flat.size:
            return
        low, high = float(flat.min()), float(flat.max())
        if not (math.isfinite(low) and math.isfinite(high)):
            self.finite = False
            flat = flat[np.isfinite(flat)]
            if not flat.size:
                return
            low, high = float(flat.min()), float(flat.max())
        self.low, self.high = (min(self.low, low), max(self.high, high)) if self._seen else (low, high)
        self._seen = True
        self._count(_sample(flat, max(1, values[0].size) if values.ndim > 1 else flat.size, images))

    def _count(self, sample: np.ndarray) -> None:
        self.integral = self.integral and bool((sample == np.rint(sample)).all())
        largest = max(abs(self.low), abs(self.high))
        while self.reach < largest:
            self._grow(largest)
        if self.support is not None:
            self._count_support(sample)
        nonzero = sample[sample != 0]
        self.count += sample.size
        self.zeros += sample.size - nonzero.size
        if not nonzero.size:
            return
        index = np.floor(nonzero.astype(np.float64) * (BINS / self.reach)).astype(np.int32)
        np.clip(index, -BINS, BINS - 1, out=index)
        self.bins += np.bincount(index + BINS, minlength=2 * BINS)

    def _count_support(self, sample: np.ndarray) -> None:
        values, counts = np.unique(sample, return_counts=True)
        if self.support is None or len(values) > SUPPORT:
            self.support = None
            return
        for value, count in zip(values.tolist(), counts.tolist()):
            self.support[value] = self.support.get(value, 0) + count
        if len(self.support) > SUPPORT:
            self.support = None

    def _grow(self, largest: float) -> None:
        if not self.bins.any():
            self.reach = 2.0 ** math.ceil(math.log2(largest))
            self.reach *= 2 if self.reach < largest else 1
            return
        self.reach *= 2
        negative, positive = self.bins[:BINS], self.bins[BINS:]
        merged = np.zeros_like(self.bins)
        merged[BINS // 2 : BINS] = negative.reshape(-1, 2).sum(axis=1)
        merged[BINS : BINS + BINS // 2] = positive.reshape(-1, 2).sum(axis=1)
        self.bins = merged

    @property
    def centres(self) -> np.ndarray:
        """Middle of each bin, f64 [2 BINS]."""
        return (np.arange(2 * BINS) - BINS + 0.5) * (self.reach / BINS)


def _sample(flat: np.ndarray, size: int, images: int) -> np.ndarray:
    """About `SAMPLES` / `images` values of each image, by a stride that has no factor in common with the extents."""
    wanted = max(SAMPLES // max(images, 1), 4096)
    stride = math.ceil(size / wanted)
    if stride <= 1:
        return flat
    while math.gcd(stride, size) > 1:
        stride += 1
    return flat[::stride]


# -- choosing ----------------------------------------------------------------------------------------------------------


def choose_range(found: Statistics, method: Method, levels: int, percentile: float = 99.99) -> tuple[float, float]:
    """The real values [low, high], low <= 0 <= high, that `levels` evenly spaced levels should cover.

    Args:
        found: statistics of the tensor.
        method: "min-max" covers all that was seen. "percentile" covers, on each side, what `percentile` percent of the
            values do not exceed. "mse" minimises the expected squared error: a step's variance of 1/12 within the
            range, the distance to the range outside of it.
        levels: at least 2.
        percentile: above 50, at most 100.
    """
    low, high = min(found.low, 0.0), max(found.high, 0.0)
    if method == "min-max" or not found.bins.any():
        return low, high
    if method == "percentile":
        return _percentile_range(found, percentile, low, high)
    return _least_error_range(found, levels, low, high)


def _percentile_range(found: Statistics, percentile: float, low: float, high: float) -> tuple[float, float]:
    counts = found.bins.copy()
    # Zeros are at the lower edge of the first bin of positive values.
    counts[BINS] += found.zeros
    cumulated = np.cumsum(counts)
    share = percentile / 100
    step = found.reach / BINS
    upper = int(np.searchsorted(cumulated, share * found.count))
    lower = int(np.searchsorted(cumulated, (1 - share) * found.count, side="right"))
    return max(low, min(0.0, (lower - BINS) * step)), min(high, max(0.0, (upper + 1 - BINS) * step))


#: Shares of the largest value that are tried as the end of the range: 2^0 to 2^-8 in steps of a sixteenth octave.
_SHARES = 2.0 ** (-np.arange(129) / 16)


def _least_error_range(found: Statistics, levels: int, low: float, high: float) -> tuple[float, float]:
    centres, counts = found.centres, found.bins.astype(np.float64)
    above = _excess(centres, counts, high * _SHARES) if high > 0 else np.zeros((2, 1))
    below = _excess(-centres[::-1], counts[::-1], -low * _SHARES) if low < 0 else np.zeros((2, 1))
    highs = high * _SHARES if high > 0 else np.zeros(1)
    lows = low * _SHARES if low < 0 else np.zeros(1)
    inside = counts.sum() - above[0][None, :] - below[0][:, None]
    step = (highs[None, :] - lows[:, None]) / (levels - 1)
    error = inside * step**2 / 12 + above[1][None, :] + below[1][:, None]
    i, j = np.unravel_index(int(np.argmin(error)), error.shape)
    return float(lows[i]), float(highs[j])


def _excess(centres: np.ndarray, counts: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """For each limit: how many values exceed it, and the sum of squares by which they do. f64 [2, limits]."""
    tails = [np.append(np.cumsum((counts * centres**p)[::-1])[::-1], 0.0) for p in range(3)]
    first = np.searchsorted(centres, limits, side="right")
    n, x, xx = (tail[first] for tail in tails)
    return np.stack([n, np.maximum(xx - 2 * limits * x + limits**2 * n, 0.0)])


def levels_for(low: float, high: float, bits: int) -> Quantized:
    """Evenly spaced levels over [low, high] that represent 0 exactly.

    low >= 0 gives zero point 0; an empty range (nothing but zeros seen) gives scale 1.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    top = (1 << bits) - 1
    width = high - low
    if not width > 0:
        return Quantized(bits, 1.0, 0)
    scale = float(np.float32(min(max(width / top, SMALLEST_SCALE), LARGEST_SCALE)))
    return Quantized(bits, scale, int(min(max(round(-low / scale), 0), top)))


def input_levels(found: Statistics, method: Method, bits: int, percentile: float) -> Quantized:
    """Levels of a graph input.

    1. Integers that fit (raw pixels) keep their values: scale 1.
    2. "mse", and few different values (normalised pixels): the levels of least error on just those. Evenly spaced
       values can fall half-way between all levels, as x / 127.5 - 1 does for x = 0 .. 255, where 0 must be a level.
    3. Else as for any tensor.
    """
    low, high = min(found.low, 0.0), max(found.high, 0.0)
    top = (1 << bits) - 1
    if found.integral and found.count and high - low <= top:
        return Quantized(bits, 1.0, int(-low))
    chosen = levels_for(*choose_range(found, method, top + 1, percentile), bits)
    if method != "mse" or not found.support:
        return chosen
    values = np.array(list(found.support), np.float64)
    counts = np.array(list(found.support.values()), np.float64)
    tried = [chosen]
    for scale in (levels_for(low, high, bits).scale, chosen.scale):
        for stretch in range(-16, 33):
            stretched = min(max(scale * (1 + stretch / (16 * top)), SMALLEST_SCALE), LARGEST_SCALE)
            zero = min(max(math.floor(-low / stretched), 0), top)
            tried += [Quantized(bits, stretched, z) for z in (zero, min(zero + 1, top))]

    def error(q: Quantized) -> float:
        level = np.clip(np.rint(values / q.scale) + q.zero_point, 0, q.qmax)
        return float(counts @ (q.scale * (level - q.zero_point) - values) ** 2)

    return min(tried, key=error)
