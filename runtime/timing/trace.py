"""A schedule as Chrome trace events (the JSON that Perfetto and chrome://tracing open).

One process for each core, with a track for each tile and each unit: what holds it, chunk by chunk. One process for each
layer, with a track for each pipeline stage of its first tile and of the instruction that finishes its results; in the
layer's first chunk the reads of the first pixel are drawn one by one. Times in the file are microseconds.

The format: "Trace Event Format", Google, 2016; only complete ("X") and metadata ("M") events are used.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from smec.ir.errors import SmecError
from smec.runtime.timing.engine import Schedule
from smec.runtime.timing.tasks import Task, TaskGraph

#: Chunks up to which each gets an event; beyond, each instruction does.
MOST_CHUNKS = 400_000

#: Reads of one pixel that are drawn at most.
_MOST_READS = 1024

_FS_PER_US = 1e9

#: Tracks of a layer's process, in the order of the pipeline.
STAGES = ("buffer read", "crossbar reads", "ADC", "shift-and-add", "output register", "vector unit", "buffer write")

Event = dict[str, Any]


def trace_document(graph: TaskGraph, schedule: Schedule) -> dict[str, Any]:
    """The trace as plain data."""
    return {
        "displayTimeUnit": "ns",
        "otherData": {"target": graph.machine.name, "program": graph.program.path},
        "traceEvents": [*_units(graph, schedule), *_pipelines(graph, schedule)],
    }


def write_trace(graph: TaskGraph, schedule: Schedule, path: str | os.PathLike[str]) -> None:
    """Write the trace to a file; SmecError if it cannot be written."""
    text = json.dumps(trace_document(graph, schedule), separators=(",", ":"))
    target = Path(path)
    beside = target.with_name(f".{target.name}.partial")
    try:
        beside.write_text(text, "utf-8")
        beside.replace(target)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise SmecError("cannot write the trace", location=str(path), found=error.strerror or error) from error


def _slice(name: str, process: int, track: int, start: int, end: int, **details: Any) -> Event:
    """A complete event; equal starts and ends are left to the caller."""
    return {
        "name": name,
        "ph": "X",
        "pid": process,
        "tid": track,
        "ts": start / _FS_PER_US,
        "dur": (end - start) / _FS_PER_US,
        "args": details,
    }


def _named(kind: str, process: int, track: int, name: str) -> Event:
    return {"name": kind, "ph": "M", "pid": process, "tid": track, "args": {"name": name}}


def _sorted(process: int) -> Event:
    return {**_named("process_sort_index", process, 0, ""), "args": {"sort_index": process}}


class _Tracks:
    """Numbers processes and tracks, and tells their names once."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._processes: dict[str, int] = {}
        self._tracks: dict[tuple[int, str], int] = {}

    def at(self, process: str, track: str) -> tuple[int, int]:
        """Numbers of a process and a track in it."""
        if process not in self._processes:
            pid = self._processes[process] = len(self._processes) + 1
            self.events += [_named("process_name", pid, 0, process), _sorted(pid)]
        pid = self._processes[process]
        if (pid, track) not in self._tracks:
            self._tracks[pid, track] = len(self._tracks) + 1
            self.events.append(_named("thread_name", pid, self._tracks[pid, track], track))
        return pid, self._tracks[pid, track]


def _place(graph: TaskGraph, task: Task) -> tuple[str, str]:
    """Process and track of a task."""
    if task.mnemonic == "mvm":
        layer = graph.layers[task.layer]
        first = graph.program.metadata["layers"][task.layer]["tile_first"]
        return f"core {task.core}", f"{layer}, tile {task.tile - first}"
    if task.unit == "links":
        return "host", f"links of chip {graph.machine.chip_of(task.core)}"
    if task.unit == "host":
        return "host", "host regions"
    return f"core {task.core}", {"vector": "vector unit"}.get(task.unit, task.unit)


