"""Runs a pipeline on IR text, and looks on: `smec opt`.

A text may hold several modules, parted by lines `// -----`; each is read, verified, rewritten and printed by itself.
What is shown on the way (modules, times, comparisons) goes to `show`, line by line, so that the result stays clean.
"""

from __future__ import annotations

import re
import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smec import record
from smec.data import DataSource, load_data, ports_of_module
from smec.ir.core import Operation
from smec.ir.dialects.builtin import ModuleOp
from smec.ir.errors import SmecError, SourceSpan
from smec.ir.parser import parse_module
from smec.ir.printer import print_module
from smec.ir.store import load_weights, side_file
from smec.ir.types import Handle
from smec.ir.verifier import verify
from smec.passes.base import Pass, PassContext
from smec.passes.legality import check_legal
from smec.passes.pipeline import AfterPass, BeforePass, Pipeline, parse_pipeline
from smec.passes.reproducer import is_reproducer, read_reproducer

if TYPE_CHECKING:
    from smec.targets import Target

Show = Callable[[str], None]

_SPLIT = re.compile(r"^// -----[ \t]*$", re.MULTILINE)
_EXPECTED = re.compile(r"//\s*expected-error(?:@([+-]\d{1,6}|above|below|unknown))?\s*\{\{(.*?)\}\}")


@dataclass(frozen=True)
class Settings:
    """What `optimize` may be asked for; the command line has options of the same names."""

    pipeline: str = ""
    target: str | None = None
    act_bits: int | None = None
    seed: int | None = None
    calib: DataSource | None = None
    plugins: Sequence[str] = ()
    print_ir_before: Sequence[str] = ()
    print_ir_after: Sequence[str] = ()
    print_ir_after_all: bool = False
    print_ir_after_change: bool = False
    time_passes: bool = False
    verify_each: bool = False
    images: int = 4
    split_input_file: bool = False
    verify_diagnostics: bool = False
    reproducer: str | None = None


@dataclass
class Source:
    """One module of a text: its lines stand where they stand in the file."""

    text: str
    file: str
    weights: dict[str, Handle] | None
    places: dict[Operation, tuple[int, int]] = field(default_factory=dict)

    def parse(self) -> ModuleOp:
        return parse_module(self.text, self.file, self.weights, places=self.places)

    def locate(self, error: SmecError) -> SmecError:
        """The error with its operation's place in this text, if the operation was read from it."""
        place = self.places.get(error.operation)
        if place is not None and not isinstance(error.location, SourceSpan):
            error.source = SourceSpan.at(self.text, place[0], self.file, place[1])
        return error


def optimize(text: str, file: str, settings: Settings, show: Show) -> list[ModuleOp]:
    """Run a pipeline on every module of a text; a reproducer brings its own.

    Args:
        text: IR text.
        file: its name; the arrays are in the side file beside it, if there is one.
        settings: the pipeline, and what to show.
        show: receives what is shown on the way.

    Returns:
        the modules, none with `verify_diagnostics`.

    Raises:
        SmecError: the text is malformed, a pass fails, `verify_each` finds a difference, or a diagnostic is not the
            expected one.
    """
    side = side_file(file)
    weights = load_weights(side) if file != "-" and side.is_file() and side != Path(file) else None
    if is_reproducer(text):
        return [_reproduce(text, file, settings, show)]
    chunks = split(text) if settings.split_input_file else [text]
    sources = [Source(chunk, file, weights) for chunk in chunks]
    if settings.verify_diagnostics:
        faults = [fault for source in sources for fault in _diagnostics(source, settings, show)]
        if faults:
            raise SmecError("\n".join(faults), location=file)
        return []
    return [_optimize_one(source, settings, show) for source in sources]


def split(text: str) -> list[str]:
    """The parts of a text between lines `// -----`, each behind as many empty lines as stand before it."""
    parts, start = [], 0
    for match in [*_SPLIT.finditer(text), None]:
        end = len(text) if match is None else match.start()
        parts.append("\n" * text.count("\n", 0, start) + text[start:end])
        start = end if match is None else match.end()
    return parts


