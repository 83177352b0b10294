"""ADMM for one layer (DESIGN 3).

Minimise f(V) + g(Z) subject to V = Z, with f(V) = tr((V - W)^T H (V - W)) / 2 and g zero on the constraint set and
infinite elsewhere; in scaled form, with penalty rho and running sum of residuals U:

    V <- (H + rho I)^-1 (H W + rho (Z - U));   Z <- project(V + U);   U <- U + V - Z

Source: Boyd et al., Distributed Optimization and Statistical Learning via ADMM, 2011, doi 10.1561/2200000016, sections
3.1.1 and 9.1 (a constraint set that is not convex: a heuristic, hence the best iterate is kept).

With H = E diag(l) E^T all of it happens in the basis E: V^ = E^T V needs no solve, errors and scales follow from
Q^ = E^T Q, and one iteration is two products of K x K with K x M.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from smec.ir.errors import SmecError
from smec.passes.admm.eigen import eigenvectors
from smec.passes.admm.problem import SMALLEST_SCALE, Problem, Solution, fitted_scales, importance
from smec.passes.admm.products import matmul
from smec.passes.admm.steps import added_and_scaled, integer_sums, sought_transformed, sums, update

#: By how much rho grows over all iterations, where no rate is given.
_TOTAL_GROWTH = 300.0

#: Share of the iterations from which on the best may be the last. In 246 layers (ResNet-20 by seven choices of scheme,
#: pattern and depth, MobileNet-v2 by two) with 100 iterations, none had a better Z than this and a patience of 12 find.
_EARLIEST = 0.6


@dataclass(frozen=True)
class Schedule:
    """How long, and how the penalty grows.

    iterations: at most. rho: the first one, as a share of H's mean diagonal. growth: its factor each iteration.
    patience: iterations that are waited for a better Z; not before `_EARLIEST`, as the first ones are worse than the
    start. 0: all iterations are made.
    """

    iterations: int = 60
    rho: float = 0.03
    growth: float = 1.1
    patience: int = 0

    def __post_init__(self) -> None:
        if self.iterations < 0:
            raise SmecError("number of iterations is negative", found=self.iterations)
        if self.patience < 0:
            raise SmecError("patience is negative", found=self.patience)
        if not self.rho > 0 or not self.growth >= 1:
            raise SmecError("penalty", expected="rho > 0 and growth >= 1", found=(self.rho, self.growth))

    def settled(self, iteration: int, best: int) -> bool:
        """Whether no better Z is to be expected after an iteration; `best`: the one that had the best."""
        return 0 < self.patience <= iteration - best and best >= _EARLIEST * self.iterations


def growth_over(iterations: int) -> float:
    """The factor an iteration by which rho grows 300-fold in all."""
    factor: float = _TOTAL_GROWTH ** (1 / max(iterations, 1))
    return factor


@dataclass
class Trace:
    """Of each iteration: error of Z, and the squared norms of V - Z and of the change of Z times rho."""

    error: list[float] = field(default_factory=list)
    primal: list[float] = field(default_factory=list)
    dual: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Basis:
    """Eigenvalues float32 [G, K, 1] and eigenvectors [G, K, K] of the Hessian."""

    values: np.ndarray
    vectors: np.ndarray

    @staticmethod
    def of(hessian: np.ndarray) -> Basis:
        values, vectors = eigenvectors(hessian)
        return Basis(np.maximum(values, np.finfo(np.float32).tiny)[..., None], vectors)


def solve(
    problem: Problem, scales: np.ndarray, schedule: Schedule, basis: Basis, trace: Trace | None = None
) -> Solution:
    """Run ADMM from the projection of the target.

    Args:
        problem: the layer.
        scales: to begin with, float32 [G, 1, M].
        schedule: of the penalty.
        basis: of `problem.hessian`.
        trace: receives what happens.

    Returns:
        The best iterate, with scales fitted to it.
    """
    target, column, values, e = problem.target, problem.column, basis.values, basis.vectors
    et = np.ascontiguousarray(e.transpose(0, 2, 1))
    pressed = values * matmul(et, target)  # E^T H W
    energy = problem.energy
    rho = np.float32(schedule.rho) * problem.hessian.trace(axis1=1, axis2=2)[:, None, None] / target.shape[1]
    z, u, uh = (np.zeros_like(target) for _ in range(3))
    zh = u
    best: Solution | None = None
    found_at = 0
    for iteration in range(schedule.iterations + 1):
        if iteration:
            vh = sought_transformed(pressed, values, rho, zh, uh)
            sought = matmul(e, vh)
            q = problem.constraint.project(added_and_scaled(sought, u, scales), importance(scales))
            real, inner, power = integer_sums(q, sought)
            scales = np.maximum(fitted_scales(inner, power, scales, column), SMALLEST_SCALE)
        else:
            q = problem.project(target, scales)
            real = q.astype(np.float32)
        zh = matmul(et, real)
        inner, power = sums(values, zh, pressed)
        fitted = fitted_scales(inner, power, scales, column)
        error = float((fitted * (fitted * power - 2 * inner)).sum()) + energy
        if best is None or error < best.error:
            best, found_at = Solution(q, fitted, error), iteration
        if iteration:
            primal, dual = update(real, scales, sought, vh, rho, z, u, zh, uh)
            rho = rho * np.float32(schedule.growth)
            if trace is not None:
                trace.error.append(error)
                trace.primal.append(primal)
                trace.dual.append(dual)
            if schedule.settled(iteration, found_at):
                break
        else:
            z, zh = real * scales, zh * scales
    assert best is not None  # noqa: S101  # for the type checker: there is at least the first iteration
    return Solution(best.integers, best.scales, problem.error(best.integers, best.scales))
