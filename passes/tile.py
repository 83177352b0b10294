"""The pass `tile`."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from smec.ir.dialects.builtin import ModuleOp
from smec.ir.dialects.quant import Conv, Gemm, WeightedOp
from smec.ir.dialects.xbar import MvmConv, MvmGemm, MvmOp, code_offset, weight_matrix
from smec.ir.errors import SmecError
from smec.ir.types import Handle
from smec.passes.base import Pass, PassContext, register_pass
from smec.passes.mapping.coding import SIGNS, largest_bits, weight_range
from smec.passes.mapping.doubling import DOUBLED_SIGNS, doubled_tiles, splits
from smec.passes.mapping.layers import Hardware, block_shape, hardware
from smec.passes.mapping.polarity import block_signs, check_sign_rows
from smec.passes.mapping.tiling import Tiles, conv_blocks, dense_tiles, grouped_tiles, widened


@register_pass
@dataclass(frozen=True)
class Tile(Pass):
    """Cut the weight matrices of quantized layers into tiles of the target's crossbar size.

    A convolution's matrix has the rows (ky kw + kx) C_in + c of im2col. Tiles are in row-major order of (row block,
    column block); the blocks of grouped and depthwise convolutions are packed on the diagonal of tiles.

    With `columns` = C / N the N planes of a tile fit side by side into one crossbar, as in mappings that keep all bits
    of a weight in adjacent columns (ISAAC); with the columns of an operation unit, every unit skips its own empty rows.

    Inputs of a layer's `doubled` rows get a second row, behind all first ones; the integers are split over the two so
    that squeeze-out, at the layer's depth, need not round (where no split does that, the first row holds them).

    The weights of layers with the sign scheme `polarized` must share a sign in each column of a block of g rows of a
    tile; packed blocks of grouped convolutions then begin at multiples of g rows.
    """

    name = "tile"
    requires = ("quant",)
    ensures = ("xbar.tiled",)

    columns: int | None = field(default=None, metadata={"doc": "most columns of a tile; none: all of a crossbar"})

    def run(self, module: ModuleOp, context: PassContext) -> bool:
        target = hardware(context, self.name)
        if self.columns is not None and not 1 <= self.columns <= target.columns:
            raise SmecError("columns of a tile", expected=f"1 to the target's {target.columns}", found=self.columns)
        layers = [op for op in module.graph.ops if isinstance(op, (Conv, Gemm)) and not isinstance(op, MvmOp)]
        report = []
        for done, op in enumerate(layers):
            context.progress(self.name, done, len(layers))
            mvm = self._tiled(op, target)
            module.graph.block.insert_before(op, mvm)
            op.replace_with(mvm.results)
            groups, k, m = block_shape(mvm)
            report.append({"name": mvm.label, "groups": groups, "rows": k, "columns": m, "tiles": mvm.rows.shape[0]})
        context.report[self.name] = {"tiles": sum(layer["tiles"] for layer in report), "layers": report}
        return bool(layers)

    def _tiled(self, op: Conv | Gemm, target: Hardware) -> MvmOp:
        _check_integers(op, target.rows)
        tiles = widened(_cut(op, target.rows, self.columns or target.columns, target.cell_bits), target.columns)
        if op.sign == "polarized":
            block_signs(op, tiles)  # raises where there are none
        attributes = {
            **op.attributes,
            "geometry": (target.rows, target.columns),
            "cell_bits": target.cell_bits,
            "rows": Handle(tiles.rows),
            "cols": Handle(tiles.cols),
            "codes": Handle(tiles.codes),
            "shifts": Handle(tiles.shifts),
        }
        kind: type[MvmOp] = MvmConv if isinstance(op, Conv) else MvmGemm
        return kind.create(op.operands, [r.type for r in op.results], attributes, location=op.location)


def _check_integers(op: WeightedOp, height: int) -> None:
    """Raise unless the layer's integers are those of its sign scheme and bits, on tiles of so many rows."""
    if op.sign not in SIGNS:
        raise op.error(f"sign scheme of layer '{op.label}' cannot be tiled", expected=" or ".join(SIGNS), found=op.sign)
    if not 1 <= op.bits <= largest_bits(op.sign):
        raise op.error(f"bits of layer '{op.label}'", expected=f"1 to {largest_bits(op.sign)}", found=op.bits)
    if op.sign == "polarized":
        check_sign_rows(op.sign_rows, height)
    if op.doubled is not None:
        _check_doubled(op, op.doubled.array)
    weight = op.integers()
    low, high = weight_range(op.sign, op.bits)
    if weight.size and (weight.min() < low or weight.max() > high):
        raise op.error(
            f"integer weights of layer '{op.label}' exceed {op.bits} bits ({op.sign})",
            expected=f"{low} to {high}",
            found=f"{weight.min()} to {weight.max()}",
        )


def _check_doubled(op: WeightedOp, rows: np.ndarray) -> None:
    """Raise unless these can be the layer's doubled rows."""
    if op.sign not in DOUBLED_SIGNS:
        expected = " or ".join(DOUBLED_SIGNS)
        raise op.error(f"sign scheme of layer '{op.label}' with doubled rows", expected=expected, found=op.sign)
    k = op.integers()[0].size
    if (np.diff(rows, prepend=-1, append=k) <= 0).any():
        raise op.error(f"doubled rows of layer '{op.label}'", expected=f"ascending, 0 to {k - 1}", found=rows.tolist())


def _cut(op: Conv | Gemm, height: int, width: int, cell_bits: int) -> Tiles:
    weight, offset = op.integers(), code_offset(op.sign, op.bits)
    if op.attributes.get("doubled") is not None:
        choices = splits(op.sign, op.bits, op.squeeze, cell_bits)
        return doubled_tiles(
            weight_matrix(op), op.doubled.array, choices, weight_range(op.sign, op.bits)[0], height, width
        )
    if isinstance(op, Gemm):
        return dense_tiles(weight.T, height, width, offset)
    if op.groups > 1:
        align = op.sign_rows if op.sign == "polarized" else 1
        return grouped_tiles(*conv_blocks(weight, op.groups), height, width, offset, align)
    return dense_tiles(weight.transpose(2, 3, 1, 0).reshape(-1, weight.shape[0]), height, width, offset)
