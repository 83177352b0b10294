"""What the engines compute: matrix products of one source and one pixel pattern, merged over tiles, crossbars and
cores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from smec.runtime.arrays import Array, IntArray
from smec.runtime.threads import Workers
from smec.runtime.values import Value


@dataclass(frozen=True, eq=False)
class TileUse:
    """A tile in a unit: `origin` is added to its row addresses; channels int64 [used columns], -1 where not wanted."""

    tile: int
    origin: int
    channels: IntArray


class Part(Protocol):
    """Some of a unit's products, prepared for one engine.

    rows: how many rows (pixels of images) it likes to take at a time. engine: "exact" or "adc".
    """

    rows: int
    engine: str

    def add(self, source: Array, start: int, stop: int, acc: Array, workers: Workers, saturated: IntArray) -> None:
        """acc[i - start] += products of rows start .. stop - 1.

        Args:
            source: the unit's source, [B, size].
            acc: int32 or int64 [stop - start, channels].
            workers: for scratch memory; the caller is one of its threads.
            saturated: int64 [tiles of the program]; reads that exceeded the ADC's range are added.
        """


@dataclass(eq=False)
class Unit:
    """Products of one source value at one pattern of pixels.

    pixels int64 [n]: addresses of the pixels in an image. channels: of the accumulators that the products go to.
    window: first input digit that is read, and how many; (0, 0): all. parts: by engine name, once prepared.
    """

    source: Value
    pixels: IntArray
    channels: int
    window: tuple[int, int] = (0, 0)
    tiles: list[TileUse] = field(default_factory=list)
    parts: dict[str, Sequence[Part]] = field(default_factory=dict)
