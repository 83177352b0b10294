"""The command `smec`. Every command is one call of the Python API and a table, or a JSON document, of what it returns.

Nothing heavy is imported before a command needs it: `smec --help` must answer at once.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from smec.ir.errors import SmecError
from smec.options import (
    act_bits_option,
    engine_option,
    json_option,
    method_option,
    parse_depth,
    path_argument,
    plugin_option,
    shape_option,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from smec.compile_options import Options

#: Choices that are known without importing what implements them.
PATTERNS = ("uniform", "window", "pot", "apot", "external")
SIGNS = ("differential", "offset", "polarized", "twos-complement")


class Group(click.Group):
    """Turns what goes wrong into one message and exit status 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except SmecError as error:
            if ctx.params.get("debug"):
                raise
            click.echo(f"error: {error}", err=True)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except BrokenPipeError:
            # The reader of our output has gone; nothing more can be said to it.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        except Exception as error:
            # A fault of ours: still one message, with the way to the traceback.
            if ctx.params.get("debug"):
                raise
            what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            click.echo(f"error: internal error: {what}\nhint: `smec --debug ...` shows where", err=True)
        raise click.exceptions.Exit(1)


@click.group("smec", cls=Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="smec", message="%(prog)s %(version)s")
@click.option("--debug", is_flag=True, hidden=True, help="Show the traceback of an error.")
def main(debug: bool) -> None:
    """Compile ONNX models for ReRAM-crossbar accelerators, and run them bit-exactly."""


def emit(command: str, document: dict[str, Any], json_path: str | None) -> None:
    """Show a document: as a table, or as JSON where that goes to standard output; and write the JSON file."""
    text = json.dumps(plain(document), indent=2, allow_nan=False) + "\n" if json_path is not None else ""
    if json_path == "-":
        click.echo(text, nl=False)
        return
    from smec import report

    report.SHOW[command](document)
    if json_path is not None:
        from smec.files import write_whole

        write_whole(json_path, text)


