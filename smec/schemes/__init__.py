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

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, TypeVar

from smec.ir.errors import SmecError, SourceSpan
from smec.passes.registry import Registry

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
        from smec.passes.base import item_text

        return item_text(self)


REGISTRY = Registry(
    "scheme",
    Scheme,
    ENTRY_POINT_GROUP,
    built_in=BUILTIN_SCHEMES,
    is_name=lambda name: name.replace("-", "").isalnum(),
)

#: Classes that have been imported, by name.
SCHEMES = REGISTRY.known


def register_scheme(cls: SchemeT) -> SchemeT:
    """Class decorator: make a scheme known by its name.

    Raises:
        SmecError: the class is no frozen dataclass with a name, or the name is taken.
    """
    REGISTRY.register(cls)
    return cls


def scheme_names() -> list[str]:
    """All schemes: the built-in ones, then those of plug-ins in the order of their names."""
    return [*BUILTIN_SCHEMES, *(name for name in REGISTRY.names() if name not in BUILTIN_SCHEMES)]


def scheme_class(name: str, location: SourceSpan | None = None) -> type[Scheme]:
    """The class of the scheme called `name`.

    Args:
        name: of the scheme.
        location: where it was written, for the message.

    Raises:
        SmecError: no such scheme, or the package that offers it cannot be imported.
    """
    return REGISTRY.find(name, location)


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
