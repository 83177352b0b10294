"""Targets of plug-ins: known by name beside the presets.

In a plug-in file::

    register_target("mine", {"inherits": "sme", "name": "mine", "adc_bits": 6})
    register_target("other", Path(__file__).with_name("other.toml"))

A package offers either of the two, the numbers or the file, by the entry-point group `smec.targets`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from smec.ir.errors import SmecError
from smec.passes.registry import load_point, points_of
from smec.targets import presets

#: Name of the entry-point group by which other packages offer targets.
ENTRY_POINT_GROUP = "smec.targets"

Source = Mapping[str, Any] | str | os.PathLike[str]

#: What plug-ins registered, by name: numbers, or the path of a TOML file.
KNOWN: dict[str, Source] = {}


def register_target(name: str, source: Source) -> None:
    """Make a target known by name.

    Args:
        name: of the target.
        source: numbers and tables as a TOML file would give them, `inherits` included, or the path of such a file. It
            is read and checked when the target is used.

    Raises:
        SmecError: the name is no name, or is taken by another target.
    """
    if not name.replace("-", "").replace("_", "").isalnum():
        raise SmecError("not a target's name", expected="letters, digits, '-' and '_'", found=repr(name))
    if name in presets() or KNOWN.get(name, source) != source:
        raise SmecError(f"target name '{name}' is taken")
    KNOWN[name] = source


def plugin_names() -> set[str]:
    """Names of what plug-ins registered or installed packages offer; imports nothing."""
    return {*KNOWN, *points_of(ENTRY_POINT_GROUP)}


def source_of(name: str) -> Source:
    """What stands behind one of `plugin_names`.

    Raises:
        SmecError: the package that offers it cannot be imported, or offers something else.
    """
    if name not in KNOWN:
        found = load_point("target", points_of(ENTRY_POINT_GROUP)[name])
        if not isinstance(found, (Mapping, str, os.PathLike)):
            expected = "a mapping, or the path of a TOML file"
            raise SmecError(f"what is registered as target '{name}' is none", expected=expected, found=repr(found)[:60])
        KNOWN[name] = found
    return KNOWN[name]
