"""From a program's streams to the steps that are run for each batch of images.

The plan is made once per program. `Recorder` interprets the streams on values; here each operation becomes a step,
values that operations need but no operation makes (copies between buffers, filled halos) get steps of their own, and
the last use of each value is found, so that memory is given back, or changed in place, as soon as nobody needs it.

Accumulators are lazy. What a requantization reads is followed back to tables, matrix products and sums, through
partial sums that came from other cores (`_Collector`), and products of one source and one pixel pattern become one
unit, whatever tile, crossbar or core they came from. Accumulators that are read in any other way (twice, in pieces
that do not fit) are made in memory, one instruction at a time.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from smec.runtime.arrays import IntArray
from smec.runtime.container import Program
from smec.runtime.crossbars import Crossbars
from smec.runtime.geometry import Dims, Geometry, addresses
from smec.runtime.hosts import HostRegion, HostStep
from smec.runtime.recorder import Recorder
from smec.runtime.steps import (
    CopyStep,
    FillStep,
    FinishStep,
    InputStep,
    ProductStep,
    Reduction,
    Step,
    TableStep,
    operation_step,
)
from smec.runtime.units import TileUse, Unit
from smec.runtime.values import Kind, Level, Operation, Region, Result, Table, Target, Use, Value, number_of
from smec.runtime.vector import VectorUnit

#: Regions that one requantization's sums may be followed through, so that the analysis of any program stays quick.
_MOST_REGIONS = 300


class Plan:
    """The steps of one validated program.

    steps: in order. releases: for each step, the values that nobody needs after it. inputs: the steps of the
    program's inputs. outputs: what each program output reads at the end. units: all matrix products. bytes_per_image:
    most memory that values take at a time, an estimate.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self.crossbars = Crossbars(program.sections, program.hardware, program.act_bits)
        recorder = Recorder(program)
        recorder.run()
        builder = _Builder(program, self.crossbars, recorder)
        builder.build()
        self.steps: list[Step] = builder.steps
        self.inputs: list[InputStep] = builder.inputs
        self.outputs = recorder.outputs
        self.units: list[Unit] = builder.units
        self.releases: list[list[Value]] = []
        self.bytes_per_image = 0
        self._find_last_uses()

    def _find_last_uses(self) -> None:
        """Fill in `releases`, `bytes_per_image` and each step's `in_place`."""
        last: dict[Value, int] = {}
        for i, step in enumerate(self.steps):
            for target in step.targets:
                last[target.value] = i
                if target.base is not None:
                    last[target.base] = i
            for value in step.reads:
                last[value] = i
        kept = {region.value for region in self.outputs}
        held = 0
        for i, step in enumerate(self.steps):
            reads = set(step.reads)
            step.in_place = [
                t.base is not None and last[t.base] == i and t.base not in reads and t.base not in kept
                for t in step.targets
            ]
            held += sum(t.value.size * t.value.dtype.itemsize for t in step.targets)
            self.bytes_per_image = max(self.bytes_per_image, held)
            touched = {*reads, *(t.value for t in step.targets), *(t.base for t in step.targets if t.base is not None)}
            gone = [value for value in touched if last[value] == i and value not in kept]
            held -= sum(value.size * value.dtype.itemsize for value in gone if value.kind is not Kind.FILL)
            self.releases.append(gone)


