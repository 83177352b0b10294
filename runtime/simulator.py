"""Runs a program on images, and counts its cycles.

`Simulator` holds what is prepared once for a program (the plan, the engines' weights); `simulate` is the one-call
form, which keeps the simulators of recent programs.
"""

from __future__ import annotations

import math
import threading
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from smec.ir.errors import SmecError
from smec.ir.isa_sections import group_reads, reads_within, tile_of_crossbar
from smec.ir.isa_table import by_instruction
from smec.ir.linear_algebra import single_threaded_blas
from smec.runtime.arrays import Array, IntArray
from smec.runtime.container import Program
from smec.runtime.engines import check_engine, prepare_units
from smec.runtime.metadata import PortInfo
from smec.runtime.plan import Plan
from smec.runtime.steps import FinishStep, State, Step
from smec.runtime.threads import cores, shared_workers

#: Memory that the images of one batch may take, and the most images, where the caller does not say.
_BATCH_BYTES = 128 << 20
_BATCH_IMAGES = 256

#: Where a program keeps its simulator: an attribute of its own, so that they go together.
_HELD = "_smec_simulator"

#: Called after each step of each batch: (step, images, seconds).
Trace = Callable[[Step, int, float], None]


@dataclass(frozen=True)
class SimResult:
    """What a run gives.

    outputs: by name, images stacked along each port's batch axis (a leading axis where it has none). saturated: ADC
    reads that exceeded the ADC's range, by layer name; reads: all ADC reads (one for each image, pixel, crossbar, row
    group, input digit and used column), by layer name. The engine `exact`, and `auto` for lossless row groups, make
    none of these reads one by one, but the counts are those of the hardware. engines: what computed each layer:
    "exact", "adc" or "mixed". images, batch: how many, and at a time. wall_s: seconds of simulation, without loading
    and preparing. accumulators: if traced, by layer name, what requantization read, int32 or int64 [images, pixels,
    channels], pixels in row-major order; several requantizations of a layer one after the other along the pixels.
    """

    outputs: dict[str, Array]
    saturated: dict[str, int]
    reads: dict[str, int]
    engine: str
    engines: dict[str, str]
    images: int
    batch: int
    wall_s: float
    accumulators: dict[str, Array] | None = None


