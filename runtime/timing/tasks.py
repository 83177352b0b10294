"""A program as tasks: instructions in chunks, with durations, the resources they hold, and what they wait for.

`docs/timing.md` defines all of it in words.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

import numpy as np

from smec.ir.isa_sections import SPACE_ACC, IntArray
from smec.ir.isa_table import Decoded
from smec.runtime.container import Program
from smec.runtime.timing import chunks
from smec.runtime.timing.chunks import Access, Partition
from smec.runtime.timing.machine import Machine
from smec.runtime.timing.network import Route, route
from smec.runtime.timing.order import sequence
from smec.runtime.timing.tiles import Tiles, tile_costs

#: Capacity of a resource that tasks share by rate; others have capacity 1 and are held by one chunk at a time.
RATE = 1 << 20

#: The unit that issues an instruction. What is not here is the vector unit's.
UNITS = {"mvm": "crossbars", "send": "send", "recv": "receive", "host": "host", "input": "links", "output": "links"}


@dataclass(frozen=True)
class Resource:
    """Something that is held for the duration of a chunk.

    kind: "crossbar", "adc", "buffer", "vector", "send", "receive", "mesh", "links" or "host". core: -1 for no core's.
    tiles: of a crossbar, the tiles in it. arrays: how many physical crossbars it stands for.
    """

    kind: str
    core: int
    capacity: int = 1
    tiles: tuple[int, ...] = ()
    arrays: int = 0
    mesh: tuple[int, int, int] | None = None


@dataclass(eq=False, slots=True)
class Task:
    """One instruction, or one of the program's inputs or outputs.

    at: position in `code`, -1 for ports. layer, tile: -1 for none. use: of a `mvm`, its costs in `Tiles`.
    points: of each chunk. durations: how long each chunk holds the resources; latencies: from its start to when its
    results are there; lead: from when all that it waits for is there to when it may start. All in fs.
    resources: (index, demand). waits: (task, for each chunk the last chunk of that task that must be done, -1 for
    none). issued: when its unit takes it up, fs.
    fetched: bytes that a pixel of an `mvm` takes from the buffer, or that a host region moves. route: of a `send`.
    label: name of a port or region. operands: of the instruction. streams: its address generators, as (operand, index,
    whether a window is read at each point).
    """

    mnemonic: str
    core: int
    at: int
    unit: str
    layer: int = -1
    tile: int = -1
    use: int = -1
    points: IntArray = field(default_factory=lambda: np.zeros(0, np.int64))
    durations: list[int] = field(default_factory=list)
    latencies: list[int] = field(default_factory=list)
    lead: int = 0
    resources: list[tuple[int, int]] = field(default_factory=list)
    waits: list[tuple[int, list[int]]] = field(default_factory=list)
    issued: int = 0
    fetched: int = 0
    route: Route | None = None
    label: str = ""
    operands: dict[str, int] = field(default_factory=dict)
    streams: list[tuple[str, int, bool]] = field(default_factory=list)

    @property
    def chunks(self) -> int:
        """How many chunks it has."""
        return len(self.durations)


@dataclass(frozen=True)
class TaskGraph:
    """All tasks of one image, in an order in which they can run one after the other, and the resources."""

    program: Program
    machine: Machine
    tiles: Tiles
    tasks: list[Task]
    resources: list[Resource]

    @property
    def layers(self) -> list[str]:
        """Names of the layers."""
        return [layer["name"] for layer in self.program.metadata["layers"]]


def task_graph(program: Program, machine: Machine) -> TaskGraph:
    """The tasks of a validated program."""
    builder = _Builder(program, machine)
    builder.build()
    return TaskGraph(program, machine, builder.tiles, builder.tasks, builder.resources)


class _ChunkSizes(SimpleNamespace):
    """`Sizes` of one instruction's chunks, for the formulas of the instruction table."""


