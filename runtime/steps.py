"""The steps that a plan runs for each batch of images, and the state they work on.

A step reads whole buffers' values and makes new ones. Where the value that it changes is not needed afterwards, the
change is made in place; `State.open` decides by what the plan found out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from smec.runtime import kernels
from smec.runtime.arrays import Array, IntArray
from smec.runtime.threads import Workers
from smec.runtime.units import Unit
from smec.runtime.values import Kind, Operation, Region, Target, Value, number_of


@dataclass
class State:
    """One run on `images` images.

    memory: [images, size] arrays of the values that exist. engine: which of the units' parts to use. saturated int64
    [tiles]. accumulators: by layer, int [images, pixels, channels] for each requantization, if wanted. borrowed:
    values in the caller's memory, which must not change.
    """

    images: int
    engine: str
    workers: Workers
    saturated: IntArray
    accumulators: dict[int, list[Array]] | None = None
    memory: dict[Value, Array] = field(default_factory=dict)
    borrowed: set[Value] = field(default_factory=set)

    def open(self, target: Target, in_place: bool) -> Array:
        """Memory of a target's value, [images, size], holding what it is based on."""
        value, base = target.value, target.base
        if base is None:
            array = np.empty((self.images, value.size), value.dtype)
        elif base not in self.memory and base.kind is Kind.FILL:
            array = np.full((self.images, value.size), number_of(base.word, value.dtype), value.dtype)
        elif in_place and base not in self.borrowed:
            array = self.memory.pop(base)
        else:
            array = self.memory[base].copy()
        self.memory[value] = array
        return array

    def each_image(self, task: Callable[[slice], None], elements: int) -> None:
        """Call task for ranges of images, each of a few hundred thousand elements, `elements` an image."""
        self.workers.blocks(
            self.images, max(1, (1 << 18) // max(1, elements)), lambda start, stop: task(slice(start, stop))
        )


@dataclass(eq=False, kw_only=True)
class Step:
    """Base of all steps.

    reads: values that must exist. targets: what it makes. in_place: for each target, whether its base may be changed
    (set by the plan). core, instruction: what it stands for, -1 for what the plan adds. name: for traces.
    """

    reads: list[Value]
    targets: list[Target]
    name: str
    core: int = -1
    instruction: int = -1
    in_place: list[bool] = field(default_factory=list, init=False)

    def run(self, state: State) -> None:
        raise NotImplementedError

    def open(self, state: State, index: int = 0) -> Array:
        """Memory of target `index`, holding its base."""
        return state.open(self.targets[index], self.in_place[index])


@dataclass(eq=False, kw_only=True)
class FillStep(Step):
    """Makes a value that is one number, or writes one number into a region."""

    word: int

    def run(self, state: State) -> None:
        target = self.targets[0]
        array = self.open(state)
        target.geometry.view(array)[...] = number_of(self.word, array.dtype)


@dataclass(eq=False, kw_only=True)
class TableStep(Step):
    """Writes a table of one number a channel into a region."""

    table: IntArray

    def run(self, state: State) -> None:
        geometry = self.targets[0].geometry
        array = self.open(state)
        values = np.resize(self.table, geometry.points).astype(array.dtype)
        geometry.store(array, values)


@dataclass(eq=False, kw_only=True)
class CopyStep(Step):
    """Writes a region of one value into a region of another; with `adds`, adds it."""

    source: Region
    adds: bool = False

    def run(self, state: State) -> None:
        memory = state.memory[self.source.value]
        array = self.open(state)
        geometry = self.targets[0].geometry
        shape = geometry.shape

        def task(images: slice) -> None:
            values = self.source.geometry.view(memory[images])
            if values.shape[1:] != shape:  # a message arrives in another shape than it was sent in
                values = values.reshape(len(values), *shape)
            into = geometry.view(array[images])
            if self.adds:
                into += values.astype(array.dtype, copy=False)
            else:
                into[...] = values

        state.each_image(task, geometry.points)


@dataclass(eq=False)
class Reduction:
    """Sums that make a block of accumulators [pixels, channels] an image.

    start int64 [channels]: tables. units: matrix products. regions: (region's value, its pixels, its stride along
    channels, first channel, channels) of accumulators that exist in memory.
    """

    pixels: int
    channels: int
    start: IntArray
    units: list[Unit] = field(default_factory=list)
    regions: list[tuple[Value, IntArray, int, int, int]] = field(default_factory=list)

    def values(self) -> list[Value]:
        """What must exist."""
        return [*(unit.source for unit in self.units), *(region[0] for region in self.regions)]

    def run(self, state: State, dtype: np.dtype[Any], finish: Callable[[Array, int], None]) -> None:
        """Compute blocks of accumulators, `dtype` [rows, channels], and pass each with its first row to `finish`."""
        parts = [(state.memory[unit.source], part) for unit in self.units for part in unit.parts[state.engine]]
        regions = [(state.memory[region[0]], *region[1:]) for region in self.regions]
        start = self.start.astype(dtype)
        limit = max(16, (1 << 18) // max(1, self.channels))
        block = min([limit, *(part.rows for _, part in parts)])

        def task(first: int, stop: int) -> None:
            acc = state.workers.scratch("acc", (stop - first, self.channels), dtype)
            acc[...] = start
            for source, part in parts:
                part.add(source, first, stop, acc, state.workers, state.saturated)
            for memory, pixels, step, channel, count in regions:
                kernels.add_region(memory, first, stop, pixels, step, acc, channel, count)
            finish(acc, first)

        state.workers.blocks(state.images * self.pixels, block, task)


@dataclass(eq=False, kw_only=True)
class ProductStep(Step):
    """Adds matrix products to accumulators in memory: for those that are not read by one requantization alone."""

    reduction: Reduction
    pixels: IntArray
    offsets: IntArray

    def run(self, state: State) -> None:
        array = self.open(state)

        def finish(acc: Array, first: int) -> None:
            kernels.scatter_add(acc, first, first + len(acc), self.pixels, self.offsets, array)

        self.reduction.run(state, array.dtype, finish)


@dataclass(eq=False, kw_only=True)
class FinishStep(Step):
    """`requant` and `dequant`: from sums to activations or real values, a block at a time."""

    reduction: Reduction
    accumulator: np.dtype[Any]
    mult: Array
    off: Array
    bounds: tuple[float, float]
    layer: int

    def run(self, state: State) -> None:
        reduction, geometry = self.reduction, self.targets[0].geometry
        array = self.open(state)
        kernel = kernels.requantize if self.name == "requant" else kernels.dequantize_accumulators
        low, high = self.bounds
        traced: Array | None = None
        if state.accumulators is not None:
            shape = (state.images * reduction.pixels, reduction.channels)
            traced = np.empty(shape, self.accumulator)
            state.accumulators.setdefault(self.layer, []).append(
                traced.reshape(state.images, reduction.pixels, reduction.channels)
            )

        def finish(acc: Array, first: int) -> None:
            if traced is not None:
                traced[first : first + len(acc)] = acc
            kernel(acc, first, geometry.pixel_addresses, geometry.step, self.mult, self.off, low, high, array)

        reduction.run(state, self.accumulator, finish)


@dataclass(eq=False, kw_only=True)
class InputStep(Step):
    """Takes one of the program's inputs: `values` [images, elements], set before each run."""

    values: Array

    def run(self, state: State) -> None:
        target = self.targets[0]
        if target.base is None:
            state.memory[target.value] = self.values
            state.borrowed.add(target.value)
            return
        array = self.open(state)
        target.geometry.store(array, self.values)


def operation_step(operation: Operation) -> dict[str, Any]:
    """What every step of an operation has: name, place and targets."""
    return {
        "name": operation.mnemonic,
        "core": operation.core,
        "instruction": operation.instruction,
        "targets": operation.targets,
    }
