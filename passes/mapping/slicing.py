"""Bit slicing: codes to packed cells, one crossbar for each plane of a tile that is not empty."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from smec.passes.mapping.coding import Plane, used_planes
from smec.passes.mapping.jit import I64, U64, compiled, in_chunks


@dataclass(frozen=True)
class Sliced:
    """Crossbars of a layer: tile int32 [X] (ascending), weight int64 [X], cells uint8 [X, R, ceil(C c / 8)]."""

    tile: np.ndarray
    weight: np.ndarray
    cells: np.ndarray


def slice_bits(
    codes: np.ndarray,
    masks: np.ndarray,
    *,
    sign: str,
    width: int,
    cell_bits: int,
    planes: list[Plane],
    keep: np.ndarray,
) -> Sliced:
    """Cut the codes of all tiles into planes; crossbars without a one are not made.

    Args:
        codes: int16 [T, R, C], zero where a row or column is unused; with `polarized`, magnitudes.
        masks: uint32 [T], the bitwise or of the codes of each tile (see `coding.used_planes`).
        sign, width, cell_bits: sign scheme, bits of a code, bits of a cell (1 to 8).
        planes: the planes of the scheme.
        keep: bool [T], tiles that get their first plane even where it is empty.
    """
    tiles, height, columns = codes.shape
    used = used_planes(masks, planes)
    used[:, 0] |= keep & ~used.any(axis=1)
    tile, plane = np.nonzero(used)
    number = np.full(used.shape, -1, np.int64)
    number[tile, plane] = np.arange(len(tile))
    cells = np.zeros((len(tile), height, -(-columns * cell_bits // 8)), np.uint8)
    table = np.array([(p.side, p.first, p.width) for p in planes], np.int64).reshape(-1, 3)
    low_bits = 0 if sign == "differential" else (1 << width) - 1
    spread = _spread_table(cell_bits)

    def work(start: int, stop: int) -> None:
        _fill(start, stop, codes, number, table, low_bits, width > 8, cell_bits, spread, cells)

    in_chunks(tiles, work, least=4)
    weight = np.array([p.weight for p in planes], np.int64)[plane]
    return Sliced(tile.astype(np.int32), weight, cells)


def _spread_table(cell_bits: int) -> np.ndarray:
    """uint64 [256]: bit i of the index moved to bit i c."""
    index = np.arange(256, dtype=np.uint64)
    out = np.zeros(256, np.uint64)
    for i in range(8):
        out |= (index >> np.uint64(i) & np.uint64(1)) << np.uint64(i * cell_bits)
    return out


def unpack_cells(cells: np.ndarray, columns: int, cell_bits: int) -> np.ndarray:
    """Packed cells uint8 [..., ceil(C c / 8)] -> cell values uint8 [..., C]."""
    bits = np.unpackbits(cells, axis=-1, count=columns * cell_bits, bitorder="little")
    digit = (1 << np.arange(cell_bits)).astype(np.uint8)
    out: np.ndarray = (bits.reshape(*cells.shape[:-1], columns, cell_bits) * digit).sum(axis=-1, dtype=np.uint8)
    return out


@compiled
def _transpose8(x: int) -> int:
    """Transpose an 8 x 8 bit matrix, row j in byte j (Warren, Hacker's Delight, 7-3)."""
    t = (x ^ (x >> U64(7))) & U64(0x00AA00AA00AA00AA)
    x = x ^ t ^ (t << U64(7))
    t = (x ^ (x >> U64(14))) & U64(0x0000CCCC0000CCCC)
    x = x ^ t ^ (t << U64(14))
    t = (x ^ (x >> U64(28))) & U64(0x00000000F0F0F0F0)
    return x ^ t ^ (t << U64(28))


@compiled
def _fill(
    start: int, stop: int, codes: np.ndarray, number: np.ndarray, table: np.ndarray, low_bits: int, wide: bool,
    cell_bits: int, spread: np.ndarray, cells: np.ndarray,
) -> None:  # fmt: skip
    # For eight columns at a time the bits of their codes are transposed: word[2 side + half], byte b, bit j is bit
    # 8 half + b of the code of column j. A cell's digit is `cell_bits` of these bytes, spread and interleaved.
    height, columns = codes.shape[1:]
    row_bytes = cells.shape[2]
    word = np.zeros(4, np.uint64)
    for t in range(start, stop):
        for r in range(height):
            for g in range(0, columns, 8):
                word.fill(0)
                for j in range(min(8, columns - g)):
                    code = I64(codes[t, r, g + j])
                    positive = code & low_bits if low_bits else max(code, 0)
                    negative = 0 if low_bits else max(-code, 0)
                    at = U64(8 * j)
                    word[0] |= U64(positive & 255) << at
                    word[2] |= U64(negative & 255) << at
                    if wide:
                        word[1] |= U64(positive >> 8) << at
                        word[3] |= U64(negative >> 8) << at
                for i in range(4):
                    if word[i]:
                        word[i] = _transpose8(word[i])
                for p in range(len(table)):
                    x = number[t, p]
                    if x < 0:
                        continue
                    side, first, width = table[p]
                    packed = U64(0)
                    for bit in range(first, first + width):
                        byte = (word[2 * side + (bit >> 3)] >> U64(8 * (bit & 7))) & U64(255)
                        packed |= spread[byte] << U64(bit - first)
                    at_byte = g // 8 * cell_bits
                    for i in range(min(cell_bits, row_bytes - at_byte)):
                        cells[x, r, at_byte + i] = (packed >> U64(8 * i)) & U64(255)
