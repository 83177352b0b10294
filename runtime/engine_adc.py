"""Engine `adc`: every crossbar read digit by digit, with the ADC's clipping, on packed bit planes.

For each tile the inputs are packed once (`smec.runtime.kernels_adc`), in as many orders as its crossbars need:

1. rows of groups that cannot saturate are read together, whatever their groups: a read of all of them gives the sum of their groups'
   reads, still one input bit at a time. They are packed in classes of neighbouring row shifts, so that rows of small shift do not
   carry the empty bits of large ones.
2. a group that can saturate is packed by itself, its inputs shifted to the group's lowest row shift, as the hardware drives it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from smec.runtime import kernels_adc
from smec.runtime.arrays import Array, IntArray
from smec.runtime.crossbars import Crossbars, Tile
from smec.runtime.kernels_adc import CLIPPED, CLIPPED_DIGITS, LOSSLESS, PLANES
from smec.runtime.threads import Workers
from smec.runtime.units import Part, TileUse, Unit

#: Rows of a block: several times the kernel's own blocks, to make a call worth while.
_ROWS = 8 * kernels_adc.PIXELS


class AdcPart:
    """The reads of some tiles."""

    engine = "adc"
    rows = _ROWS

    def __init__(self, unit: Unit, tables: Tables, converter: tuple[int, int, int]) -> None:
        self.pixels = unit.pixels
        self.tile_index = np.array(tables.tile_index, np.int64)
        self.converter = converter
        self.arrays = tables.arrays()

    def add(self, source: Array, start: int, stop: int, acc: Array, workers: Workers, saturated: IntArray) -> None:
        over = kernels_adc.run_tiles(source, start, stop, self.pixels, *self.arrays, self.converter, acc)
        if over.any():
            with workers.lock:
                np.add.at(saturated, self.tile_index, over)


@dataclass
class Tables:
    """The tables of `smec.runtime.kernels_adc.run_tiles`, under construction."""

    crossbars: Crossbars
    tile_index: list[int] = field(default_factory=list)
    tiles: list[list[int]] = field(default_factory=list)
    chunks: list[list[int]] = field(default_factory=list)
    slot_from: list[IntArray] = field(default_factory=list)
    slot_shift: list[IntArray] = field(default_factory=list)
    slots: list[int] = field(default_factory=list)
    reads: list[list[int]] = field(default_factory=list)
    cells: list[Array] = field(default_factory=list)
    channels: list[IntArray] = field(default_factory=list)
    row_from: list[IntArray] = field(default_factory=list)
    _cells: int = 0
    _channels: int = 0
    _rows: int = 0

    def arrays(self) -> tuple[Any, ...]:
        """In the order of the kernel's arguments."""

        def joined(parts: list[Any], dtype: Any) -> Array:
            return np.concatenate(parts).astype(dtype) if parts else np.zeros(0, dtype)

        return (
            np.array(self.tiles, np.int64).reshape(-1, 10),
            np.array(self.chunks, np.int64).reshape(-1, 4),
            joined(self.slot_from, np.int64),
            joined(self.slot_shift, np.uint8),
            np.array(self.slots, np.int64),
            np.array(self.reads, np.int64).reshape(-1, 8),
            joined(self.cells, np.uint64),
            joined(self.channels, np.int64),
            joined(self.row_from, np.int64),
        )

    def add_tile(self, use: TileUse, lossless: bool) -> None:
        """Append a tile: the reads of its lossy groups, those of its lossless groups if wanted, and its offset."""
        tile = self.crossbars.tile(use.tile)
        kept = np.flatnonzero(use.channels >= 0)
        builder = _TileBuilder(self, tile, use, kept)
        first_chunk, first_read = len(self.chunks), len(self.reads)
        if lossless:
            builder.add_lossless()
        builder.add_lossy()
        first_row = self._rows
        if tile.offset:
            self.row_from.append(use.origin + tile.row_from)
            self._rows += len(tile.row_from)
        row = [first_chunk, len(self.chunks), first_read, len(self.reads), builder.columns, len(kept)]
        self.tiles.append([*row, self._channels, tile.offset, first_row, self._rows])
        self.tile_index.append(use.tile)
        self.channels.append(use.channels[kept])
        self._channels += len(kept)

    def add_cells(self, words: Array) -> int:
        """Append packed cells; their place."""
        place = self._cells
        self.cells.append(words.reshape(-1))
        self._cells += words.size
        return place


