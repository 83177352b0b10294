"""Where a value lies in a buffer, and the address arithmetic on that."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

#: Loops of an address generator.
AGU_DIMS = 6


@dataclass(frozen=True)
class Layout:
    """A value at an affine set of addresses: element i lies at offset + sum(i * strides) of its buffer.

    `halo` (top, left, bottom, right) counts the elements around the last two axes of a rank-4 value that belong to
    the buffer and hold the level `fill`; a window that reaches into them reads padding.
    """

    buffer: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int = 0
    halo: tuple[int, int, int, int] = (0, 0, 0, 0)
    fill: int = 0

    def order(self) -> tuple[int, ...]:
        """Axes from the widest stride to the narrowest: the order in which memory is walked."""
        return tuple(sorted(range(len(self.shape)), key=lambda a: (-abs(self.strides[a]), a)))

    def covers(self, halo: tuple[int, int, int, int], fill: int) -> bool:
        """Whether the buffer offers at least this border with this level."""
        if not any(halo):
            return True
        return self.fill == fill and all(have >= need for have, need in zip(self.halo, halo, strict=True))

    def transpose(self, perm: tuple[int, ...]) -> Layout:
        return Layout(
            self.buffer, tuple(self.shape[p] for p in perm), tuple(self.strides[p] for p in perm), self.offset
        )

    def slice(self, starts: tuple[int, ...], steps: tuple[int, ...], shape: tuple[int, ...]) -> Layout:
        offset = self.offset + sum(s * t for s, t in zip(starts, self.strides, strict=True))
        strides = tuple(s * t for s, t in zip(self.strides, steps, strict=True))
        return Layout(self.buffer, shape, strides, offset)

    def broadcast(self, shape: tuple[int, ...]) -> Layout:
        """NumPy broadcasting: new leading axes and repeated extents get stride 0."""
        lead = len(shape) - len(self.shape)
        strides = tuple(
            0 if a < lead or self.shape[a - lead] == 1 else self.strides[a - lead] for a in range(len(shape))
        )
        return Layout(self.buffer, shape, strides, self.offset)

    def reshape(self, shape: tuple[int, ...]) -> Layout | None:
        """The same elements in row-major order under another shape; None if no strides express it."""
        strides = reshape_strides(self.shape, self.strides, shape)
        return None if strides is None else Layout(self.buffer, shape, strides, self.offset)

    def addresses(self) -> np.ndarray:
        """int64 of the value's shape: the address of each element."""
        out = np.array(self.offset, np.int64)
        for n, s in zip(self.shape, self.strides, strict=True):
            out = out[..., None] + np.arange(n, dtype=np.int64) * s
        return out.reshape(self.shape)

    def on(self, buffer: int) -> Layout:
        """The same addresses in another buffer (a copy of this one)."""
        return replace(self, buffer=buffer)


@dataclass(frozen=True)
class Scattered:
    """A value whose addresses follow no strides: `index` holds the address of every element, int64 of its shape."""

    buffer: int
    index: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        return self.index.shape

    def addresses(self) -> np.ndarray:
        return self.index

    def on(self, buffer: int) -> Scattered:
        return Scattered(buffer, self.index)


def row_major(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides, in elements, of a contiguous array."""
    strides, step = [], 1
    for n in reversed(shape):
        strides.append(step)
        step *= n
    return tuple(reversed(strides))


def reshape_strides(
    old_shape: tuple[int, ...], old_strides: tuple[int, ...], new_shape: tuple[int, ...]
) -> tuple[int, ...] | None:
    """Strides of a row-major reshape without a copy, or None.

    Both shapes are cut into runs of equal size; within a run the old axes must be contiguous with one another.
    """
    kept = [(n, s) for n, s in zip(old_shape, old_strides, strict=True) if n != 1]
    out: list[int] = []
    i = 0
    j = 0
    while j < len(new_shape):
        if new_shape[j] == 1:
            out.append(0)
            j += 1
            continue
        if i >= len(kept):
            return None
        old_size, new_size = kept[i][0], new_shape[j]
        first_old, first_new = i, j
        while old_size != new_size:
            if old_size < new_size:
                i += 1
                if i >= len(kept):
                    return None
                old_size *= kept[i][0]
            else:
                j += 1
                if j >= len(new_shape):
                    return None
                new_size *= new_shape[j]
        for a in range(first_old, i):
            if kept[a][1] != kept[a + 1][0] * kept[a + 1][1]:
                return None
        step = kept[i][1]
        run = []
        for a in range(j, first_new - 1, -1):
            run.append(step)
            step *= new_shape[a]
        out.extend(reversed(run))
        i += 1
        j += 1
    return tuple(out) if i == len(kept) else None
