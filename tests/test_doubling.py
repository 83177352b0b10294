"""Doubled rows: an input with two rows of tiles, from the constraint set through every pass into programs.

The oracles: enumeration of all pairs of codes, what the tiles of a layer hold against its integers after each pass, the
IR's interpretation before and after, and the reference machine.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mapping_layers import Layer, Target, module_of, only_layer, run
from test_admm import context_of, residual
from test_polarized import assert_engines, edited

from graphs import GraphMaker, sample
from programs import assembled, assert_passes, lower
from smec import targets
from smec.assembly import assemble, disassemble
from smec.ir.dialects import quant
from smec.ir.dialects.builtin import ModuleOp
from smec.ir.dialects.quant import WeightedOp
from smec.ir.dialects.xbar import MvmOp
from smec.ir.errors import SmecError
from smec.ir.interpreter import interpret
from smec.ir.isa_machine import run_machine
from smec.ir.store import load_module, save_module
from smec.ir.types import Handle
from smec.ir.verifier import verify
from smec.passes.base import PassContext
from smec.passes.compact import Compact
from smec.passes.constraint_sets.doubled import RepresentableTwice
from smec.passes.constraints import Geometry, layer_constraint
from smec.passes.mapping.coding import code_range, shift_choices, weight_range
from smec.passes.mapping.doubling import spare_rows
from smec.passes.pipeline import parse_pipeline
from smec.passes.slice_bits import SliceBits
from smec.passes.squeeze_out import SqueezeOut
from smec.passes.tile import Tile
from smec.stored import stored_faults

MAPPING = "tile,squeeze-out,compact,slice-bits,group-rows,assign-cores,emit"
SIGNS = ["differential", "twos-complement"]
KINDS = ["any", "sparse", "zero", "most", "least"]
seeds = st.integers(0, 2**32 - 1)


def sums_of_two(g: Geometry, depth: int) -> list[set[int]]:
    """For each pair of shifts, the integers that two codes make, each code an integer of N bits by itself."""
    low, high = code_range(g.sign, g.bits - depth)
    least, most = weight_range(g.sign, g.bits)
    found = []
    for a, b in product(shift_choices(depth, g.bits, g.cell_bits), repeat=2):
        first, second = ([c << k for c in range(low, high + 1) if least <= c << k <= most] for k in (a, b))
        found.append({p + q for p, q in product(first, second) if least <= p + q <= most})
    return found


@st.composite
def geometries(draw: st.DrawFn) -> tuple[Geometry, int]:
    bits = draw(st.integers(2, 7))
    cells = draw(st.sampled_from([1, 1, 2, 3]))
    geometry = Geometry(bits, draw(st.sampled_from(SIGNS)), rows=8, columns=3, cell_bits=cells)
    return geometry, draw(st.integers(1, bits - 1))


# -- the set -----------------------------------------------------------------------------------------------------------


@given(geometries())
def test_levels_are_the_sums_of_two_codes(case: tuple[Geometry, int]) -> None:
    geometry, depth = case
    levels = [set(level.tolist()) for level in RepresentableTwice(geometry, depth).pruned()]
    wanted = sums_of_two(geometry, depth)
    assert all(any(level == other for other in wanted) for level in levels)
    assert all(any(other <= level for level in levels) for other in wanted)


def test_two_codes_side_by_side_reach_every_integer() -> None:
    """What the docs say of two's complement: -128..119 at four of eight planes, all integers at five."""
    four, five = (RepresentableTwice(Geometry(8, "twos-complement"), depth).pruned() for depth in (4, 3))
    assert four[0].tolist() == list(range(-128, 120))
    assert [level.tolist() for level in five] == [list(range(-128, 128))]


@given(geometries(), st.integers(1, 5), st.integers(1, 7), st.booleans(), seeds)
def test_projection_is_the_nearest_member(
    case: tuple[Geometry, int], k: int, m: int, weighted: bool, seed: int
) -> None:
    geometry, depth = case
    rng = np.random.default_rng(seed)
    doubled = tuple((rng.random(k) < 0.6).tolist())
    constraint = layer_constraint(geometry, depth=depth, doubled=doubled)
    values = rng.normal(0, 2.0 ** (geometry.bits - 2), (k, m)).astype(np.float32)
    weights = rng.uniform(0.2, 1, (1, m)).astype(np.float32) if weighted else None
    found = constraint.project(values, weights)
    plain = layer_constraint(geometry, depth=depth)
    np.testing.assert_array_equal(found[~np.array(doubled)], plain.project(values, weights)[~np.array(doubled)])
    wanted = [np.array(sorted(level)) for level in sums_of_two(geometry, depth)]
    for row in np.flatnonzero(doubled):
        for left in range(0, m, geometry.columns):
            part = slice(left, left + geometry.columns)
            v, w = values[row, part].astype(np.float64), 1.0 if weights is None else weights[0, part]
            errors = [(np.square(v[:, None] - level).min(axis=1) * w).sum() for level in wanted]
            assert any(set(found[row, part].tolist()) <= set(level.tolist()) for level in wanted)
            assert (np.square(v - found[row, part]) * w).sum() == pytest.approx(min(errors), rel=1e-5, abs=1e-6)
    np.testing.assert_array_equal(constraint.project(found.astype(np.float32), weights), found)
    np.testing.assert_array_equal(constraint.project((values * 4) / 4, weights), found)


