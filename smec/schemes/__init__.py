"""Schemes: named ways to bring a layer onto crossbars (DESIGN 8).

A scheme names the passes between the quantized activations and the sliced crossbars, and may fit the target to
itself. It is a frozen dataclass whose fields are its options, in text too: `prune{percent=30}`. To add one, in a
plug-in file or in a package (entry-point group `smec.schemes`)::

    @register_scheme
    @dataclass(frozen=True)
    class Dense6(Scheme):
        \"\"\"Six bits of a weight in adjacent columns.\"\"\"

        name = "dense-6"

        def passes(self, target: Target) -> str:
            return f"quantize-nearest{{bits=6 sign=offset}},tile{{columns={target.columns // 6}}},compact"
"""

from __future__ import annotations

import dataclasses
import difflib
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from smec.ir.errors import SmecError, SourceSpan

if TYPE_CHECKING:
    from smec.passes.pipeline import Pipeline
    from smec.targets import Target

#: Name of the entry-point group by which other packages offer schemes.
ENTRY_POINT_GROUP = "smec.schemes"

#: Built-in schemes by name, as "module:Class", in the order in which they are listed: the baselines first.
BUILTIN_SCHEMES = {
    "dense-16": "smec.schemes.dense:Dense16",
    "dense-8": "smec.schemes.dense:Dense8",
    "dense-4": "smec.schemes.dense:Dense4",
    "row-skip": "smec.schemes.sparse:RowSkip",
    "prune": "smec.schemes.sparse:Prune",
    "bit-slice": "smec.schemes.sliced:BitSlice",
    "sme-published": "smec.schemes.sliced:SmePublished",
    "sme": "smec.schemes.sliced:Sme",
}

#: Classes that have been imported, by name.
SCHEMES: dict[str, type[Scheme]] = {}

SchemeT = TypeVar("SchemeT", bound="type[Scheme]")


@dataclass(frozen=True)
class Scheme:
    """One way to map layers."""

    name: ClassVar[str] = ""

    def passes(self, target: Target) -> str:
        """Pipeline text from the choice of the integers to the level `xbar.tiled`: a pass `quantize-...`, `tile`, and
        what squeezes and compacts tiles. What comes before and after is the same for all schemes.

        Args:
            target: what `machine` returned.
        """
        raise NotImplementedError  # each scheme defines it

    def machine(self, target: Target) -> Target:
        """The target as the scheme uses it; by default, as it is.

        Raises:
            SmecError: the scheme has no place on it.
        """
        return target

    def pipeline(self, target: Target, calibrate: str = "calibrate") -> Pipeline:
        """All passes from the imported model to the program.

        Args:
            target: what `machine` returned.
            calibrate: the pass that calibrates activations, with its options.

        Raises:
            SmecError: the scheme's text is no pipeline.
        """
        from smec.passes.pipeline import parse_pipeline

        try:
            middle = self.passes(target)
        except SmecError:
            raise
        except Exception as error:
            # A plug-in's own code: whatever it raises, its name belongs into the message.
            raise SmecError(f"scheme '{self.name}' fails: {type(error).__name__}: {error}") from error
        text = f"partition,{calibrate},quantize-activations,{middle},slice-bits,group-rows,assign-cores,emit"
        return parse_pipeline(text, f"<scheme {self.name}>")

    def text(self) -> str:
        """The scheme's name, with the options that are not at their defaults: what `parse_scheme` reads."""
        from smec.passes.base import format_value

        given = [
            f"{field.name.replace('_', '-')}={format_value(value)}"
            for field in dataclasses.fields(self)
            if (value := getattr(self, field.name)) != field.default
        ]
        return f"{self.name}{{{' '.join(given)}}}" if given else self.name


def register_scheme(cls: SchemeT) -> SchemeT:
    """Class decorator: make a scheme known by its name.

    Raises:
        SmecError: the class is no frozen dataclass with a name, or the name is taken.
    """
    where = f"{cls.__module__}.{cls.__qualname__}"
    parameters = getattr(cls, "__dataclass_params__", None)
    if "__dataclass_params__" not in vars(cls) or parameters is None or not parameters.frozen:
        raise SmecError(f"scheme class {where} is not a frozen dataclass")
    if not cls.name or not cls.name.replace("-", "").isalnum():
        raise SmecError(f"scheme class {where} has no valid name", found=repr(cls.name))
    built_in, known = BUILTIN_SCHEMES.get(cls.name), SCHEMES.get(cls.name)
    taken = built_in if built_in is not None else f"{known.__module__}:{known.__qualname__}" if known else None
    if taken is not None and taken != f"{cls.__module__}:{cls.__qualname__}":
        raise SmecError(f"scheme name '{cls.name}' is taken by {taken}", found=where)
    SCHEMES[cls.name] = cls
    return cls


@cache
def _plugins() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}


def scheme_names() -> list[str]:
    """All schemes: the built-in ones, then those of plug-ins in the order of their names."""
    return [*BUILTIN_SCHEMES, *sorted({*SCHEMES, *_plugins()} - set(BUILTIN_SCHEMES))]


def scheme_class(name: str, location: SourceSpan | None = None) -> type[Scheme]:
    """The class of the scheme called `name`.

    Args:
        name: of the scheme.
        location: where it was written, for the message.

    Raises:
        SmecError: no such scheme, or the package that offers it cannot be imported.
    """
    if name in SCHEMES:
        return SCHEMES[name]
    found: Any
    if name in BUILTIN_SCHEMES:
        module, _, attribute = BUILTIN_SCHEMES[name].partition(":")
        found = getattr(import_module(module), attribute)
    elif name in _plugins():
        point = _plugins()[name]
        try:
            found = point.load()
        except Exception as error:
            # Whatever an installed package raises when it is imported, its name belongs into the message.
            message = f"scheme '{name}' cannot be loaded from {point.value}: {type(error).__name__}: {error}"
            raise SmecError(message, location=location) from error
        if not (isinstance(found, type) and issubclass(found, Scheme)):
            raise SmecError(f"what is registered as scheme '{name}' is no scheme class", found=repr(found))
    else:
        close = difflib.get_close_matches(name, scheme_names(), n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(repr(c) for c in close)}?" if close else None
        known = " | ".join(scheme_names())
        raise SmecError(f"unknown scheme '{name}'", location=location, expected=known, hint=hint)
    SCHEMES[name] = found
    return SCHEMES[name]


def parse_scheme(text: str) -> Scheme:
    """The scheme that `text` names: `sme`, or with options, `prune{percent=30}`.

    Raises:
        SmecError: malformed text, an unknown scheme or option, or a value that the option cannot have.
    """
    from smec.passes.pipeline import parse_items

    found: list[Scheme] = parse_items(text, "<scheme>", "scheme", scheme_class)
    if len(found) != 1:
        raise SmecError("not one scheme", expected="a name, with or without options in braces", found=repr(text))
    return found[0]


def parse_schemes(text: str) -> list[Scheme]:
    """Schemes parted by commas, in their order.

    Raises:
        SmecError: as for `parse_scheme`; or the same scheme with the same options twice.
    """
    from smec.passes.pipeline import parse_items

    found: list[Scheme] = parse_items(text, "<schemes>", "scheme", scheme_class)
    texts = [scheme.text() for scheme in found]
    for twice in {t for t in texts if texts.count(t) > 1}:
        raise SmecError(f"scheme '{twice}' is given twice", location="<schemes>")
    if not found:
        raise SmecError("no scheme given", expected=" | ".join(scheme_names()))
    return found
