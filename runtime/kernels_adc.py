"""Compiled loops of the engine `adc`: inputs packed into bit planes, currents as AND and popcount, the ADC's clipping.

Words, planes, lanes. 64 rows of a crossbar make one uint64 word. Of a pixel's inputs each bit position is a plane:
word w of plane t holds bit t of 64 inputs. `LANES` pixels are worked on together, as the innermost loop, which
compilers turn into vector instructions: `packed` is [word, LANES] and a chunk of inputs lies in it as
[planes][words]. Of a crossbar's cells each of the c bits is a plane of words too, of 64 rows of one column. With
one-bit digits and cells, the current of a column in the read of input bit t is sum_w popcount(input[t, w] & cell[w]);
in general it is a sum over pairs of an input and a cell bit, weighted.

Tables (int64):

* chunks [n, 5]: inputs packed together: first word (into the slot tables), words, planes (a multiple of `PLANES`),
  place in `packed`, mask of the shifted inputs' bits that are read.
* slot_from, slot_shift [64 words]: where the input of a row is, relative to the pixel, and how far it is shifted.
  slots [words]: used ones.
* runs [8 words]: 1 where eight slots are consecutive addresses, unshifted.
* tiles [n, 8]: first and last chunk, first and last clipped read, columns, their place in `channels`; chunk and place
  in `first` of the unclipped reads (-1 if there are none).
* Unclipped reads, of all of a tile's crossbars: `words` uint64 of cells that are not all zero, and `factors`, what
  one of their currents counts; those of column n and input word w are first[place + n words + w] to the next.
* clipped [n, 6]: kind, chunk, planes or digits, place of the cells ([c][columns][words]) in `clipped_words`,
  multiplier, 0.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types
from numba.extending import intrinsic

from smec.runtime.arrays import Array
from smec.runtime.kernels import kernel, popcount

#: Pixels that are worked on together: eight 512-bit vectors, and few enough for their inputs to stay in the L1 cache.
LANES = 64
#: Input planes come in multiples of this many (missing ones are zero), because the inner loops take so many at a time.
PLANES = 4
#: Kinds of a clipped read: at most two words, one-bit digits and cells; any other.
CLIPPED, CLIPPED_DIGITS = 0, 1


def _typed_load8(typingctx: Any, array: Any, index: Any) -> Any:  # noqa: ARG001  # numba asks for it
    """Eight bytes from an element on, as one little-endian number; they need not be aligned, but must be there."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        word = context.get_value_type(types.uint64)
        pointer = builder.bitcast(builder.gep(data, [arguments[1]]), word.as_pointer())
        return builder.load(pointer, align=1)

    return types.uint64(array, index), generate


#: load8(array, index)
load8: Any = intrinsic(_typed_load8)


@kernel
def transpose8(x: Any) -> Any:
    """Transpose an 8 x 8 bit matrix: bit 8 i + j becomes bit 8 j + i. (Warren, Hacker's Delight, 7-3.)"""
    y = (x ^ (x >> np.uint64(7))) & np.uint64(0x00AA00AA00AA00AA)
    x = x ^ y ^ (y << np.uint64(7))
    y = (x ^ (x >> np.uint64(14))) & np.uint64(0x0000CCCC0000CCCC)
    x = x ^ y ^ (y << np.uint64(14))
    y = (x ^ (x >> np.uint64(28))) & np.uint64(0x00000000F0F0F0F0)
    return x ^ y ^ (y << np.uint64(28))


