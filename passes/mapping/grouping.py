"""Row grouping: which rows of a crossbar are driven in the same cycle (DESIGN 4, problem 3).

A group is lossless when no input can make the current of one of its columns exceed the ADC:
max over columns of sum over rows of cell x (2^d - 1) <= 2^B - 1. With row shifts the digit that a row is fed at one
time step belongs to q << (k_r - k_min) of its group, but it is still one digit, at most 2^d - 1: the same condition.
A group takes ceil((A + max k - min k) / d) reads.

That is vector bin packing with costs, NP-hard. A constructive heuristic (`row_packing`) solves most crossbars; those
that it leaves above the bound are improved one by one (`row_improve`), identical ones once.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from smec.passes.mapping.jit import in_chunks
from smec.passes.mapping.row_improve import Effort, Improved, Spent, improve
from smec.passes.mapping.row_packing import construct, price
from smec.passes.mapping.slicing import unpack_cells


@dataclass(frozen=True)
class Reader:
    """What bounds and prices a group.

    adc_bits: B; dac_bits: d; concurrent_rows: rows that may be driven at once; act_bits: A.
    """

    adc_bits: int
    dac_bits: int
    concurrent_rows: int
    act_bits: int

    @property
    def capacity(self) -> int:
        """Largest sum of cell values of a column that is read without loss."""
        return int(((1 << self.adc_bits) - 1) // ((1 << self.dac_bits) - 1))


@dataclass(frozen=True)
class Grouped:
    """Groups of the crossbars of a layer.

    row_group: int16 [X, R], numbered from 0 in each crossbar, -1 not driven.
    groups, reads, bound: int64 [X]; number of groups, their reads for one input vector, and a lower bound of the reads
    of any lossless grouping (0 where rows were grouped without regard to the ADC).
    overflow: int64 [X], groups that the ADC may clip; without `fixed` there are none unless a single cell exceeds it.
    spent: what improving them took.
    """

    row_group: np.ndarray
    groups: np.ndarray
    reads: np.ndarray
    bound: np.ndarray
    overflow: np.ndarray
    spent: Spent = field(default_factory=Spent)


#: The constructive heuristic alone.
QUICK = Effort(steps=0, limit=0.0)


def group_rows(
    cells: np.ndarray, shifts: np.ndarray, columns: int, cell_bits: int, reader: Reader,
    fixed: np.ndarray | None = None, effort: Effort = QUICK, block: int = 0,
) -> Grouped:  # fmt: skip
    """Group the rows of every crossbar of a layer; rows without a one are not driven.

    Args:
        cells: uint8 [X, R, ceil(C c / 8)], packed.
        shifts: uint8 [X, R], row shifts of each crossbar's tile.
        columns, cell_bits: C, c.
        reader: ADC, DAC and input widths.
        fixed: int [X, R], groups given (-1 not driven): only priced and checked.
        effort: how hard to improve what the heuristic leaves above the bound.
        block: groups stay within blocks of so many rows (0: there are none), each of which is grouped by itself.
    """
    count, height = cells.shape[:2]
    if block and fixed is None:
        parts = group_rows(
            cells.reshape(count * height // block, block, cells.shape[2]), shifts.reshape(-1, block), columns,
            cell_bits, reader,
            effort=effort,
        )  # fmt: skip
        return _joined(parts, height // block)
    groups = np.full((count, height), -1, np.int16) if fixed is None else fixed.astype(np.int16)
    stats = np.zeros((count, 4), np.int64)
    limits = np.array([reader.capacity, reader.concurrent_rows, reader.act_bits, reader.dac_bits], np.int64)
    run = construct if fixed is None else price

    def work(start: int, stop: int) -> None:
        run(start, stop, cells, shifts, columns, cell_bits, limits, groups, stats)

    in_chunks(count, work)
    spent = Spent()
    if fixed is None and effort != QUICK:
        spent = _improve(cells, shifts, columns, cell_bits, limits, groups, stats, effort)
    found, reads, bound, overflow = (np.ascontiguousarray(stats[:, i]) for i in range(4))
    return Grouped(groups, found, reads, bound, overflow, spent)


def _joined(parts: Grouped, each: int) -> Grouped:
    """Groups of crossbars from those of their blocks, `each` consecutive ones a crossbar, numbered on."""
    found, reads, bound, overflow = (
        a.reshape(len(a) // each, each) for a in (parts.groups, parts.reads, parts.bound, parts.overflow)
    )
    first = np.cumsum(found, axis=1) - found
    local = parts.row_group.reshape(*found.shape, parts.row_group.shape[1])
    groups = (
        np.where(local >= 0, local + first[:, :, None], -1)
        .astype(np.int16)
        .reshape(len(found), each * parts.row_group.shape[1])
    )
    return Grouped(groups, found.sum(axis=1), reads.sum(axis=1), bound.sum(axis=1), overflow.sum(axis=1), parts.spent)


def consecutive(used: np.ndarray, rows: int, block: int = 0) -> np.ndarray:
    """Groups of `rows` used rows each in order, within blocks of `block` rows (0: the whole tile).

    Args:
        used: bool [T, R].

    Returns:
        int64 [T, R], -1 not driven.
    """
    block = block or used.shape[1]
    inside = used.reshape(len(used), used.shape[1] // block, block)
    local = (np.cumsum(inside, axis=2) - 1) // rows
    count = local[:, :, -1] + 1
    first = np.cumsum(count, axis=1) - count
    groups: np.ndarray = np.where(inside, local + first[:, :, None], -1).reshape(used.shape)
    return groups


def _improve(
    cells: np.ndarray, shifts: np.ndarray, columns: int, cell_bits: int, limits: np.ndarray, groups: np.ndarray,
    stats: np.ndarray, effort: Effort,
) -> Spent:  # fmt: skip
    """Improve the crossbars above the bound, in `groups` and `stats`; identical ones once."""
    alike: dict[bytes, list[int]] = {}
    for x in np.flatnonzero((stats[:, 1] > stats[:, 2]) & (stats[:, 3] == 0)).tolist():
        alike.setdefault(cells[x].tobytes() + shifts[x].tobytes(), []).append(x)
    first = [same[0] for same in alike.values()]
    found: list[Improved | None] = [None] * len(first)
    search_only = replace(effort, limit=0.0)

    def work(start: int, stop: int) -> None:
        for i in range(start, stop):
            x = first[i]
            cell = unpack_cells(cells[x], columns, cell_bits)
            reads, bound = int(stats[x, 1]), int(stats[x, 2])
            mine = effort if i < effort.exact else search_only
            found[i] = improve(cell, shifts[x], groups[x].copy(), reads, bound, limits, mine)

    in_chunks(len(first), work, least=1)
    spent = Spent()
    for same, result in zip(alike.values(), found, strict=True):
        if result is not None:
            groups[same] = result.group
            stats[same, 0] = result.group.max() + 1
            stats[same, 1], stats[same, 2] = result.reads, result.bound
            spent.add(result.spent)
            spent.open += len(same) - 1
    return spent
