"""Crossbars of a tile that lie side by side in one physical crossbar are grouped as one, and a read serves all of them.

They have the same inputs. Where their groups agree, a read drives the rows of a group for all of them at once; where
they do not, they are read one after the other (`docs/timing.md`). So what is grouped is not a crossbar but all that fit
side by side: their columns next to one another, a *unit* of at most C columns.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from smec.passes.mapping.grouping import QUICK, Reader, group_rows
from smec.passes.mapping.placement import side_by_side
from smec.passes.mapping.row_improve import Effort, Spent


@dataclass(frozen=True)
class LayerGroups:
    """Groups of a layer.

    row_group: int16 [X, R]. groups, reads, bound, overflow: int64 [U], of its units, as `grouping.Grouped` has them.
    parted: units whose crossbars are read one after the other all the same. spent: what it took.
    """

    row_group: np.ndarray
    groups: np.ndarray
    reads: np.ndarray
    bound: np.ndarray
    overflow: np.ndarray
    parted: int
    spent: Spent


def group_layer(
    cells: np.ndarray, tile: np.ndarray, shifts: np.ndarray, widths: np.ndarray, columns: int, cell_bits: int,
    reader: Reader, *, effort: Effort = QUICK, beside: bool = True, fixed: np.ndarray | None = None, block: int = 0,
) -> LayerGroups:  # fmt: skip
    """Group the rows of all crossbars of a layer, side by side ones together.

    Where reading the crossbars of a unit one after the other, each with groups of its own, takes fewer reads, that is
    what they get; the bound of such a unit is the lower one of both ways.

    Args:
        cells, tile, widths, columns, cell_bits, beside: as for `join`.
        shifts: uint8 [T, R].
        reader, effort: as for `grouping.group_rows`.
        fixed: int [T, R], groups given.
        block: rows of a sign block, which groups stay within; 0: there are none.
    """
    units = join(cells, tile, widths, columns, cell_bits, beside)
    given = None if fixed is None else fixed[units.tile]
    whole = group_rows(units.cells, shifts[units.tile], columns, cell_bits, reader, given, effort, block)
    if given is not None:
        row_group = whole.row_group[units.unit]
        return LayerGroups(row_group, whole.groups, whole.reads, whole.bound, whole.overflow, 0, whole.spent)
    row_group = part(whole.row_group, units, cells)
    groups, reads, bound, overflow = whole.groups, whole.reads, whole.bound, whole.overflow
    parted = 0
    shared = np.flatnonzero(np.bincount(units.unit, minlength=len(units.tile))[units.unit] > 1)
    if len(shared):
        own = group_rows(cells[shared], shifts[tile[shared]], columns, cell_bits, reader, block=block)
        sums = [np.zeros(len(units.tile), np.int64) for _ in range(4)]
        for total, values in zip(sums, (own.groups, own.reads, own.bound, own.overflow), strict=True):
            np.add.at(total, units.unit[shared], values)
        apart = (sums[1] < reads) & (sums[1] > 0)
        groups, reads, overflow = (
            np.where(apart, mine, theirs) for mine, theirs in ((sums[0], groups), (sums[1], reads), (sums[3], overflow))
        )
        bound = np.where(sums[2] > 0, np.minimum(bound, sums[2]), bound)
        chosen = apart[units.unit[shared]]
        row_group[shared[chosen]] = own.row_group[chosen]
        parted = int(apart.sum())
    return LayerGroups(row_group, groups, reads, bound, overflow, parted, whole.spent)


@dataclass(frozen=True)
class Units:
    """Units of a layer.

    cells: uint8 [U, R, ceil(C c / 8)]. tile: int64 [U]. unit: int64 [X], of each crossbar, ascending.
    """

    cells: np.ndarray
    tile: np.ndarray
    unit: np.ndarray


def join(
    cells: np.ndarray, tile: np.ndarray, widths: np.ndarray, columns: int, cell_bits: int, beside: bool = True
) -> Units:
    """Put together the crossbars of each tile that `placement.place` puts side by side.

    Args:
        cells: uint8 [X, R, ceil(C c / 8)], packed.
        tile: int [X], ascending.
        widths: int [T], columns that each tile uses, from the first on.
        columns, cell_bits: C, c.
        beside: whether crossbars are put side by side at all; otherwise each is a unit of its own.
    """
    tile = tile.astype(np.int64)
    together = side_by_side(tile, widths, columns, beside)
    leads = np.flatnonzero(together.place == 0)
    joined = cells[leads].copy() if len(leads) < len(tile) else cells
    _add_followers(joined, cells, together.unit, together.place, widths[tile] * cell_bits)
    return Units(joined, tile[leads], together.unit)


def _add_followers(
    joined: np.ndarray, cells: np.ndarray, unit: np.ndarray, place: np.ndarray, bits: np.ndarray
) -> None:
    """Or the cells of crossbars that are not the first of their unit, moved right by place x bits, into the unit's."""
    for x in np.flatnonzero(place).tolist():
        own = np.unpackbits(cells[x], axis=1, bitorder="little", count=int(bits[x]))
        moved = np.zeros((len(own), joined.shape[2] * 8), np.uint8)
        moved[:, place[x] * bits[x] : (place[x] + 1) * bits[x]] = own
        joined[unit[x]] |= np.packbits(moved, axis=1, bitorder="little")


def part(row_group: np.ndarray, units: Units, cells: np.ndarray) -> np.ndarray:
    """The groups of each crossbar, int16 [X, R], from those of its unit, int16 [U, R].

    A crossbar drives the rows in which it has a one. Groups of a unit are numbered such that those come first that most
    of its crossbars drive; where one has a gap in its numbers all the same, it drives a row of zeros there too
    (programs number the groups of every crossbar without gaps). Results stay what they are.
    """
    group: np.ndarray = row_group[units.unit]
    joined = np.bincount(units.unit, minlength=len(row_group))[units.unit] > 1
    shared = np.flatnonzero(joined)
    own = cells[shared].any(axis=2)
    width = int(row_group.max(initial=-1)) + 1
    if not len(shared) or not width:
        return group
    uses = np.zeros((len(row_group), width), np.int64)  # crossbars of each unit that drive each group
    drives = np.zeros((len(shared), width), np.bool_)
    x, row = np.nonzero(own)
    drives[x, group[shared][x, row]] = True
    np.add.at(uses, units.unit[shared], drives.astype(np.int64))
    rank = np.argsort(np.argsort(-uses, axis=1, kind="stable"), axis=1, kind="stable").astype(np.int16)
    drives = np.take_along_axis(drives, np.argsort(rank, axis=1)[units.unit[shared]], axis=1)
    whole = np.where(
        group[shared] >= 0, np.take_along_axis(rank[units.unit[shared]], np.maximum(group[shared], 0), 1), -1
    )
    group[shared] = np.where(own, whole, -1)
    last = np.where(drives.any(axis=1), width - 1 - np.argmax(drives[:, ::-1], axis=1), 0)
    for i, g in zip(*np.nonzero(~drives & (np.arange(width) < last[:, None])), strict=True):
        group[shared[i], np.flatnonzero(whole[i] == g)[0]] = g
    return group
