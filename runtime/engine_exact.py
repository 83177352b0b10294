"""Engine `exact`: integer matrix products on effective weights that are decoded from the cells.

All arithmetic is exact. Products run in float32 as long as every partial sum stays within 2^24, in float64 within
2^53, so that the fast matrix products of linear algebra libraries give integers whatever their order of summation; K
is split where one sum would grow too large. What bounds a partial sum of inputs 0 <= q <= top is top times the larger
of the column's positive and negative weights.

Where only some input digits are read, the inputs are masked: rows of each lift (`Crossbars.passes`) are a product.

A unit's matrix is cut into blocks that share neither rows nor columns:

1. one block: a matrix product on gathered inputs (`DensePart`)
2. many narrow blocks whose rows have one pattern that moves along with the channel, as in depthwise convolutions:
   multiply-adds straight from the activations (`TapsPart`)
3. other blocks: batched products of blocks of about one size (`BlocksPart`)
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from smec.runtime import kernels
from smec.runtime.arrays import Array, IntArray
from smec.runtime.crossbars import Crossbars
from smec.runtime.threads import Workers
from smec.runtime.units import Part, TileUse, Unit

#: Bytes of gathered inputs that a block of rows may take: they should stay in the second-level cache.
_BLOCK_BYTES = 1 << 20
#: Float dtypes and the largest magnitude up to which they hold every integer.
_FLOATS: tuple[tuple[type[np.floating[Any]], int], ...] = ((np.float32, 1 << 24), (np.float64, 1 << 53))
#: Fewer rows than this in each piece of K make float32 no faster than float64.
_SHORT_SPLIT = 64


@dataclass(frozen=True)
class Block:
    """A dense piece of a unit's matrix: row addresses int64 [K] ascending, channels int64 [N], weight int64 [K, N]."""

    rows: IntArray
    channels: IntArray
    weight: IntArray