class _Builder:
    """Makes the steps."""

    def __init__(self, program: Program, crossbars: Crossbars, recorder: Recorder) -> None:
        self.program = program
        self.crossbars = crossbars
        self.recorder = recorder
        self.steps: list[Step] = []
        self.inputs: list[InputStep] = []
        self.units: list[Unit] = []
        self.made: set[Value] = set()
        self.vector = VectorUnit(program.sections, program.act_bits)
        self.hosts: dict[int, HostRegion] = {}
        self.shared: set[Value] = set()

    def build(self) -> None:
        """Steps for all operations, and for what the outputs read."""
        self._find_shared_products()
        for operation in self.recorder.inputs:
            step = InputStep(**operation_step(operation), reads=[], values=np.zeros((0, 0)))
            self.inputs.append(step)
            self.emit(step)
        for operation in self.recorder.operations:
            self.emit(self.step_of(operation))
        for region in self.recorder.outputs:
            self.make(region.value)

    def emit(self, step: Step) -> None:
        """Append a step, after steps for what it needs."""
        for value in step.reads:
            self.make(value)
        for target in step.targets:
            base = target.base
            if base is not None and base.kind is not Kind.FILL and all(base is not t.value for t in step.targets):
                self.make(base)
        self.steps.append(step)
        self.made.update(target.value for target in step.targets)

    def step_of(self, operation: Operation) -> Step:
        """The step of an operation."""
        if operation.mnemonic in ("requant", "dequant"):
            return self.finish_step(operation)
        if operation.mnemonic == "host":
            index = operation.operands["region"]
            if index not in self.hosts:
                self.hosts[index] = HostRegion(self.program, index)
            reads = [region.value for region in operation.inputs]
            return HostStep(
                **operation_step(operation), reads=reads, region=self.hosts[index], sources=operation.inputs
            )
        return self.vector.step(operation)

    # -- accumulators

    def finish_step(self, operation: Operation) -> Step:
        o, region = operation.operands, operation.inputs[0]
        reduction = self.reduction(region)
        pool = self.program.sections["pool_f32"]
        channels = region.geometry.channels
        if operation.mnemonic == "requant":
            off, bounds = pool[o["off"] : o["off"] + channels], (float(o["lo"]), float(o["hi"]))
        else:
            off = pool[o["bias"] : o["bias"] + channels]
            low, high = pool[o["clamp"] : o["clamp"] + 2].tolist()
            bounds = (low, high)
        return FinishStep(
            **operation_step(operation),
            reads=reduction.values(),
            reduction=reduction,
            accumulator=region.value.dtype,
            mult=np.array(pool[o["mult"] : o["mult"] + channels]),
            off=np.array(off),
            bounds=bounds,
            layer=o["layer"],
        )

    def reduction(self, region: Region) -> Reduction:
        """What makes the accumulators of a region: merged products, or else the region in memory."""
        found = self.collect(region)
        if found is None:
            found = _Collector.empty(region.geometry)
            found.regions.append(_InMemory(region, 0))
        return self.merge(found, region.geometry.channels, int(np.prod([n for n, _ in region.geometry.pixels])))

    def collect(self, region: Region) -> _Collector | None:
        """The parts of a region's sums, None if they do not fit together or are shared with other readers."""
        collector = _Collector.empty(region.geometry)
        collector.shared, collector.made = self.shared, self.made
        collector.crossbars, collector.tables = self.crossbars, self.program.sections["pool_i64"]
        return collector if collector.follow(region, 0, region.geometry.channels) else None

    def merge(self, found: _Collector, channels: int, pixels: int) -> Reduction:
        """A reduction in which products of one source, one pixel pattern and the same digits are one unit."""
        reduction = Reduction(pixels, channels, found.start)
        units: dict[tuple[int, Dims, tuple[int, int]], Unit] = {}
        for use, tile_channels in found.products:
            key = (use.source.id, use.src.merged, use.window)
            if key not in units:
                units[key] = Unit(use.source, addresses(use.src.merged), channels, use.window)
            units[key].tiles.append(TileUse(use.tile, use.src.offset, tile_channels))
        reduction.units = list(units.values())
        self.units += reduction.units
        for part in found.regions:
            g = part.region.geometry
            reduction.regions.append((part.region.value, g.pixel_addresses, g.step, part.first, g.channels))
        return reduction

    def _find_shared_products(self) -> None:
        """Products and sums that several readers would compute again: they are made in memory, once.

        Readers are requantizations that can follow them back, and whatever else is made of them in memory.
        """
        count: Counter[Value] = Counter()
        roots = [region.value for region in self.recorder.outputs]
        for operation in self.recorder.operations:
            found = self.collect(operation.inputs[0]) if operation.mnemonic in ("requant", "dequant") else None
            if found is not None:
                count.update(found.visited)
            else:
                roots += [region.value for region in operation.inputs]
        count.update(set(roots))
        seen = set(roots)
        stack = list(seen)
        while stack:
            for need in self.needs(stack.pop(), []):
                count[need] += 1
                if need not in seen:
                    seen.add(need)
                    stack.append(need)
        self.shared = {value for value, n in count.items() if n > 1 and value.kind in (Kind.MVM, Kind.SUM)}

    # -- values that no operation makes

    def make(self, value: Value) -> None:
        """Emit steps for a value and what it is made of, unless they are there."""
        stack = [value]
        while stack:
            at = stack[-1]
            if at in self.made:
                stack.pop()
                continue
            # consecutive products of one accumulator buffer belong together
            run = [at]
            while run[-1].kind is Kind.MVM and (base := run[-1].base) is not None and base.kind is Kind.MVM:
                if base in self.made or base in self.shared:
                    break
                run.append(base)
            missing = [need for link in reversed(run) for need in self.needs(link, run) if need not in self.made]
            if missing:
                stack += missing
            elif at.kind is Kind.MVM:
                self.emit_products(run[::-1])
            else:
                self.emit(self.move_step(at))

    @staticmethod
    def needs(value: Value, run: list[Value]) -> list[Value]:
        """What must be in memory before a value can be made, but for other members of its run; a fill needs not."""
        needed = [value.base] if value.base is not None and value.base.kind is not Kind.FILL else []
        if isinstance(value.source, Region):
            needed.append(value.source.value)
        elif isinstance(value.source, Result):
            needed.append(value.source.operation.targets[value.source.index].value)
        if value.use is not None:
            needed.append(value.use.source)
        return [need for need in needed if need not in run]

    def move_step(self, value: Value) -> Step:
        """The step of a fill, a write or a sum."""
        if value.kind is Kind.FILL:
            whole = Geometry(-1, 0, ((value.size, 1),))
            return FillStep(name="fill", reads=[], targets=[Target(value, None, whole)], word=value.word)
        geometry, source = value.geometry, value.source
        if geometry is None or source is None:
            raise ValueError("only writes and sums have a source")
        target = Target(value, value.base, geometry)
        if isinstance(source, Level):
            return FillStep(name="fill", reads=[], targets=[target], word=source.word)
        if isinstance(source, Table):
            table = self.program.sections["pool_i64"][source.start : source.start + source.length]
            return TableStep(name="init", reads=[], targets=[target], table=table)
        if isinstance(source, Result):
            origin = source.operation.targets[source.index]
            source = Region(origin.value, origin.geometry)
        adds = value.kind is Kind.SUM
        return CopyStep(
            name="accadd" if adds else "copy", reads=[source.value], targets=[target], source=source, adds=adds
        )

    def emit_products(self, run: list[Value]) -> None:
        """One step for each pixel pattern of consecutive products of a buffer."""
        base = run[0].base
        at = 0
        while at < len(run):
            first = run[at].use
            uses = []
            while (
                at < len(run)
                and (use := run[at].use) is not None
                and first is not None
                and use.dst.key == first.dst.key
            ):
                uses.append(use)
                at += 1
            if first is None:
                raise ValueError("a product without a use")
            value = run[at - 1]
            columns = [first.dst.offset + self.crossbars.tile(use.tile).column_to for use in uses]
            offsets = np.unique(np.concatenate(columns))
            found = _Collector(np.zeros(len(offsets), np.int64), [], [], [])
            found.products = [(use, np.searchsorted(offsets, to)) for use, to in zip(uses, columns, strict=True)]
            pixels = addresses(first.dst.merged)
            reduction = self.merge(found, len(offsets), len(pixels))
            target = Target(value, base, first.dst)
            self.emit(
                ProductStep(
                    name="mvm", core=first.core, instruction=first.instruction, reads=reduction.values(),
                    targets=[target], reduction=reduction, pixels=pixels, offsets=offsets,
                )
            )  # fmt: skip
            base = value


