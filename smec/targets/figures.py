"""Totals of a machine that follow from its parts: power, area, peak rate and efficiency."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from smec.targets import Target

#: Bits of weights and activations for which peak rates are given, as ISAAC gives them.
PEAK_BITS = 16


def figures(target: Target) -> dict[str, float]:
    """Published-style totals, by the names of `smec targets NAME`.

    An "ima" is an in-situ multiplier, a "tile" is a core with its share of a router. `gops`: operations (a multiply and
    an add are two) of a chip at `PEAK_BITS`-bit weights and activations, all cells in use, in 1e9/s. Shares that do not
    come out even count in part.
    """
    ima_power, ima_area = _ima(target, "power_mw"), _ima(target, "area_mm2")
    tile_power, tile_area = _tile(target, "power_mw", ima_power), _tile(target, "area_mm2", ima_area)
    chip_power = target.chip.cores * tile_power / 1e3 + target.links.power_w
    chip_area = target.chip.cores * tile_area + target.links.area_mm2
    rate = crossbar_gops(target) * target.crossbars_per_core * target.chip.cores
    return {
        "ima_power_mw": ima_power,
        "ima_area_mm2": ima_area,
        "tile_power_mw": tile_power,
        "tile_area_mm2": tile_area,
        "chip_power_w": chip_power,
        "chip_area_mm2": chip_area,
        "gops": rate,
        "gops_per_s_mm2": rate / chip_area,
        "gops_per_w": rate / chip_power,
    }


def read_ns(target: Target) -> float:
    """Time of one read of all columns, ns: the array's own, or that of its converters where they are slower."""
    conversions = math.ceil(target.columns * target.adc.crossbars / target.adc.per_bank)
    return max(target.read_cycle_ns, conversions / target.adc.rate_gs_per_s)


def crossbar_gops(target: Target) -> float:
    """Peak rate of one crossbar at `PEAK_BITS`, 1e9 operations/s."""
    weights = target.columns // math.ceil(PEAK_BITS / target.cell_bits) * target.rows
    groups = math.ceil(target.rows / min(target.rows, target.concurrent_rows))
    reads = math.ceil(PEAK_BITS / target.dac_bits) * groups
    return 2 * weights / (reads * read_ns(target))


def _ima(target: Target, key: str) -> float:
    n = target.ima.crossbars
    return float(
        n * getattr(target.crossbar, key)
        + n / target.dac.crossbars * target.rows * getattr(target.dac, key)
        + n * target.columns * getattr(target.sample_hold, key)
        + n * target.adc.per_bank / target.adc.crossbars * getattr(target.adc, key)
        + target.shift_add.count * getattr(target.shift_add, key)
        + getattr(target.input_register, key)
        + getattr(target.output_register, key)
        + getattr(target.ima_control, key)
    )


def _tile(target: Target, key: str, ima: float) -> float:
    units = (target.sigmoid, target.pool, target.accumulate)
    return float(
        target.crossbars_per_core / target.ima.crossbars * ima
        + getattr(target.buffer, key)
        + getattr(target.bus, key)
        + getattr(target.router, key) / target.router.cores
        + sum(unit.count * getattr(unit, key) for unit in units)
        + getattr(target.core_register, key)
        + getattr(target.core_control, key)
    )
