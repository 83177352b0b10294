"""What timing says of a program: latency, throughput, what limits it, energy, area and utilisation."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from smec.runtime.container import Program
from smec.runtime.timing.energy import Bill, Events, areas, bill, events
from smec.runtime.timing.engine import Schedule, schedule
from smec.runtime.timing.machine import FS_PER_NS, Machine
from smec.runtime.timing.tasks import Resource, Task, TaskGraph, task_graph

#: Kinds of resources by the utilisation that they belong to.
_KINDS = {"crossbar": "crossbars", "vector": "vector", "host": "host", "links": "links", "mesh": "network"}


@dataclass(frozen=True)
class Bottleneck:
    """What limits throughput.

    kind, core: of the resource (core -1: no core's). layer: that uses it most, None for none. time: fs an image.
    """

    kind: str
    core: int
    layer: str | None
    time: int


@dataclass(frozen=True)
class TimingReport:
    """Times are fs, energies pJ, areas mm2; see `docs/timing.md`.

    graph, schedule: the tasks and when they ran. interval: from one image to the next in steady state. counts: events.
    """

    graph: TaskGraph
    schedule: Schedule
    interval: int
    bottleneck: Bottleneck
    counts: Events
    bill: Bill
    cores: int
    chips: int

    @property
    def latency_ns(self) -> float:
        """From the first byte of the first image to the last of its outputs."""
        return self.schedule.end[0] / FS_PER_NS

    @property
    def throughput_images_per_s(self) -> float:
        """Images a second, one after the other without a gap."""
        return 1e15 / self.interval

    @property
    def energy_pj(self) -> float:
        """Of one image, in steady state."""
        return self.bill.total

    @cached_property
    def area_by_component(self) -> dict[str, float]:
        """Of all cores in use and the links of their chips."""
        return areas(self.graph.machine, self.cores, self.chips)

    @property
    def area_mm2(self) -> float:
        """Of all cores in use and the links of their chips."""
        return sum(self.area_by_component.values())

    def write_trace(self, path: str | os.PathLike[str]) -> None:
        """Write the schedule as Chrome trace events (JSON), which Perfetto and chrome://tracing open.

        Raises:
            SmecError: the file cannot be written.
        """
        from smec.runtime.timing.trace import write_trace

        write_trace(self.graph, self.schedule, path)

    def summary(self) -> dict[str, Any]:
        """The figures that other documents show too: names of DESIGN 10."""
        return {
            "latency_ns": self.latency_ns,
            "throughput_images_per_s": self.throughput_images_per_s,
            "energy_pj": self.energy_pj,
            "area_mm2": self.area_mm2,
        }

    def as_document(self) -> dict[str, Any]:
        """All of it as plain data, for JSON."""
        b = self.bottleneck
        write = self.graph.machine.write_us
        per_core = Counter(
            np.unique(np.asarray(self.graph.program.sections["xbar_place"])[:, :2], axis=0)[:, 0].tolist()
        )
        return {
            **self.summary(),
            "power_w": self.energy_pj / self.interval * FS_PER_NS / 1e3,
            "interval_ns": self.interval / FS_PER_NS,
            "bottleneck": {"resource": b.kind, "core": b.core, "layer": b.layer, "busy_ns": b.time / FS_PER_NS},
            "energy_by_component_pj": self.bill.by_component,
            "area_by_component_mm2": self.area_by_component,
            "utilisation": self.utilisation,
            "cores_in_use": self.cores,
            "chips": self.chips,
            "host": self._host(),
            # crossbars of a core are written one after the other, cores at the same time
            "write_us": None if write is None else write * max(per_core.values(), default=0),
            "timing_layers": self.layers,
        }

    def _host(self) -> dict[str, Any]:
        """Host regions: timed by a roofline, without energy or area."""
        times = [sum(task.durations) for task in self.graph.tasks if task.mnemonic == "host"]
        return {"model": "roofline", "regions": len(times), "busy_ns": sum(times) / FS_PER_NS}

    @cached_property
    def utilisation(self) -> dict[str, dict[str, float]]:
        """Share of the time in which resources in use are busy, their mean: in steady state, and in the first image.

        crossbars: physical ones, reading. adcs: converting. vector: vector units. network: mesh links and the cores'
        ports. links: between chips and to the host. host.
        """
        busy, units = self._busy()
        out = {}
        for name, time in busy.items():
            whole = units[name]
            out[name] = {
                "steady": time / (whole * self.interval) if whole else 0.0,
                "first_image": time / (whole * self.schedule.end[0]) if whole and self.schedule.end[0] else 0.0,
            }
        return out

    def _busy(self) -> tuple[dict[str, int], dict[str, int]]:
        """(busy time of one image, number of units in use) of each kind."""
        graph, machine = self.graph, self.graph.machine
        busy = dict.fromkeys(("crossbars", "adcs", "vector", "network", "links", "host"), 0)
        units = dict.fromkeys(busy, 0)
        reading: Counter[int] = Counter()
        banks: set[int] = set()
        for task in graph.tasks:
            time = sum(task.durations)
            if task.mnemonic == "mvm":
                points = int(task.points.sum())
                for array, reads in graph.tiles.arrays[task.use]:
                    reading[array] += points * reads * machine.read
                banks.update(bank for bank, _ in graph.tiles.banks[task.use])
                busy["adcs"] += points * int(graph.tiles.conversions[task.use]) * machine.conversion
                continue
            for index, _ in task.resources:
                kind = graph.resources[index].kind
                busy[_KINDS.get(kind, "network")] += time
        for resource in graph.resources:
            if resource.kind not in ("crossbar", "adc", "buffer"):
                units[_KINDS.get(resource.kind, "network")] += 1
        busy["crossbars"], units["crossbars"] = sum(reading.values()), len(reading)
        units["adcs"] = len(banks) * machine.adc_per_bank
        return busy, units

    @cached_property
    def layers(self) -> list[dict[str, Any]]:
        """One entry a layer, in order, and a last one, named None, for what belongs to none."""
        graph, count = self.graph, len(self.graph.layers)
        crossbars = layer_crossbars(graph.program)
        share = sum(self.area_by_component.values()) - self.area_by_component["links"]
        array = share / (self.cores * graph.machine.crossbars_per_core) if self.cores else 0.0
        spans = self._spans()
        out = []
        for layer in [*range(count), -1]:
            start, end, busiest = spans.get(layer, (0, 0, 0))
            energy = self.bill.of_layer(layer)
            out.append(
                {
                    "name": graph.layers[layer] if layer >= 0 else None,
                    "start_ns": start / FS_PER_NS,
                    "end_ns": end / FS_PER_NS,
                    "interval_ns": busiest / FS_PER_NS,
                    "energy_pj": sum(energy.values()),
                    "energy_by_component_pj": {name: value for name, value in energy.items() if value},
                    "crossbars": crossbars[layer] if layer >= 0 else 0.0,
                    "area_mm2": array * crossbars[layer] if layer >= 0 else self.area_mm2 - array * sum(crossbars),
                }
            )
        return out

    def _spans(self) -> dict[int, tuple[int, int, int]]:
        """First start, last result in the first image, and time on its busiest resource, of each layer."""
        spans: dict[int, tuple[int, int]] = {}
        loads: dict[tuple[int, int], int] = defaultdict(int)
        for index, task in enumerate(self.graph.tasks):
            if not task.chunks:
                continue
            first, last = self.schedule.starts[index][0], self.schedule.done[index][-1]
            known = spans.get(task.layer, (first, last))
            spans[task.layer] = min(first, known[0]), max(last, known[1])
            for resource, demand in task.resources:
                capacity = self.graph.resources[resource].capacity
                loads[task.layer, resource] += sum(task.durations) * demand // capacity
        busiest: dict[int, int] = defaultdict(int)
        for (layer, _), load in loads.items():
            busiest[layer] = max(busiest[layer], load)
        return {layer: (first, last, busiest[layer]) for layer, (first, last) in spans.items()}


def layer_crossbars(program: Program) -> list[float]:
    """Physical crossbars of each layer; one that several share counts for each by the cells of its blocks."""
    s = program.sections
    tile = np.repeat(np.arange(len(s["tile_xbars"])), np.asarray(s["tile_xbars"])[:, 1])
    size = (s["tile_rows"] >= 0).sum(axis=1) * (s["tile_cols"] >= 0).sum(axis=1)
    phys, cells = np.asarray(s["xbar_phys"]), size[tile].astype(np.float64)
    total = np.bincount(phys, cells, minlength=len(s["cells"])) if len(phys) else np.zeros(0)
    out = np.zeros(len(program.metadata["layers"]))
    np.add.at(out, program.tile_layer[tile], cells / np.maximum(total[phys], 1))
    return [float(n) for n in out]


def time_program(program: Program, images: int = 1) -> TimingReport:
    """Time a program on the target that it was compiled for.

    Args:
        program: a validated program.
        images: images in the schedule, all offered at once; reports other than the trace do not depend on it.

    Raises:
        SmecError: the program's target describes no parts, or its streams deadlock.
    """
    machine = Machine.from_target(program.metadata["target"])
    graph = task_graph(program, machine)
    planned = schedule(graph, images)
    interval, bottleneck = _bottleneck(graph)
    counts = events(graph)
    used = _cores(graph)
    chips = len({machine.chip_of(core) for core in used})
    energy = bill(machine, counts, len(used), interval)
    return TimingReport(graph, planned, interval, bottleneck, counts, energy, len(used), chips)


def _cores(graph: TaskGraph) -> set[int]:
    """Cores that have something to do, or hold crossbars."""
    place = np.asarray(graph.program.sections["xbar_place"])
    return {task.core for task in graph.tasks} | {int(core) for core in np.unique(place[:, 0])}


def _bottleneck(graph: TaskGraph) -> tuple[int, Bottleneck]:
    """(least time from one image to the next, the resource that is busy all that time)."""
    loads: dict[int, dict[int, int]] = defaultdict(lambda: defaultdict(int))
    for task in graph.tasks:
        for index, demand in task.resources:
            loads[index][task.layer] += sum(task.durations) * demand
    best, chosen = 1, Bottleneck("none", -1, None, 0)
    for index, by_layer in loads.items():
        resource = graph.resources[index]
        load = -(-sum(by_layer.values()) // resource.capacity)
        if load > best:
            best, chosen = load, _named(graph, resource, by_layer, load)
    return best, chosen


def _named(graph: TaskGraph, resource: Resource, by_layer: Mapping[int, int], load: int) -> Bottleneck:
    layer = max(by_layer, key=lambda key: (by_layer[key], -key))
    return Bottleneck(resource.kind, resource.core, graph.layers[layer] if layer >= 0 else None, load)


__all__ = ["Bottleneck", "Task", "TimingReport", "layer_crossbars", "time_program"]
