"""The numbers of a target that timing and energy depend on, in integer femtoseconds and in picojoules.

Times are integers so that sums are exact and two ways of adding them up agree. A femtosecond is fine enough for any
clock (1.2 GHz is off by 4e-7), and 63 bits of them are two and a half hours.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from smec.ir.errors import SmecError

FS_PER_NS = 1_000_000

#: Parts whose leakage and area are reported, in the order of reports.
PARTS = (
    "crossbar", "dac", "sample_hold", "adc", "shift_add", "input_register", "output_register", "ima_control", "buffer",
    "bus", "router", "sigmoid", "pool", "accumulate", "core_register", "core_control",
)  # fmt: skip


@dataclass(frozen=True)
class Machine:
    """A target's numbers.

    Times, fs: clock, read (one crossbar read), conversion (one converter), hop (router to router), and the stages
    buffer_read, adc, shift_add, output, vector, buffer_write, host_launch.
    adc_crossbars, adc_per_bank: crossbars that share a bank of converters, and how many a bank has.
    buffer_rate, link_rate: bytes/ns of a core's buffer to its crossbars, and of a chip's links; host_rate: 1e9
    floating-point operations a second. grid: routers of a chip in x. write_us: to program one crossbar, None where
    that is not known.
    energy: pJ, see `_energies`. area: mm2 of each part (`PARTS`) in one core, and "links" of a chip.
    leakage_mw: of each part in one core.
    """

    name: str
    columns: int
    dac_bits: int
    clock: int
    read: int
    conversion: int
    adc_crossbars: int
    adc_per_bank: int
    hop: int
    buffer_read: int
    adc: int
    shift_add: int
    output: int
    vector: int
    buffer_write: int
    host_launch: int
    host_rate: float
    buffer_rate: float
    link_rate: float
    crossbars_per_core: int
    cores_per_chip: int
    cores_per_router: int
    grid: int
    write_us: float | None
    energy: Mapping[str, float]
    area: Mapping[str, float]
    leakage_mw: Mapping[str, float]

    @staticmethod
    def from_target(target: Mapping[str, Any]) -> Machine:
        """From the `target` entry of a program's metadata.

        Raises:
            SmecError: it lacks numbers (a program of an older compiler), or they are of the wrong kind.
        """
        read = _Reader(target)
        ns = {key: round(read.number(f"stages.{key}_ns") * FS_PER_NS) for key in _STAGES}
        router_cores = read.count("router.cores")
        cores = read.count("chip.cores")
        write = read.table("crossbar").get("write_us")
        return Machine(
            name=str(target.get("name", "")),
            columns=read.count("columns"),
            dac_bits=read.count("dac_bits"),
            clock=max(1, round(FS_PER_NS / read.positive("clock_ghz"))),
            read=max(1, round(read.positive("read_cycle_ns") * FS_PER_NS)),
            conversion=max(1, round(FS_PER_NS / read.positive("adc.rate_gs_per_s"))),
            adc_crossbars=read.count("adc.crossbars"),
            adc_per_bank=read.count("adc.per_bank"),
            hop=round(read.number("router.hop_ns") * FS_PER_NS),
            **ns,
            host_launch=round(read.number("host.launch_us") * 1000 * FS_PER_NS),
            host_rate=read.positive("host.gflop_per_s"),
            buffer_rate=read.positive("buffer.bytes_per_ns"),
            link_rate=read.count("links.count") * read.positive("links.gb_per_s"),
            crossbars_per_core=read.count("crossbars_per_core"),
            cores_per_chip=cores,
            cores_per_router=router_cores,
            grid=math.ceil(math.sqrt(math.ceil(cores / router_cores))),
            write_us=None if write is None else float(write),
            energy=_energies(read),
            area=_of_core(read, "area_mm2") | {"links": read.number("links.area_mm2")},
            leakage_mw=_of_core(read, "leakage_mw"),
        )

    def chip_of(self, core: int) -> int:
        """The chip that a core is on."""
        return core // self.cores_per_chip

    def bytes_time(self, count: int, rate: float) -> int:
        """Time to move bytes at a rate in bytes/ns, fs, rounded up."""
        return math.ceil(count * FS_PER_NS / rate)


_STAGES = ("buffer_read", "adc", "shift_add", "output", "vector", "buffer_write")


class _Reader:
    """Takes numbers out of nested tables; a dot separates table and key."""

    def __init__(self, target: Mapping[str, Any]) -> None:
        self.target = target

    def table(self, name: str) -> Mapping[str, Any]:
        found = self.target.get(name)
        if not isinstance(found, dict):
            raise SmecError(
                f"the target '{self.target.get('name', '')}' has no table '{name}', which timing needs",
                hint="compile the model again: targets describe their parts since version 0.1",
            )
        return found

    def number(self, path: str) -> float:
        """A finite number, not negative."""
        table, _, key = path.rpartition(".")
        value = (self.table(table) if table else self.target).get(key)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
            raise SmecError(
                f"bad value of '{path}' in the target", expected="a number, not negative", found=repr(value)
            )
        return float(value)

    def positive(self, path: str) -> float:
        value = self.number(path)
        if not value:
            raise SmecError(f"bad value of '{path}' in the target", expected="a positive number", found="0")
        return value

    def count(self, path: str) -> int:
        value = self.positive(path)
        if value != int(value):
            raise SmecError(f"bad value of '{path}' in the target", expected="a whole number", found=repr(value))
        return int(value)

    def dynamic(self, part: str) -> float:
        """Power of activity alone, mW."""
        leakage = self.number(f"{part}.leakage_mw") if "leakage_mw" in self.table(part) else 0.0
        return max(0.0, self.number(f"{part}.power_mw") - leakage)


def _energies(read: _Reader) -> dict[str, float]:
    """Energy of one event of each component, pJ. mW x ns = pJ.

    crossbar: a cell (its share of the array's read). dac, input_register: a digit on a row of a crossbar.
    sample_hold, adc, shift_add, output_register: a column's read. buffer, bus, links: a byte. network: a byte over one
    router. sigmoid, pool, accumulate: an element. core_register: a value.
    """
    cycle, rows, columns = read.positive("read_cycle_ns"), read.count("rows"), read.count("columns")
    crossbars = read.count("ima.crossbars")
    return {
        "crossbar": read.dynamic("crossbar") * cycle / (rows * columns),
        "dac": read.dynamic("dac") * cycle / read.count("dac.crossbars"),
        "input_register": read.dynamic("input_register") * cycle / (crossbars * rows),
        "sample_hold": read.dynamic("sample_hold") * cycle,
        "adc": read.number("adc.energy_pj"),
        "shift_add": read.count("shift_add.count") * read.dynamic("shift_add") * cycle / (crossbars * columns),
        "output_register": read.dynamic("output_register") * cycle / (crossbars * columns),
        "buffer": read.number("buffer.energy_pj_per_byte"),
        "bus": read.number("bus.energy_pj_per_byte"),
        "network": read.number("router.energy_pj_per_byte"),
        "sigmoid": read.number("sigmoid.energy_pj"),
        "pool": read.number("pool.energy_pj"),
        "accumulate": read.number("accumulate.energy_pj"),
        "core_register": read.number("core_register.energy_pj"),
        "links": read.number("links.energy_pj_per_byte"),
    }


def _of_core(read: _Reader, key: str) -> dict[str, float]:
    """A number of each part, summed over one core."""
    per_core, per_ima, rows = read.count("crossbars_per_core"), read.count("ima.crossbars"), read.count("rows")
    imas = per_core / per_ima
    copies = dict.fromkeys(PARTS, 1.0) | {
        "crossbar": per_core,
        "dac": per_core * rows / read.count("dac.crossbars"),
        "sample_hold": per_core * read.count("columns"),
        "adc": per_core * read.count("adc.per_bank") / read.count("adc.crossbars"),
        "shift_add": imas * read.count("shift_add.count"),
        "input_register": imas,
        "output_register": imas,
        "ima_control": imas,
        "router": 1 / read.count("router.cores"),
        "sigmoid": read.count("sigmoid.count"),
        "pool": read.count("pool.count"),
        "accumulate": read.count("accumulate.count"),
    }
    return {part: copies[part] * (read.number(f"{part}.{key}") if key in read.table(part) else 0.0) for part in PARTS}
