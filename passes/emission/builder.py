"""Collects instructions, buffers, address generators and tables while a graph is lowered."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from smec.ir.isa_table import encode
from smec.passes.emission.layout import AGU_DIMS, Layout, Scattered, row_major
from smec.passes.mapping.regions import Region

#: Memory spaces of a core (section `buffers`).
ACT, ACC, HOST = 0, 1, 2

#: Kinds of a transfer, for reports (operand `kind` of `send`).
KIND_OF_SPACE = {ACT: 0, ACC: 1, HOST: 2}

DTYPE_CODE = {"u8": 0, "u16": 1, "i32": 2, "i64": 3, "f32": 4}


class Pool:
    """A growing table of numbers in which equal runs are stored once."""

    def __init__(self, dtype: Any) -> None:
        self.dtype = np.dtype(dtype)
        self._parts: list[np.ndarray] = []
        self._known: dict[bytes, int] = {}
        self._size = 0

    def add(self, values: Any) -> int:
        """Index of the first entry of `values` in the pool."""
        array = np.ascontiguousarray(values, self.dtype).reshape(-1)
        key = hashlib.sha256(array.tobytes()).digest()
        if key not in self._known:
            self._known[key] = self._size
            self._parts.append(array)
            self._size += array.size
        return self._known[key]

    def array(self) -> np.ndarray:
        return np.concatenate(self._parts) if self._parts else np.zeros(0, self.dtype)


class Builder:
    """The program under construction.

    Every buffer has one writer (an operation's lowering) and is complete when that operation's instructions are
    done; `on_core` and `part_on_core` may therefore copy a buffer to other cores once and reuse the copies.
    """

    def __init__(self) -> None:
        self.streams: dict[int, list[np.ndarray]] = defaultdict(list)
        self.buffers: list[tuple[int, int, int, int, int]] = []
        self.f32 = Pool(np.float32)
        self.i64 = Pool(np.int64)
        self.u16 = Pool(np.uint16)
        self._agus: dict[tuple[int, ...], int] = {}
        self._free: dict[tuple[int, int], int] = defaultdict(int)
        self._copies: dict[tuple[int, int], int] = {}
        self._parts: dict[tuple[Layout, int], list[tuple[Region, Layout]]] = {}
        self._token = 0

    # -- buffers

    def buffer(self, core: int, space: int, size: int, dtype: int) -> int:
        """A new buffer of `size` elements an image."""
        base = self._free[core, space]
        self._free[core, space] += size
        self.buffers.append((core, space, base, size, dtype))
        return len(self.buffers) - 1

    def core_of(self, buffer: int) -> int:
        return self.buffers[buffer][0]

    def dense(self, core: int, space: int, shape: tuple[int, ...], dtype: int) -> Layout:
        """A new buffer that holds exactly one row-major array."""
        size = int(np.prod(shape, dtype=np.int64))
        return Layout(self.buffer(core, space, size, dtype), shape, row_major(shape))

    def whole(self, buffer: int) -> int:
        """Address generator over all of a buffer."""
        return self.agu(buffer, 0, (self.buffers[buffer][3],), (1,))

    def on_core(self, place: Any, core: int) -> Any:
        """`place` (Layout or Scattered) as it is on `core`, sent there if it is not there yet."""
        home = self.core_of(place.buffer)
        if home == core:
            return place
        key = (place.buffer, core)
        if key not in self._copies:
            _, space, _, size, dtype = self.buffers[place.buffer]
            self._copies[key] = self.buffer(core, space, size, dtype)
            self.send(place.buffer, self._copies[key])
        return place.on(self._copies[key])

    def is_on(self, buffer: int, core: int) -> bool:
        """Whether all of a buffer is on a core: at home or as a copy."""
        return self.core_of(buffer) == core or (buffer, core) in self._copies

    def part_on_core(self, source: Layout, core: int, region: Region) -> Layout:
        """A value of which a core has a region only, sent there if it is not there yet.

        The positions of the value are those of the layout, but only those of the region have addresses in its buffer.
        """
        known = self._parts.setdefault((source, core), [])
        for there, layout in known:
            if there.holds(region):
                return layout
        _, space, _, _, dtype = self.buffers[source.buffer]
        order = source.order()
        dense = self.dense(core, space, tuple(region.shape[a] for a in order), dtype)
        strides = tuple(dense.strides[order.index(a)] for a in range(len(order)))
        part = source.slice(region.first, (1,) * len(order), region.shape)
        self._message(part.buffer, self.walk(part, order), dense.buffer, self.walk(dense, range(len(order))))
        offset = -sum(i * s for i, s in zip(region.first, strides, strict=True))
        known.append((region, Layout(dense.buffer, source.shape, strides, offset)))
        return known[-1][1]

    def send(self, source: int, target: int) -> None:
        """Copy a whole buffer to one of the same size and dtype on another core."""
        self._message(source, self.whole(source), target, self.whole(target))

    def _message(self, source: int, src: int, target: int, dst: int) -> None:
        self._token += 1
        sender, receiver = self.core_of(source), self.core_of(target)
        kind = KIND_OF_SPACE[self.buffers[source][1]]
        self.emit(sender, "send", dst_core=receiver, src=src, token=self._token, kind=kind)
        self.emit(receiver, "recv", dst=dst, src_core=sender, token=self._token)

    # -- address generators

    def agu(self, buffer: int, offset: int, counts: Sequence[int], strides: Sequence[int]) -> int:
        """Index of the address generator with these loops, outermost first (leading ones are added)."""
        lead = AGU_DIMS - len(counts)
        row = [buffer, int(offset)]
        for n, s in zip((*(1,) * lead, *counts), (*(0,) * lead, *strides), strict=True):
            row += [int(n), int(s) if n != 1 else 0]
        return self._agus.setdefault(tuple(row), len(self._agus))

    def walk(self, layout: Layout, order: Sequence[int]) -> int:
        """Address generator over a value, axes in the given order (outermost first)."""
        return self.agu(
            layout.buffer, layout.offset, [layout.shape[a] for a in order], [layout.strides[a] for a in order]
        )

    # -- instructions

    def emit(self, core: int, mnemonic: str, **operands: int) -> None:
        self.streams[core].append(encode(mnemonic, **operands))

    def gather(self, source: Scattered, target: Layout) -> None:
        """Materialise a scattered value; both are on one core."""
        core = self.core_of(target.buffer)
        order = target.order()
        self.emit(
            core,
            "gather",
            dst=self.walk(target, order),
            src=self.agu(source.buffer, 0, (1,), (0,)),
            table=self.i64.add(source.index.transpose(order)),
        )

    # -- result

    def sections(self) -> dict[str, np.ndarray]:
        """Sections `code`, `core_table`, `buffers`, `agus` and the pools."""
        cores = range(max(self.streams, default=0) + 1)
        table, words = [], []
        first = 0
        for core in cores:
            self.emit(core, "halt")
            stream = self.streams[core]
            table.append((first, len(stream)))
            first += len(stream)
            words.extend(stream)
        return {
            "code": np.stack(words),
            "core_table": np.array(table, np.int64).reshape(-1, 2),
            "buffers": np.array(self.buffers, np.int64).reshape(-1, 5),
            "agus": np.array(list(self._agus), np.int64).reshape(-1, 2 + 2 * AGU_DIMS),
            "pool_f32": self.f32.array(),
            "pool_i64": self.i64.array(),
            "pool_u16": self.u16.array(),
        }
