"""Squeeze-out: row shifts, rounding, and writing the rounded integers back to the layer's weights (DESIGN 2)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from smec.passes.mapping.coding import code_range, shift_choices
from smec.passes.mapping.jit import I64, compiled, in_chunks


@dataclass(frozen=True)
class Squeezed:
    """Codes int16 [T, R, C] and shifts uint8 [T, R] after squeeze-out, and what it cost.

    squared_error: sum of squared changes, integer units.
    real_error, real_energy: sums of (scale x change)^2 and of (scale x weight)^2.
    changed: number of weights whose integer changed.
    """

    codes: np.ndarray
    shifts: np.ndarray
    squared_error: int
    real_error: float
    real_energy: float
    changed: int


def squeeze(
    rows: np.ndarray,
    cols: np.ndarray,
    codes: np.ndarray,
    shifts: np.ndarray,
    *,
    sign: str,
    bits: int,
    depth: int,
    fit: bool,
    cell_bits: int = 1,
    scale: np.ndarray | None = None,
    dense: bool = True,
) -> Squeezed:
    """Shift each row of each tile down until its entries have N - x bits.

    The rounded code is the nearest one, ties away from zero, held to N - x bits; and the shifted code is held to the N
    bits of the weights, so that a squeezed layer has integers of no more bits than before. Shifts are multiples of c
    (or N - 1, where the multiple that is needed is larger).

    * leading-one: the least shift at which the row's largest entry has N - x bits.
    * fit: the shift of least squared error (in real units where the columns have different scales), clipping allowed;
      of equal ones the least. Shifts beyond one step above x are no better: their points are a subset.

    In both a row's shift is at last lowered to the least that its rounded entries need (where the largest entry was
    rounded down to a shorter one), so that squeezing twice changes nothing.

    Args:
        rows: int32 [T, R], -1 unused.
        cols: int32 [T, C], -1 unused.
        codes: int16 [T, R, C].
        shifts: uint8 [T, R], of an earlier squeeze-out or zero.
        sign, bits, cell_bits: sign scheme, N, c.
        depth: x, 0 <= x < N.
        fit: choose shifts by `fit` rather than by `leading-one`.
        scale: float [M], real value of one integer unit of each output channel; None: all equal.
        dense: no row and column of a tile are unrelated. Otherwise, with offset coding, shifts of at least x are
            used, at which the offset that such pairs store (weight 0) is exact.
    """
    lo, hi = code_range(sign, bits - depth)
    least, most = code_range(sign, bits)
    choices = np.array(shift_choices(depth, bits, cell_bits))
    if sign == "offset" and not dense:
        choices = choices[choices >= depth]
    weight = np.ones(1) if scale is None or len(scale) == 1 else np.square(scale.astype(np.float64))
    factor = 1.0 if scale is None or len(scale) != 1 else float(scale[0]) ** 2
    spread = weight[np.maximum(cols, 0)] if len(weight) > 1 else np.ones(cols.shape)
    spread = np.where(cols >= 0, spread, 0.0)
    new_codes, new_shifts = np.zeros_like(codes), np.zeros_like(shifts)
    offset = 1 << (bits - 1) if sign == "offset" else 0
    error = np.zeros((len(rows), 2), np.int64)
    real = np.zeros((len(rows), 2), np.float64)
    limits = np.array([lo, hi, least, most, offset], np.int64)

    def work(start: int, stop: int) -> None:
        _squeeze(
            start, stop, rows, cols, codes, shifts, spread, limits, choices, fit, sign == "twos-complement",
            new_codes, new_shifts, error, real,
        )  # fmt: skip

    in_chunks(len(rows), work)
    total, integer = real.sum(axis=0) * factor, error.sum(axis=0)
    return Squeezed(new_codes, new_shifts, int(integer[0]), float(total[0]), float(total[1]), int(integer[1]))


@compiled
def _rounded(value: int, k: int, lo: int, hi: int, least: int, most: int) -> int:
    """Nearest code to value / 2^k, ties away from zero, within [lo, hi] and, shifted back, within [least, most]."""
    half = (1 << k) >> 1
    if value >= 0:
        return min((value + half) >> k, hi, most >> k)
    return max(-((half - value) >> k), lo, -((-least) >> k))


@compiled
def _needed(low: int, high: int, twos: bool, hi: int, choices: np.ndarray) -> int:
    """Least of the shifts at which values from `low` to `high` fit the codes, whose largest is `hi`."""
    reach = max(high, -low - 1 if twos else -low)
    for k in choices:
        if (reach >> k) <= hi:
            return int(k)
    return int(choices[-1])


@compiled
def _squeeze(
    start: int, stop: int, rows: np.ndarray, cols: np.ndarray, codes: np.ndarray, shifts: np.ndarray,
    spread: np.ndarray, limits: np.ndarray, choices: np.ndarray, fit: bool, twos: bool,
    new_codes: np.ndarray, new_shifts: np.ndarray, error: np.ndarray, real: np.ndarray,
) -> None:  # fmt: skip
    lo, hi, least, most, offset = limits
    width = cols.shape[1]
    value = np.zeros(width, np.int64)
    for t in range(start, stop):
        for r in range(rows.shape[1]):
            if rows[t, r] < 0:
                continue
            low, high = 0, 0
            for n in range(width):
                value[n] = I64(codes[t, r, n]) << shifts[t, r] if cols[t, n] >= 0 else 0
                low, high = min(low, value[n]), max(high, value[n])
            k = _needed(low, high, twos, hi, choices)
            if fit:
                best = np.inf
                for candidate in choices:
                    total = 0.0
                    for n in range(width):
                        d = value[n] - (_rounded(value[n], candidate, lo, hi, least, most) << candidate)
                        total += spread[t, n] * d * d
                    if total < best:
                        best, k = total, candidate
            low, high = 0, 0
            for n in range(width):
                if cols[t, n] < 0:
                    continue
                rounded = _rounded(value[n], k, lo, hi, least, most) << k
                low, high = min(low, rounded), max(high, rounded)
                d, w = rounded - value[n], value[n] - offset
                error[t, 0] += d * d
                error[t, 1] += d != 0
                real[t, 0] += spread[t, n] * (d * d)
                real[t, 1] += spread[t, n] * (w * w)
                value[n] = rounded
            k = _needed(low, high, twos, hi, choices)
            new_shifts[t, r] = k
            for n in range(width):
                new_codes[t, r, n] = value[n] >> k


def scatter_weights(
    rows: np.ndarray,
    cols: np.ndarray,
    codes: np.ndarray,
    shifts: np.ndarray,
    offset: int,
    weight: np.ndarray,
    groups: int,
) -> np.ndarray:
    """The integers that the tiles hold, in the layout of the layer's weights.

    Args:
        rows, cols, codes, shifts: the tiles; what several rows hold of a weight adds up.
        offset: what the codes have added.
        weight: int16 [M, C_in / g, kh, kw] or [M, K], for the layout only.
        groups: g.

    Returns:
        int32 of the shape of `weight`; zero where no tile holds a weight.
    """
    if weight.ndim == 2:
        m, depth, positions = weight.shape[0], weight.shape[1], 1
    else:
        m, depth, positions = weight.shape[0], weight.shape[1], weight.shape[2] * weight.shape[3]
    out = np.zeros((m, depth, positions), np.int32)
    # On one thread: two tiles may hold rows of one weight.
    _scatter(rows, cols, codes, shifts, offset, groups, out)
    return out.reshape(weight.shape)


@compiled
def _scatter(
    rows: np.ndarray, cols: np.ndarray, codes: np.ndarray, shifts: np.ndarray,
    offset: int, groups: int, out: np.ndarray,
) -> None:  # fmt: skip
    m, depth, _ = out.shape
    per_group = m // groups
    for t in range(len(rows)):
        for r in range(rows.shape[1]):
            if rows[t, r] < 0:
                continue
            position, channel = divmod(rows[t, r], depth * groups)
            for n in range(cols.shape[1]):
                local = channel - (cols[t, n] // per_group) * depth
                # Pairs of a packed tile that belong to different groups hold no weight.
                if cols[t, n] >= 0 and 0 <= local < depth:
                    out[cols[t, n], local, position] += (I64(codes[t, r, n]) << shifts[t, r]) - offset
