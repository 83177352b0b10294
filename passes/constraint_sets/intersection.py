"""What several sets have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np

from smec.ir.errors import SmecError
from smec.passes.constraint_sets.boxes import BoxSet, full_box, worth_of, zero_in_levels
from smec.passes.constraint_sets.rows import Representable, RowSet
from smec.passes.constraints import Box, ConstraintSet, error_of

#: Rounds of alternation between sets that know nothing of each other, and between boxes and rows.
_ROUNDS = 50
#: Rounds after which each begins by shrinking the matrix by a factor.
_FREE_ROUNDS, _SHRINKAGE = 8, 0.8
_BOX_ROUNDS = 4


@dataclass(frozen=True)
class JointRows(RowSet):
    """Rows that are in two sets of rows: every level of one with every level of the other; exact."""

    name = "rows"

    first: RowSet | None = None
    second: RowSet | None = None

    def levels(self) -> Sequence[np.ndarray]:
        assert self.first is not None and self.second is not None  # noqa: S101  # for the type checker
        return [np.intersect1d(a, b) for a in self.first.pruned() for b in self.second.pruned()]

    def text(self) -> str:
        return f"{self.first.text() if self.first else ''}+{self.second.text() if self.second else ''}"


@dataclass(frozen=True)
class Intersection(ConstraintSet):
    """Points of a set of rows that satisfy sets of boxes and sets of other kinds as well.

    1. Rows and one set of boxes. Exact where the box that is best does not depend on the levels that rows choose: rows
       have one level only (a pattern without squeeze-out), or no block of `zero-blocks` cuts a row segment. Otherwise
       the box is taken by the worth of the nearest rows' entries, and taken again by the worth of what the rows become,
       as long as that helps. The error is at most that of the nearest rows plus the worth of those of their entries
       that the first box makes zero.
    2. Several sets of boxes are taken one after the other, each with regard to those before.
    3. Sets of other kinds are projected onto in turn with all others until nothing changes. The result is in all of
       them, or an error is raised; it need not be the nearest.
    """

    name = "intersection"

    rows: RowSet | None = None
    boxes: tuple[BoxSet, ...] = ()
    others: tuple[ConstraintSet, ...] = ()

    def project(self, values: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
        """See `ConstraintSet.project`, and the class for where it is exact.

        Raises:
            SmecError: as there; and case 3 comes to no end.
        """
        found = self._rows_and_boxes(values, weights)
        for turn in range(_ROUNDS if self.others else 0):
            before = found
            # Projections onto sets that are not convex may go round in circles; most sets hold 0, so drawing the
            # matrix towards 0 leads out of them.
            drawn = np.float32(1 if turn < _FREE_ROUNDS else _SHRINKAGE)
            for other in self.others:
                found = other.project(drawn * found, weights)
            found = self._rows_and_boxes(found.astype(np.float32), weights)
            if np.array_equal(found, before) and all(other.contains(found) for other in self.others):
                return found
        if self.others:
            raise SmecError("no common point of the constraints found", found=self.text())
        return found

    def _rows_and_boxes(self, values: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
        return project_boxes(self.rows or Representable(self.geometry), self.boxes, values, weights)

    def contains(self, integers: np.ndarray) -> bool:
        parts: list[ConstraintSet] = [*self.boxes, *self.others]
        return all(p.contains(integers) for p in ([self.rows, *parts] if self.rows else parts))

    def text(self) -> str:
        parts: list[ConstraintSet] = [*self.boxes, *self.others]
        return "+".join(p.text() for p in ([self.rows, *parts] if self.rows else parts))


def project_boxes(rows: RowSet, boxes: Sequence[BoxSet], values: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
    """Nearest rows within a box of each of `boxes`: cases 1 and 2 of `Intersection`."""
    found = rows.project(values, weights)
    if not boxes:
        return found
    bounds: Box | None = None
    for boxed in boxes:
        bounds, found = _boxed(rows, boxed, bounds, found, values, weights)
    return found


def _boxed(
    rows: RowSet, boxed: BoxSet, outer: Box | None, nearest: np.ndarray, values: np.ndarray, weights: np.ndarray | None
) -> tuple[Box, np.ndarray]:
    """Add the bounds of one more set to `outer`."""
    best: tuple[float, Box, np.ndarray] | None = None
    for _ in range(_BOX_ROUNDS):
        box = full_box(boxed.box(nearest, worth_of(values, nearest, weights)), nearest.shape)
        if outer is not None:
            box = Box(np.maximum(box.low, outer.low), np.minimum(box.high, outer.high))
        found = rows.project(values, weights, box)
        error = error_of(values, found, weights)
        if best is not None and error >= best[0]:
            break
        best = error, box, found
        if len(rows.pruned()) == 1:
            break
        # With the levels that the rows have now: what would entries be that the box keeps at zero?
        nearest = _in_the_same_levels(rows, found, values)
    assert best is not None  # noqa: S101  # for the type checker: the first round sets it
    return best[1], best[2]


def _in_the_same_levels(rows: RowSet, found: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Nearest integers of each entry in the first level that holds its row segment of `found`."""
    width = rows.segment
    out = np.empty_like(found)
    table, middle = rows.table()
    spans = rows.spans()[np.arange(found.shape[-2]) % len(rows.spans())]
    twice = np.clip(2 * values, -middle, table.shape[1] - 1 - middle)
    index = (np.where(twice > 0, np.ceil(twice), np.floor(twice)) + middle).astype(np.int64)
    for left in range(0, found.shape[-1], width):
        part = (..., slice(left, min(left + width, found.shape[-1])))
        chosen = np.full(found[part].shape[:-1], -1)
        for number, level in reversed(list(enumerate(rows.pruned()))):
            chosen[np.isin(found[part], level).all(axis=-1) & (spans[:, 0] <= number) & (number < spans[:, 1])] = number
        out[part] = table[chosen[..., None], index[part]]
    return out