def _title(graph: TaskGraph, task: Task) -> str:
    of = task.label or (graph.layers[task.layer] if task.layer >= 0 else "")
    return f"{task.mnemonic} {of}".rstrip()


def _units(graph: TaskGraph, schedule: Schedule) -> Iterator[Event]:
    """What holds each tile and each unit."""
    tracks, known = _Tracks(), 0
    whole = sum(len(starts) for starts in schedule.starts) > MOST_CHUNKS
    for index, starts in enumerate(schedule.starts):
        if not starts:
            continue
        task = graph.tasks[index % len(graph.tasks)]
        pid, tid = tracks.at(*_place(graph, task))
        yield from tracks.events[known:]
        known = len(tracks.events)
        name, image = _title(graph, task), index // len(graph.tasks)
        if whole:
            end = starts[-1] + task.durations[-1]
            yield _slice(name, pid, tid, starts[0], end, image=image, chunks=task.chunks)
            continue
        for chunk, (start, duration) in enumerate(zip(starts, task.durations, strict=True)):
            points = int(task.points[chunk])
            yield _slice(name, pid, tid, start, start + duration, image=image, chunk=chunk, points=points)


def _pipelines(graph: TaskGraph, schedule: Schedule) -> Iterator[Event]:
    """The stages of each layer in the first image."""
    products: dict[int, int] = {}
    finishes: dict[int, int] = {}
    for index, task in enumerate(graph.tasks):
        if task.mnemonic == "mvm":
            products.setdefault(task.layer, index)
        elif task.mnemonic in ("requant", "dequant"):
            finishes.setdefault(task.layer, index)
    for layer, index in products.items():
        pid = 1_000_000 + layer
        yield _named("process_name", pid, 0, f"pipeline of {graph.layers[layer]}")
        yield _sorted(pid)
        for track, stage in enumerate(STAGES):
            yield _named("thread_name", pid, track, stage)
        yield from _product_stages(graph, schedule, index, pid)
        if layer in finishes:
            yield from _finish_stages(graph, schedule, finishes[layer], pid)


def _product_stages(graph: TaskGraph, schedule: Schedule, index: int, pid: int) -> Iterator[Event]:
    task, m = graph.tasks[index], graph.machine
    free = [0] * len(STAGES)
    for chunk, (start, duration) in enumerate(zip(schedule.starts[index], task.durations, strict=True)):
        end = start + duration
        spans = [
            (start - task.lead, start),
            (start, end),
            (start + m.adc, end + m.adc),
            (start + m.adc + m.shift_add, end + m.adc + m.shift_add),
            (end + m.adc + m.shift_add, end + m.adc + m.shift_add + m.output),
        ]
        yield from _stages(spans, 0, free, pid, chunk)
        if chunk == 0:
            reads = max((n for _, n in graph.tiles.arrays[task.use]), default=0)
            for read in range(min(reads, _MOST_READS)):
                at = start + read * m.read
                yield _slice(f"read {read + 1}", pid, 1, at, min(at + m.read, end), read=read + 1, of=reads)


def _finish_stages(graph: TaskGraph, schedule: Schedule, index: int, pid: int) -> Iterator[Event]:
    task, m = graph.tasks[index], graph.machine
    free = [0] * len(STAGES)
    for chunk, (start, duration) in enumerate(zip(schedule.starts[index], task.durations, strict=True)):
        works = start + max(duration, m.vector)
        yield from _stages([(start, works), (works, start + task.latencies[chunk])], 5, free, pid, chunk)


def _stages(spans: list[tuple[int, int]], first: int, free: list[int], pid: int, chunk: int) -> Iterator[Event]:
    """Slices of one chunk, without overlaps on a track: one that overlaps its predecessor begins where that ends."""
    for stage, (start, end) in enumerate(spans, first):
        start = max(start, free[stage])
        if end > start:
            yield _slice(STAGES[stage], pid, stage, start, end, chunk=chunk)
            free[stage] = end
