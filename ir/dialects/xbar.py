"""Matrices on crossbars: tiles, planes, row shifts, groups and places.

One operation stands for one layer. Its tiles and crossbars are stacked arrays rather than one operation each, so that
every mapping pass is a handful of array operations on a layer, however many crossbars it has.

Which attributes are there depends on the pass that ran last; see the groups below. The meaning of a layer is what the
lowest form at hand holds: cells that are driven, else codes and row shifts. `weight`, which they must add up to, is the
oracle that it is checked against. (A group that the ADC clips is a matter of the instructions' meaning.)
"""

from __future__ import annotations

import numpy as np

from smec.ir.core import attr, tuple_attr
from smec.ir.dialects.quant import Conv, Gemm, WeightedOp
from smec.ir.types import Handle


def code_offset(sign: str, bits: int) -> int:
    """What offset coding adds to every integer: 2^(N-1); 0 for the other sign schemes."""
    return 1 << (bits - 1) if sign == "offset" else 0


class MvmOp(WeightedOp):
    """Crossbar attributes that both layer kinds carry.

    R, C: rows and columns of a tile; T tiles; X crossbars; c cell bits; N weight bits.

    * after `tile`: geometry, cell_bits, rows, cols, codes, shifts
    * after `squeeze-out`: squeeze_error
    * after `slice-bits`: planes, blocks_empty, xbar_tile, xbar_weight, cells, and block_signs of polarized layers
    * after `group-rows`: row_group
    * after `replicate`: copies, n of all tiles, which share out the pixels, and if they share some pixels' digits, too,
      cuts and pixel_digits (`smec.passes.mapping.shares`)
    * after `assign-cores`: xbar_core, xbar_slot, xbar_row0, xbar_col0, copy after copy
    """

    geometry = tuple_attr(int, doc="R, C")
    cell_bits = attr(int, default=1)
    rows = attr(Handle, doc="int32 [T, R]: index into K, -1 unused; conv: (ky kw + kx) C_in + c")
    cols = attr(Handle, doc="int32 [T, C]: output channel, -1 unused")
    codes = attr(
        Handle,
        doc="int16 [T, R, C] (int32 for 16-bit offset coding): stored integer; weight = (code << shift) - offset",
    )
    shifts = attr(Handle, doc="uint8 [T, R]: row shifts k_r")
    squeeze_error = attr(float, default=0.0, doc="what squeeze-out lost: sum (w - w')^2 / sum w^2, real units")
    planes = attr(int, default=0, doc="crossbars that a full tile would have")
    blocks_empty = attr(int, default=0, doc="crossbars that were not made because all their cells are zero")
    xbar_tile = attr(Handle, default=None, doc="int32 [X], ascending")
    xbar_weight = attr(Handle, default=None, doc="int64 [X]: splice multiplier, +-2^(c p)")
    cells = attr(Handle, default=None, doc="uint8 [X, R, ceil(C c / 8)]: column n at bits n c .. n c + c - 1")
    block_signs = attr(
        Handle, default=None, doc="uint8 [T, R / g, ceil(C / 8)]: 1 for columns of a sign block that count as negative"
    )
    row_group = attr(Handle, default=None, doc="int16 [X, R]: group of the row in its crossbar, -1 not driven")
    copies = attr(int, default=1, doc="n: how many times the tiles are there")
    cuts = tuple_attr(
        int,
        default=(),
        doc="n - 1 positions in the stretch of (pixel, input digit) pairs, where one copy ends; none: whole pixels",
    )
    pixel_digits = attr(int, default=0, doc="input digits of a pixel, where there are cuts")
    xbar_core = attr(Handle, default=None, doc="int32 [n X]")
    xbar_slot = attr(Handle, default=None, doc="int32 [n X]: physical crossbar within the core")
    xbar_row0 = attr(Handle, default=None, doc="int32 [n X]: first row in the physical crossbar")
    xbar_col0 = attr(Handle, default=None, doc="int32 [n X]: first column in the physical crossbar")

    def pixel_shape(self) -> tuple[int, ...]:
        """Extents of the axes over which matrix-vector products run: those of the result without the channels."""
        channel = self.channel_axis() - 1
        return tuple(n for axis, n in enumerate(self.out.type.shape) if axis != channel)

    def effective_weights(self) -> np.ndarray:
        """int64, ONNX layout.

        Raises:
            SmecError: a tile holds a weight between two groups of a grouped convolution.
        """
        return held_weights(self)

    def absolute_sums(self) -> np.ndarray:
        """int64 [M, 1], sums of |code << shift| over all rows of tiles: they bound the sum over any of the rows."""
        held = np.abs(self.codes.array.astype(np.int64) << self.shifts.array[:, :, None]).sum(axis=1)
        out = np.zeros((self.integers().shape[0], 1), np.int64)
        used = self.cols.array >= 0
        np.add.at(out[:, 0], self.cols.array[used], held[used])
        return out

    def matrix(self) -> np.ndarray:
        """The oracle's weights as int16 [K, M] with K in the order of `rows` (grouped convolutions: zeros between)."""
        return weight_matrix(self)

    def mapped_matrix(self) -> np.ndarray:
        """int64 [K, M] that the tiles hold: what `matrix` must equal."""
        k, m = self.matrix().shape
        out = np.zeros((k + 1, m + 1), np.int64)
        rows, cols, shifts = self.rows.array, self.cols.array, self.shifts.array
        value = (self.codes.array.astype(np.int64) << shifts[:, :, None]) - code_offset(self.sign, self.bits)
        used = (rows[:, :, None] >= 0) & (cols[:, None, :] >= 0)
        np.add.at(out, (rows[:, :, None], cols[:, None, :]), np.where(used, value, 0))
        return out[:k, :m]


