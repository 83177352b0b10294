"""Compiled loops of the engine `adc`: inputs packed into bit planes, currents as AND and popcount, the ADC's clipping.

Words and planes. 64 rows of a crossbar make one uint64 word. Of a pixel's inputs each bit position is a plane: word w of plane t
holds bit t of rows 64 w .. 64 w + 63. Of a crossbar's cells each of the c bits is a plane too: word w of column n. The current of
column n in the read of input digit t is then sum_w popcount(input[t, w] & cells[w, n]) for one-bit digits and cells, and a sum over
pairs of bits, weighted, in general. Columns are innermost, so that compilers vectorise over them.

Tables. `chunks` int64 [n, 4] describe inputs packed together: first word (into the slot tables), words, planes (a multiple of
`PLANES`), place in a pixel's row of packed words, where they lie as [planes][words]. A chunk's slots name the address of each row's
input and its shift. `reads` int64 [n, 8] describe what is read: kind, place of the packed input, words, planes or digits, place of the
cells ([c][words][columns]), multiplier, 0, 0. `tiles` int64 [n, 10]: see `run_tiles`.
"""

from __future__ import annotations

import numpy as np

from smec.runtime.arrays import Array
from smec.runtime.kernels import kernel, popcount

#: Input planes come in multiples of this many (missing ones are zero), because the inner loop takes so many at a time.
PLANES = 4
#: Pixels that go through all of a tile's crossbars together: few enough that their words stay in the first-level cache.
PIXELS = 32
#: Kinds of a read: no column can exceed the ADC's range; one that can, of at most two words, one-bit digits and cells; any other.
LOSSLESS, CLIPPED, CLIPPED_DIGITS = 0, 1, 2


@kernel
def transpose8(x: int) -> int:
    """Transpose an 8 x 8 bit matrix: bit 8 i + j becomes bit 8 j + i. (Warren, Hacker's Delight, 7-3.)"""
    y = (x ^ (x >> np.uint64(7))) & np.uint64(0x00AA00AA00AA00AA)
    x = x ^ y ^ (y << np.uint64(7))
    y = (x ^ (x >> np.uint64(14))) & np.uint64(0x0000CCCC0000CCCC)
    x = x ^ y ^ (y << np.uint64(14))
    y = (x ^ (x >> np.uint64(28))) & np.uint64(0x00000000F0F0F0F0)
    return x ^ y ^ (y << np.uint64(28))


@kernel
def pack_chunk(data: Array, first: int, chunk: Array, slot_from: Array, slot_shift: Array, slots: Array, row: Array) -> None:
    """Pack one pixel's inputs for one chunk: row[place + t * words + w] gets bit t of the inputs in word w."""
    word0, words, planes, place = chunk[0], chunk[1], chunk[2], chunk[3]
    for i in range(words * planes):
        row[place + i] = np.uint64(0)
    for w in range(words):
        at = (word0 + w) * 64
        for i in range(0, slots[word0 + w], 8):
            n = min(8, slots[word0 + w] - i)
            for high in range(0, planes, 8):
                byte = np.uint64(0)
                for k in range(n):
                    level = np.uint64(data[first + slot_from[at + i + k]]) << np.uint64(slot_shift[at + i + k])
                    byte |= ((level >> np.uint64(high)) & np.uint64(255)) << np.uint64(8 * k)
                byte = transpose8(byte)
                for t in range(min(8, planes - high)):
                    bits = (byte >> np.uint64(8 * t)) & np.uint64(255)
                    row[place + (high + t) * words + w] |= bits << np.uint64(i)