class _Builder:
    def __init__(self, program: Program, machine: Machine) -> None:
        s = program.sections
        self.program, self.machine = program, machine
        self.tiles = tile_costs(program, machine)
        self.agus: list[list[int]] = np.asarray(s["agus"]).tolist()
        self.buffers: list[list[int]] = np.asarray(s["buffers"]).tolist()
        rows, columns = np.asarray(s["tile_rows"]), np.asarray(s["tile_cols"])
        self.row_span = _spans(rows)
        self.column_span = _spans(columns)
        self.row_keys = [row.tobytes() for row in rows]
        self.tasks: list[Task] = []
        self.resources: list[Resource] = []
        self._resource_index: dict[Any, int] = {}
        self._issued: Counter[tuple[int, str]] = Counter()
        self._accesses: dict[int, list[tuple[int, Access]]] = {}
        self._fetched: set[tuple[int, int, bytes]] = set()
        self._task_at: dict[int, int] = {}
        self._partition = lru_cache(maxsize=None)(chunks.partition)
        self._flat = lru_cache(maxsize=None)(chunks.flat_partition)
        self._ranges = lru_cache(maxsize=None)(self._new_ranges)
        self._needs: dict[tuple[int, int], list[int] | None] = {}
        self._known: dict[int, Partition] = {}

    def build(self) -> None:
        order, self.pairs = sequence(self.program)
        self._find_arrays(order)
        self._find_pitches(order)
        self._find_layers(order)
        metadata = self.program.metadata
        for port in metadata["inputs"]:
            self._port("input", port["agu"], port["name"])
        for core, at, step in order:
            self._instruction(core, at, step)
        for port in metadata["outputs"]:
            self._port("output", port["agu"], port["name"])

    # -- before the tasks

    def _find_arrays(self, order: Sequence[tuple[int, int, Decoded]]) -> None:
        """Physical crossbars with the same tiles are one resource, since they are always held together."""
        users: dict[int, set[int]] = {}
        core_of: dict[int, int] = {}
        for core, _, step in order:
            if step.mnemonic == "mvm":
                for array, _ in self.tiles.arrays[step.operands["tile"]]:
                    users.setdefault(array, set()).add(step.operands["tile"])
                    core_of[array] = core
        sets: dict[tuple[int, ...], list[int]] = {}
        for array in sorted(users):
            sets.setdefault(tuple(sorted(users[array])), []).append(array)
        self.crossbars: dict[int, list[int]] = {}
        for tiles, arrays in sets.items():
            resource = Resource("crossbar", core_of[arrays[0]], 1, tiles, len(arrays))
            index = self._resource(("crossbar", tiles), resource)
            for tile in tiles:
                self.crossbars.setdefault(tile, []).append(index)

    def _find_pitches(self, order: Sequence[tuple[int, int, Decoded]]) -> None:
        """The closest rows that any instruction makes of each buffer; walks from end to end are cut at these."""
        self.pitches: dict[int, int] = {}
        seen: set[tuple[int, bool]] = set()
        for _, _, step in order:
            mvm = step.mnemonic == "mvm"
            for agu in self._streams(step):
                if (agu, mvm) in seen:
                    continue
                seen.add((agu, mvm))
                buffer, _, counts, strides = self._agu(agu)
                if not mvm and chunks.is_flat(counts, strides):
                    continue
                pitch = self._partition(counts, mvm).pitch(strides)
                if pitch:
                    self.pitches[buffer] = min(pitch, self.pitches.get(buffer, pitch))

    def _find_layers(self, order: Sequence[tuple[int, int, Decoded]]) -> None:
        """The layer that each buffer belongs to: whose sums, results or copies of them it holds."""
        self.layer_of: dict[int, int] = {}
        source_of: dict[int, int] = {}
        for _, at, step in order:
            operands = step.operands
            if step.mnemonic == "mvm":
                self.layer_of[self.agus[operands["dst"]][0]] = int(self.program.tile_layer[operands["tile"]])
            elif "layer" in operands:
                self.layer_of[self.agus[operands["dst"]][0]] = operands["layer"]
            elif step.mnemonic == "send":
                source_of[at] = self.agus[operands["src"]][0]
        for _, at, step in order:
            if step.mnemonic in ("recv", "copy", "gather"):
                source = source_of[self.pairs[at]] if step.mnemonic == "recv" else self.agus[step.operands["src"]][0]
                if source in self.layer_of:
                    self.layer_of.setdefault(self.agus[step.operands["dst"]][0], self.layer_of[source])

    # -- tasks

    def _port(self, mnemonic: str, agu: int, name: str) -> None:
        """The way of a program's input or output over the links of the chip of its core."""
        buffer = self.agus[agu][0]
        core = self.buffers[buffer][0]
        cut = self._cut(agu, False)
        task = self._task(mnemonic, core, -1, cut.points)
        task.label = name
        item = int(self.program.sizes.item_bytes[agu])
        task.durations = self._link_times(cut.points * item)
        task.resources = [(self._links(self.machine.chip_of(core)), 1)]
        enters = mnemonic == "input"
        task.lead = 0 if enters else self.machine.buffer_read
        task.latencies = [d + (self.machine.buffer_write if enters else 0) for d in task.durations]
        self._touch(task, [self._access(agu, cut, chunks.WRITE if enters else chunks.READ)])

    def _instruction(self, core: int, at: int, step: Decoded) -> None:
        operands, m = step.operands, self.machine
        if step.mnemonic == "host":
            self._host(core, at, operands)
            return
        streams = self._streams(step)
        mvm = step.mnemonic == "mvm"
        cut = self._cut(streams[0], mvm)
        task = self._task(step.mnemonic, core, at, cut.points)
        task.layer = self._layer(step)
        task.operands = operands
        windows = "window" in operands
        agu_operands = [x for x in step.instruction.operands if x.kind == "agu"]
        task.streams = [(x.name, operands[x.name], windows and x.access == "r") for x in agu_operands]
        cycles = self._cycles(step, cut.points, streams[0])
        if mvm:
            self._product(task, operands, cycles * m.read)
        else:
            task.durations = (np.maximum(cycles, 1) * m.clock).tolist()
            if step.mnemonic == "send":
                self._send(task, operands["dst_core"], cut.points * int(self.program.sizes.item_bytes[streams[0]]))
            elif step.mnemonic == "recv":
                task.resources = [(self._resource(("receive", core), Resource("receive", core)), 1)]
                task.latencies = [d + self._write_time(operands["dst"]) for d in task.durations]
                self._arrive(task, cut.points, at)
            else:
                task.resources = [(self._resource(("vector", core), Resource("vector", core)), 1)]
                write = self._write_time(operands["dst"])
                task.latencies = [max(d, m.vector) + write for d in task.durations]
        sources = [o for o in step.instruction.operands if o.kind == "agu" and o.access in ("r", "base")]
        if any(self._space(operands[o.name]) != SPACE_ACC for o in sources):
            task.lead = m.buffer_read
        self._touch(task, self._operand_accesses(step, cut))

    def _task(self, mnemonic: str, core: int, at: int, points: IntArray) -> Task:
        task = Task(mnemonic, core, at, UNITS.get(mnemonic, "vector"), points=points)
        task.issued = self._issued[core, task.unit] * self.machine.clock
        self._issued[core, task.unit] += 1
        self._task_at[at] = len(self.tasks)
        self.tasks.append(task)
        return task

    def _product(self, task: Task, operands: dict[str, int], read_times: IntArray) -> None:
        """A pixel takes as long as the slowest of reads, conversions and the transfer of its inputs."""
        m, tile = self.machine, operands["tile"]
        use = self.tiles.index(operands)
        task.tile, task.use = tile, use
        key = task.core, operands["src"], self.row_keys[tile]
        if key not in self._fetched:  # tiles of one core with the same inputs take them off the bus together
            self._fetched.add(key)
            task.fetched = int(self.tiles.rows[tile]) * int(self.program.sizes.item_bytes[operands["src"]])
        convert, fetch = int(self.tiles.converter_time[use]), m.bytes_time(task.fetched, m.buffer_rate)
        points = task.points
        times = np.maximum(np.maximum(read_times, points * convert), np.maximum(points * fetch, m.clock))
        task.durations = times.tolist()
        task.latencies = (times + (m.adc + m.shift_add + m.output)).tolist()
        task.resources = [(index, 1) for index in self.crossbars.get(tile, [])]
        pixel = max(int(read_times[0]) // int(points[0]), convert, fetch, 1)
        if m.adc_crossbars > 1:
            for bank, conversions in self.tiles.banks[use]:
                need = -(-conversions // m.adc_per_bank) * m.conversion
                index = self._resource(("adc", bank), Resource("adc", task.core, RATE))
                task.resources.append((index, max(1, need * RATE // pixel)))
        if fetch:
            index = self._resource(("buffer", task.core), Resource("buffer", task.core, RATE))
            task.resources.append((index, max(1, fetch * RATE // pixel)))
        if not self.crossbars.get(tile):  # a tile without crossbars: nothing to hold
            task.resources.append((self._resource(("empty", tile), Resource("crossbar", task.core)), 1))

    def _send(self, task: Task, target: int, sizes: IntArray) -> None:
        m, core = self.machine, task.core
        way = task.route = route(m, core, target)
        task.resources = [(self._resource(("send", core), Resource("send", core)), 1)]
        for link in way.mesh:
            task.resources.append((self._resource(("mesh", link), Resource("mesh", -1, mesh=link)), 1))
        for chip in way.chips:
            task.resources.append((self._links(chip), 1))
        if way.chips:
            times = self._link_times(sizes)
            task.durations = [max(d, t) for d, t in zip(task.durations, times, strict=True)]
        task.latencies = [d + way.routers * m.hop for d in task.durations]

    def _arrive(self, task: Task, points: IntArray, at: int) -> None:
        """A chunk waits for the chunk of the `send` that carries its last element."""
        sender = self._task_at[self.pairs[at]]
        sent = np.cumsum(self.tasks[sender].points)
        task.waits.append((sender, np.searchsorted(sent, np.cumsum(points)).tolist()))

    def _host(self, core: int, at: int, operands: dict[str, int]) -> None:
        """A roofline: all floating-point operations, or all bytes in and out over the links, whichever takes longer."""
        m, pool = self.machine, self.program.sections["pool_i64"]
        sources = pool[operands["first_in"] : operands["first_in"] + operands["n_in"]].tolist()
        targets = pool[operands["first_out"] : operands["first_out"] + operands["n_out"]].tolist()
        sizes = self.program.sizes
        moved = sum(int(sizes.points[agu] * sizes.item_bytes[agu]) for agu in [*sources, *targets])
        info = self.program.metadata["host"][operands["region"]]
        task = self._task("host", core, at, np.ones(1, np.int64))
        task.label = info["name"]
        compute = m.bytes_time(info["flops"], m.host_rate)
        time = max(m.host_launch + max(compute, m.bytes_time(moved, m.link_rate)), m.clock)
        task.durations = task.latencies = [time]
        task.fetched = moved
        task.resources = [(self._resource(("host",), Resource("host", -1)), 1)]
        accesses = []
        for agus, mode in ((sources, chunks.READ), (targets, chunks.WRITE)):
            for agu in agus:
                counts = self._agu(agu)[2]
                accesses.append(self._access(agu, Partition(counts, 0, (0,)), mode))
        self._touch(task, accesses)

    # -- order

    def _operand_accesses(self, step: Decoded, cut: Partition) -> list[Access]:
        operands, found = step.operands, []
        for operand in step.instruction.operands:
            if operand.kind != "agu":
                continue
            agu = operands[operand.name]
            low = high = 0
            mode = {"w": chunks.WRITE, "rw": chunks.ACCUMULATE}.get(operand.access, chunks.READ)
            if operand.access == "base":
                found.append(self._gathered(agu, operands["table"], cut))
                continue
            if step.mnemonic == "mvm":
                low, high = (self.row_span if operand.access == "r" else self.column_span)[operands["tile"]]
            elif "window" in operands and operand.access == "r":
                _, offset, counts, strides = self._agu(operands["window"])
                reach = [(c - 1) * s for c, s in zip(counts, strides, strict=True)]
                low, high = offset + sum(min(r, 0) for r in reach), offset + sum(max(r, 0) for r in reach)
            found.append(self._access(agu, cut, mode, low, high))
        return found

    def _gathered(self, agu: int, table: int, cut: Partition) -> Access:
        """What a `gather` reads: from the lowest to the highest address in each chunk's part of the table."""
        buffer, offset = self.agus[agu][:2]
        ends = np.cumsum(cut.points)
        firsts = ends - cut.points
        addresses = self.program.sections["pool_i64"][table : table + int(ends[-1])].astype(np.int64) + offset
        # the chunks of a gather are consecutive elements: rows of its destination in order
        return Access(
            buffer, chunks.READ, np.minimum.reduceat(addresses, firsts), np.maximum.reduceat(addresses, firsts)
        )

    def _touch(self, task: Task, accesses: list[Access]) -> None:
        """Wait for earlier tasks that touch what this one touches."""
        index = len(self.tasks) - 1
        needs: dict[int, list[int]] = {}
        for access in accesses:
            for earlier, other in self._accesses.get(access.buffer, ()):
                if access.conflicts(other):
                    need = self._need(access, other)
                    if need is not None:
                        known = needs.get(earlier)
                        needs[earlier] = (
                            need if known is None else [max(a, b) for a, b in zip(known, need, strict=True)]
                        )
        task.waits += list(needs.items())
        for access in accesses:
            self._accesses.setdefault(access.buffer, []).append((index, access))

    def _need(self, later: Access, earlier: Access) -> list[int] | None:
        # Ranges are made once for each pattern and kept, so their identity stands for their contents.
        key = id(later.low), id(earlier.low)
        if key not in self._needs:
            last = chunks.last_overlap(later, earlier)
            self._needs[key] = last.tolist() if (last >= 0).any() else None
        return self._needs[key]

    # -- parts

    def _agu(self, index: int) -> tuple[int, int, tuple[int, ...], tuple[int, ...]]:
        """(buffer, offset, counts, strides)."""
        row = self.agus[index]
        return row[0], row[1], tuple(row[2::2]), tuple(row[3::2])

    def _streams(self, step: Decoded) -> list[int]:
        """The address generators that run in step, the first of which decides how the instruction is cut."""
        o = step.operands
        return [o[x.name] for x in step.instruction.operands if x.kind == "agu" and x.access != "base"]

    def _cut(self, agu: int, pixels_only: bool) -> Partition:
        buffer, offset, counts, strides = self._agu(agu)
        pitch = self.pitches.get(buffer, 0)
        if not pixels_only and pitch and chunks.is_flat(counts, strides):
            return self._flat(counts, offset, pitch)
        return self._partition(counts, pixels_only)

    def _new_ranges(self, agu: int, cut: Partition, low: int, high: int) -> tuple[IntArray, IntArray]:
        _, offset, _, strides = self._agu(agu)
        return cut.ranges(offset, strides, low, high)

    def _access(self, agu: int, cut: Partition, mode: int, low: int = 0, high: int = 0) -> Access:
        first, last = self._ranges(agu, cut, low, high)
        return Access(self.agus[agu][0], mode, first, last)

    def _cycles(self, step: Decoded, points: IntArray, stream: int) -> IntArray:
        """Cycles of each chunk by the instruction table's formula, int64 [chunks]."""
        n = len(points)
        window = step.operands.get("window")
        size = int(self.program.sizes.points[window]) if window is not None else 1
        item = int(self.program.sizes.item_bytes[stream])
        columns: dict[str, Any] = {}
        for operand in step.instruction.operands:
            if operand.kind == "agu":
                columns[operand.name] = np.arange(n)
            else:
                value = n if operand.kind == "window" else step.operands[operand.name]
                columns[operand.name] = np.full(n, value)
        sizes: Any = _ChunkSizes(
            points=np.append(points, size),
            item_bytes=np.full(n + 1, item),
            reads=lambda tile, _first, _digits: self.tiles.reads[np.full_like(tile, self.tiles.index(step.operands))],
            hardware=self.program.hardware,
        )
        cycles = np.asarray(step.instruction.cycles(columns, sizes), np.int64)
        return np.broadcast_to(cycles, (n,))

    def _layer(self, step: Decoded) -> int:
        operands = step.operands
        if step.mnemonic == "mvm":
            return int(self.program.tile_layer[operands["tile"]])
        if "layer" in operands:
            return operands["layer"]
        return self.layer_of.get(self.agus[operands["src" if step.mnemonic == "send" else "dst"]][0], -1)

    def _space(self, agu: int) -> int:
        return self.buffers[self.agus[agu][0]][1]

    def _write_time(self, agu: int) -> int:
        return 0 if self._space(agu) == SPACE_ACC else self.machine.buffer_write

    def _link_times(self, sizes: IntArray) -> list[int]:
        m = self.machine
        return [max(m.clock, m.bytes_time(size, m.link_rate)) for size in sizes.tolist()]

    def _links(self, chip: int) -> int:
        return self._resource(("links", chip), Resource("links", -1))

    def _resource(self, key: Any, resource: Resource) -> int:
        if key not in self._resource_index:
            self._resource_index[key] = len(self.resources)
            self.resources.append(resource)
        return self._resource_index[key]


def _spans(table: IntArray) -> list[tuple[int, int]]:
    """Smallest and largest entry of each row of int [n, m] that is not negative; (0, 0) where there is none."""
    used = table >= 0
    low = np.where(used, table, np.iinfo(table.dtype).max).min(axis=1, initial=np.iinfo(table.dtype).max)
    high = table.max(axis=1, initial=-1)
    some = used.any(axis=1)
    return list(zip(np.where(some, low, 0).tolist(), np.where(some, high, 0).tolist(), strict=True))
