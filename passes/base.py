"""What a pass is, what it may see, and how passes are found by name.

A pass is a frozen dataclass; its fields are its options, in Python and in pipeline text alike (`act_bits` there is
`act-bits` here). One file holds one pass, and file, class and command-line name are the same words::

    @register_pass
    @dataclass(frozen=True)
    class SqueezeOut(Pass):
        \"\"\"Shift sparse rows down so that the lowest planes empty.\"\"\"

        name = "squeeze-out"
        requires = ("xbar.tiled",)
        ensures = ("xbar.squeezed",)

        depth: int | Literal["auto"] = field(default="auto", metadata={"doc": "bit positions given up"})

        def run(self, module: ModuleOp, context: PassContext) -> bool: ...

Levels are plain names that a module collects in its attribute `levels` as passes establish them: a pass states which
ones it `requires` and which it `ensures`, and the pipeline checks the first and records the second.
"""

from __future__ import annotations

import dataclasses
import sys
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np

from smec.ir.dialects.builtin import ModuleOp
from smec.ir.errors import SourceSpan
from smec.passes.registry import Registry

#: Name of the entry-point group by which other packages offer passes.
ENTRY_POINT_GROUP = "smec.passes"

#: The passes of this package; the file and the class of each have the same words as its name.
_BUILTIN_NAMES = (
    "allocate",
    "assign-cores",
    "calibrate",
    "compact",
    "emit",
    "group-rows",
    "partition",
    "quantize-activations",
    "quantize-admm",
    "quantize-greedy",
    "quantize-nearest",
    "replicate",
    "slice-bits",
    "squeeze-out",
    "tile",
)


def _place_of(name: str) -> str:
    words = name.split("-")
    return f"smec.passes.{'_'.join(words)}:{''.join(map(str.capitalize, words))}"


#: Passes of this package by name, as "module:Class": listing them imports none of them.
BUILTIN_PASSES: dict[str, str] = {name: _place_of(name) for name in _BUILTIN_NAMES}

PassT = TypeVar("PassT", bound="type[Pass]")

#: Module attribute that holds the levels reached so far, in order.
LEVELS = "levels"

#: Module attribute that holds the passes that ran so far, as pipeline text each.
RAN = "passes"


def _no_progress(what: str, done: int, total: int) -> None:
    """Show nothing."""


@dataclass
class PassContext:
    """What the passes of one compilation share.

    Attributes:
        target: the hardware description (a `smec.targets.Target`); None where no pass of the pipeline asks for it.
        calibration: user arrays (B, ...) for each graph input, real units; None when no data was given.
        act_bits: width A of activations, 1 to 16.
        seed: of every random choice.
        report: each pass writes its figures under its own name; the pipeline adds `pipeline`, a list of
            {"pass", "seconds", "changed"}.
        progress: called as progress(what, done, total) during long steps.
        cache: results that one pass leaves for another, to save time; never part of the output, and absent where a
            compilation goes on from a module that was written to a file.
        plugins: files of plug-ins that were loaded, for whoever runs a reproducer.
        reproducer: where a failing pass leaves its reproducer; None: a new file in the folder for temporary files;
            False: none is written.
    """

    target: Any = None
    calibration: dict[str, np.ndarray] | None = None
    act_bits: int = 8
    seed: int = 0
    report: dict[str, Any] = field(default_factory=dict)
    progress: Callable[[str, int, int], None] = _no_progress
    cache: dict[str, Any] = field(default_factory=dict)
    plugins: tuple[str, ...] = ()
    reproducer: Path | Literal[False] | None = None


@dataclass(frozen=True)
class Pass:
    """Base of all passes. A subclass is a frozen dataclass whose fields are its options."""

    #: Name on the command line and in pipeline text: lower-case words with dashes.
    name: ClassVar[str] = ""
    #: Levels that the module must have reached before.
    requires: ClassVar[tuple[str, ...]] = ()
    #: Levels that the module must not have reached: what this pass would undo or can no longer do.
    forbids: ClassVar[tuple[str, ...]] = ()
    #: Levels that the module has reached afterwards.
    ensures: ClassVar[tuple[str, ...]] = ()
    #: Whether the network computes the same, bit for bit, before and after. A pass that rounds says False.
    exact: ClassVar[bool] = True

    def run(self, module: ModuleOp, context: PassContext) -> bool:
        """Rewrite `module` in place; return whether anything changed.

        Raises:
            SmecError: the module or the context does not allow it.
        """
        raise NotImplementedError

    def text(self) -> str:
        """The pass in pipeline text, with the options that differ from their defaults."""
        return item_text(self)


def levels(module: ModuleOp) -> tuple[str, ...]:
    """The levels that `module` has reached, in order."""
    value = module.attributes.get(LEVELS, ())
    return value if isinstance(value, tuple) else ()


def add_levels(module: ModuleOp, names: tuple[str, ...]) -> None:
    """Record that `module` has reached the levels `names`."""
    reached = levels(module)
    fresh = tuple(n for n in names if n not in reached)
    if fresh:
        module.attributes[LEVELS] = reached + fresh


# -- options -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Option:
    """One option of a pass or a scheme: name in pipeline text, field, type annotation, default and help."""

    name: str
    field: str
    type: Any
    default: Any
    required: bool
    doc: str

    @property
    def type_text(self) -> str:
        return describe_type(self.type)


_OPTIONS: dict[type[Any], tuple[Option, ...]] = {}


