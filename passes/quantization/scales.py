"""Scales of weights: one for each row of an array [rows, values] (a layer's columns, or the whole layer as one row)."""

from __future__ import annotations

import numpy as np

from smec.passes.patterns import Pattern

#: Shares of the full scale that `fit_scales` tries first: clipping more than half the range never pays.
_SHARES = np.linspace(0.4, 1.0, 31)
#: Rounds of alternation between integers and scale.
_ROUNDS = 3
#: Scales are at least this, so that they and their quotients stay normal float32 numbers.
_SMALLEST = np.float32(2.0**-100)


def full_scales(values: np.ndarray, pattern: Pattern) -> np.ndarray:
    """The smallest scale of each row, f32 [rows], at which no value is clipped; 1 for a row of zeros.

    That is max |w| / (largest magnitude); the largest negative magnitude may differ from the largest positive one.
    """
    positive, negative = pattern.largest
    high = np.maximum(values.max(axis=1, initial=0), 0).astype(np.float64)
    low = np.maximum(-values.min(axis=1, initial=0), 0).astype(np.float64)
    found = np.maximum(high / positive if positive else 0 * high, low / negative if negative else 0 * low)
    # Signs that the pattern cannot hold (1-bit codes have no positive point) still need a scale.
    found = np.where((found == 0) & (high + low > 0), high + low, found)
    return np.where(found > 0, np.maximum(found, _SMALLEST), 1.0).astype(np.float32)


def fit_scales(values: np.ndarray, pattern: Pattern, start: np.ndarray) -> np.ndarray:
    """Scales of least squared error, f32 [rows]: the best of a grid below `start`, then refined by least squares.

    For fixed integers Q the best scale is <w, Q> / <Q, Q>; for a fixed scale the nearest integers are the best.
    """
    best, least = start.astype(np.float64), _error(values, pattern, start)
    for share in _SHARES:
        best, least = _better(values, pattern, best, least, start * share)
    for _ in range(_ROUNDS):
        integers = pattern.project(values, best.astype(np.float32)[:, None]).astype(np.float64)
        power = np.square(integers).sum(axis=1)
        fitted = np.where(power > 0, (values * integers).sum(axis=1) / np.maximum(power, 1), best)
        best, least = _better(values, pattern, best, least, np.where(fitted > 0, fitted, best))
    return best.astype(np.float32)


def _better(
    values: np.ndarray, pattern: Pattern, best: np.ndarray, least: np.ndarray, tried: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    error = _error(values, pattern, tried)
    return np.where(error < least, tried, best), np.minimum(error, least)


def _error(values: np.ndarray, pattern: Pattern, scales: np.ndarray) -> np.ndarray:
    rounded = np.maximum(scales, _SMALLEST).astype(np.float32)[:, None]
    found: np.ndarray = np.square(values - rounded * pattern.project(values, rounded), dtype=np.float64).sum(axis=1)
    return found