@kernel
def read_lossless(packed: Array, count: int, read: Array, cells: Array, columns: int, acc: Array) -> None:
    """acc[p, n] += multiplier * sum_t 2^t popcount(input[t] & cells[n]), four planes and two words at a time."""
    place, words, planes, multiplier = read[1], read[2], read[3], read[5]
    for p in range(count):
        row = packed[p]
        into = acc[p, :columns]
        for t in range(0, planes, 4):
            factor = multiplier << t
            x = row[place + t * words : place + (t + 4) * words]
            w = 0
            while w + 1 < words:
                at = read[4] + w * columns
                cells0 = cells[at : at + columns]
                cells1 = cells[at + columns : at + 2 * columns]
                a0, a1, b0, b1 = x[w], x[w + 1], x[words + w], x[words + w + 1]
                c0, c1, d0, d1 = x[2 * words + w], x[2 * words + w + 1], x[3 * words + w], x[3 * words + w + 1]
                for n in range(columns):
                    w0, w1 = cells0[n], cells1[n]
                    total = popcount(a0 & w0) + popcount(a1 & w1)
                    total += (popcount(b0 & w0) + popcount(b1 & w1)) << np.uint64(1)
                    total += (popcount(c0 & w0) + popcount(c1 & w1)) << np.uint64(2)
                    total += (popcount(d0 & w0) + popcount(d1 & w1)) << np.uint64(3)
                    into[n] += factor * np.int64(total)
                w += 2
            if w < words:
                at = read[4] + w * columns
                cells0 = cells[at : at + columns]
                a0, b0, c0, d0 = x[w], x[words + w], x[2 * words + w], x[3 * words + w]
                for n in range(columns):
                    w0 = cells0[n]
                    total = popcount(a0 & w0) + (popcount(b0 & w0) << np.uint64(1))
                    total += (popcount(c0 & w0) << np.uint64(2)) + (popcount(d0 & w0) << np.uint64(3))
                    into[n] += factor * np.int64(total)


@kernel
def read_clipped(packed: Array, count: int, read: Array, cells: Array, columns: int, top: int, acc: Array) -> int:
    """As `read_lossless` for at most two words, each popcount clipped to `top`; returns how many exceeded it."""
    place, words, planes, multiplier = read[1], read[2], read[3], read[5]
    limit = np.uint64(top)
    over = np.uint64(0)
    cells0 = cells[read[4] : read[4] + columns]
    # one word: the second is read against no input
    cells1 = cells[read[4] + (words - 1) * columns : read[4] + words * columns]
    second = np.uint64(0xFFFFFFFFFFFFFFFF) if words == 2 else np.uint64(0)
    for p in range(count):
        row = packed[p]
        into = acc[p, :columns]
        for t in range(0, planes, 4):
            factor = multiplier << t
            x = row[place + t * words : place + (t + 4) * words]
            a0, b0, c0, d0 = x[0], x[words], x[2 * words], x[3 * words]
            a1, b1 = x[words - 1] & second, x[2 * words - 1] & second
            c1, d1 = x[3 * words - 1] & second, x[4 * words - 1] & second
            for n in range(columns):
                w0, w1 = cells0[n], cells1[n]
                r0 = popcount(a0 & w0) + popcount(a1 & w1)
                r1 = popcount(b0 & w0) + popcount(b1 & w1)
                r2 = popcount(c0 & w0) + popcount(c1 & w1)
                r3 = popcount(d0 & w0) + popcount(d1 & w1)
                over += np.uint64(r0 > limit) + np.uint64(r1 > limit) + np.uint64(r2 > limit) + np.uint64(r3 > limit)
                total = min(r0, limit) + (min(r1, limit) << np.uint64(1))
                total += (min(r2, limit) << np.uint64(2)) + (min(r3, limit) << np.uint64(3))
                into[n] += factor * np.int64(total)
    return np.int64(over)


