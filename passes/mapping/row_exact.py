"""Row grouping by CP-SAT: which groups the row shifts call for, and exact packing of small crossbars.

Both solve with one worker, a fixed seed and limits in deterministic time (OR-Tools' count of work; a unit takes about
a second), never wall-clock: the same input gives the same groups everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from smec.passes.mapping.solver import cp_solver

if TYPE_CHECKING:
    from ortools.sat.python import cp_model

#: Deterministic time for the groups that shifts call for: far more than any instance took.
_SPANS_LIMIT = 0.5


@dataclass(frozen=True)
class Spans:
    """Groups by the shifts that each takes: (lowest, highest) of every group, and the reads of all of them.

    bound: reads of any groups that meet the needs at least, where that was asked.
    """

    cost: int
    groups: tuple[tuple[int, int], ...]
    bound: int


def reads(spread: int, act_bits: int, dac_bits: int) -> int:
    """Reads of a group whose shifts spread so far: ceil((A + spread) / d)."""
    return -(-(act_bits + spread) // dac_bits)


@lru_cache(maxsize=1 << 14)
def spans_of_groups(
    levels: tuple[int, ...], needs: tuple[tuple[int, ...], ...], act_bits: int, dac_bits: int, at_least: int, below: int
) -> Spans | None:
    """The cheapest groups that could hold all rows, as far as the shifts and the needs of intervals tell.

    Groups are intervals of shifts. Rows of an interval [p, q] that need n groups if they were alone are in n groups or
    more of any grouping, each of which meets [p, q]. So the cheapest multiset of intervals of which needs[p][q] meet
    [p, q] for all p <= q is a lower bound on the reads; whether the rows fit into it is another matter.

    Args:
        levels: shifts, ascending.
        needs: groups that rows of shifts levels[p] .. levels[q] call for.
        act_bits, dac_bits: A, d.
        at_least, below: bounds of the reads; with `at_least` 0 the result is the lower bound.

    Returns:
        None if there are none below, or none was found.
    """
    if len(levels) == 1:
        price = reads(0, act_bits, dac_bits)
        count = max(needs[0][0], -(-at_least // price))
        cost = count * price
        return Spans(cost, ((levels[0], levels[0]),) * count, cost) if cost < below else None
    from ortools.sat.python import cp_model

    model = cp_model.CpModel()
    pairs = [(a, b) for a in range(len(levels)) for b in range(a, len(levels))]
    most = needs[0][-1] + len(levels) + below // reads(0, act_bits, dac_bits)
    count_of = {pair: model.new_int_var(0, most, f"n{pair}") for pair in pairs}
    for p, q in pairs:
        model.add(sum(n for (a, b), n in count_of.items() if a <= q and b >= p) >= needs[p][q])
    prices = {(a, b): reads(levels[b] - levels[a], act_bits, dac_bits) for a, b in pairs}
    total = sum(prices[pair] * n for pair, n in count_of.items())
    model.add(total >= at_least)
    model.add(total < below)
    model.minimize(total)
    solver = cp_solver(_SPANS_LIMIT)
    status = solver.solve(model)
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return None
    groups = tuple((levels[a], levels[b]) for (a, b), n in count_of.items() for _ in range(solver.value(n)))
    return Spans(round(solver.objective_value), groups, round(solver.best_objective_bound))


@dataclass(frozen=True)
class Packed:
    """What exact packing found: a cheaper grouping int16 [R] (numbers may have gaps) or None, a lower bound, and the
    deterministic time.
    """

    group: np.ndarray | None
    bound: int
    effort: float


def pack_exactly(
    cell: np.ndarray, shifts: np.ndarray, rows: Sequence[int], capacity: int, most: int, act_bits: int, dac_bits: int,
    bound: int, below: int, limit: float,
) -> Packed:  # fmt: skip
    """A grouping of fewer reads than `below`, or a proof that there is none, within a deterministic time.

    Args:
        cell: uint8 [R, C]; shifts: uint8 [R]; rows: those with a one.
        capacity, most: largest sum of a column, most rows, of a group.
        act_bits, dac_bits: A, d.
        bound: reads that no grouping goes below.
        below: reads of the best known grouping.
        limit: deterministic time.
    """
    from ortools.sat.python import cp_model

    model = cp_model.CpModel()
    groups = range(max(1, (below - 1) // reads(0, act_bits, dac_bits)))
    # Groups are alike: the i-th row is in one of the first i + 1.
    inside = {(i, g): model.new_bool_var(f"x{i},{g}") for i in range(len(rows)) for g in groups if g <= i}
    for i in range(len(rows)):
        model.add_exactly_one(inside[i, g] for g in groups if g <= i)
    full = np.flatnonzero(cell[rows].sum(axis=0, dtype=np.int64) > capacity).tolist()
    costs = []
    for g in groups:
        mine = {i: inside[i, g] for i in range(len(rows)) if g <= i}
        if len(mine) > most:
            model.add(sum(mine.values()) <= most)
        for n in full:
            model.add(sum(int(cell[rows[i], n]) * x for i, x in mine.items() if cell[rows[i], n]) <= capacity)
        costs.append(_cost(model, mine, [int(shifts[r]) for r in rows], act_bits, dac_bits))
    total = sum(costs)
    model.add(total >= bound)
    model.add(total < below)
    model.minimize(total)
    solver = cp_solver(limit)
    status = solver.solve(model)
    effort = float(solver.response_proto.deterministic_time)
    if status == cp_model.INFEASIBLE:
        return Packed(None, below, effort)
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return Packed(None, bound, effort)
    group = np.full(len(shifts), -1, np.int16)
    for (i, g), x in inside.items():
        if solver.value(x):
            group[rows[i]] = g
    return Packed(group, max(bound, round(solver.best_objective_bound)), effort)


def _cost(
    model: cp_model.CpModel, inside: dict[int, cp_model.IntVar], shifts: list[int], act_bits: int, dac_bits: int
) -> Any:
    """Reads of a group as an expression: 0 if no row is in it."""
    used = model.new_bool_var("used")
    model.add_max_equality(used, list(inside.values()))
    present = sorted(set(shifts))
    if len(present) == 1:
        return reads(0, act_bits, dac_bits) * used
    low, high = (model.new_int_var(present[0], present[-1], name) for name in ("low", "high"))
    for i, x in inside.items():
        model.add(low <= shifts[i]).only_enforce_if(x)
        model.add(high >= shifts[i]).only_enforce_if(x)
    cost = model.new_int_var(0, reads(present[-1] - present[0], act_bits, dac_bits), "cost")
    model.add(dac_bits * cost >= act_bits + high - low).only_enforce_if(used)
    return cost
