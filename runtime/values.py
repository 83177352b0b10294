"""What buffers hold, as a graph: every write makes a new value, so that equal contents can be recognised.

A program's streams have no branches, so all its data movement is known before any image is seen. Copies between
cores, which hold the same activations as their origin, become one value; accumulators become sums of matrix products
that the engines merge, whichever cores they came from.

Cases of a value (`Kind`):

1. FILL: every element is the number of `word`.
2. WRITE: `base` with the elements at `geometry` replaced by `source`; `base` is None if they are all elements.
3. MVM: `base` plus a tile's products (`use`).
4. SUM: `base` with `source` added at `geometry`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import numpy as np

from smec.runtime.geometry import Geometry


class Kind(Enum):
    """The case of a value; see the module's text."""

    FILL = 1
    WRITE = 2
    MVM = 3
    SUM = 4


@dataclass(frozen=True)
class Level:
    """The same number everywhere; `word` is its bit pattern as `fill` takes it."""

    word: int


@dataclass(frozen=True)
class Table:
    """`length` entries of pool_i64 from `start` on, repeated."""

    start: int
    length: int


@dataclass(frozen=True)
class Region:
    """Elements of another value."""

    value: Value
    geometry: Geometry

    @property
    def key(self) -> object:
        return self.value.id, self.geometry.key


@dataclass(frozen=True)
class Result:
    """What an operation computes: output number `index`."""

    operation: Operation
    index: int

    @property
    def key(self) -> object:
        return id(self.operation), self.index


Source = Level | Table | Region | Result


@dataclass(eq=False, slots=True)
class Value:
    """The contents of a whole buffer at one moment. Identity is equality: `Values` makes each one once.

    size: elements an image. top: a bound on the elements of an unsigned integer buffer.
    """

    id: int
    size: int
    dtype: np.dtype[Any]
    kind: Kind
    base: Value | None = None
    geometry: Geometry | None = None
    source: Source | None = None
    use: Use | None = None
    word: int = 0
    top: int = 0


@dataclass(frozen=True)
class Use:
    """One `mvm` instruction: at each pixel, accumulators at `dst` gain a tile's products with the inputs at `src`.

    window: first input digit that is read, and how many; (0, 0): all.
    """

    instruction: int
    core: int
    tile: int
    source: Value
    src: Geometry
    dst: Geometry
    window: tuple[int, int] = (0, 0)


@dataclass(eq=False)
class Operation:
    """An instruction that computes (anything but moves, fills and sums), with what it reads and writes.

    operands: of the instruction. inputs: values and geometries, in the table's order. targets: for each output, the
    value after the write, the contents before it (None where it covers all), and where it writes.
    """

    mnemonic: str
    instruction: int
    core: int
    operands: dict[str, int]
    inputs: list[Region]
    targets: list[Target] = field(default_factory=list)


@dataclass(frozen=True)
class Target:
    """Where a result goes: `value` is `base` with the elements at `geometry` replaced."""

    value: Value
    base: Value | None
    geometry: Geometry


def number_of(word: int, dtype: np.dtype[Any]) -> Any:
    """The element whose bit pattern is `word`: cut to the dtype's width, or sign-extended to 64 bits."""
    bits = np.array([word], np.uint32)
    if dtype.itemsize == 8:
        return bits.view(np.int32).astype(dtype)[0]
    return bits.view(dtype)[0]


class Values:
    """Makes values, each different one once."""

    def __init__(self) -> None:
        self._known: dict[object, Value] = {}
        self._count = 0

    def _new(self, key: object, **attributes: Any) -> Value:
        if key is not None and key in self._known:
            return self._known[key]
        value = Value(self._count, **attributes)
        self._count += 1
        if key is not None:
            self._known[key] = value
        return value

    def fill(self, size: int, dtype: np.dtype[Any], word: int) -> Value:
        """A buffer that holds one number."""
        top = int(number_of(word, dtype)) if dtype.kind == "u" else 0
        return self._new((size, dtype, word), size=size, dtype=dtype, kind=Kind.FILL, word=word, top=top)

    def write(self, base: Value, geometry: Geometry, source: Source, top: int) -> Value:
        """`base` with the elements at `geometry` replaced by `source`, whose elements are at most `top`.

        Equal contents reached in different ways become one value:
        1. a whole buffer replaced by a whole buffer, or by one number, is that one
        2. what is overwritten at once leaves no trace
        3. writes that do not touch each other are kept in one order
        """
        size, dtype = base.size, base.dtype
        before: Value | None = base
        if geometry.covers(size):
            before = None
            if isinstance(source, Level):
                return self.fill(size, dtype, source.word)
            if isinstance(source, Region) and source.value.size == size and source.geometry.covers(size):
                return source.value
        later: list[tuple[Geometry, Source, int]] = []
        while before is not None and before.kind is Kind.WRITE:
            where, what = before.geometry, before.source
            if where is None or what is None or geometry.key > where.key:
                break
            if geometry.key == where.key:
                before = before.base
                break
            if not geometry.disjoint(where):
                break
            later.append((where, what, before.top))
            before = before.base
        value = self._write(before, geometry, source, top if before is None else max(before.top, top), size, dtype)
        for where, what, reach in reversed(later):
            value = self._write(value, where, what, max(value.top, reach), size, dtype)
        return value

    def _write(
        self, base: Value | None, geometry: Geometry, source: Source, top: int, size: int, dtype: np.dtype[Any]
    ) -> Value:
        origin = source.key if isinstance(source, (Region, Result)) else source
        key = ("write", None if base is None else base.id, size, dtype, geometry.key, origin)
        return self._new(
            key, size=size, dtype=dtype, kind=Kind.WRITE, base=base, geometry=geometry, source=source, top=top
        )

    def product(self, base: Value, use: Use) -> Value:
        """Accumulators `base` plus a tile's products; every use is a value of its own."""
        return self._new(None, size=base.size, dtype=base.dtype, kind=Kind.MVM, base=base, use=use)

    def sum(self, base: Value, geometry: Geometry, source: Region) -> Value:
        """`base` with a region added."""
        return self._new(
            None, size=base.size, dtype=base.dtype, kind=Kind.SUM, base=base, geometry=geometry, source=source
        )

    @staticmethod
    def read(value: Value, geometry: Geometry) -> Source:
        """The elements of a value at `geometry`, traced back to where they came from."""
        at: Value = value
        while True:
            if at.kind is Kind.FILL:
                return Level(at.word)
            if at.kind is not Kind.WRITE or at.geometry is None or at.source is None:
                return Region(at, geometry)
            if at.geometry.key == geometry.key:
                return at.source
            if at.base is None or not at.geometry.disjoint(geometry):
                return Region(at, geometry)
            at = at.base
