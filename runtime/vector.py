"""The vector unit's instructions, over whole buffers of a batch.

Requantization is in `smec.runtime.steps`, where the sums are made. What ResNets and MobileNets spend time on (add,
pooling, table lookup) are compiled kernels; the rest is NumPy, a range of images at a time. Every result equals that
of the definitions in `smec.ir.isa_semantics`: float32, separately rounded operations, halves to even.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from smec.runtime import kernels
from smec.runtime.arrays import Array, IntArray
from smec.runtime.geometry import Geometry, Rows, in_step
from smec.runtime.steps import State, Step, operation_step
from smec.runtime.values import Operation, Region

F32 = np.float32
#: Elements that one call of a kernel should at least process.
_ELEMENTS = 1 << 16


def rounded(values: Array, low: int, high: int) -> Array:
    """Float32 to the integers of [low, high], halves to even; still float32."""
    return np.clip(np.rint(values), F32(low), F32(high))


@dataclass(eq=False, kw_only=True)
class RowsStep(Step):
    """A compiled kernel over rows: compute(memory of each source, memory of the target, first row, last row)."""

    sources: list[Region]
    rows: Rows
    compute: Callable[[list[Array], Array, int, int], None]

    def run(self, state: State) -> None:
        sources = [state.memory[source.value] for source in self.sources]
        array = self.open(state)
        state.workers.blocks(
            state.images * len(self.rows.at[0]),
            max(1, _ELEMENTS // self.rows.count),
            lambda start, stop: self.compute(sources, array, start, stop),
        )


@dataclass(eq=False, kw_only=True)
class ViewStep(Step):
    """A NumPy function of views [B, c0..c5] of the sources, a range of images at a time."""

    sources: list[Region]
    compute: Callable[..., Array]

    def run(self, state: State) -> None:
        array, geometry = self.open(state), self.targets[0].geometry
        memory = [state.memory[source.value] for source in self.sources]

        def task(images: slice) -> None:
            views = [s.geometry.view(m[images]) for s, m in zip(self.sources, memory, strict=True)]
            into = geometry.view(array[images])
            into[...] = self.compute(*views).astype(array.dtype, copy=False)

        state.each_image(task, geometry.points)


@dataclass(eq=False, kw_only=True)
class GatherStep(Step):
    """dst[i] = src[table[i]]."""

    source: Region
    table: IntArray

    def run(self, state: State) -> None:
        memory = state.memory[self.source.value]
        array, geometry = self.open(state), self.targets[0].geometry

        def task(images: slice) -> None:
            array[images, geometry.all_addresses] = memory[images][:, self.table]

        state.each_image(task, geometry.points)


class VectorUnit:
    """Makes the steps of the vector unit's instructions from a program's tables."""

    def __init__(self, sections: Mapping[str, Array], act_bits: int) -> None:
        self.sections = sections
        self.act_bits = act_bits

    def table(self, name: str, start: int, count: int) -> Array:
        """A copy of `count` entries of a pool."""
        return np.array(self.sections[name][start : start + count])

    def step(self, operation: Operation) -> Step:
        """The step of any operation but `requant`, `dequant` and `host`."""
        make: Callable[[Operation], Step] = getattr(self, operation.mnemonic)
        return make(operation)

    # -- element by element

    def quantize(self, op: Operation) -> Step:
        (scale,) = self.table("pool_f32", op.operands["params"], 1)
        zero, high = F32(op.operands["zero_point"]), op.operands["hi"]

        def compute(x: Array) -> Array:
            with np.errstate(invalid="ignore", over="ignore"):
                scaled = np.rint(x / scale) + zero
            return np.clip(np.where(np.isnan(scaled), zero, scaled), F32(0), F32(high))

        return self.of_views(op, compute)

    def mul(self, op: Operation) -> Step:
        o = op.operands
        scale, zero = self.table("pool_f32", o["params"], 2)

        def compute(a: Array, b: Array) -> Array:
            product = (a.astype(np.int64) - o["za"]) * (b.astype(np.int64) - o["zb"])
            return rounded(product.astype(F32) * scale + zero, o["lo"], o["hi"])

        return self.of_views(op, compute)

    def add(self, op: Operation) -> Step:
        o = op.operands
        params = self.table("pool_f32", o["params"], 3)
        rows = self.rows(op)
        low, high, (at, a_at, b_at), steps = float(o["lo"]), float(o["hi"]), rows.at, rows.steps

        def compute(memory: list[Array], array: Array, start: int, stop: int) -> None:
            a, b = memory
            strides = (steps[1], steps[2], steps[0])
            kernels.add_rows(a, b, array, start, stop, a_at, b_at, at, rows.count, strides, params, low, high)

        return RowsStep(
            **operation_step(op), reads=[r.value for r in op.inputs], sources=op.inputs, rows=rows, compute=compute
        )

    def lut(self, op: Operation) -> Step:
        table = self.table("pool_u16", op.operands["table"], 1 << self.act_bits)
        return self.of_table(op, table)

    def rescale(self, op: Operation) -> Step:
        o = op.operands
        scale, off = self.table("pool_f32", o["params"], 2)
        levels = self.levels(op)
        return self.of_table(op, rounded(levels.astype(F32) * scale + off, o["lo"], o["hi"]))

    def dequantize(self, op: Operation) -> Step:
        (scale,) = self.table("pool_f32", op.operands["params"], 1)
        levels = self.levels(op)
        return self.of_table(op, (levels - op.operands["zero_point"]).astype(F32) * scale)

    # -- windows

    def maxpool(self, op: Operation) -> Step:
        window = self.window(op)
        rows = self.rows(op)

        def compute(memory: list[Array], array: Array, start: int, stop: int) -> None:
            steps = (rows.steps[1], rows.steps[0])
            kernels.max_pool_rows(memory[0], array, start, stop, rows.at[1], rows.at[0], rows.count, steps, window)

        return RowsStep(**operation_step(op), reads=[op.inputs[0].value], sources=op.inputs, rows=rows, compute=compute)

    def avgpool(self, op: Operation) -> Step:
        o = op.operands
        window = self.window(op)
        rows = self.rows(op, keep_innermost=True)
        pixels = len(rows.at[0])
        table = self.table("pool_f32", o["params"], pixels + 1)
        factors, zero, high = table[:-1].copy(), float(table[-1]), float(o["hi"])

        def compute(memory: list[Array], array: Array, start: int, stop: int) -> None:
            steps = (rows.steps[1], rows.steps[0])
            kernels.average_pool_rows(
                memory[0], array, start, stop, rows.at[1], rows.at[0], rows.count, steps, window, factors,
                o["zero_point"], zero, high,
            )  # fmt: skip

        return RowsStep(**operation_step(op), reads=[op.inputs[0].value], sources=op.inputs, rows=rows, compute=compute)

    # -- moves

    def gather(self, op: Operation) -> Step:
        source = op.inputs[0]
        table = self.table("pool_i64", op.operands["table"], op.targets[0].geometry.points) + source.geometry.offset
        return GatherStep(**operation_step(op), reads=[source.value], source=source, table=table)

    # -- shared

    def of_views(self, op: Operation, compute: Callable[..., Array]) -> Step:
        """A step of a NumPy function."""
        return ViewStep(**operation_step(op), reads=[r.value for r in op.inputs], sources=op.inputs, compute=compute)

    def of_table(self, op: Operation, table: Array) -> Step:
        """A step of a table lookup; the table in the result's dtype."""
        target = op.targets[0]
        entries = table.astype(target.value.dtype)
        rows = self.rows(op)

        def compute(memory: list[Array], array: Array, start: int, stop: int) -> None:
            steps = (rows.steps[1], rows.steps[0])
            kernels.lookup_rows(memory[0], array, start, stop, rows.at[1], rows.at[0], rows.count, steps, entries)

        return RowsStep(**operation_step(op), reads=[op.inputs[0].value], sources=op.inputs, rows=rows, compute=compute)

    @staticmethod
    def rows(op: Operation, keep_innermost: bool = False) -> Rows:
        """Target and sources of an operation as rows, the target first."""
        geometries: tuple[Geometry, ...] = (op.targets[0].geometry, *(region.geometry for region in op.inputs))
        return in_step(geometries, keep_innermost)

    @staticmethod
    def levels(op: Operation) -> Any:
        """Every value that an element of the source's dtype can have, int64."""
        return np.arange(int(np.iinfo(op.inputs[0].value.dtype).max) + 1, dtype=np.int64)

    def window(self, op: Operation) -> IntArray:
        """Addresses of a pooling window relative to its origin."""
        return Geometry.of_row(self.sections["agus"][op.operands["window"]].tolist()).all_addresses