def options(cls: type[Any]) -> tuple[Option, ...]:
    """The options of a pass class, or of any other dataclass, in the order of its fields."""
    if cls in _OPTIONS:
        return _OPTIONS[cls]
    hints = typing.get_type_hints(cls)
    found = []
    for f in dataclasses.fields(cls):
        default = f.default
        if f.default_factory is not dataclasses.MISSING:
            default = f.default_factory()
        required = default is dataclasses.MISSING
        doc = str(f.metadata.get("doc", ""))
        found.append(
            Option(f.name.replace("_", "-"), f.name, hints[f.name], None if required else default, required, doc)
        )
    _OPTIONS[cls] = tuple(found)
    return _OPTIONS[cls]


def item_text(item: Any) -> str:
    """A pass or a scheme as text: its name, and in braces the options that differ from their defaults."""
    parts = []
    for option in options(type(item)):
        value = getattr(item, option.field)
        if option.required or value != option.default or type(value) is not type(option.default):
            parts.append(f"{option.name}={format_value(value)}")
    return f"{item.name}{{{' '.join(parts)}}}" if parts else str(item.name)


def describe_type(kind: Any) -> str:
    """A type annotation in words: `int`, `window|uniform`, `int|auto`, `list of int`."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return "|".join(str(a) for a in args)
    if origin in (typing.Union, types.UnionType):
        return "|".join(describe_type(a) for a in args)
    if origin is tuple:
        return f"list of {describe_type(args[0])}"
    if kind is type(None):
        return "none"
    if kind is str:
        return "text"
    if kind is bool:
        return "true|false"
    return str(getattr(kind, "__name__", kind))


class _MismatchError(Exception):
    """The text is not a value of the annotation at hand."""


def convert_value(text: str, kind: Any, *, quoted: bool = False) -> Any:
    """The option value that `text` spells, by the type annotation `kind`.

    Annotations may be bool, int, float, str, None, Literal, unions of those, and `tuple[T, ...]` (items parted by
    commas).
    A quoted text is only ever a string.

    Raises:
        ValueError: `text` spells no such value.
    """
    try:
        return _convert(text, kind, quoted)
    except _MismatchError:
        raise ValueError(f"not a value of type {describe_type(kind)}: {text!r}") from None


def _convert(text: str, kind: Any, quoted: bool) -> Any:
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        # Text fits `str` always, so that it comes last whatever the order of the annotation.
        for choice in sorted(args, key=lambda a: a is str):
            try:
                return _convert(text, choice, quoted)
            except _MismatchError:
                continue
        raise _MismatchError
    if origin is Literal:
        for choice in args:
            if format_scalar(choice) == text and (isinstance(choice, str) or not quoted):
                return choice
        raise _MismatchError
    if origin is tuple:
        return tuple(_convert(part, args[0], quoted) for part in text.split(",")) if text else ()
    if kind is str:
        return text
    if quoted:
        raise _MismatchError
    return _convert_scalar(text, kind)


def _convert_scalar(text: str, kind: Any) -> Any:
    if kind is bool and text in ("true", "false"):
        return text == "true"
    if kind is type(None) and text == "none":
        return None
    if kind in (int, float) and "_" not in text and len(text) <= 64:
        try:
            return kind(text)
        except ValueError:
            raise _MismatchError from None
    raise _MismatchError


def format_scalar(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return "none"
    return repr(value) if isinstance(value, float) else str(value)


#: Characters of an option value that needs no quotes.
PLAIN_VALUE = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.+-:/*,")


def format_value(value: Any) -> str:
    """An option value as pipeline text spells it; the inverse of `convert_value`.

    Raises:
        ValueError: a tuple holds a string with a comma, or only an empty one: pipeline text has no form for these.
    """
    if isinstance(value, tuple):
        if value == ("",) or any("," in v for v in value if isinstance(v, str)):
            raise ValueError(f"option value has no form in pipeline text: {value!r}")
        text = ",".join(map(format_scalar, value))
    else:
        text = format_scalar(value)
    # A string that reads as a number, a truth value or none is quoted, so that a union takes it for a string.
    ambiguous = isinstance(value, str) and _reads_as_other(text)
    if text and not ambiguous and PLAIN_VALUE.issuperset(text):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def _reads_as_other(text: str) -> bool:
    for kind in (bool, type(None), float):
        try:
            _convert_scalar(text, kind)
        except _MismatchError:
            continue
        return True
    return False


# -- registry ----------------------------------------------------------------------------------------------------------


REGISTRY = Registry(
    "pass",
    Pass,
    ENTRY_POINT_GROUP,
    built_in=BUILTIN_PASSES,
    is_name=lambda name: all(part.isalnum() and part == part.lower() for part in name.split("-")),
    names_are="lower-case words",
    listed_by="smec passes",
)

#: Pass classes that have been imported, by name. A plug-in file adds to it with `register_pass`.
PASSES = REGISTRY.known


def register_pass(cls: PassT) -> PassT:
    """Class decorator: make a pass known by its name.

    Raises:
        SmecError: the class is no frozen dataclass with a name, or the name is taken.
    """
    REGISTRY.register(cls)
    return cls


def origin(cls: type) -> str | None:
    """The file that a class of a plug-in (a pass, a pattern) comes from; None for classes of this package."""
    if cls.__module__.startswith("smec."):
        return None
    return getattr(sys.modules.get(cls.__module__), "__file__", None) or cls.__module__


def pass_names() -> list[str]:
    """The names of all passes that are built in, registered, or offered by an installed package; imports none."""
    return REGISTRY.names()


def pass_class(name: str, location: SourceSpan | None = None) -> type[Pass]:
    """The pass class called `name`, imported now if it was not yet.

    Raises:
        SmecError: no such pass, or the package that offers it cannot be imported.
    """
    return REGISTRY.find(name, location)
