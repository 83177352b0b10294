"""The pass `group-rows`."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from smec.ir.dialects.builtin import ModuleOp
from smec.ir.dialects.xbar import MvmOp
from smec.ir.errors import SmecError
from smec.ir.types import Handle
from smec.passes.base import Pass, PassContext, register_pass
from smec.passes.mapping.layers import array, crossbar_layers, extent, hardware, sign_block
from smec.passes.mapping.solver import gap


@register_pass
@dataclass(frozen=True)
class GroupRows(Pass):
    """Partition the rows of every crossbar into groups that are driven in the same cycle.

    By default every group is lossless for the target's ADC, drives at most its concurrent rows, and rows without a one
    are not driven; few and cheap groups are sought, and a lower bound and the gap to it are reported. Crossbars of a
    tile that fit side by side in one physical crossbar get common groups, so that a read serves all of them. With
    `rows` all used rows of a tile are driven, in consecutive groups of so many, whatever the ADC. A group is never of
    more than one sign block (`polarized`).
    """

    name = "group-rows"
    requires = ("xbar.sliced",)
    ensures = ("xbar.grouped",)

    rows: int | None = field(
        default=None, metadata={"doc": "fixed consecutive groups of so many rows, lossless or not; none: lossless ones"}
    )
    beside: bool = field(
        default=True,
        metadata={"doc": "crossbars of a tile that fit side by side are grouped together, and share reads"},
    )
    steps: int = field(
        default=400, metadata={"doc": "most steps of local search for one crossbar and number of groups; 0: none"}
    )
    limit: float = field(
        default=0.2, metadata={"doc": "CP-SAT's deterministic time for one crossbar (about seconds); 0: none"}
    )
    size: int = field(default=256, metadata={"doc": "CP-SAT packs crossbars of at most so many rows times groups"})

    def run(self, module: ModuleOp, context: PassContext) -> bool:
        from smec.passes.mapping.grouping import Reader  # compiled code: only when it runs
        from smec.passes.mapping.row_improve import Effort, Spent

        if self.rows is not None and self.rows < 1:
            raise SmecError("group size", expected="1 or more rows", found=self.rows)
        if self.steps < 0 or self.limit < 0 or self.size < 0:
            raise SmecError("effort of group-rows is negative", expected="steps, limit and size of 0 or more")
        target = hardware(context, self.name)
        reader = Reader(target.adc_bits, target.dac_bits, target.concurrent_rows, context.act_bits)
        effort, spent = Effort(self.steps, self.limit, self.size), Spent()
        layers = crossbar_layers(module)
        report, changed = [], False
        for done, op in enumerate(layers):
            context.progress(self.name, done, len(layers))
            figures, different = self._group(op, reader, effort, spent)
            report.append(figures)
            changed |= different
        totals = {key: sum(layer[key] for layer in report) for key in ("groups", "reads", "bound", "lossy_groups")}
        totals["gap"] = gap(totals["reads"], totals["bound"])
        context.report[self.name] = {**totals, "effort": asdict(spent), "layers": report}
        return changed

    def _group(self, op: MvmOp, reader: Any, effort: Any, spent: Any) -> tuple[dict[str, Any], bool]:
        from smec.passes.mapping.grouping import consecutive
        from smec.passes.mapping.joint import group_layer

        cells, tile = array(op, "cells", "slice-bits"), array(op, "xbar_tile", "slice-bits")
        fixed = None
        if self.rows is not None:
            fixed = consecutive(op.rows.array >= 0, self.rows, sign_block(op))
        grouped = group_layer(
            cells, tile, op.shifts.array, extent(op.cols.array), op.geometry[1], op.cell_bits, reader,
            effort=effort, beside=self.beside, fixed=fixed, block=sign_block(op),
        )  # fmt: skip
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
        spent.add(grouped.spent)
        reads, bound = int(grouped.reads.sum()), int(grouped.bound.sum())
        figures = {
            "name": op.label,
            "crossbars": len(grouped.reads),
            "groups": int(grouped.groups.sum()),
            "largest": int(grouped.groups.max(initial=0)),
            "reads": reads,
            "bound": bound,
            "gap": gap(reads, bound),
            "lossy_groups": lossy,
            "read_apart": grouped.parted,
            "effort": asdict(grouped.spent),
        }
        return figures, changed
