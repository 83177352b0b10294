"""How many physical crossbars a layer will take, before there are any weights: its tiles, and what they can share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from smec.passes.mapping.layers import Hardware
from smec.passes.mapping.placement import Work, place, slots_needed
from smec.passes.mapping.tiling import blocks_per_tile


@dataclass(frozen=True)
class Extents:
    """Rows and columns in use of each tile of a layer, int64 [T] each."""

    heights: np.ndarray
    widths: np.ndarray


@dataclass(frozen=True)
class Footprint:
    """What a layer takes of the target: cells, and what keeps them from sharing.

    A side counts u = 0 if it is less than half of the crossbar's, 1 if it is half, 2 if it is more; on one line of a
    crossbar these add up to 2 at most.

    Attributes:
        cells: rows x columns of all its crossbars.
        tall: u of the rows x columns.
        wide: rows x u of the columns.
        large: u of the rows x u of the columns.
    """

    cells: int
    tall: int
    wide: int
    large: int

    def no_more_than(self, other: Footprint) -> bool:
        """Whether it takes no more of anything."""
        return all(getattr(self, of.name) <= getattr(other, of.name) for of in fields(self))


def capacity(target: Hardware) -> Footprint:
    """What a physical crossbar has of each."""
    return Footprint(target.rows * target.columns, 2 * target.columns, 2 * target.rows, 4)


def tile_extents(groups: int, k: int, m: int, height: int, width: int) -> Extents:
    """The tiles that `smec.passes.mapping.tiling` makes of g blocks of k x m, if no row or column is all zero.

    Args:
        groups: g.
        k, m: rows and columns of one group's matrix.
        height, width: R, C.
    """
    heights: list[int] = []
    widths: list[int] = []
    for top in range(0, k, height):
        for left in range(0, m, width):
            h, w = min(height, k - top), min(width, m - left)
            each = blocks_per_tile(h, w, height, width) if groups > 1 else 1
            full, rest = divmod(groups, each)
            blocks = [each] * full + ([rest] if rest else [])
            heights += [h * n for n in blocks]
            widths += [w * n for n in blocks]
    return Extents(np.array(heights, np.int64), np.array(widths, np.int64))


def footprint(extents: Extents, crossbars: int, target: Hardware, alone: bool) -> Footprint:
    """The footprint of a layer whose tiles have `crossbars` crossbars each.

    Args:
        extents: the tiles.
        crossbars: planes of a tile, those of both signs.
        target: the hardware.
        alone: the tiles are read all the time, so that they share with none: they take physical crossbars whole.
    """
    h, w = extents.heights, extents.widths
    if alone:
        whole = int(slots_needed(np.full(len(w), crossbars, np.int64), w, target.columns, beside=True).sum())
        return Footprint(*(whole * getattr(capacity(target), of.name) for of in fields(Footprint)))
    u, v = _halves(h, target.rows), _halves(w, target.columns)
    return Footprint(*(crossbars * int((a * b).sum()) for a, b in ((h, w), (u, w), (h, v), (u, v))))


def _halves(sizes: np.ndarray, limit: int) -> np.ndarray:
    halves: np.ndarray = (2 * sizes >= limit).astype(np.int64) + (2 * sizes > limit)
    return halves


def crossbars_at_least(footprints: Sequence[Footprint], target: Hardware) -> int:
    """Physical crossbars that layers with these footprints take at least (`smec.passes.mapping.packing`)."""
    room = capacity(target)
    least: int = max(
        -(-sum(getattr(f, of.name) for f in footprints) // getattr(room, of.name)) for of in fields(Footprint)
    )
    return least


def busy_all_the_time(pixels: Sequence[int]) -> list[bool]:
    """Whether the tiles of each layer can share with no other, if sharing is to cost no time.

    Args:
        pixels: of each layer, an image, as if one took as many reads everywhere.
    """
    return [n + min(pixels) > max(pixels) for n in pixels]


def crossbars_placed(
    layers: Sequence[Extents], crossbars: Sequence[int], pixels: Sequence[int], target: Hardware
) -> int:
    """Physical crossbars that `smec.passes.mapping.placement` fills with these layers, in their order, if sharing is to
    cost no time.

    Args:
        layers, crossbars: tiles of each, and crossbars of a tile.
        pixels: of each layer, an image, as if one took as many reads everywhere.
        target: the hardware.
    """
    if not layers:
        return 0
    sizes = [len(layer.heights) for layer in layers]
    work = Work(np.repeat(np.array(pixels, np.int64), sizes), max(pixels))
    return place(
        np.repeat(np.array(crossbars, np.int64), sizes),
        np.concatenate([layer.heights for layer in layers]),
        np.concatenate([layer.widths for layer in layers]),
        rows=target.rows,
        columns=target.columns,
        per_core=target.crossbars_per_core,
        work=work,
    ).physical
