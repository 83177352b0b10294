"""The pass `compact`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from smec.ir.dialects.builtin import ModuleOp
from smec.ir.dialects.xbar import MvmOp
from smec.ir.types import Handle
from smec.passes.base import Pass, PassContext, register_pass
from smec.passes.mapping.coding import planes
from smec.passes.mapping.layers import crossbar_layers, hardware, offset_of, sign_block, tiles_of


@register_pass
@dataclass(frozen=True)
class Compact(Pass):
    """Drop rows, columns and tiles that hold no weight, and put the rows that belong together into the same tile.

    Used rows and columns come first in every tile, rows ordered by their shift. With `gather`, the rows of a column
    block are dealt out anew over its tiles where that makes crossbars empty or saves input cycles: rows without a
    weight are left out, rows of equal shift and of equal highest bit share a tile. Only the address list of a tile
    changes with that, not the layer's result. Rows of a sign block (`polarized`) stay together, at their places in it.
    """

    name = "compact"
    requires = ("xbar.tiled",)
    forbids = ("xbar.sliced",)
    ensures = ("xbar.compacted",)

    gather: bool = field(default=True, metadata={"doc": "move rows between the tiles of a column block"})

    def run(self, module: ModuleOp, context: PassContext) -> bool:
        layers = crossbar_layers(module)
        report, changed = [], False
        for done, op in enumerate(layers):
            context.progress(self.name, done, len(layers))
            figures, different = self._compact(op, context)
            report.append(figures)
            changed |= different
        totals = {key: sum(layer[key] for layer in report) for key in ("tiles", "tiles_removed", "rows_removed")}
        context.report[self.name] = {**totals, "layers": report}
        return changed

    def _compact(self, op: MvmOp, context: PassContext) -> tuple[dict[str, Any], bool]:
        from smec.passes.mapping.compaction import Costs, compact  # compiled code: only when it runs

        before, width = tiles_of(op), op.bits - op.squeeze
        table = planes(op.sign, width, op.cell_bits)
        costs = Costs(table, context.act_bits, hardware(context, self.name).dac_bits, int(op.sign == "offset"))
        after = compact(
            before, sign=op.sign, offset=offset_of(op), width=width, costs=costs, gather=self.gather,
            block=sign_block(op) or 1,
        )  # fmt: skip
        changed = False
        for key in ("rows", "cols", "codes", "shifts"):
            old, new = getattr(before, key), getattr(after, key)
            if new is not old and not np.array_equal(new, old):
                op.attributes[key] = Handle(new)
                changed = True
        figures = {
            "name": op.label,
            "tiles": len(after.rows),
            "tiles_removed": len(before.rows) - len(after.rows),
            "rows_removed": _count(before.rows) - _count(after.rows),
            "columns_removed": _count(before.cols) - _count(after.cols),
        }
        return figures, changed


def _count(index: np.ndarray) -> int:
    return int((index >= 0).sum())
