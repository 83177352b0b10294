"""From a model file to a program: import, the pass pipeline, and the assembly of the program's sections."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast

from smec import record
from smec.compile_options import Options
from smec.data import Arrays, DataSource, load_data, ports_of_module, read_arrays
from smec.ir.errors import SmecError
from smec.oracle import oracle_sections
from smec.plugins import load_plugin

if TYPE_CHECKING:
    import onnx

    from smec.ir.dialects.builtin import ModuleOp
    from smec.passes.pipeline import Pipeline
    from smec.program import Program
    from smec.runtime.metadata import Metadata
    from smec.schemes import Scheme
    from smec.targets import Target

Progress = Callable[[str, int, int], None]

#: What `compile` takes: an ONNX model or a module, in memory or in a file.
Model: TypeAlias = "str | os.PathLike[str] | onnx.ModelProto | ModuleOp"

#: The level of a module that no pass has seen yet.
IMPORT_LEVEL = "nn"


@dataclass(frozen=True)
class Job:
    """One compilation: everything that `compile` takes, by the same names."""

    model: Model
    options: Options = field(default_factory=Options)
    target: str | os.PathLike[str] | Target = "sme"
    calib: DataSource | Arrays | None = None
    pipeline: str | Pipeline | None = None
    plugins: Sequence[str | os.PathLike[str]] = ()
    dump_ir: str | os.PathLike[str] | None = None
    input_shapes: Mapping[str, Sequence[int]] | None = None
    seed: int = 0
    report: dict[str, Any] = field(default_factory=dict)
    progress: Progress | None = None
    reproducer: str | os.PathLike[str] | None = None
    scheme: str | Scheme | None = None

    def lower(self, compile_to: str | None = None) -> ModuleOp:
        """Import the model, or take up the module, and run the pipeline: all of it, or as far as a level."""
        from smec.passes.base import PassContext

        for plugin in self.plugins:
            load_plugin(plugin)
        tell = self.progress or _silent
        module, passes, calibration = self._module(tell) if record.is_module(self.model) else self._model(tell)
        passes = cut(passes, compile_to, levels_of(module))
        context = PassContext(
            target=record.target_of(module),
            calibration=calibration,
            act_bits=module.act_bits,
            seed=module.seed,
            report=self.report,
            progress=tell,
            plugins=tuple(str(Path(plugin).resolve()) for plugin in self.plugins),
            reproducer=None if self.reproducer is None else Path(self.reproducer),
        )
        dump = None if self.dump_ir is None else Dump(Path(self.dump_ir), len(module.passes))
        if dump is not None and not module.passes:
            dump.write("import", module)
        after = None if dump is None else lambda item, changed_module, _: dump.write(item.name, changed_module)
        passes.run(module, context, after=after)
        return module

    def _model(self, tell: Progress) -> tuple[ModuleOp, Pipeline, Any]:
        """An ONNX model as a module, the pipeline, and the calibration arrays."""
        from smec import targets

        scheme = self._scheme()
        hardware = targets.load(self.target)
        if scheme is not None:
            hardware = scheme.machine(hardware)
        passes = self.passes() if scheme is None else scheme.pipeline(hardware, self.options.calibration_text())
        given = None if self.calib is None else read_arrays(self.calib)
        tell("import", 0, 1)
        module = import_float(self.model, given, self.input_shapes)
        tell("import", 1, 1)
        data = None if given is None else load_data(given, ports_of_module(module))
        record.write(
            module,
            target=hardware,
            act_bits=self.options.act_bits,
            seed=self.seed,
            pipeline=passes.text(),
            source=record.model_source(cast("Any", self.model)),
            data=data,
        )
        return module, passes, None if data is None else data.inputs

    def _module(self, tell: Progress) -> tuple[ModuleOp, Pipeline, Any]:
        """The same for a module, of this process or of a file, with the passes that are left to run."""
        from smec import targets
        from smec.ir.store import load_module
        from smec.passes.pipeline import parse_pipeline

        if self.scheme is not None:
            raise SmecError("a scheme and a module", expected="a scheme with an ONNX model",
                            hint="a module has the passes that are left to run")  # fmt: skip
        tell("import", 0, 1)
        given: Any = self.model
        module: ModuleOp = load_module(Path(given)) if isinstance(given, (str, os.PathLike)) else given.clone()
        tell("import", 1, 1)
        if not module.target:
            module.attributes["target"] = record.target_text(targets.load(self.target))
        passes = parse_pipeline(record.remaining(module)) if self.pipeline is None else self.passes()
        data = None if self.calib is None else load_data(self.calib, ports_of_module(module))
        return module, passes, record.calibration(module, data)

    def _scheme(self) -> Scheme | None:
        """The scheme that was named, after making sure that nothing else says how to map layers."""
        from smec.schemes import parse_scheme

        if self.scheme is None:
            return None
        if self.pipeline is not None:
            raise SmecError("a scheme and a pipeline", expected="one of them")
        settled = [f.name for f in fields(Options) if f.name not in ("method", "act_bits")]
        for name in settled:
            if getattr(self.options, name) != getattr(Options, name):
                what = name.replace("_", "-")
                raise SmecError(f"a scheme settles '{what}'", found=getattr(self.options, name),
                                hint=f"leave '{what}' out, or the scheme")  # fmt: skip
        self.options.check()
        return parse_scheme(self.scheme) if isinstance(self.scheme, str) else self.scheme

    def passes(self) -> Pipeline:
        """The pipeline that was given, else the default one.

        Raises:
            SmecError: an option is out of range, or the pipeline's text is malformed.
        """
        from smec.passes.pipeline import Pipeline, parse_pipeline

        if isinstance(self.pipeline, Pipeline):
            return self.pipeline
        if self.pipeline is not None:
            return parse_pipeline(self.pipeline)
        self.options.check()
        return parse_pipeline(self.options.pipeline_text())


def cut(passes: Pipeline, compile_to: str | None, reached: Sequence[str]) -> Pipeline:
    """The pipeline up to the pass that ensures the level `compile_to`; all of it for None.

    Raises:
        SmecError: no pass ensures the level.
    """
    from smec.passes.pipeline import Pipeline

    if compile_to is None:
        return passes
    if compile_to == IMPORT_LEVEL or compile_to in reached:
        return Pipeline()
    for count, item in enumerate(passes, start=1):
        if compile_to in item.ensures:
            return Pipeline(list(passes)[:count])
    known = ", ".join(dict.fromkeys([IMPORT_LEVEL, *(level for item in passes for level in item.ensures)]))
    raise SmecError("no pass of the pipeline reaches this level", expected=f"one of {known}", found=repr(compile_to))


def levels_of(module: ModuleOp) -> tuple[str, ...]:
    """The levels that a module has reached."""
    from smec.passes.base import levels

    return levels(module)


class Dump:
    """Writes a module after each pass: 00-import.mlir, 01-partition.mlir, ...; arrays go to one side file each.

    `done` passes ran before: the numbers go on from there.
    """

    def __init__(self, folder: Path, done: int) -> None:
        self.folder = folder
        self.count = done + 1 if done else 0
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            found = error.strerror or error
            raise SmecError("cannot make the folder", location=str(folder), found=found) from error

    def write(self, name: str, module: ModuleOp) -> None:
        from smec.ir.store import save_module

        save_module(module, self.folder / f"{self.count:02d}-{name}.mlir")
        self.count += 1


def compile(
    model: Model,
    *,
    target: str | os.PathLike[str] | Target = "sme",
    calib: DataSource | None = None,
    method: str = "mse",
    pattern: str = "uniform",
    bits: int = 8,
    act_bits: int = 8,
    scale: str = "column",
    sign: str | None = None,
    sign_rows: int = 8,
    quantizer: str | None = None,
    squeeze: int | Literal["auto"] = 0,
    shift: str | None = None,
    max_error: float | None = None,
    max_crossbars: int | None = None,
    scheme: str | Scheme | None = None,
    pipeline: str | Pipeline | None = None,
    plugins: Sequence[str | os.PathLike[str]] = (),
    dump_ir: str | os.PathLike[str] | None = None,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    seed: int = 0,
    report: dict[str, Any] | None = None,
    progress: Progress | None = None,
    reproducer: str | os.PathLike[str] | None = None,
) -> Program:
    """Compile an ONNX model to a program, or go on with a module that an earlier compilation left.

    Args:
        model: path of the file, or a model in memory; or a module, in memory (left as it is) or in an `.mlir` file. Of
            a module its own target, options and remaining passes count, not those given here.
        target: name of a preset, path of a TOML file, or a target.
        calib: calibration data, see `smec.data.load_data`: real inputs, in the model's own units. Without it, seeded
            synthetic inputs are used.
        method: calibration of activations: "min-max", "percentile" or "mse" (least squared rounding error).
        pattern: set of the weights' magnitudes: "uniform", "window", "pot" or "apot".
        bits: bits N of a weight's magnitude.
        act_bits: bits A of an activation, 1 to 16.
        scale: one weight scale a "column" (output channel) or a "tensor".
        sign: "differential", "offset", "polarized" or "twos-complement"; None: "differential", with squeeze "auto" what
            is best for each layer.
        sign_rows: g, rows of a tile that share a sign in each column, with "polarized".
        quantizer: how weights are rounded: "nearest", "admm" or "greedy"; None: "nearest", with squeeze "auto" "admm".
        squeeze: bit positions x given up by squeeze-out; 0 leaves it out; "auto" chooses for each layer.
        shift: rule of the row shifts: "leading-one" or "fit"; None: "leading-one", with squeeze "auto" "fit".
        max_error: for squeeze "auto": bound on the squared error of the network's outputs over their power (as 0.01);
            the fewest crossbars within it are sought (`smec.passes.allocate`).
        max_crossbars: for squeeze "auto", instead: bound on the physical crossbars; the least error is sought.
        scheme: a named mapping (`smec.schemes`), as text or as an object; it settles all that the options from
            `pattern` to `max_crossbars` would (but for `act_bits`).
        pipeline: passes, as text or as a pipeline, instead of the default pipeline that the options above describe (see
            `default_pipeline`); for a module, instead of the passes that it has left.
        plugins: Python files that register passes; run before the pipeline is read.
        dump_ir: folder for the module after each pass.
        input_shapes: whole shapes of inputs with symbolic extents beyond the batch.
        seed: of every random choice.
        report: is filled with what each pass has to say, by pass name.
        progress: called as progress(what, done, total).
        reproducer: file that a failing pass leaves behind (`smec.passes.reproducer`); default: a new temporary one.

    Returns:
        The program; `Program.save` writes it to a file.

    Raises:
        SmecError: the model, the data or an option is refused.
    """
    options = Options(
        method, pattern, bits, act_bits, scale, sign, sign_rows, quantizer, squeeze, shift, max_error, max_crossbars
    )
    report = {} if report is None else report
    job = Job(
        model, options, target, calib, pipeline, tuple(plugins), dump_ir, input_shapes, seed, report, progress,
        reproducer, scheme,
    )  # fmt: skip
    return assemble(job.lower())


def default_pipeline(**options: Any) -> Pipeline:
    """The pipeline that `compile` runs with these options (`pattern`, `squeeze`, ...), for a user to change:

        pipeline = smec.default_pipeline(squeeze=3).insert_after("compact", MyPass())
        program = smec.compile("model.onnx", pipeline=pipeline)

    Raises:
        SmecError: an option is out of range.
    """
    from smec.passes.pipeline import parse_pipeline

    chosen = Options(**options)
    chosen.check()
    return parse_pipeline(chosen.pipeline_text())


def lower(model: Model, compile_to: str, **options: Any) -> ModuleOp:
    """Run the pipeline as far as a level and return the module.

    Args:
        model: as for `compile`.
        compile_to: the level to stop at, "nn" to "isa".
        options: the keywords of `compile`.

    Raises:
        SmecError: as for `compile`, and where the pipeline does not reach the level.
    """
    names = {f.name for f in fields(Options)}
    chosen = Options(**{key: value for key, value in options.items() if key in names})
    job = Job(model, chosen, **{key: value for key, value in options.items() if key not in names})
    return job.lower(compile_to)


def assemble(module: ModuleOp) -> Program:
    """The program of a module that the pipeline took all the way.

    Raises:
        SmecError: the pipeline did not end in `emit`.
    """
    from smec.ir.dialects.isa import to_words
    from smec.program import Program

    program_op = module.program
    sections, emitted = to_words(program_op)
    sections |= oracle_sections(module)
    sections |= record.sample_sections(module)
    dense = {f"crossbars_dense_{n}": dense_crossbars(emitted["layers"], emitted["target"], n) for n in (16, 8)}
    metadata = {
        "smec_version": version(),
        **emitted,
        **dense,
        "options": record.options_entry(module),
        "source": record.source_entry(module),
    }
    program = Program(sections, cast("Metadata", metadata))
    program.validate()
    return program


def dense_crossbars(layers: Sequence[Mapping[str, Any]], target: Mapping[str, Any], columns: int) -> int:
    """Crossbars of a dense mapping of these layers: offset coding, `columns` adjacent one-bit columns a weight."""
    from smec.passes.mapping.tiling import crossbars_dense

    total = 0
    for layer in layers:
        groups = int(layer.get("groups", 1))
        k, m = int(layer["K"]) // groups, int(layer["M"]) // groups
        total += crossbars_dense(groups, k, m, int(target["rows"]), int(target["columns"]), columns)
    return total


def _silent(what: str, done: int, total: int) -> None:
    """Show nothing."""


def version() -> str:
    """The version of this package."""
    from importlib.metadata import version as installed

    return installed("smec")


def import_float(
    model: Model, given: Arrays | None = None, input_shapes: Mapping[str, Sequence[int]] | None = None
) -> ModuleOp:
    """An ONNX model as a module at the level "nn".

    Args:
        model: as for `compile`, but no module.
        given: arrays of the inputs: they may settle extents that the model leaves open.
        input_shapes: as for `compile`.

    Raises:
        SmecError: the model or the arrays are refused.
    """
    from smec.frontend.inputs import real_inputs
    from smec.frontend.load import import_model
    from smec.frontend.model_file import read

    source: Any = Path(model) if isinstance(model, (str, os.PathLike)) else model
    sample = None if given is None else given.named([value.name for value in real_inputs(read(source))])
    return import_model(source, input_shapes=input_shapes, sample=sample)
