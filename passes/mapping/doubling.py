"""Doubled rows: an input that has two rows of tiles, with row shifts of their own (`docs/admm.md`).

A layer's matrix of K rows takes ceil(K / R) tiles down, whose last rows stand idle. A doubled row has one of those as
its second row, so that it holds w = first 2^k1 + second 2^k2, where a single row holds code 2^k. What each of the two
adds is an integer of N bits by itself: squeeze-out then finds in each a row that it need not round.

With two's complement and n = N - x bits a code, k1 = k2 + n reaches every integer of 2 n bits: two codes side by side.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from smec.passes.mapping.coding import code_range, shift_choices, weight_range
from smec.passes.mapping.tiling import Tiles, dense_tiles

#: Sign schemes whose rows may be doubled. Offset coding does not squeeze, and in a sign block of `polarized` two rows
#: of one input would have to share a sign.
DOUBLED_SIGNS = ("differential", "twos-complement")


def spare_rows(k: int, height: int) -> int:
    """Rows that the tiles of a matrix of K rows leave idle, as far as K rows can use them; `height` is R."""
    return min(-k % height, k)


@dataclass(frozen=True)
class Split:
    """One way to hold integers in two rows.

    first_shift, second_shift: k1, k2. first: int16 [n], the first row's code of each integer from the least of N bits
    on. held: bool [n], whether the integer can be held.
    """

    first_shift: int
    second_shift: int
    first: np.ndarray
    held: np.ndarray


def splits(sign: str, bits: int, depth: int, cell_bits: int) -> list[Split]:
    """The ways to hold integers in a doubled row, by preference: second row empty, then by k1 and k2.

    Of several pairs of codes for one integer, the one with the least second code is taken.

    Args:
        sign, bits, depth, cell_bits: one of `DOUBLED_SIGNS`, N, x, c.
    """
    choices = shift_choices(depth, bits, cell_bits)
    codes, numbers = code_range(sign, bits - depth), weight_range(sign, bits)
    integers = np.arange(numbers[0], numbers[1] + 1)
    pairs = [(k, k, (0, 0)) for k in choices]
    pairs += [(a, b, _codes_at(codes, numbers, b)) for a in choices for b in choices if b <= a]
    return [_split(integers, (a, b), _codes_at(codes, numbers, a), second) for a, b, second in pairs]


def _codes_at(codes: tuple[int, int], numbers: tuple[int, int], shift: int) -> tuple[int, int]:
    """Least and largest code whose shifted value is an integer of N bits."""
    return max(codes[0], -(-numbers[0] >> shift)), min(codes[1], numbers[1] >> shift)


def _split(integers: np.ndarray, shifts: tuple[int, int], first: tuple[int, int], second: tuple[int, int]) -> Split:
    """The first code and the second one (of these ranges) of each of the integers; see `splits`."""
    a, b = shifts
    units, step = integers >> b, a - b
    # Second codes are c + j 2^step, first ones f - j, for those j at which both are in their range. Of all j, 0 or -1
    # makes the second code least; of those, the nearest to that does.
    c, f = units & ((1 << step) - 1), units >> step
    least = np.maximum(f - first[1], -((c - second[0]) >> step))
    most = np.minimum(f - first[0], (second[1] - c) >> step)
    held = (units << b == integers) & (least <= most)
    j = np.minimum(np.maximum(np.where(2 * c > 1 << step, -1, 0), least), most)
    f = f - j
    return Split(a, b, np.where(held, f, 0).astype(np.int16), held)


def doubled_tiles(
    matrix: np.ndarray, doubled: np.ndarray, choices: list[Split], least: int, height: int, width: int
) -> Tiles:
    """Tiles of a matrix some of whose rows are doubled: second rows lie behind all first ones.

    A segment of a row (its columns in one tile) takes the first of the `choices` that holds all of its integers. Where
    none does, its first row holds the integers as they are, for squeeze-out to round, and its second row nothing.

    Args:
        matrix: int16 [K, M].
        doubled: int32 [D], the rows that have two.
        choices: see `splits`.
        least: the integer that the arrays of `choices` begin with; the matrix holds none that they do not reach.
        height, width: R, C.
    """
    k, m = matrix.shape
    across = -(-m // width)
    whole = np.pad(matrix[doubled].astype(np.int32), ((0, 0), (0, across * width - m)))
    whole = whole.reshape(len(doubled), across, width)
    first, second = whole.copy(), np.zeros_like(whole)
    shifts = np.zeros((2, len(doubled), across), np.uint8)
    left = np.ones((len(doubled), across), np.bool_)
    for choice in choices:
        fits = left & choice.held[whole - least].all(axis=2)
        values = whole[fits]
        codes = choice.first[values - least].astype(np.int32)
        first[fits], second[fits] = codes, (values - (codes << choice.first_shift)) >> choice.second_shift
        shifts[0, fits], shifts[1, fits] = choice.first_shift, choice.second_shift
        left &= ~fits
    extended = np.concatenate([matrix, second.reshape(len(doubled), -1)[:, :m].astype(np.int16)])
    extended[doubled] = first.reshape(len(doubled), -1)[:, :m]
    tiles = dense_tiles(extended, height, width)
    down = len(tiles.rows) // across
    row_shifts = np.zeros((down * height, across), np.uint8)
    row_shifts[doubled], row_shifts[k : k + len(doubled)] = shifts
    row_shifts = row_shifts.reshape(down, height, across).transpose(0, 2, 1).reshape(down * across, height)
    index = np.concatenate([np.arange(k, dtype=np.int32), doubled.astype(np.int32)])
    rows = np.where(tiles.rows >= 0, index[np.maximum(tiles.rows, 0)], np.int32(-1))
    return Tiles(rows, tiles.cols, tiles.codes, np.ascontiguousarray(row_shifts))
