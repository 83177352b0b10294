"""Targets: hardware descriptions in TOML, validated, with presets and inheritance.

A file gives numbers by name, and may start from a preset or another file::

    inherits = "sme"
    name = "sme-adc6"
    adc_bits = 6

`Target` lists every number with its unit. Unknown keys, missing numbers and values out of range are one located error.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from smec.ir.errors import SmecError

#: Files that may inherit from one another in a row; a longer chain is taken for a cycle.
_DEPTH = 16

#: A target file is a page of numbers; anything larger is not one.
_MAX_BYTES = 1 << 20


class Target(BaseModel):
    """One accelerator."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: str = Field(min_length=1, description="name that reports show")
    description: str = Field(default="", description="one line")
    rows: int = Field(ge=1, le=4096, description="wordlines of a crossbar (R)")
    columns: int = Field(ge=1, le=4096, description="bitlines of a crossbar (C)")
    cell_bits: int = Field(ge=1, le=8, description="bits a cell (c); 1 is SLC")
    dac_bits: int = Field(ge=1, le=8, description="input bits driven at a time (d)")
    adc_bits: int = Field(ge=1, le=24, description="bits of an ADC (B); it saturates at 2^B - 1")
    concurrent_rows: int = Field(ge=1, le=4096, description="rows that one read may drive")
    crossbars_per_core: int = Field(ge=1, le=1 << 20, description="physical crossbars of a core")
    vector_lanes: int = Field(ge=1, le=1 << 16, description="elements that a core's vector unit handles a clock cycle")
    link_bytes_per_cycle: int = Field(ge=1, le=1 << 16, description="bytes a clock cycle between two cores")
    clock_ghz: float = Field(gt=0, le=1000, allow_inf_nan=False, description="clock of digital parts, GHz")
    read_cycle_ns: float = Field(gt=0, le=1e9, allow_inf_nan=False, description="one crossbar read, ns")


def names() -> list[str]:
    """The presets, sorted."""
    folder = resources.files(__name__)
    return sorted(f.name.removesuffix(".toml") for f in folder.iterdir() if f.name.endswith(".toml"))


def load(target: str | os.PathLike[str] | Target) -> Target:
    """A target by preset name or TOML file (a `Target` is returned as it is).

    Raises:
        SmecError: no such preset or file, bad TOML, an unknown key, or a value that is missing or out of range.
    """
    if isinstance(target, Target):
        return target
    text = os.fspath(target)
    where, values = _values(text, Path(), 0)
    return _validated(values, where)


def _values(target: str, base: Path, depth: int) -> tuple[str, dict[str, Any]]:
    """(where it was found, the numbers with what they inherit)."""
    if depth > _DEPTH:
        raise SmecError("targets inherit from one another in a circle", location=target)
    where, text, folder = _read(target, base)
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SmecError(f"not valid TOML: {error}", location=where) from None
    parent = values.pop("inherits", None)
    if parent is None:
        return where, values
    if not isinstance(parent, str):
        raise SmecError("'inherits' names no target", location=where, expected="text", found=repr(parent))
    return where, {**_values(parent, folder, depth + 1)[1], **values}


def _read(target: str, base: Path) -> tuple[str, str, Path]:
    """(location, text, folder that relative names start from)."""
    if target in names():
        return f"target '{target}'", (resources.files(__name__) / f"{target}.toml").read_text("utf-8"), Path()
    path = base / target
    if not (target.endswith(".toml") or path.is_file()):
        close = difflib.get_close_matches(target, names(), n=1)
        raise SmecError(
            f"unknown target '{target}'",
            expected=f"a TOML file or one of {', '.join(names())}",
            hint=f"did you mean '{close[0]}'?" if close else None,
        )
    try:
        data = path.read_bytes()
        if len(data) > _MAX_BYTES:
            raise SmecError("file is too large for a target", location=str(path), found=f"{len(data)} bytes")
        return str(path), data.decode("utf-8"), path.parent
    except OSError as error:
        raise SmecError(f"cannot read the target: {error.strerror or error}", location=str(path)) from None
    except UnicodeDecodeError:
        raise SmecError("target is not UTF-8 text", location=str(path)) from None


def _validated(values: dict[str, Any], where: str) -> Target:
    try:
        return Target.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            close = difflib.get_close_matches(key, Target.model_fields, n=1)
            hint = f"did you mean '{close[0]}'?" if close else None
            raise SmecError(f"unknown key '{key}'", location=where, hint=hint) from None
        if first["type"] == "missing":
            meaning = Target.model_fields[key].description
            raise SmecError(f"key '{key}' is missing ({meaning})", location=where) from None
        message = f"bad value of '{key}': {first['msg']}"
        raise SmecError(message, location=where, found=repr(first["input"])[:60]) from None
