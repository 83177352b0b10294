"""The pass `group-rows`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from smec.ir.core import Handle
from smec.ir.dialects.builtin import ModuleOp
from smec.ir.dialects.xbar import MvmOp
from smec.ir.errors import SmecError
from smec.passes.base import Pass, PassContext, register_pass
from smec.passes.mapping.layers import array, crossbar_layers, hardware


@register_pass
@dataclass(frozen=True)
class GroupRows(Pass):
    """Partition the rows of every crossbar into groups that are driven in the same cycle.

    By default every group is lossless for the target's ADC, drives at most its concurrent rows, and rows without a one
    are not driven; few and cheap groups are sought, and a lower bound and the gap to it are reported. With `rows` all
    used rows of a tile are driven, in consecutive groups of so many, whatever the ADC.
    """

    name = "group-rows"
    requires = ("xbar.sliced",)
    ensures = ("xbar.grouped",)

    rows: int | None = field(
        default=None, metadata={"doc": "fixed consecutive groups of so many rows, lossless or not; none: lossless ones"}
    )

    def run(self, module: ModuleOp, context: PassContext) -> bool:
        from smec.passes.mapping.grouping import Reader  # compiled code: only when it runs

        if self.rows is not None and self.rows < 1:
            raise SmecError("group size", expected="1 or more rows", found=self.rows)
        target = hardware(context, self.name)
        reader = Reader(target.adc_bits, target.dac_bits, target.concurrent_rows, context.act_bits)
        layers = crossbar_layers(module)
        report, changed = [], False
        for done, op in enumerate(layers):
            context.progress(self.name, done, len(layers))
            figures, different = self._group(op, reader)
            report.append(figures)
            changed |= different
        totals = {key: sum(layer[key] for layer in report) for key in ("groups", "reads", "bound", "lossy_groups")}
        context.report[self.name] = {**totals, "gap": _gap(totals["reads"], totals["bound"]), "layers": report}
        return changed

    def _group(self, op: MvmOp, reader: Any) -> tuple[dict[str, Any], bool]:
        from smec.passes.mapping.grouping import group_rows

        cells, tile = array(op, "cells", "slice-bits"), array(op, "xbar_tile", "slice-bits")
        fixed = None
        if self.rows is not None:
            used = op.rows.array >= 0
            fixed = np.where(used, (np.cumsum(used, axis=1) - 1) // self.rows, -1)[tile]
        grouped = group_rows(cells, op.shifts.array[tile], op.geometry[1], op.cell_bits, reader, fixed)
        lossy = int(grouped.overflow.sum())
        if lossy and fixed is None:
            raise op.error(
                f"the target's ADC cannot read even one row of layer '{op.label}' without loss",
                expected=f"cells up to {reader.capacity} at {reader.adc_bits} ADC and {reader.dac_bits} DAC bits",
                found=f"{op.cell_bits}-bit cells",
                hint="take a target with more ADC bits, or force groups with group-rows{rows=N}",
            )
        changed = op.row_group is None or not np.array_equal(op.row_group.array, grouped.row_group)
        if changed:
            op.attributes["row_group"] = Handle(grouped.row_group)
        reads, bound = int(grouped.reads.sum()), int(grouped.bound.sum())
        figures = {
            "name": op.label,
            "groups": int(grouped.groups.sum()),
            "largest": int(grouped.groups.max(initial=0)),
            "reads": reads,
            "bound": bound,
            "gap": _gap(reads, bound),
            "lossy_groups": lossy,
        }
        return figures, changed


def _gap(reads: int, bound: int) -> float:
    """How far above the bound, as a fraction; 0 where there is no bound (fixed groups)."""
    return reads / bound - 1 if bound else 0.0
