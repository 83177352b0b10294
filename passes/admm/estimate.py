"""From samples to a problem: how far the calibration data can be trusted.

Calibration images are few, and the pixels of one image are alike: deep layers have more rows than there are independent
samples. Two things would then fit the sample and nothing else, and both are measured on two halves of the images:

1. The target. Least squares asks for W + D with D = H^-1 C, C = X^T (Y - X W): the correction of what came before. Here
   D = (H + r m I)^-1 C with m the mean of H's diagonal, and the ridge r is the one of a grid (infinity, no correction,
   among them) at which the correction found on one half explains most of the other half.
2. The Hessian. Rounding errors are steered to where H is small, which is where a sample's H errs most. It is replaced
   by H + d m I, with d from the shrinkage of Ledoit and Wolf (J. Multivariate Analysis 88, 2004, doi
   10.1016/S0047-259X(03)00096-4) towards the multiple of I: d = g / (1 - g), g the variance of H over its distance from
   that multiple; the variance is a quarter of the squared distance between the halves. Twice that is taken: their
   optimum is for the error of H itself, and on held-out images of MobileNet-v2 twice it was better throughout.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from smec.ir.linear_algebra import single_threaded_blas
from smec.passes.admm.hessian import Moments
from smec.passes.admm.products import matmul
from smec.passes.mapping.jit import in_chunks

#: Ridges that are tried, as shares of H's mean diagonal.
_RIDGES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
_FEW_RIDGES = (0.01, 0.1, 1.0, 10.0)

#: Rows from which on a decomposition costs more than solving for each of few ridges.
_LARGE = 1536

#: Bounds of the damping, and its factor over the estimate; see 2.
_MOST_DAMPING = 10.0
_FACTOR = 2.0


@dataclass(frozen=True)
class Estimate:
    """Damped H, float32 [G, K, K], scaled to a mean diagonal of about 1; target, float32 [G, K, M]; d and r."""

    hessian: np.ndarray
    target: np.ndarray
    damping: float
    ridge: float


def estimate_of(folds: tuple[Moments, Moments], weight: np.ndarray, least_damping: float) -> Estimate:
    """The problem that two halves of the samples pose.

    Args:
        folds: their moments.
        weight: float weights, [G, K, M].
        least_damping: d is no less.
    """
    whole = folds[0] + folds[1]
    h = whole.hessian
    diagonal = _mean_diagonal(h)
    damping = max(least_damping, _shrinkage(folds, h))
    ridge = _best_ridge(folds, weight)
    target = weight.astype(np.float32)
    if np.isfinite(ridge):
        target = (weight + _correction(h, whole.cross - matmul(h, weight), diagonal)(ridge)).astype(np.float32)
    # Groups keep their proportions: what a group's output error counts for does not depend on the others.
    live = diagonal[diagonal > 0]
    eye = np.eye(h.shape[1], dtype=h.dtype)
    damped = h + (damping * np.where(diagonal > 0, diagonal, 1.0)).astype(h.dtype) * eye
    scale = h.dtype.type(live.mean() if live.size else 1.0)
    return Estimate((damped / scale).astype(np.float32), target, damping, ridge)


def _mean_diagonal(h: np.ndarray) -> np.ndarray:
    """Of each group, [G, 1, 1]."""
    mean: np.ndarray = (h.trace(axis1=1, axis2=2) / h.shape[1])[:, None, None]
    return mean


def _shrinkage(folds: tuple[Moments, Moments], h: np.ndarray) -> float:
    """Case 2; all groups together."""
    if min(fold.samples for fold in folds) < 1:
        return 0.0
    variance = float(np.square(folds[0].hessian - folds[1].hessian).sum(dtype=np.float64)) / 4
    distance = float(np.square(h).sum(dtype=np.float64) - h.shape[1] * np.square(_mean_diagonal(h)).sum())
    if not variance > 0:
        return 0.0
    share = variance / max(distance, variance)
    return _FACTOR * min(share / max(1 - share, 1e-9), _MOST_DAMPING / _FACTOR)


def _best_ridge(folds: tuple[Moments, Moments], weight: np.ndarray) -> float:
    """Case 1; infinity where no correction helps. (More ridges and both directions where that is cheap.)"""
    large = weight.shape[1] > _LARGE
    ridges: Sequence[float] = _FEW_RIDGES if large else _RIDGES
    directions = [folds] if large else [folds, folds[::-1]]
    if min(fold.samples for fold in folds) < 2:
        return float("inf")
    gains = np.zeros((len(directions), len(ridges)))

    def one_way(start: int, stop: int) -> None:
        for i in range(start, stop):
            gains[i] = _gains(*directions[i], weight, ridges)

    in_chunks(len(directions), one_way, least=1)
    gains = gains.sum(axis=0)
    best = int(np.argmax(gains))
    return ridges[best] if gains[best] > 0 else float("inf")


def _gains(train: Moments, test: Moments, weight: np.ndarray, ridges: Sequence[float]) -> np.ndarray:
    """By how much the correction found on `train` lowers the error on `test`, a sample, for each ridge."""
    h = train.hessian
    corrected = _correction(h, train.cross - matmul(h, weight), _mean_diagonal(h))
    unseen = test.hessian
    residual = (test.cross - matmul(unseen, weight)).astype(np.float32)
    unseen = unseen.astype(np.float32)
    found = np.zeros(len(ridges))

    def some(start: int, stop: int) -> None:
        for i in range(start, stop):
            d = corrected(ridges[i]).astype(np.float32)
            # |X (W + D) - Y|^2 less |X W - Y|^2
            change = matmul(unseen, d) - 2 * residual
            found[i] = -np.einsum("gkm,gkm->", d, change, dtype=np.float64)

    in_chunks(len(ridges), some, least=1)
    return found


def _correction(h: np.ndarray, c: np.ndarray, diagonal: np.ndarray) -> Callable[[float], np.ndarray]:
    """D as a function of the ridge."""
    m = np.where(diagonal > 0, diagonal, 1.0).astype(h.dtype)
    if h.shape[1] > _LARGE:
        return lambda ridge: _solved(h, h.dtype.type(ridge) * m, c)
    with single_threaded_blas():
        values, vectors = np.linalg.eigh(h)
    values = np.maximum(values, 0)[..., None]
    inside = matmul(vectors.transpose(0, 2, 1), c)

    def at(ridge: float) -> np.ndarray:
        return matmul(vectors, inside / (values + h.dtype.type(ridge) * m))

    return at


def _solved(h: np.ndarray, added: np.ndarray, c: np.ndarray) -> np.ndarray:
    """(H + d I)^-1 C for each group's d, [G, 1, 1] above 0."""
    from scipy.linalg import cho_factor, cho_solve

    out = np.empty_like(c)
    with single_threaded_blas():
        for g in range(len(h)):
            sum_of = h[g].copy()
            np.einsum("kk->k", sum_of)[...] += added[g, 0, 0]
            factor = cho_factor(sum_of, lower=True, overwrite_a=True, check_finite=False)
            out[g] = cho_solve(factor, c[g], check_finite=False)
    return out
