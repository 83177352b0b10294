"""Measure the compiler and the engines on full-size topologies, next to onnxruntime float32 on the same model.

    python benchmarks/bench.py                                   # all topologies, engines exact and adc
    python benchmarks/bench.py resnet20 --engine adc --json -    # one of them, as JSON on standard output

Every measurement runs in a process of its own, so that peak memory is that step's. Speed is the best of some repeats,
taken in turns with onnxruntime within one process: whatever slows the machine down meets both. Ratios are smec's figure
divided by onnxruntime's: time an image, compile time by the time onnxruntime needs to load the model, and peak memory.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

SCHEMA = "smec-bench-1"
SEED = 0


@dataclass(frozen=True)
class Workload:
    """What to run of one topology; images are drawn from a normal distribution."""

    shape: tuple[int, int, int]  # channels, height, width
    calibration: int  # images to calibrate on
    images: dict[str, int]  # engine -> images a repeat


WORKLOADS = {
    "resnet50": Workload((3, 224, 224), 4, {"exact": 4, "adc": 1}),
    "mobilenet_v2": Workload((3, 224, 224), 4, {"exact": 8, "adc": 2}),
    "resnet20": Workload((3, 32, 32), 64, {"exact": 512, "adc": 64}),
}
ENGINES = ("exact", "adc")


@dataclass
class EngineResult:
    engine: str
    images: int
    images_per_s: float
    onnxruntime_images_per_s: float
    time_ratio: float


@dataclass
class Result:
    """Figures of one topology; `*_ratio` is smec's divided by onnxruntime float32's."""

    topology: str
    compile_s: float
    compile_ratio: float
    compile_peak_rss_mb: float
    memory_ratio: float
    instructions: int
    crossbars: int
    program_mb: float
    onnxruntime_load_s: float
    onnxruntime_peak_rss_mb: float
    engines: list[EngineResult] = field(default_factory=list)


def peak_rss_mb() -> float:
    """Peak resident memory of this process so far, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def random_images(topology: str, count: int) -> Any:
    """Seeded float32 [count, channels, height, width]."""
    import numpy as np

    return np.random.default_rng(SEED).standard_normal((count, *WORKLOADS[topology].shape), dtype=np.float32)