def test_zero_blocks_hold_for_doubled_rows_too() -> None:
    rng = np.random.default_rng(0)
    geometry = Geometry(8, "twos-complement", rows=8, columns=4)
    doubled = (True, False, True, False, False)
    constraint = layer_constraint(geometry, depth=4, extra="zero-blocks:50:1:2", doubled=doubled)
    found = constraint.project(rng.normal(0, 40, (5, 8)).astype(np.float32))
    assert (found.reshape(5, 4, 2) == 0).all(axis=2).sum() >= 10
    assert layer_constraint(geometry, depth=4, doubled=doubled).contains(found)


def test_matrices_of_other_heights_are_refused() -> None:
    constraint = layer_constraint(Geometry(), depth=4, doubled=(True, False))
    with pytest.raises(SmecError, match=r"rows of the matrix .*expected 2"):
        constraint.project(np.zeros((3, 4), np.float32))


# -- passes ------------------------------------------------------------------------------------------------------------


def doubled_rows(k: int, height: int, rng: np.random.Generator) -> np.ndarray:
    return np.sort(rng.permutation(k)[: spare_rows(k, height)]).astype(np.int32)


def representable(kind: str, shape: tuple[int, int], geometry: Geometry, depth: int, doubled: np.ndarray) -> np.ndarray:
    """Integers [K, M] that a layer with these doubled rows holds at this depth."""
    rng = np.random.default_rng(shape[0])
    low, high = geometry.weight_range
    w = {
        "any": rng.integers(low, high + 1, shape),
        "sparse": np.where(rng.random(shape) < 0.1, rng.integers(low, high + 1, shape), 0),
        "zero": np.zeros(shape), "most": np.full(shape, high), "least": np.full(shape, low),
    }[kind]  # fmt: skip
    mask = np.zeros(shape[0], bool)
    mask[doubled] = True
    constraint = layer_constraint(geometry, depth=depth, doubled=tuple(mask.tolist()))
    return constraint.project(w.astype(np.float32))


def with_doubled(module: ModuleOp, rows: np.ndarray, depth: int) -> ModuleOp:
    (op,) = (op for op in module.graph.ops if isinstance(op, WeightedOp))
    op.attributes["squeeze"] = depth
    if len(rows):
        op.attributes["doubled"] = Handle(rows)
    verify(module)
    return module


