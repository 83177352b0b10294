"""Which rows of a layer get a second row of tiles (`smec.passes.mapping.doubling`)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from smec.passes.admm.problem import Problem, nearest_integers
from smec.passes.constraints import ConstraintSet
from smec.passes.mapping.doubling import spare_rows


def rows_to_double(
    problem: Problem, scales: np.ndarray, constraint: Callable[[tuple[bool, ...]], ConstraintSet]
) -> tuple[bool, ...]:
    """As many rows as the tiles have to spare: those from which the error loses most.

    A row r by itself, rounded to the nearest point, makes the error H_rr |a q_r - w_r|^2; what it loses is the
    difference between what single and what doubled rows make.

    Args:
        problem: a layer without groups, with its constraint for single rows.
        scales: float32 [1, 1, M], at which the two are compared.
        constraint: the constraint set where the given rows are doubled.
    """
    k = int(problem.target.shape[1])
    spare = spare_rows(k, problem.constraint.geometry.rows)
    if spare in (0, k):
        return (spare > 0,) * k
    errors = []
    for each in (problem.constraint, constraint((True,) * k)):
        rounded = nearest_integers(problem.target, scales, each) * scales
        errors.append(np.square(rounded - problem.target)[0].sum(axis=1, dtype=np.float64))
    gain = (errors[0] - errors[1]) * problem.hessian[0].diagonal()
    most = set(np.argsort(-gain, kind="stable")[:spare].tolist())
    return tuple(r in most for r in range(k))
