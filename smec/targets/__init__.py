"""Targets: hardware descriptions in TOML, validated, with presets and inheritance.

A file gives numbers by name, some of them in tables, and may start from a preset or another file::

    inherits = "sme"
    name = "sme-adc6"
    adc_bits = 6

    [chip]
    cores = 64

`Target` and `smec.targets.components` list every number with its unit. Unknown keys, missing numbers and values out of
range are one located error. `adc_bits` other than `adc.bits` scale the converter's energy, power and area
(`smec.targets.scaling`).
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from smec.ir.errors import SmecError
from smec.targets import components as parts
from smec.targets.figures import figures
from smec.targets.scaling import scaled_adc

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
    ima: parts.Ima = Field(description="crossbars that share registers")
    crossbar: parts.Crossbar = Field(description="array of cells")
    dac: parts.Dac = Field(description="driver of a row")
    sample_hold: parts.SampleHold = Field(description="sample-and-hold of a column")
    adc: parts.Adc = Field(description="converter")
    shift_add: parts.Counted = Field(description="shift-and-add units of an in-situ multiplier")
    input_register: parts.Register = Field(description="input register of an in-situ multiplier")
    output_register: parts.Register = Field(description="output register of an in-situ multiplier")
    ima_control: parts.Part = Field(description="whatever else an in-situ multiplier has")
    buffer: parts.Buffer = Field(description="a core's memory of activations")
    bus: parts.Transport = Field(description="between a core's buffer and its crossbars")
    router: parts.Router = Field(description="router of the mesh")
    sigmoid: parts.Unit = Field(description="units that scale, clamp and look up")
    pool: parts.Unit = Field(description="units that compare and add")
    accumulate: parts.Unit = Field(description="units that add up accumulators")
    core_register: parts.CoreRegister = Field(description="output register of a core")
    core_control: parts.Part = Field(description="whatever else a core has")
    links: parts.Links = Field(description="links between chips and to the host")
    chip: parts.Chip = Field(description="budget of a chip")
    host: parts.Host = Field(description="processor that runs host regions")
    stages: parts.Stages = Field(description="pipeline stages")

    @model_validator(mode="before")
    @classmethod
    def _scale_adc(cls, values: Any) -> Any:
        """Converter numbers for `adc_bits`, whatever bits they were given for."""
        if isinstance(values, dict) and isinstance(values.get("adc"), dict) and type(values.get("adc_bits")) is int:
            return {**values, "adc": scaled_adc(values["adc"], values["adc_bits"])}
        return values

    def figures(self) -> dict[str, float]:
        """Power, area and peak rate of its in-situ multipliers, cores and chips; see `smec.targets.figures`."""
        return figures(self)


def presets() -> list[str]:
    """The targets that come with smec, sorted."""
    folder = resources.files(__name__)
    return sorted(f.name.removesuffix(".toml") for f in folder.iterdir() if f.name.endswith(".toml"))


def names() -> list[str]:
    """All targets that have a name: the presets, then those of plug-ins (`smec.targets.plugins`), sorted."""
    from smec.targets.plugins import plugin_names

    return [*presets(), *sorted(plugin_names() - set(presets()))]


def load(target: str | os.PathLike[str] | Target) -> Target:
    """A target by name or TOML file (a `Target` is returned as it is).

    Raises:
        SmecError: no such name or file, bad TOML, an unknown key, or a value that is missing or out of range.
    """
    if isinstance(target, Target):
        return target
    text = os.fspath(target)
    where, values = _values(text, Path(), 0)
    return _validated(values, where)


def from_values(values: dict[str, Any], where: str = "<target>") -> Target:
    """A target from what a TOML file of it would say, `inherits` included.

    Raises:
        SmecError: an unknown parent or key, or a value that is missing or out of range.
    """
    return _validated(_inherited(dict(values), where, Path(), 0), where)


def _values(target: str, base: Path, depth: int) -> tuple[str, dict[str, Any]]:
    """(where it was found, the numbers with what they inherit)."""
    if depth > _DEPTH:
        raise SmecError("targets inherit from one another in a circle", location=target)
    if target not in presets():
        from smec.targets.plugins import plugin_names, source_of

        if target in plugin_names():
            source = source_of(target)
            if isinstance(source, Mapping):
                where = f"target '{target}'"
                return where, _inherited(dict(source), where, Path(), depth)
            target, base = os.fspath(source), Path()
    where, text, folder = _read(target, base)
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SmecError(f"not valid TOML: {error}", location=where) from None
    return where, _inherited(values, where, folder, depth)


def _inherited(values: dict[str, Any], where: str, folder: Path, depth: int) -> dict[str, Any]:
    """The numbers with those that they inherit."""
    parent = values.pop("inherits", None)
    if parent is None:
        return values
    if not isinstance(parent, str):
        raise SmecError("'inherits' names no target", location=where, expected="text", found=repr(parent))
    return _merged(_values(parent, folder, depth + 1)[1], values)


def _merged(parent: dict[str, Any], child: dict[str, Any]) -> dict[str, Any]:
    """The parent's numbers, overridden by the child's one by one, in tables too."""
    merged = {**parent, **child}
    for key, value in child.items():
        inherited = parent.get(key)
        if isinstance(value, dict) and isinstance(inherited, dict):
            merged[key] = {**inherited, **value}
    return merged


def _read(target: str, base: Path) -> tuple[str, str, Path]:
    """(location, text, folder that relative names start from)."""
    if target in presets():
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
        fields, prefix = _fields_beside(first["loc"])
        if first["type"] == "extra_forbidden":
            close = difflib.get_close_matches(str(first["loc"][-1]), fields, n=1)
            hint = f"did you mean '{prefix}{close[0]}'?" if close else None
            raise SmecError(f"unknown key '{key}'", location=where, hint=hint) from None
        if first["type"] == "missing":
            meaning = fields[str(first["loc"][-1])].description
            raise SmecError(f"key '{key}' is missing ({meaning})", location=where) from None
        message = f"bad value of '{key}': {first['msg']}"
        raise SmecError(message, location=where, found=repr(first["input"])[:60]) from None


def _fields_beside(path: tuple[int | str, ...]) -> tuple[dict[str, Any], str]:
    """The fields of the table that a key belongs to, and what stands before the key's own name."""
    if len(path) > 1 and path[0] in Target.model_fields:
        table = Target.model_fields[str(path[0])].annotation
        if isinstance(table, type) and issubclass(table, BaseModel):
            return table.model_fields, f"{path[0]}."
    return Target.model_fields, ""
