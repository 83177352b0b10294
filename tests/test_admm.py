"""The reconstructing quantizers: exact projections, solvers that stay in the set, a squeeze-out that loses nothing."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphs import GraphMaker, sample
from smec import targets
from smec.ir.dialects import quant
from smec.ir.dialects.builtin import ModuleOp
from smec.ir.errors import SmecError
from smec.ir.types import Handle
from smec.passes.base import PassContext
from smec.passes.calibrate import CALIBRATION_INPUTS
from smec.passes.constraint_sets.rows import RowSet
from smec.passes.constraints import Geometry, error_of, layer_constraint, parse_constraint
from smec.passes.pipeline import parse_pipeline

SIGNS = ["differential", "twos-complement", "offset"]


@st.composite
def cases(draw: st.DrawFn) -> tuple[Geometry, str, int]:
    bits = draw(st.integers(2, 4))
    sign = draw(st.sampled_from(SIGNS))
    geometry = Geometry(bits, sign, 4, draw(st.integers(1, 3)), draw(st.integers(1, 2)))
    return geometry, draw(st.sampled_from(["uniform", "window:2", "pot", "apot:2"])), draw(st.integers(0, bits - 1))


def representable(geometry: Geometry, depth: int) -> list[set[int]]:
    """By the definition (DESIGN 2): for each row shift k, the integers (code << k) - offset of N - x bit codes."""
    kept = geometry.bits - depth
    codes = {
        "differential": range(-(2**kept) + 1, 2**kept),
        "twos-complement": range(-(2**kept) // 2, 2**kept // 2),
        "offset": range(2**kept),
    }[geometry.sign]
    low, high = geometry.weight_range
    shifts = range(-(-depth // geometry.cell_bits) * geometry.cell_bits + geometry.cell_bits + 1)
    usable = {min(k, geometry.bits - 1) for k in shifts if k % geometry.cell_bits == 0}
    return [{w for c in codes if low <= (w := (c << k) - geometry.offset) <= high} for k in sorted(usable)]


@given(cases(), st.integers(0, 2**31))
def test_projection_is_the_nearest_member(case: tuple[Geometry, str, int], seed: int) -> None:
    geometry, pattern, depth = case
    try:
        constraint = layer_constraint(geometry, pattern, depth)
    except SmecError as error:
        assert "no weight but 0" in str(error)
        return
    assert isinstance(constraint, RowSet)
    rng = np.random.default_rng(seed)
    values = rng.normal(0, 2 ** (geometry.bits - 1), (3, 3)).astype(np.float32)
    weights = rng.uniform(0.1, 1, (1, 3)).astype(np.float32)
    found = constraint.project(values, weights)
    points = set(parse_constraint(f"pattern:{pattern}", geometry).levels()[0].tolist())  # type: ignore[attr-defined]
    levels = [sorted(points & members) for members in representable(geometry, depth)]
    for row, chosen in zip(values, found, strict=True):
        for left in range(0, 3, geometry.columns):
            here = slice(left, left + geometry.columns)
            width = len(row[here])
            members = {r for level in levels for r in product(level, repeat=width)}
            assert tuple(chosen[here].tolist()) in members
            best = min(error_of(row[here], np.array(r), weights[0, here]) for r in members)
            assert error_of(row[here], chosen[here], weights[0, here]) == pytest.approx(best, rel=1e-5, abs=1e-6)
    np.testing.assert_array_equal(constraint.project(found.astype(np.float32), weights), found)


def residual() -> tuple[GraphMaker, ModuleOp]:
    """A small network one level above `quant`: convolution, depthwise, shortcut, pool, matrix product."""
    g = GraphMaker(np.random.default_rng(5))
    x = g.quantize(g.input("x", (1, 6, 8, 8)))
    a = g.conv(x, 20, clamp_min=0.0)
    b = g.conv(a, 20, groups=20)
    s = g.binary(quant.Add, a, b, clamp_min=0.0)
    p = g.pool(quant.AvgPool, s, (8, 8), (1, 1))
    module = g.finish(g.gemm(g.view(quant.Reshape, p, (1, 20)), 10, real=True))
    for op in module.graph.ops:
        if isinstance(op, quant.WeightedOp):
            w, scale = op.weight.array, op.weight_scale.array
            op.attributes["float_weight"] = Handle(w.astype(np.float32) * scale.reshape(-1, *(1,) * (w.ndim - 1)))
            del op.attributes["weight"], op.attributes["weight_scale"]
    module.attributes["levels"] = ("nn", "nn.partitioned", "nn.calibrated", "quant.float")
    return g, module


def context_of(module: ModuleOp, g: GraphMaker, **target: Any) -> PassContext:
    machine = targets.load("sme").model_copy(update=target)
    x = sample(module, g.rng, 24)["x"][:, 0]
    return PassContext(target=machine, cache={CALIBRATION_INPUTS: {"x": x}})


@pytest.mark.parametrize("name", ["quantize-admm", "quantize-greedy"])
@pytest.mark.parametrize("shift", ["fit", "leading-one"])
@pytest.mark.parametrize(
    ("sign", "squeeze"), [("differential", 6), ("twos-complement", 4), ("offset", 0), ("polarized", 6)]
)
@pytest.mark.parametrize("cell_bits", [1, 2])
def test_squeeze_out_changes_nothing_afterwards(name: str, shift: str, sign: str, squeeze: int, cell_bits: int) -> None:
    g, module = residual()
    context = context_of(module, g, rows=32, columns=16, cell_bits=cell_bits, adc_bits=9)
    text = f"{name}{{sign={sign} squeeze={squeeze} shift={shift}}},tile,squeeze-out"
    parse_pipeline(text).run(module, context)
    assert [layer["squared_error"] for layer in context.report["squeeze-out"]["layers"]] == [0, 0, 0]


def test_admm_beats_greedy() -> None:
    errors = {}
    for solver in ("quantize-admm", "quantize-greedy"):
        g, module = residual()
        context = context_of(module, g)
        parse_pipeline(f"{solver}{{squeeze=6}}").run(module, context)
        errors[solver] = sum(layer["output_error"] for layer in context.report[solver]["layers"].values())
    assert 0 < errors["quantize-admm"] < errors["quantize-greedy"]


def test_results_do_not_depend_on_the_run() -> None:
    digests = set()
    for _ in range(2):
        g, module = residual()
        parse_pipeline("quantize-admm{squeeze=5}").run(module, context_of(module, g))
        ops = [op for op in module.graph.ops if isinstance(op, quant.WeightedOp)]
        digests.add(tuple(op.weight.digest + op.weight_scale.digest + op.bias.digest for op in ops))
    assert len(digests) == 1


def test_calibration_data_are_needed() -> None:
    _, module = residual()
    with pytest.raises(SmecError, match="calibration"):
        parse_pipeline("quantize-admm").run(module, PassContext(target=targets.load("sme")))