def open_session(model: Path, threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


# The steps, each the whole of a child process: arguments, then a dictionary for the parent.


def step_compile(arguments: argparse.Namespace) -> dict[str, Any]:
    import smec

    images = random_images(arguments.topology, WORKLOADS[arguments.topology].calibration)
    options = {"target": arguments.target} if arguments.target else {}
    started = time.perf_counter()
    program = smec.compile(arguments.model, calib={"image": images}, **options)
    program.save(arguments.program)
    return {"compile_s": time.perf_counter() - started, "peak_rss_mb": peak_rss_mb()}


def step_load(arguments: argparse.Namespace) -> dict[str, Any]:
    images = random_images(arguments.topology, 1)
    started = time.perf_counter()
    session = open_session(arguments.model, arguments.threads)
    load_s = time.perf_counter() - started
    session.run(None, {"image": images})
    return {"load_s": load_s, "peak_rss_mb": peak_rss_mb()}


def step_engine(arguments: argparse.Namespace) -> dict[str, Any]:
    import smec

    count = arguments.images or WORKLOADS[arguments.topology].images[arguments.engine]
    inputs = {"image": random_images(arguments.topology, count)}
    session = open_session(arguments.model, arguments.threads)
    program = smec.Program.load(arguments.program)

    def reference() -> float:
        started = time.perf_counter()
        session.run(None, inputs)
        return time.perf_counter() - started

    def simulate() -> float:
        return float(program.simulate(inputs, engine=arguments.engine).wall_s)

    runs: tuple[Callable[[], float], ...] = (reference, simulate)
    for run in runs:  # compiles kernels and fills caches
        run()
    reference_s, engine_s = (min(times) for times in zip(*([run() for run in runs] for _ in range(arguments.repeats))))
    return asdict(
        EngineResult(arguments.engine, count, count / engine_s, count / reference_s, time_ratio=engine_s / reference_s)
    )


STEPS = {"compile": step_compile, "load": step_load, "engine": step_engine}


def run_step(step: str, arguments: argparse.Namespace, **more: object) -> dict[str, Any]:
    """Run one step in a fresh interpreter with `arguments.threads` threads; its dictionary.

    The parent imports nothing heavy: on Linux a child's peak memory begins with what its parent held when it forked.
    """
    options = {"threads": arguments.threads, "repeats": arguments.repeats, "images": arguments.images, **more}
    command = [sys.executable, __file__, "--step", step]
    command += [word for name, value in options.items() if value for word in (f"--{name}", str(value))]
    environment = dict(os.environ)
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
        environment[variable] = str(arguments.threads)
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{step} of {more['topology']} failed with exit status {done.returncode}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def program_size(program: Path) -> tuple[int, int]:
    """Instructions and crossbars of a program, read from the header of its container."""
    from safetensors import safe_open

    with safe_open(program, "numpy") as file:
        return file.get_slice("code").get_shape()[0], file.get_slice("cells").get_shape()[0]


def measure(topology: str, arguments: argparse.Namespace, folder: Path) -> Result:
    model, program = folder / f"{topology}.onnx", folder / f"{topology}.smebin"
    script = Path(__file__).with_name("topologies.py")
    subprocess.run([sys.executable, script, topology, "-o", model], check=True, stdout=subprocess.DEVNULL)
    files = {"topology": topology, "model": model, "program": program}
    load = run_step("load", arguments, **files)
    compiled = run_step("compile", arguments, target=arguments.target, **files)
    instructions, crossbars = program_size(program)
    result = Result(
        topology=topology,
        compile_s=compiled["compile_s"],
        compile_ratio=compiled["compile_s"] / load["load_s"],
        compile_peak_rss_mb=compiled["peak_rss_mb"],
        memory_ratio=compiled["peak_rss_mb"] / load["peak_rss_mb"],
        instructions=instructions,
        crossbars=crossbars,
        program_mb=program.stat().st_size / 2**20,
        onnxruntime_load_s=load["load_s"],
        onnxruntime_peak_rss_mb=load["peak_rss_mb"],
    )
    for engine in arguments.engine or ENGINES:
        result.engines.append(EngineResult(**run_step("engine", arguments, engine=engine, **files)))
    return result


def show(results: Sequence[Result], threads: int) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{threads} threads; x = ratio to onnxruntime float32 on the same model")
    for heading in ("topology", "compile s", "x", "peak MiB", "x", "instructions", "crossbars", "engine", "images/s"):
        table.add_column(heading, justify="left" if heading in ("topology", "engine") else "right")
    table.add_column("onnxruntime", justify="right")
    table.add_column("time x", justify="right")
    for result in results:
        row = [
            result.topology,
            f"{result.compile_s:.1f}",
            f"{result.compile_ratio:.1f}",
            f"{result.compile_peak_rss_mb:.0f}",
            f"{result.memory_ratio:.1f}",
            f"{result.instructions:,}",
            f"{result.crossbars:,}",
        ]
        for engine in result.engines:
            speeds = (f"{engine.images_per_s:.4g}", f"{engine.onnxruntime_images_per_s:.4g}")
            table.add_row(*row, engine.engine, *speeds, f"{engine.time_ratio:.1f}")
            row = [""] * len(row)
        table.add_section()
    # A pipe has no width: never fold the table there.
    Console(width=None if sys.stdout.isatty() else 140).print(table)


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure smec on full-size topologies, next to onnxruntime float32.")
    parser.add_argument("topologies", nargs="*", metavar="TOPOLOGY", help=f"of {', '.join(WORKLOADS)}; default all")
    parser.add_argument("--engine", action="append", choices=ENGINES, help="may be repeated; default all")
    parser.add_argument("--target", help="name or TOML file of the target; default the compiler's")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3, help="the best of this many counts")
    parser.add_argument("--images", type=int, default=0, help="images a repeat; default by topology and engine")
    parser.add_argument("--json", metavar="FILE", help="write the figures there; - is standard output")
    # How the parent calls its children.
    for name, kind in (("step", str), ("topology", str), ("model", Path), ("program", Path)):
        parser.add_argument(f"--{name}", type=kind, help=argparse.SUPPRESS)
    arguments = parser.parse_args(words)
    unknown = sorted(set(arguments.topologies) - set(WORKLOADS))
    if unknown:
        parser.error(f"unknown topology {unknown[0]}: expected {', '.join(WORKLOADS)}")
    return arguments


def main() -> None:
    arguments = parse()
    if arguments.step:
        arguments.engine = arguments.engine[0] if arguments.engine else None
        print(json.dumps(STEPS[arguments.step](arguments)))
        return
    with tempfile.TemporaryDirectory() as folder:
        results = [measure(name, arguments, Path(folder)) for name in arguments.topologies or WORKLOADS]
    if arguments.json:
        document = {"schema": SCHEMA, "threads": arguments.threads, "topologies": [asdict(r) for r in results]}
        text = json.dumps(document, indent=2) + "\n"
        if arguments.json == "-":
            sys.stdout.write(text)
            return
        Path(arguments.json).write_text(text)
    show(results, arguments.threads)


if __name__ == "__main__":
    main()
