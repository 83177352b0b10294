"""Sign blocks: how the sign scheme `polarized` holds signs (FORMS, ISCA 2021, doi 10.1109/ISCA52012.2021.00029).

A block is g consecutive rows of a tile, counted from its first one; g divides R. The weights of a column within a block
share a sign. Cells hold magnitudes, a read drives rows of one block only, and the splice multiplies what it reads of a
column by the sign of (block, column). So passes that move rows move whole blocks, from block to block.
"""

from __future__ import annotations

import numpy as np

from smec.ir.dialects.quant import WeightedOp
from smec.ir.errors import SmecError
from smec.passes.mapping.tiling import Tiles


def check_sign_rows(rows: int, height: int) -> None:
    """Refuse blocks of `rows` rows that tiles of `height` rows cannot be cut into.

    Raises:
        SmecError: `rows` does not divide `height`.
    """
    if rows < 1 or height % rows:
        raise SmecError("rows of a sign block", expected=f"a divisor of the tile's {height} rows", found=rows)


def block_signs(op: WeightedOp, tiles: Tiles) -> np.ndarray:
    """The columns of each block whose weights are negative.

    Args:
        op: the layer that the tiles are of.
        tiles: with codes int16 [T, R, C].

    Returns:
        uint8 [T, R / g, ceil(C / 8)], packed, little bit order.

    Raises:
        SmecError: weights of a column in a block have both signs.
    """
    count, height, width = tiles.codes.shape
    blocks = tiles.codes.reshape(count, height // op.sign_rows, op.sign_rows, width)
    low, high = blocks.min(axis=2), blocks.max(axis=2)
    mixed = (low < 0) & (high > 0)
    if mixed.any():
        raise _mixed(op, tiles, *(int(i) for i in np.argwhere(mixed)[0]))
    return np.packbits(low < 0, axis=2, bitorder="little")


def _mixed(op: WeightedOp, tiles: Tiles, tile: int, block: int, column: int) -> SmecError:
    first = block * op.sign_rows
    code = tiles.codes[tile, first : first + op.sign_rows, column]
    found = [f"{int(code[i])} at matrix row {int(tiles.rows[tile, first + i])}" for i in (code.argmax(), code.argmin())]
    return op.error(
        f"weights of layer '{op.label}' have both signs in row block {block} (tile rows {first} to "
        f"{first + op.sign_rows - 1}) of tile {tile}, output column {int(tiles.cols[tile, column])}",
        expected=f"one sign in each column of {op.sign_rows} rows (polarized)",
        found=" and ".join(found),
        hint="quantize-admm and quantize-greedy choose such integers with sign=polarized",
    )
