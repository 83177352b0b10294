"""The parts of `quantize-admm` against plain forms of the same: the solver, the ridge, layers on many images."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphs import GraphMaker
from smec.ir.dialects import quant
from smec.ir.dialects.arithmetic import accumulator_bound
from smec.ir.errors import SmecError
from smec.passes.admm import eigen
from smec.passes.admm.estimate import _solved
from smec.passes.admm.polish import sweep
from smec.passes.admm.problem import Problem
from smec.passes.admm.segments import channel_parts, run_convolution
from smec.passes.admm.solver import Basis, Schedule, Trace, growth_over, solve
from smec.passes.constraint_sets.intersection import frozen
from smec.passes.constraints import Geometry, layer_constraint


def problem(rng: np.random.Generator, groups: int, k: int, m: int, column: bool) -> Problem:
    x = rng.normal(size=(groups, 3 * k + 1, k))
    hessian = np.matmul(x.transpose(0, 2, 1), x) / (3 * k + 1) + 0.01 * np.eye(k)
    target = rng.normal(0, 0.05, (groups, k, m)).astype(np.float32)
    geometry = Geometry(8, "twos-complement", 32, 16, 1, groups == 1)
    return Problem(hessian.astype(np.float32), target, layer_constraint(geometry, "uniform", 3), column)


def textbook(p: Problem, scales: np.ndarray, schedule: Schedule) -> tuple[float, Trace]:
    """ADMM as Boyd et al. have it, in float64: a solve an iteration, and no change of basis."""
    h, w = p.hessian.astype(np.float64), p.target.astype(np.float64)
    k = w.shape[1]
    rho = schedule.rho * h.trace(axis1=1, axis2=2)[:, None, None] / k

    def fitted(q: np.ndarray, towards: np.ndarray, metric: np.ndarray, known: np.ndarray) -> np.ndarray:
        inner, power = (np.einsum("gkm,gkm->gm", q, metric @ other)[:, None] for other in (towards, q))
        if not p.column:
            inner, power = (np.full(inner.shape, a.sum()) for a in (inner, power))
        return np.where((power > 0) & (inner > 0), inner / np.where(power > 0, power, 1), known).astype(np.float32)

    def error(q: np.ndarray, a: np.ndarray) -> float:
        return float(np.einsum("gkm,gkm->", q * a - w, h @ (q * a - w)))

    q = p.project(p.target, scales).astype(np.float64)
    z, u = q * scales, np.zeros_like(w)
    best, trace = error(q, fitted(q, w, h, scales)), Trace()
    for _ in range(schedule.iterations):
        v = np.linalg.solve(h + rho * np.eye(k), h @ w + rho * (z - u))
        q = p.project((v + u).astype(np.float32), scales).astype(np.float64)
        scales = fitted(q, v + u, np.broadcast_to(np.eye(k), h.shape), scales)
        new = q * scales
        trace.error.append(error(q, fitted(q, w, h, scales)))
        trace.primal.append(float(np.square(v - new).sum()))
        trace.dual.append(float(np.square(rho * (new - z)).sum()))
        best = min(best, trace.error[-1])
        u, z, rho = u + v - new, new, rho * schedule.growth
    return best, trace


@pytest.mark.parametrize(
    ("groups", "k", "m"), [(1, 1, 1), (1, 40, 300), (1, 129, 7), (5, 9, 1), (3, 16, 4), (1, 64, 257)]
)
@pytest.mark.parametrize("column", [True, False])
def test_solver_is_the_textbook_one(groups: int, k: int, m: int, column: bool) -> None:
    p = problem(np.random.default_rng(k), groups, k, m, column)
    scales = np.full((groups, 1, m), np.abs(p.target).max() / 127, np.float32)
    schedule, trace = Schedule(6, 0.1, 1.3), Trace()
    found = solve(p, scales, schedule, Basis.of(p.hessian), trace)
    best, expected = textbook(p, scales, schedule)
    # a weight that lies between two integers may fall to either side
    assert found.error == pytest.approx(best, rel=0.02, abs=1e-6 * p.energy)
    for name in ("error", "primal", "dual"):
        assert getattr(trace, name) == pytest.approx(getattr(expected, name), rel=0.02, abs=1e-6 * p.energy)
    assert found.error == p.error(found.integers, found.scales)
    assert p.constraint.contains(found.integers)


@given(st.integers(1, 40), st.integers(1, 9), st.integers(1, 3), st.integers(0, 2**31))
def test_ridge_solves_its_equations(k: int, m: int, groups: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(groups, k // 2 + 1, k))  # singular without the ridge
    h, c = np.matmul(x.transpose(0, 2, 1), x), rng.normal(size=(groups, k, m))
    added = rng.uniform(0.1, 2, (groups, 1, 1))
    before = h.copy()
    np.testing.assert_allclose(_solved(h, added, c), np.linalg.solve(h + added * np.eye(k), c), rtol=1e-8, atol=1e-10)
    np.testing.assert_array_equal(h, before)


@given(
    st.sampled_from([1, 2, 3, 5, 129]), st.sampled_from([1, 127, 255, 20000, 32767]), st.booleans(),
    st.sampled_from([(1, 1), (2, 2), (1, 2)]), st.booleans(), st.integers(0, 2**31),
)  # fmt: skip
def test_layers_on_many_images_are_exact(
    channels: int, largest: int, grouped: bool, strides: tuple[int, int], whole_reach: bool, seed: int
) -> None:
    g = GraphMaker(np.random.default_rng(seed))
    x = g.quantize(g.input("x", (1, channels, 5, 6)))
    g.conv(
        x, 2 * channels if grouped else 4, strides=strides, groups=channels if grouped else 1, low=-largest,
        high=largest, clamp_min=-1.0,
    )  # fmt: skip
    op = next(op for op in g.block.ops if isinstance(op, quant.Conv))
    levels = g.rng.integers(0, 256, (3, 1, channels, 5, 6)).astype(np.uint8)
    if whole_reach:
        levels[:] = 255
    found = run_convolution(op, levels)
    one = accumulator_bound(op.integers()[:, :1], op.x.type.quantized)
    if found is None:  # not even a single input channel's sums are exact
        assert one >= 1 << 24
        return
    expected = op.interpret([levels])[0]
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


def test_solver_stops_where_nothing_better_is_to_come() -> None:
    p = problem(np.random.default_rng(3), 1, 64, 16, True)
    scales = np.full((1, 1, 16), np.abs(p.target).max() / 127, np.float32)
    basis, traces, found = Basis.of(p.hessian), [], []
    for patience in (0, 14):
        trace = Trace()
        found.append(solve(p, scales, Schedule(100, 0.03, growth_over(100), patience), basis, trace))
        traces.append(trace.error)
    whole, short = traces
    assert len(whole) == 100
    assert len(short) < 100
    assert short == whole[: len(short)]
    best = int(np.argmin(whole))
    assert len(short) == best + 14 + 1
    assert found[0].error == found[1].error
    np.testing.assert_array_equal(found[0].integers, found[1].integers)
    with pytest.raises(SmecError, match="patience"):
        Schedule(patience=-1)


@pytest.mark.parametrize("kind", ["any", "low rank", "diagonal", "zero", "equal"])
@pytest.mark.parametrize(("groups", "k"), [(1, 3), (2, 40), (1, 129)])
def test_eigenvectors_of_large_matrices(monkeypatch: pytest.MonkeyPatch, kind: str, groups: int, k: int) -> None:
    monkeypatch.setattr(eigen, "LARGE", 2)
    rng = np.random.default_rng(k)
    x = rng.normal(size=(groups, 2 if kind == "low rank" else 2 * k, k))
    h = np.matmul(x.transpose(0, 2, 1), x) / k
    if kind in ("diagonal", "zero", "equal"):
        h = {"diagonal": h * np.eye(k), "zero": h * 0, "equal": np.broadcast_to(np.eye(k), h.shape)}[kind]
    h = h.astype(np.float32)
    before = h.copy()
    values, vectors = eigen.eigenvectors(h)
    np.testing.assert_array_equal(h, before)
    assert values.dtype == vectors.dtype == np.float32
    size = max(float(np.abs(h).max()), 1e-30)
    np.testing.assert_allclose(vectors.transpose(0, 2, 1) @ vectors, np.broadcast_to(np.eye(k), h.shape), atol=2e-5)
    np.testing.assert_allclose(vectors * values[:, None] @ vectors.transpose(0, 2, 1), h, atol=1e-4 * size)
    np.testing.assert_allclose(values, np.linalg.eigvalsh(h), atol=1e-5 * k * size)


def test_channels_are_parted_such_that_sums_are_exact() -> None:
    g = GraphMaker(np.random.default_rng(0))
    g.conv(g.quantize(g.input("x", (1, 129, 3, 3))), 2, low=126, high=127)
    op = next(op for op in g.block.ops if isinstance(op, quant.Conv))
    parts = channel_parts(op, op.integers())
    assert [c for part in parts for c in range(129)[part]] == list(range(129))
    reach = [int(np.abs(op.integers()[:, part].astype(np.int64)).sum(axis=(1, 2, 3)).max()) * 255 for part in parts]
    assert sum(reach) >= 1 << 24
    assert len(parts) == 3
    assert max(reach) < 1 << 24


@pytest.mark.parametrize(("k", "m"), [(1, 5), (64, 3), (65, 40), (200, 33)])
@pytest.mark.parametrize("squeeze", [0, 3])
def test_a_sweep_is_descent_row_by_row(k: int, m: int, squeeze: int) -> None:
    p = problem(np.random.default_rng(k), 1, k, m, True)
    p = replace(p, constraint=layer_constraint(p.constraint.geometry, "uniform", squeeze))
    scales = np.full((1, 1, m), np.abs(p.target).max() / 127, np.float32)
    start = p.project(p.target, scales)
    held = frozen(p.constraint, start)
    assert held is not None
    found = start.copy()
    sweep(p, found, scales, p.error_and_residual(found, scales)[1], *held)
    plain, h, w = start.astype(np.float64), p.hessian[0].astype(np.float64), p.target[0].astype(np.float64)
    for row in range(k):
        left = h[row] @ (plain[0] * scales[0] - w)
        wanted = plain[0, row] - left / (h[row, row] * scales[0, 0])
        plain[0, row] = p.constraint.project(wanted[None].astype(np.float32))[0]
    assert (found != plain).mean() <= 0.01  # a weight that lies between two integers may fall to either side
    assert p.error(found, scales) <= p.error(start, scales)
