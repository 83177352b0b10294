"""The pass `assign-cores`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from smec.ir.core import Handle
from smec.ir.dialects.builtin import ModuleOp
from smec.ir.dialects.xbar import MvmOp
from smec.passes.base import Pass, PassContext, register_pass
from smec.passes.mapping.layers import array, block_shape, crossbar_layers, extent, hardware
from smec.passes.mapping.placement import Placement, place, slots_needed
from smec.passes.mapping.tiling import crossbars_dense


@register_pass
@dataclass(frozen=True)
class AssignCores(Pass):
    """Give every crossbar a core, a physical crossbar in it, and a place there.

    Cores are filled in layer order; the crossbars of a tile sit in one core. Small ones share physical crossbars: those
    of one tile have the same inputs and are put side by side on the same rows, so that a cycle reads all of them if
    they have the same row groups; those of different tiles, whichever their layers, are put on the diagonal (other
    rows, other columns).
    """

    name = "assign-cores"
    requires = ("xbar.sliced",)
    ensures = ("xbar.placed",)

    share: bool = field(default=True, metadata={"doc": "crossbars of different tiles share physical ones, diagonally"})
    beside: bool = field(default=True, metadata={"doc": "crossbars of a tile share physical ones, side by side"})

    def run(self, module: ModuleOp, context: PassContext) -> bool:
        target = hardware(context, self.name)
        layers = crossbar_layers(module)
        counts, heights, widths, layer = [], [], [], []
        for i, op in enumerate(layers):
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
            counts.append(np.tile(count, op.copies))
            heights.append(np.tile(extent(op.rows.array), op.copies))
            widths.append(np.tile(width, op.copies))
            layer.append(np.full(len(count) * op.copies, i))
        placed = place(
            _joined(counts),
            _joined(heights),
            _joined(widths),
            _joined(layer),
            rows=target.rows,
            columns=target.columns,
            per_core=target.crossbars_per_core,
            share=self.share,
            beside=self.beside,
        )
        changed = _write(layers, placed)
        context.report[self.name] = self._report(layers, placed)
        return changed

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
            "gap": placed.physical / placed.bound - 1 if placed.bound else 0.0,
            "cores": placed.cores,
            "utilisation": placed.used_cells / cells if cells else 0.0,
            "crossbars_dense_16": sum(layer["crossbars_dense_16"] for layer in report),
            "crossbars_dense_8": sum(layer["crossbars_dense_8"] for layer in report),
            "layers": report,
        }


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


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
