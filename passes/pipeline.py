"""A pipeline: a straight list of passes, as objects or as text.

`parse_pipeline("quantize-admm{pattern=window bits=8},squeeze-out{depth=auto}")` and `Pipeline.text` are inverse to each
other. `Pipeline.run` checks what each pass requires, runs it, verifies the module, and records what the pass ensures.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, cast

import lark

from smec.ir.dialects.builtin import ModuleOp
from smec.ir.errors import SmecError, SourceSpan
from smec.ir.linear_algebra import single_threaded_blas
from smec.ir.printer import print_module
from smec.ir.verifier import verify
from smec.passes.base import (
    BUILTIN_PASSES,
    PASSES,
    RAN,
    Pass,
    PassContext,
    add_levels,
    convert_value,
    levels,
    options,
    origin,
    pass_class,
)
from smec.passes.legality import check_legal
from smec.passes.reproducer import write_reproducer

#: Called before a pass runs.
BeforePass = Callable[[Pass, ModuleOp], None]
#: Called after a pass ran and the module was verified; the last argument says whether the pass changed anything.
AfterPass = Callable[[Pass, ModuleOp, bool], None]

#: Longest pipeline text, in characters.
MAX_TEXT = 1 << 16


class Pipeline:
    """A list of passes that run one after another."""

    def __init__(self, passes: Iterable[Pass] = ()) -> None:
        self.passes: list[Pass] = list(passes)

    def __iter__(self) -> Iterator[Pass]:
        return iter(self.passes)

    def __len__(self) -> int:
        return len(self.passes)

    def __eq__(self, other: object) -> bool:
        return self.passes == other.passes if isinstance(other, Pipeline) else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # it can change

    def __repr__(self) -> str:
        return f"Pipeline({self.text()!r})"

    @property
    def names(self) -> list[str]:
        """The names of the passes, in order."""
        return [p.name for p in self.passes]

    def text(self) -> str:
        """The pipeline in the form that `parse_pipeline` reads."""
        return ",".join(p.text() for p in self.passes)

    # -- editing

    def index(self, name: str) -> int:
        """Place of the first pass called `name`.

        Raises:
            SmecError: there is none.
        """
        for index, item in enumerate(self.passes):
            if item.name == name:
                return index
        close = get_close_matches(name, self.names, n=2, cutoff=0.5)
        hint = (
            f"did you mean {' or '.join(map(repr, close))}?" if close else f"the pipeline is {self.text() or 'empty'}"
        )
        raise SmecError(f"no pass '{name}' in the pipeline", hint=hint)

    def insert_before(self, name: str, item: Pass) -> Pipeline:
        """Insert a pass before the first one called `name`; returns the pipeline."""
        self.passes.insert(self.index(name), item)
        return self

    def insert_after(self, name: str, item: Pass) -> Pipeline:
        """Insert a pass after the first one called `name`; returns the pipeline."""
        self.passes.insert(self.index(name) + 1, item)
        return self

    def replace(self, name: str, item: Pass) -> Pipeline:
        """Put a pass in the place of the first one called `name`; returns the pipeline."""
        self.passes[self.index(name)] = item
        return self

    def remove(self, name: str) -> Pipeline:
        """Remove the first pass called `name`; returns the pipeline."""
        del self.passes[self.index(name)]
        return self

    # -- running

    def run(
        self,
        module: ModuleOp,
        context: PassContext,
        *,
        before: BeforePass | None = None,
        after: AfterPass | None = None,
        check_changed: bool = False,
    ) -> bool:
        """Run all passes on `module`, in place; returns whether any changed it.

        The module is verified before the first pass and after each. `context.report["pipeline"]` receives, for each
        pass, {"pass": its text, "seconds": wall time, "changed": bool}; the module's attribute `passes` the text. A
        pass that fails otherwise than by SmecError, or leaves an invalid module, also leaves a reproducer
        (`smec.passes.reproducer`).

        Args:
            module: what to rewrite.
            context: what the passes share.
            before, after: called around each pass.
            check_changed: also check, by the module's text, that a pass which reports no change made none (for tests).

        Raises:
            SmecError: a pass is out of order, fails, leaves an invalid module, or misreports.
        """
        verify(module)
        check_legal(module)
        record: list[dict[str, Any]] = []
        context.report["pipeline"] = record
        any_changed = False
        for number, item in enumerate(self.passes):
            self._check_levels(item, module)
            if before is not None:
                before(item, module)
            text = print_module(module) if check_changed else ""
            snapshot = module.clone()
            start = time.perf_counter()
            try:
                with single_threaded_blas():
                    changed = _run_pass(item, module, context)
                seconds = time.perf_counter() - start
                _check_after(item, module, verify)
                if check_changed and not changed and print_module(module) != text:
                    raise SmecError(f"{_named(item)} changed the module and reports that it did not")
                add_levels(module, item.ensures)
                _check_after(item, module, check_legal)
            except _PassFaultError as fault:
                rest = Pipeline(self.passes[number:])
                raise fault.reported(cast("ModuleOp", snapshot), rest, context) from fault.__cause__
            module.attributes[RAN] = (*cast("tuple[str, ...]", module.attributes.get(RAN, ())), item.text())
            record.append({"pass": item.text(), "seconds": seconds, "changed": changed})
            any_changed |= changed
            if after is not None:
                after(item, module, changed)
        return any_changed

    def _check_levels(self, item: Pass, module: ModuleOp) -> None:
        reached = levels(module)
        reached_text = ", ".join(reached) or "none"
        for level in item.requires:
            if level not in reached:
                hint = _who_ensures(level)
                message = f"pass '{item.name}' requires level {level}"
                raise SmecError(message, location=module.location, found=f"levels {reached_text}", hint=hint)
        for level in item.forbids:
            if level in reached:
                message = f"pass '{item.name}' must run before level {level} is reached"
                raise SmecError(message, location=module.location, found=f"levels {reached_text}")


def _who_ensures(level: str) -> str | None:
    makers = sorted(name for name in {*BUILTIN_PASSES, *PASSES} if level in pass_class(name).ensures)
    return f"run {' or '.join(map(repr, makers))} first" if makers else None


class _PassFaultError(Exception):
    """A fault of a pass, not of the user's input; `reported` makes the error for the user."""

    def __init__(self, error: SmecError) -> None:
        super().__init__(error.message)
        self.error = error

    def reported(self, module: ModuleOp, rest: Pipeline, context: PassContext) -> SmecError:
        """The error, after the reproducer was written: `module` as the pass got it, `rest` from the pass on."""
        if context.reproducer is False:
            return self.error
        target = context.target
        figures = {
            "act_bits": context.act_bits,
            "seed": context.seed,
            "target": target.model_dump() if hasattr(target, "model_dump") else None,
            "plugins": list(context.plugins),
        }
        data = context.calibration if isinstance(context.calibration, dict) else None  # else: nobody gave them again
        try:
            path = write_reproducer(context.reproducer, module, rest.text(), figures, data, self.error.message)
            hint = f"`smec opt {path}` repeats it"
        except (SmecError, ValueError) as problem:
            hint = f"no reproducer: {problem}"
        self.error.hint = f"{self.error.hint}; {hint}" if self.error.hint else hint
        return self.error