def plain(value: Any) -> Any:
    """What JSON can hold: NumPy's numbers as Python's, NaN and infinity (which a pass may report) as null."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    return plain(value.tolist()) if hasattr(value, "tolist") else str(value)


def check_output(path: str, *inputs: str | None) -> None:
    """Refuse an output file that cannot be written, before the work is done; and one that is also an input."""
    folder = Path(path).absolute().parent
    if Path(path).is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise SmecError("cannot write the output", location=path, expected="a file in a writable folder")
    for other in inputs:
        if other is not None and Path(path).exists() and Path(other).exists() and Path(path).samefile(other):
            raise SmecError("the output would replace an input", location=path)


def check_outputs(paths: Iterable[str | None], *inputs: str | None) -> None:
    """`check_output` of all that are files (None: not asked for, "-": standard output), which are to differ."""
    seen: set[Path] = set()
    for path in paths:
        if path is None or path == "-":
            continue
        check_output(path, *inputs)
        place = Path(path).resolve()
        if place in seen:
            raise SmecError("two outputs are the same file", location=path)
        seen.add(place)


def refuse_options(names: Iterable[str]) -> None:
    """Refuse options that were given on the command line, where a module brings its own."""
    context = click.get_current_context()
    for name in names:
        if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
            option = next(p.opts[0] for p in context.command.params if p.name == name)
            raise click.UsageError(f"{option} has no effect on a module, which has its own target, options and passes")


@main.command("compile")
@click.argument("model", type=path_argument, metavar="MODEL.onnx")
@click.option("-o", "--output", type=path_argument, required=True, metavar="PROG.smebin", help="The program to write.")
@click.option("--target", default="sme", show_default=True, metavar="NAME|FILE.toml", help="Hardware to compile for.")
@click.option("--calib", type=path_argument, metavar="DATA.npz", help="Calibration images; default: synthetic ones.")
@method_option
@click.option("--pattern", default="uniform", show_default=True, metavar="NAME",
              help=f"Weight magnitudes: {', '.join(PATTERNS)}, or a plug-in's.")  # fmt: skip
@click.option("--bits", type=click.IntRange(1, 16), default=8, show_default=True, help="Bits of a weight.")
@act_bits_option
@click.option("--scale", type=click.Choice(["column", "tensor"]), default="column", show_default=True,
              help="One weight scale a column or a tensor.")  # fmt: skip
@click.option("--sign", type=click.Choice(SIGNS),
              help="Sign scheme.  [default: differential; with --squeeze auto: by layer]")  # fmt: skip
@click.option("--sign-rows", type=click.IntRange(1), default=8, show_default=True,
              help="Rows that share a sign in each column, with polarized.")  # fmt: skip
@click.option("--quantizer", metavar="NAME",
              help="How weights are rounded.  [default: nearest; with --squeeze auto: admm]")  # fmt: skip
@click.option("--squeeze", callback=parse_depth, default="0", show_default=True, metavar="N|auto",
              help="Bit positions given up; auto: by layer, within --max-error or --max-crossbars.")  # fmt: skip
@click.option("--shift", type=click.Choice(["leading-one", "fit"]),
              help="Rule of the row shifts.  [default: leading-one; with --squeeze auto: fit]")  # fmt: skip
@click.option("--max-error", type=float, metavar="E",
              help="For --squeeze auto: bound on the outputs' squared error over their power, as 0.01.")  # fmt: skip
@click.option("--max-crossbars", type=click.IntRange(1), metavar="N", help="For --squeeze auto: bound on crossbars.")
@click.option("--scheme", metavar="NAME{...}", help="A named mapping instead of the options from --pattern on.")
@click.option("--pipeline", metavar="TEXT", help="Passes to run instead of the default ones.")
@plugin_option("passes")
@click.option("--compile-to", metavar="LEVEL", help="Stop at this level and write the module (IR text) to the output.")
@click.option("--dump-ir", type=path_argument, metavar="DIR", help="Write the module after each pass.")
@shape_option
@click.option("--seed", type=int, default=0, show_default=True, help="Of every random choice.")
@click.option("--reproducer", type=path_argument, metavar="FILE", help="What a failing pass leaves behind.")
@json_option
def compile_command(
    model: str, output: str, target: str, calib: str | None, scheme: str | None, pipeline: str | None,
    plugins: tuple[str, ...], compile_to: str | None, dump_ir: str | None, input_shapes: dict[str, tuple[int, ...]],
    seed: int, reproducer: str | None, json_path: str | None, **choices: Any,
) -> None:  # fmt: skip
    """Compile MODEL.onnx to a program, or go on with a module (.mlir, from --compile-to or --dump-ir)."""
    from smec.compile_options import Options
    from smec.driver import Job, assemble
    from smec.record import is_module
    from smec.report import terminal_progress

    check_outputs((output, json_path), model, calib)
    if is_module(model):
        refuse_options(("target", "seed", "input_shapes", "scheme", *choices))
    options: Options = Options(**choices)
    start = time.perf_counter()
    report: dict[str, Any] = {}
    with terminal_progress() as progress:
        job = Job(model, options, target, calib, pipeline, plugins, dump_ir, input_shapes, seed, report, progress,
                  reproducer, scheme)  # fmt: skip
        module = job.lower(compile_to)
        program = assemble(module) if compile_to is None else None
    if program is None:
        from smec.documents import lower_document
        from smec.ir.store import save_module

        save_module(module, output)
        seconds = time.perf_counter() - start
        level = str(compile_to)
        document = lower_document(model=model, path=output, level=level, report=report, wall_s=seconds)
        emit("lower", document, json_path)
        return
    from smec.documents import compile_document

    program.save(output)
    seconds = time.perf_counter() - start
    size = Path(output).stat().st_size
    document = compile_document(program, model=model, path=output, program_bytes=size, report=report, wall_s=seconds)
    emit("compile", document, json_path)


@main.command("simulate")
@click.argument("program", type=path_argument, metavar="PROG.smebin")
@click.option("--input", "data", type=path_argument, metavar="DATA.npz",
              help="Inputs, and `labels` for accuracy; default: the sample in the program.")  # fmt: skip
@engine_option
@click.option("--output", type=path_argument, metavar="OUT.npz", help="Write the outputs.")
@click.option("--batch", type=click.IntRange(1), metavar="N", help="Images at a time; default: by memory.")
@click.option("--trace", type=path_argument, metavar="FILE.json",
              help="Write the timeline of the first image (Chrome trace events; opens in Perfetto).")  # fmt: skip
@json_option
def simulate_command(
    program: str,
    data: str | None,
    engine: str,
    output: str | None,
    batch: int | None,
    trace: str | None,
    json_path: str | None,
) -> None:
    """Run PROG.smebin on images, and time it on its target."""
    from smec.documents import simulate_document
    from smec.program import Program
    from smec.report import terminal_progress
    from smec.runtime.timing import is_timed, time_program

    check_outputs((output, trace, json_path), program, data)
    loaded = Program.load(program)
    with terminal_progress() as progress:
        result = loaded.simulate(data, engine=engine, batch=batch, progress=progress)
    if output is not None:
        save_npz(output, result.outputs)
    # A program of hand may name a target without parts: then there is nothing to time, and only --trace asks for it.
    timing = time_program(loaded) if trace is not None or is_timed(loaded) else None
    if timing is not None and trace is not None:
        timing.write_trace(trace)
    emit("simulate", simulate_document(loaded, result, timing), json_path)


def save_npz(path: str, arrays: dict[str, Any]) -> None:
    """Write arrays to an .npz file, whole or not at all."""
    import io

    import numpy as np

    from smec.files import write_whole

    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    write_whole(path, buffer.getvalue())


@main.command("verify")
@click.argument("model", type=path_argument, metavar="MODEL.onnx")
@click.argument("program", type=path_argument, metavar="PROG.smebin")
@click.option("--input", "data", type=path_argument, metavar="DATA.npz", help="Inputs; default: the program's sample.")
@click.option("--images", type=click.IntRange(1), default=16, show_default=True, help="Use at most so many images.")
@engine_option
@json_option
def verify_command(model: str, program: str, data: str | None, images: int, engine: str, json_path: str | None) -> None:
    """Compare PROG.smebin, bit for bit, with an integer ONNX model; exit 1 if they differ."""
    from smec.program import Program
    from smec.report import terminal_progress
    from smec.verification import verify

    loaded = Program.load(program)
    with terminal_progress() as progress:
        report = verify(model, loaded, data, images=images, engine=engine, progress=progress)
    emit("verify", report.to_json(), json_path)
    if not report.equal:
        raise SmecError(report.explain(), location=program)


@main.command("export")
@click.argument("program", type=path_argument, metavar="PROG.smebin")
@click.option("-o", "--output", type=path_argument, required=True, metavar="QUANT.onnx", help="The model to write.")
@json_option
def export_command(program: str, output: str, json_path: str | None) -> None:
    """Write the quantized network of PROG.smebin as an integer ONNX model."""
    from smec.documents import export_document
    from smec.export import save_onnx
    from smec.oracle import oracle_module
    from smec.program import Program

    check_output(output, program)
    model = save_onnx(oracle_module(Program.load(program)), output)
    emit("export", export_document(model, program=program, path=output), json_path)


@main.command("inspect")
@click.argument("program", type=path_argument, metavar="PROG.smebin")
@click.option("--layer", metavar="NAME", help="Show this layer tile by tile.")
@click.option("--map", "crossbar_map", is_flag=True, help="Show what sits in which crossbar.")
@json_option
def inspect_command(program: str, layer: str | None, crossbar_map: bool, json_path: str | None) -> None:
    """Show layers, crossbars, planes, row shifts and row groups of PROG.smebin."""
    from smec.inspection import inspect
    from smec.program import Program

    emit("inspect", inspect(Program.load(program), layer=layer, crossbar_map=crossbar_map), json_path)


@main.command("passes")
@click.argument("name", required=False)
@plugin_option("passes")
@json_option
def passes_command(name: str | None, plugins: tuple[str, ...], json_path: str | None) -> None:
    """List the passes, or the options of one."""
    from smec.documents import passes_document
    from smec.plugins import load_plugin

    for plugin in plugins:
        load_plugin(plugin)
    emit("passes", passes_document(name), json_path)


@main.command("targets")
@click.argument("name", required=False)
@plugin_option("targets")
@json_option
def targets_command(name: str | None, plugins: tuple[str, ...], json_path: str | None) -> None:
    """List the hardware presets, or the numbers of one (a name or a TOML file)."""
    from smec.documents import targets_document
    from smec.plugins import load_plugin

    for plugin in plugins:
        load_plugin(plugin)
    emit("targets", targets_document(name), json_path)


def _register() -> None:
    """Add the commands that have files of their own."""
    from smec.commands import assembly, compare, opt

    for command in (
        assembly.disasm_command,
        assembly.asm_command,
        compare.compare_command,
        compare.schemes_command,
        opt.opt_command,
    ):
        main.add_command(command)


_register()