def _optimize_one(source: Source, settings: Settings, show: Show) -> ModuleOp:
    try:
        module = source.parse()
        verify(module)
        check_legal(module)
        return _run(module, parse_pipeline(settings.pipeline), _context(module, settings), settings, show)
    except SmecError as error:
        raise source.locate(error) from error.__cause__


def _context(module: ModuleOp, settings: Settings) -> PassContext:
    """What the module records of its compilation; a setting that is given takes its place."""
    from smec import targets

    if settings.target is not None or not module.target:
        module.attributes["target"] = record.target_text(targets.load(settings.target or "sme"))
    for name in ("act_bits", "seed"):
        value = getattr(settings, name)
        if value is not None:
            module.attributes[name] = value
    data = None if settings.calib is None else load_data(settings.calib, ports_of_module(module))
    return PassContext(
        target=record.target_of(module),
        calibration=record.calibration(module, data),
        act_bits=module.act_bits,
        seed=module.seed,
        plugins=tuple(str(Path(plugin).resolve()) for plugin in settings.plugins),
        reproducer=None if settings.reproducer is None else Path(settings.reproducer),
    )


def _reproduce(text: str, file: str, settings: Settings, show: Show) -> ModuleOp:
    """Run what a failing pass left behind."""
    from smec import targets
    from smec.plugins import load_plugin

    found = read_reproducer(text, file)
    values = found.context
    for plugin in values.get("plugins", []):
        load_plugin(plugin)
    hardware: Target | None = targets.from_values(values["target"], file) if values.get("target") else None
    context = PassContext(
        target=hardware,
        calibration=found.calibration or record.calibration(found.module, None),
        act_bits=int(values.get("act_bits", 8)),
        seed=int(values.get("seed", 0)),
        # Of the same failure there is a reproducer already: the file at hand.
        reproducer=Path(settings.reproducer) if settings.reproducer else False,
    )
    return _run(found.module, parse_pipeline(settings.pipeline or found.pipeline), context, settings, show)


# -- looking on --------------------------------------------------------------------------------------------------------


class Watcher:
    """Looks on while a pipeline runs."""

    def start(self, module: ModuleOp) -> None:
        """Called before the first pass."""

    def before(self, item: Pass, module: ModuleOp) -> None:
        """Called before each pass."""

    def after(self, item: Pass, module: ModuleOp, changed: bool) -> None:
        """Called after each pass."""

    def finish(self) -> None:
        """Called at the end, also after an error."""


class IrPrinter(Watcher):
    """Shows the module before and after passes."""

    def __init__(self, settings: Settings, show: Show) -> None:
        self.settings, self.show, self.text = settings, show, ""

    def start(self, module: ModuleOp) -> None:
        if self.settings.print_ir_after_change:
            self.text = _content(module)

    def before(self, item: Pass, module: ModuleOp) -> None:
        if item.name in self.settings.print_ir_before:
            self._dump("before", item, print_module(module))

    def after(self, item: Pass, module: ModuleOp, changed: bool) -> None:
        settings = self.settings
        if settings.print_ir_after_all or item.name in settings.print_ir_after:
            self._dump("after", item, print_module(module))
        elif settings.print_ir_after_change:
            text = _content(module)
            if text != self.text:
                self._dump("after", item, print_module(module))
            self.text = text

    def _dump(self, when: str, item: Pass, text: str) -> None:
        self.show(f"// ---- module {when} {item.text()}")
        self.show(text.rstrip("\n"))


def _content(module: ModuleOp) -> str:
    """A module's text without the attributes in which the pipeline keeps its books: its last line."""
    return print_module(module, aliases=False).rstrip("\n").rpartition("\n")[0]