@kernel
def read_digits(
    packed: Array, count: int, read: Array, cells: Array, columns: int, dac_bits: int, cell_bits: int, top: int,
    sums: Array, acc: Array,
) -> int:  # fmt: skip
    """The general read: digits of `dac_bits` bits, cells of `cell_bits`, any number of words, clipped to `top`."""
    place, words, digits, multiplier = read[1], read[2], read[3], read[5]
    limit = np.uint64(top)
    over = np.uint64(0)
    current = sums[:columns]
    for p in range(count):
        row = packed[p]
        into = acc[p, :columns]
        for digit in range(digits):
            current[:] = np.uint64(0)
            for i in range(dac_bits):
                for j in range(cell_bits):
                    weight = np.uint64(i + j)
                    for w in range(words):
                        x = row[place + (digit * dac_bits + i) * words + w]
                        at = read[4] + (j * words + w) * columns
                        part = cells[at : at + columns]
                        for n in range(columns):
                            current[n] += popcount(x & part[n]) << weight
            factor = multiplier << (digit * dac_bits)
            for n in range(columns):
                over += np.uint64(current[n] > limit)
                into[n] += factor * np.int64(min(current[n], limit))
    return np.int64(over)


@kernel
def run_tiles(
    src: Array, start: int, stop: int, pixels: Array, tiles: Array, chunks: Array, slot_from: Array, slot_shift: Array,
    slots: Array, reads: Array, cells: Array, channels: Array, row_from: Array, converter: tuple[int, int, int], acc: Array,
) -> Array:  # fmt: skip
    """acc[i, channel] += the tiles' outputs for rows start .. stop - 1; returns the saturated reads of each tile, int64 [tiles].

    tiles int64 [n, 10]: first and last chunk, first and last read, columns (padded to a multiple of 8) and used columns, their
    place in `channels`, offset, first and last of the used rows' addresses in `row_from` (for offset coding only).
    converter: DAC bits, cell bits, the ADC's largest value.
    """
    dac_bits, cell_bits, top = converter
    kind = acc.dtype.type
    saturated = np.zeros(len(tiles), np.int64)
    width, extent = 1, 1
    for t in range(len(tiles)):
        width = max(width, tiles[t, 4])
        for c in range(tiles[t, 0], tiles[t, 1]):
            extent = max(extent, chunks[c, 3] + chunks[c, 1] * chunks[c, 2])
    packed = np.empty((PIXELS, extent), np.uint64)
    block = np.empty((PIXELS, width), np.int64)
    sums = np.empty(width, np.uint64)
    for low in range(start, stop, PIXELS):
        count = min(PIXELS, stop - low)
        for t in range(len(tiles)):
            columns, used, place, offset = tiles[t, 4], tiles[t, 5], tiles[t, 6], tiles[t, 7]
            for p in range(count):
                image, pixel = divmod(low + p, len(pixels))
                data = src[image]
                first = pixels[pixel]
                for c in range(tiles[t, 0], tiles[t, 1]):
                    pack_chunk(data, first, chunks[c], slot_from, slot_shift, slots, packed[p])
                correction = np.int64(0)
                if offset != 0:
                    for r in range(tiles[t, 8], tiles[t, 9]):
                        correction += np.int64(data[first + row_from[r]])
                block[p, :columns] = -offset * correction
            for r in range(tiles[t, 2], tiles[t, 3]):
                read = reads[r]
                if read[0] == LOSSLESS:
                    read_lossless(packed, count, read, cells, columns, block)
                elif read[0] == CLIPPED:
                    saturated[t] += read_clipped(packed, count, read, cells, columns, top, block)
                else:
                    saturated[t] += read_digits(
                        packed, count, read, cells, columns, dac_bits, cell_bits, top, sums, block
                    )
            for p in range(count):
                into = acc[low + p - start]
                for n in range(used):
                    into[channels[place + n]] += kind(block[p, n])
    return saturated


@kernel
def pack_cells(values: Array, order: Array, bit: int, out: Array) -> None:
    """out[w, n] (uint64, zero at first): bit `bit` of values[order[64 w + i], n] at position i; order holds -1 for no row."""
    for i in range(len(order)):
        if order[i] >= 0:
            row = values[order[i]]
            into = out[i // 64]
            place = np.uint64(i % 64)
            for n in range(len(row)):
                into[n] |= ((np.uint64(row[n]) >> np.uint64(bit)) & np.uint64(1)) << place
