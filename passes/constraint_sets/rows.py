"""Sets that constrain each row segment of a tile on its own: patterns, and rows that squeeze-out represents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from smec.ir.errors import SmecError
from smec.passes import patterns
from smec.passes.constraint_sets.kernels import project_rows
from smec.passes.constraints import Box, ConstraintSet, checked_values, register_constraint
from smec.passes.mapping.coding import shift_choices
from smec.passes.mapping.jit import in_chunks

INT16 = np.iinfo(np.int16)

#: Entries that a thread takes at least.
_SHARE = 1 << 14


@dataclass(frozen=True)
class RowSet(ConstraintSet):
    """Matrices each of whose row segments takes all its entries from one of the `levels`.

    The nearest point is exact: a row segment tries every level, and each entry takes the level's nearest integer (of
    two equally near ones the smaller; of equally good levels the first). It takes O(levels) an entry.
    """

    def levels(self) -> Sequence[np.ndarray]:
        """Lists of integers; a row segment of C entries is from one of them."""
        raise NotImplementedError  # each set of rows defines it

    def project(self, values: np.ndarray, weights: np.ndarray | None = None, box: Box | None = None) -> np.ndarray:
        """See `ConstraintSet.project`; with `box`, the nearest point within these bounds (every level must hold 0)."""
        array = checked_values(values)
        flat = array.reshape(-1, array.shape[-1])
        out = np.empty(flat.shape, np.int16)
        if not flat.size:
            return out.reshape(array.shape)
        table, middle = self.table()
        importance = _spread(weights, array) if weights is not None else np.ones((1, flat.shape[1]), array.dtype)
        low, high = (_spread(b, array) for b in box) if box is not None else (np.empty((0, 0), array.dtype),) * 2
        spans, segment = self.spans(), self.segment

        def work(start: int, stop: int) -> None:
            project_rows(start, stop, flat, importance, low, high, table, middle, spans, segment, out)

        in_chunks(len(flat), work, least=max(1, _SHARE // flat.shape[1]))
        return out.reshape(array.shape)

    @property
    def segment(self) -> int:
        """Entries of a row that must agree on a level."""
        return self.geometry.columns if len(self.pruned()) > 1 else 1 << 30

    def spans(self) -> np.ndarray:
        """int64 [n, 2]: row r of a matrix takes one of the `pruned` levels from [r % n, 0] to [r % n, 1] - 1."""
        return np.array([[0, len(self.pruned())]], np.int64)

    def at(self, row: int) -> RowSet:
        """The set that a row of a matrix is in, as rows of a set do not depend on each other."""
        return self

    def pruned(self) -> tuple[np.ndarray, ...]:
        """The levels without those that another one includes, each sorted."""
        return _pruned(self)

    def table(self) -> tuple[np.ndarray, int]:
        """Nearest integers by level and by half steps, int16 [levels, n], and the index of 0 (see `project_rows`)."""
        return _table(self)


def _spread(array: np.ndarray, values: np.ndarray) -> np.ndarray:
    """`array` as rows [1, M] or [rows of values, M] of the dtype of `values`."""
    m = values.shape[-1]
    if array.ndim < 2 or all(d == 1 for d in array.shape[:-1]):
        return np.ascontiguousarray(np.broadcast_to(array.reshape(1, -1), (1, m)), values.dtype)
    return np.ascontiguousarray(np.broadcast_to(array, values.shape), values.dtype).reshape(-1, m)


@cache
def _pruned(rows: RowSet) -> tuple[np.ndarray, ...]:
    found = [np.unique(level) for level in rows.levels() if len(level)]
    if not found:
        raise SmecError(f"constraint '{rows.name}' allows no integer")
    for level in found:
        if level[0] < INT16.min or level[-1] > INT16.max:
            raise SmecError(f"constraint '{rows.name}' has integers beyond 16 bits", found=(level[0], level[-1]))
    kept: list[np.ndarray] = []
    # Longest first, so that whatever includes a level comes before it; then back in the order of the set.
    for level in sorted(found, key=len, reverse=True):
        if not any(np.isin(level, other).all() for other in kept):
            kept.append(level)
    return tuple(level for level in found if any(level is k for k in kept))


@cache
def _table(rows: RowSet) -> tuple[np.ndarray, int]:
    levels = rows.pruned()
    reach = 2 * max(int(np.abs(level).max()) for level in levels) + 1
    # Index j > 0 stands for ((j - 1) / 2, j / 2], j < 0 for [j / 2, (j + 1) / 2): midpoints between integers are
    # multiples of 1/2, so that one can only be the closed end, where the smaller magnitude wins.
    j = np.arange(-reach, reach + 1)
    probe = j / 2 - np.sign(j) / 4
    table = np.empty((len(levels), len(j)), np.int16)
    for row, level in zip(table, levels, strict=True):
        row[:] = level[np.searchsorted((level[1:] + level[:-1]) / 2, probe)]
    table.flags.writeable = False
    return table, reach


@register_constraint
@dataclass(frozen=True)
class PatternSet(RowSet):
    """Every entry is of a pattern (`smec.passes.patterns`): `pattern:window:3`, the pattern's options behind it."""

    name = "pattern"

    pattern: str = "uniform"
    option: str = ""

    def levels(self) -> Sequence[np.ndarray]:
        text = f"{self.pattern}:{self.option}" if self.option else self.pattern
        return [patterns.parse(text, self.geometry.bits, self.geometry.sign).points()]


@register_constraint
@dataclass(frozen=True)
class Representable(RowSet):
    """Rows that squeeze-out at depth x represents without error: a code of N - x bits, times 2^k, for one k a segment.

    Both rules of the row shift, `leading-one` and `fit`, represent the same rows. If any shift k does, the least shift
    k' <= k at which the row's largest entry has N - x bits does so too, because multiples of 2^k are multiples of 2^k';
    k' is what `leading-one` takes, and `fit` takes a shift of least error, which is none. The test of this is that the
    pass `squeeze-out` itself reports no error.
    """

    name = "representable"

    depth: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.depth < self.geometry.bits:
            raise SmecError("squeeze depth", expected=f"0 to {self.geometry.bits - 1}", found=self.depth)

    def levels(self) -> Sequence[np.ndarray]:
        g = self.geometry
        least, most = g.weight_range
        low, high = g.code_range(self.depth)
        integers = np.arange(least, most + 1)
        codes = integers + g.offset
        found = []
        for k in shift_choices(self.depth, g.bits, g.cell_bits):
            if g.offset and not g.dense and k < self.depth:
                continue
            fits = (codes % (1 << k) == 0) & (codes >> k >= low) & (codes >> k <= high)
            found.append(integers[fits])
        return found
