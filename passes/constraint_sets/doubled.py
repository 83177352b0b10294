"""Rows of two kinds: those that have one row of tiles, and those that have two (`smec.passes.mapping.doubling`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np

from smec.ir.errors import SmecError
from smec.passes.constraint_sets.intersection import JointRows
from smec.passes.constraint_sets.rows import Representable, RowSet
from smec.passes.constraints import Box, Geometry
from smec.passes.mapping.doubling import splits


@dataclass(frozen=True)
class RepresentableTwice(Representable):
    """Rows that squeeze-out at depth x represents in two rows of tiles: sums of two codes of N - x bits times 2^k1 and
    2^k2, for one pair of shifts a segment.
    """

    name = "representable-twice"

    def levels(self) -> Sequence[np.ndarray]:
        g = self.geometry
        integers = np.arange(g.weight_range[0], g.weight_range[1] + 1)
        return [integers[split.held] for split in splits(g.sign, g.bits, self.depth, g.cell_bits)]


@dataclass(frozen=True)
class MixedRows(RowSet):
    """Matrices of K rows, those in `second` where `doubled` says so, the others in `first`; exact.

    Attributes:
        first, second: the sets.
        doubled: of each of the K rows.
    """

    name = "mixed"

    first: RowSet | None = None
    second: RowSet | None = None
    doubled: tuple[bool, ...] = ()

    def levels(self) -> Sequence[np.ndarray]:
        return self.pruned()

    def pruned(self) -> tuple[np.ndarray, ...]:
        return (*self.at(0, False).pruned(), *self.at(0, True).pruned())

    def spans(self) -> np.ndarray:
        single, double = len(self.at(0, False).pruned()), len(self.at(0, True).pruned())
        spans = np.array([[0, single], [single, single + double]], np.int64)
        return spans[np.array(self.doubled, np.int64)]

    def at(self, row: int, doubled: bool | None = None) -> RowSet:
        """The set that a row is in; of that kind if `doubled` is given."""
        found = self.second if (self.doubled[row] if doubled is None else doubled) else self.first
        assert found is not None  # noqa: S101  # for the type checker
        return found

    def project(self, values: np.ndarray, weights: np.ndarray | None = None, box: Box | None = None) -> np.ndarray:
        if values.ndim < 2 or values.shape[-2] != len(self.doubled):
            raise SmecError("rows of the matrix", expected=len(self.doubled), found=f"shape {values.shape}")
        return super().project(values, weights, box)

    def text(self) -> str:
        return f"{self.at(0, False).text()}|{self.at(0, True).text()}"


def mixed_rows(geometry: Geometry, depth: int, others: Sequence[RowSet], doubled: tuple[bool, ...]) -> MixedRows:
    """Rows that squeeze-out at depth x represents, in two rows of tiles where `doubled`, and that are in `others`."""
    first, second = (
        reduce(lambda a, b: JointRows(geometry, a, b), [*others, rows])
        for rows in (Representable(geometry, depth), RepresentableTwice(geometry, depth))
    )
    return MixedRows(geometry, first, second, doubled)
