"""The program as users meet it: `runtime`'s container with `simulate`, which takes files, arrays and labels."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from smec.data import Data, DataSource, load_data, ports_of_program, random_data, top1
from smec.runtime import container
from smec.runtime.simulator import SimResult, simulate

if TYPE_CHECKING:
    from smec.driver import Progress

#: Images of random inputs, where nothing better is at hand.
RANDOM_IMAGES = 4


@dataclass(frozen=True)
class Simulation(SimResult):
    """What a run gives: `smec.runtime.simulator.SimResult`, and

    inputs: where the images come from, in words. top1: percent of images whose largest score, in the first output, is
    their label's; None without labels.
    """

    inputs: str = ""
    top1: float | None = None

    @property
    def images_per_s(self) -> float:
        """Simulation speed; start-up and loading do not count."""
        return self.images / self.wall_s if self.wall_s else 0.0


class Program(container.Program):
    """A compiled program: `load`, `simulate`, `save`; `sections` and `metadata` hold what is in it."""

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Program:
        """Map and check a program file.

        Raises:
            SmecError: it says what is wrong with the file.
        """
        return Program.of(container.Program.load(path))

    @staticmethod
    def of(program: container.Program) -> Program:
        """The same program, sharing its arrays, as this class."""
        return Program(program.sections, program.metadata, program.path)

    def replace_section(self, name: str, array: np.ndarray) -> Program:
        """A new program with one section replaced (or added); it is not validated."""
        return Program.of(super().replace_section(name, array))

    def simulate(
        self,
        inputs: DataSource | Data | None = None,
        *,
        engine: str = "auto",
        batch: int | None = None,
        trace_accumulators: bool = False,
        progress: Progress | None = None,
    ) -> Simulation:
        """Run images.

        Args:
            inputs: an `.npz` file, arrays by input name, or the array of a one-input model (see `smec.data.load_data`);
                with an array `labels`, accuracy is computed. Default: the sample in the program, else seeded random
                inputs.
            engine: "auto", "exact" or "adc".
            batch: images at a time; default: by memory.
            trace_accumulators: keep every layer's accumulators.
            progress: called as progress(what, done, total).

        Raises:
            SmecError: data that does not fit, or an engine that cannot compute a layer exactly.
        """
        data = self.inputs(inputs)
        step: Callable[[int, int], None] | None = None
        if progress is not None:
            tell = progress

            def step(done: int, total: int) -> None:
                tell("simulate", done, total)

        feed = {p.name: p.for_engine(data.inputs[p.name]) for p in ports_of_program(self)}
        found = simulate(self, feed, engine, batch, trace_accumulators=trace_accumulators, progress=step)
        result = replace(found, outputs=self._stacked(found.outputs))
        accuracy = None
        if data.labels is not None and result.outputs:
            accuracy = top1(next(iter(result.outputs.values())), data.labels)
        return Simulation(**vars(result), inputs=data.source, top1=accuracy)

    def _stacked(self, outputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs whose leading axis is the model's fixed batch, with the runs stacked along it."""
        fixed = {port["name"] for port in self.metadata["outputs"] if port.get("fixed_batch")}
        return {n: a.reshape(-1, *a.shape[2:]) if n in fixed else a for n, a in outputs.items()}

    def inputs(self, source: DataSource | Data | None = None, images: int | None = None) -> Data:
        """The given data, else the sample in the program, else seeded random inputs; at most `images` of them."""
        ports = ports_of_program(self)
        if isinstance(source, Data):
            data = source
        elif source is not None:
            data = load_data(source, ports)
        else:
            data = self._sample() or random_data(ports, min(images or RANDOM_IMAGES, RANDOM_IMAGES))
        return data if images is None else data.first(images, ports)

    def _sample(self) -> Data | None:
        ports = ports_of_program(self)
        given = {p.name: self.sections[f"sample.{p.name}"] for p in ports if f"sample.{p.name}" in self.sections}
        if not ports or len(given) < len(ports):
            return None
        stacked = {p.name: given[p.name].reshape(-1, *p.shape[1:]) if p.samples > 1 else given[p.name] for p in ports}
        found = load_data(stacked, ports)
        return replace(found, source="the sample in the program")