@kernel
def pack_chunk(
    flat: Array, origin: Array, count: int, chunk: Array, slot_from: Array, slot_shift: Array, slots: Array,
    runs: Array, packed: Array,
) -> None:  # fmt: skip
    """Pack inputs of `count` pixels at addresses `origin` of `flat`: bit t of word w to packed[place + t words + w]."""
    first, words, planes, place = chunk[0], chunk[1], chunk[2], chunk[3]
    mask = np.uint64(chunk[4])
    mask8 = (mask & np.uint64(255)) * np.uint64(0x0101010101010101)
    bytes8 = np.zeros(LANES, np.uint64)
    for i in range(words * planes):
        packed[place + i] = np.uint64(0)
    for w in range(words):
        for eight in range((slots[first + w] + 7) // 8):
            slot = (first + w) * 64 + eight * 8
            used = min(8, slots[first + w] - eight * 8)
            shift = np.uint64(eight * 8)
            for high in range(0, planes, 8):
                if high == 0 and runs[(first + w) * 8 + eight] and flat.itemsize == 1:
                    for p in range(count):
                        bytes8[p] = load8(flat, origin[p] + slot_from[slot]) & mask8
                else:
                    for p in range(count):
                        byte = np.uint64(0)
                        for k in range(used):
                            level = np.uint64(flat[origin[p] + slot_from[slot + k]]) << np.uint64(slot_shift[slot + k])
                            byte |= (((level & mask) >> np.uint64(high)) & np.uint64(255)) << np.uint64(8 * k)
                        bytes8[p] = byte
                for p in range(LANES):
                    bytes8[p] = transpose8(bytes8[p])
                for t in range(min(8, planes - high)):
                    into = packed[place + (high + t) * words + w]
                    at = np.uint64(8 * t)
                    for p in range(LANES):
                        into[p] |= ((bytes8[p] >> at) & np.uint64(255)) << shift


@kernel
def read_unclipped(
    packed: Array, chunk: Array, columns: int, place: int, first: Array, words: Array, factors: Array, sums: Array
) -> None:
    """sums[n, p] += sum over column n's words of factor * sum_t 2^t popcount(input[t] & cell), four t at a time."""
    count, planes = chunk[1], chunk[2]
    for n in range(columns):
        into = sums[n]
        for w in range(count):
            low, high = first[place + n * count + w], first[place + n * count + w + 1]
            for t in range(0, planes, 4):
                at = chunk[3] + t * count + w
                a, b, c, d = packed[at], packed[at + count], packed[at + 2 * count], packed[at + 3 * count]
                e = low
                while e + 1 < high:
                    x, y = words[e], words[e + 1]
                    fx, fy = factors[e] << t, factors[e + 1] << t
                    for p in range(LANES):
                        s = popcount(a[p] & x) + (popcount(b[p] & x) << np.uint64(1))
                        s += (popcount(c[p] & x) << np.uint64(2)) + (popcount(d[p] & x) << np.uint64(3))
                        r = popcount(a[p] & y) + (popcount(b[p] & y) << np.uint64(1))
                        r += (popcount(c[p] & y) << np.uint64(2)) + (popcount(d[p] & y) << np.uint64(3))
                        into[p] += fx * np.int64(s) + fy * np.int64(r)
                    e += 2
                if e < high:
                    x = words[e]
                    fx = factors[e] << t
                    for p in range(LANES):
                        s = popcount(a[p] & x) + (popcount(b[p] & x) << np.uint64(1))
                        s += (popcount(c[p] & x) << np.uint64(2)) + (popcount(d[p] & x) << np.uint64(3))
                        into[p] += fx * np.int64(s)


@kernel
def read_clipped(packed: Array, chunk: Array, read: Array, columns: int, cells: Array, top: int, sums: Array) -> int:
    """One read of at most two words, each current clipped to `top`; returns how many exceeded it."""
    count, planes, multiplier = chunk[1], read[2], read[4]
    limit = np.uint64(top)
    over = np.uint64(0)
    for n in range(columns):
        into = sums[n]
        x = cells[read[3] + n * count]
        # one word: the other is read as zero
        y = cells[read[3] + n * count + count - 1] if count == 2 else np.uint64(0)
        if x | y == np.uint64(0):
            continue
        clips = popcount(x) + popcount(y) > limit
        for t in range(0, planes, 4):
            at, factor = chunk[3] + t * count, multiplier << t
            last = at + count - 1
            a, b, c, d = packed[at], packed[at + count], packed[at + 2 * count], packed[at + 3 * count]
            a1, b1, c1, d1 = packed[last], packed[last + count], packed[last + 2 * count], packed[last + 3 * count]
            if clips:
                for p in range(LANES):
                    r0 = popcount(a[p] & x) + popcount(a1[p] & y)
                    r1 = popcount(b[p] & x) + popcount(b1[p] & y)
                    r2 = popcount(c[p] & x) + popcount(c1[p] & y)
                    r3 = popcount(d[p] & x) + popcount(d1[p] & y)
                    over += np.uint64(r0 > limit) + np.uint64(r1 > limit)
                    over += np.uint64(r2 > limit) + np.uint64(r3 > limit)
                    s = min(r0, limit) + (min(r1, limit) << np.uint64(1))
                    s += (min(r2, limit) << np.uint64(2)) + (min(r3, limit) << np.uint64(3))
                    into[p] += factor * np.int64(s)
            else:
                for p in range(LANES):
                    s = popcount(a[p] & x) + popcount(a1[p] & y)
                    s += (popcount(b[p] & x) + popcount(b1[p] & y)) << np.uint64(1)
                    s += (popcount(c[p] & x) + popcount(c1[p] & y)) << np.uint64(2)
                    s += (popcount(d[p] & x) + popcount(d1[p] & y)) << np.uint64(3)
                    into[p] += factor * np.int64(s)
    return int(over)


@kernel
def read_digits(
    packed: Array, chunk: Array, read: Array, columns: int, cells: Array, converter: tuple[int, int, int], sums: Array
) -> int:
    """The general read: digits and cells of several bits, any number of words."""
    dac_bits, cell_bits, top = converter
    count, digits, multiplier = chunk[1], read[2], read[4]
    limit = np.uint64(top)
    over = np.uint64(0)
    current = np.empty(LANES, np.uint64)
    for n in range(columns):
        into = sums[n]
        for digit in range(digits):
            current[:] = np.uint64(0)
            for i in range(dac_bits):
                at = chunk[3] + (digit * dac_bits + i) * count
                for j in range(cell_bits):
                    weight = np.uint64(i + j)
                    for w in range(count):
                        cell = cells[read[3] + (j * columns + n) * count + w]
                        if cell != np.uint64(0):
                            x = packed[at + w]
                            for p in range(LANES):
                                current[p] += popcount(x[p] & cell) << weight
            factor = multiplier << (digit * dac_bits)
            for p in range(LANES):
                over += np.uint64(current[p] > limit)
                into[p] += factor * np.int64(min(current[p], limit))
    return int(over)


@kernel
def run_tiles(
    src: Array, start: int, stop: int, pixels: Array, chunks: Array, slot_from: Array, slot_shift: Array, slots: Array,
    runs: Array, tiles: Array, channels: Array, first: Array, words: Array, factors: Array, clipped: Array,
    clipped_words: Array, converter: tuple[int, int, int], acc: Array,
) -> Array:  # fmt: skip
    """acc[i, channel] += the tiles' outputs for rows start .. stop - 1; returns the saturated reads of each tile,
    int64 [tiles].

    converter: DAC bits, cell bits, the ADC's largest value.
    """
    kind = acc.dtype.type
    saturated = np.zeros(len(tiles), np.int64)
    flat = src.reshape(-1)
    width, extent = 1, 1
    for t in range(len(tiles)):
        width = max(width, tiles[t, 4])
    for c in range(len(chunks)):
        extent = max(extent, chunks[c, 3] + chunks[c, 1] * chunks[c, 2])
    packed = np.empty((extent, LANES), np.uint64)
    sums = np.empty((width, LANES), np.int64)
    origin = np.empty(LANES, np.int64)
    for low in range(start, stop, LANES):
        count = min(LANES, stop - low)
        for p in range(count):
            image, pixel = divmod(low + p, len(pixels))
            origin[p] = image * src.shape[1] + pixels[pixel]
        for t in range(len(tiles)):
            columns, place = tiles[t, 4], tiles[t, 5]
            if t == 0 or tiles[t, 0] != tiles[t - 1, 0] or tiles[t, 1] != tiles[t - 1, 1]:
                for c in range(tiles[t, 0], tiles[t, 1]):
                    pack_chunk(flat, origin, count, chunks[c], slot_from, slot_shift, slots, runs, packed)
            sums[:columns] = 0
            if tiles[t, 6] >= 0:
                read_unclipped(packed, chunks[tiles[t, 6]], columns, tiles[t, 7], first, words, factors, sums)
            for r in range(tiles[t, 2], tiles[t, 3]):
                read = clipped[r]
                chunk = chunks[read[1]]
                if read[0] == CLIPPED:
                    saturated[t] += read_clipped(packed, chunk, read, columns, clipped_words, converter[2], sums)
                else:
                    saturated[t] += read_digits(packed, chunk, read, columns, clipped_words, converter, sums)
            for p in range(count):
                into = acc[low + p - start]
                for n in range(columns):
                    into[channels[place + n]] += kind(sums[n, p])
    return saturated


@kernel
def pack_cells(values: Array, order: Array, bit: int, out: Array) -> None:
    """out[n, w] (uint64, zero at first): bit `bit` of values[order[64 w + i], n] at position i; order holds -1 for no
    row.
    """
    for i in range(len(order)):
        if order[i] >= 0:
            row = values[order[i]]
            place = np.uint64(i % 64)
            for n in range(len(row)):
                out[n, i // 64] |= ((np.uint64(row[n]) >> np.uint64(bit)) & np.uint64(1)) << place
