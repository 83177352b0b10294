"""Workload grouping: which physical crossbars of a core share a bank of converters (DESIGN 4, problem 4).

A bank converts for `share` crossbars, one conversion at a time; what one image makes of them is a crossbar's work. The
crossbars of a tile are spliced together, so that a pixel of it waits for the busiest bank; and all that a bank has to
do for an image must be done before it can serve the next one. So of the banks of a core the busiest should have as
little work as can be (the makespan of identical machines with room for `share` jobs each), and next the crossbars of
each tile should be spread over banks.

1. Largest work first, each crossbar to the least loaded bank with room (Graham 1969), and of these to the one with
   least of the tile's own work.
2. Where that is above the bound, CP-SAT distributes the classes of equal work over the banks, with one worker and a
   deterministic limit.

Bound: the mean over banks, the largest work, and what the largest ones make in pairs, triples, ... where there are
more crossbars than banks (the b k + 1 largest: some bank has k + 1 of them, at least the smallest k + 1).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from smec.ir.dialects.xbar import MvmOp
from smec.passes.mapping.shares import Share, shares_of
from smec.passes.mapping.solver import cp_solver


@dataclass(frozen=True)
class Balance:
    """A solution.

    slot: int64 [Q], of each physical crossbar within its core. busiest: work of the busiest bank of any core; bound:
    what it cannot go below; before: what it is with slots in the order of the crossbars. total, total_bound,
    total_before: the same of each core, summed. exact: cores that CP-SAT was asked for; effort: its deterministic time.
    """

    slot: np.ndarray
    busiest: int
    bound: int
    before: int
    total: int
    total_bound: int
    total_before: int
    exact: int
    effort: float


@dataclass(frozen=True)
class Core:
    """A core's crossbars: the work of each, and the tile that it belongs to (the first one of several)."""

    work: tuple[int, ...]
    tile: tuple[int, ...]


