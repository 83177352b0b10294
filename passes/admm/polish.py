"""Coordinate descent on integers: one row at a time, exactly.

With all other rows fixed, the error as a function of one row r of Z is H_rr |z_r - z*|^2 + const with
z* = z_r - R_r / H_rr, R = H (Z - W): its best value is the projection of z* onto the set, entry weights a^2. Sweeps
over all rows never increase the error; between sweeps the scales are fitted again. Rows are taken in blocks, within
which R is kept up to date row by row, and after which that of the rows to come is, by one product (as in GPTQ, arXiv
2210.17323, section 3).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from smec.passes.admm.problem import Problem, Solution, refit
from smec.passes.admm.products import matmul
from smec.passes.constraint_sets.boxes import full_box
from smec.passes.constraint_sets.intersection import frozen
from smec.passes.constraint_sets.kernels import project_segment
from smec.passes.constraint_sets.rows import RowSet
from smec.passes.constraints import Box
from smec.passes.mapping.jit import compiled, in_chunks

#: Rows of a block.
BLOCK = 64
#: Columns that are handled together where a row's entries do not depend on each other.
STRIP = 32
#: A sweep that gains less than this share of the error is the last.
LEAST_GAIN = 1e-3


def polish(problem: Problem, start: Solution, sweeps: int = 8) -> Solution:
    """Improve a solution by sweeps over its rows.

    Returns:
        A solution of no greater error: `start` itself for constraint sets whose rows depend on each other in ways that
        `smec.passes.constraint_sets.intersection.frozen` does not know.
    """
    held = frozen(problem.constraint, start.integers)
    if held is None:
        return start
    best = start
    _, residual = problem.error_and_residual(start.integers, start.scales)
    for _ in range(sweeps):
        integers = best.integers.copy()
        sweep(problem, integers, best.scales, residual, *held)
        scales = refit(problem, integers, best.scales)
        error, residual = problem.error_and_residual(integers, scales)
        if error < best.error:
            gain = best.error - error
            best = Solution(integers, scales, error)
            if gain > LEAST_GAIN * error:
                continue
        break
    return best


def sweep(
    problem: Problem, integers: np.ndarray, scales: np.ndarray, residual: np.ndarray, rows: RowSet, box: Box | None
) -> None:
    """One sweep over all rows, in place.

    Args:
        problem: the layer.
        integers: int16 [G, K, M], in `rows` and `box`.
        scales: float32 [G, 1, M].
        residual: R = H (Z - W), float32 [G, K, M]; it is used up.
        rows: the set that each row segment is from.
        box: bounds, or None.
    """
    h = problem.hessian
    groups, k, m = integers.shape
    bounds = full_box(box, integers.shape) if box is not None else Box(*[np.empty((0, 0, 0), np.float32)] * 2)
    table, middle = rows.table()
    spans = rows.spans()[np.arange(k) % len(rows.spans())]
    segment = rows.segment
    strip = segment if segment < m else STRIP if len(table) == 1 else m
    strips = -(-m // strip)
    for first in range(0, k, BLOCK):
        block = slice(first, min(first + BLOCK, k))
        local = np.ascontiguousarray(h[:, block, block])
        change = np.zeros((groups, local.shape[1], m), np.float32)

        arrays = (
            local, residual[:, block], integers[:, block], scales, bounds.low[:, block], bounds.high[:, block],
            table, middle, spans[block], change,
        )  # fmt: skip

        def work(start: int, stop: int, arrays: tuple[Any, ...] = arrays) -> None:
            _sweep_block(start, stop, strips, strip, *arrays)

        in_chunks(groups * strips, work, least=max(1, 4096 // (local.shape[1] * strip)))
        if block.stop < k:  # rows that were swept do not look at it again
            residual[:, block.stop :] += matmul(h[:, block.stop :, block], change)


@compiled
def _sweep_block(
    start: int, stop: int, strips: int, strip: int, h: np.ndarray, residual: np.ndarray, integers: np.ndarray,
    scales: np.ndarray, low: np.ndarray, high: np.ndarray, table: np.ndarray, middle: int, spans: np.ndarray,
    change: np.ndarray,
) -> None:  # fmt: skip
    """The rows of a block, for the (group, strip of columns) pairs `start` .. `stop` - 1; `change` gets Z's change."""
    rows, width = h.shape[1], integers.shape[2]
    bounded = low.shape[0] > 0
    wanted = np.empty(strip, np.float32)
    weights = np.empty(strip, np.float32)
    found = np.empty(strip, np.int16)
    none = np.empty(0, np.float32)
    for item in range(start, stop):
        g, left = item // strips, (item % strips) * strip
        right = min(left + strip, width)
        n = right - left
        a = scales[g, 0, left:right]
        largest = a.max()
        for j in range(n):
            weights[j] = (a[j] / largest) ** 2
        r = residual[g, :, left:right].copy()
        for row in range(rows):
            q = integers[g, row, left:right]
            for j in range(n):
                wanted[j] = q[j] - r[row, j] / (h[g, row, row] * a[j])
            project_segment(
                wanted[:n], weights[:n], low[g, row, left:right] if bounded else none,
                high[g, row, left:right] if bounded else none, bounded, table, middle, spans[row], found[:n],
            )  # fmt: skip
            for j in range(n):
                if found[j] != q[j]:
                    d = (found[j] - q[j]) * a[j]
                    change[g, row, left + j] += d
                    q[j] = found[j]
                    for i in range(rows):
                        r[i, j] += h[g, i, row] * d
