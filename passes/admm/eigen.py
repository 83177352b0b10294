"""Eigenvectors of large symmetric matrices, sooner than by LAPACK's drivers on one thread.

A = Q T Q^T with T tridiagonal (xSYTRD), T = V diag(l) V^T (MRRR, xSTEMR), hence A = (Q V) diag(l) (Q V)^T. V comes from
float64 numbers, in which MRRR's vectors are orthogonal far beyond float32; finding it takes a multiple of K^2 steps,
and is done while Q is put together. Q V is a product like others, which all cores share.

Sources: Golub and Van Loan, Matrix Computations, section 8.3; Dhillon and Parlett, Linear Algebra and its Applications
387, 2004, doi 10.1016/j.laa.2003.12.028.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from smec.ir.linear_algebra import single_threaded_blas
from smec.passes.admm.products import matmul

#: Rows from which on this is sooner than `numpy.linalg.eigh`.
LARGE = 1536


def eigenvectors(matrices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues, float32 [G, K] ascending, and eigenvectors [G, K, K] in columns, of symmetric float32 [G, K, K]."""
    with single_threaded_blas():
        if matrices.shape[1] <= LARGE:
            return np.linalg.eigh(matrices)
        found = [_large(matrix) for matrix in matrices]
    return np.stack([values for values, _ in found]), np.stack([vectors for _, vectors in found])


def _large(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    from scipy.linalg import eigh_tridiagonal, lapack

    work, _ = lapack.ssytrd_lwork(len(matrix), lower=1)
    reflectors, diagonal, beside, tau, _ = lapack.ssytrd(matrix, lower=1, lwork=int(work))
    with ThreadPoolExecutor(1) as pool:
        of_t = pool.submit(
            eigh_tridiagonal, diagonal.astype(np.float64), beside.astype(np.float64), lapack_driver="stemr"
        )
        q = _product_of(reflectors, tau)
        values, vectors = of_t.result()
    return values.astype(np.float32), matmul(q[None], vectors.astype(np.float32)[None])[0]


def _product_of(reflectors: np.ndarray, tau: np.ndarray) -> np.ndarray:
    """Q of A = Q T Q^T: what xORGTR makes of the lower triangle that xSYTRD leaves."""
    from scipy.linalg import lapack

    below = np.asfortranarray(reflectors[1:, :-1])
    _, work, _ = lapack.sorgqr(below, tau, lwork=-1)
    inner, _, _ = lapack.sorgqr(below, tau, lwork=int(work[0]), overwrite_a=1)
    q = np.eye(len(reflectors), dtype=np.float32)
    q[1:, 1:] = inner
    return q
