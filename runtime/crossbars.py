"""What the crossbars of a program hold, as the engines need it: cells, effective weights, and the proof that reads
are lossless.

Nothing here looks at reference weights: everything is decoded from the cells, the places, the splice multipliers and
the row groups, so a changed cell changes the result. Only rows that a group drives, and columns that the tile uses,
count.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from smec.ir.isa_sections import Hardware, row_signs, tile_of_crossbar
from smec.runtime.arrays import Array, IntArray
from smec.runtime.kernels import kernel


@dataclass(frozen=True)
class Tile:
    """One tile: its used rows and columns (positions in the tile), their addresses, and its crossbars.

    rows, columns int64: positions. row_from, column_to int64: addresses relative to the pixel. shift int64: of the
    used rows. offset: subtracted from every weight (offset coding). signs int64 [used rows, used columns]: what reads
    count by, with sign blocks. first, count: its crossbars.
    """

    index: int
    rows: IntArray
    columns: IntArray
    row_from: IntArray
    column_to: IntArray
    shift: IntArray
    offset: int
    signs: IntArray | None
    first: int
    count: int


class Crossbars:
    """The crossbars of one program.

    Args:
        sections: of a validated program.
        hardware: its target's numbers.
        act_bits: A, bits of an activation.
    """

    def __init__(self, sections: Mapping[str, Array], hardware: Hardware, act_bits: int) -> None:
        self.hardware = hardware
        self.act_bits = act_bits
        self.cell_bits = hardware.cell_bits
        self.top = (1 << hardware.adc_bits) - 1
        self.group: Array = sections["xbar_group"]
        self.weight: IntArray = np.asarray(sections["xbar_weight"])
        self._sections = sections
        self._place = np.asarray(sections["xbar_place"]).astype(np.int64)
        self._phys = np.asarray(sections["xbar_phys"]).astype(np.int64)
        self._cells: Array = sections["cells"].view()
        self._cells.flags.writeable = False  # mapped files are: one type for the compiled kernels
        self._tiles: dict[int, Tile] = {}

    def tile(self, index: int) -> Tile:
        """Used rows, columns and crossbars of a tile."""
        if index not in self._tiles:
            s = self._sections
            rows = np.flatnonzero(s["tile_rows"][index] >= 0)
            columns = np.flatnonzero(s["tile_cols"][index] >= 0)
            first, count = s["tile_xbars"][index].tolist()
            self._tiles[index] = Tile(
                index,
                rows,
                columns,
                s["tile_rows"][index, rows].astype(np.int64),
                s["tile_cols"][index, columns].astype(np.int64),
                s["tile_shift"][index, rows].astype(np.int64),
                int(s["tile_offset"][index]),
                row_signs(s, index, rows, columns),
                first,
                count,
            )
        return self._tiles[index]

    @cached_property
    def lossless(self) -> Array:
        """bool [crossbars, groups]: True where no input can make a used column of the group exceed the ADC's range.

        First the bound (rows driven) (2^c - 1) (2^d - 1) <= 2^B - 1; where it fails, the largest current that the cells
        themselves allow: each driven row gives the largest digit that any A-bit input has in that read.
        """
        crossbars = len(self.group)
        groups = int(self.group.max(initial=-1)) + 1
        proven = np.ones((crossbars, max(groups, 1)), np.bool_)
        if not groups:
            return proven
        key = np.arange(crossbars, dtype=np.int64)[:, None] * (groups + 1) + self.group + 1
        driven = np.bincount(key.reshape(-1), minlength=crossbars * (groups + 1)).reshape(crossbars, groups + 1)[:, 1:]
        digit = (1 << self.hardware.dac_bits) - 1
        proven[:] = driven * ((1 << self.cell_bits) - 1) * digit <= self.top
        tile_of = tile_of_crossbar(self._sections["tile_xbars"], crossbars)
        for crossbar in np.flatnonzero(~proven.all(axis=1)).tolist():
            tile = self.tile(int(tile_of[crossbar]))
            worst = worst_currents(
                self.values(tile, crossbar),
                self.group[crossbar, tile.rows].astype(np.int64),
                tile.shift,
                groups,
                self.act_bits,
                self.hardware.dac_bits,
            )
            proven[crossbar] |= worst <= self.top
        return proven

    def values(self, tile: Tile, crossbar: int) -> Array:
        """Cell contents of a crossbar, uint8 [used rows, used columns]."""
        _, _, row0, col0 = self._place[crossbar].tolist()
        out = np.empty((len(tile.rows), len(tile.columns)), np.uint8)
        unpack_cells(self._cells[self._phys[crossbar]], tile.rows + row0, tile.columns + col0, self.cell_bits, out)
        return out

    @cached_property
    def clips(self) -> Array:
        """bool [crossbars]: True where some group is not proven lossless."""
        return np.asarray(~self.lossless.all(axis=1))

    def kept(self, tile: Tile, crossbar: int, lossless: bool, lift: int | None = None) -> Array:
        """bool [used rows]: rows in groups that are (or, if not `lossless`, are not) proven lossless.

        lift: of these, only rows that lie so many positions above the lowest row shift of their group.
        """
        group = self.group[crossbar, tile.rows]
        proven = self.lossless[crossbar, np.maximum(group, 0)]
        kept = (group >= 0) & (proven == lossless)
        return np.asarray(kept if lift is None else kept & (self.lifts(tile, crossbar) == lift))

    def lifts(self, tile: Tile, crossbar: int) -> IntArray:
        """By how much the row shift of each used row exceeds the lowest one of its group, int64 [used rows]; 0 where no
        group drives it.
        """
        group = self.group[crossbar, tile.rows]
        lowest = np.full(int(group.max(initial=-1)) + 2, 255, np.int64)  # the last entry is that of group -1
        np.minimum.at(lowest, group, tile.shift)
        return np.where(group >= 0, tile.shift - lowest[group], 0)

    def passes(self, window: tuple[int, int], tiles: Sequence[int]) -> list[tuple[int | None, int]]:
        """A read of some of the input digits as products with masked inputs: (lift, mask) of each, see `kept`.

        Read t of a group drives digit t of its inputs, each shifted by its lift: bits td - lift and up of the input
        itself. So rows of one lift read the same bits of their inputs.

        Args:
            window: first digit, and how many; (0, 0): all, which is one product with lift None.
            tiles: whose rows are read.
        """
        first, digits = window
        if not digits:
            return [(None, -1)]
        d = self.hardware.dac_bits
        bits = (1 << (first + digits) * d) - (1 << first * d)
        known = {0}  # rows that are only read for an offset have none
        for tile in map(self.tile, tiles):
            for crossbar in range(tile.first, tile.first + tile.count):
                known.update(self.lifts(tile, crossbar).tolist())
        return [(lift, bits >> lift) for lift in sorted(known)]

    def add_weights(
        self,
        tile: Tile,
        out: IntArray,
        row_at: IntArray,
        column_at: IntArray,
        everything: bool = False,
        lift: int | None = None,
    ) -> None:
        """Add a tile's effective weights to out int64, at [row_at[r], column_at[n]]; columns with column_at < 0 are
        left out.

        Only rows in lossless groups, unless `everything`; only those of this lift, where one is given. The offset of
        offset coding is not in it.
        """
        if not tile.count:
            return
        crossbars = slice(tile.first, tile.first + tile.count)
        group = self.group[crossbars][:, tile.rows]
        keep = group >= 0
        if not everything:
            keep &= np.take_along_axis(self.lossless[crossbars], np.maximum(group, 0), axis=1)
        if lift is not None:
            keep &= np.stack([self.lifts(tile, x) for x in range(tile.first, tile.first + tile.count)]) == lift
        if tile.signs is not None:
            kept = np.flatnonzero(column_at >= 0)
            held = np.zeros((len(tile.rows), len(tile.columns)), np.int64)
            self._add(tile, keep, held, np.arange(len(tile.rows)), np.arange(len(tile.columns)))
            np.add.at(out, np.ix_(row_at, column_at[kept]), (held * tile.signs)[:, kept])
            return
        self._add(tile, keep, out, row_at, column_at)

    def _add(self, tile: Tile, keep: Array, out: IntArray, row_at: IntArray, column_at: IntArray) -> None:
        """`add_weights` of the cells alone, of the rows `keep` bool [crossbars of the tile, used rows]."""
        crossbars = slice(tile.first, tile.first + tile.count)
        add_tile_weights(
            self._cells,
            self._phys[crossbars],
            self._place[crossbars],
            self.weight[crossbars],
            keep,
            tile.rows,
            tile.columns,
            tile.shift,
            self.cell_bits,
            row_at,
            column_at,
            out,
        )


@kernel
def unpack_cells(packed: Array, rows: IntArray, columns: IntArray, cell_bits: int, out: Array) -> None:
    """out[r, n] = the cell at physical row rows[r] and column columns[n]; packed uint8 [R, bytes], little bit order."""
    mask = (1 << cell_bits) - 1
    last = packed.shape[1] - 1
    for r in range(len(rows)):
        data = packed[rows[r]]
        for n in range(len(columns)):
            bit = columns[n] * cell_bits
            byte = bit >> 3
            pair = np.int64(data[byte]) | np.int64(data[min(byte + 1, last)]) << 8
            out[r, n] = (pair >> (bit & 7)) & mask


@kernel
def add_tile_weights(
    cells: Array, phys: IntArray, place: IntArray, weight: IntArray, keep: Array, rows: IntArray, columns: IntArray,
    shift: IntArray, cell_bits: int, row_at: IntArray, column_at: IntArray, out: IntArray,
) -> None:  # fmt: skip
    """out[row_at[r], column_at[n]] += sum over the crossbars x that keep row r of weight[x] * cell[x, r, n] <<
    shift[r].
    """
    mask = (1 << cell_bits) - 1
    last = cells.shape[2] - 1
    # the usual case: one-bit cells in consecutive columns that go to consecutive places, eight at a time
    straight = cell_bits == 1
    for n in range(len(columns)):
        straight &= columns[n] == columns[0] + n and column_at[n] == column_at[0] + n and column_at[0] >= 0
    for r in range(len(rows)):
        into = out[row_at[r]]
        for x in range(len(phys)):
            if not keep[x, r]:
                continue
            data = cells[phys[x], place[x, 2] + rows[r]]
            factor = weight[x] << shift[r]
            if straight and len(columns) and (place[x, 3] + columns[0]) % 8 == 0:
                first = (place[x, 3] + columns[0]) >> 3
                for n in range(0, len(columns), 8):
                    byte = np.int64(data[first + (n >> 3)])
                    if byte:
                        eight = into[column_at[0] + n : column_at[0] + min(n + 8, len(columns))]
                        for i in range(len(eight)):
                            eight[i] += factor * ((byte >> i) & 1)
                continue
            for n in range(len(columns)):
                if column_at[n] < 0:
                    continue
                bit = (place[x, 3] + columns[n]) * cell_bits
                byte = bit >> 3
                pair = np.int64(data[byte]) | np.int64(data[min(byte + 1, last)]) << 8
                into[column_at[n]] += factor * ((pair >> (bit & 7)) & mask)


@kernel
def worst_currents(
    values: Array, group: IntArray, shift: IntArray, groups: int, act_bits: int, dac_bits: int
) -> IntArray:
    """Largest current of each row group over inputs, reads and columns, int64 [groups]; values uint8 [rows, columns].

    In the read of digit t a row of relative shift s can be driven with the digit t of (2^A - 1) << s, and all rows at
    once with theirs: the bound is reached.
    """
    lowest = np.full(groups, 64, np.int64)
    highest = np.full(groups, 0, np.int64)
    for r in range(len(group)):
        if group[r] >= 0:
            lowest[group[r]] = min(lowest[group[r]], shift[r])
            highest[group[r]] = max(highest[group[r]], shift[r])
    worst = np.zeros(groups, np.int64)
    current = np.zeros(values.shape[1], np.int64)
    full = (np.int64(1) << act_bits) - 1
    for g in range(groups):
        if lowest[g] == 64:
            continue
        # rows of one shift all peak in the first read
        span = highest[g] - lowest[g]
        reads = (act_bits + span + dac_bits - 1) // dac_bits if span else 1
        for t in range(reads):
            current[:] = 0
            for r in range(len(group)):
                if group[r] == g:
                    digit = ((full << (shift[r] - lowest[g])) >> (t * dac_bits)) & ((1 << dac_bits) - 1)
                    if digit:
                        for n in range(values.shape[1]):
                            current[n] += digit * np.int64(values[r, n])
            for n in range(values.shape[1]):
                worst[g] = max(worst[g], current[n])
    return worst
