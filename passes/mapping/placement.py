"""Crossbars to cores and physical crossbars (DESIGN 4, problem 1).

Small crossbars share a physical one: on its diagonal where their inputs differ, side by side where they are the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Placement:
    """Where every crossbar sits, int32 [X] each, in the order of the tiles; and the totals.

    physical, cores: physical crossbars and cores in use.
    bound: physical crossbars that any placement of this kind needs at least.
    used_cells: cells within the extents of the placed crossbars.
    """

    core: np.ndarray
    slot: np.ndarray
    row0: np.ndarray
    col0: np.ndarray
    physical: int
    cores: int
    bound: int
    used_cells: int


@dataclass(frozen=True)
class Work:
    """What a shared physical crossbar may have to do: `reads`, int [T], of a tile for an image, `most` in all."""

    reads: np.ndarray
    most: int


class _Pool:
    """The physical crossbars in use, with the rows and columns taken of each one's diagonal, and reads; who is where.

    `where`, `row0`, `col0`: int64 [X], physical crossbar and place of each crossbar.
    """

    def __init__(self, capacity: int, crossbars: int) -> None:
        self.capacity = capacity
        self.cores: list[int] = []  # slots in use of each core
        self.count = 0
        self.core, self.slot, self.rows, self.cols, self.reads = (np.zeros(crossbars, np.int64) for _ in range(5))
        self.where, self.row0, self.col0 = (np.zeros(crossbars, np.int64) for _ in range(3))

    def open(self, core: int, n: int) -> np.ndarray:
        """n new physical crossbars in a core (a new one if it is the number of cores): their indices."""
        if core == len(self.cores):
            self.cores.append(0)
        index = np.arange(self.count, self.count + n)
        self.core[index] = core
        self.slot[index] = self.cores[core] + np.arange(n)
        self.cores[core] += n
        self.count += n
        return index

    def room(self, core: int) -> int:
        return self.capacity - self.cores[core]


def place(
    counts: np.ndarray,
    heights: np.ndarray,
    widths: np.ndarray,
    *,
    rows: int,
    columns: int,
    per_core: int,
    share: bool = True,
    beside: bool = True,
    work: Work | None = None,
) -> Placement:
    """Assign the crossbars of all tiles, which are listed in layer order.

    All crossbars of a tile sit in one core. They have the same inputs, so that with `beside` as many as fit are put
    side by side, on the same rows of one physical crossbar: one cycle drives these rows for all of them. Otherwise each
    has a physical crossbar of its own.

    First the tiles that fill all rows or all columns, in layer order: into the last core that has room, else into a new
    one. With `share` the others follow, the largest first (by the fuller of their
    two sides, then by number of crossbars): each goes to the core where it needs the fewest new physical crossbars, the
    nearest to its layer's other tiles among those, and within it onto the diagonals that have room (rows and columns
    behind those of the tiles that are there), the first ones first.

    Side by side costs no more rows or columns in sum, but wide blocks leave gaps on the diagonal. So three ways are
    tried: all tiles side by side, those that take more than half of the rows, or none; and first of all without
    sharing, which keeps all tiles of a layer together. The fewest physical crossbars, then the fewest cores win, the
    earlier way of equals.

    Args:
        counts: int [T], crossbars of each tile; tiles without any are not placed.
        heights, widths: int [T], rows and columns that the tile uses, from the first on.
        rows, columns: R, C.
        per_core: physical crossbars of a core, at least as many as `slots_needed` by any tile.
        share: whether crossbars of different tiles may share a physical one.
        beside: whether crossbars of the same tile may.
        work: tiles share a physical crossbar, which they use in turn, only within this; None: however long it takes.
    """
    counts, heights, widths = (np.asarray(a, np.int64) for a in (counts, heights, widths))
    most = _most_abreast(counts, widths, columns, beside)
    ways = [most, np.where(2 * heights > rows, most, 1), np.ones_like(counts)]
    distinct = [way for i, way in enumerate(ways) if not any(np.array_equal(way, other) for other in ways[:i])]
    possible = [way for way in distinct if (-(-counts // way)).max(initial=0) <= per_core]
    work = work or Work(np.zeros_like(counts), 0)
    attempts = [(way, False) for way in possible[:1]] + [(way, True) for way in possible if share]
    tried = [
        _place(_Blocks(counts, heights, widths, work, way), rows, columns, per_core, sharing)
        for way, sharing in attempts
    ]
    best = min(tried, key=lambda pool: (pool.count, len(pool.cores)))
    bound = _bound(counts, heights, widths, most, rows, columns) if share else int((-(-counts // most)).sum())
    return Placement(
        best.core[best.where].astype(np.int32),
        best.slot[best.where].astype(np.int32),
        best.row0.astype(np.int32),
        best.col0.astype(np.int32),
        best.count,
        len(best.cores),
        bound,
        int((counts * heights * widths).sum()),
    )


def slots_needed(counts: np.ndarray, widths: np.ndarray, columns: int, beside: bool) -> np.ndarray:
    """Physical crossbars that each tile needs at least, int64 [T]; a core must have so many."""
    needed: np.ndarray = -(-counts // _most_abreast(counts, widths, columns, beside))
    return needed


def _most_abreast(counts: np.ndarray, widths: np.ndarray, columns: int, beside: bool) -> np.ndarray:
    """How many crossbars of each tile fit side by side, int64 [T]."""
    if not beside:
        return np.ones_like(counts)
    fit: np.ndarray = np.clip(columns // np.maximum(widths, 1), 1, np.maximum(counts, 1))
    return fit


@dataclass(frozen=True)
class SideBySide:
    """What is read together: crossbars of a tile that share a physical one.

    unit: int64 [X], of each crossbar, ascending. place: int64 [X], where it stands in its unit, 0 first. slots: int64
    [T], units of each tile.
    """

    unit: np.ndarray
    place: np.ndarray
    slots: np.ndarray


def side_by_side(tile: np.ndarray, widths: np.ndarray, columns: int, beside: bool) -> SideBySide:
    """The crossbars of a layer that share a physical one, spread evenly over as few as they need.

    Args:
        tile: int [X], ascending.
        widths: int [T], columns that each tile uses, from the first on.
        columns, beside: as for `slots_needed`.
    """
    counts = np.bincount(tile, minlength=len(widths))
    slots = slots_needed(counts, widths, columns, beside)
    abreast = np.maximum(-(-counts // np.maximum(slots, 1)), 1)
    block, place = np.divmod(np.arange(len(tile)) - (np.cumsum(counts) - counts)[tile], abreast[tile])
    return SideBySide((np.cumsum(slots) - slots)[tile] + block, place, slots)


class _Blocks:
    """The crossbars of each tile as blocks of `abreast` side by side (as even as can be), one block a slot."""

    def __init__(
        self, counts: np.ndarray, heights: np.ndarray, widths: np.ndarray, work: Work, abreast: np.ndarray
    ) -> None:
        self.counts, self.heights, self.widths, self.work = counts, heights, widths, work
        self.slots = -(-counts // abreast)
        self.abreast = -(-counts // np.maximum(self.slots, 1))
        self.first = np.concatenate(([0], np.cumsum(counts)))

    def put(self, t: int, pool: _Pool, index: np.ndarray) -> None:
        """Put the tile's blocks at the end of the diagonals of the physical crossbars `index`."""
        mine = slice(int(self.first[t]), int(self.first[t + 1]))
        block, place = np.divmod(np.arange(self.counts[t]), self.abreast[t])
        pool.where[mine] = index[block]
        pool.row0[mine] = pool.rows[index[block]]
        pool.col0[mine] = pool.cols[index[block]] + place * self.widths[t]
        pool.rows[index] += self.heights[t]
        pool.cols[index] += np.bincount(block) * self.widths[t]
        pool.reads[index] += self.work.reads[t]


