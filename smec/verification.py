"""Is a program what its model says? Compares its integers with an independent computation, bit for bit.

Three checks:

1. *stored*: every layer's crossbars hold exactly the multiset of the layer's integer weights, and no cell that is never
   read holds anything. This sees a changed cell whatever the inputs are.
2. *computed*: the accumulators of every crossbar layer, in the order of execution, and the outputs, equal those of the
   quantized network exported to ONNX and run by onnxruntime on the same inputs (`smec.reference`).
3. *signal-to-noise ratio* of each layer against the float model: no test, but a measure of what quantization cost.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from smec.data import Data, DataSource, Port, ports_of_program, take
from smec.ir.dialects.builtin import HostOp, ModuleOp
from smec.ir.dialects.quant import WeightedOp
from smec.ir.errors import SmecError
from smec.ir.types import Quantized
from smec.oracle import oracle_module
from smec.record import model_source
from smec.reference import FloatNetwork, QuantizedNetwork
from smec.stored import stored_faults

if TYPE_CHECKING:
    import onnx

    from smec.driver import Progress
    from smec.program import Program

#: Bytes of accumulators, on either side, that one step of the comparison may hold.
CHUNK_BYTES = 256 << 20


@dataclass(frozen=True)
class Difference:
    """Where two integer (or float) arrays differ: how many elements, and the first of them in row-major order.

    index: (image, ...) in the layout of the layer's result.
    """

    count: int
    index: tuple[int, ...]
    expected: int | float
    found: int | float

    def __str__(self) -> str:
        image, *rest = self.index
        return (
            f"{self.count} elements differ, the first at image {image}, index {tuple(rest)}:"
            f" expected {self.expected}, found {self.found}"
        )


@dataclass
class LayerCheck:
    """What was found of one crossbar layer.

    elements: accumulators compared. difference: None if all agree, else that of the first images that do not. stored:
    what is wrong with its cells, "" if nothing. tensor: the float model's tensor that `snr_db` refers to, or "".
    """

    name: str
    tensor: str
    elements: int = 0
    difference: Difference | None = None
    stored: str = ""
    snr_db: float | None = None

    @property
    def equal(self) -> bool:
        return self.difference is None and not self.stored


@dataclass
class OutputCheck:
    """The same for a graph output, as real values."""

    name: str
    elements: int = 0
    difference: Difference | None = None
    snr_db: float | None = None

    @property
    def equal(self) -> bool:
        return self.difference is None


@dataclass
class VerifyReport:
    """The result of `verify`. images: how many were run. source: where the inputs come from."""

    model: str
    program: str
    images: int
    source: str
    layers: list[LayerCheck] = field(default_factory=list)
    outputs: list[OutputCheck] = field(default_factory=list)

    @property
    def checks(self) -> list[LayerCheck | OutputCheck]:
        """Layers in the order of execution, then outputs."""
        return [*self.layers, *self.outputs]

    @property
    def equal(self) -> bool:
        """Whether every integer of every layer, every cell and every output agrees."""
        return all(c.equal for c in self.checks)

    @property
    def first_difference(self) -> str:
        """Name of the first layer, in the order of execution, that differs; else of the first output; else ""."""
        return next((c.name for c in self.checks if not c.equal), "")

    def explain(self) -> str:
        """One sentence on the first difference; "" if there is none."""
        check = next((c for c in self.checks if not c.equal), None)
        if check is None:
            return ""
        kind = "layer" if isinstance(check, LayerCheck) else "output"
        stored = check.stored if isinstance(check, LayerCheck) else ""
        reasons = [str(r) for r in (check.difference, stored) if r]
        return f"{kind} '{check.name}' differs: {'; '.join(reasons)}"

    def to_json(self) -> dict[str, Any]:
        """The document that `smec verify --json` writes (schema "smec.verify/1")."""
        return {
            "schema": "smec.verify/1",
            "model": self.model,
            "program": self.program,
            "images": self.images,
            "inputs": self.source,
            "equal": self.equal,
            "first_difference": self.first_difference or None,
            "layers": [_check_json(c) | {"tensor": c.tensor or None, "stored": c.stored or None} for c in self.layers],
            "outputs": [_check_json(c) for c in self.outputs],
        }


def _check_json(check: LayerCheck | OutputCheck) -> dict[str, Any]:
    d = check.difference
    snr = check.snr_db
    return {
        "name": check.name,
        "equal": check.equal,
        "elements": check.elements,
        # JSON has no infinity.
        "snr_db": snr if snr is not None and math.isfinite(snr) else None,
        "noise_free": snr == math.inf,
        "difference": None
        if d is None
        else {"count": d.count, "index": list(d.index), "expected": d.expected, "found": d.found},
    }


def verify(
    model: str | os.PathLike[str] | onnx.ModelProto,
    program: Program,
    inputs: DataSource | Data | None = None,
    *,
    images: int = 16,
    engine: str = "auto",
    progress: Progress | None = None,
) -> VerifyReport:
    """Check a program against its model.

    Args:
        model: the ONNX model that the program was compiled from.
        program: the program.
        inputs: data as for `smec.compile`; default: the sample that the program carries, else seeded random inputs.
        images: run at most so many.
        engine: runtime engine.
        progress: called as progress(what, done, total).

    Returns:
        The report; `report.equal` says whether all agrees.

    Raises:
        SmecError: the program was compiled from another model, carries no quantized network, or the data does not fit.
    """
    source = model_source(model)
    recorded = program.metadata["source"]
    if source["sha256"] != recorded["sha256"]:
        raise SmecError(
            "the program was compiled from another model",
            location=source["file"],
            expected=f"{recorded['file']}, SHA-256 {recorded['sha256'][:16]}...",
            found=f"SHA-256 {source['sha256'][:16]}...",
        )
    ports = ports_of_program(program)
    data = program.inputs(inputs, images)
    module = oracle_module(program)
    layers = [op for op in module.graph.ops if isinstance(op, WeightedOp)]
    report = VerifyReport(source["file"], program.path or "<program>", data.images, data.source)
    faults = stored_faults(program, layers)
    report.layers = [LayerCheck(op.label, op.tensor, stored=faults.get(op.label, "")) for op in layers]
    report.outputs = [OutputCheck(name) for name in module.graph.output_names]
    _compare(_Run(model, program, module, layers, ports, data, engine), report, progress)
    return report


# -- comparison --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Run:
    model: str | os.PathLike[str] | onnx.ModelProto
    program: Program
    module: ModuleOp
    layers: list[WeightedOp]
    ports: list[Port]
    data: Data
    engine: str

    def chunks(self) -> Iterator[tuple[int, int]]:
        """Ranges of images that fit the memory bound; single images where host regions compute in floating point.

        A host region's result may depend in its last bit on how many images are stacked, and one bit can move a level.
        """
        image = sum(op.out.type.size for op in self.layers) * 8
        step = max(1, CHUNK_BYTES // max(1, image))
        if any(isinstance(op, HostOp) for op in self.module.graph.ops):
            step = 1
        for start in range(0, self.data.images, step):
            yield start, min(start + step, self.data.images)


def _compare(run: _Run, report: VerifyReport, progress: Progress | None) -> None:
    quantized = QuantizedNetwork(run.module)
    names = list(run.module.graph.output_names)
    original = FloatNetwork(run.model, run.ports, [op.tensor for op in run.layers], names)
    noise = [_Noise() for _ in run.layers]
    output_noise = [_Noise() for _ in names]
    for start, stop in run.chunks():
        if progress is not None:
            progress("verify", start, run.data.images)
        feed = {p.name: take(p, run.data.inputs[p.name], start, stop) for p in run.ports}
        expected = quantized.run({p.name: p.with_image_axis(feed[p.name]) for p in run.ports})
        result = run.program.simulate(feed, engine=run.engine, trace_accumulators=True)
        real = original.run(feed, stop - start)
        for op, check, meter in zip(run.layers, report.layers, noise, strict=True):
            want = expected[f"{op.label}.acc"]
            found = as_result_layout(op, (result.accumulators or {})[op.label])
            check.elements += want.size
            if check.difference is None:
                check.difference = _difference(want, found, start)
            meter.add(real.get(op.tensor), _real_values(op, found))
        for name, output, meter in zip(names, report.outputs, output_noise, strict=True):
            want = expected[name]
            found = result.outputs[name].reshape(want.shape)
            output.elements += want.size
            if output.difference is None:
                output.difference = _difference(want, found, start)
            meter.add(real.get(name), found)
    if progress is not None:
        progress("verify", run.data.images, run.data.images)
    for check, meter in zip(report.layers, noise, strict=True):
        check.snr_db = meter.decibels()
    for output, meter in zip(report.outputs, output_noise, strict=True):
        output.snr_db = meter.decibels()


def as_result_layout(op: WeightedOp, accumulators: np.ndarray) -> np.ndarray:
    """Accumulators [B, pixels, M] in the layout of the layer's result, [B, *shape]."""
    axis = op.channel_axis()
    shape = [len(accumulators), *op.out.type.shape]
    channels = shape.pop(axis)
    return np.moveaxis(accumulators.reshape(*shape, channels), -1, axis)