class DensePart:
    """One block as a matrix product on gathered inputs."""

    engine = "exact"

    def __init__(self, block: Block, pixels: IntArray, top: int, mask: int | None) -> None:
        k, n = block.weight.shape
        self.mask = mask
        self.dtype, self.splits = _float_splits(block.weight, max(top, 1))
        self.weight: Array = np.ascontiguousarray(block.weight, self.dtype)
        self.channels = block.channels
        self.first = _contiguous(block.channels)
        self.pixels = pixels
        breaks = np.flatnonzero(np.diff(block.rows) != 1) + 1
        edges = np.concatenate(([0], breaks, [k])).astype(np.int64)
        self.run_from: IntArray = block.rows[edges[:-1]]
        self.run_length: IntArray = np.diff(edges)
        # short runs cost more to set up than to copy element by element
        self.offsets: IntArray | None = block.rows if k < 4 * len(self.run_from) else None
        width = max(k, n) * self.weight.itemsize
        self.rows = int(np.clip(_BLOCK_BYTES // width, 64, 4096))

    def add(self, source: Array, start: int, stop: int, acc: Array, workers: Workers, saturated: IntArray) -> None:
        count = stop - start
        inputs = workers.scratch("inputs", (count, len(self.weight)), self.dtype)
        if self.offsets is not None:
            kernels.gather_points(source, start, stop, self.pixels, self.offsets, inputs, self.mask)
        else:
            runs = self.run_from, self.run_length
            kernels.gather_runs(source, start, stop, self.pixels, *runs, inputs, self.mask)
        product = workers.scratch("product", (count, self.weight.shape[1]), self.dtype)
        for first, last in self.splits:
            np.matmul(inputs[:, first:last], self.weight[first:last], out=product)
            if self.first is not None:
                kernels.add_range(acc, product, self.first)
            else:
                kernels.add_columns(acc, product, self.channels)


class TapsPart:
    """Multiply-adds of a few taps for each of a range of channels, straight from the activations."""

    engine = "exact"

    def __init__(self, taps: IntArray, weight: Array, first: int, pixels: IntArray, mask: int | None) -> None:
        self.taps, self.weight, self.first, self.pixels, self.mask = taps, weight, first, pixels, mask
        self.rows = int(np.clip(_BLOCK_BYTES // 4 // max(1, weight.shape[1] * 4), 16, 4096))

    def add(self, source: Array, start: int, stop: int, acc: Array, workers: Workers, saturated: IntArray) -> None:
        taps = self.taps, self.weight
        kernels.multiply_taps(source, start, stop, self.pixels, *taps, acc, self.first, self.mask)


class BlocksPart:
    """Blocks of about one size as a batch of matrix products; smaller ones are filled up with zeros."""

    engine = "exact"

    def __init__(self, blocks: list[Block], pixels: IntArray, top: int, mask: int | None) -> None:
        self.mask = mask
        k = max(len(block.rows) for block in blocks)
        n = max(len(block.channels) for block in blocks)
        weight = np.zeros((len(blocks), k, n), np.int64)
        offsets = np.empty((len(blocks), k), np.int64)
        channels = np.full((len(blocks), n), -1, np.int64)
        for i, block in enumerate(blocks):
            weight[i, : len(block.rows), : len(block.channels)] = block.weight
            offsets[i] = block.rows[0]
            offsets[i, : len(block.rows)] = block.rows
            channels[i, : len(block.channels)] = block.channels
        reach = max(_reach(part) for part in weight) * max(top, 1)
        self.dtype: type[Any] = next((kind for kind, limit in _FLOATS if reach <= limit), np.int64)
        self.weight: Array = np.ascontiguousarray(weight, self.dtype)
        self.offsets, self.channels, self.pixels = offsets.reshape(-1), channels.reshape(-1), pixels
        self.rows = int(np.clip(_BLOCK_BYTES // (self.offsets.size * self.weight.itemsize), 16, 4096))

    def add(self, source: Array, start: int, stop: int, acc: Array, workers: Workers, saturated: IntArray) -> None:
        count, (blocks, k, n) = stop - start, self.weight.shape
        inputs = workers.scratch("inputs", (count, blocks, k), self.dtype)
        kernels.gather_points(source, start, stop, self.pixels, self.offsets, inputs.reshape(count, -1), self.mask)
        product = workers.scratch("product", (count, blocks, n), self.dtype)
        np.matmul(inputs.transpose(1, 0, 2), self.weight, out=product.transpose(1, 0, 2))
        kernels.add_columns(acc, product.reshape(count, -1), self.channels)


def prepare(unit: Unit, crossbars: Crossbars, tiles: list[TileUse], everything: bool) -> list[Part]:
    """The unit's products as exact parts.

    Args:
        tiles: those of the unit whose offset is applied here (see `smec.runtime.engines`).
        everything: all driven rows; else those in lossless groups only.
    """
    groups = _tile_groups(unit, crossbars)
    parts: list[Part] = []
    for lift, mask in crossbars.passes(unit.window, [use.tile for use in unit.tiles]):
        mask &= (1 << crossbars.act_bits) - 1
        if mask:
            wanted = _Wanted(tiles, everything, lift)
            blocks = [piece for group in groups for piece in _blocks(group, crossbars, wanted)]
            parts += _parts(unit, blocks, None if lift is None else mask)
    return parts


@dataclass(frozen=True)
class _Wanted:
    """What goes into a product: see `prepare`; lift: of the rows that are read, see `Crossbars.kept`."""

    offset_tiles: list[TileUse]
    everything: bool
    lift: int | None


def _parts(unit: Unit, blocks: list[Block], mask: int | None) -> list[Part]:
    """The products of some blocks; mask: bits of the inputs that count, None for all."""
    if not blocks:
        return []
    if len(blocks) > 1:
        taps = _taps(blocks, unit, mask)
        if taps is not None:
            return [taps]
    sizes: dict[tuple[int, int], list[Block]] = defaultdict(list)
    for block in blocks:
        k, n = block.weight.shape
        sizes[(k - 1).bit_length(), (n - 1).bit_length()].append(block)
    top = unit.source.top
    return [
        DensePart(group[0], unit.pixels, top, mask) if len(group) == 1 else BlocksPart(group, unit.pixels, top, mask)
        for group in sizes.values()
    ]


def _tile_groups(unit: Unit, crossbars: Crossbars) -> list[list[TileUse]]:
    """The unit's tiles, those that share rows or columns together."""
    rows = [use.origin + crossbars.tile(use.tile).row_from for use in unit.tiles]
    columns = [use.channels[use.channels >= 0] for use in unit.tiles]
    if len(unit.tiles) == 1:
        return [unit.tiles]
    shared, count = [], len(unit.tiles)
    for keys in (rows, columns):
        known = np.unique(np.concatenate(keys), return_inverse=True)[1]
        tile = np.repeat(np.arange(len(unit.tiles)), [len(key) for key in keys])
        shared.append((tile, known + count))
        count += int(known.max(initial=-1)) + 1
    tile, key = (np.concatenate([pair[i] for pair in shared]) for i in range(2))
    label = connected_components(coo_array((np.ones(len(tile), np.int8), (tile, key)), shape=(count, count)), False)[1]
    groups: dict[int, list[TileUse]] = defaultdict(list)
    for use, mark in zip(unit.tiles, label.tolist(), strict=False):
        groups[mark].append(use)
    return list(groups.values())


def _blocks(group: list[TileUse], crossbars: Crossbars, wanted: _Wanted) -> list[Block]:
    """The matrix of some tiles as blocks that share neither rows nor columns."""
    tiles = [crossbars.tile(use.tile) for use in group]
    rows = np.unique(np.concatenate([use.origin + tile.row_from for use, tile in zip(group, tiles, strict=True)]))
    channels = np.unique(np.concatenate([use.channels[use.channels >= 0] for use in group]))
    weight = np.zeros((len(rows), len(channels)), np.int64)
    if not weight.size:
        return []
    for use, tile in zip(group, tiles, strict=True):
        row_at = np.searchsorted(rows, use.origin + tile.row_from)
        column_at = np.where(use.channels >= 0, np.searchsorted(channels, use.channels), -1)
        crossbars.add_weights(tile, weight, row_at, column_at, wanted.everything, wanted.lift)
        if tile.offset and not wanted.lift and use in wanted.offset_tiles:
            times = np.bincount(row_at, minlength=len(rows))  # an address may be there more than once
            weight[:, column_at[column_at >= 0]] -= tile.offset * times[:, None]
    used = weight != 0
    density = np.count_nonzero(used) / used.size
    if density > 0.5:  # of two blocks on a diagonal it is half
        return [Block(rows, channels, weight)]
    k, n = weight.shape
    at = np.nonzero(used)
    graph = coo_array((np.ones(len(at[0]), np.int8), (at[0], at[1] + k)), shape=(k + n, k + n))
    count, label = connected_components(graph, False)
    both = np.flatnonzero(np.bincount(label[:k], minlength=count) * np.bincount(label[k:], minlength=count))
    if len(both) == 1 and density > 0.1:
        return [Block(rows, channels, weight)]
    row_order, column_order = (np.argsort(part, kind="stable") for part in (label[:k], label[k:]))
    row_edges, column_edges = (
        np.searchsorted(part[order], np.stack([both, both + 1]))
        for part, order in ((label[:k], row_order), (label[k:], column_order))
    )
    return [
        Block(rows[r], channels[c], weight[np.ix_(r, c)])
        for r, c in (
            (row_order[row_edges[0, i] : row_edges[1, i]], column_order[column_edges[0, i] : column_edges[1, i]])
            for i in range(len(both))
        )
    ]


def _taps(blocks: list[Block], unit: Unit, mask: int | None) -> TapsPart | None:
    """Case 2 of the module's text, if the blocks are of that kind and it pays."""
    products = sum(block.weight.size for block in blocks)
    if max(block.weight.shape[1] for block in blocks) > 1:
        return None
    rows = np.concatenate([block.rows for block in blocks])
    channel = np.concatenate([np.full(len(block.rows), block.channels[0]) for block in blocks])
    values = np.concatenate([block.weight[:, 0] for block in blocks])
    first, last = int(channel.min()), int(channel.max())
    taps, at = np.unique(rows - (channel - first), return_inverse=True)
    size = len(taps) * (last - first + 1)
    if size > 4 * products:
        return None
    # channels without a weight at some tap are read there too, and multiplied by zero: the address must exist
    lowest, highest = int(unit.pixels.min() + taps[0]), int(unit.pixels.max() + taps[-1] + last - first)
    if lowest < 0 or highest >= unit.source.size:
        return None
    weight = np.zeros((len(taps), last - first + 1), np.int64)
    weight[at, channel - first] = values
    narrow = np.abs(weight).max() * max(unit.source.top, 1) < 1 << 31
    return TapsPart(taps, weight.astype(np.int32) if narrow else weight, first, unit.pixels, mask)


def _contiguous(channels: IntArray) -> int | None:
    """The first channel, if they are consecutive."""
    if len(channels) and np.array_equal(channels, np.arange(channels[0], channels[0] + len(channels))):
        return int(channels[0])
    return None


def _reach(weight: IntArray) -> int:
    """The larger of the positive and the negative weights' sum, over all columns."""
    positive, negative = np.maximum(weight, 0).sum(axis=0), np.minimum(weight, 0).sum(axis=0)
    return int(max(positive.max(initial=0), -negative.min(initial=0)))


def _float_splits(weight: IntArray, top: int) -> tuple[type[Any], list[tuple[int, int]]]:
    """The dtype of a product and the ranges of K in which its partial sums are exact."""
    k = len(weight)
    for kind, limit in _FLOATS:
        splits = _split(weight, limit // top)
        if splits is not None and (len(splits) * _SHORT_SPLIT <= k or len(splits) == 1 or kind is np.float64):
            return kind, splits
    return np.int64, [(0, k)]


def _split(weight: IntArray, limit: int) -> list[tuple[int, int]] | None:
    """Even ranges of rows, as few as possible, whose `_reach` is at most `limit`; None if one row exceeds it."""
    if int(np.abs(weight).max(initial=0)) > limit:
        return None
    k = len(weight)
    if _reach(weight) <= limit:
        return [(0, k)]
    positive, negative = np.maximum(weight, 0), np.minimum(weight, 0)
    pieces = -(-_reach(weight) // max(limit, 1))
    while True:
        edges = np.linspace(0, k, min(pieces, k) + 1).astype(np.int64)
        most = np.add.reduceat(positive, edges[:-1]).max(), -np.add.reduceat(negative, edges[:-1]).min()
        if max(most) <= limit:
            return list(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True))
        pieces += 1
