"""Host regions: embedded ONNX models, run by onnxruntime."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from smec.ir.errors import SmecError
from smec.ir.onnx_session import exact_session, session_options
from smec.runtime.arrays import Array
from smec.runtime.container import Program
from smec.runtime.steps import State, Step
from smec.runtime.threads import cores


class HostRegion:
    """One region's model and session.

    A region that can take many images at once has a symbolic first axis in all its inputs and outputs, and says so in
    the program's metadata; any other runs image by image. SmecError if onnxruntime refuses the model or fails to run
    it.
    """

    def __init__(self, program: Program, index: int) -> None:
        self.index = index
        self.name: str = program.metadata["host"][index]["name"]
        options = session_options(cores())
        model = np.ascontiguousarray(program.sections[f"host.{index}"]).tobytes()
        try:
            self.session: Any = exact_session(model, options)
        except Exception as error:  # onnxruntime's exceptions have no common base
            raise self.failure("is refused by onnxruntime", error) from error
        self.inputs: list[tuple[str, list[Any]]] = [(i.name, list(i.shape)) for i in self.session.get_inputs()]
        self.outputs = len(self.session.get_outputs())
        shapes = [shape for _, shape in self.inputs] + [list(o.shape) for o in self.session.get_outputs()]
        symbolic = all(shape and not isinstance(shape[0], int) for shape in shapes)
        self.batchable = bool(program.metadata["host"][index]["batchable"]) and symbolic and bool(self.inputs)

    def failure(self, what: str, found: object) -> SmecError:
        """A diagnosed error of this region."""
        return SmecError(
            f"host region '{self.name}' (host.{self.index}) {what}", expected="a model that runs", found=found
        )

    def run(self, values: list[Array], images: int) -> Iterator[tuple[slice, list[Array]]]:
        """Results for ranges of images; values and results [images, elements]."""
        if len(values) != len(self.inputs):
            raise self.failure("does not fit its instruction", f"{len(values)} inputs instead of {len(self.inputs)}")
        step = images if self.batchable else 1
        for first in range(0, images, step):
            feed = {}
            for value, (name, shape) in zip(values, self.inputs, strict=True):
                sizes = [n if isinstance(n, int) else 1 for n in shape]
                if self.batchable:
                    sizes[0] = step
                try:
                    feed[name] = value[first : first + step].reshape(sizes)
                except ValueError as error:
                    raise self.failure("does not fit its instruction", error) from error
            try:
                results = self.session.run(None, feed)
            except Exception as error:  # as above
                raise self.failure("failed", error) from error
            yield slice(first, first + step), [np.asarray(result).reshape(step, -1) for result in results]


@dataclass(eq=False, kw_only=True)
class HostStep(Step):
    """Runs a host region on regions of values."""

    region: HostRegion
    sources: list[Any]

    def run(self, state: State) -> None:
        values = [s.geometry.view(state.memory[s.value]).reshape(state.images, -1) for s in self.sources]
        if self.region.outputs != len(self.targets):
            raise self.region.failure("does not fit its instruction", f"{len(self.targets)} outputs")
        results = [np.empty((state.images, t.geometry.points), t.value.dtype) for t in self.targets]
        for images, parts in self.region.run(values, state.images):
            for into, part in zip(results, parts, strict=True):
                if part.shape[1] != into.shape[1] or part.dtype != into.dtype:
                    raise self.region.failure(
                        "returned another array than its program expects", f"{part.dtype} [{part.shape[1]}] an image"
                    )
                into[images] = part
        # one after the other: two results may lie in one buffer
        for index, (target, result) in enumerate(zip(self.targets, results, strict=True)):
            array = self.open(state, index)
            target.geometry.store(array, result)