def balance(
    core: np.ndarray,
    slot: np.ndarray,
    work: np.ndarray,
    tile: np.ndarray,
    per_core: int,
    share: int,
    limit: float | None,
) -> Balance:
    """Give the physical crossbars of each core slots such that banks have equal work.

    Args:
        core, slot: int [Q], of each physical crossbar; slots of a core are 0, 1, ...
        work: int [Q], conversions of an image.
        tile: int [Q].
        per_core: slots of a core.
        share: crossbars that share a bank: slots 0 .. share - 1 and so on.
        limit: deterministic time of CP-SAT for a core; 0: none. None: slots stay.
    """
    new = slot.astype(np.int64)
    rooms = tuple(min(share, per_core - first) for first in range(0, per_core, share))
    figures: list[tuple[int, int, int]] = []
    exact, effort = 0, 0.0
    for c in np.unique(core).tolist():
        mine = np.flatnonzero(core == c)
        mine = mine[np.argsort(slot[mine], kind="stable")]
        _, names = np.unique(tile[mine], return_inverse=True)
        have = Core(tuple(work[mine].tolist()), tuple(names.reshape(-1).tolist()))
        before = np.zeros(len(rooms), np.int64)
        np.add.at(before, slot[mine] // share, work[mine])
        if share == 1:
            figures.append((int(before.max()), int(before.max()), int(before.max())))
            continue
        if limit is None:
            figures.append((int(before.max()), _bound(have.work, rooms), int(before.max())))
            continue
        banks, bound, took = _solve(have, rooms, limit)
        exact += took is not None
        effort += took or 0.0
        loads = np.zeros(len(rooms), np.int64)
        np.add.at(loads, np.array(banks), work[mine])
        figures.append((int(loads.max()), bound, int(before.max())))
        for b in range(len(rooms)):
            inside = mine[np.array(banks) == b]
            new[inside] = b * share + np.arange(len(inside))
    busiest, bounds, befores = (list(f) for f in zip(*figures, strict=True)) if figures else ([0], [0], [0])
    return Balance(new, max(busiest), max(bounds), max(befores), sum(busiest), sum(bounds), sum(befores), exact, effort)


@lru_cache(maxsize=1 << 12)
def _solve(core: Core, rooms: tuple[int, ...], limit: float) -> tuple[tuple[int, ...], int, float | None]:
    """(bank of each crossbar, bound, CP-SAT's deterministic time or None); equal cores are solved once."""
    banks = _largest_first(core, rooms, None)
    bound = _bound(core.work, rooms)
    reached = _busiest(core.work, banks)
    took = None
    if reached > bound and limit > 0:
        counts, proven, took = _distribute(core.work, rooms, bound, reached, limit)
        bound = max(bound, proven)
        if counts is not None:
            banks = _largest_first(core, rooms, counts)
    return banks, bound, took


def _busiest(work: tuple[int, ...], banks: tuple[int, ...]) -> int:
    loads: Counter[int] = Counter()
    for w, b in zip(work, banks, strict=True):
        loads[b] += w
    return max(loads.values(), default=0)


def _bound(work: tuple[int, ...], rooms: tuple[int, ...]) -> int:
    order = sorted(work, reverse=True)
    bound = -(-sum(order) // len(rooms))
    for k in range(len(order) // len(rooms) + 1):
        last = len(rooms) * k + 1
        if last <= len(order):
            bound = max(bound, sum(order[last - k - 1 : last]))
    return bound


def _largest_first(core: Core, rooms: tuple[int, ...], counts: list[dict[int, int]] | None) -> tuple[int, ...]:
    """The bank of each crossbar, largest work first.

    counts: how many of each work a bank takes, where that is decided.
    """
    left = list(rooms)
    load = [0] * len(rooms)
    own: Counter[tuple[int, int]] = Counter()
    banks = [0] * len(core.work)
    for i in sorted(range(len(core.work)), key=lambda i: (-core.work[i], core.tile[i], i)):
        work, tile = core.work[i], core.tile[i]
        able = [b for b in range(len(rooms)) if left[b] and (counts is None or counts[b][work])]
        if counts is None:
            best = min(able, key=lambda b: (load[b], own[tile, b], b))
        else:
            best = min(able, key=lambda b: (own[tile, b], load[b], b))
            counts[best][work] -= 1
        banks[i] = best
        left[best] -= 1
        load[best] += work
        own[tile, best] += work
    return tuple(banks)


def _distribute(
    work: tuple[int, ...], rooms: tuple[int, ...], bound: int, reached: int, limit: float
) -> tuple[list[dict[int, int]] | None, int, float]:
    """How many crossbars of each work every bank takes, so that the busiest has less than `reached`.

    Returns:
        (counts of each bank, or None if nothing better was found; lower bound; deterministic time).
    """
    from ortools.sat.python import cp_model

    classes = sorted(Counter(work).items(), reverse=True)
    model = cp_model.CpModel()
    number = {
        (b, w): model.new_int_var(0, min(n, room), f"n{b},{w}") for b, room in enumerate(rooms) for w, n in classes
    }
    for w, n in classes:
        model.add(sum(number[b, w] for b in range(len(rooms))) == n)
    most = model.new_int_var(bound, reached - 1, "most")
    loads = [sum(w * number[b, w] for w, _ in classes) for b in range(len(rooms))]
    for b, room in enumerate(rooms):
        model.add(sum(number[b, w] for w, _ in classes) <= room)
        model.add(loads[b] <= most)
        if b and rooms[b - 1] == room:  # banks are alike
            model.add(loads[b - 1] >= loads[b])
    model.minimize(most)
    solver = cp_solver(limit)
    status = solver.solve(model)
    took = float(solver.response_proto.deterministic_time)
    if status == cp_model.INFEASIBLE:
        return None, reached, took
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return None, bound, took
    counts = [{w: solver.value(number[b, w]) for w, _ in classes} for b in range(len(rooms))]
    return counts, max(bound, round(solver.best_objective_bound)), took


def digits_of_units(
    row_group: np.ndarray, shifts: np.ndarray, unit: np.ndarray, act_bits: int, dac_bits: int
) -> tuple[np.ndarray, np.ndarray]:
    """The digits that row groups read of an input vector where crossbars of a unit share their reads.

    Args:
        row_group: int16 [X, R]; shifts: uint8 [X, R], of each crossbar's tile; unit: int64 [X].
        act_bits, dac_bits: A, d.

    Returns:
        (digits, hence reads, of each group of each unit, 0 where there is none, int64 [U, G]; whether a group drives
        some of a crossbar's rows, bool [X, G]).
    """
    width = int(row_group.max(initial=-1)) + 1
    units = int(unit.max(initial=-1)) + 1
    low, high = np.full(units * width, 255, np.int64), np.full(units * width, -1, np.int64)
    drives = np.zeros((len(unit), width), np.bool_)
    x, row = np.nonzero(row_group >= 0)
    group = row_group[x, row].astype(np.int64)
    shift = shifts[x, row].astype(np.int64)
    np.minimum.at(low, unit[x] * width + group, shift)
    np.maximum.at(high, unit[x] * width + group, shift)
    drives[x, group] = True
    return np.where(high >= 0, -(-(act_bits + high - low) // dac_bits), 0).reshape(units, width), drives


def reads_of_units(
    row_group: np.ndarray, shifts: np.ndarray, unit: np.ndarray, act_bits: int, dac_bits: int
) -> tuple[np.ndarray, np.ndarray]:
    """What one input vector takes: of `digits_of_units` the sums.

    Returns:
        (reads of each unit, int64 [U]; of these, those that drive some of the crossbar's rows, int64 [X]).
    """
    digits, drives = digits_of_units(row_group, shifts, unit, act_bits, dac_bits)
    return digits.sum(axis=1), (digits[unit] * drives).sum(axis=1)


def digits_of_tiles(op: MvmOp, act_bits: int, dac_bits: int) -> np.ndarray:
    """The most input digits that a row group of each tile of a grouped layer reads, ceil(A / d) at least, int64 [T]."""
    tile = op.xbar_tile.array
    digits, _ = digits_of_units(op.row_group.array, op.shifts.array[tile], np.arange(len(tile)), act_bits, dac_bits)
    most = np.full(len(op.rows.array), -(-act_bits // dac_bits), np.int64)
    np.maximum.at(most, tile, digits.max(axis=1, initial=0))
    return most


def conversions(op: MvmOp, physical: np.ndarray, act_bits: int, dac_bits: int) -> np.ndarray:
    """Conversions of each crossbar of a placed layer for an image, int64 [n X], copy after copy.

    Its used columns, times the reads that drive some of its rows (`docs/timing.md`), times the pixels of the copy; of
    shared pixels only the reads of the copy's digits. Rows without groups count as one group.

    Args:
        op: a sliced layer, grouped or not.
        physical: int [n X], the physical crossbar of each.
        act_bits, dac_bits: A, d.
    """
    tile = op.xbar_tile.array
    count = len(tile)
    _, unit = np.unique(np.stack([tile, physical[:count]], axis=1), axis=0, return_inverse=True)
    digits, drives = digits_of_units(_groups(op), op.shifts.array[tile], unit.reshape(-1), act_bits, dac_bits)
    digits = digits[unit.reshape(-1)] * drives
    columns = np.count_nonzero(op.cols.array >= 0, axis=1)[tile]
    return np.concatenate([_reads_of(share, digits) * columns for share in shares_of(op)])


def reads_of_tiles(op: MvmOp, unit: np.ndarray, act_bits: int, dac_bits: int) -> np.ndarray:
    """Reads that a layer's tiles take for an image, those of the busiest unit: int64 [n, T].

    Args:
        op: a sliced layer, grouped or not: rows without groups count as one group.
        unit: int64 [X], ascending: crossbars that share their reads, each of one tile.
        act_bits, dac_bits: A, d.
    """
    tile = op.xbar_tile.array
    digits, _ = digits_of_units(_groups(op), op.shifts.array[tile], unit, act_bits, dac_bits)
    found = np.zeros((op.copies, len(op.rows.array)), np.int64)
    for share, reads in zip(shares_of(op), found, strict=True):
        np.maximum.at(reads, tile, _reads_of(share, digits)[unit])
    return found


def _groups(op: MvmOp) -> np.ndarray:
    """The row groups of each crossbar, int [X, R]; all used rows are group 0 where there are none yet."""
    groups: np.ndarray
    groups = np.where(op.rows.array[op.xbar_tile.array] >= 0, 0, -1) if op.row_group is None else op.row_group.array
    return groups


def _reads_of(share: Share, digits: np.ndarray) -> np.ndarray:
    """Reads of a copy where row groups take these digits of an input, int64 [n] for int64 [n, G]."""
    reads = np.zeros(len(digits), np.int64)
    for piece in share:
        reads += piece.box.pixels * (np.clip(digits, piece.first, piece.stop) - piece.first).sum(axis=1)
    return reads
