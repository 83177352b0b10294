"""Engine `adc`: every crossbar read digit by digit, with the ADC's clipping, on packed bit planes.

For each tile the inputs are packed once (`smec.runtime.kernels_adc`), in as many orders as its crossbars need:

1. rows of groups that cannot saturate are read together, whatever their groups, shifts and crossbars: a read of all
   of them gives the sum of their groups' reads, still one input bit at a time. They are packed unshifted, sorted by
   row shift; the rows of one shift in a word of cells make one entry, whose factor holds the shift. Cell words
   without a one-bit are left out.
2. a group that can saturate is packed by itself, its inputs shifted to the group's lowest row shift, as the hardware
   drives it.

The offset of offset coding is an entry like those of case 1, of all used rows. In a tile with sign blocks, where a read
counts with the sign of its column, the cells that count as positive and those that count as negative are packed apart;
a group is of one sign block, so that each of its columns is in one of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from smec.runtime import kernels_adc
from smec.runtime.arrays import Array, IntArray
from smec.runtime.crossbars import Crossbars, Tile
from smec.runtime.kernels_adc import CLIPPED, CLIPPED_DIGITS, PLANES
from smec.runtime.threads import Workers
from smec.runtime.units import Part, TileUse, Unit


class AdcPart:
    """The reads of some tiles."""

    engine = "adc"
    #: Several times the kernel's own blocks, to make a call worth while.
    rows = 4 * kernels_adc.LANES

    def __init__(self, unit: Unit, tables: Tables, converter: tuple[int, int, int]) -> None:
        self.pixels = unit.pixels
        self.tile_index = np.array(tables.tile_index, np.int64)
        self.converter = converter
        self.arrays = tables.arrays()

    def add(self, source: Array, start: int, stop: int, acc: Array, workers: Workers, saturated: IntArray) -> None:
        run: Any = kernels_adc.run_tiles  # takes the tables one by one
        over = run(source, start, stop, self.pixels, *self.arrays, self.converter, acc)
        if over.any():
            with workers.lock:
                np.add.at(saturated, self.tile_index, over)


@dataclass
class Tables:
    """The tables of `smec.runtime.kernels_adc`, under construction."""

    crossbars: Crossbars
    tile_index: list[int] = field(default_factory=list)
    tiles: list[list[int]] = field(default_factory=list)
    chunks: list[list[int]] = field(default_factory=list)
    slot_from: list[IntArray] = field(default_factory=list)
    slot_shift: list[IntArray] = field(default_factory=list)
    slots: list[int] = field(default_factory=list)
    channels: list[IntArray] = field(default_factory=list)
    first: list[IntArray] = field(default_factory=list)
    words: list[Array] = field(default_factory=list)
    factors: list[IntArray] = field(default_factory=list)
    clipped: list[list[int]] = field(default_factory=list)
    clipped_words: list[Array] = field(default_factory=list)
    sizes: dict[str, int] = field(default_factory=lambda: {"channels": 0, "first": 0, "words": 0, "clipped_words": 0})
    last_chunks: tuple[list[bytes], int, int] = ([], 0, 0)

    def append(self, name: str, values: Array) -> int:
        """Append to one of the flat tables; the place of the values."""
        place = self.sizes[name]
        getattr(self, name).append(values.reshape(-1))
        self.sizes[name] += values.size
        return place

    def arrays(self) -> tuple[Any, ...]:
        """In the order of the kernel's arguments."""

        def joined(parts: list[Any], dtype: Any) -> Array:
            return np.concatenate(parts).astype(dtype, copy=False) if parts else np.zeros(0, dtype)

        slot_from, shift = joined(self.slot_from, np.int64), joined(self.slot_shift, np.int64)
        eights = slot_from.reshape(-1, 8)
        runs = (np.diff(eights, axis=1) == 1).all(axis=1) & (shift.reshape(-1, 8) == 0).all(axis=1)
        return (
            np.array(self.chunks, np.int64).reshape(-1, 5),
            slot_from,
            shift,
            np.array(self.slots, np.int64),
            runs,
            np.array(self.tiles, np.int64).reshape(-1, 8),
            joined(self.channels, np.int64),
            joined(self.first, np.int64),
            joined(self.words, np.uint64),
            joined(self.factors, np.int64),
            np.array(self.clipped, np.int64).reshape(-1, 6),
            joined(self.clipped_words, np.uint64),
        )

    def add_tile(self, use: TileUse, lossless: bool, window: tuple[int, int]) -> None:
        """Append a tile: the reads of its lossy groups, those of its lossless groups if wanted, and its offset.

        window: first input digit that is read, and how many; (0, 0): all.
        """
        for lift, mask in self.crossbars.passes(window, [use.tile]):
            if mask or not lift:
                self._add_pass(use, lossless, lift, mask)

    def _add_pass(self, use: TileUse, lossless: bool, lift: int | None, mask: int) -> None:
        """Append what a tile reads with rows of one lift.

        Reads that can be clipped, whose rows belong together, and the offset come with the lowest.
        """
        builder = _TileBuilder(self, self.crossbars.tile(use.tile), use, lift, mask)
        builder.find_unclipped(lossless)
        if not lift:
            builder.find_clipped()
        chunks = self.add_chunks(builder.chunks)
        entries = builder.unclipped(chunks[0]) if builder.order.size else (-1, 0)
        reads = len(self.clipped)
        self.clipped += [[kind, chunks[0] + chunk, *rest, 0] for kind, chunk, *rest in builder.reads]
        channels = self.append("channels", use.channels[builder.kept])
        self.tiles.append([*chunks, reads, len(self.clipped), len(builder.kept), channels, *entries])
        self.tile_index.append(use.tile)

    def add_chunks(self, chunks: dict[bytes, tuple[IntArray, IntArray, int, int]]) -> tuple[int, int]:
        """Append chunks, (addresses, shifts, planes, mask) each, unless the tile before has the same; their range."""
        keys, low, high = self.last_chunks
        if keys == list(chunks) and keys:
            return low, high
        low, place = len(self.chunks), 0
        for addresses, shifts, planes, mask in chunks.values():
            words = -(-len(addresses) // 64)
            slot_from, slot_shift = np.zeros(words * 64, np.int64), np.zeros(words * 64, np.int64)
            slot_from[: len(addresses)], slot_shift[: len(addresses)] = addresses, shifts
            self.chunks.append([len(self.slots), words, planes, place, mask])
            self.slot_from.append(slot_from)
            self.slot_shift.append(slot_shift)
            self.slots += [min(64, len(addresses) - 64 * w) for w in range(words)]
            place += words * planes
        self.last_chunks = list(chunks), low, len(self.chunks)
        return low, len(self.chunks)


class _TileBuilder:
    """Packs one tile's rows and cells, of unclipped reads those of one lift (None: all).

    mask: bits of the inputs that are read, -1 for all; bits above them get no planes.
    chunks: (addresses, shifts, planes, mask) of rows packed together; equal ones once. order: rows of the unclipped
    reads, as packed in the first chunk. reads: kind, chunk, planes or digits, place of cells, multiplier.
    """

    def __init__(self, tables: Tables, tile: Tile, use: TileUse, lift: int | None, mask: int) -> None:
        self.tables, self.tile, self.use, self.lift, self.mask = tables, tile, use, lift, mask
        self.crossbars = tables.crossbars
        self.kept = np.flatnonzero(use.channels >= 0)
        self.chunks: dict[bytes, tuple[IntArray, IntArray, int, int]] = {}
        self.order: IntArray = np.zeros(0, np.int64)
        self.keep: list[Array] = []
        self.reads: list[list[int]] = []

    @property
    def indices(self) -> range:
        """The tile's crossbars."""
        return range(self.tile.first, self.tile.first + self.tile.count)

    @property
    def has_offset(self) -> bool:
        """Whether the tile has an offset, which is subtracted once, with the lowest lift."""
        return bool(self.tile.offset) and not self.lift

    def top(self, bits: int) -> int:
        """How many of the lowest bits of shifted inputs need planes: those up to the highest that is read."""
        return bits if self.mask < 0 else min(bits, max(1, self.mask.bit_length()))

    def chunk(self, rows: IntArray, shifts: IntArray, planes: int) -> int:
        """Have the inputs of these rows packed together; number of the chunk in the tile."""
        addresses = self.use.origin + self.tile.row_from[rows]
        planes = -(-planes // PLANES) * PLANES
        mask = self.mask if self.mask < 0 else self.mask & ((1 << planes) - 1)
        key = b"".join([addresses.tobytes(), shifts.tobytes(), bytes([planes]), repr(mask).encode()])
        self.chunks.setdefault(key, (addresses, shifts, planes, mask))
        return list(self.chunks).index(key)

    def find_unclipped(self, lossless: bool) -> None:
        """Case 1 of the module's text: which rows, and in which order."""
        rows = len(self.tile.rows)
        self.keep = [
            self.crossbars.kept(self.tile, x, True, self.lift) if lossless else np.zeros(rows, bool)
            for x in self.indices
        ]
        used = np.any(self.keep, axis=0) if self.keep else np.zeros(rows, bool)
        if self.has_offset:
            used = np.ones(rows, bool)
        rows_used = np.flatnonzero(used)
        self.order = rows_used[np.argsort(self.tile.shift[rows_used], kind="stable")]
        if self.order.size:
            self.chunk(self.order, np.zeros(len(self.order), np.int64), self.top(self.crossbars.act_bits))

    def unclipped(self, chunk: int) -> tuple[int, int]:
        """Append the entries of the unclipped reads; (chunk, place in `first`)."""
        tile, order = self.tile, self.order
        columns = len(self.kept)
        packed, factors = [], []
        shift = tile.shift[order]
        for x, mask in zip(self.indices, self.keep, strict=True):
            if not mask.any():
                continue
            for values, weight in self.by_sign(x):
                for level in np.unique(shift[mask[order]]).tolist():
                    rows = np.where(mask[order] & (shift == level), order, -1)
                    for bit in range(self.crossbars.cell_bits):
                        packed.append(self.pack(values, rows, bit))
                        factors.append(weight << (level + bit))
        if self.has_offset:
            packed.append(self.pack(np.ones((len(tile.rows), columns), np.uint8), order, 0))
            factors.append(-tile.offset)
        if not packed:
            return -1, 0
        # [columns, words, entries]: what is read against one word of inputs lies together
        entries = np.stack(packed, axis=-1)
        used = entries != 0
        count = np.count_nonzero(used, axis=-1).reshape(-1)
        place = self.tables.append("words", entries[used])
        self.tables.factors.append(np.broadcast_to(np.array(factors, np.int64), entries.shape)[used])
        first = place + np.concatenate(([0], np.cumsum(count)))
        return chunk, self.tables.append("first", first.astype(np.int64))

    def find_clipped(self) -> None:
        """Case 2 of the module's text."""
        tile, c, d = self.tile, self.crossbars.cell_bits, self.crossbars.hardware.dac_bits
        for x in self.indices:
            mask = self.crossbars.kept(tile, x, False)
            if not mask.any():
                continue
            group = np.where(mask, self.crossbars.group[x, tile.rows], -1)
            parts = self.by_sign(x)
            for g in np.unique(group[mask]).tolist():
                rows = np.flatnonzero(group == g)
                low, high = int(tile.shift[rows].min()), int(tile.shift[rows].max())
                digits = self.top(-(-(self.crossbars.act_bits + high - low) // d) * d) // d
                chunk = self.chunk(rows, tile.shift[rows] - low, digits * d)
                for values, weight in parts:
                    packed = np.stack([self.pack(values, rows, bit) for bit in range(c)])
                    place = self.tables.append("clipped_words", packed)
                    plain = packed.shape[-1] <= 2 and c == 1 and d == 1
                    kind, steps = (CLIPPED, -(-digits // PLANES) * PLANES) if plain else (CLIPPED_DIGITS, digits)
                    self.reads.append([kind, chunk, steps, place, weight << low])

    def by_sign(self, crossbar: int) -> list[tuple[Array, int]]:
        """Cells uint8 [used rows, kept columns] and splice multiplier of a crossbar, by the sign that cells count
        with.
        """
        values = self.crossbars.values(self.tile, crossbar)[:, self.kept]
        weight = int(self.crossbars.weight[crossbar])
        if self.tile.signs is None:
            return [(values, weight)]
        signs = self.tile.signs[:, self.kept]
        return [(np.where(signs == side, values, 0).astype(np.uint8), weight * side) for side in (1, -1)]

    def pack(self, values: Array, rows: IntArray, bit: int) -> Array:
        """One bit of each cell of the given rows (-1: none), uint64 [columns, words]."""
        out = np.zeros((len(self.kept), -(-len(rows) // 64)), np.uint64)
        kernels_adc.pack_cells(values, rows, bit, out)
        return out


def prepare(unit: Unit, crossbars: Crossbars, tiles: list[TileUse], lossless: bool) -> list[Part]:
    """The reads of some of a unit's tiles: of all groups, or (not `lossless`) of those only that can saturate."""
    tables = Tables(crossbars)
    for use in sorted(tiles, key=lambda use: (use.origin + crossbars.tile(use.tile).row_from).tobytes()):
        tables.add_tile(use, lossless, unit.window)
    if not tables.words and not tables.clipped:
        return []
    converter = (crossbars.hardware.dac_bits, crossbars.cell_bits, crossbars.top)
    return [AdcPart(unit, tables, converter)]