@settings(max_examples=60)
@given(
    st.sampled_from([1, 63, 64, 65, 127, 128, 129, 200]), st.sampled_from([1, 5, 130]), st.sampled_from(KINDS),
    st.sampled_from(SIGNS), st.integers(3, 7), st.sampled_from([1, 2]), st.booleans(), seeds,
)  # fmt: skip
def test_every_pass_keeps_the_weights(
    k: int, m: int, kind: str, sign: str, depth: int, cell_bits: int, fit: bool, seed: int
) -> None:
    """No more tiles than without, and squeeze-out, at the depth that the integers are for, loses nothing."""
    target, geometry = Target(cell_bits=cell_bits), Geometry(8, sign, cell_bits=cell_bits)
    rows = doubled_rows(k, target.rows, np.random.default_rng(seed))
    weight = representable(kind, (k, m), geometry, depth, rows).T
    plain = module_of(Layer(weight, sign))
    module = with_doubled(module_of(Layer(weight, sign)), rows, depth)
    run(plain, target, Tile())
    run(module, target, Tile())
    op = only_layer(module)
    assert len(op.rows.array) == len(only_layer(plain).rows.array)
    assert np.array_equal(
        np.bincount(op.rows.array[:: -(-m // 128)].reshape(-1) + 1)[1:], 1 + np.isin(np.arange(k), rows)
    )
    assert np.array_equal(op.mapped_matrix(), op.matrix())
    context = run(module, target, SqueezeOut(shift="fit" if fit else "leading-one"))
    assert context.report["squeeze-out"]["squared_error"] == context.report["squeeze-out"]["weights_changed"] == 0
    for step in (Compact(), SliceBits()):
        assert np.array_equal(op.integers(), weight)
        assert np.array_equal(op.effective_weights(), weight)
        run(module, target, step)
    assert np.array_equal(op.effective_weights(), weight)
    assert np.array_equal(op.mapped_matrix(), op.matrix())


@settings(max_examples=30)
@given(st.integers(1, 20), st.integers(1, 9), st.sampled_from(SIGNS), st.integers(0, 7), st.integers(0, 7), seeds)
def test_integers_that_do_not_fit_are_rounded_and_reported(
    k: int, m: int, sign: str, asked: int, depth: int, seed: int
) -> None:
    """Any integers, squeezed to another depth than the layer asked for: the oracle becomes what the tiles hold."""
    rng = np.random.default_rng(seed)
    low, high = weight_range(sign, 8)
    weight = rng.integers(low, high + 1, (m, k))
    target = Target(rows=8, columns=4)
    module = with_doubled(module_of(Layer(weight, sign)), doubled_rows(k, 8, rng), asked)
    run(module, target, Tile())
    op = only_layer(module)
    assert np.array_equal(op.mapped_matrix().T, weight)
    report = run(module, target, SqueezeOut(depth, "fit")).report["squeeze-out"]
    assert np.array_equal(op.mapped_matrix(), op.matrix())
    assert report["squared_error"] == np.square(op.integers().astype(int) - weight).sum()
    assert report["weights_changed"] == np.count_nonzero(op.integers() != weight)
    run(module, target, Compact(), SliceBits())
    assert np.array_equal(op.effective_weights(), op.integers())


def test_which_rows_is_said_in_text(tmp_path: Path) -> None:
    """A module that is stored and read again has the same tiles."""
    weight = np.arange(10).reshape(2, 5)
    module = with_doubled(module_of(Layer(weight, "twos-complement")), np.array([1, 3], np.int32), 4)
    save_module(module, tmp_path / "m.mlir")
    again = load_module(tmp_path / "m.mlir")
    for each in (module, again):
        run(each, Target(), Tile())
    for key in ("rows", "codes", "shifts"):
        assert only_layer(again).attributes[key].digest == only_layer(module).attributes[key].digest  # type: ignore[union-attr]


@pytest.mark.parametrize("rows", [[3, 1], [1, 1], [-1, 2], [5]])
def test_impossible_rows_are_located(rows: list[int]) -> None:
    module = with_doubled(module_of(Layer(np.ones((2, 5)), "twos-complement")), np.array(rows, np.int32), 4)
    with pytest.raises(SmecError, match=r"doubled rows of layer 'layer0'.*ascending, 0 to 4"):
        run(module, Target(), Tile())


@pytest.mark.parametrize("rows", [np.array([1], np.int64), np.array([[1]], np.int32)])
def test_rows_of_another_type_are_refused(rows: np.ndarray) -> None:
    with pytest.raises(SmecError, match="doubled rows are no list of int32"):
        with_doubled(module_of(Layer(np.ones((2, 5)))), rows, 4)


def test_groups_and_other_sign_schemes_are_located() -> None:
    with pytest.raises(SmecError, match="doubled rows in a convolution with groups"):
        with_doubled(module_of(Layer(np.ones((4, 1, 3, 3)), groups=4)), np.array([0], np.int32), 4)
    module = with_doubled(module_of(Layer(np.ones((2, 5)), "offset")), np.array([0], np.int32), 4)
    with pytest.raises(SmecError, match="sign scheme of layer 'layer0' with doubled rows"):
        run(module, Target(), Tile())
    g, module = residual()
    with pytest.raises(SmecError, match="sign scheme with doubled rows"):
        parse_pipeline("quantize-admm{sign=polarized squeeze=4 double=true}").run(module, context_of(module, g))
    g, module = residual()
    with pytest.raises(SmecError, match="doubled rows with squeeze=auto"):
        parse_pipeline("quantize-admm{squeeze=auto double=true}").run(module, context_of(module, g))


# -- quantizers and programs -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["quantize-admm", "quantize-greedy"])
@pytest.mark.parametrize(("sign", "squeeze"), [("differential", 7), ("twos-complement", 5)])
@pytest.mark.parametrize("cell_bits", [1, 2])
def test_quantizers_lose_less_and_squeeze_out_nothing(name: str, sign: str, squeeze: int, cell_bits: int) -> None:
    errors = {}
    for double in (False, True):
        g, module = residual()
        context = context_of(module, g, rows=32, columns=16, cell_bits=cell_bits, adc_bits=9)
        text = f"{name}{{sign={sign} squeeze={squeeze} shift=fit double={str(double).lower()}}},tile,squeeze-out"
        parse_pipeline(text).run(module, context)
        assert [layer["squared_error"] for layer in context.report["squeeze-out"]["layers"]] == [0, 0, 0]
        errors[double] = [layer["output_error"] for layer in context.report[name]["layers"].values()]
    # 54 rows on two tiles, a layer with groups, 20 rows on one tile
    counts = [layer["rows_doubled"] for layer in context.report[name]["layers"].values()]
    assert counts == [10, 0, 12]
    assert errors[True][0] < errors[False][0]
    assert errors[True][2] < errors[False][2]


def network(rng: np.random.Generator, sign: str, depth: int, target: Any) -> ModuleOp:
    """A convolution, one with groups, and a matrix product, with integers that doubled rows hold."""
    g = GraphMaker(rng)
    x = g.quantize(g.input("x", (1, 5, 5, 5)))
    a = g.conv(x, 9, strides=(2, 2), clamp_min=0.0)
    b = g.conv(a, 9, groups=9)
    module = g.finish(g.gemm(g.view(quant.Reshape, b, (1, 81)), 20, real=True))
    for op in module.graph.ops:
        if isinstance(op, WeightedOp) and getattr(op, "groups", 1) == 1:
            geometry = Geometry(8, sign, target.rows, target.columns, target.cell_bits)
            m, k = op.weight.shape[0], int(np.prod(op.weight.shape[1:]))
            rows = doubled_rows(k, target.rows, rng)
            blocks = representable("any", (k, m), geometry, depth, rows)
            if op.weight.array.ndim == 4:
                _, c, kh, kw = op.weight.shape
                weight = blocks.reshape(kh, kw, c, m).transpose(3, 2, 0, 1)
            else:
                weight = blocks.T
            op.attributes |= {"weight": Handle(np.ascontiguousarray(weight)), "doubled": Handle(rows)}
            op.attributes |= {"sign": sign, "squeeze": depth, "bits": 8}
        elif isinstance(op, WeightedOp):
            weight = np.clip(op.weight.array, -128, 127)
            op.attributes |= {"weight": Handle(weight), "sign": sign, "bits": 8}
    return module


@pytest.mark.parametrize(("sign", "depth"), [("differential", 7), ("twos-complement", 4), ("twos-complement", 6)])
@pytest.mark.parametrize(("cell_bits", "dac_bits", "adc_bits"), [(1, 1, 8), (1, 1, 3), (2, 2, 5)])
def test_programs_compute_what_the_graph_does(
    sign: str, depth: int, cell_bits: int, dac_bits: int, adc_bits: int
) -> None:
    rng = np.random.default_rng(depth)
    numbers = {"rows": 32, "columns": 16, "cell_bits": cell_bits, "dac_bits": dac_bits, "adc_bits": adc_bits}
    target = targets.load("sme").model_copy(update=numbers)
    module = network(rng, sign, depth, target)
    inputs = sample(module, rng)
    layers = [op for op in module.graph.ops if isinstance(op, WeightedOp)]
    verify(module)
    assert_passes(module, MAPPING, PassContext(target=target, act_bits=8), inputs)
    program = assembled(module)
    assert not assert_engines(program, inputs, "exact", "adc", "auto")
    text, arrays = disassemble(program)
    assert assemble(text, "f.smeasm", arrays).to_bytes() == program.to_bytes()
    assert not stored_faults(program, layers)
    damaged = edited(program, "tile_shift", (0, 0), program.sections["tile_shift"][0, 0] + 1)
    assert "sum of an input's weights" in next(iter(stored_faults(damaged, layers).values()))


def test_both_rows_count_towards_the_accumulators_width() -> None:
    """What two tiles add one after the other may be more than the layer's integers tell: 32 bits against 64."""
    g = GraphMaker(np.random.default_rng(0))
    module = g.finish(g.gemm(g.quantize(g.input("x", (1, 3))), 2, real=True))
    (op,) = (op for op in module.graph.ops if isinstance(op, WeightedOp))
    weight = np.array([[8, -7, 0], [3, 1, 2]], np.int16)
    op.attributes |= {"weight": Handle(weight), "sign": "twos-complement", "bits": 8, "squeeze": 4}
    op.attributes["doubled"] = Handle(np.array([0, 1, 2], np.int32))
    run(module, Target(rows=8), Tile())
    tiled = next(op for op in module.graph.ops if isinstance(op, MvmOp))
    held = np.abs(tiled.codes.array.astype(int) << tiled.shifts.array[:, :, None]).sum(axis=(0, 1))[:2]
    assert tiled.absolute_sums()[:, 0].tolist() == held.tolist()
    assert held[0] >= np.abs(weight[0]).sum()


def test_programs_from_the_quantizer() -> None:
    g, module = residual()
    context = context_of(module, g, rows=32, columns=16)
    parse_pipeline("quantize-admm{sign=twos-complement squeeze=5 shift=fit double=true}").run(module, context)
    inputs = sample(module, g.rng)
    expected = interpret(module, inputs)["y0"]
    program = lower(module, MAPPING, rows=32, columns=16)
    np.testing.assert_array_equal(run_machine(program, inputs).outputs()["y0"], expected)
    assert not assert_engines(program, inputs, "exact", "adc", "auto")
