"""The problem of one layer: integer weights whose output, on calibration inputs, is nearest to a target.

A layer is G groups (1 unless it is a grouped convolution) of K x M matrices. For inputs X (samples x K) and the wanted
output Y, |X Z - Y|^2 = tr((Z - W)^T H (Z - W)) + const with H = X^T X and W = H^-1 X^T Y, the target. Integers Q
and scales a, of each column or one for all, give Z = Q a.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from smec.passes.admm.products import matmul
from smec.passes.constraints import ConstraintSet

#: Scales are at least this, so that they and their quotients stay normal float32 numbers.
SMALLEST_SCALE = np.float32(2.0**-100)

#: Scales to begin with, as shares of the one that clips no weight. Below 1 the largest weights are clipped, above it
#: the largest integers are left to what rows become.
_SHARES = (0.5, 0.6, 0.7, 0.85, 1.0, 1.2, 1.4, 1.7, 2.0, 2.8)


@dataclass(frozen=True)
class Problem:
    """One layer.

    Attributes:
        hessian: H with damping, float32 [G, K, K], symmetric, positive definite.
        target: W, float32 [G, K, M].
        constraint: the set that Q is in.
        column: whether each column of each group has a scale of its own (else the layer has one).
    """

    hessian: np.ndarray
    target: np.ndarray
    constraint: ConstraintSet
    column: bool

    @cached_property
    def energy(self) -> float:
        """tr(W^T H W): the error of all weights 0."""
        return float(np.einsum("gkm,gkm->", self.target, matmul(self.hessian, self.target), dtype=np.float64))

    def error(self, integers: np.ndarray, scales: np.ndarray) -> float:
        """tr((Z - W)^T H (Z - W)) for Q = `integers` [G, K, M] and a = `scales` [G, 1, M]."""
        return self.error_and_residual(integers, scales)[0]

    def error_and_residual(self, integers: np.ndarray, scales: np.ndarray) -> tuple[float, np.ndarray]:
        """The same, and H (Z - W), float32 [G, K, M]."""
        difference = integers * scales - self.target
        residual = matmul(self.hessian, difference)
        return float(np.einsum("gkm,gkm->", difference, residual, dtype=np.float64)), residual

    def project(self, real: np.ndarray, scales: np.ndarray) -> np.ndarray:
        """The integers Q, int16 [G, K, M], for which Q a is nearest to `real`."""
        return nearest_integers(real, scales, self.constraint)


@dataclass(frozen=True)
class Solution:
    """Integers int16 [G, K, M], scales float32 [G, 1, M] (positive), and their error (see `Problem.error`)."""

    integers: np.ndarray
    scales: np.ndarray
    error: float


def nearest_integers(real: np.ndarray, scales: np.ndarray, constraint: ConstraintSet) -> np.ndarray:
    """The integers Q, int16 [G, K, M], for which Q a is nearest to `real` at the scales a, [G, 1, M]."""
    return constraint.project(real / scales, importance(scales))


def importance(scales: np.ndarray) -> np.ndarray:
    """What an error of one integer step counts for at these scales, the largest 1: float32 of their shape."""
    weights: np.ndarray = np.square(scales / scales.max())
    return weights


def scales_to_try(real: np.ndarray, constraint: ConstraintSet, column: bool) -> list[np.ndarray]:
    """Scales from which to begin, float32 [G, 1, M] each, for weights float32 [G, K, M]; `column` as in `Problem`."""
    low, high = constraint.geometry.weight_range
    size = np.abs(real).max(axis=1, keepdims=True)
    if not column:
        size = np.full_like(size, size.max())
    full = np.where(size > 0, np.maximum(size / max(-low, high), SMALLEST_SCALE), np.float32(1))
    return [full * np.float32(share) for share in _SHARES]


def fitted_scales(inner: np.ndarray, power: np.ndarray, scales: np.ndarray, column: bool) -> np.ndarray:
    """Scales of least error for fixed integers.

    Args:
        inner: <Q, H W> of each column, float64 [G, 1, M].
        power: <Q, H Q> of each column, likewise.
        scales: the ones until now, float32 [G, 1, M]: they stay where the best ones would not be positive.
        column: see `Problem`.
    """
    if not column:
        inner, power = (np.full(scales.shape, a.sum()) for a in (inner, power))
    with np.errstate(divide="ignore", invalid="ignore"):
        found = (inner / power).astype(np.float32)
    return np.where((power > 0) & (found > SMALLEST_SCALE) & np.isfinite(found), found, scales)


def refit(problem: Problem, integers: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """The scales of least error for `integers`, float32 [G, 1, M]."""
    q = integers.astype(np.float32)
    pressed = matmul(problem.hessian, q)
    inner = np.einsum("gkm,gkm->gm", pressed, problem.target, dtype=np.float64)[:, None]
    power = np.einsum("gkm,gkm->gm", pressed, q, dtype=np.float64)[:, None]
    return fitted_scales(inner, power, scales, problem.column)
