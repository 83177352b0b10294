"""The pass `replicate`."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from math import prod
from typing import Any

import numpy as np

from smec.ir.dialects.builtin import ModuleOp
from smec.ir.dialects.xbar import MvmOp
from smec.ir.errors import SmecError
from smec.passes.base import Pass, PassContext, register_pass
from smec.passes.mapping.copies import Copies
from smec.passes.mapping.layers import Hardware, array, crossbar_layers, extent, hardware
from smec.passes.mapping.placement import side_by_side
from smec.passes.mapping.replication import Layer, replicate, replicate_sharing
from smec.passes.mapping.solver import gap
from smec.passes.mapping.workload import digits_of_tiles, digits_of_units


@register_pass
@dataclass(frozen=True)
class Replicate(Pass):
    """Give the slowest layers more copies of their crossbars, so that the slowest copy takes the fewest reads.

    Copies of a layer read different pixels, or different digits of the inputs of a pixel that they share, so results
    stay the same. What they take is what `assign-cores` finds for them, where tiles share physical crossbars as far as
    that costs no time; with `share=false` as if none did, and then the reads are as few as can be. `bound` is what no
    copies and places go below, `continuous_bound` what no real numbers of copies that share nothing do.
    """

    name = "replicate"
    requires = ("xbar.grouped",)
    ensures = ()

    crossbars: int | None = field(
        default=None, metadata={"doc": "budget of physical crossbars; none: whole chips, as many as one copy needs"}
    )

    digits: bool = field(default=True, metadata={"doc": "copies may share the input digits of a pixel"})
    share: bool = field(default=True, metadata={"doc": "count on the physical crossbars that assign-cores saves"})

    def run(self, module: ModuleOp, context: PassContext) -> bool:
        target = hardware(context, self.name)
        ops = crossbar_layers(module)
        for op in ops:
            if op.xbar_core is not None:
                raise op.error(
                    f"the crossbars of layer '{op.label}' have their places already",
                    hint="put replicate before assign-cores",
                )
        before = [(op.copies, op.cuts) for op in ops]
        layers = [_layer(op, context.act_bits, target, whole=not self.digits) for op in ops]

        def placed(copies: list[int], cuts: list[list[int]], enough: int | None = None) -> tuple[int, int]:
            """Physical crossbars with these copies, and reads of the busiest."""
            for op, layer, n, some in zip(ops, layers, copies, cuts, strict=True):
                _write(op, layer, n, some)
            tiles = Copies.of(ops, context.act_bits, target)
            return tiles.place(target, share=self.share, enough=enough).physical, tiles.work.most

        least, _ = placed([1] * len(ops), [[]] * len(ops))
        chip = context.target.chip.cores * target.crossbars_per_core
        budget = self.crossbars if self.crossbars is not None else -(-max(least, 1) // chip) * chip
        if budget < least:
            raise SmecError(
                "too few crossbars for one copy of each layer", expected=f"a budget of {least} or more", found=budget
            )
        result = replicate_sharing(layers, budget, placed) if self.share else replicate(layers, budget)
        crossbars, _ = placed(result.copies, result.cuts)
        shared = sum(_shared(layer, cuts) for layer, cuts in zip(layers, result.cuts, strict=True))
        context.report[self.name] = {
            "budget": budget,
            "crossbars": crossbars,
            "crossbars_once": least,
            "cycles_once": max((layer.cycles for layer in layers), default=0),
            "cycles": result.cycles,
            "bound": result.bound,
            "continuous_bound": result.continuous,
            "gap": gap(result.cycles, result.bound),
            "continuous_gap": gap(result.cycles, result.continuous),
            "shared_pixels": shared,
            "layers": [_figures(op, layer) for op, layer in zip(ops, layers, strict=True)],
        }
        return before != [(op.copies, op.cuts) for op in ops]


def _write(op: MvmOp, layer: Layer, copies: int, cuts: list[int]) -> None:
    op.attributes["copies"] = copies
    for name, value in (("cuts", tuple(cuts)), ("pixel_digits", layer.pixel_digits)):
        if cuts:
            op.attributes[name] = value
        else:
            op.attributes.pop(name, None)


def _layer(op: MvmOp, act_bits: int, target: Hardware, whole: bool) -> Layer:
    """What a layer's copies compute and take.

    Crossbars of a tile that fit side by side count as one and share their reads. Only the last two axes of the pixels
    are shared out.
    """
    tile = array(op, "xbar_tile", "slice-bits")
    widths = extent(op.cols.array)
    units = side_by_side(tile, widths, target.columns, beside=True)
    groups = array(op, "row_group", "group-rows")
    reads, _ = digits_of_units(groups, op.shifts.array[tile], units.unit, act_bits, target.dac_bits)
    *outer, rows, columns_of_pixels = (1, 1, *op.pixel_shape())
    # read t of each row group drives digit t
    at_digit = (reads[:, :, None] > np.arange(reads.max(initial=0))).sum(axis=1) * prod(outer)
    # Crossbars side by side may take more digits together than each of them: the lowest row shift is one's, the highest
    # another's. Digits are counted by crossbar, so that such layers' pixels are not shared.
    alone, together = digits_of_tiles(op, act_bits, target.dac_bits), np.zeros(len(widths), np.int64)
    np.maximum.at(together, tile, reads.max(axis=1, initial=0)[units.unit])
    whole = whole or bool((together > alone).any())
    last = max(int(alone.max(initial=1)), 1)
    at_digit = np.concatenate([at_digit[:, : last - 1], at_digit[:, last - 1 :].sum(axis=1, keepdims=True)], axis=1)
    digits = tuple(tuple(unit) for unit in np.unique(at_digit, axis=0).tolist())
    cost, cells = int(units.slots.sum()), int((extent(op.rows.array) * widths)[tile].sum())
    share = Fraction(cells, max(cost, 1) * target.rows * target.columns)
    pixels = rows * columns_of_pixels
    return Layer(pixels, digits, cost, share, int(at_digit.sum()) * pixels, whole)


def _shared(layer: Layer, cuts: list[int]) -> int:
    """Pixels of which several copies read some digits each."""
    return len({cut // layer.pixel_digits for cut in cuts if cut % layer.pixel_digits})


def _figures(op: MvmOp, layer: Layer) -> dict[str, Any]:
    figures = {"name": op.label, "copies": op.copies, "cycles_once": layer.cycles, "crossbars_once": layer.cost}
    return figures | {"shared_pixels": _shared(layer, list(op.cuts))}
