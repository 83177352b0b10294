"""Does a pass change what a network computes? `smec opt --verify-each`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from smec.ir.dialects.builtin import HostOp, ModuleOp
from smec.ir.errors import SmecError
from smec.ir.images import image_arrays, random_arrays
from smec.ir.interpreter import interpret
from smec.opt import Watcher
from smec.passes.base import Pass, PassContext, origin

if TYPE_CHECKING:
    from smec.opt import Show

#: By how much results of host regions may differ where two programs of onnxruntime compute them.
HOST_TOLERANCE = 1e-5


@dataclass(frozen=True)
class Difference:
    """How two results differ in one output: `count` of `size` values, by at most `largest`; `where` is the first."""

    output: str
    count: int
    size: int
    largest: float
    where: tuple[int, ...]
    before: object
    after: object

    def __str__(self) -> str:
        share = f"{self.count} of {self.size} values"
        first = f"{self.before} became {self.after} at {list(self.where)}"
        return f"output '{self.output}' differs in {share} by up to {self.largest:.6g} ({first})"


def differences(
    before: Mapping[str, np.ndarray], after: Mapping[str, np.ndarray], tolerance: float
) -> list[Difference]:
    """The outputs in which two results (B, *shape) differ; relative and absolute tolerance, 0 is bit for bit."""
    found = []
    for name, first in before.items():
        second = after[name].reshape(first.shape)
        if first.dtype.kind == "f":
            same = np.isclose(first, second, rtol=tolerance, atol=tolerance, equal_nan=True)
            if not tolerance:
                same = (first == second) | (np.isnan(first) & np.isnan(second))
        else:
            same = first == second
        if not same.all():
            where = tuple(int(i) for i in np.argwhere(~same)[0])
            numeric = first.dtype.kind in "biuf"
            gap = np.abs(first.astype(np.float64) - second.astype(np.float64))[~same] if numeric else np.zeros(0)
            largest = float(np.nanmax(gap, initial=0.0)) if gap.size else float("nan")
            count = int(same.size - np.count_nonzero(same))
            found.append(Difference(name, count, same.size, largest, where, first[where], second[where]))
    return found


class ResultCheck(Watcher):
    """Interprets the module before and after each pass, on calibration images, else on seeded random inputs.

    A module whose layers have no integers yet cannot be computed: the passes up to the next one that can be are checked
    together. A pass that rounds (`exact` is False) may change the result; by how much is shown.

    Raises:
        SmecError: an exact pass changes the result.
    """

    def __init__(self, context: PassContext, images: int, show: Show) -> None:
        self.context, self.images, self.show = context, images, show
        self.inputs: dict[str, np.ndarray] = {}
        self.last: dict[str, np.ndarray] | None = None
        self.pending: list[Pass] = []

    def start(self, module: ModuleOp) -> None:
        graph = module.graph
        types = {name: arg.type for name, arg in zip(graph.input_names, graph.block.args, strict=True)}
        try:
            given = self.context.calibration
            arrays = None if given is None else image_arrays(given, graph)
        except SmecError:
            arrays = None  # the module was compiled with data that nobody gave again
        if arrays is None:
            arrays = random_arrays(types, self.context.seed, self.images)
        self.inputs = {name: np.ascontiguousarray(a[: self.images]) for name, a in arrays.items()}
        self.last = self._result(module)

    def after(self, item: Pass, module: ModuleOp, changed: bool) -> None:
        self.pending.append(item)
        result = self._result(module)
        if result is None:
            self.show(f"// ---- {item.text()}: not computable yet")
            return
        passes, self.pending = self.pending, []
        before, self.last = self.last, result
        names = " and ".join(f"'{p.name}'" for p in passes)
        if before is None:
            self.show(f"// ---- {names}: computable from here on")
            return
        on_host = any(isinstance(op, HostOp) for op in module.graph.ops) and _has_program(module)
        found = differences(before, result, HOST_TOLERANCE if on_host else 0.0)
        if not found:
            self.show(f"// ---- {names}: same result on {self.images} images")
        for difference in found:
            self.show(f"// ---- {names}: {difference}")
        if found and all(p.exact for p in passes):
            files = [file for p in passes if (file := origin(type(p)))]
            what = f"pass {names}{f' (plug-in {files[0]})' if files else ''} changes the result: {found[0]}"
            raise SmecError(what, location=module.location, hint="a pass that rounds says `exact = False`")

    def _result(self, module: ModuleOp) -> dict[str, np.ndarray] | None:
        """Outputs (B, *shape); None while layers have no integers."""
        if _has_program(module):
            from smec.data import ports_of_module
            from smec.driver import assemble

            program = assemble(module)
            ports = {p.name: p for p in ports_of_module(module)}
            feed = {n: a if ports[n].batch is None else a.reshape(-1, *a.shape[2:]) for n, a in self.inputs.items()}
            return program.simulate(feed).outputs
        try:
            return interpret(module, self.inputs)
        except SmecError as error:
            if getattr(error.operation, "weight", 0) is None:
                return None
            raise


def _has_program(module: ModuleOp) -> bool:
    return any(op.name == "isa.program" for op in module.body.block.ops)
