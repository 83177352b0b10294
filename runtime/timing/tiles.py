"""What one pixel costs on each tile: reads, conversions, rows driven, and which arrays and converters they occupy.

The blocks of a tile lie in one or more physical crossbars. Blocks side by side in one of them have the same rows, and
share reads where their row groups agree: no row is in group i of one and group j of another, and a row that only some
of them drive holds zeros in the others. Otherwise they need reads of their own, one after the other. Different physical
crossbars of a tile read at the same time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from smec.ir.isa_sections import IntArray, reads_within, tile_of_crossbar
from smec.ir.isa_table import by_instruction
from smec.runtime.container import Program
from smec.runtime.kernels import kernel
from smec.runtime.timing.machine import Machine

#: Blocks whose row groups are handled at a time, to bound memory.
_BATCH = 1 << 14


@dataclass(frozen=True)
class Tiles:
    """Costs of one pixel, int64 [uses] each, and where they fall.

    A use is a tile with the input digits that are read: first all tiles with all digits, in their order, then those
    that instructions read in part (`index`).

    reads: crossbar reads, one after the other: those of the busiest physical crossbar.
    conversions: of all columns, of each block's only in reads that drive some of its rows. drives: digits put on rows,
    counted once for blocks that are read together.
    cells: cells read (driven rows times used columns, over all blocks). rows, columns: used ones.
    converter_time: fs that the busiest bank of converters takes.
    arrays: for each use its physical crossbars, as (index, reads). banks: likewise (bank, conversions).
    parts: the uses of some digits by (tile, first digit, digits).
    """

    reads: IntArray
    conversions: IntArray
    drives: IntArray
    cells: IntArray
    rows: IntArray
    columns: IntArray
    converter_time: IntArray
    arrays: list[list[tuple[int, int]]]
    banks: list[list[tuple[int, int]]]
    parts: dict[tuple[int, int, int], int]

    def index(self, operands: Mapping[str, int]) -> int:
        """The use that a `mvm` with these operands makes."""
        tile, digits = operands["tile"], operands["digits"]
        return self.parts[tile, operands["first"], digits] if digits else tile


@dataclass(frozen=True)
class _Entries:
    """The blocks of each use, int64 [entries] each: use, block, first digit and digits (0: all), and the entry whose
    reads it shares.
    """

    use: IntArray
    block: IntArray
    first: IntArray
    digits: IntArray
    leader: IntArray

    def read(self, reads: IntArray, part: slice) -> IntArray:
        """Reads of the row groups of some entries, where all digits take `reads`, int64 [entries of part, groups]."""
        return reads_within(reads, self.first[part, None], self.digits[part, None])


def tile_costs(program: Program, machine: Machine) -> Tiles:
    """The costs of every tile of a program."""
    s = program.sections
    blocks = len(s["xbar_phys"])
    tile = tile_of_crossbar(np.asarray(s["tile_xbars"]), blocks)
    phys = np.asarray(s["xbar_phys"]).astype(np.int64)
    place = np.asarray(s["xbar_place"]).astype(np.int64)
    group = np.array(s["xbar_group"])
    leader = _share_reads(program, tile, phys, group)
    uses, entries = _entries(program, leader)
    count = len(uses)
    columns = np.count_nonzero(np.asarray(s["tile_cols"]) >= 0, axis=1).astype(np.int64)[uses[:, 0]]
    rows = np.count_nonzero(np.asarray(s["tile_rows"]) >= 0, axis=1).astype(np.int64)[uses[:, 0]]
    leads = np.flatnonzero(entries.leader == np.arange(len(entries.block)))
    own_reads, own_drives, block_reads, block_cells = _block_costs(program, tile, group, entries, machine.dac_bits)

    # One entry for each physical crossbar of each use.
    key = entries.use * (int(phys.max(initial=0)) + 1) + phys[entries.block]
    known, at, entry = np.unique(key, return_index=True, return_inverse=True)
    entry = entry.reshape(-1)
    array_use, array_block = entries.use[at], entries.block[at]
    array_reads = _sums(entry[leads], own_reads[leads], len(known))
    array_drives = _sums(entry[leads], own_drives[leads], len(known))
    array_conversions = _sums(entry, block_reads * columns[entries.use], len(known))
    bank = place[array_block, 0] * machine.crossbars_per_core + place[array_block, 1] // machine.adc_crossbars

    reads = np.zeros(count, np.int64)
    np.maximum.at(reads, array_use, array_reads)
    arrays: list[list[tuple[int, int]]] = [[] for _ in range(count)]
    load: list[dict[int, int]] = [{} for _ in range(count)]
    columns_of = zip(
        array_use.tolist(), phys[array_block].tolist(), array_reads.tolist(), bank.tolist(), array_conversions.tolist()
    )
    for u, q, n, b, c in columns_of:
        arrays[u].append((q, n))
        if c:
            load[u][b] = load[u].get(b, 0) + c
    busiest = np.array([max(banks.values(), default=0) for banks in load], np.int64).reshape(count)
    whole = len(s["tile_xbars"])
    return Tiles(
        reads=reads,
        conversions=_sums(array_use, array_conversions, count),
        drives=_sums(array_use, array_drives, count),
        cells=_sums(entries.use, block_cells * columns[entries.use], count),
        rows=rows,
        columns=columns,
        converter_time=-(-busiest // machine.adc_per_bank) * machine.conversion,
        arrays=arrays,
        banks=[list(banks.items()) for banks in load],
        parts={(t, first, digits): whole + i for i, (t, first, digits) in enumerate(uses[whole:].tolist())},
    )


def _entries(program: Program, leader: IntArray) -> tuple[IntArray, _Entries]:
    """The uses of a program, int64 [uses, 3] (tile, first digit, digits), and their blocks.

    Args:
        leader: int64 [blocks], the block whose reads each block shares.
    """
    tiles = np.asarray(program.sections["tile_xbars"])
    whole = np.zeros((len(tiles), 3), np.int64)
    whole[:, 0] = np.arange(len(tiles))
    parts = np.zeros((0, 3), np.int64)
    for instruction, _, operands in by_instruction(program.sections["code"]):
        if instruction.mnemonic == "mvm":
            some = np.stack([operands[name] for name in ("tile", "first", "digits")], axis=1)
            parts = np.unique(some[some[:, 2] > 0], axis=0)
    uses = np.concatenate([whole, parts])
    count = tiles[uses[:, 0], 1]
    use = np.repeat(np.arange(len(uses)), count)
    start = np.cumsum(count) - count
    block = np.arange(len(use)) + (tiles[uses[:, 0], 0] - start)[use]
    own = np.arange(len(use)) + leader[block] - block
    return uses, _Entries(use, block, uses[use, 1], uses[use, 2], own)


def _sums(index: IntArray, values: IntArray, size: int) -> IntArray:
    out = np.zeros(size, np.int64)
    np.add.at(out, index, values)
    return out


def _share_reads(program: Program, tile: IntArray, phys: IntArray, group: npt.NDArray[np.int16]) -> IntArray:
    """The block whose reads each block shares, int64 [blocks]: itself, or an earlier one beside it.

    `group` of the blocks that others share reads with becomes the union: what is driven in these reads.
    """
    s = program.sections
    leader = np.arange(len(tile), dtype=np.int64)
    key = tile * (int(phys.max(initial=0)) + 1) + phys
    _, which, size = np.unique(key, return_inverse=True, return_counts=True)
    which = which.reshape(-1)
    beside = np.flatnonzero(size[which] > 1)
    if len(beside):
        beside = beside[np.argsort(which[beside], kind="stable")]
        cells = np.asarray(s["cells"]).view()
        cells.flags.writeable = False  # those of mapped files are: one type for the compiled kernel
        used = np.asarray(s["tile_cols"]) >= 0
        place = np.asarray(s["xbar_place"]).astype(np.int64)
        share_reads(beside, which, tile, phys, place, used, cells, program.hardware.cell_bits, group, leader)
    return leader


@kernel
def share_reads(
    blocks: IntArray, which: IntArray, tile: IntArray, phys: IntArray, place: IntArray, used: npt.NDArray[np.bool_],
    cells: npt.NDArray[np.uint8], cell_bits: int, group: npt.NDArray[np.int16], leader: IntArray,
) -> None:  # fmt: skip
    """Let blocks of one tile and one physical crossbar (`which` is equal) share reads where they can.

    `blocks` are sorted by `which`. A block joins the first leader with whose groups its own agree: rows that both drive
    are in equal groups, and rows that one drives are zero in the other, and in all that follow the leader.
    """
    rows = group.shape[1]
    # Rows that a leader and its followers drive, or that are zero there.
    clear = np.zeros((len(blocks), rows), np.bool_)
    empty = np.zeros(rows, np.bool_)
    first = 0
    for i in range(len(blocks)):
        block = blocks[i]
        if which[block] != which[blocks[first]]:
            first = i
        for r in range(rows):
            empty[r] = True
            row = r + place[block, 2]
            if group[block, r] >= 0 or row >= cells.shape[1]:
                continue  # whether a driven row is empty makes no difference
            for n in range(used.shape[1]):
                if used[tile[block], n]:
                    for bit in range((n + place[block, 3]) * cell_bits, (n + place[block, 3] + 1) * cell_bits):
                        if (cells[phys[block], row, bit >> 3] >> (bit & 7)) & 1:
                            empty[r] = False
                if not empty[r]:
                    break
        for j in range(first, i):
            other = blocks[j]
            if leader[other] != other:
                continue
            agrees = True
            for r in range(rows):
                mine, theirs = group[block, r], group[other, r]
                if mine >= 0 and theirs >= 0:
                    agrees &= mine == theirs
                elif theirs >= 0:
                    agrees &= empty[r]
                elif mine >= 0:
                    agrees &= clear[j, r]
            if agrees:
                leader[block] = other
                for r in range(rows):
                    clear[j, r] &= empty[r] or group[block, r] >= 0
                    group[other, r] = max(group[other, r], group[block, r])
                break
        if leader[block] == block:
            for r in range(rows):
                clear[i, r] = empty[r] or group[block, r] >= 0


def _block_costs(
    program: Program, tile: IntArray, group: npt.NDArray[np.int16], entries: _Entries, dac_bits: int
) -> tuple[IntArray, IntArray, IntArray, IntArray]:
    """Costs of each entry's block for one pixel, int64 [entries] each.

    A group of rows takes ceil((A + kmax - kmin) / d) reads, k being its row shifts.

    Returns:
        Of a leader's reads: (their number, rows driven summed over them). Of a block's own part in them: (reads that
        drive some of its rows, its driven rows summed over them).
    """
    count, width = len(entries.block), int(group.max(initial=-1)) + 1
    shifts, own = np.asarray(program.sections["tile_shift"]), np.asarray(program.sections["xbar_group"])
    cycles = np.zeros((count, max(width, 1)), np.int64)
    drives = np.zeros(count, np.int64)
    for first in range(0, count, _BATCH):
        part = slice(first, min(count, first + _BATCH))
        n = part.stop - part.start
        driven = group[entries.block[part]]
        block, row = np.nonzero(driven >= 0)
        key = block * cycles.shape[1] + driven[block, row]
        shift = shifts[tile[entries.block[part]][block], row].astype(np.int64)
        low, high = (np.full(n * cycles.shape[1], level, np.int64) for level in (255, -1))
        np.minimum.at(low, key, shift)
        np.maximum.at(high, key, shift)
        reads = np.where(high >= 0, -(-(program.act_bits + high - low) // dac_bits), 0).reshape(n, -1)
        cycles[part] = entries.read(reads, part)
        rows = np.bincount(key, minlength=n * cycles.shape[1]).reshape(n, -1)
        drives[part] = (cycles[part] * rows).sum(axis=1)
    own_reads, own_cells = np.zeros(count, np.int64), np.zeros(count, np.int64)
    for first in range(0, count, _BATCH):
        part = slice(first, min(count, first + _BATCH))
        n = part.stop - part.start
        driven = own[entries.block[part]]
        block, row = np.nonzero(driven >= 0)
        key = block * cycles.shape[1] + driven[block, row]
        rows = np.bincount(key, minlength=n * cycles.shape[1]).reshape(n, -1)
        reads = cycles[entries.leader[part]]
        own_reads[part] = (reads * (rows > 0)).sum(axis=1)
        own_cells[part] = (reads * rows).sum(axis=1)
    return cycles.sum(axis=1), drives, own_reads, own_cells