@dataclass
class _InMemory:
    """Accumulators of a region that join from its first channel `first` on."""

    region: Region
    first: int


class _Collector:
    """Follows accumulators back to what they are sums of.

    start int64 [channels]: sum of the tables. products: (use, channel of each used column of its tile, -1 outside).
    regions: what has to be in memory. visited: the products and sums on the way.
    """

    shared: set[Value]
    made: set[Value]
    crossbars: Crossbars
    tables: IntArray
    depth = 0

    def __init__(
        self,
        start: IntArray,
        products: list[tuple[Use, IntArray]],
        regions: list[_InMemory],
        visited: list[Value],
    ) -> None:
        self.start, self.products, self.regions, self.visited = start, products, regions, visited

    @staticmethod
    def empty(geometry: Geometry) -> _Collector:
        """Nothing collected yet, for a region of this shape."""
        return _Collector(np.zeros(geometry.channels, np.int64), [], [], [])

    def follow(self, region: Region, first: int, count: int) -> bool:
        """Add what makes `count` channels, from `first` on, of the result: the region's accumulators. False if they
        do not fit.
        """
        value: Value | None = region.value
        geometry = region.geometry
        self.depth += 1
        while value is not None and self.depth < _MOST_REGIONS:
            if value in self.made:
                self.regions.append(_InMemory(Region(value, geometry), first))
                return True
            if value in self.shared:
                return False
            if value.kind is Kind.FILL:
                self.start[first : first + count] += int(number_of(value.word, value.dtype))
                return True
            if value.kind is Kind.WRITE:
                if value.geometry is None or value.source is None:
                    return False
                if value.geometry.key == geometry.key:
                    return self.follow_source(value, first, count)
                if not value.geometry.disjoint(geometry):
                    return False
            elif value.kind is Kind.MVM:
                if not self.add_product(value, geometry, first, count):
                    return False
            elif not self.add_sum(value, geometry, first, count):
                return False
            value = value.base
        return False

    def follow_source(self, value: Value, first: int, count: int) -> bool:
        """The region was written at once: by a table, a number, or from elsewhere."""
        source = value.source
        if isinstance(source, Level):
            self.start[first : first + count] += int(number_of(source.word, value.dtype))
            return True
        if isinstance(source, Table):
            if source.length != count:
                return False
            self.start[first : first + count] += self.tables[source.start : source.start + count]
            return True
        if not isinstance(source, Region) or value.geometry is None or source.value.dtype != value.dtype:
            return False
        same = source.geometry.channels == count and source.geometry.points == value.geometry.points
        return same and self.follow(source, first, count)

    def add_product(self, value: Value, geometry: Geometry, first: int, count: int) -> bool:
        """Case MVM: columns of the tile become channels."""
        use = value.use
        if use is None or use.dst.merged != geometry.pixels:
            return False
        distance = use.dst.offset + self.crossbars.tile(use.tile).column_to - geometry.offset
        channels, rest = np.divmod(distance, geometry.step)
        if rest.any():
            return False
        inside = (channels >= 0) & (channels < count)
        if not inside.all():
            # beyond the channels of its pixel lies the next pixel, unless the pixels are further apart
            apart = min((abs(stride) for _, stride in geometry.pixels), default=1 << 62)
            if distance.min() < 0 or distance.max() >= apart:
                return False
        self.products.append((use, np.where(inside, first + channels, -1)))
        self.visited.append(value)
        return True

    def add_sum(self, value: Value, geometry: Geometry, first: int, count: int) -> bool:
        """Case SUM: a range of channels gains another region, or a range of addresses another one."""
        target, source = value.geometry, value.source
        if target is None or not isinstance(source, Region):
            return False
        self.visited.append(value)
        if target.disjoint(geometry):
            return True
        if source.value.dtype != value.dtype:
            return False
        if target.merged == source.geometry.merged == ((target.points, 1),):
            low, high = target.bounds
            if low <= geometry.bounds[0] and geometry.bounds[1] <= high:
                moved = geometry.moved(source.geometry.offset - target.offset)
                return self.follow(Region(source.value, moved), first, count)
        channel, rest = divmod(target.offset - geometry.offset, geometry.step)
        fits = target.pixels == geometry.pixels and (target.channels == 1 or target.step == geometry.step)
        if rest or not fits or channel < 0 or channel + target.channels > count:
            return False
        if source.geometry.channels != target.channels:
            return False
        return self.follow(source, first + channel, target.channels)
