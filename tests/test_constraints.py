"""Constraint sets: nearest points against enumeration, boxes, intersections, the registry, and squeeze-out itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import mapping_layers
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mapping_layers import Layer, Target

from smec.ir.errors import SmecError
from smec.passes import constraints
from smec.passes.admm.hessian import weight_blocks
from smec.passes.constraint_sets.boxes import Polarized, ZeroBlocks
from smec.passes.constraint_sets.intersection import Intersection, frozen
from smec.passes.constraint_sets.rows import PatternSet, Representable, RowSet
from smec.passes.constraints import (
    ConstraintSet,
    Geometry,
    error_of,
    intersect,
    layer_constraint,
    parse_constraint,
    register_constraint,
)
from smec.passes.squeeze_out import SqueezeOut
from smec.passes.tile import Tile

SIGNS = ["differential", "twos-complement", "offset"]
seeds = st.integers(0, 2**32 - 1)


def matrix(seed: int, shape: tuple[int, ...], spread: float = 3.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, spread, shape).astype(np.float32)


def least_error(members: Sequence[np.ndarray], values: np.ndarray, weights: np.ndarray | None) -> float:
    return min(error_of(values, m, weights) for m in members)


def all_matrices(points: Sequence[int], shape: tuple[int, int]) -> list[np.ndarray]:
    return [np.array(m).reshape(shape) for m in product(points, repeat=shape[0] * shape[1])]


# -- squeeze-out is the judge of what is representable -----------------------------------------------------------------


@st.composite
def squeezed(draw: st.DrawFn) -> tuple[Layer, Target, int]:
    layer = draw(mapping_layers.layers())
    return layer, draw(mapping_layers.targets()), draw(st.integers(0, layer.bits - 1))


@given(squeezed(), st.sampled_from(["leading-one", "fit"]), seeds)
def test_squeeze_out_changes_no_projected_matrix(case: tuple[Layer, Target, int], shift: str, seed: int) -> None:
    """Through the passes, for every kind of layer: dense, grouped, depthwise, on tiles with edges."""
    layer, target, depth = case
    geometry = Geometry(layer.bits, layer.sign, target.rows, target.columns, target.cell_bits, dense=layer.groups == 1)
    module = mapping_layers.module_of(layer)
    (op,) = (op for op in module.graph.ops if op.name.startswith("quant."))
    blocks = weight_blocks(op, layer.weight.astype(np.float32))  # type: ignore[arg-type]
    noisy = blocks + matrix(seed, blocks.shape, 0.3)
    found = Representable(geometry, depth).project(noisy)
    assert Representable(geometry, depth).contains(found)
    layer.weight = _as_weight(found, layer)
    module = mapping_layers.module_of(layer)
    mapping_layers.run(module, target, Tile())
    report = mapping_layers.run(module, target, SqueezeOut(depth, shift)).report["squeeze-out"]  # type: ignore[arg-type]
    assert report["squared_error"] == 0
    assert report["weights_changed"] == 0


def _as_weight(blocks: np.ndarray, layer: Layer) -> np.ndarray:
    if layer.weight.ndim == 2:
        return blocks[0].T
    m, depth, kh, kw = layer.weight.shape
    split = blocks.reshape(layer.groups, kh * kw, depth, m // layer.groups)
    return split.transpose(0, 3, 2, 1).reshape(layer.weight.shape)


@given(squeezed())
def test_what_squeeze_out_keeps_is_representable(case: tuple[Layer, Target, int]) -> None:
    layer, target, depth = case
    module = mapping_layers.module_of(layer)
    mapping_layers.run(module, target, Tile(), SqueezeOut(depth, "fit"))
    op = mapping_layers.only_layer(module)
    geometry = Geometry(layer.bits, layer.sign, target.rows, target.columns, target.cell_bits, dense=layer.groups == 1)
    assert Representable(geometry, depth).contains(weight_blocks(op, op.integers()))


# -- properties of all projections -------------------------------------------------------------------------------------

TEXTS = ["", "zero-blocks:50:2:1", "zero-blocks:30", "polarized:2", "zero-blocks:40:1:2+polarized:3", "zero-rows:2"]


@st.composite
def any_set(draw: st.DrawFn) -> ConstraintSet:
    bits = draw(st.integers(2, 6))
    geometry = Geometry(
        bits, draw(st.sampled_from(["differential", "twos-complement", "polarized"])), 4, draw(st.integers(1, 4))
    )
    pattern = draw(st.sampled_from(["uniform", "window:2", "pot"]))
    try:
        return layer_constraint(geometry, pattern, draw(st.integers(0, bits - 1)), draw(st.sampled_from(TEXTS)))
    except SmecError:
        return layer_constraint(geometry, pattern)


@given(any_set(), seeds)
def test_projections_are_members_and_stay(constraint: ConstraintSet, seed: int) -> None:
    values = matrix(seed, (2, 5, 4), 2.0 ** (constraint.geometry.bits - 1))
    found = constraint.project(values)
    assert found.dtype == np.int16
    assert constraint.contains(found)
    np.testing.assert_array_equal(constraint.project(found.astype(np.float32)), found)


@given(any_set(), seeds, st.sampled_from([2.0**-20, 0.5, 8.0, 3.0]))
def test_projections_depend_on_the_ratio_alone(constraint: ConstraintSet, seed: int, factor: float) -> None:
    """Values and scale times the same factor give the same integers; so do importances times a factor."""
    values, scale = matrix(seed, (5, 4)), np.float32(0.25)
    weights = np.random.default_rng(seed).uniform(0.5, 2, (1, 4))
    found = constraint.project(values / scale, weights)
    np.testing.assert_array_equal(constraint.project((values * 8) / (scale * 8), weights), found)
    np.testing.assert_array_equal(constraint.project(values / scale, weights * 2.0 ** round(np.log2(factor))), found)


@given(any_set(), seeds)
def test_freezing_keeps_the_matrix_and_the_set(constraint: ConstraintSet, seed: int) -> None:
    values = matrix(seed, (1, 5, 4), 2.0 ** (constraint.geometry.bits - 1))
    found = constraint.project(values)
    held = frozen(constraint, found)
    assert held is not None
    rows, box = held
    np.testing.assert_array_equal(rows.project(found.astype(np.float32), None, box), found)
    assert constraint.contains(rows.project(matrix(seed + 1, (1, 5, 4)), None, box))


def test_infinities_and_ends() -> None:
    rows = Representable(Geometry(4, "twos-complement", columns=1), 1)
    values = np.array([[np.inf, -np.inf, 1e30, -1e30, 0.0]], np.float32)
    assert rows.project(values).tolist() == [[6, -8, 6, -8, 0]]
    with pytest.raises(SmecError, match="NaN"):
        rows.project(np.array([[np.nan]]))
    with pytest.raises(SmecError, match="two axes"):
        rows.project(np.array([1.0]))
    assert rows.project(np.empty((0, 3))).shape == (0, 3)


def test_importance_decides_between_rows_shifts() -> None:
    rows = Representable(Geometry(4, "differential"), 2)
    values = np.array([[12.0, 1.0]])
    assert rows.project(values).tolist() == [[12, 0]]
    assert rows.project(values, np.array([[1e-3, 1e3]])).tolist() == [[3, 1]]


# -- boxes -------------------------------------------------------------------------------------------------------------


@given(seeds, st.booleans())
def test_polarized_is_nearest(seed: int, weighted: bool) -> None:
    geometry = Geometry(2, "polarized", rows=3)
    constraint = intersect(PatternSet(geometry), Polarized(geometry, 2))
    values = matrix(seed, (4, 1), 2)
    weights = np.random.default_rng(seed).uniform(0.1, 1, (4, 1)) if weighted else None
    # Groups of two rows within tiles of three: rows 0-1, 2, 3.
    members = [m for m in all_matrices(range(-3, 4), (4, 1)) if m[0, 0] * m[1, 0] >= 0]
    found = constraint.project(values, weights)
    assert error_of(values, found, weights) == pytest.approx(least_error(members, values, weights), rel=1e-6, abs=1e-6)


@given(seeds, st.sampled_from([0, 25, 50, 75, 100]))
def test_zero_blocks_are_nearest(seed: int, percent: int) -> None:
    geometry = Geometry(2, "differential", rows=4, columns=4)
    constraint = intersect(PatternSet(geometry), ZeroBlocks(geometry, percent, 1, 2))
    values = matrix(seed, (2, 4), 2)
    need = -(-percent * 4 // 100)
    members = []
    for kept in product([0, 1], repeat=4):
        if kept.count(0) == need:
            mask = np.repeat(np.array(kept).reshape(2, 2), 2, axis=1)
            members.append(np.clip(np.rint(values), -3, 3) * mask)
    found = constraint.project(values)
    assert error_of(values, found) == pytest.approx(least_error(members, values, None), rel=1e-6, abs=1e-6)
    assert (np.abs(found).reshape(2, 2, 2).sum(-1) == 0).sum() >= need


@given(seeds)
def test_zero_blocks_of_whole_row_segments_are_nearest_at_any_depth(seed: int) -> None:
    geometry = Geometry(3, "differential", rows=2, columns=2)
    rows = Representable(geometry, 2)
    constraint = intersect(rows, ZeroBlocks(geometry, 50, 1, 2))
    values = matrix(seed, (2, 4), 3)
    levels = [rows.project(values)]
    costs = [error_of(values[r : r + 1, c : c + 2], levels[0][r : r + 1, c : c + 2]) for r in (0, 1) for c in (0, 2)]
    zeros = [error_of(values[r : r + 1, c : c + 2], np.zeros((1, 2))) for r in (0, 1) for c in (0, 2)]
    best = min(
        sum(z if i in zeroed else c for i, (c, z) in enumerate(zip(costs, zeros, strict=True)))
        for zeroed in [(i, j) for i in range(4) for j in range(i)]
    )
    assert error_of(values, constraint.project(values)) == pytest.approx(best, rel=1e-6, abs=1e-6)


@given(seeds)
def test_boxes_on_shifted_rows_keep_their_bound(seed: int) -> None:
    """`Intersection`, case 1: the stated bound, and never below the optimum."""
    geometry = Geometry(3, "polarized", columns=2)
    rows, boxed = Representable(geometry, 1), Polarized(geometry, 2)
    values = matrix(seed, (2, 2), 4)
    nearest = rows.project(values)
    lighter = 0.0
    for column in range(2):
        gain = np.maximum(nearest[:, column] * (2 * values[:, column] - nearest[:, column]), 0)
        lighter += min(gain[nearest[:, column] > 0].sum(), gain[nearest[:, column] < 0].sum())
    error = error_of(values, intersect(rows, boxed).project(values))
    assert error <= error_of(values, nearest) + lighter + 1e-4
    members = [
        np.array([a, b])
        for level_a, level_b in product(rows.levels(), repeat=2)
        for a in product(level_a, repeat=2)
        for b in product(level_b, repeat=2)
        if all(x * y >= 0 for x, y in zip(a, b, strict=True))
    ]
    assert error >= least_error(members, values, None) - 1e-4


def test_blocks_start_anew_in_each_tile() -> None:
    index = constraints.constraint_class("zero-blocks")
    assert index is ZeroBlocks
    from smec.passes.constraint_sets.boxes import block_index

    assert block_index(7, 2, 3).tolist() == [0, 0, 1, 2, 2, 3, 4]
    assert Polarized(Geometry(rows=3), 2).starts(7).tolist() == [0, 2, 3, 5, 6]


# -- putting together --------------------------------------------------------------------------------------------------


@register_constraint
@dataclass(frozen=True)
class EvenCorner(ConstraintSet):
    """The first entry is even: a set of no known kind."""

    name = "even-corner"

    def project(self, values: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
        out = np.rint(values).astype(np.int16)
        out[..., 0, 0] = 2 * np.rint(values[..., 0, 0] / 2)
        return out


@register_constraint
@dataclass(frozen=True)
class Even(RowSet):
    """Even integers only: what a plug-in writes."""

    name = "even"

    def levels(self) -> Sequence[np.ndarray]:
        low, high = self.geometry.weight_range
        return [np.arange(low + low % 2, high + 1, 2)]


def test_a_set_of_ones_own() -> None:
    geometry = Geometry(4, "twos-complement")
    constraint = layer_constraint(geometry, "uniform", 0, "even")
    assert constraint.project(np.array([[2.9, 0.9, -9.0, 40.0]])).tolist() == [[2, 0, -8, 6]]
    assert "even" in constraints.constraint_names()


@given(seeds)
def test_sets_of_other_kinds_are_met_in_turn(seed: int) -> None:
    geometry = Geometry(4, "differential", columns=2)
    constraint = intersect(Representable(geometry, 2), EvenCorner(geometry))
    found = constraint.project(matrix(seed, (3, 4), 6))
    assert constraint.contains(found)
    assert found[0, 0] % 2 == 0
    assert frozen(constraint, found) is None


def test_rows_intersect_to_rows() -> None:
    geometry = Geometry(4, "differential")
    both = intersect(PatternSet(geometry, "pot"), Representable(geometry, 3))
    assert isinstance(both, RowSet)
    assert {int(v) for level in both.levels() for v in level} == {0, 1, -1, 2, -2, 4, -4, 8, -8}
    assert isinstance(intersect(both, ZeroBlocks(geometry)), Intersection)


def test_no_common_point_is_an_error() -> None:
    geometry = Geometry(4, "differential")

    @dataclass(frozen=True)
    class Large(RowSet):
        name = "large"

        def levels(self) -> Sequence[np.ndarray]:
            return [np.array([7, 9])]

    with pytest.raises(SmecError, match="allows no integer"):
        intersect(PatternSet(geometry, "pot"), Large(geometry))
    with pytest.raises(SmecError, match="may hold 0"):
        intersect(Large(geometry), ZeroBlocks(geometry))
    with pytest.raises(SmecError, match="no constraint sets"):
        intersect()


# -- text and registry -------------------------------------------------------------------------------------------------


def test_text_is_read_back() -> None:
    geometry = Geometry(8)
    for text in (
        "zero-blocks:30",
        "zero-blocks:50:16:128",
        "zero-rows:3",
        "polarized:16",
        "representable:3",
        "pattern:window:2",
    ):
        assert parse_constraint(text, geometry).text() == text
    assert parse_constraint("zero-blocks", geometry).text() == "zero-blocks"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("zero-block", "did you mean 'zero-blocks'"),
        ("zero-blocks:x", "no integer"),
        ("polarized:1:2", "too many options"),
        ("polarized:0", "without rows"),
        ("zero-blocks:101", "0 to 100"),
        ("zero-blocks:50:-1", "without entries"),
        ("zero-rows:-1", "negative"),
        ("representable:8", "0 to 7"),
        ("pattern:none", "unknown pattern"),
    ],
)
def test_wrong_text_is_diagnosed(text: str, message: str) -> None:
    with pytest.raises(SmecError, match=message):
        parse_constraint(text, Geometry(8)).project(np.zeros((1, 1)))


def test_wrong_geometry_is_diagnosed() -> None:
    for options in ({"sign": "none"}, {"bits": 0}, {"bits": 16}, {"columns": 0}):
        with pytest.raises(SmecError):
            Geometry(**options)  # type: ignore[arg-type]
    assert Geometry(16, "twos-complement").weight_range == (-(2**15), 2**15 - 1)


def test_names_are_unique() -> None:
    with pytest.raises(SmecError, match="taken"):

        @register_constraint
        @dataclass(frozen=True)
        class Other(RowSet):
            name = "polarized"

    with pytest.raises(SmecError, match="frozen dataclass"):
        register_constraint(type("Plain", (RowSet,), {"name": "plain"}))
    with pytest.raises(SmecError, match="no valid name"):

        @register_constraint
        @dataclass(frozen=True)
        class Nameless(RowSet):
            name = "a+b"
