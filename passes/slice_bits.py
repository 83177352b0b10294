"""The pass `slice-bits`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from smec.ir.dialects.builtin import ModuleOp
from smec.ir.dialects.xbar import MvmOp
from smec.ir.types import Handle
from smec.passes.base import Pass, PassContext, register_pass
from smec.passes.mapping.coding import code_range, planes
from smec.passes.mapping.layers import crossbar_layers, offset_of, tiles_of
from smec.passes.mapping.polarity import block_signs


@register_pass
@dataclass(frozen=True)
class SliceBits(Pass):
    """Cut the codes of every tile into planes of cells; crossbars without a one are not made.

    Planes of N' = N - x bits and c-bit cells: differential ceil(N'/c), each a positive and a negative crossbar; offset
    ceil(N'/c); two's complement ceil((N'-1)/c) and one for the sign bit, spliced with -2^(N'-1); polarized ceil(N'/c)
    of the magnitudes, and the signs of each block of rows. A tile of an offset layer keeps one crossbar even if it is
    empty, since its correction belongs to its read.
    """

    name = "slice-bits"
    requires = ("xbar.tiled",)
    forbids = ("xbar.sliced",)
    ensures = ("xbar.sliced",)

    def run(self, module: ModuleOp, context: PassContext) -> bool:
        layers = crossbar_layers(module)
        report = []
        for done, op in enumerate(layers):
            context.progress(self.name, done, len(layers))
            report.append(self._slice(op))
        context.report[self.name] = {
            "crossbars": sum(layer["crossbars"] for layer in report),
            "crossbars_empty": sum(layer["crossbars_empty"] for layer in report),
            "layers": report,
        }
        return bool(layers)

    def _slice(self, op: MvmOp) -> dict[str, Any]:
        from smec.passes.mapping.compaction import row_masks  # compiled code: only when it runs
        from smec.passes.mapping.slicing import slice_bits

        width, codes = op.bits - op.squeeze, op.codes.array
        low, high = code_range(op.sign, width)
        if codes.size and (codes.min() < low or codes.max() > high):
            raise op.error(
                f"codes of layer '{op.label}' exceed {width} bits ({op.sign})",
                expected=f"{low} to {high}",
                found=f"{codes.min()} to {codes.max()}",
                hint="run squeeze-out first: the layer asks for squeeze depth " + str(op.squeeze),
            )
        table = planes(op.sign, width, op.cell_bits)
        if op.sign == "polarized":
            op.attributes["block_signs"] = Handle(block_signs(op, tiles_of(op)))
            codes = np.abs(codes)
        masks, _ = row_masks(tiles_of(op), op.sign, offset_of(op), width)
        keep = np.full(len(codes), op.sign == "offset") & (op.rows.array >= 0).any(axis=1)
        sliced = slice_bits(
            codes,
            np.bitwise_or.reduce(masks, axis=1),
            sign=op.sign,
            width=width,
            cell_bits=op.cell_bits,
            planes=table,
            keep=keep,
        )
        op.attributes |= {"planes": len(table), "blocks_empty": len(codes) * len(table) - len(sliced.tile)}
        op.attributes["xbar_tile"] = Handle(sliced.tile)
        op.attributes["xbar_weight"] = Handle(sliced.weight)
        op.attributes["cells"] = Handle(sliced.cells)
        return {
            "name": op.label,
            "planes": len(table),
            "crossbars": len(sliced.tile),
            "crossbars_empty": op.blocks_empty,
        }
