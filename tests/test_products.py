"""Matrix products of the quantizers: the same bits on any number of processors."""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from threadpoolctl import threadpool_info, threadpool_limits

from graphs import GraphMaker
from smec import targets
from smec.ir.dialects import quant
from smec.ir.dialects.builtin import ModuleOp
from smec.ir.linear_algebra import single_threaded_blas
from smec.ir.types import Handle
from smec.passes.admm.products import gram, matmul
from smec.passes.base import Pass, PassContext
from smec.passes.calibrate import CALIBRATION_INPUTS
from smec.passes.pipeline import Pipeline, parse_pipeline

EDGES = st.one_of(st.integers(1, 40), st.sampled_from([127, 128, 129, 300]))


def blas_threads() -> set[int]:
    return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}


@given(st.integers(1, 3), EDGES, EDGES, EDGES, st.sampled_from([np.float32, np.float64]), st.integers(0, 2**31))
def test_products_are_what_numpy_makes(groups: int, n: int, k: int, m: int, dtype: type, seed: int) -> None:
    rng = np.random.default_rng(seed)
    # Small integers: sums are exact in any order.
    a, b = rng.integers(-8, 9, (groups, n, k)).astype(dtype), rng.integers(-8, 9, (groups, k, m)).astype(dtype)
    np.testing.assert_array_equal(matmul(a, b), a @ b)
    np.testing.assert_array_equal(gram(a), a.transpose(0, 2, 1) @ a)
    assert matmul(a, b).dtype == dtype


def on_cores(monkeypatch: pytest.MonkeyPatch, cores: int) -> threadpool_limits:
    monkeypatch.setattr(numba.config, "NUMBA_NUM_THREADS", cores)
    return threadpool_limits(cores, user_api="blas")


def test_bits_do_not_depend_on_the_number_of_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=(1, 700, 900)).astype(np.float32), rng.normal(size=(1, 900, 1100)).astype(np.float32)
    found = set()
    for cores in (1, 2, 3):
        with on_cores(monkeypatch, cores):
            found.add((matmul(a, b).tobytes(), gram(a).tobytes()))
    assert len(found) == 1


def wide() -> tuple[ModuleOp, PassContext]:
    """A layer whose products a library would share among its threads, and calibration data."""
    g = GraphMaker(np.random.default_rng(5))
    module = g.finish(g.gemm(g.quantize(g.input("x", (1, 700))), 500, real=True))
    for op in module.graph.ops:
        if isinstance(op, quant.WeightedOp):
            w, scale = op.weight.array, op.weight_scale.array
            op.attributes["float_weight"] = Handle(w.astype(np.float32) * scale.reshape(-1, 1))
            del op.attributes["weight"], op.attributes["weight_scale"]
    module.attributes["levels"] = ("nn", "nn.partitioned", "nn.calibrated", "quant.float")
    x = g.rng.normal(size=(200, 700)).astype(np.float32)
    return module, PassContext(target=targets.load("sme"), cache={CALIBRATION_INPUTS: {"x": x}})


@pytest.mark.parametrize("text", ["quantize-admm{squeeze=5 iterations=20}", "quantize-greedy{squeeze=5}"])
def test_integers_do_not_depend_on_the_number_of_processors(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = set()
    for cores in (1, 2):
        module, context = wide()
        with on_cores(monkeypatch, cores):
            parse_pipeline(text).run(module, context)
        ops = [op for op in module.graph.ops if isinstance(op, quant.WeightedOp)]
        found.add(tuple(op.weight.digest + op.weight_scale.digest + op.bias.digest for op in ops))
    assert len(found) == 1


@dataclass(frozen=True)
class Look(Pass):
    """Notes how many threads linear algebra has."""

    name = "look"

    def run(self, module: ModuleOp, context: PassContext) -> bool:
        context.report[self.name] = blas_threads()
        return False


def test_passes_run_with_single_threaded_libraries() -> None:
    module, context = wide()
    with threadpool_limits(2, user_api="blas"):
        Pipeline([Look()]).run(module, context)
        assert context.report["look"] == {1}
        assert blas_threads() == {2}


def test_limits_may_be_nested() -> None:
    with threadpool_limits(2, user_api="blas"):
        with single_threaded_blas():
            with single_threaded_blas():
                assert blas_threads() == {1}
            assert blas_threads() == {1}
        assert blas_threads() == {2}
