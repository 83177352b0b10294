"""The parts of a machine: one table of a target's file each. Powers are those of full activity, leakage included.

A part that works for a whole crossbar read (array, DAC, sample-and-hold, registers, shift-and-add) has no energy of its
own: it costs (power - leakage) times the read cycle, shared by what it handles in it. Parts that handle one thing at a
time name the energy of that.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


def _number(description: str, *, most: float = 1e9, zero: bool = False, **more: Any) -> Any:
    """A finite number above 0 (from 0 on if `zero`)."""
    bound: dict[str, Any] = {"ge": 0} if zero else {"gt": 0}
    return Field(description=description, le=most, allow_inf_nan=False, **bound, **more)


def _count(description: str, most: int = 1 << 20) -> Any:
    return Field(description=description, ge=1, le=most)


class Table(BaseModel):
    """What all tables have in common: unknown keys, wrong types and changes are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Part(Table):
    """Something that draws power and takes area."""

    power_mw: float = _number("power at full activity, leakage included, mW", zero=True)
    area_mm2: float = _number("area, mm2", zero=True)
    leakage_mw: float = _number("the part of the power that is drawn without activity, mW", zero=True, default=0.0)

    @property
    def dynamic_mw(self) -> float:
        """Power of activity alone, mW."""
        return self.power_mw - self.leakage_mw


class Crossbar(Part):
    """One array of cells, all rows driven."""

    write_us: float | None = _number("time to program the array, us; absent: not known", default=None)


class Dac(Part):
    """The driver of one row."""

    crossbars: int = _count("crossbars whose rows one set of drivers serves")


class SampleHold(Part):
    """The sample-and-hold circuit of one column."""


class Adc(Part):
    """One analog-digital converter. `per_bank` of them take turns on the columns of `crossbars` crossbars."""

    bits: int = Field(ge=1, le=24, description="bits that energy, power and area are given for (see `adc_bits`)")
    rate_gs_per_s: float = _number("conversions per second, 1e9/s", most=1e6)
    crossbars: int = _count("crossbars that share a bank")
    per_bank: int = _count("converters of a bank")
    energy_pj: float = _number("energy of a conversion, pJ", zero=True)


class Ima(Table):
    """An in-situ multiplier: the crossbars that share registers and shift-and-add units."""

    crossbars: int = _count("crossbars of an in-situ multiplier")


class Counted(Part):
    """Several equal units; power and area are those of one."""

    count: int = _count("how many")


class Register(Part):
    """A register file."""

    bytes: int = _count("capacity, bytes", 1 << 30)


class CoreRegister(Register):
    """The register in which a core gathers the outputs of its in-situ multipliers."""

    energy_pj: float = _number("energy of one value through the register, pJ", zero=True)


class Unit(Counted):
    """A digital unit of a core's vector unit."""

    energy_pj: float = _number("energy of one element (of each element of a window), pJ", zero=True)


class Buffer(Part):
    """The core's memory of activations."""

    kib: int = _count("capacity, KiB", 1 << 30)
    bytes_per_ns: float = _number("what it delivers to the crossbars, bytes/ns")
    energy_pj_per_byte: float = _number("energy of reading or writing a byte, pJ", zero=True)


class Transport(Part):
    """Wires that bytes travel on."""

    energy_pj_per_byte: float = _number("energy of a byte, pJ", zero=True)


class Router(Transport):
    """A router of the mesh that connects the cores of a chip; its links are `link_bytes_per_cycle` wide."""

    cores: int = _count("cores that share a router")
    hop_ns: float = _number("from one router to the next, ns", zero=True)


class Links(Table):
    """The links of a chip to others and to the host, all together."""

    count: int = _count("links of a chip")
    gb_per_s: float = _number("rate of one link, 1e9 bytes/s")
    energy_pj_per_byte: float = _number("energy of a byte, pJ", zero=True)
    power_w: float = _number("power of all links of a chip, W", zero=True)
    area_mm2: float = _number("area of all links of a chip, mm2", zero=True)


class Chip(Table):
    """One chip. More cores than it has make more chips."""

    cores: int = _count("cores of a chip")


class Host(Table):
    """The processor that runs host regions; a roofline, without energy or area."""

    gflop_per_s: float = _number("floating-point rate, 1e9/s")
    launch_us: float = _number("time to start a region, us", zero=True)


class Stages(Table):
    """Pipeline stages between which a result waits, ns each; crossbar reads come on top."""

    buffer_read_ns: float = _number("buffer and bus to the input register", zero=True)
    adc_ns: float = _number("from the last crossbar read to the last conversion", zero=True)
    shift_add_ns: float = _number("from the last conversion to the last sum", zero=True)
    output_ns: float = _number("to the core's output register", zero=True)
    vector_ns: float = _number("least time of an instruction in the vector unit", zero=True)
    buffer_write_ns: float = _number("to the buffer", zero=True)
