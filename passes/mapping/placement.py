"""Crossbars to cores and physical crossbars (DESIGN 4, problem 1).

Small crossbars share a physical one: side by side where their inputs are the same, anywhere on it where they differ.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from smec.ir.errors import SmecError
from smec.passes.mapping.packing import UNBOUNDED, Packed, Tiles, Way, least_crossbars, pack


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
    """What a shared physical crossbar may have to do: `reads`, int64 [T], of a tile for an image, `most` in all."""

    reads: np.ndarray
    most: int = UNBOUNDED


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
    enough: int | None = None,
) -> Placement:
    """Assign the crossbars of all tiles, which are listed in layer order.

    All crossbars of a tile sit in one core. They have the same inputs, so that with `beside` as many as fit are put
    side by side, on the same rows of one physical crossbar: one cycle drives these rows for all of them. Otherwise each
    has a physical crossbar of its own. With `share` those of different tiles are packed into common ones, wherever
    there are cells left (`smec.passes.mapping.packing`).

    Side by side takes no more cells, but wide blocks are harder to pack. So several ways are tried: as many side by
    side as fit, fewer where that saves some, or none, each with both ways of cutting what is left; and first of all
    without sharing, which keeps all tiles of a layer together. The fewest physical crossbars win, then the fewest
    cores, then the least reads of the busiest crossbar; the earlier way of equals.

    Args:
        counts: int [T], crossbars of each tile; tiles without any are not placed.
        heights, widths: int [T], rows and columns that the tile uses, from the first on.
        rows, columns: R, C.
        per_core: physical crossbars of a core.
        share: whether crossbars of different tiles may share a physical one.
        beside: whether crossbars of the same tile may.
        work: what tiles read, and how much those that share a physical crossbar, in turn, may read together; None:
            however long it takes.
        enough: no other way is tried where one needs no more physical crossbars.

    Raises:
        SmecError: a tile does not fit a core.
    """
    counts, heights, widths = (np.asarray(a, np.int64) for a in (counts, heights, widths))
    work = work or Work(np.zeros_like(counts))
    abreast = _most_abreast(counts, widths, columns, beside)
    slots = slots_needed(counts, widths, columns, beside)
    if slots.max(initial=0) > per_core:
        raise SmecError(
            "a tile needs more crossbars than a core has", expected=f"at most {per_core}", found=int(slots.max())
        )
    bound = int(slots.sum())
    if share:
        # of a tile one physical crossbar each for what does not fit side by side, and reads as far as they are bounded
        bound = max(
            least_crossbars(counts, heights, widths, rows, columns),
            int(slots.max(initial=0)),
            -(-int((slots * work.reads).sum()) // max(work.most, 1)),
        )
    best: Packed | None = None
    for beside_each, way in _ways(counts, abreast, per_core, share):
        tiles = Tiles(counts, heights, widths, beside_each, work.reads)
        packed = pack(tiles, rows, columns, per_core, work.most, way)
        if best is None or _costs(packed) < _costs(best):
            best = packed
        if enough is not None and len(best.core) <= enough:
            break
    assert best is not None  # noqa: S101  # for the type checker: there is always the way without sharing
    return Placement(
        best.core[best.physical].astype(np.int32),
        _slots(best.core)[best.physical].astype(np.int32),
        best.row.astype(np.int32),
        best.column.astype(np.int32),
        len(best.core),
        best.cores,
        bound,
        int((counts * heights * widths).sum()),
    )


def _ways(counts: np.ndarray, abreast: np.ndarray, per_core: int, share: bool) -> list[tuple[np.ndarray, Way]]:
    """What `place` tries: crossbars side by side of each tile, and the way."""
    ways = [(abreast, Way(share=False))]
    if share:
        cuts = (False, True)
        ways += [(abreast, Way(flexible=True, tallest=tall, upright=cut)) for tall in (True, False) for cut in cuts]
        if counts.max(initial=0) <= per_core:
            ways += [(np.ones_like(abreast), Way(tallest=tall, upright=cut)) for tall in (False, True) for cut in cuts]
    return ways


def _costs(packed: Packed) -> tuple[int, int, int]:
    return len(packed.core), packed.cores, int(packed.reads.max(initial=0))


def _slots(core: np.ndarray) -> np.ndarray:
    """The slot of each physical crossbar: its number within its core, int64 [P]."""
    order = np.argsort(core, kind="stable")
    slot = np.empty(len(core), np.int64)
    first = np.searchsorted(core[order], core[order])
    slot[order] = np.arange(len(core)) - first
    return slot


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
