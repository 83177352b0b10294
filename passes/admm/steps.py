"""What ADMM does between its two products: entry by entry and column by column, each time in one pass over memory.

Sums over the rows of a column are in float64, row after row.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from smec.passes.mapping.jit import compiled, in_chunks

#: Columns, and rows, that are handled together: narrower parts of a row are slow to fetch.
_COLUMNS, _ROWS = 256, 64

#: Entries that a thread handles at least.
_LEAST_WORK = 1 << 16


def sums(values: np.ndarray, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """<a, b> and <a, diag(values) a> of each column, float64 [G, 1, M].

    Args:
        values: float32 [G, K, 1].
        a, b: float32 [G, K, M].
    """
    inner, power = np.zeros((2, len(a), 1, a.shape[2]))
    _by_columns(_sums, a.shape, values, a, b, inner, power)
    return inner, power


def sought_transformed(
    pressed: np.ndarray, values: np.ndarray, rho: np.ndarray, zh: np.ndarray, uh: np.ndarray
) -> np.ndarray:
    """V in the basis of eigenvectors, (pressed + rho (zh - uh)) / (values + rho), float32 [G, K, M].

    Args:
        pressed, zh, uh: float32 [G, K, M].
        values: float32 [G, K, 1]. rho: float32 [G, 1, 1].
    """
    out = np.empty_like(pressed)
    _by_rows(_sought, out.shape, pressed, values, rho, zh, uh, out)
    return out


def added_and_scaled(v: np.ndarray, u: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Turn `v` into v + u, in place; return that over the scales [G, 1, M]. All float32."""
    out = np.empty_like(v)
    _by_rows(_add, v.shape, v, u, scales, out)
    return out


