"""How the pixels of a crossbar layer read its input: addresses in the buffer that holds it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from smec.ir.dialects.xbar import MvmConv, MvmOp
from smec.passes.emission.layout import Layout, Scattered


@dataclass(frozen=True)
class Window:
    """Input k of pixel p lies at origin + sum(p steps) + offsets[k] of a buffer.

    steps: of each axis of the pixels. offsets: int64 [K], not negative where `of` made them.
    """

    buffer: int
    origin: int
    steps: tuple[int, ...]
    offsets: np.ndarray

    @staticmethod
    def of(op: MvmOp, place: Layout | Scattered) -> Window:
        """The window of a layer whose input lies at `place`, for a convolution with the border that it needs."""
        found = _convolution(op, place) if isinstance(op, MvmConv) else _product(op, place)
        return found.counted_from(min(int(found.offsets.min(initial=0)), 0))

    def counted_from(self, offset: int) -> Window:
        """The same addresses with this offset as 0."""
        return replace(self, origin=self.origin + offset, offsets=self.offsets - offset) if offset else self


def _convolution(op: MvmConv, place: Layout | Scattered) -> Window:
    assert isinstance(place, Layout)  # noqa: S101  # for the type checker: a border needs strides
    (kh, kw), channels = op.kernel, op.x.type.shape[1]
    s_n, s_c, s_h, s_w = place.strides
    rows = np.arange(kh, dtype=np.int64)[:, None, None] * op.dilations[0] * s_h
    columns = np.arange(kw, dtype=np.int64)[None, :, None] * op.dilations[1] * s_w
    offsets = (rows + columns + np.arange(channels, dtype=np.int64) * s_c).reshape(-1)
    origin = place.offset - op.pads[0] * s_h - op.pads[1] * s_w
    return Window(place.buffer, origin, (s_n, op.strides[0] * s_h, op.strides[1] * s_w), offsets)


def _product(op: MvmOp, place: Layout | Scattered) -> Window:
    """Pixels are all axes but the last; a single pixel may be scattered."""
    points = op.x.type.shape[:-1]
    if isinstance(place, Scattered):
        assert math.prod(points) == 1  # noqa: S101  # the caller gathers others
        return Window(place.buffer, 0, (0,) * len(points), place.index.reshape(-1))
    k = np.arange(place.shape[-1], dtype=np.int64) * place.strides[-1]
    return Window(place.buffer, place.offset, place.strides[:-1], k)


def row_addresses(op: MvmOp, tile_core: np.ndarray, windows: Mapping[int, Window]) -> np.ndarray:
    """Address of each row's input within a pixel's window, as its tile's core has it; -1 unused; int64 [T, R].

    Args:
        op: a tiled layer.
        tile_core: int [T].
        windows: by core.
    """
    rows = op.rows.array
    out = np.full(rows.shape, -1, np.int64)
    for core, window in windows.items():
        here = rows[tile_core == core]
        out[tile_core == core] = np.where(here >= 0, window.offsets[np.maximum(here, 0)], -1)
    return out