def _place(blocks: _Blocks, rows: int, columns: int, per_core: int, share: bool) -> _Pool:
    pool = _Pool(per_core, int(blocks.first[-1]))
    heights, widths = blocks.heights, blocks.widths * blocks.abreast
    small = (heights < rows) & (widths < columns) & (blocks.counts > 0) & share
    home = np.zeros(len(heights), np.int64)  # core of the last large tile up to each tile
    for t, n in enumerate(blocks.slots.tolist()):
        if n and not small[t]:
            last = len(pool.cores) - 1
            core = next((c for c in range(last, -1, -1) if pool.room(c) >= n), last + 1)
            blocks.put(t, pool, pool.open(core, n))
        home[t] = max(0, len(pool.cores) - 1)
    fuller = np.maximum(heights * columns, widths * rows)
    for t in sorted(np.flatnonzero(small).tolist(), key=lambda t: (-fuller[t], -blocks.slots[t], t)):
        open_ = slice(0, pool.count)
        fits = (pool.rows[open_] + heights[t] <= rows) & (pool.cols[open_] + widths[t] <= columns)
        fits &= pool.reads[open_] + blocks.work.reads[t] <= blocks.work.most
        blocks.put(t, pool, _choose(pool, int(blocks.slots[t]), fits, int(home[t])))
    return pool


def _choose(pool: _Pool, n: int, fits: np.ndarray, home: int) -> np.ndarray:
    """n physical crossbars of one core: the first ones of those in use that the tile fits on, and new ones."""
    cores = len(pool.cores)
    shared = np.minimum(np.bincount(pool.core[: pool.count][fits], minlength=cores), n)
    free = pool.capacity - np.array(pool.cores, np.int64)
    able = np.flatnonzero(shared + free >= n)
    if not len(able):
        return pool.open(cores, n)
    core = able[np.lexsort((able, np.abs(able - home), -shared[able]))[0]]
    old = np.flatnonzero(fits & (pool.core[: pool.count] == core))[:n]
    return np.concatenate([old, pool.open(int(core), n - len(old))])


def _bound(
    counts: np.ndarray, heights: np.ndarray, widths: np.ndarray, most: np.ndarray, rows: int, columns: int
) -> int:
    """What `most` crossbars of a tile side by side need at least.

    The rows (columns) of what is on one diagonal add up to R (C) at most, and two that exceed half never share.
    """
    slots = -(-counts // most)
    return int(
        max(
            -(-(slots * heights).sum() // rows),
            -(-(counts * widths).sum() // columns),
            slots[2 * heights > rows].sum(),
            counts[2 * widths > columns].sum(),
            slots.max(initial=0),
        )
    )
