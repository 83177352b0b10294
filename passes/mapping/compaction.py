"""Compaction: dropping rows, columns and tiles without weights, and gathering rows that belong together (DESIGN 4)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from smec.passes.mapping.coding import SIGNED_MAGNITUDES, Plane, used_planes
from smec.passes.mapping.jit import I64, compiled, in_chunks
from smec.passes.mapping.tiling import Tiles


@dataclass(frozen=True)
class Costs:
    """What the rows of a tile cost: crossbars that are not empty, and reads if each were driven in one group.

    planes: the sign scheme's planes; act_bits: A; dac_bits: d; least: crossbars that a tile with rows always has.
    """

    planes: list[Plane]
    act_bits: int
    dac_bits: int
    least: int = 0

    def of(self, masks: np.ndarray, shifts: np.ndarray, used: np.ndarray) -> tuple[int, int]:
        """(crossbars, reads) of tiles whose rows [T, R] have these code masks and shifts, as far as they are used."""
        count = used_planes(np.bitwise_or.reduce(np.where(used, masks, 0), axis=1), self.planes).sum(axis=1)
        count = np.where(used.any(axis=1), np.maximum(count, self.least), 0)
        high = np.where(used, shifts, 0).max(axis=1, initial=0).astype(np.int64)
        low = np.where(used, shifts, 255).min(axis=1, initial=255).astype(np.int64)
        steps = self.act_bits + np.maximum(high - low, 0)
        return int(count.sum()), int((count * -(-steps // self.dac_bits)).sum())


def row_masks(tiles: Tiles, sign: str, offset: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """What each row of each tile holds in its used columns.

    Args:
        tiles: the tiles.
        sign: sign scheme.
        offset: what the codes have added.
        width: bits of a code (N - x).

    Returns:
        masks uint32 [T, R]: the bitwise or of the row's codes (see `coding.used_planes`), with `polarized` of their
        magnitudes;
        used bool [T, R]: the row has a weight that is not zero.
    """
    masks = np.zeros(tiles.rows.shape, np.uint32)
    used = np.zeros(tiles.rows.shape, np.bool_)

    def work(start: int, stop: int) -> None:
        _row_masks(
            start, stop, tiles.rows, tiles.cols, tiles.codes, tiles.shifts, offset, sign in SIGNED_MAGNITUDES,
            (1 << width) - 1, masks, used,
        )  # fmt: skip

    in_chunks(len(masks), work)
    return (masks & 0xFFFF | masks >> 16 if sign == "polarized" else masks), used


@compiled
def _row_masks(
    start: int, stop: int, rows: np.ndarray, cols: np.ndarray, codes: np.ndarray, shifts: np.ndarray,
    offset: int, split: bool, low_bits: int, masks: np.ndarray, used: np.ndarray,
) -> None:  # fmt: skip
    for t in range(start, stop):
        # Unused columns hold code 0 in every scheme but count as no weight, which matters for offset coding alone.
        for r in range(rows.shape[1]):
            if rows[t, r] < 0:
                continue
            positive, negative, other = 0, 0, 0
            for n in range(cols.shape[1]):
                code = I64(codes[t, r, n])
                if split:
                    positive |= max(code, 0)
                    negative |= max(-code, 0)
                else:
                    positive |= code & low_bits
                if offset != 0 and cols[t, n] >= 0:
                    other |= (code << shifts[t, r]) ^ offset
            masks[t, r] = positive | (negative << 16)
            used[t, r] = (other if offset != 0 else positive | negative) != 0


def column_use(tiles: Tiles, offset: int) -> np.ndarray:
    """bool [T, C]: the column has a weight that is not zero in a used row."""
    used = np.zeros(tiles.cols.shape, np.bool_)

    def work(start: int, stop: int) -> None:
        _column_use(start, stop, tiles.rows, tiles.cols, tiles.codes, tiles.shifts, offset, used)

    in_chunks(len(used), work)
    return used


@compiled
def _column_use(
    start: int, stop: int, rows: np.ndarray, cols: np.ndarray, codes: np.ndarray, shifts: np.ndarray,
    offset: int, used: np.ndarray,
) -> None:  # fmt: skip
    width = cols.shape[1]
    total = np.zeros(width, np.int64)
    for t in range(start, stop):
        total.fill(0)
        for r in range(rows.shape[1]):
            if rows[t, r] >= 0:
                for n in range(width):
                    total[n] |= (I64(codes[t, r, n]) << shifts[t, r]) ^ offset
        for n in range(width):
            used[t, n] = cols[t, n] >= 0 and total[n] != 0


def compact(tiles: Tiles, *, sign: str, offset: int, width: int, costs: Costs, gather: bool, block: int = 1) -> Tiles:
    """Drop what holds no weight and put the rest first; optionally gather rows across the tiles of a column block.

    Rows and columns that are used come first in their tile, rows ordered by shift; the others become unused (-1, code
    0, shift 0), also with offset coding, whose correction counts used rows only. Tiles without rows are dropped.

    With `gather`, the rows of all tiles that have the same columns may be dealt out anew. Of these orders the one with
    the fewest crossbars, then the fewest reads, is taken, the earlier one of equals:

    1. each tile keeps its rows;
    2. all rows in order of K, so that zero rows do not cost tiles;
    3. by shift, then by the highest bit in use: tiles of one shift need no extra input cycles, and the top planes of
       tiles with small weights are empty;
    4. by the highest bit in use, then by shift.

    What moves is `block` consecutive rows, from one place of a block to another (sign blocks; of all schemes but
    `polarized`, single rows). A block counts as used where one of its rows is, and by its largest shift; within it rows
    stay where they are.
    """
    height = tiles.rows.shape[1] // block
    masks, used = row_masks(tiles, sign, offset, width)
    shifts = np.where(used, tiles.shifts, 0).astype(np.uint8)
    flat_masks, flat_shifts, flat_used = masks.reshape(-1), shifts.reshape(-1), used.reshape(-1)
    top = np.frexp((flat_masks & 0xFFFF | flat_masks >> 16).astype(np.float64))[1].reshape(-1, block).max(axis=1)
    block_shifts = flat_shifts.reshape(-1, block).max(axis=1)
    block_used = flat_used.reshape(len(used), height, block).max(axis=2)
    blocks: dict[bytes, list[int]] = {}
    for t in range(len(masks)):
        # A tile that may not be dealt out anew is a block of its own.
        key = tiles.cols[t].tobytes() if gather else t.to_bytes(8, "little")
        blocks.setdefault(key, []).append(t)
    plans = []
    for members in blocks.values():
        base = np.array(members)[:, None] * height + np.arange(height)
        alive = base[block_used[members]]
        orders = [base]
        if len(members) > 1 and len(alive):
            # K grows along the members of a block, as `tile` made them.
            orders.append(_dealt(alive, height))
            orders.append(_dealt(alive[np.lexsort((top[alive], block_shifts[alive]))], height))
            orders.append(_dealt(alive[np.lexsort((block_shifts[alive], top[alive]))], height))
        priced = []
        for order in orders:
            rows = _rows_of(order, block)
            there = (rows >= 0) & flat_used[rows]
            priced.append(costs.of(flat_masks[rows], flat_shifts[rows], there))
        plans.append(orders[min(range(len(orders)), key=priced.__getitem__)])
    plan = np.concatenate(plans) if plans else np.zeros((0, height), np.int64)
    return _drop_columns(_apply(tiles, plan, used, shifts, block), offset)


def _rows_of(plan: np.ndarray, block: int) -> np.ndarray:
    """The rows of blocks: int64 [T, R] from [T, R / block], -1 where there is no block."""
    rows = np.where(plan[:, :, None] >= 0, plan[:, :, None] * block + np.arange(block), -1)
    return rows.reshape(len(plan), plan.shape[1] * block)


def _dealt(rows: np.ndarray, height: int) -> np.ndarray:
    """A list of blocks cut into tiles: int64 [T, R / block], -1 behind the last."""
    tiles = -(-len(rows) // height)
    out = np.full(tiles * height, -1, np.int64)
    out[: len(rows)] = rows
    return out.reshape(tiles, height)


def _apply(tiles: Tiles, plan: np.ndarray, used: np.ndarray, shifts: np.ndarray, block: int) -> Tiles:
    """Tiles made of the blocks (tile x R / block + place) that `plan` lists, int64 [T, R / block], unused ones moved to
    the end.
    """
    height = tiles.rows.shape[1]
    rows = _rows_of(plan, block)
    alive = (rows >= 0) & used.reshape(-1)[rows]
    keep = alive.any(axis=1)
    rows, alive = rows[keep], alive[keep]
    key = np.where(alive, shifts.reshape(-1)[rows].astype(np.int64), -1)
    key = key.reshape(len(rows), height // block, block).max(axis=2)
    order = _rows_of(np.argsort(np.where(key < 0, 256, key), axis=1, kind="stable"), block)
    plan, alive = np.take_along_axis(rows, order, axis=1), np.take_along_axis(alive, order, axis=1)
    cols = tiles.cols[plan[:, 0] // height]
    natural = np.arange(tiles.rows.size, dtype=np.int64).reshape(tiles.rows.shape)
    if plan.shape == natural.shape and np.array_equal(plan, natural):
        codes = tiles.codes if alive.all() else np.where(alive[:, :, None], tiles.codes, tiles.codes.dtype.type(0))
    else:
        codes = tiles.codes.reshape(-1, tiles.codes.shape[2])[plan]
        codes[~alive] = 0
    rows = np.where(alive, tiles.rows.reshape(-1)[plan], -1).astype(np.int32)
    return Tiles(rows, cols, codes, np.where(alive, shifts.reshape(-1)[plan], 0).astype(np.uint8))


def _drop_columns(tiles: Tiles, offset: int) -> Tiles:
    """The used columns of each tile first; the others unused, with code 0."""
    used = column_use(tiles, offset)
    if np.array_equal(used, tiles.cols >= 0) and not (used[:, 1:] & ~used[:, :-1]).any():
        return tiles
    order = np.argsort(~used, axis=1, kind="stable")
    there = np.take_along_axis(used, order, axis=1)
    cols = np.where(there, np.take_along_axis(tiles.cols, order, axis=1), -1).astype(np.int32)
    codes = np.take_along_axis(tiles.codes, order[:, None, :], axis=2)
    codes[~np.broadcast_to(there[:, None, :], codes.shape)] = 0
    return Tiles(tiles.rows, cols, codes, tiles.shifts)
