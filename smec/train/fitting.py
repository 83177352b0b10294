"""Integers and scales nearest to given weights: the projection onto { a Q : Q in the set, a > 0 }.

For fixed scales the nearest integers are the set's own projection; for fixed integers the best scales are
a = <W, Q> / <Q, Q>. Alternating between the two never raises the distance; the start decides where it ends.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from smec.passes.admm.problem import fitted_scales, nearest_integers, scales_to_try
from smec.passes.constraints import ConstraintSet


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


def refit(values: np.ndarray, integers: np.ndarray, scales: np.ndarray, column: bool) -> np.ndarray:
    """The best scales for these integers; the old ones where the best would not be positive."""
    q = integers.astype(np.float32)
    inner = np.einsum("gkm,gkm->gm", values, q, dtype=np.float64)[:, None]
    power = np.einsum("gkm,gkm->gm", q, q, dtype=np.float64)[:, None]
    return fitted_scales(inner, power, scales, column)


def improve(values: np.ndarray, constraint: ConstraintSet, column: bool, scales: np.ndarray, rounds: int) -> Fit:
    """Alternate from `scales` on, `rounds` times or until it does not help."""
    best = Fit(nearest_integers(values, scales, constraint), scales)
    least = best.distance(values)
    for _ in range(rounds):
        fitted = refit(values, best.integers, best.scales, column)
        found = Fit(nearest_integers(values, fitted, constraint), fitted)
        error = found.distance(values)
        if not error < least:
            break
        best, least = found, error
    return best


def first_fit(values: np.ndarray, constraint: ConstraintSet, column: bool, rounds: int) -> Fit:
    """The best of several starts."""
    starts = scales_to_try(values, constraint, column)
    fits = [improve(values, constraint, column, scales, rounds) for scales in starts]
    return min(fits, key=lambda fit: fit.distance(values))
