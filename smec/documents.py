"""The documents of the command line that no other module makes: one function a command, plain data out.

Names follow DESIGN 10 and stay the same across commands; `schema` names the command and a version that changes when a
name changes its meaning.
"""

from __future__ import annotations

import resource
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from smec.inspection import crossbar_figures, inspect, total_cycles

if TYPE_CHECKING:
    import onnx

    from smec.passes.base import Pass
    from smec.program import Program, Simulation
    from smec.runtime.timing import TimingReport
    from smec.schemes import Scheme


def peak_rss_mb() -> float:
    """Most memory that this process has held so far, MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def compile_document(
    program: Program, *, model: str, path: str, program_bytes: int, report: dict[str, Any], wall_s: float
) -> dict[str, Any]:
    """What `smec compile --json` writes (schema "smec.compile/1"): `inspect`'s figures, and those of the passes."""
    document = inspect(program)
    calibration = program.metadata["options"].get("calibration", {})
    images = calibration.get("images") if isinstance(calibration, dict) else None
    document |= {
        "schema": "smec.compile/1",
        "model": model,
        "program": path,
        "program_bytes": program_bytes,
        "calibration": f"{images} images" if images else "seeded synthetic inputs",
        "passes": report,
        "wall_s": wall_s,
        "peak_rss_mb": peak_rss_mb(),
    }
    return document


def lower_document(*, model: str, path: str, level: str, report: dict[str, Any], wall_s: float) -> dict[str, Any]:
    """What `smec compile --compile-to LEVEL --json` writes (schema "smec.lower/1")."""
    return {
        "schema": "smec.lower/1",
        "model": model,
        "module": path,
        "level": level,
        "passes": report,
        "wall_s": wall_s,
        "peak_rss_mb": peak_rss_mb(),
    }


def simulate_document(program: Program, result: Simulation, timing: TimingReport | None) -> dict[str, Any]:
    """What `smec simulate --json` writes (schema "smec.simulate/1"); the hardware figures are those of one image.

    They are absent where the program's target does not describe its parts.
    """
    layers = [
        {
            "name": info["name"],
            "crossbars": info["crossbars"],
            "engine": result.engines[info["name"]],
            "saturated_reads": result.saturated[info["name"]],
            "reads": result.reads[info["name"]],
        }
        for info in program.metadata["layers"]
    ]
    return {
        "schema": "smec.simulate/1",
        "program": program.path,
        "inputs": result.inputs,
        "engine": result.engine,
        "images": result.images,
        "batch": result.batch,
        "top1": result.top1,
        **crossbar_figures(program),
        "layers": layers,
        "outputs": [_output(name, array) for name, array in result.outputs.items()],
        "saturated_reads": sum(layer["saturated_reads"] for layer in layers),
        "cycles": total_cycles(program),
        **(timing.as_document() if timing is not None else {}),
        "wall_s": result.wall_s,
        "images_per_s": result.images_per_s,
        "peak_rss_mb": peak_rss_mb(),
    }


def export_document(model: onnx.ModelProto, *, program: str, path: str) -> dict[str, Any]:
    """What `smec export --json` writes (schema "smec.export/1"); `operators` counts nodes by operator."""
    operators = Counter(node.op_type for node in model.graph.node)
    return {
        "schema": "smec.export/1",
        "program": program,
        "model": path,
        "model_bytes": model.ByteSize(),
        "opset": next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), None),
        "nodes": len(model.graph.node),
        "operators": dict(sorted(operators.items())),
    }


def _output(name: str, array: np.ndarray) -> dict[str, Any]:
    """Shape and, for numbers, the range of an output; NaN and infinity have no place in JSON."""
    summary: dict[str, Any] = {"name": name, "shape": list(array.shape), "dtype": array.dtype.name}
    figures: list[float] = []
    if array.size and array.dtype.kind in "biuf":
        figures = [float(array.min()), float(array.max()), float(array.mean(dtype=np.float64))]
    known = bool(figures) and bool(np.isfinite(figures).all())
    for key, index in (("min", 0), ("max", 1), ("mean", 2)):
        summary[key] = figures[index] if known else None
    return summary


def passes_document(name: str | None = None) -> dict[str, Any]:
    """What `smec passes --json` writes (schema "smec.passes/1"): all passes, or the one called `name`.

    Raises:
        SmecError: there is no such pass.
    """
    from smec.passes.base import pass_class, pass_names

    names = pass_names() if name is None else [name]
    return {"schema": "smec.passes/1", "passes": [_pass(pass_class(n)) for n in names]}


def _pass(cls: type[Pass]) -> dict[str, Any]:
    return {
        "name": cls.name,
        "doc": _summary(cls),
        "requires": list(cls.requires),
        "ensures": list(cls.ensures),
        "options": _options(cls),
    }


def _summary(cls: type[Any]) -> str:
    return (cls.__doc__ or "").strip().partition("\n")[0]


def _options(cls: type[Any]) -> list[dict[str, Any]]:
    from smec.passes.base import format_scalar, options

    return [
        {
            "name": o.name,
            "type": o.type_text,
            "required": o.required,
            "default": None if o.required else format_scalar(o.default),
            "doc": o.doc,
        }
        for o in options(cls)
    ]


def schemes_document(name: str | None = None) -> dict[str, Any]:
    """What `smec schemes --json` writes (schema "smec.schemes/1"): all schemes, or the one called `name`.

    Of one scheme there is `pipeline` too, with its default options on the default target; absent where an option has
    no default. A list must not fail for one scheme that does.

    Raises:
        SmecError: there is no such scheme.
    """
    from smec.schemes import scheme_class, scheme_names

    names = scheme_names() if name is None else [name]
    return {"schema": "smec.schemes/1", "schemes": [_scheme(scheme_class(n), name is not None) for n in names]}


def _scheme(cls: type[Scheme], whole: bool) -> dict[str, Any]:
    from smec import targets

    found = _options(cls)
    document = {"name": cls.name, "doc": _summary(cls), "options": found}
    if whole and not any(option["required"] for option in found):
        scheme = cls()
        document["pipeline"] = scheme.pipeline(scheme.machine(targets.load("sme"))).text()
    return document


def targets_document(name: str | None = None) -> dict[str, Any]:
    """What `smec targets --json` writes (schema "smec.targets/1"): the presets, or all numbers of one.

    Its own numbers are joined by those that follow from them (`smec.targets.figures`).

    Raises:
        SmecError: there is no such target.
    """
    from smec import targets

    def numbers(one: str) -> dict[str, Any]:
        target = targets.load(one)
        return {**target.model_dump(), **target.figures()}

    if name is not None:
        return {"schema": "smec.targets/1", **numbers(name)}
    return {"schema": "smec.targets/1", "targets": [numbers(n) for n in targets.names()]}
