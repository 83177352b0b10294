"""Sets that bound entries by zero: columns of one sign within row groups, and blocks of zeros."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from smec.ir.errors import SmecError
from smec.passes.constraint_sets.rows import Representable, RowSet
from smec.passes.constraints import Box, ConstraintSet, register_constraint


@dataclass(frozen=True)
class BoxSet(ConstraintSet):
    """Matrices within one of many boxes; a box bounds each entry below or above by 0, or does not.

    A set says which box to take by what entries are worth: the worth of an entry is by how much its nearest integer
    has less (weighted, squared) error than 0. Where integers are free, the error of the nearest point in a box is a
    constant less the worth of the entries whose nearest integer the box lets be, so that the box of the greatest such
    worth gives the exact nearest point. `smec.passes.constraint_sets.intersection` says what holds where they are not.
    """

    def box(self, nearest: np.ndarray, worth: np.ndarray) -> Box:
        """The box of greatest worth.

        Args:
            nearest: int16 [..., K, M], nearest integers without regard to this set.
            worth: float64 of that shape, not negative.
        """
        raise NotImplementedError  # each set of boxes defines it

    def project(self, values: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
        """See `ConstraintSet.project`: the nearest matrix of N-bit integers, exact."""
        from smec.passes.constraint_sets.intersection import project_boxes

        return project_boxes(Representable(self.geometry), [self], values, weights)


def worth_of(values: np.ndarray, nearest: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
    """By how much the error of each entry grows if 0 takes the place of its nearest integer; float64."""
    v, q = values.astype(np.float64), nearest.astype(np.float64)
    gain = np.maximum(q * (2 * v - q), 0.0)
    return gain if weights is None else gain * weights


@register_constraint
@dataclass(frozen=True)
class Polarized(BoxSet):
    """The weights of a column within a group of `group` consecutive rows of a tile share a sign.

    The splice applies the sign, so that a tile takes P crossbars instead of 2P. Source: FORMS, ISCA 2021, doi
    10.1109/ISCA52012.2021.00029 ("polarized" fragments).
    """

    name = "polarized"

    group: int = 8

    def __post_init__(self) -> None:
        if self.group < 1:
            raise SmecError("polarized row group without rows", expected="1 or more", found=self.group)

    def box(self, nearest: np.ndarray, worth: np.ndarray) -> Box:
        starts = self.starts(nearest.shape[-2])
        positive = np.add.reduceat(np.where(nearest > 0, worth, 0.0), starts, axis=-2)
        negative = np.add.reduceat(np.where(nearest < 0, worth, 0.0), starts, axis=-2)
        rows = np.repeat(np.arange(len(starts)), np.diff(np.append(starts, nearest.shape[-2])))
        up = (positive >= negative)[..., rows, :]
        low = np.where(up, np.float32(0), np.float32(-np.inf))
        return Box(low, np.where(up, np.float32(np.inf), np.float32(0)))

    def starts(self, count: int) -> np.ndarray:
        """First rows of the groups of a matrix with `count` rows: groups do not reach across tiles."""
        height = self.geometry.rows
        return np.array([t + r for t in range(0, count, height) for r in range(0, min(height, count - t), self.group)])


@register_constraint
@dataclass(frozen=True)
class ZeroBlocks(BoxSet):
    """At least `percent` of the blocks of `height` x `width` entries are zero (crossbar-aware pruning).

    Blocks lie on a grid that starts anew in each tile; 0 stands for the tile's own extent. Blocks at an edge count like
    whole ones. In the nearest point, the blocks are zero that are worth least. Source: PIM-Prune, DAC 2020, doi
    10.1109/DAC18072.2020.9218523.
    """

    name = "zero-blocks"

    percent: int = 50
    height: int = 0
    width: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.percent <= 100:
            raise SmecError("share of zero blocks", expected="0 to 100 percent", found=self.percent)
        if min(self.height, self.width) < 0:
            raise SmecError("block without entries", expected="0 or more", found=(self.height, self.width))

    def box(self, nearest: np.ndarray, worth: np.ndarray) -> Box:
        k, m = nearest.shape[-2:]
        rows = block_index(k, self.height or self.geometry.rows, self.geometry.rows)
        cols = block_index(m, self.width or self.geometry.columns, self.geometry.columns)
        sums = np.add.reduceat(worth, np.unique(rows, return_index=True)[1], axis=-2)
        sums = np.add.reduceat(sums, np.unique(cols, return_index=True)[1], axis=-1)
        zero = np.zeros(sums.size, bool)
        zero[np.argsort(sums, axis=None, kind="stable")[: -(-self.percent * sums.size // 100)]] = True
        pruned = zero.reshape(sums.shape)[..., rows[:, None], cols[None, :]]
        high = np.where(pruned, np.float32(0), np.float32(np.inf))
        return Box(-high, high)


@register_constraint
@dataclass(frozen=True)
class ZeroRows(BoxSet):
    """At least `count` rows of each matrix are zero: so many inputs are not connected, and compaction drops their rows.

    In the nearest point, the rows are zero that are worth least.
    """

    name = "zero-rows"

    count: int = 0

    def __post_init__(self) -> None:
        if self.count < 0:
            raise SmecError("number of zero rows is negative", found=self.count)

    def box(self, nearest: np.ndarray, worth: np.ndarray) -> Box:
        order = np.argsort(worth.sum(axis=-1), axis=-1, kind="stable")[..., : self.count]
        high = np.full(nearest.shape[:-1], np.float32(np.inf))
        np.put_along_axis(high, order, np.float32(0), axis=-1)
        return Box(-high[..., None], high[..., None])


def block_index(count: int, size: int, tile: int) -> np.ndarray:
    """The block of each of `count` indices: blocks of `size`, counted through tiles in which they start anew."""
    tiles, inside = np.divmod(np.arange(count), tile)
    block: np.ndarray = tiles * -(-tile // size) + inside // size
    return block


def full_box(box: Box, shape: tuple[int, ...]) -> Box:
    """Bounds spelled out for every entry."""
    return Box(*(np.ascontiguousarray(np.broadcast_to(b, shape), np.float32) for b in box))


def zero_in_levels(rows: RowSet) -> bool:
    """Whether every level holds 0, so that any box can be met in any level."""
    return all((level == 0).any() for level in rows.pruned())
