"""Row grouping of one crossbar beyond the constructive heuristic: local search, then CP-SAT where that pays.

1. The groups that shifts and column sums call for are sought by CP-SAT (`row_exact.spans_of_groups`, a few variables);
   the cheapest are a lower bound.
2. Local search (`row_search.search`) puts the rows into these groups; if they do not fit, into the next dearer ones,
   a few times, up to what is known already.
3. What is then still above the bound and small enough is packed by CP-SAT, which may also raise the bound.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from smec.passes.mapping.row_exact import pack_exactly, spans_of_groups
from smec.passes.mapping.row_packing import cost_of
from smec.passes.mapping.row_search import interval_needs, search

#: How many costs between the bound and what is known are tried by local search.
_TRIES = 6


@dataclass(frozen=True)
class Effort:
    """How hard to try, all of it counted and never timed.

    steps: of local search, for one crossbar and one choice of groups; 0: none. limit: deterministic time of CP-SAT for
    one crossbar; 0: none. size: CP-SAT packs crossbars of at most so many rows times groups. exact: and at most so many
    crossbars of a layer, the first ones.
    """

    steps: int = 400
    limit: float = 0.2
    size: int = 256
    exact: int = 64


@dataclass
class Spent:
    """What solving took: crossbars above the bound after the heuristic, those of them that differ (identical ones are
    solved once), and those improved; steps of local search; exact packings, those that decided the matter, and
    their deterministic time.
    """

    open: int = 0
    distinct: int = 0
    improved: int = 0
    steps: int = 0
    exact: int = 0
    decided: int = 0
    exact_time: float = 0.0

    def add(self, other: Spent) -> None:
        """Add another's counts."""
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)


@dataclass
class Improved:
    """group int16 [R], its reads, and a lower bound."""

    group: np.ndarray
    reads: int
    bound: int
    spent: Spent = field(default_factory=Spent)


def improve(
    cell: np.ndarray, shifts: np.ndarray, group: np.ndarray, reads: int, bound: int, limits: np.ndarray, effort: Effort
) -> Improved:
    """Lower the reads of a grouping, and raise the bound.

    Args:
        cell: uint8 [R, C], cell values.
        shifts: uint8 [R].
        group: int16 [R], a lossless grouping of the rows with a one, others -1.
        reads, bound: its reads, and a lower bound.
        limits: int64 [4]: largest column sum and most rows of a group, A, d.
        effort: how hard to try.
    """
    capacity, most, act_bits, dac_bits = limits.tolist()
    sums = cell.sum(axis=1, dtype=np.int64)
    rows = np.argsort(-sums, kind="stable")[: np.count_nonzero(sums)]
    levels = np.unique(shifts[rows]).astype(np.int64)
    needs = np.zeros((len(levels), len(levels)), np.int64)
    interval_needs(cell, shifts, rows, levels, capacity, most, needs)
    found = Improved(group, reads, bound, Spent(1, 1))
    table = tuple(map(tuple, needs.tolist()))
    at_least, spent = 0, found.spent
    for tries in range(_TRIES, 0, -1):
        spans = spans_of_groups(tuple(levels.tolist()), table, act_bits, dac_bits, at_least, found.reads)
        if spans is None:
            if at_least == 0:
                found.bound = found.reads
            break
        if at_least == 0:
            found.bound = max(found.bound, spans.bound)
        if not effort.steps:
            break
        low, high = np.array(spans.groups, np.int64).T.copy()
        trial = np.full_like(group, -1)
        steps = search(cell, shifts, rows, low, high, capacity, most, effort.steps, 1, trial)
        spent.steps += effort.steps if steps < 0 else steps
        if steps >= 0:
            found.group, found.reads = _numbered(trial), _reads_of(trial, shifts, act_bits, dac_bits)
            break
        at_least = spans.cost + max(1, (found.reads - 1 - spans.cost) // tries)
    groups = int(found.group.max()) + 1
    if found.bound < found.reads and effort.limit > 0 and len(rows) * groups <= effort.size:
        packed = pack_exactly(
            cell, shifts, rows.tolist(), capacity, most, act_bits, dac_bits, found.bound, found.reads, effort.limit
        )
        if packed.group is not None:
            found.group = _numbered(packed.group)
            found.reads = _reads_of(found.group, shifts, act_bits, dac_bits)
        found.bound = min(packed.bound, found.reads)
        spent.exact, spent.exact_time = 1, packed.effort
        spent.decided = int(found.bound == found.reads)
    spent.improved = int(found.reads < reads)
    return found


def _numbered(group: np.ndarray) -> np.ndarray:
    """The same groups numbered 0, 1, ... without gaps, int16 [R]."""
    used = np.unique(group[group >= 0])
    numbered: np.ndarray = np.where(group >= 0, np.searchsorted(used, group), -1).astype(np.int16)
    return numbered


def _reads_of(group: np.ndarray, shifts: np.ndarray, act_bits: int, dac_bits: int) -> int:
    """Reads of a grouping: ceil((A + max k - min k) / d) a group."""
    low, high = np.zeros(len(group), np.int64), np.zeros(len(group), np.int64)
    return int(cost_of(group, int(group.max()) + 1, shifts, act_bits, dac_bits, low, high))
