"""Integers and scales nearest to given weights: the projection onto { a Q : Q in the set, a > 0 }.

For fixed scales the nearest integers are the set's own projection; for fixed integers the best scales are
a = <W, Q> / <Q, Q>. Alternating between the two never raises the distance; the start decides where it ends.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from smec.passes.admm.problem import SMALLEST_SCALE, fitted_scales
from smec.passes.constraints import ConstraintSet

#: Scales to begin with, as shares of the one that clips no weight. Below 1 the largest weights are clipped, above it
#: the largest integers are left to what rows become.
_SHARES = (0.5, 0.6, 0.7, 0.85, 1.0, 1.2, 1.4, 1.7, 2.0, 2.8)


@dataclass(frozen=True)
class Fit:
    """Integers Q, int16 [G, K, M], and scales a, float32 [G, 1, M]."""

    integers: np.ndarray
    scales: np.ndarray

    @property
    def real(self) -> np.ndarray:
        """a Q, float32 [G, K, M]."""
        product: np.ndarray = self.scales * self.integers.astype(np.float32)
        return product

    def distance(self, values: np.ndarray) -> float:
        """|W - a Q|^2."""
        return float(np.square(values - self.real, dtype=np.float64).sum())


def project(values: np.ndarray, scales: np.ndarray, constraint: ConstraintSet) -> np.ndarray:
    """The integers for which a Q is nearest to `values` at these scales, int16 [G, K, M]."""
    return constraint.project(values / scales, np.square(scales / scales.max()))


def refit(values: np.ndarray, integers: np.ndarray, scales: np.ndarray, column: bool) -> np.ndarray:
    """The best scales for these integers; the old ones where the best would not be positive."""
    q = integers.astype(np.float32)
    inner = np.einsum("gkm,gkm->gm", values, q, dtype=np.float64)[:, None]
    power = np.einsum("gkm,gkm->gm", q, q, dtype=np.float64)[:, None]
    return fitted_scales(inner, power, scales, column)


def improve(values: np.ndarray, constraint: ConstraintSet, column: bool, scales: np.ndarray, rounds: int) -> Fit:
    """Alternate from `scales` on, `rounds` times or until it does not help."""
    best = Fit(project(values, scales, constraint), scales)
    least = best.distance(values)
    for _ in range(rounds):
        fitted = refit(values, best.integers, best.scales, column)
        found = Fit(project(values, fitted, constraint), fitted)
        error = found.distance(values)
        if not error < least:
            break
        best, least = found, error
    return best


def first_fit(values: np.ndarray, constraint: ConstraintSet, column: bool, rounds: int) -> Fit:
    """The best of several starts."""
    low, high = constraint.geometry.weight_range
    size = np.abs(values).max(axis=1, keepdims=True)
    if not column:
        size = np.full_like(size, size.max())
    full = np.where(size > 0, np.maximum(size / max(-low, high), SMALLEST_SCALE), np.float32(1)).astype(np.float32)
    fits = [improve(values, constraint, column, full * np.float32(share), rounds) for share in _SHARES]
    return min(fits, key=lambda fit: fit.distance(values))
