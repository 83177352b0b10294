"""Greedy error compensation: each row is rounded once, and the rows after it make up for its error.

Source: Frantar et al., GPTQ, arXiv 2210.17323 (the order of rows by their diagonal entry is its `act-order`). The
difference: a row of a tile is projected onto the constraint set as a whole, so that its row shift is chosen from the
row as it then stands.
"""

from __future__ import annotations

import numpy as np

from smec.ir.errors import SmecError
from smec.passes.admm.problem import Problem, Solution, refit
from smec.passes.constraint_sets.boxes import full_box
from smec.passes.constraint_sets.intersection import frozen
from smec.passes.constraint_sets.rows import RowSet
from smec.passes.constraints import Box

#: Rows after which the error is passed on to all others by one product.
BLOCK = 64


def greedy(problem: Problem, scales: np.ndarray) -> Solution:
    """Round rows in the order of the Hessian's diagonal, largest first.

    Args:
        problem: the layer.
        scales: float32 [G, 1, M]; they are fitted to the integers at the end.

    Raises:
        SmecError: the constraint set cannot be met row by row.
    """
    nearest = problem.project(problem.target, scales)
    held = frozen(problem.constraint, nearest)
    if held is None:
        raise SmecError(
            "constraint cannot be met one row at a time",
            expected="sets of rows and of boxes",
            found=problem.constraint.text(),
            hint="use quantize-admm",
        )
    rows, box = held
    bounds = None if box is None else full_box(box, nearest.shape)
    integers = np.empty_like(nearest)
    for g in range(len(nearest)):
        part = None if bounds is None else Box(bounds.low[g], bounds.high[g])
        integers[g] = _one_group(problem.hessian[g], problem.target[g], scales[g], rows, part)
    scales = refit(problem, integers, scales)
    return Solution(integers, scales, problem.error(integers, scales))


def _one_group(h: np.ndarray, target: np.ndarray, scales: np.ndarray, rows: RowSet, box: Box | None) -> np.ndarray:
    order = np.argsort(-np.diag(h), kind="stable")
    # H^-1 = U^T U with U upper triangular: row r of U tells how rows after r take up the error of row r.
    upper = np.linalg.cholesky(np.linalg.inv(h[np.ix_(order, order)].astype(np.float64))).T.astype(np.float32)
    left = target[order]
    weights = np.square(scales / scales.max())
    found = np.empty(target.shape, np.int16)
    for first in range(0, len(h), BLOCK):
        last = min(first + BLOCK, len(h))
        errors = np.zeros((last - first, target.shape[1]), np.float32)
        for r in range(first, last):
            bounds = None if box is None else Box(box.low[order[r], None], box.high[order[r], None])
            found[r] = rows.at(order[r]).project(left[r : r + 1] / scales, weights, bounds)[0]
            error = (left[r] - found[r] * scales[0]) / upper[r, r]
            errors[r - first] = error
            left[r:last] -= upper[r, r:last, None] * error
        left[last:] -= upper[first:last, last:].T @ errors
    out = np.empty_like(found)
    out[order] = found
    return out
