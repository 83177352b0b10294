"""Schemes against each other, on one network and one machine: what `smec compare` shows."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from smec.compile_options import Options
from smec.data import Arrays, Data, DataSource, load_data, ports_of_module, read_arrays, top1
from smec.driver import Job, Model, Progress, assemble, import_float
from smec.ir.errors import SmecError
from smec.schemes import Scheme, parse_schemes

if TYPE_CHECKING:
    from smec.ir.dialects.builtin import ModuleOp
    from smec.program import Program
    from smec.targets import Target

#: Level of a mapped network whose crossbars have no places yet: the last that all budgets share.
_MAPPED = "xbar.grouped"

#: What is left to do from there.
_REST = "assign-cores,emit"

#: Figures whose ratios to the baseline are given: (name, name of the ratio, whether the baseline's is the numerator).
RATIOS = (
    ("crossbars", "crossbars_fewer", True),
    ("latency_ns", "latency_shorter", True),
    ("throughput_at_budget", "throughput_higher", False),
    ("energy_pj", "energy_less", True),
)


@dataclass(frozen=True)
class Setting:
    """What all schemes of a comparison share; names as for `smec.compile`.

    images: of the inputs, at most; None: all. crossbars: the budget that each scheme may fill with copies of slow
    layers; None: what the largest of them needs.
    """

    model: Model
    target: str | os.PathLike[str] | Target = "sme"
    calib: DataSource | None = None
    inputs: DataSource | None = None
    images: int | None = None
    engine: str = "auto"
    act_bits: int = 8
    method: str = "mse"
    crossbars: int | None = None
    plugins: Sequence[str | os.PathLike[str]] = ()
    input_shapes: Mapping[str, Sequence[int]] | None = None
    seed: int = 0
    progress: Progress | None = None


@dataclass
class _Mapped:
    """A scheme, its network before placement, and its figures so far."""

    scheme: Scheme
    module: ModuleOp
    figures: dict[str, Any] = field(default_factory=dict)


def compare(
    model: Model, schemes: str | Sequence[Scheme | str], *, baseline: str | None = None, **settings: Any
) -> dict[str, Any]:
    """Compile a network by each scheme, run the programs, and set their figures side by side.

    Every scheme's accuracy is that of its program, bit by bit. Figures but throughput are those of one copy of each
    layer; throughput is given for that, and at equal budget: with copies of slow layers (`replicate`) until the budget
    of crossbars, the same for all schemes, is used up.

    Args:
        model: as for `smec.compile`.
        schemes: names parted by commas, or a list of names and schemes.
        baseline: text of the scheme that is the denominator of all ratios; None: the first.
        settings: the fields of `Setting`.

    Returns:
        The document of schema "smec.compare/1": `float_top1`, `budget_crossbars`, `baseline`, `schemes[]`.

    Raises:
        SmecError: as for `smec.compile` and `Program.simulate`; the budget is too small for a scheme; an unknown
            scheme, baseline or setting.
    """
    setting = Setting(model, **settings)
    chosen = _chosen(schemes, setting)
    texts = [scheme.text() for scheme in chosen]
    if baseline is not None and baseline not in texts:
        raise SmecError("baseline is none of the schemes", expected=" | ".join(texts), found=repr(baseline))
    base = texts.index(baseline) if baseline is not None else 0
    data, float_top1 = _float(setting)
    calib = None if setting.calib is None else read_arrays(setting.calib)
    mapped = []
    for number, scheme in enumerate(chosen):
        with _errors_name(scheme):
            mapped.append(_map(scheme, setting, calib, data, number, len(chosen)))
    budget = setting.crossbars or max(one.figures["crossbars"] for one in mapped)
    for number, one in enumerate(mapped):
        _tell(setting, "schemes at equal budget", number, len(mapped))
        with _errors_name(one.scheme):
            one.figures |= _at_budget(one, budget)
    _tell(setting, "schemes at equal budget", len(mapped), len(mapped))
    rows = [one.figures for one in mapped]
    for row in rows:
        row["ratios"] = _ratios(row, rows[base])
        row["drop"] = None if float_top1 is None or row["top1"] is None else float_top1 - row["top1"]
    return {
        "schema": "smec.compare/1",
        "model": setting.model if isinstance(setting.model, str) else str(getattr(setting.model, "name", "<model>")),
        "inputs": data.source if data is not None else "none",
        "images": data.images if data is not None else 0,
        "float_top1": float_top1,
        "budget_crossbars": budget,
        "baseline": texts[base],
        "schemes": rows,
    }


@contextmanager
def _errors_name(scheme: Scheme) -> Iterator[None]:
    """Of many schemes, which one it was."""
    try:
        yield
    except SmecError as error:
        error.message = f"scheme '{scheme.text()}': {error.message}"
        raise


def _chosen(schemes: str | Sequence[Scheme | str], setting: Setting) -> list[Scheme]:
    from smec.plugins import load_plugin

    for plugin in setting.plugins:
        load_plugin(plugin)
    if isinstance(schemes, str):
        return parse_schemes(schemes)
    return parse_schemes(",".join(s if isinstance(s, str) else s.text() for s in schemes))


def _tell(setting: Setting, what: str, done: int, total: int) -> None:
    if setting.progress is not None:
        setting.progress(what, done, total)


def _float(setting: Setting) -> tuple[Data | None, float | None]:
    """The inputs, and the float model's accuracy on them where they have labels."""
    from smec.ir.float_runner import FloatRunner

    if setting.inputs is None:
        return None, None
    given = read_arrays(setting.inputs)
    module = import_float(setting.model, given, setting.input_shapes)
    ports = ports_of_module(module)
    data = load_data(given, ports)
    if setting.images is not None:
        data = data.first(setting.images, ports)
    if data.labels is None:
        return data, None
    scores = next(iter(FloatRunner(module, threads=os.cpu_count() or 1).outputs(data.inputs).values()))
    return data, top1(scores.reshape(-1, *scores.shape[2:]), data.labels)