class _TileBuilder:
    """Packs one tile's rows and cells into the tables."""

    def __init__(self, tables: Tables, tile: Tile, use: TileUse, kept: IntArray) -> None:
        self.tables, self.tile, self.use, self.kept = tables, tile, use, kept
        self.crossbars = tables.crossbars
        self.act_bits = self.crossbars.act_bits
        self.columns = -(-len(kept) // 8) * 8  # whole vectors of eight words
        self.extent = 0
        self._known: dict[bytes, tuple[int, int]] = {}

    def chunk(self, rows: IntArray, planes: int) -> tuple[int, int]:
        """Pack the inputs of these rows together; (place, words). Equal row lists are packed once."""
        key = rows.tobytes()
        if key not in self._known:
            words = -(-len(rows) // 64)
            planes = -(-planes // PLANES) * PLANES
            slot_from, slot_shift = np.zeros(words * 64, np.int64), np.zeros(words * 64, np.int64)
            slot_from[: len(rows)] = self.use.origin + self.tile.row_from[rows]
            slot_shift[: len(rows)] = self.tile.shift[rows] - self.tile.shift[rows].min()
            t = self.tables
            t.chunks.append([len(t.slots), words, planes, self.extent])
            t.slot_from.append(slot_from)
            t.slot_shift.append(slot_shift)
            t.slots += [min(64, len(rows) - 64 * w) for w in range(words)]
            self._known[key] = self.extent, words
            self.extent += words * planes
        return self._known[key]

    def add_lossless(self) -> None:
        """Case 1 of the module's text."""
        tile, c = self.tile, self.crossbars.cell_bits
        crossbars = range(tile.first, tile.first + tile.count)
        keep = [self.crossbars.kept(tile, x, True) for x in crossbars]
        used = np.flatnonzero(np.any(keep, axis=0)) if keep else np.zeros(0, np.int64)
        parts = [(rows, *self.chunk(rows, planes)) for rows, planes in shift_classes(used, tile.shift, self.act_bits)]
        for x, mask in zip(crossbars, keep, strict=True):
            if not mask.any():
                continue
            values = self.crossbars.values(tile, x)[:, self.kept]
            for rows, place, words in parts:
                order = np.where(mask[rows], rows, -1)
                low, high = int(tile.shift[rows].min()), int(tile.shift[rows].max())
                planes = -(-(self.act_bits + high - low) // PLANES) * PLANES
                for bit in range(c):
                    packed = self.pack(values, order, bit, words)
                    if packed.any():
                        multiplier = int(self.crossbars.weight[x]) << (low + bit)
                        self.read(LOSSLESS, place, words, planes, packed, multiplier)

    def add_lossy(self) -> None:
        """Case 2 of the module's text."""
        tile, c, d = self.tile, self.crossbars.cell_bits, self.crossbars.hardware.dac_bits
        for x in range(tile.first, tile.first + tile.count):
            mask = self.crossbars.kept(tile, x, False)
            if not mask.any():
                continue
            group = np.where(mask, self.crossbars.group[x, tile.rows], -1)
            values = self.crossbars.values(tile, x)[:, self.kept]
            for g in np.unique(group[mask]).tolist():
                rows = np.flatnonzero(group == g)
                low, high = int(tile.shift[rows].min()), int(tile.shift[rows].max())
                digits = -(-(self.act_bits + high - low) // d)
                place, words = self.chunk(rows, digits * d)
                packed = np.stack([self.pack(values, rows, bit, words) for bit in range(c)])
                multiplier = int(self.crossbars.weight[x]) << low
                if words <= 2 and c == 1 and d == 1:
                    self.read(CLIPPED, place, words, -(-digits // PLANES) * PLANES, packed, multiplier)
                else:
                    self.read(CLIPPED_DIGITS, place, words, digits, packed, multiplier)

    def pack(self, values: Array, order: IntArray, bit: int, words: int) -> Array:
        """One bit of each cell, uint64 [words, columns]."""
        out = np.zeros((words, self.columns), np.uint64)
        kernels_adc.pack_cells(values, order, bit, out)
        return out

    def read(self, kind: int, place: int, words: int, steps: int, packed: Array, multiplier: int) -> None:
        """Append one read."""
        cells = self.tables.add_cells(packed)
        self.tables.reads.append([kind, place, words, steps, cells, multiplier, 0, 0])


def shift_classes(rows: IntArray, shift: IntArray, act_bits: int) -> list[tuple[IntArray, int]]:
    """Partition rows into classes of neighbouring shifts, so that packed words times planes are fewest.

    Returns (rows, planes) of each class. Dynamic programming over the shifts that occur.
    """
    levels, counts = np.unique(shift[rows], return_counts=True)
    cost: list[int] = [0]
    cut: list[int] = [0]
    for j in range(1, len(levels) + 1):
        options = []
        for i in range(j):
            words = -(-int(counts[i:j].sum()) // 64)
            planes = act_bits + int(levels[j - 1] - levels[i])
            options.append((cost[i] + words * -(-planes // PLANES) * PLANES, i))
        best = min(options)
        cost.append(best[0])
        cut.append(best[1])
    classes = []
    j = len(levels)
    while j > 0:
        i = cut[j]
        inside = (shift[rows] >= levels[i]) & (shift[rows] <= levels[j - 1])
        classes.append((rows[inside], act_bits + int(levels[j - 1] - levels[i])))
        j = i
    return classes[::-1]


def prepare(unit: Unit, crossbars: Crossbars, tiles: list[TileUse], lossless: bool) -> list[Part]:
    """The reads of some of a unit's tiles: of all groups, or (not `lossless`) of those only that can saturate."""
    tables = Tables(crossbars)
    for use in tiles:
        tables.add_tile(use, lossless)
    if not tables.reads and not tables.row_from:
        return []
    converter = (crossbars.hardware.dac_bits, crossbars.cell_bits, crossbars.top)
    return [AdcPart(unit, tables, converter)]