class Timer(Watcher):
    """Measures each pass: wall time, and what the process holds afterwards."""

    def __init__(self, show: Show) -> None:
        self.show = show
        self.rows: list[tuple[str, float, float, float]] = []
        self.began = 0.0
        self.held = 0.0

    def before(self, item: Pass, module: ModuleOp) -> None:
        self.held, self.began = resident_mb(), time.perf_counter()

    def after(self, item: Pass, module: ModuleOp, changed: bool) -> None:
        seconds, held = time.perf_counter() - self.began, resident_mb()
        self.rows.append((item.text(), seconds, held, held - self.held))

    def finish(self) -> None:
        total = sum(row[1] for row in self.rows)
        self.show("// ---- passes: seconds, share, MiB held afterwards, MiB more than before")
        for name, seconds, held, more in self.rows:
            share = 100 * seconds / total if total else 0.0
            self.show(f"{seconds:10.4f} {share:6.1f} % {held:9.1f} {more:+9.1f}  {name}")
        self.show(f"{total:10.4f}  100.0 % {resident_mb():9.1f}            total")


def resident_mb() -> float:
    """Memory that the process holds, MiB; where the system does not say, the most that it has held."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        return pages * resource.getpagesize() / 2**20
    except (OSError, ValueError, IndexError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / (2**20 if sys.platform == "darwin" else 2**10)


def _run(module: ModuleOp, pipeline: Pipeline, context: PassContext, settings: Settings, show: Show) -> ModuleOp:
    watchers: list[Watcher] = [IrPrinter(settings, show)]
    if settings.time_passes:
        watchers.append(Timer(show))
    if settings.verify_each:
        from smec.equivalence import ResultCheck

        watchers.append(ResultCheck(context, settings.images, show))
    for name in (*settings.print_ir_before, *settings.print_ir_after):
        pipeline.index(name)

    def before(item: Pass, current: ModuleOp) -> None:
        for watcher in reversed(watchers):  # the timer starts last and stops first
            watcher.before(item, current)

    def after(item: Pass, current: ModuleOp, changed: bool) -> None:
        for watcher in sorted(watchers, key=lambda w: not isinstance(w, Timer)):
            watcher.after(item, current, changed)

    hooks: tuple[BeforePass, AfterPass] = (before, after)
    try:
        for watcher in watchers:
            watcher.start(module)
        pipeline.run(module, context, before=hooks[0], after=hooks[1])
    finally:
        for watcher in watchers:
            watcher.finish()
    return module


# -- expected diagnostics ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Expected:
    message: str
    line: int | None


def _expected(text: str) -> list[_Expected]:
    """What comments `// expected-error@+1 {{message}}` announce; line None is a place outside the text."""
    found = []
    for number, line in enumerate(text.split("\n"), start=1):
        for match in _EXPECTED.finditer(line):
            where = match[1] or "+0"
            at = {"above": number - 1, "below": number + 1, "unknown": None}.get(where, number)
            found.append(_Expected(match[2], number + int(where) if where[0] in "+-" else at))
    return found


def _diagnostics(source: Source, settings: Settings, show: Show) -> list[str]:
    """What is wrong with the diagnostics of one module, in words."""
    wanted = _expected(source.text)
    error: SmecError | None = None
    try:
        _optimize_one(source, settings, show)
    except SmecError as caught:
        error = caught
    line = None if error is None else _line_of(error)
    shown = "" if error is None else str(error).splitlines()[0]
    met = next((e for e in wanted if error is not None and e.message in shown and e.line == line), None)
    if error is None or met is not None:
        missing = [e for e in wanted if e is not met]
        return [f"{_place(source.file, e.line)}: no error, expected {e.message!r}" for e in missing]
    listed = "; ".join(f"{e.message!r} at {_place(source.file, e.line)}" for e in wanted) or "none"
    return [f"{_place(source.file, line)}: unexpected error {error.message!r}, expected {listed}"]


def _line_of(error: SmecError) -> int | None:
    span: Any = error.location if isinstance(error.location, SourceSpan) else error.source
    return None if span is None else int(span.line)


def _place(file: str, line: int | None) -> str:
    return file if line is None else f"{file}:{line}"
