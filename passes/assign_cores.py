"""The pass `assign-cores`."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from smec.ir.dialects.builtin import ModuleOp
from smec.ir.dialects.xbar import MvmOp
from smec.ir.errors import SmecError
from smec.ir.types import Handle
from smec.passes.base import Pass, PassContext, register_pass
from smec.passes.mapping.copies import Copies
from smec.passes.mapping.layers import Hardware, array, block_shape, crossbar_layers, extent, hardware
from smec.passes.mapping.placement import Placement, slots_needed
from smec.passes.mapping.routing import Grid, arrange
from smec.passes.mapping.solver import gap
from smec.passes.mapping.tiling import crossbars_dense
from smec.passes.mapping.traffic import core_traffic
from smec.passes.mapping.workload import balance, conversions


@register_pass
@dataclass(frozen=True)
class AssignCores(Pass):
    """Give every crossbar a core, a physical crossbar in it, and a place there.

    Cores are filled in layer order; the crossbars of a tile sit in one core. Small ones share physical crossbars: those
    of one tile have the same inputs and are put side by side on the same rows, so that a cycle reads all of them if
    they have the same row groups; those of different tiles, whichever their layers, are packed like rectangles and read
    in turn: no more of them on one than the busiest tile alone takes time for, unless `crossbars` asks for it.

    Where crossbars share banks of converters, the slots of each core are given such that its banks have equal work. Of
    each chip's cores those that exchange much are put close to one another. Both report objective, bound and gap.
    """

    name = "assign-cores"
    requires = ("xbar.sliced",)
    ensures = ("xbar.placed",)

    crossbars: int | None = field(
        default=None,
        metadata={
            "doc": "share at the cost of time, too, if more physical crossbars were needed without; 0: the fewest"
        },
    )
    share: bool = field(default=True, metadata={"doc": "crossbars of different tiles share physical ones, in turn"})
    beside: bool = field(default=True, metadata={"doc": "crossbars of a tile share physical ones, side by side"})
    level: bool = field(default=True, metadata={"doc": "equalise the work of banks of converters"})
    limit: float = field(
        default=0.5,
        metadata={"doc": "CP-SAT's deterministic time (about seconds) to level the banks of a core; 0: none"},
    )
    route: bool = field(default=True, metadata={"doc": "put cores that exchange much close to one another"})

    def run(self, module: ModuleOp, context: PassContext) -> bool:
        if self.crossbars is not None and self.crossbars < 0:
            raise SmecError("number of crossbars", expected="0 (the fewest) or more", found=self.crossbars)
        target = hardware(context, self.name)
        layers = crossbar_layers(module)
        for op in layers:
            count = np.bincount(array(op, "xbar_tile", "slice-bits"), minlength=op.rows.shape[0])
            width = extent(op.cols.array)
            most = int(slots_needed(count, width, target.columns, self.beside).max(initial=0))
            if most > target.crossbars_per_core:
                raise op.error(
                    f"a tile of layer '{op.label}' needs more crossbars than a core has",
                    expected=f"at most {target.crossbars_per_core}",
                    found=most,
                    hint="fewer planes (squeeze-out, more cell bits, another sign scheme) or larger cores",
                )
        placed = self._place(Copies.of(layers, context.act_bits, target, self.beside), target)
        placed, workload = self._level(layers, placed, context)
        placed, network = self._route(module, layers, placed, context)
        changed = _write(layers, placed)
        context.report[self.name] = {**self._report(layers, placed), "workload": workload, "network": network}
        return changed

    def _place(self, copies: Copies, target: Hardware) -> Placement:
        """The placement that costs no time; where that takes more crossbars than wanted, the one within a twentieth of
        the fewest reads with which they suffice; if there is none, the one that takes as long as it may.
        """

        def placed(most: int) -> Placement:
            return copies.place(target, share=self.share, beside=self.beside, most=most, enough=self.crossbars)

        low, high = copies.work.most, int((copies.counts * copies.work.reads).sum())
        first, wanted = placed(low), self.crossbars
        if wanted is None or first.physical <= wanted or not self.share:
            return first
        found = placed(high)
        if found.physical > wanted:
            return found
        while high - low > max(high // 20, 1):
            middle = (low + high) // 2 if high < 4 * low else math.isqrt(low * high)
            attempt = placed(middle)
            if attempt.physical <= wanted:
                high, found = middle, attempt
            else:
                low = middle
        return found

    def _level(self, layers: list[MvmOp], placed: Placement, context: PassContext) -> tuple[Placement, dict[str, Any]]:
        """Slots such that banks of converters have equal work; figures in conversions of an image."""
        adc = getattr(context.target, "adc", None)
        if adc is None or not len(placed.core):
            return placed, {}
        key = np.stack([placed.core, placed.slot], axis=1)
        places, first, physical = np.unique(key, axis=0, return_index=True, return_inverse=True)
        physical = physical.reshape(-1)
        work, tile = np.zeros(len(places), np.int64), np.zeros(len(physical), np.int64)
        at = tiles = 0
        for op in layers:
            count = len(op.xbar_tile.array)
            mine = slice(at, at + count * op.copies)
            each = conversions(op, physical[mine], context.act_bits, context.target.dac_bits)
            np.add.at(work, physical[mine], each)
            copy = np.repeat(np.arange(op.copies), count)
            tile[mine] = np.tile(op.xbar_tile.array, op.copies) + copy * len(op.rows.array) + tiles
            at, tiles = mine.stop, tiles + op.copies * len(op.rows.array)
        per_core = context.target.crossbars_per_core
        found = balance(
            places[:, 0], places[:, 1], work, tile[first], per_core, adc.crossbars,
            self.limit if self.level else None,
        )  # fmt: skip
        figures = {
            "objective": found.busiest,
            "bound": found.bound,
            "gap": gap(found.busiest, found.bound),
            "unlevelled": found.before,
            "sum": found.total,
            "sum_bound": found.total_bound,
            "sum_unlevelled": found.total_before,
            "exact": found.exact,
            "exact_time": found.effort,
        }
        return replace(placed, slot=found.slot[physical].astype(np.int32)), figures

    def _route(
        self, module: ModuleOp, layers: list[MvmOp], placed: Placement, context: PassContext
    ) -> tuple[Placement, dict[str, Any]]:
        """Cores such that messages pass few routers; figures in bytes x routers of an image."""
        router, chip = getattr(context.target, "router", None), getattr(context.target, "chip", None)
        if router is None or chip is None or not self.route or placed.cores < 2:
            return placed, {}
        ends = np.cumsum([len(op.xbar_tile.array) * op.copies for op in layers])[:-1]
        traffic = core_traffic(module.graph, np.split(placed.core, ends))
        found = arrange(traffic, placed.cores, Grid(chip.cores, router.cores))
        figures = {
            "objective": found.cost,
            "bound": found.bound,
            "gap": gap(found.cost, found.bound),
            "in_layer_order": found.before,
            "bytes": found.bytes,
            "exchanges": found.exchanges,
        }
        return replace(placed, core=found.core[placed.core].astype(np.int32)), figures

    def _report(self, layers: list[MvmOp], placed: Placement) -> dict[str, Any]:
        """Counts of crossbars.

        `crossbars_dense_16` and `crossbars_dense_8` are the crossbars of the same size that the layers need when a
        weight takes 16 (8) adjacent one-bit columns: ceil(K/R) ceil(16 M/C), and for grouped layers the same diagonal
        packing as ours (`tiling.crossbars_dense`).
        """
        report: list[dict[str, Any]] = []
        at = 0
        for op in layers:
            (height, width), n = op.geometry, op.xbar_tile.shape[0] * op.copies
            dense = {b: crossbars_dense(*block_shape(op), height, width, b) for b in (16, 8)}
            report.append(
                {
                    "name": op.label,
                    "tiles": op.rows.shape[0] * op.copies,
                    "crossbars": n,
                    "cores": len(np.unique(placed.core[at : at + n])),
                    "crossbars_dense_16": dense[16],
                    "crossbars_dense_8": dense[8],
                }
            )
            at += n
        cells = placed.physical * (layers[0].geometry[0] * layers[0].geometry[1]) if layers else 0
        return {
            "crossbars": placed.physical,
            "crossbars_unshared": at,
            "bound": placed.bound,
            "gap": gap(placed.physical, placed.bound),
            "cores": placed.cores,
            "utilisation": placed.used_cells / cells if cells else 0.0,
            "crossbars_dense_16": sum(layer["crossbars_dense_16"] for layer in report),
            "crossbars_dense_8": sum(layer["crossbars_dense_8"] for layer in report),
            "layers": report,
        }


def _write(layers: list[MvmOp], placed: Placement) -> bool:
    changed, at = False, 0
    for op in layers:
        n = op.xbar_tile.shape[0] * op.copies
        for key, values in (
            ("xbar_core", placed.core),
            ("xbar_slot", placed.slot),
            ("xbar_row0", placed.row0),
            ("xbar_col0", placed.col0),
        ):
            new, old = values[at : at + n], op.attributes.get(key)
            if not isinstance(old, Handle) or not np.array_equal(old.array, new):
                op.attributes[key] = Handle(new)
                changed = True
        at += n
    return changed