def _real_values(op: WeightedOp, accumulators: np.ndarray) -> np.ndarray:
    """What the layer's result stands for, float32 [B, *shape], after its fused clamp."""
    values = op.finish(accumulators)
    element = op.out.type.element
    if isinstance(element, Quantized):
        values = (values.astype(np.int32) - element.zero_point).astype(np.float32) * np.float32(element.scale)
    return values


def _difference(expected: np.ndarray, found: np.ndarray, first_image: int) -> Difference | None:
    """None where the arrays agree; NaN agrees with NaN, 0.0 with -0.0."""
    different = expected != found
    if expected.dtype.kind == "f":
        different &= ~(np.isnan(expected) & np.isnan(found))
    if not different.any():
        return None
    at = np.unravel_index(int(different.argmax()), different.shape)
    index = (first_image + int(at[0]), *(int(i) for i in at[1:]))
    return Difference(int(different.sum()), index, expected[at].item(), found[at].item())


class _Noise:
    """Sums signal and error energies over images."""

    def __init__(self) -> None:
        self.signal = self.error = 0.0
        self.seen = False

    def add(self, reference: np.ndarray | None, found: np.ndarray) -> None:
        if reference is None or reference.size != found.size or reference.dtype.kind != "f":
            return
        ideal = reference.astype(np.float64).reshape(found.shape)
        self.seen = True
        self.signal += float(np.square(ideal).sum())
        self.error += float(np.square(found - ideal).sum())

    def decibels(self) -> float | None:
        """10 log10(signal / error); infinite where there is no error, None where nothing was compared."""
        if not self.seen:
            return None
        if self.error == 0.0:
            return math.inf
        return 10.0 * math.log10(self.signal / self.error) if self.signal > 0.0 else -math.inf