def _named(item: Pass) -> str:
    """The pass, and the file it comes from if it is not one of ours."""
    file = origin(type(item))
    return f"pass '{item.name}'{f' (plug-in {file})' if file else ''}"


def _run_pass(item: Pass, module: ModuleOp, context: PassContext) -> bool:
    run: Callable[[ModuleOp, PassContext], object] = item.run  # a plug-in may return anything
    try:
        changed = run(module, context)
    except SmecError:
        raise
    except Exception as error:
        what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise _PassFaultError(SmecError(f"{_named(item)} fails: {what}", location=module.location)) from error
    if not isinstance(changed, bool):
        message = f"{_named(item)} does not say whether it changed the module"
        raise _PassFaultError(SmecError(message, expected="True or False", found=repr(changed)[:80]))
    return changed


def _check_after(item: Pass, module: ModuleOp, check: Callable[[ModuleOp], None]) -> None:
    try:
        check(module)
    except SmecError as error:
        error.message = f"invalid module after {_named(item)}: {error.message}"
        error.hint = error.hint or "this is a fault of the pass, not of the model"
        raise _PassFaultError(error) from error
    except Exception as error:
        # What a pass left may be too broken for the verifier, or for an operation's own check.
        what = f"{type(error).__name__}: {error}"
        message = f"invalid module after {_named(item)}: it cannot be checked ({what})"
        raise _PassFaultError(SmecError(message, location=module.location)) from error


# -- text --------------------------------------------------------------------------------------------------------------


class _Part(NamedTuple):
    """A word of the text and where it starts."""

    text: str
    start: int


class _Option(NamedTuple):
    key: _Part
    value: _Part


class _Pass(NamedTuple):
    name: _Part
    options: list[_Option]


class _Tree:
    """What lark calls as it reduces."""

    def _part(self, token: lark.Token) -> _Part:
        return _Part(token.value, token.start_pos or 0)

    NAME = KEY = PLAIN = QUOTED = _part

    def option(self, children: list[Any]) -> _Option:
        return _Option(*children)

    def start(self, children: list[Any]) -> list[_Pass]:
        return [c for c in children if c is not None]


