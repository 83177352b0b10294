"""The crossbar sections of a program: tile tables, places, groups and the cells of the physical crossbars."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from smec.ir.dialects.xbar import MvmOp, code_offset


@dataclass
class CrossbarTables:
    """Stacks the tiles and crossbars of all layers.

    `rows`, `columns`: extent of the target's crossbars; `cell_bits` c; a row of cells takes ceil(columns c / 8) bytes.
    """

    rows: int
    columns: int
    cell_bits: int
    tiles: int = 0
    crossbars: int = 0
    sign_blocks: int = 0
    _tile_rows: list[np.ndarray] = field(default_factory=list)
    _tile_cols: list[np.ndarray] = field(default_factory=list)
    _tile_shift: list[np.ndarray] = field(default_factory=list)
    _tile_offset: list[np.ndarray] = field(default_factory=list)
    _tile_sign: list[np.ndarray] = field(default_factory=list)
    _sign_blocks: list[np.ndarray] = field(default_factory=list)
    _tile_xbars: list[np.ndarray] = field(default_factory=list)
    _place: list[np.ndarray] = field(default_factory=list)
    _weight: list[np.ndarray] = field(default_factory=list)
    _group: list[np.ndarray] = field(default_factory=list)
    _cells: list[np.ndarray] = field(default_factory=list)

    def add_copy(self, op: MvmOp, copy: int, row_address: np.ndarray, col_base: np.ndarray) -> np.ndarray:
        """Append one copy of a layer.

        Args:
            op: a placed layer.
            copy: which of its copies, for the places of the crossbars.
            row_address: int64 [T, R], address of each row's input within a pixel's window; -1: no input.
            col_base: int64 [T], first output channel that the tile's accumulator rows hold.

        Returns:
            Index of each of its tiles in the program, int64 [T].
        """
        cols = op.cols.array
        t = len(cols)
        xbar_tile = op.xbar_tile.array.astype(np.int64)
        count = np.bincount(xbar_tile, minlength=t)
        first = self.crossbars + np.concatenate(([0], np.cumsum(count)[:-1])) if t else np.zeros(0, np.int64)
        self._tile_rows.append(row_address.astype(np.int32))
        self._tile_cols.append(np.where(cols >= 0, cols - col_base[:, None], -1).astype(np.int32))
        self._tile_shift.append(op.shifts.array.astype(np.uint8))
        self._tile_offset.append(np.full(t, code_offset(op.sign, op.bits), np.int64))
        self._tile_sign.append(self._add_signs(op))
        self._tile_xbars.append(np.stack([first, count], axis=1).astype(np.int64))
        place = [op.xbar_core, op.xbar_slot, op.xbar_row0, op.xbar_col0]
        here = slice(copy * len(xbar_tile), (copy + 1) * len(xbar_tile))
        self._place.append(np.stack([h.array[here] for h in place], axis=1).astype(np.int32))
        self._weight.append(op.xbar_weight.array.astype(np.int64))
        self._group.append(op.row_group.array.astype(np.int16))
        self._cells.append(op.cells.array)
        index = np.arange(self.tiles, self.tiles + t, dtype=np.int64)
        self.tiles += t
        self.crossbars += len(xbar_tile)
        return index

    def _add_signs(self, op: MvmOp) -> np.ndarray:
        """Append the layer's sign blocks; first block and rows of a block of each tile, int64 [T, 2]."""
        where = np.zeros((len(op.rows.array), 2), np.int64)
        where[:, 0] = self.sign_blocks
        if op.block_signs is not None:
            signs = op.block_signs.array
            where[:, 0] += np.arange(len(signs)) * signs.shape[1]
            where[:, 1] = op.sign_rows
            self._sign_blocks.append(signs.reshape(-1, signs.shape[2]))
            self.sign_blocks += len(self._sign_blocks[-1])
        return where

    def sections(self) -> dict[str, np.ndarray]:
        place = _stack(self._place, (0, 4), np.int32)
        phys, cells = self._physical(place)
        return {
            "tile_rows": _stack(self._tile_rows, (0, self.rows), np.int32),
            "tile_cols": _stack(self._tile_cols, (0, self.columns), np.int32),
            "tile_shift": _stack(self._tile_shift, (0, self.rows), np.uint8),
            "tile_offset": _stack(self._tile_offset, (0,), np.int64),
            "tile_sign": _stack(self._tile_sign, (0, 2), np.int64),
            "sign_blocks": _stack(self._sign_blocks, (0, -(-self.columns // 8)), np.uint8),
            "tile_xbars": _stack(self._tile_xbars, (0, 2), np.int64),
            "xbar_place": place,
            "xbar_phys": phys,
            "xbar_weight": _stack(self._weight, (0,), np.int64),
            "xbar_group": _stack(self._group, (0, self.rows), np.int16),
            "cells": cells,
        }

    def _physical(self, place: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(physical crossbar of each crossbar int32 [X], cells uint8 [n, R, bytes]) with shared crossbars merged."""
        width = -(-self.columns * self.cell_bits // 8)
        key = place[:, 0].astype(np.int64) << 32 | place[:, 1]
        known, phys = np.unique(key, return_inverse=True)
        cells = np.zeros((len(known), self.rows, width), np.uint8)
        alone = (place[:, 2] == 0) & (place[:, 3] == 0)
        at = 0
        for part in self._cells:
            here = slice(at, at + len(part))
            plain = alone[here]
            # A crossbar at the origin may still share its physical crossbar with one further down the diagonal.
            cells[phys[here][plain]] |= part[plain]
            for i in np.flatnonzero(~plain):
                _, _, row0, col0 = place[at + i]
                cells[phys[at + i]] |= self._moved(part[i], int(row0), int(col0))
            at += len(part)
        return phys.reshape(-1).astype(np.int32), cells

    def _moved(self, packed: np.ndarray, row0: int, col0: int) -> np.ndarray:
        """A crossbar's packed cells, moved down and right; what leaves the array is unused, hence zero."""
        bits = np.unpackbits(packed, axis=1, bitorder="little")
        out = np.zeros_like(bits)
        shift = col0 * self.cell_bits
        out[row0:, shift:] = bits[: bits.shape[0] - row0, : bits.shape[1] - shift]
        return np.packbits(out, axis=1, bitorder="little")


def _stack(parts: list[np.ndarray], empty: tuple[int, ...], dtype: type) -> np.ndarray:
    return np.concatenate(parts) if parts else np.zeros(empty, dtype)
