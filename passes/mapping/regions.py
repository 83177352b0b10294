"""Which part of a layer's input the tiles of each core read: what has to be sent there, and no more.

A part is a box: of pixels' windows, what lies between the first and the last of them, and of the input channels those
between the first and the last that the tiles of the core have rows for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from smec.ir.dialects.quant import Conv
from smec.ir.dialects.xbar import MvmOp
from smec.passes.mapping.shares import Share


@dataclass(frozen=True)
class Region:
    """Part of a value: the first position and the extent along each of its axes.

    Positions may be negative, or lie behind the value's end: there is the border that padding adds.
    """

    first: tuple[int, ...]
    shape: tuple[int, ...]

    @staticmethod
    def between(low: Sequence[int], high: Sequence[int]) -> Region:
        """The region from `low` to `high`, both within."""
        return Region(tuple(low), tuple(b - a + 1 for a, b in zip(low, high, strict=True)))

    @property
    def last(self) -> tuple[int, ...]:
        """The last position along each axis."""
        return tuple(a + n - 1 for a, n in zip(self.first, self.shape, strict=True))

    @property
    def size(self) -> int:
        """Elements."""
        return prod(self.shape)

    def holds(self, other: Region) -> bool:
        """Whether all of `other` is within."""
        return all(a <= b for a, b in zip(self.first, other.first, strict=True)) and all(
            a >= b for a, b in zip(self.last, other.last, strict=True)
        )

    def around(self, other: Region) -> Region:
        """The smallest region that holds both."""
        return Region.between(
            [min(a, b) for a, b in zip(self.first, other.first, strict=True)],
            [max(a, b) for a, b in zip(self.last, other.last, strict=True)],
        )


def tile_cores(op: MvmOp, cores: np.ndarray) -> list[np.ndarray]:
    """The core of each tile, int64 [T] for each copy; -1 where a tile has no crossbars.

    Args:
        op: after `slice-bits`.
        cores: int [n X], of each crossbar, copy after copy.
    """
    xbar_tile, count = op.xbar_tile.array, len(op.cols.array)
    found = []
    for own in cores.reshape(op.copies, len(xbar_tile)):
        tile_core = np.full(count, -1, np.int64)
        tile_core[xbar_tile] = own
        found.append(tile_core)
    return found


def regions_read(op: MvmOp, copies: Sequence[np.ndarray], shares: Sequence[Share]) -> list[dict[int, Region | None]]:
    """What each copy's tiles on each core need of the layer's input.

    Copies on one core have a region in common where that is no larger than one for each of them.

    Args:
        op: after `tile`.
        copies: the core of each tile, int [T] for each copy; -1: none.
        shares: what each copy reads.

    Returns:
        For each copy, by core: the region in the positions of `op.x`; None for all of the value, where a region would
        be no smaller than that.
    """
    low, high = _positions(op)
    pieces: dict[int, list[tuple[list[int], Region]]] = {}
    for copy, (tile_core, share) in enumerate(zip(copies, shares, strict=True)):
        boxes = [piece.box for piece in share]
        first = [min(box.first[a] for box in boxes) for a in range(len(boxes[0].first))]
        last = [max(b.first[a] + (b.shape[a] - 1) * b.step[a] for b in boxes) for a in range(len(first))]
        for core in np.unique(tile_core[tile_core >= 0]).tolist():
            here = tile_core == core
            region = _region(op, first, last, low[here].min(axis=0).tolist(), high[here].max(axis=0).tolist())
            known = pieces.setdefault(core, [])
            if known and (both := known[-1][1].around(region)).size <= known[-1][1].size + region.size:
                known[-1] = [*known[-1][0], copy], both
            else:
                known.append(([copy], region))
    found: list[dict[int, Region | None]] = [{} for _ in copies]
    whole = prod(op.x.type.shape)
    for core, parts in pieces.items():
        for members, region in parts:
            for copy in members:
                found[copy][core] = region if region.size < whole else None
    return found


def _positions(op: MvmOp) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest (channel, row, column) within the window that each tile reads, or input of a matrix product:
    int64 [T, axes].
    """
    rows = op.rows.array.astype(np.int64)
    position: tuple[np.ndarray, ...] = (rows,)
    if isinstance(op, Conv):
        place, channel = np.divmod(rows, op.x.type.shape[1])
        position = channel, *np.divmod(place, op.kernel[1])
    used = (rows >= 0)[:, :, None]
    stacked = np.stack(position, axis=2)
    most = np.iinfo(np.int64).max
    high = np.where(used, stacked, 0).max(axis=1)
    return np.minimum(np.where(used, stacked, most).min(axis=1), high), high


def _region(op: MvmOp, first: list[int], last: list[int], low: list[int], high: list[int]) -> Region:
    """What windows of the pixels `first` to `last` read at the positions `low` to `high` within the window."""
    if not isinstance(op, Conv):
        return Region.between([*first, *low], [*last, *high])
    (n0, y0, x0), (n1, y1, x1) = first, last

    def at(axis: int, pixel: int, place: int) -> int:
        return pixel * op.strides[axis] + place * op.dilations[axis] - op.pads[axis]

    return Region.between(
        [n0, low[0], at(0, y0, low[1]), at(1, x0, low[2])], [n1, high[0], at(0, y1, high[1]), at(1, x1, high[2])]
    )
