"""Packing rectangles into crossbars: what fits onto one, and how few will do.

Tiles that share a physical crossbar use it in turn: a read drives the rows of one tile, and only the columns of that
tile are converted. So any rectangles may share that have no cell in common: below one another, side by side, or on the
diagonal. That is two-dimensional bin packing without rotation, with two constraints more: the rectangles of a tile
sit in different crossbars of one core, and the reads of what shares a crossbar may be bounded.

Packing is greedy, with guillotine cuts (Jylanki, "A thousand ways to pack the bin", 2010): a rectangle goes to a corner
of a free one, and what is left of that is cut into two. The bound is by dual feasible functions (Fekete and Schepers,
"A general framework for bounds for higher-dimensional orthogonal packing problems", 2004).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from smec.passes.mapping.jit import compiled

#: No bound on the reads.
UNBOUNDED = int(np.iinfo(np.int64).max // 2)


@dataclass(frozen=True)
class Tiles:
    """What is to be packed, int64 [T] each, in layer order.

    counts: crossbars of each tile. heights, widths: rows and columns of each of them. abreast: how many may stand side
    by side as one rectangle. reads: of a tile for an image.
    """

    counts: np.ndarray
    heights: np.ndarray
    widths: np.ndarray
    abreast: np.ndarray
    reads: np.ndarray

    def rectangle_widths(self) -> np.ndarray:
        """Columns of a tile's rectangles, where as many stand side by side as may: as even as can be."""
        number = np.maximum(-(-self.counts // self.abreast), 1)
        widths: np.ndarray = self.widths * -(-self.counts // number)
        return widths


@dataclass(frozen=True)
class Way:
    """How `pack` goes about it.

    share: whether tiles share crossbars at all.
    flexible: fewer than `abreast` crossbars of a tile side by side, where that takes fewer new ones.
    tallest: the tallest rectangles first, not the largest.
    upright: how the rest of a free rectangle is cut; True: what is beside the new one keeps all the height, False: it
        does where that leaves the larger piece whole.
    """

    share: bool = True
    flexible: bool = False
    tallest: bool = False
    upright: bool = False


@dataclass(frozen=True)
class Packed:
    """Where the crossbars are.

    physical, row, column: int64 [X], tile after tile; physical crossbars are numbered as they were opened. core, reads:
    int64 [P], of each physical crossbar. cores: how many.
    """

    physical: np.ndarray
    row: np.ndarray
    column: np.ndarray
    core: np.ndarray
    reads: np.ndarray
    cores: int


def pack(tiles: Tiles, rows: int, columns: int, per_core: int, most: int, way: Way) -> Packed:
    """Pack greedily.

    Tiles of more than half of the rows and of the columns cannot share with one another: they come first, in order,
    each into the last core that has room, else into a new one. The others follow, the largest and of equals the busiest
    first: to the core where they need the fewest new crossbars, of these to the one nearest to where the large tiles
    before them in order are. There each rectangle goes to the free one that leaves the narrowest rest, of equals to
    the crossbar with the fewest reads.

    Args:
        tiles: with `abreast` such that none needs more than `per_core`.
        rows, columns: R, C.
        per_core: crossbars of a core.
        most: reads that tiles which share a crossbar may have together.
        way: as above.
    """
    widths, some = tiles.rectangle_widths(), tiles.counts > 0
    large = (2 * tiles.heights > rows) & (2 * widths > columns) if way.share else np.ones_like(some)
    if way.tallest:
        keys = (-tiles.reads, -widths, -tiles.heights)
    else:
        keys = (np.zeros_like(widths), -tiles.reads, -tiles.heights * widths)
    rest = np.lexsort((np.arange(len(some)), *keys))
    order = np.concatenate([np.flatnonzero(large & some), rest[(~large & some)[rest]]])
    # the last large tile up to each one: where its layer is
    before = np.maximum.accumulate(np.where(large & some, np.arange(len(large)), -1)) if len(large) else order
    # what those still to come read at least: crossbars without time for that are full
    least = np.minimum.accumulate(tiles.reads[order][::-1])[::-1]
    limits = np.array([rows, columns, per_core, most], np.int64)
    physical, row, column, core, reads, used, cores = _pack(
        order, tiles.counts, tiles.heights, tiles.widths, tiles.abreast, tiles.reads, before, least, limits,
        way.share, way.flexible, way.upright,
    )  # fmt: skip
    return Packed(physical, row, column, core[:used], reads[:used], int(cores))


@compiled
def _pack(
    order: np.ndarray,
    counts: np.ndarray,
    heights: np.ndarray,
    widths: np.ndarray,
    abreast: np.ndarray,
    reads: np.ndarray,
    before: np.ndarray,
    least: np.ndarray,
    limits: np.ndarray,
    share: bool,
    flexible: bool,
    upright: bool,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, int, int]:
    rows, columns, per_core, most = limits
    count = int(counts.sum())
    first = np.cumsum(counts) - counts
    physical, row, column = np.full(count, -1, np.int64), np.zeros(count, np.int64), np.zeros(count, np.int64)
    core, busy = np.zeros(count, np.int64), np.zeros(count, np.int64)
    # free rectangles (row, column, height, width), in a list for each crossbar; at most one more a placed rectangle
    free, after, frees = np.zeros((2 * count, 4), np.int64), np.full(2 * count, -1, np.int64), 0
    head, open_ = np.full(count, -1, np.int64), np.zeros(count, np.int64)
    fit, rest = np.full(count, -1, np.int64), np.zeros(count, np.int64)
    taken, fitting = np.zeros(count + 1, np.int64), np.zeros(count + 1, np.int64)
    home = np.full(len(counts), -1, np.int64)
    used = opened = cores = 0
    for turn in range(len(order)):
        t, full = order[turn], most - least[turn]
        near = home[before[t]] if before[t] >= 0 and home[before[t]] >= 0 else cores - 1
        number, best, fewest = 0, 0, count + 1
        for side in range(abreast[t], 0, -1):
            # as even as can be: other numbers side by side need as many rectangles
            if -(-counts[t] // side) == number:
                continue
            number = -(-counts[t] // side)
            if number > per_core:
                break
            even = -(-counts[t] // number)
            fitting[:cores] = 0
            if share:
                opened = _find(heights[t], even * widths[t], most - reads[t], full, head, free, after, busy, core,
                               open_, opened, fit, rest, fitting)  # fmt: skip
            here = _choose(number, fitting, taken, cores, per_core, near)
            new = number - min(number, fitting[here]) if here >= 0 else number
            if new < fewest:
                best, fewest = even, new
            if not flexible or not fewest:
                break
        number = -(-counts[t] // best)
        fitting[: cores + 1] = 0
        if share:
            opened = _find(heights[t], best * widths[t], most - reads[t], full, head, free, after, busy, core,
                           open_, opened, fit, rest, fitting)  # fmt: skip
        here = _choose(number, fitting, taken, cores, per_core, near)
        if here < 0:
            here = cores
            cores += 1
        home[t] = here
        old, at = min(number, fitting[here]), first[t]
        for i in range(number):
            width = min(best, first[t] + counts[t] - at) * widths[t]
            p = -1
            if i < old:
                for j in range(opened):
                    q = open_[j]
                    if fit[q] < 0 or core[q] != here:
                        continue
                    if p < 0 or rest[q] < rest[p] or (rest[q] == rest[p] and busy[q] < busy[p]):
                        p = q
            if p < 0:
                p, k = used, frees
                used += 1
                frees += 1
                core[p] = here
                taken[here] += 1
                open_[opened] = p
                opened += 1
                free[k, 0], free[k, 1], free[k, 2], free[k, 3] = 0, 0, rows, columns
                head[p] = k
            else:
                k = fit[p]
            fit[p] = -1
            busy[p] += reads[t]
            y, x, tall, wide = free[k]
            for j in range(min(best, first[t] + counts[t] - at)):
                physical[at], row[at], column[at] = p, y, x + j * widths[t]
                at += 1
            # out of the list with the free rectangle, and into it with what is left below and beside
            if head[p] == k:
                head[p] = after[k]
            else:
                j = head[p]
                while after[j] != k:
                    j = after[j]
                after[j] = after[k]
            down, across = tall - heights[t], wide - width
            whole = upright or down <= across
            if down > 0:
                free[k, 0], free[k, 1], free[k, 2] = y + heights[t], x, down
                free[k, 3] = width if whole else wide
                after[k], head[p] = head[p], k
                k = frees
            if across > 0:
                if k == frees:
                    frees += 1
                free[k, 0], free[k, 1], free[k, 3] = y, x + width, across
                free[k, 2] = tall if whole else heights[t]
                after[k], head[p] = head[p], k
    return physical, row, column, core, busy, used, cores


@compiled
def _find(
    height: int,
    width: int,
    most: int,
    full: int,
    head: np.ndarray,
    free: np.ndarray,
    after: np.ndarray,
    busy: np.ndarray,
    core: np.ndarray,
    open_: np.ndarray,
    opened: int,
    fit: np.ndarray,
    rest: np.ndarray,
    fitting: np.ndarray,
) -> int:
    """The free rectangle of each crossbar that fits best (`fit`, -1: none) with what it leaves (`rest`), and how many
    crossbars of each core have one (`fitting`, zeros at first). Crossbars with more than `most` reads have none; those
    without cells or with more than `full` reads are dropped from `open_`. How many are left there.
    """
    kept = 0
    for i in range(opened):
        p = open_[i]
        fit[p] = -1
        k = head[p]
        if k < 0 or busy[p] > full:
            continue
        open_[kept] = p
        kept += 1
        if busy[p] > most:
            continue
        while k >= 0:
            down, across = free[k, 2] - height, free[k, 3] - width
            if down >= 0 and across >= 0 and (fit[p] < 0 or min(down, across) < rest[p]):
                fit[p], rest[p] = k, min(down, across)
            k = after[k]
        if fit[p] >= 0:
            fitting[core[p]] += 1
    return kept


@compiled
def _choose(number: int, fitting: np.ndarray, taken: np.ndarray, cores: int, per_core: int, near: int) -> int:
    """The core with room for `number` crossbars where most of those in use do, the nearest of equals; -1: none."""
    here = -1
    for c in range(cores):
        old = min(number, fitting[c])
        if old + per_core - taken[c] < number:
            continue
        most = min(number, fitting[here]) if here >= 0 else -1
        if old > most or (old == most and abs(c - near) < abs(here - near)):
            here = c
    return here


def least_crossbars(counts: np.ndarray, heights: np.ndarray, widths: np.ndarray, rows: int, columns: int) -> int:
    """What no packing goes below, wherever the rectangles are put: the largest sum of f(h) g(w) over pairs of f, g.

    Args:
        counts, heights, widths: int64 [T], how many rectangles of which size.
        rows, columns: R, C.
    """
    some = counts > 0
    if not some.any():
        return 0
    sizes, at = np.unique(np.stack([heights[some], widths[some]], axis=1), axis=0, return_inverse=True)
    number = np.bincount(at.reshape(-1), weights=counts[some]).astype(np.int64)
    tall, wide = _dual_feasible(sizes[:, 0], rows), _dual_feasible(sizes[:, 1], columns)
    return max(int((-(-((f * number) @ g.T) // (d * e))).max()) for d, f in tall for e, g in wide)


def _dual_feasible(sizes: np.ndarray, limit: int) -> list[tuple[int, np.ndarray]]:
    """Functions f with sum f(x) <= 1 wherever sum x <= limit: (denominator, numerators int64 [functions, sizes]).

    Fekete and Schepers' f^(e), which raises what is above limit - e to 1 and lowers what is below e to 0, for each e;
    and u^(k): with k + 1 equal parts of the limit, x counts for the whole ones in it (k at most, if x is not one).
    """
    e = np.concatenate([[0], np.unique(np.minimum(sizes, limit - sizes))])[:, None]
    found = [(limit, np.where(sizes > limit - e, limit, np.where(sizes >= e, sizes, 0)))]
    for k in range(1, 5):
        parts, over = np.divmod((k + 1) * sizes, limit)
        found.append((k * limit, np.where(over > 0, parts * limit, k * sizes)[None].astype(np.int64)))
    return found