class Simulator:
    """A program, ready to run.

    Args:
        program: is validated first.
        threads: worker threads; default: one for each processor that the process may use.

    Raises:
        SmecError: the program is malformed or its streams deadlock.
    """

    def __init__(self, program: Program, threads: int | None = None) -> None:
        program.validate()
        self.program = program
        self.plan = Plan(program)
        self.workers = shared_workers(threads or cores())
        self.layers = [layer["name"] for layer in program.metadata["layers"]]
        self._lock = threading.Lock()

    def run(
        self,
        inputs: Mapping[str, Array],
        engine: str = "auto",
        batch: int | None = None,
        trace: Trace | None = None,
        trace_accumulators: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> SimResult:
        """Run images through the program.

        Args:
            inputs: an array for each program input, images along the port's batch axis, or along a leading one.
            engine: "auto", "exact" or "adc".
            batch: images at a time; default: by memory.
            trace: called after each step.
            trace_accumulators: keep every layer's accumulators, in memory.
            progress: called after each batch with (images done, images).

        Raises:
            SmecError: wrong inputs, an engine that cannot compute a layer exactly, a host region that fails.
        """
        chosen = check_engine(engine)
        feed, images = self._feed(inputs)
        if batch is not None and batch < 1:
            raise SmecError("bad batch", expected="at least 1 image", found=batch)
        prepare_units(self.plan.units, chosen, self.program, self.plan.crossbars, self.workers)
        size = batch or max(1, min(_BATCH_IMAGES, _BATCH_BYTES // max(1, self.plan.bytes_per_image)))
        size = min(size, max(images, 1))
        saturated = np.zeros(len(self.program.sections["tile_xbars"]), np.int64)
        pieces: list[list[Array]] = []
        traced: list[dict[int, list[Array]]] = []
        started = time.perf_counter()
        with self._lock, single_threaded_blas():
            for first in range(0, images, size):
                state = State(min(size, images - first), chosen, self.workers, saturated)
                if trace_accumulators:
                    state.accumulators = {}
                    traced.append(state.accumulators)
                for step, values in zip(self.plan.inputs, feed, strict=True):
                    step.values = values[first : first + state.images]
                pieces.append(self._run_batch(state, trace))
                if progress is not None:
                    progress(first + state.images, images)
        wall = time.perf_counter() - started
        return SimResult(
            outputs=self._outputs(pieces),
            saturated=self._by_layer(saturated),
            reads=self._by_layer(self.reads_per_image * images),
            engine=chosen,
            engines=self._engines(chosen),
            images=images,
            batch=size,
            wall_s=wall,
            accumulators=self._accumulators(traced) if trace_accumulators else None,
        )

    def _run_batch(self, state: State, trace: Trace | None) -> list[Array]:
        """Run all steps; the program's outputs, [images, elements] each."""
        for step, releases in zip(self.plan.steps, self.plan.releases, strict=True):
            started = time.perf_counter()
            step.run(state)
            for value in releases:
                state.memory.pop(value, None)
            if trace is not None:
                trace(step, state.images, time.perf_counter() - started)
        return [
            r.geometry.view(state.memory[r.value]).reshape(state.images, r.geometry.points).copy()
            for r in self.plan.outputs
        ]

    # -- inputs and outputs

    def _feed(self, inputs: Mapping[str, Array]) -> tuple[list[Array], int]:
        """[images, elements] for each of the program's inputs, and the number of images."""
        ports = self.program.metadata["inputs"]
        if set(inputs) != {port["name"] for port in ports}:
            expected = ", ".join(port["name"] for port in ports) or "none"
            raise SmecError("wrong inputs", expected=expected, found=", ".join(inputs) or "none")
        feed = [_as_images(port, np.asarray(inputs[port["name"]])) for port in ports]
        for port, values, step in zip(ports, feed, self.plan.inputs, strict=True):
            top = step.targets[0].value.top
            if values.dtype.kind == "u" and values.size and values.max() > top:
                raise SmecError(f"input '{port['name']}' is out of range", expected=f"0 to {top}", found=values.max())
        counts = {len(values) for values in feed} or {1}
        if len(counts) > 1:
            raise SmecError("the inputs hold different numbers of images", expected="one number", found=sorted(counts))
        return feed, counts.pop()

    def _outputs(self, pieces: list[list[Array]]) -> dict[str, Array]:
        outputs = {}
        for index, port in enumerate(self.program.metadata["outputs"]):
            parts = [piece[index] for piece in pieces]
            values = np.concatenate(parts) if parts else np.zeros((0, math.prod(port["shape"])), port["dtype"])
            shape, axis = list(port["shape"]), port["batch"]
            if axis is None:
                outputs[port["name"]] = values.reshape(len(values), *shape)
            else:
                rest = shape[:axis] + shape[axis + 1 :]
                outputs[port["name"]] = np.moveaxis(values.reshape(len(values), *rest), 0, axis)
        return outputs

    # -- reports

    def _by_layer(self, per_tile: IntArray) -> dict[str, int]:
        totals = np.zeros(len(self.layers), np.int64)
        np.add.at(totals, self.program.tile_layer, per_tile)
        return dict(zip(self.layers, totals.tolist(), strict=True))

    @cached_property
    def reads_per_image(self) -> IntArray:
        """ADC reads of each tile for one image, int64 [tiles]."""
        return adc_reads(self.program)

    def _engines(self, engine: str) -> dict[str, str]:
        used: dict[str, set[str]] = {name: set() for name in self.layers}
        for step in self.plan.steps:
            if isinstance(step, FinishStep):
                for unit in step.reduction.units:
                    used[self.layers[step.layer]] |= {part.engine for part in unit.parts[engine]}
        default = "adc" if engine == "adc" else "exact"
        return {name: "mixed" if len(kinds) > 1 else next(iter(kinds), default) for name, kinds in used.items()}

    def _accumulators(self, traced: Sequence[Mapping[int, list[Array]]]) -> dict[str, Array]:
        found = {}
        for layer, name in enumerate(self.layers):
            batches = [np.concatenate(one[layer], axis=1) for one in traced if layer in one]
            if batches:
                found[name] = np.concatenate(batches)
        return found


def simulate(
    program: Program,
    inputs: Mapping[str, Array],
    engine: str = "auto",
    batch: int | None = None,
    trace: Trace | None = None,
    trace_accumulators: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> SimResult:
    """Run a program on images; see `Simulator.run`. What is prepared for a program is kept with it."""
    mark = _checksum(program)
    known: tuple[int, Simulator] | None = vars(program).get(_HELD)
    if known is None or known[0] != mark:
        known = mark, Simulator(program)
        vars(program)[_HELD] = known
    return known[1].run(inputs, engine, batch, trace, trace_accumulators, progress)


def _checksum(program: Program) -> int:
    """Changes with any section that a run depends on."""
    mark = 0
    for name in sorted(program.sections):
        if not name.startswith(("sample.", "weights.", "model")):
            array = np.ascontiguousarray(program.sections[name])
            mark = zlib.crc32(array.reshape(-1).view(np.uint8).data if array.size else b"", mark)
    return mark


def _as_images(port: PortInfo, values: Array) -> Array:
    """A user's array as [images, elements] in the port's dtype."""
    shape, axis = list(port["shape"]), port["batch"]
    if axis is not None and values.ndim == len(shape):
        values = np.moveaxis(values, axis, 0)
        wanted = shape[:axis] + shape[axis + 1 :]
    else:
        wanted = shape
    if values.ndim == 0 or list(values.shape[1:]) != wanted:
        text = ["N" if i == axis else str(n) for i, n in enumerate(shape)]
        raise SmecError(
            f"input '{port['name']}' has the wrong shape",
            expected=f"[{', '.join(text if axis is not None else ['N', *text])}]",
            found=list(values.shape),
        )
    if not np.can_cast(values.dtype, port["dtype"], "same_kind"):
        raise SmecError(f"input '{port['name']}' has the wrong dtype", expected=port["dtype"], found=values.dtype)
    flat = np.ascontiguousarray(values.reshape(len(values), math.prod(shape)), port["dtype"])
    # kernels are compiled for arrays that can be written to
    return flat if flat.flags.writeable else flat.copy()


def adc_reads(program: Program) -> IntArray:
    """ADC reads of each tile for one image, int64 [tiles]: pixels x (crossbars' read cycles over their row groups, or
    over those digits of them that are read) x used columns.
    """
    s = program.sections
    tiles = np.asarray(s["tile_xbars"])
    groups = group_reads(s, program.act_bits, program.hardware.dac_bits)
    owner = tile_of_crossbar(tiles, len(groups))
    columns = np.count_nonzero(np.asarray(s["tile_cols"]) >= 0, axis=1)
    reads = np.zeros(len(tiles), np.int64)
    for instruction, _, operands in by_instruction(s["code"]):
        if instruction.mnemonic != "mvm":
            continue
        pixels, first, digits = program.sizes.points[operands["dst"]], operands["first"], operands["digits"]
        for start, count in np.unique(np.stack([first, digits], axis=1), axis=0).tolist():
            cycles = np.zeros(len(tiles), np.int64)
            np.add.at(cycles, owner, reads_within(groups, start, count).sum(axis=1))
            mine = (first == start) & (digits == count)
            np.add.at(reads, operands["tile"][mine], pixels[mine] * cycles[operands["tile"][mine]])
    return np.asarray(reads * columns)


@dataclass(frozen=True)
class Cycles:
    """Cycles of one image, from the instruction table's formulas.

    read, clock int64 [layers, cores]: crossbar read cycles and clock cycles of each layer on each core; the last row
    (`layers` has one name less) is for instructions that belong to no layer.
    """

    layers: list[str]
    read: IntArray
    clock: IntArray

    @property
    def read_per_layer(self) -> dict[str, int]:
        """Read cycles by layer name: of the busiest core."""
        return dict(zip(self.layers, self.read.max(axis=1, initial=0).tolist(), strict=False))

    @property
    def per_core(self) -> list[tuple[int, int]]:
        """(read cycles, clock cycles) of each core."""
        return list(zip(self.read.sum(axis=0).tolist(), self.clock.sum(axis=0).tolist(), strict=True))


def cycles(program: Program) -> Cycles:
    """Count cycles by layer and core: `mvm` by its tile's layer, `requant` and `dequant` by their own, the rest by
    none.
    """
    table = program.sections["core_table"]
    layers = [layer["name"] for layer in program.metadata["layers"]]
    core = np.repeat(np.arange(len(table)), table[:, 1])
    counts = {unit: np.zeros((len(layers) + 1, len(table)), np.int64) for unit in ("read", "clock")}
    for instruction, at, operands in by_instruction(program.sections["code"]):
        layer: Any = np.full(len(at), len(layers))
        if "tile" in operands:
            layer = program.tile_layer[operands["tile"]]
        elif "layer" in operands:
            layer = operands["layer"]
        np.add.at(counts[instruction.unit], (layer, core[at]), program.cycles[at])
    return Cycles(layers, counts["read"], counts["clock"])