def integer_sums(q: np.ndarray, sought: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(Q as float32, <Q, sought> and <Q, Q> of each column, float64 [G, 1, M]) for integers int16 [G, K, M]."""
    real = np.empty(q.shape, np.float32)
    inner, power = np.zeros((2, len(q), 1, q.shape[2]))
    _by_columns(_integers, q.shape, q, sought, real, inner, power)
    return real, inner, power


def update(
    real: np.ndarray, scales: np.ndarray, sought: np.ndarray, vh: np.ndarray, rho: np.ndarray,
    z: np.ndarray, u: np.ndarray, zh: np.ndarray, uh: np.ndarray,
) -> tuple[float, float]:  # fmt: skip
    """Z <- Q a and U <- V + U - Z, in place; likewise in the basis of eigenvectors.

    Args:
        real: Q, float32 [G, K, M], in both bases: `zh` holds E^T Q when this is called.
        scales: a, float32 [G, 1, M]. sought: V + U. vh: V in the basis. rho: [G, 1, 1].
        z, u, zh, uh: float32 [G, K, M].

    Returns:
        The squared norms of V - Z, and of rho times the change of Z.
    """
    norms = np.zeros((2, len(z) * -(-z.shape[1] // _ROWS)))
    _by_rows(_update, z.shape, real, scales, sought, vh, rho, z, u, zh, uh, norms)
    return float(norms[0].sum()), float(norms[1].sum())


def _by_columns(kernel: Callable[..., None], shape: tuple[int, ...], *arrays: Any) -> None:
    """Run a kernel on all (group, block of columns) pairs."""
    groups, k, m = shape
    _run(kernel, groups, -(-m // _COLUMNS), k * min(m, _COLUMNS), arrays)


def _by_rows(kernel: Callable[..., None], shape: tuple[int, ...], *arrays: Any) -> None:
    """Run a kernel on all (group, block of rows) pairs."""
    groups, k, m = shape
    _run(kernel, groups, -(-k // _ROWS), min(k, _ROWS) * m, arrays)


def _run(kernel: Callable[..., None], groups: int, blocks: int, size: int, arrays: tuple[Any, ...]) -> None:
    def work(start: int, stop: int) -> None:
        kernel(start, stop, blocks, *arrays)

    in_chunks(groups * blocks, work, least=max(1, _LEAST_WORK // size))


@compiled
def _sums(
    start: int, stop: int, blocks: int, values: np.ndarray, a: np.ndarray, b: np.ndarray, inner: np.ndarray,
    power: np.ndarray,
) -> None:  # fmt: skip
    for item in range(start, stop):
        g, left = item // blocks, (item % blocks) * _COLUMNS
        right = min(left + _COLUMNS, a.shape[2])
        of_b, of_a = np.zeros(right - left), np.zeros(right - left)
        for k in range(a.shape[1]):
            x, y, value = a[g, k, left:right], b[g, k, left:right], values[g, k, 0]
            for m in range(right - left):
                of_b[m] += np.float64(x[m]) * np.float64(y[m])
            for m in range(right - left):
                of_a[m] += np.float64(value * x[m]) * np.float64(x[m])
        inner[g, 0, left:right], power[g, 0, left:right] = of_b, of_a


@compiled
def _integers(
    start: int, stop: int, blocks: int, q: np.ndarray, sought: np.ndarray, real: np.ndarray, inner: np.ndarray,
    power: np.ndarray,
) -> None:  # fmt: skip
    for item in range(start, stop):
        g, left = item // blocks, (item % blocks) * _COLUMNS
        right = min(left + _COLUMNS, q.shape[2])
        of_v, of_q = np.zeros(right - left), np.zeros(right - left)
        for k in range(q.shape[1]):
            x, v, out = q[g, k, left:right], sought[g, k, left:right], real[g, k, left:right]
            for m in range(right - left):
                out[m] = x[m]
            for m in range(right - left):
                of_v[m] += np.float64(out[m]) * np.float64(v[m])
            for m in range(right - left):
                of_q[m] += np.float64(out[m]) * np.float64(out[m])
        inner[g, 0, left:right], power[g, 0, left:right] = of_v, of_q


@compiled
def _sought(
    start: int, stop: int, blocks: int, pressed: np.ndarray, values: np.ndarray, rho: np.ndarray, zh: np.ndarray,
    uh: np.ndarray, out: np.ndarray,
) -> None:  # fmt: skip
    for item in range(start, stop):
        g, top = item // blocks, (item % blocks) * _ROWS
        r = rho[g, 0, 0]
        for k in range(top, min(top + _ROWS, out.shape[1])):
            below = values[g, k, 0] + r
            p, z, u, v = pressed[g, k], zh[g, k], uh[g, k], out[g, k]
            for m in range(len(v)):
                v[m] = (p[m] + r * (z[m] - u[m])) / below


@compiled
def _add(start: int, stop: int, blocks: int, v: np.ndarray, u: np.ndarray, scales: np.ndarray, out: np.ndarray) -> None:
    for item in range(start, stop):
        g, top = item // blocks, (item % blocks) * _ROWS
        a = scales[g, 0]
        for k in range(top, min(top + _ROWS, out.shape[1])):
            x, y, scaled = v[g, k], u[g, k], out[g, k]
            for m in range(len(x)):
                x[m] += y[m]
                scaled[m] = x[m] / a[m]


@compiled
def _update(
    start: int, stop: int, blocks: int, real: np.ndarray, scales: np.ndarray, sought: np.ndarray, vh: np.ndarray,
    rho: np.ndarray, z: np.ndarray, u: np.ndarray, zh: np.ndarray, uh: np.ndarray, norms: np.ndarray,
) -> None:  # fmt: skip
    for item in range(start, stop):
        g, top = item // blocks, (item % blocks) * _ROWS
        a, r = scales[g, 0], rho[g, 0, 0]
        primal = dual = 0.0
        for k in range(top, min(top + _ROWS, z.shape[1])):
            q, s, x, y = real[g, k], sought[g, k], z[g, k], u[g, k]
            for m in range(len(x)):
                new = q[m] * a[m]
                dual += np.float64(r * (new - x[m])) ** 2
                x[m] = new
                y[m] = s[m] - new
            v, x, y = vh[g, k], zh[g, k], uh[g, k]
            for m in range(len(x)):
                new = x[m] * a[m]
                primal += np.float64(v[m] - new) ** 2
                x[m] = new
                y[m] = y[m] + v[m] - new
        norms[0, item], norms[1, item] = primal, dual
