"""Matrix products on all cores whose bits do not depend on how many there are (`smec.ir.linear_algebra`)."""

from __future__ import annotations

import numpy as np

from smec.ir.linear_algebra import single_threaded_blas
from smec.passes.mapping.jit import in_chunks

#: Columns of a part: wide enough for a library to reach its speed, narrow enough to share a product among cores.
_STRIP = 128

#: Multiplications of a part, at least: below, a thread costs more than it saves.
_LEAST_WORK = 1 << 22


def matmul(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """`a @ b` for stacks of matrices, [G, n, K] and [G, K, M]."""
    groups, n, k = a.shape
    m = b.shape[2]
    out = np.empty((groups, n, m), np.result_type(a, b))
    # Parts of groups where there are several, else of columns.
    size = max(1, -(-_LEAST_WORK // max(n * k * m, 1))) if groups > 1 else max(_STRIP, -(-_LEAST_WORK // max(n * k, 1)))
    count = groups if groups > 1 else m

    def work(start: int, stop: int) -> None:
        for part in range(start, stop):
            within = slice(part * size, (part + 1) * size)
            if groups > 1:
                np.matmul(a[within], b[within], out=out[within])
            else:
                np.matmul(a[0], b[0, :, within], out=out[0, :, within])

    with single_threaded_blas():
        in_chunks(-(-count // size), work, least=1)
    return out


def gram(x: np.ndarray) -> np.ndarray:
    """X^T X for a stack of matrices [G, n, K]: the lower triangle is computed, the upper one its mirror image."""
    groups, n, k = x.shape
    if groups > 1:
        return matmul(x.transpose(0, 2, 1), x)
    out = np.empty((1, k, k), x.dtype)
    size = max(_STRIP, -(-_LEAST_WORK // (n * k)))

    def work(start: int, stop: int) -> None:
        for part in range(start, stop):
            first, last = part * size, min((part + 1) * size, k)
            np.matmul(x[0, :, first:].T, x[0, :, first:last], out=out[0, first:, first:last])
            out[0, first:last, last:] = out[0, last:, first:last].T

    with single_threaded_blas():
        in_chunks(-(-k // size), work, least=1)
    return out