def intersection_of(sets: Sequence[ConstraintSet]) -> ConstraintSet:
    """See `smec.passes.constraints.intersect`."""
    flat = [part for s in sets for part in _parts(s)]
    if not flat:
        raise SmecError("no constraint sets to intersect")
    geometry = flat[0].geometry
    row_sets = [s for s in flat if isinstance(s, RowSet)]
    rows = reduce(lambda a, b: JointRows(geometry, a, b), row_sets) if row_sets else None
    if len(row_sets) == len(flat) and rows is not None:
        rows.pruned()  # raises where nothing is left
        return rows
    boxes = tuple(s for s in flat if isinstance(s, BoxSet))
    others = tuple(s for s in flat if not isinstance(s, (RowSet, BoxSet)))
    if boxes and rows is not None and not zero_in_levels(rows):
        raise SmecError("constraints on signs and zeros need rows that may hold 0", found=rows.text())
    return Intersection(geometry, rows, boxes, others)


def _parts(constraint: ConstraintSet) -> Sequence[ConstraintSet]:
    if not isinstance(constraint, Intersection):
        return [constraint]
    rows = [] if constraint.rows is None else [constraint.rows]
    return [*rows, *constraint.boxes, *constraint.others]


def frozen(constraint: ConstraintSet, integers: np.ndarray) -> tuple[RowSet, Box | None] | None:
    """A set of rows and bounds whose points are all in `constraint` and among which `integers` [..., K, M] is.

    Within it rows are independent of each other, so that one can be changed at a time. None for sets of other kinds.
    """
    if isinstance(constraint, RowSet):
        return constraint, None
    if isinstance(constraint, BoxSet):
        constraint = Intersection(constraint.geometry, Representable(constraint.geometry), (constraint,))
    if not isinstance(constraint, Intersection) or constraint.others:
        return None
    rows = constraint.rows or Representable(constraint.geometry)
    bounds: Box | None = None
    for boxed in constraint.boxes:
        # Zeros are worth nothing: a box of greatest worth keeps every entry.
        box = full_box(boxed.box(integers, np.abs(integers).astype(np.float64)), integers.shape)
        bounds = box if bounds is None else Box(np.maximum(box.low, bounds.low), np.minimum(box.high, bounds.high))
    return rows, bounds
