"""How many physical crossbars a layer will take, before there are any weights: its tiles, and what they can share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from smec.passes.mapping.layers import Hardware
from smec.passes.mapping.placement import place, slots_needed
from smec.passes.mapping.tiling import blocks_per_tile


@dataclass(frozen=True)
class Extents:
    """Rows and columns in use of each tile of a layer, int64 [T] each."""

    heights: np.ndarray
    widths: np.ndarray


@dataclass(frozen=True)
class Footprint:
    """What a layer takes of the target.

    Attributes:
        whole: physical crossbars that no other tile can share.
        rows, columns: what the other crossbars take of the diagonals of shared ones.
        tall: blocks among those of more than half the rows: two never share.
    """

    whole: int
    rows: int
    columns: int
    tall: int


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


def footprint(extents: Extents, crossbars: int, target: Hardware) -> Footprint:
    """The footprint of a layer whose tiles have `crossbars` crossbars each, as `smec.passes.mapping.placement` has it.

    Crossbars of one tile are put side by side, as many as fit; blocks that have all rows or all columns of a physical
    crossbar share it with nothing else.
    """
    h, w = extents.heights, extents.widths
    counts = np.full(len(h), crossbars, np.int64)
    slots = slots_needed(counts, w, target.columns, beside=True)
    wide = w * -(-counts // np.maximum(slots, 1))
    alone = (h >= target.rows) | (wide >= target.columns)
    shared = slots[~alone]
    return Footprint(
        whole=int(slots[alone].sum()),
        rows=int((shared * h[~alone]).sum()),
        columns=int((counts * w)[~alone].sum()),
        tall=int(shared[2 * h[~alone] > target.rows].sum()),
    )


def crossbars_at_least(footprints: Sequence[Footprint], target: Hardware) -> int:
    """Physical crossbars that layers with these footprints take at least: rows and columns of a diagonal add up."""
    rows, columns, tall = (sum(getattr(f, name) for f in footprints) for name in ("rows", "columns", "tall"))
    shared: int = max(-(-rows // target.rows), -(-columns // target.columns), tall)
    return shared + sum(f.whole for f in footprints)


def crossbars_placed(layers: Sequence[Extents], crossbars: Sequence[int], target: Hardware) -> int:
    """Physical crossbars that `smec.passes.mapping.placement` fills with these layers, in their order."""
    if not layers:
        return 0
    sizes = [len(layer.heights) for layer in layers]
    return place(
        np.repeat(np.array(crossbars, np.int64), sizes),
        np.concatenate([layer.heights for layer in layers]),
        np.concatenate([layer.widths for layer in layers]),
        rows=target.rows,
        columns=target.columns,
        per_core=target.crossbars_per_core,
    ).physical
