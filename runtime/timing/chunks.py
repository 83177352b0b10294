"""Instructions in chunks: a row of pixels each, the addresses it touches, and which chunks of others it must wait for.

A chunk is what the innermost loops of an address generator visit: the last loop over pixels, with all channels. A
generator with one loop over pixels is cut into pieces, and one that walks a buffer from end to end at the rows that
other instructions make of that buffer. No instruction has more than `MOST` chunks: where there would be more, pieces
hold several.

A chunk touches the range from its lowest to its highest address. Two chunks that touch a common address are in each
other's way unless both read, or both accumulate.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from smec.ir.isa_sections import AGU_DIMS, IntArray

#: Most chunks of one instruction.
MOST = 128

Counts = tuple[int, ...]


@dataclass(frozen=True)
class Partition:
    """How six nested loops are cut.

    Loops 0 .. depth - 1 are taken apart, loop `depth` is cut into pieces that start at `starts`, the rest stays whole.
    """

    counts: Counts
    depth: int
    starts: tuple[int, ...]

    @cached_property
    def outer(self) -> int:
        """Iterations of the loops that are taken apart."""
        return int(np.prod(self.counts[: self.depth], dtype=np.int64))

    @property
    def size(self) -> int:
        """Number of chunks."""
        return self.outer * len(self.starts)

    @cached_property
    def lengths(self) -> IntArray:
        """Iterations of loop `depth` in each piece."""
        ends = np.array([*self.starts[1:], self.counts[self.depth]], np.int64)
        return ends - np.array(self.starts, np.int64)

    @cached_property
    def points(self) -> IntArray:
        """Points that each chunk visits, int64 [size]."""
        inner = int(np.prod(self.counts[self.depth + 1 :], dtype=np.int64))
        return np.tile(self.lengths * inner, self.outer)

    def ranges(self, offset: int, strides: Counts, low: int = 0, high: int = 0) -> tuple[IntArray, IntArray]:
        """Lowest and highest address of each chunk, int64 [size], widened by `low` and `high`."""
        base = np.array([offset], np.int64)
        for count, stride in zip(self.counts[: self.depth], strides[: self.depth], strict=True):
            base = (base[:, None] + np.arange(count, dtype=np.int64) * stride).reshape(-1)
        stride = strides[self.depth]
        reach = (self.lengths - 1) * stride
        inner = [(c - 1) * s for c, s in zip(self.counts[self.depth + 1 :], strides[self.depth + 1 :], strict=True)]
        first = np.array(self.starts, np.int64) * stride
        bottom = first + np.minimum(reach, 0) + sum(min(r, 0) for r in inner) + low
        top = first + np.maximum(reach, 0) + sum(max(r, 0) for r in inner) + high
        return (base[:, None] + bottom).reshape(-1), (base[:, None] + top).reshape(-1)

    def pitch(self, strides: Counts) -> int:
        """Distance between the addresses of successive chunks; 0 if there is one chunk only."""
        if len(self.starts) > 1:
            return abs(strides[self.depth]) * (self.starts[1] - self.starts[0])
        for loop in range(self.depth - 1, -1, -1):
            if self.counts[loop] > 1:
                return abs(strides[loop])
        return 0


def partition(counts: Counts, pixels_only: bool) -> Partition:
    """Cut six loops by rows of pixels.

    Args:
        counts: of the six loops, outermost first.
        pixels_only: all loops are over pixels (`mvm`); otherwise the sixth is over channels.
    """
    loops = [i for i, n in enumerate(counts[: AGU_DIMS if pixels_only else AGU_DIMS - 1]) if n > 1]
    if not loops:
        return Partition(counts, AGU_DIMS - 1, (0,))
    if len(loops) == 1 or counts[loops[0]] > MOST:
        first = loops[0]
        step = -(-counts[first] // MOST)
        return Partition(counts, first, tuple(range(0, counts[first], step)))
    chunks, depth = 1, 0
    for loop in loops[:-1]:
        if chunks * counts[loop] > MOST:
            break
        chunks *= counts[loop]
        depth = loop + 1
    return Partition(counts, depth, (0,))


def is_flat(counts: Counts, strides: Counts) -> bool:
    """Whether the loops are a walk over consecutive addresses in the sixth loop alone."""
    return all(n == 1 for n in counts[:-1]) and strides[-1] == 1


def flat_partition(counts: Counts, offset: int, pitch: int) -> Partition:
    """Cut a walk over consecutive addresses at the multiples of `pitch`."""
    size = counts[-1]
    rows = -(-(offset + size) // pitch) - offset // pitch
    step = pitch * -(-rows // MOST)
    cuts = range(offset // step * step + step, offset + size, step)
    return Partition(counts, AGU_DIMS - 1, (0, *(cut - offset for cut in cuts)))


READ, WRITE, ACCUMULATE = 0, 1, 2


@dataclass(frozen=True, eq=False)
class Access:
    """The addresses of one operand: buffer, and for each chunk the lowest and the highest, int64 [chunks]."""

    buffer: int
    mode: int
    low: IntArray
    high: IntArray

    def conflicts(self, other: Access) -> bool:
        """Whether order matters between the two, if they touch common addresses."""
        return self.mode == WRITE or other.mode == WRITE or self.mode != other.mode


def last_overlap(later: Access, earlier: Access) -> IntArray:
    """For each chunk of `later` the last chunk of `earlier` that touches a common address, -1 if none; int64."""
    meet = (earlier.low[None, :] <= later.high[:, None]) & (earlier.high[None, :] >= later.low[:, None])
    last = meet.shape[1] - 1 - np.argmax(meet[:, ::-1], axis=1)
    found: IntArray = np.where(meet.any(axis=1), last, -1).astype(np.int64)
    return found
