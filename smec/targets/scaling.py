"""How converters change with their bits."""

from __future__ import annotations

from typing import Any

#: Bits: (energy of a conversion in pJ, area in um2) of a SAR converter at 32 nm. From isaac.py of the hwcomponents
#: library (Accelergy project), which scales the 8-bit converter of Kull et al., ISSCC 2013, by the capacitor models of
#: Saberi et al., IEEE TCAS-I 2011.
ADC_BY_BITS: dict[int, tuple[float, float]] = {
    4: (0.79, 361.04),
    5: (0.99, 476.91),
    6: (1.20, 626.91),
    7: (1.42, 845.18),
    8: (1.67, 1200.0),
    9: (1.969078145, 1827.911647),
    10: (2.379022742, 3002.008032),
}


def adc_curve(bits: int) -> tuple[float, float]:
    """(energy in pJ, area in um2) of the reference converter.

    Outside 4 to 10 bits each further bit changes both by the factor of the last step within.
    """
    low, high = min(ADC_BY_BITS), max(ADC_BY_BITS)
    if bits < low:
        edge, beside, steps = ADC_BY_BITS[low], ADC_BY_BITS[low + 1], low - bits
    elif bits > high:
        edge, beside, steps = ADC_BY_BITS[high], ADC_BY_BITS[high - 1], bits - high
    else:
        return ADC_BY_BITS[bits]
    energy, area = (e * (e / b) ** steps for e, b in zip(edge, beside, strict=True))
    return energy, area


def scaled_adc(adc: dict[str, Any], bits: int) -> dict[str, Any]:
    """An `[adc]` table with energy, power, leakage and area for another number of bits; the rate stays.

    Args:
        adc: numbers under the names of `smec.targets.components.Adc`; what is missing or no number is left as it is.
        bits: the bits wanted.
    """
    given = adc.get("bits")
    if type(given) is not int or not 1 <= given <= 24 or given == bits:
        return adc
    (energy_from, area_from), (energy_to, area_to) = adc_curve(given), adc_curve(bits)
    factors = dict.fromkeys(("energy_pj", "power_mw", "leakage_mw"), energy_to / energy_from)
    factors["area_mm2"] = area_to / area_from
    scaled = {name: adc[name] * factor for name, factor in factors.items() if type(adc.get(name)) in (int, float)}
    return {**adc, **scaled, "bits": bits}