def _pass(_: _Tree, children: list[Any]) -> _Pass:
    return _Pass(children[0], [c for c in children[1:] if c is not None])


setattr(_Tree, "pass", _pass)  # the grammar's rule has the name of a Python keyword


@cache
def _lark() -> lark.Lark:
    grammar = (Path(__file__).parent / "pipeline.lark").read_text(encoding="utf-8")
    return lark.Lark(grammar, parser="lalr", lexer="contextual", transformer=_Tree(), maybe_placeholders=True)


_READABLE = {
    "NAME": "a pass name",
    "KEY": "an option name",
    "PLAIN": "a value",
    "EQUAL": "'='",
    "LBRACE": "'{'",
    "RBRACE": "'}'",
    "COMMA": "','",
    "$END": "the end of the text",
    "<END-OF-FILE>": "the end of the text",
}


def parse_pipeline(text: str, file: str = "<pipeline>") -> Pipeline:
    """Read a pipeline.

    Args:
        text: passes parted by commas, each with options in braces, as in the grammar `pipeline.lark`.
        file: name of the text in messages.

    Raises:
        SmecError: malformed text, an unknown pass or option, or a value of the wrong type, with its place.
    """
    return Pipeline(parse_items(text, file, "pass", pass_class))


def parse_items(text: str, file: str, kind: str, find: Callable[[str, SourceSpan], Any]) -> list[Any]:
    """Read objects parted by commas, each with options in braces: frozen dataclasses whose fields are their options.

    Args:
        text: in the grammar `pipeline.lark`.
        file: name of the text in messages.
        kind: what messages call an object, as in "pass".
        find: the class of a name at a place; raises SmecError where there is none.

    Raises:
        SmecError: see `parse_pipeline`.
    """
    if len(text) > MAX_TEXT:
        what = "pipeline" if kind == "pass" else kind
        raise SmecError(f"{what} text is too long", location=file, expected=f"at most {MAX_TEXT} characters")
    try:
        items = cast("list[_Pass]", _lark().parse(text))  # what `_Tree.start` returns
    except lark.UnexpectedCharacters as error:
        raise _syntax_error(text, error.pos_in_stream or 0, file, set(error.allowed or ())) from None
    except lark.UnexpectedToken as error:
        start = len(text.rstrip()) if error.token.type == "$END" else (error.token.start_pos or 0)
        raise _syntax_error(text, start, file, set(error.accepts or error.expected)) from None
    return [_instance(item, text, file, kind, find) for item in items]


def _syntax_error(text: str, start: int, file: str, expected: set[str]) -> SmecError:
    names = [readable for terminal, readable in _READABLE.items() if terminal in expected]
    found = repr(text[start]) if start < len(text) else "the end of the text"
    location = SourceSpan.at(text, start, file)
    return SmecError("syntax error", location=location, expected=" or ".join(names) or None, found=found)


def _instance(item: _Pass, text: str, file: str, kind: str, find: Callable[[str, SourceSpan], Any]) -> Any:
    def span(part: _Part) -> SourceSpan:
        return SourceSpan.at(text, part.start, file, len(part.text))

    name = item.name.text
    cls = find(name, span(item.name))
    known = {option.name: option for option in options(cls)}
    values: dict[str, Any] = {}
    for key, value in item.options:
        option = known.get(key.text)
        if option is None:
            close = get_close_matches(key.text.replace("_", "-"), known, n=2, cutoff=0.5)
            hint = (
                f"did you mean {' or '.join(map(repr, close))}?" if close else f"options: {', '.join(known) or 'none'}"
            )
            raise SmecError(f"{kind} '{name}' has no option '{key.text}'", location=span(key), hint=hint)
        if option.field in values:
            raise SmecError(f"option '{key.text}' is given twice", location=span(key))
        plain, quoted = _unquote(value.text)
        try:
            values[option.field] = convert_value(plain, option.type, quoted=quoted)
        except ValueError:
            message = f"wrong value for option '{key.text}' of {kind} '{name}'"
            raise SmecError(message, location=span(value), expected=option.type_text, found=value.text) from None
    for option in known.values():
        if option.required and option.field not in values:
            message = f"{kind} '{name}' lacks its option '{option.name}'"
            raise SmecError(message, location=span(item.name), expected=option.type_text)
    try:
        return cls(**values)
    except SmecError as error:
        error.location = error.location or span(item.name)
        raise


def _unquote(text: str) -> tuple[str, bool]:
    """The value that a word of the text spells, and whether it was quoted."""
    if not text.startswith('"'):
        return text, False
    return re.sub(r"\\(.)", lambda m: "\n" if m[1] == "n" else m[1], text[1:-1]), True