class MvmConv(MvmOp, Conv):
    """A convolution on crossbars.

    `%y = "xbar.conv"(%x) {name = "c1", rows = #smec.handle<...>, ...} : (...) -> (...)`
    """

    name = "xbar.conv"


class MvmGemm(MvmOp, Gemm):
    """A matrix product on crossbars.

    `%y = "xbar.gemm"(%x) {name = "fc", rows = #smec.handle<...>, ...} : (...) -> (...)`
    """

    name = "xbar.gemm"


def weight_matrix(op: WeightedOp) -> np.ndarray:
    """Integer weights of a layer as int16 [K, M]; conv rows are (ky kw + kx) C_in + c over all C_in channels.

    For a grouped convolution the entries between groups are zero; callers that only need the blocks should not use
    this for depthwise layers (K M is then C_in times the number of weights).
    """
    w = op.integers()
    if w.ndim == 2:
        return np.ascontiguousarray(w.T)
    m, cg, kh, kw = w.shape
    groups = op.groups if isinstance(op, Conv) else 1
    out = np.zeros((kh, kw, groups, cg, groups, m // groups), np.int16)
    blocks = w.reshape(groups, m // groups, cg, kh, kw).transpose(3, 4, 0, 2, 1)
    for_group = np.arange(groups)
    out[:, :, for_group, :, for_group] = blocks.transpose(2, 0, 1, 3, 4)
    return out.reshape(kh * kw * groups * cg, m)


def held_weights(op: MvmOp) -> np.ndarray:
    """What the crossbars of a layer hold, in the layout of its `weight`, int64: cells that are driven, else codes.

    Raises:
        SmecError: a tile holds a weight between two groups of a grouped convolution.
    """
    rows, cols, shifts = op.rows.array, op.cols.array, op.shifts.array
    codes = op.codes.array.astype(np.int64) if op.cells is None else _held_codes(op)
    tile, r, c = np.nonzero((rows[:, :, None] >= 0) & (cols[:, None, :] >= 0))
    values = (codes[tile, r, c] << shifts[tile, r].astype(np.int64)) - code_offset(op.sign, op.bits)
    k, m = rows[tile, r].astype(np.int64), cols[tile, c].astype(np.int64)
    out = np.zeros(op.weight.shape, np.int64)
    if not isinstance(op, Conv):
        np.add.at(out, (m, k), values)
        return out
    outputs, per_group = out.shape[:2]
    position, channel = np.divmod(k, per_group * op.groups)
    inside = channel // per_group == m // (outputs // op.groups)
    if values[~inside].any():
        raise op.error("a tile holds a weight between two groups of channels", expected=0)
    ky, kx = np.divmod(position[inside], out.shape[3])
    np.add.at(out, (m[inside], channel[inside] % per_group, ky, kx), values[inside])
    return out


def _held_codes(op: MvmOp) -> np.ndarray:
    """The codes that cells (and signs) add up to, int64 [T, R, C]; rows that no group drives count as zero."""
    count, height = op.rows.shape
    width = op.geometry[1]
    codes = np.zeros((count, height, width), np.int64)
    group = None if op.row_group is None else op.row_group.array
    place = 1 << np.arange(op.cell_bits)
    for x, (tile, weight) in enumerate(zip(op.xbar_tile.array.tolist(), op.xbar_weight.array.tolist(), strict=True)):
        bits = np.unpackbits(op.cells.array[x], axis=1, bitorder="little")[:, : width * op.cell_bits]
        held = bits.reshape(height, width, op.cell_bits) @ place * weight
        if group is not None:
            held[group[x] < 0] = 0
        codes[tile] += held
    if op.block_signs is not None:
        negative = np.unpackbits(op.block_signs.array, axis=2, bitorder="little", count=width)
        codes *= np.repeat(1 - 2 * negative.astype(np.int64), op.sign_rows, axis=1)
    return codes
