"""Address patterns: what an address generator visits, in the forms that analysis and kernels want."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from smec.ir.isa_sections import merge_dims
from smec.runtime.arrays import Array, IntArray

#: Longest row that `in_step` makes: rows are what threads share out.
ROW_LIMIT = 8192

Dims = tuple[tuple[int, int], ...]


def addresses(dims: Dims, offset: int = 0) -> IntArray:
    """Addresses of nested (count, stride) loops in row-major order, int64 [points]."""
    out = np.array([offset], np.int64)
    for count, stride in dims:
        out = (out[:, None] + np.arange(count, dtype=np.int64) * stride).reshape(-1)
    return out


@dataclass(frozen=True)
class Geometry:
    """One address generator: buffer, offset and six (count, stride) loops, outermost first."""

    buffer: int
    offset: int
    dims: Dims

    @staticmethod
    def of_row(row: list[int]) -> Geometry:
        """From a row of the section `agus`."""
        return Geometry(row[0], row[1], tuple(zip(row[2::2], row[3::2], strict=True)))

    @cached_property
    def merged(self) -> Dims:
        """The same address sequence, less the offset, in the fewest loops: equal sequences have equal merged loops."""
        return tuple(merge_dims(self.dims))

    @cached_property
    def key(self) -> tuple[int, Dims]:
        """Equal for equal address sequences, whatever the buffer."""
        return self.offset, self.merged

    @cached_property
    def points(self) -> int:
        """Number of addresses."""
        return int(np.prod([count for count, _ in self.dims], dtype=np.int64))

    @cached_property
    def bounds(self) -> tuple[int, int]:
        """Lowest and highest address."""
        reach = [(count - 1) * stride for count, stride in self.dims]
        return self.offset + sum(min(r, 0) for r in reach), self.offset + sum(max(r, 0) for r in reach)

    def covers(self, size: int) -> bool:
        """Whether it visits all of a buffer of this size in ascending order."""
        return self.offset == 0 and self.points == size and self.merged in ((), ((size, 1),))

    # -- pixels and channels: the innermost loop runs over channels

    @cached_property
    def pixels(self) -> Dims:
        """The loops over pixels, merged."""
        return tuple(merge_dims(self.dims[:-1]))

    @property
    def channels(self) -> int:
        """Count of the innermost loop."""
        return self.dims[-1][0]

    @property
    def step(self) -> int:
        """Stride of the innermost loop; 1 where it has one point."""
        return self.dims[-1][1] if self.channels > 1 else 1

    @cached_property
    def pixel_addresses(self) -> IntArray:
        """Address of each pixel's first channel, int64 [pixels]."""
        return addresses(self.pixels, self.offset)

    @cached_property
    def all_addresses(self) -> IntArray:
        """Every address, int64 [points]."""
        return addresses(self.merged, self.offset)

    @property
    def shape(self) -> tuple[int, ...]:
        """The six counts."""
        return tuple(count for count, _ in self.dims)

    def store(self, memory: Array, values: Array) -> None:
        """Write elements in the pattern's order, [B, points] or [points] for all images, to a buffer [B, size]."""
        self.view(memory)[...] = values.reshape(*values.shape[:-1], *self.shape)

    def view(self, memory: Array) -> Array:
        """A strided view [B, c0..c5] of a buffer [B, size]."""
        item = memory.strides[1]
        shape = (memory.shape[0], *self.shape)
        strides = (memory.strides[0], *(stride * item for _, stride in self.dims))
        return np.lib.stride_tricks.as_strided(memory[:, self.offset :], shape=shape, strides=strides)

    def moved(self, distance: int) -> Geometry:
        """The same pattern further on."""
        return Geometry(self.buffer, self.offset + distance, self.dims)

    def disjoint(self, other: Geometry) -> bool:
        """True if the two are known to have no address in common; both belong to one buffer.

        1. their ranges do not meet, or
        2. all their loops but the innermost have equal strides, each of which exceeds what lies within it, and the
           innermost runs lie beside each other (channels of a concatenation).
        """
        if self.bounds[1] < other.bounds[0] or other.bounds[1] < self.bounds[0]:
            return True
        if self.pixels != other.pixels or not self.pixels:
            return False
        first, second = sorted((self, other), key=lambda g: g.offset)
        gap = second.offset - first.offset
        inner = min(abs(stride) for _, stride in self.pixels)
        ordered = all(
            stride > 0 and (i + 1 == len(self.pixels) or stride >= count * below)
            for i, ((_, stride), (count, below)) in enumerate(zip(self.pixels, (*self.pixels[1:], (1, 1)), strict=True))
        )
        return (
            ordered
            and first.step > 0
            and second.step > 0
            and gap > (first.channels - 1) * first.step
            and gap + (second.channels - 1) * second.step < inner
        )


@dataclass(frozen=True)
class Rows:
    """Several geometries that run in step, as rows: `at` holds each one's first addresses int64 [rows], `count` the
    elements of a row, `steps` each one's stride along it.
    """

    at: tuple[IntArray, ...]
    count: int
    steps: tuple[int, ...]


def in_step(geometries: tuple[Geometry, ...], keep_innermost: bool = False) -> Rows:
    """Loops of equal counts as rows as long as possible; with `keep_innermost` a row is the innermost loop as it is."""
    count, steps = geometries[0].dims[-1][0], [g.dims[-1][1] for g in geometries]
    outer: list[tuple[int, list[int]]] = []
    for i in range(len(geometries[0].dims) - 2, -1, -1):
        n, strides = geometries[0].dims[i][0], [g.dims[i][1] for g in geometries]
        if n == 1:
            continue
        joins = count == 1 or (strides == [count * s for s in steps] and count * n <= ROW_LIMIT)
        if joins and not outer and not keep_innermost:
            steps = strides if count == 1 else steps
            count *= n
        else:
            outer.insert(0, (n, strides))
    at = tuple(addresses(tuple((n, s[j]) for n, s in outer), g.offset) for j, g in enumerate(geometries))
    return Rows(at, count, tuple(steps))
