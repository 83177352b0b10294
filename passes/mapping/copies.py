"""The tiles of all copies of all layers, as placement takes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from smec.ir.dialects.xbar import MvmOp
from smec.passes.mapping.layers import Hardware, array, extent
from smec.passes.mapping.placement import Placement, Work, place, side_by_side
from smec.passes.mapping.workload import reads_of_tiles


@dataclass(frozen=True)
class Copies:
    """Layer after layer, copy after copy, tile after tile: int64 [T] each, and what they read.

    The reads that tiles on one crossbar may have together are those of the busiest tile: what copies save, sharing is
    not to take back.
    """

    counts: np.ndarray
    heights: np.ndarray
    widths: np.ndarray
    work: Work

    @staticmethod
    def of(layers: Sequence[MvmOp], act_bits: int, target: Hardware, beside: bool = True) -> Copies:
        """Of sliced layers; see `placement.place`."""
        counts, heights, widths, reads = [], [], [], []
        for op in layers:
            tile, width = array(op, "xbar_tile", "slice-bits"), extent(op.cols.array)
            counts.append(np.tile(np.bincount(tile, minlength=len(width)), op.copies))
            heights.append(np.tile(extent(op.rows.array), op.copies))
            widths.append(np.tile(width, op.copies))
            units = side_by_side(tile, width, target.columns, beside)
            reads.append(reads_of_tiles(op, units.unit, act_bits, target.dac_bits).reshape(-1))
        most = max((int(r.max(initial=0)) for r in reads), default=0)
        return Copies(_joined(counts), _joined(heights), _joined(widths), Work(_joined(reads), most))

    def place(
        self, target: Hardware, *, share: bool = True, beside: bool = True, most: int | None = None,
        enough: int | None = None,
    ) -> Placement:  # fmt: skip
        """Place them; `most` in place of the busiest tile's reads."""
        return place(
            self.counts, self.heights, self.widths, rows=target.rows, columns=target.columns,
            per_core=target.crossbars_per_core, share=share, beside=beside,
            work=self.work if most is None else Work(self.work.reads, most), enough=enough,
        )  # fmt: skip


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(parts).astype(np.int64) if parts else np.zeros(0, np.int64)