def _map(scheme: Scheme, setting: Setting, calib: Arrays | None, data: Data | None, number: int, count: int) -> _Mapped:
    """Compile by a scheme and measure one copy of each layer."""
    from smec.runtime.timing import time_program

    start = time.perf_counter()
    _tell(setting, f"scheme {scheme.text()}", number, count)
    options = Options(act_bits=setting.act_bits, method=setting.method)
    job = Job(
        setting.model, options, setting.target, calib, input_shapes=setting.input_shapes, seed=setting.seed,
        progress=setting.progress, scheme=scheme,
    )  # fmt: skip
    module = job.lower(_MAPPED)
    compiled = time.perf_counter() - start
    program = _finish(module, _REST)
    timing = time_program(program)
    result = program.simulate(data, engine=setting.engine, progress=setting.progress)
    return _Mapped(
        scheme,
        module,
        {
            "scheme": scheme.text(),
            "pipeline": module.pipeline,
            **_crossbars(program),
            **timing.summary(),
            "chips": timing.chips,
            "top1": result.top1,
            "images": result.images,
            "engine": result.engine,
            "compile_s": compiled,
            "wall_s": result.wall_s,
        },
    )


def _finish(module: ModuleOp, rest: str) -> Program:
    return assemble(Job(module, pipeline=rest).lower())


def _crossbars(program: Program) -> dict[str, Any]:
    import numpy as np

    from smec.inspection import crossbar_figures

    cells = program.sections["cells"]
    geometry = program.metadata["target"]
    there = cells.shape[0] * int(geometry["rows"]) * int(geometry["columns"])
    ones = int(np.bitwise_count(cells).sum(dtype=np.int64))
    return {
        **crossbar_figures(program),
        "cells": there,
        "cells_in_use": sum(_extents(program)),
        "ones": ones,
    }


def _extents(program: Program) -> list[int]:
    """Cells that hold a digit of a weight: rows times columns of each block."""
    import numpy as np

    sections = program.sections
    rows = (np.asarray(sections["tile_rows"]) >= 0).sum(axis=1)
    columns = (np.asarray(sections["tile_cols"]) >= 0).sum(axis=1)
    blocks = np.asarray(sections["tile_xbars"])[:, 1]
    found: list[int] = (rows * columns * blocks).tolist()
    return found


def _at_budget(one: _Mapped, budget: int) -> dict[str, Any]:
    """Throughput, energy and area with copies of slow layers until the budget is used up."""
    from smec.runtime.timing import time_program

    least = one.figures["crossbars"]
    if budget < least:
        raise SmecError("the budget is too small", expected=f"{least} crossbars or more", found=budget)
    program = _finish(one.module, f"replicate{{crossbars={budget}}},{_REST}")
    timing = time_program(program)
    return {
        "throughput_at_budget": timing.throughput_images_per_s,
        "energy_at_budget_pj": timing.energy_pj,
        "area_at_budget_mm2": timing.area_mm2,
        "latency_at_budget_ns": timing.latency_ns,
        "bottleneck_at_budget": {"resource": timing.bottleneck.kind, "layer": timing.bottleneck.layer},
    }


def _ratios(row: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, float | None]:
    """How many times better than the baseline; above 1 is better."""
    found: dict[str, float | None] = {}
    for name, ratio, inverted in RATIOS:
        above, below = (base[name], row[name]) if inverted else (row[name], base[name])
        found[ratio] = above / below if below else None
    return found
