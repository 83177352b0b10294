"""Events of each component and layer, their energy, and area.

Counts are exact integers; energy is count times the energy of one event, plus leakage for as long as an image takes in
steady state.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from smec.ir.isa_sections import SPACE_ACC
from smec.runtime.container import Program
from smec.runtime.timing.machine import FS_PER_NS, PARTS, Machine
from smec.runtime.timing.tasks import Task, TaskGraph

#: Components with events, in the order of reports.
COMPONENTS = (
    "crossbar", "dac", "sample_hold", "adc", "shift_add", "input_register", "output_register", "buffer", "bus",
    "network", "sigmoid", "pool", "accumulate", "core_register", "links",
)  # fmt: skip

#: The part of the vector unit that each instruction works in, and whether it handles every element of a window.
VECTOR_UNITS = {
    "requant": "sigmoid",
    "dequant": "sigmoid",
    "quantize": "sigmoid",
    "dequantize": "sigmoid",
    "rescale": "sigmoid",
    "lut": "sigmoid",
    "mul": "sigmoid",
    "add": "pool",
    "maxpool": "pool",
    "avgpool": "pool",
    "accadd": "accumulate",
}

#: Instructions that only move data.
MOVES = ("init", "copy", "gather", "fill", "send", "recv")

#: A component's events in one layer; -1 is what belongs to no layer.
Events = Counter[tuple[str, int]]


def events(graph: TaskGraph) -> Events:
    """Events of one image by (component, layer).

    crossbar: cells read. dac, input_register: digits on rows. sample_hold, adc, shift_add, output_register: reads of a
    column. buffer, bus, links: bytes. network: bytes times routers. sigmoid, pool, accumulate: elements (of windows
    where there are some). core_register: values.
    """
    counts: Events = Counter()
    moved = _Moved(graph.program)
    for task in graph.tasks:
        for component, number in _of_task(graph, task, moved).items():
            if number:
                counts[component, task.layer] += number
    return counts


class _Moved:
    """Elements and bytes behind an instruction's operands."""

    def __init__(self, program: Program) -> None:
        self.points: list[int] = program.sizes.points.tolist()
        self.item: list[int] = program.sizes.item_bytes.tolist()
        space = np.asarray(program.sections["buffers"])[:, 1]
        self.space: list[int] = space[np.asarray(program.sections["agus"])[:, 0]].tolist()
        self.code = np.asarray(program.sections["code"])

    def split(self, agu: int, elements: int) -> dict[str, int]:
        """Elements of an operand as what they cost: values of the core's register or bytes of its buffer."""
        if self.space[agu] == SPACE_ACC:
            return {"core_register": elements}
        return {"buffer": elements * self.item[agu]}


def _of_task(graph: TaskGraph, task: Task, moved: _Moved) -> Counter[str]:
    points = int(task.points.sum())
    counts: Counter[str] = Counter()
    if task.mnemonic in ("input", "output"):
        ports = graph.program.metadata["inputs" if task.mnemonic == "input" else "outputs"]
        size = points * next(moved.item[port["agu"]] for port in ports if port["name"] == task.label)
        return Counter({"links": size, "buffer": size})
    if task.mnemonic == "host":
        return Counter({"links": task.fetched, "buffer": task.fetched})
    if task.mnemonic == "mvm":
        tiles, use = graph.tiles, task.use
        reads = points * int(tiles.conversions[use])
        counts.update(dict.fromkeys(("sample_hold", "adc", "shift_add", "output_register"), reads))
        counts.update(dict.fromkeys(("dac", "input_register"), points * int(tiles.drives[use])))
        counts.update(dict.fromkeys(("buffer", "bus"), points * task.fetched))
        counts["crossbar"] = points * int(tiles.cells[use])
        counts["core_register"] = points * int(tiles.columns[use])
        return counts
    operands = task.operands
    streams = task.streams
    window = moved.points[operands["window"]] if "window" in operands else 1
    for name, agu, reads_window in streams:
        counts.update(moved.split(agu, points * (window if reads_window else 1)))
        if name == "src" and task.route is not None:
            size = points * moved.item[agu]
            counts["network"] = size * task.route.routers
            counts["links"] = size * len(task.route.chips)
    if task.mnemonic in VECTOR_UNITS:
        counts[VECTOR_UNITS[task.mnemonic]] += points * window
    return counts


@dataclass(frozen=True)
class Bill:
    """Energy of one image, pJ.

    dynamic: by (component, layer), layer -1 for what belongs to none. leakage: by part.
    """

    dynamic: Mapping[tuple[str, int], float]
    leakage: Mapping[str, float]

    @property
    def total(self) -> float:
        """All of it."""
        return sum(self.dynamic.values()) + sum(self.leakage.values())

    @property
    def by_component(self) -> dict[str, float]:
        """By component, leakage as one of them."""
        out = dict.fromkeys(COMPONENTS, 0.0)
        for (component, _), value in self.dynamic.items():
            out[component] += value
        return out | {"leakage": sum(self.leakage.values())}

    def of_layer(self, layer: int) -> dict[str, float]:
        """Of one layer by component, leakage left out."""
        return {component: self.dynamic.get((component, layer), 0.0) for component in COMPONENTS}


def bill(machine: Machine, counts: Events, cores: int, interval: int) -> Bill:
    """Energy of an image.

    Args:
        machine: for the energy of an event.
        counts: see `events`.
        cores: cores in use; they leak.
        interval: time from one image to the next, fs.
    """
    dynamic = {key: number * machine.energy[key[0]] for key, number in counts.items()}
    leakage = {part: cores * machine.leakage_mw[part] * interval / FS_PER_NS for part in PARTS}
    return Bill(dynamic, leakage)


def areas(machine: Machine, cores: int, chips: int) -> dict[str, float]:
    """Area of the cores in use and of their chips' links by part, mm2."""
    return {part: cores * machine.area[part] for part in PARTS} | {"links": chips * machine.area["links"]}
