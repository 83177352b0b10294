"""Classes that are found by name: built in, registered by a plug-in file, or offered by an installed package.

Passes, patterns, constraint sets and schemes are frozen dataclasses with a name; each kind has a `Registry`.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar

from smec.ir.errors import SmecError, SourceSpan

T = TypeVar("T")


@cache
def points_of(group: str) -> Mapping[str, EntryPoint]:
    """What installed packages offer in a group of entry points, by name."""
    return {point.name: point for point in entry_points(group=group)}


def load_point(kind: str, point: EntryPoint, location: SourceSpan | None = None) -> Any:
    """What an entry point stands for.

    Raises:
        SmecError: the package cannot be imported; the message names it.
    """
    try:
        return point.load()
    except Exception as error:
        # Whatever an installed package raises when it is imported, its name belongs into the message.
        package = getattr(point, "dist", None)
        where = f"{point.value} of package {package.name}" if package is not None else point.value
        message = f"{kind} '{point.name}' cannot be loaded from {where}: {type(error).__name__}: {error}"
        raise SmecError(message, location=location) from error


class Registry(Generic[T]):
    """The classes of one kind.

    Args:
        kind: what messages call one, as in "pass".
        base: that they derive from; it has an attribute `name`.
        group: of entry points, by which packages offer them.
        built_in: those of this package by name, as "module:Class": listing them imports none.
        is_name: whether a text may be a name.
        names_are: what a name must be, in words, where that is not obvious.
        listed_by: the command that lists them; None: a message about an unknown name lists them itself.

    Attributes:
        known: classes that have been imported, by name.
    """

    def __init__(
        self,
        kind: str,
        base: type[T],
        group: str,
        *,
        built_in: Mapping[str, str] | None = None,
        is_name: Callable[[str], bool],
        names_are: str | None = None,
        listed_by: str | None = None,
    ) -> None:
        self.kind, self.base, self.group = kind, base, group
        self.built_in = built_in or {}
        self.is_name, self.names_are, self.listed_by = is_name, names_are, listed_by
        self.known: dict[str, type[T]] = {}

    def register(self, cls: type[T]) -> None:
        """Make a class known by its name.

        Raises:
            SmecError: the class is no frozen dataclass with a name, or the name is taken.
        """
        where = _place(cls)
        name: str = getattr(cls, "name", "")
        parameters = getattr(cls, "__dataclass_params__", None)
        if "__dataclass_params__" not in vars(cls) or parameters is None or not parameters.frozen:
            raise SmecError(f"{self.kind} class {where} is not a frozen dataclass")
        if not name or not self.is_name(name):
            raise SmecError(f"{self.kind} class {where} has no valid name", expected=self.names_are, found=repr(name))
        if name in self.built_in:
            owner = self.built_in[name].replace(":", ".")
        else:
            owner = _place(self.known[name]) if name in self.known else where
        if owner != where:
            raise SmecError(f"{self.kind} name '{name}' is taken by {owner}", found=where)
        self.known[name] = cls

    def offered(self) -> Mapping[str, EntryPoint]:
        """What installed packages offer, by name."""
        return points_of(self.group)

    def names(self) -> list[str]:
        """All names, sorted; imports nothing."""
        return sorted({*self.built_in, *self.known, *self.offered()})

    def find(self, name: str, location: SourceSpan | None = None) -> type[T]:
        """The class called `name`, imported now if it was not yet.

        Args:
            name: of the class.
            location: where the name was written, for messages.

        Raises:
            SmecError: no such class, or the package that offers it cannot be imported.
        """
        if name in self.known:
            return self.known[name]
        found: Any
        if name in self.built_in:
            module, _, attribute = self.built_in[name].partition(":")
            found = getattr(importlib.import_module(module), attribute)
        elif name in self.offered():
            found = load_point(self.kind, self.offered()[name], location)
        else:
            raise self._unknown(name, location)
        if not (isinstance(found, type) and issubclass(found, self.base)):
            message = f"what is registered as {self.kind} '{name}' is no {self.kind} class"
            raise SmecError(message, location=location, found=repr(found))
        self.known[name] = found
        return found

    def _unknown(self, name: str, location: SourceSpan | None) -> SmecError:
        close = difflib.get_close_matches(name, self.names(), n=3, cutoff=0.5)
        expected = " | ".join(self.names()) if self.listed_by is None else None
        hint = f"`{self.listed_by}` lists them" if self.listed_by is not None else None
        if close:
            hint = f"did you mean {' or '.join(map(repr, close))}?"
        return SmecError(f"unknown {self.kind} '{name}'", location=location, expected=expected, hint=hint)


def _place(cls: type[Any]) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"
