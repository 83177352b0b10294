"""Cutting weight matrices into R x C tiles, and packing the blocks of grouped convolutions on the diagonal of tiles."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Tiles:
    """Stacked tiles. rows int32 [T, R], cols int32 [T, C] (-1 unused), codes int16 [T, R, C], shifts uint8 [T, R].

    (Codes are int32 where 16 bits and the offset do not fit.)
    """

    rows: np.ndarray
    cols: np.ndarray
    codes: np.ndarray
    shifts: np.ndarray


def conv_blocks(weight: np.ndarray, groups: int) -> tuple[np.ndarray, np.ndarray]:
    """The im2col view of a convolution's weights, one block a group.

    Args:
        weight: int16 [M, C_in / g, kh, kw].
        groups: g.

    Returns:
        blocks int16 [g, kh kw C_in / g, M / g] and, for each row of each block, its index in the whole K:
        (ky kw + kx) C_in + c with c the channel among all C_in; int32 [g, kh kw C_in / g].
    """
    m, depth, kh, kw = weight.shape
    split = weight.reshape(groups, m // groups, depth, kh * kw)
    blocks = np.ascontiguousarray(split.transpose(0, 3, 2, 1)).reshape(groups, kh * kw * depth, m // groups)
    channel = np.arange(groups * depth, dtype=np.int32).reshape(groups, 1, depth)
    position = np.arange(kh * kw, dtype=np.int32)[:, None] * (groups * depth)
    return blocks, (position + channel).reshape(groups, -1)


def dense_tiles(matrix: np.ndarray, height: int, width: int, offset: int = 0) -> Tiles:
    """Cut a matrix into tiles, in row-major order of (row block, column block).

    Args:
        matrix: int16 [K, M].
        height, width: R, C.
        offset: what is added to every stored weight (offset coding).
    """
    k, m = matrix.shape
    down, across = -(-k // height), -(-m // width)
    full = np.zeros((down * height, across * width), _dtype(offset))
    np.add(matrix, full.dtype.type(offset), out=full[:k, :m])
    codes = np.ascontiguousarray(full.reshape(down, height, across, width).transpose(0, 2, 1, 3))
    rows = _padded(np.arange(k, dtype=np.int32), down * height).reshape(down, height)
    cols = _padded(np.arange(m, dtype=np.int32), across * width).reshape(across, width)
    return Tiles(
        np.repeat(rows, across, axis=0),
        np.tile(cols, (down, 1)),
        codes.reshape(down * across, height, width),
        np.zeros((down * across, height), np.uint8),
    )


def _dtype(offset: int) -> np.dtype[np.signedinteger]:
    """Codes reach 2 offset - 1."""
    return np.dtype(np.int16 if 2 * offset - 1 <= np.iinfo(np.int16).max else np.int32)


def widened(tiles: Tiles, width: int) -> Tiles:
    """The same tiles with unused columns behind theirs, up to C = `width`."""
    extra = width - tiles.cols.shape[1]
    if not extra:
        return tiles
    cols = np.pad(tiles.cols, ((0, 0), (0, extra)), constant_values=-1)
    return Tiles(tiles.rows, cols, np.pad(tiles.codes, ((0, 0), (0, 0), (0, extra))), tiles.shifts)


def _padded(index: np.ndarray, length: int) -> np.ndarray:
    out = np.full(length, -1, np.int32)
    out[: len(index)] = index
    return out


def blocks_per_tile(k: int, m: int, height: int, width: int) -> int:
    """How many k x m blocks first-fit puts on the diagonal of one tile; 1 where a block fills the rows or columns."""
    return max(1, min(height // k, width // m))


def grouped_tiles(
    blocks: np.ndarray, index: np.ndarray, height: int, width: int, offset: int = 0, align: int = 1
) -> Tiles:
    """Tiles of a grouped convolution.

    Each group's block is cut into chunks of at most R rows and C columns. A chunk that has all R rows or all C columns
    fills a tile; the one remaining corner of each group is smaller, and corners are packed on the diagonal, first-fit:
    as all corners are of one size, that is `blocks_per_tile` of them a tile. With offset coding the pairs of rows and
    columns between the corners store the offset (weight 0), since a column's correction counts every row of its tile.

    Args:
        blocks: int16 [g, K / g, M / g].
        index: int32 [g, K / g], each row's index in the whole K.
        height, width: R, C.
        offset: what is added to every stored weight.
        align: a divisor of R; corners begin at rows that are multiples of it.
    """
    groups, k, m = blocks.shape
    outputs = np.arange(groups * m, dtype=np.int32).reshape(groups, m)
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for top in range(0, k, height):
        for left in range(0, m, width):
            h, w = min(height, k - top), min(width, m - left)
            chunk = blocks[:, top : top + h, left : left + w]
            here = index[:, top : top + h], outputs[:, left : left + w]
            parts.append(_diagonal(chunk, *here, height, width, offset, align))
    rows, cols, codes = (np.concatenate(part) for part in zip(*parts, strict=True))
    return Tiles(rows, cols, codes, np.zeros(rows.shape, np.uint8))


def _diagonal(
    chunk: np.ndarray, index: np.ndarray, outputs: np.ndarray, height: int, width: int, offset: int, align: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Equal chunks int16 [g, h, w], one a group, on the diagonal of as few tiles as they need."""
    groups, h, w = chunk.shape
    taken = -(-h // align) * align
    each = blocks_per_tile(taken, w, height, width)
    tiles = -(-groups // each)
    tile, place = np.divmod(np.arange(groups), each)
    row = place[:, None] * taken + np.arange(h)
    col = place[:, None] * w + np.arange(w)
    rows = np.full((tiles, height), -1, np.int32)
    cols = np.full((tiles, width), -1, np.int32)
    rows[tile[:, None], row] = index
    cols[tile[:, None], col] = outputs
    codes = np.zeros((tiles, height, width), _dtype(offset))
    if offset:
        codes[(rows[:, :, None] >= 0) & (cols[:, None, :] >= 0)] = offset
    codes[tile[:, None, None], row[:, :, None], col[:, None, :]] = chunk + codes.dtype.type(offset)
    return rows, cols, codes


def count_tiles(groups: int, k: int, m: int, height: int, width: int) -> int:
    """Number of tiles that `dense_tiles` (one group) and `grouped_tiles` make of g blocks of k x m."""
    total = 0
    for h, times_h in _chunks(k, height):
        for w, times_w in _chunks(m, width):
            total += times_h * times_w * -(-groups // blocks_per_tile(h, w, height, width))
    return total


def _chunks(length: int, size: int) -> list[tuple[int, int]]:
    """(size, how often) of the chunks of `length`."""
    whole, rest = divmod(length, size)
    return [(s, n) for s, n in ((size, whole), (rest, 1)) if s and n]


def crossbars_dense(groups: int, k: int, m: int, height: int, width: int, columns_per_weight: int) -> int:
    """Crossbars of the same size that a mapping with all bits of a weight in adjacent one-bit columns needs.

    Without groups: ceil(K / R) ceil(b M / C), for b columns a weight (ISAAC, ISCA 2016: b = 16). The blocks of grouped
    convolutions, then k x (b m) each, are packed on the diagonal by the same rule as ours (`grouped_tiles`), so that
    a ratio to this number does not gain from the packing.

    Args:
        groups: g.
        k, m: rows and columns of one group's block.
        height, width: R, C.
        columns_per_weight: b.
    """
    return count_tiles(groups, k, m * columns_per_weight, height, width)
