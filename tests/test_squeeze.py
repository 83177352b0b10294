"""Squeeze-out: shifts, rounding, and what it promises (DESIGN 2)."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mapping_layers import Layer, Target, assert_maps, layers, module_of, only_layer, run, targets

from smec.ir.dialects.xbar import MvmOp
from smec.ir.errors import SmecError
from smec.passes.base import PassContext
from smec.passes.mapping.coding import code_range, weight_range
from smec.passes.squeeze_out import SqueezeOut
from smec.passes.tile import Tile

Shift = Literal["leading-one", "fit"]
shifts: st.SearchStrategy[Shift] = st.sampled_from(("leading-one", "fit"))


def squeezed(layer: Layer, target: Target, depth: int, shift: Shift) -> tuple[MvmOp, PassContext]:
    module = module_of(layer)
    context = run(module, target, Tile(), SqueezeOut(depth, shift))
    return only_layer(module), context


@given(layers(), targets(), st.integers(0, 9), shifts)
def test_squeezed_codes_are_the_oracle(layer: Layer, target: Target, depth: int, shift: Shift) -> None:
    depth = min(depth, layer.bits - 1)
    op, context = squeezed(layer, target, depth, shift)
    assert_maps(op)
    assert (op.squeeze, op.shift) == (depth, shift)
    low, high = code_range(layer.sign, layer.bits - depth)
    assert op.codes.array.min(initial=0) >= low
    assert op.codes.array.max(initial=0) <= high
    low, high = weight_range(layer.sign, layer.bits)
    assert op.integers().min() >= low
    assert op.integers().max() <= high
    k = op.shifts.array
    assert ((k % target.cell_bits == 0) | (k == layer.bits - 1)).all()
    change = op.integers().astype(np.int64) - layer.weight
    (figures,) = context.report["squeeze-out"]["layers"]
    assert figures["squared_error"] == (change**2).sum()
    assert figures["weights_changed"] == (change != 0).sum()
    scale = 1 if layer.scale is None else layer.scale.astype(np.float32).astype(float)
    real = np.sqrt(_energy(change, scale) / (_energy(layer.weight, scale) or 1))
    assert figures["relative_error"] == pytest.approx(real)


def _energy(w: np.ndarray, scale: np.ndarray | int) -> float:
    flat = w.reshape(len(w), -1).astype(float) * np.reshape(scale, (-1, 1))
    return float((flat**2).sum())


@given(layers(), targets(), st.integers(0, 9), shifts)
def test_squeezing_twice_changes_nothing(layer: Layer, target: Target, depth: int, shift: Shift) -> None:
    module = module_of(layer)
    again = SqueezeOut(min(depth, layer.bits - 1), shift)
    context = run(module, target, Tile(), again)
    op = only_layer(module)
    before = {key: op.attributes[key] for key in ("codes", "shifts", "weight")}
    assert not again.run(module, context)
    assert all(op.attributes[key] is value for key, value in before.items())
    assert context.report["squeeze-out"]["squared_error"] == 0


@given(layers(), targets(), shifts)
def test_depth_zero_changes_nothing(layer: Layer, target: Target, shift: Shift) -> None:
    op, context = squeezed(layer, target, 0, shift)
    assert np.array_equal(op.integers(), layer.weight)
    assert not op.shifts.array.any()
    assert context.report["squeeze-out"]["weights_changed"] == 0


@given(layers(), targets(), st.integers(1, 9))
def test_fit_is_no_worse_than_leading_one(layer: Layer, target: Target, depth: int) -> None:
    depth = min(depth, layer.bits - 1)
    errors = [
        squeezed(layer, target, depth, shift)[1].report["squeeze-out"]["layers"][0]["relative_error"]
        for shift in ("fit", "leading-one")
    ]
    assert errors[0] <= errors[1] + 1e-9


@given(st.integers(0, 2**32 - 1), st.integers(1, 7), st.sampled_from(["differential", "twos-complement"]), shifts)
def test_representable_weights_lose_nothing(seed: int, depth: int, sign: str, shift: Shift) -> None:
    random = np.random.default_rng(seed)
    low, high = code_range(sign, 8 - depth)
    k = random.integers(0, depth + 1, 40)
    weight = (random.integers(low, high + 1, (6, 40)) << k).astype(np.int16)
    op, context = squeezed(Layer(weight, sign), Target(rows=16, columns=8), depth, shift)
    assert np.array_equal(op.integers(), weight)
    assert context.report["squeeze-out"]["squared_error"] == 0


@given(st.integers(0, 2**32 - 1), st.integers(1, 7), st.sampled_from(["differential", "twos-complement"]))
def test_fit_is_the_least_squared_error_of_all_shifts(seed: int, depth: int, sign: str) -> None:
    random = np.random.default_rng(seed)
    low, high = weight_range(sign, 8)
    row = np.clip(np.rint(random.normal(0, random.uniform(1, 120), 5)), low, high).astype(np.int64)
    _, context = squeezed(Layer(row[:, None], sign), Target(rows=1, columns=5), depth, "fit")
    least, most = code_range(sign, 8 - depth)
    errors = []
    for k in range(8):
        points = np.arange(least, most + 1) << k
        points = points[(points >= low) & (points <= high)]
        errors.append((np.abs(points[:, None] - row).min(axis=0) ** 2).sum())
    assert context.report["squeeze-out"]["squared_error"] == min(errors)


def test_leading_one_by_hand() -> None:
    # N = 8, x = 4: four bits remain. 200 needs k = 4: 200/16 = 12.5 rounds away from zero, 24/16 = 1.5 to 2, 255 is
    # held to 15. 9 needs none.
    weight = np.array([[200, -24], [-255, 8], [9, -9]], np.int16).T
    op, context = squeezed(Layer(weight), Target(rows=4, columns=2), 4, "leading-one")
    assert op.shifts.array[0, :3].tolist() == [4, 4, 0]
    assert op.codes.array[0, :3].tolist() == [[13, -2], [-15, 1], [9, -9]]
    assert op.integers().T.tolist() == [[208, -32], [-240, 16], [9, -9]]
    assert context.report["squeeze-out"]["squared_error"] == 64 + 64 + 225 + 64


def test_twos_complement_by_hand() -> None:
    # N = 8, x = 5: -4 .. 3 remain. -128 needs k = 5 and is exact; 127/32 is held to 3; -64 fits at k = 4.
    weight = np.array([[-128, 127], [-64, 48]], np.int16).T
    op, _ = squeezed(Layer(weight, "twos-complement"), Target(rows=2, columns=2), 5, "leading-one")
    assert op.shifts.array.tolist() == [[5, 4]]
    assert op.codes.array.tolist() == [[[-4, 3], [-4, 3]]]


def test_cells_of_two_bits_shift_by_two() -> None:
    # 100 has seven bits; four remain: three would do, but the shift is even.
    op, _ = squeezed(Layer(np.array([[100]])), Target(rows=1, columns=1, cell_bits=2), 4, "leading-one")
    assert op.shifts.array.tolist() == [[4]]
    assert op.codes.array.tolist() == [[[6]]]


def test_the_layers_own_depth_is_the_default() -> None:
    module = module_of(Layer(np.array([[255]]), squeeze=3), Layer(np.array([[255]])))
    report = run(module, Target(), Tile(), SqueezeOut()).report["squeeze-out"]
    assert [layer["depth"] for layer in report["layers"]] == [3, 0]
    assert [layer["planes"] for layer in report["layers"]] == [10, 16]
    assert [layer["squared_error"] for layer in report["layers"]] == [49, 0]


def test_fit_minds_the_scale_of_each_column() -> None:
    # Four bits for both: either 255 is nearly kept or 15 is exact. Which matters more is a matter of scale.
    weight = np.array([[255], [15]])
    kept = []
    for scale in ([1.0, 0.001], [0.001, 1.0]):
        layer = Layer(weight, scale=np.array(scale))
        kept.append(squeezed(layer, Target(rows=1, columns=2), 4, "fit")[0].integers().ravel().tolist())
    assert kept == [[240, 16], [15, 15]]


@pytest.mark.parametrize("depth", [-1, 8, 9])
def test_impossible_depths_are_diagnosed(depth: int) -> None:
    with pytest.raises(SmecError, match="squeeze depth"):
        run(module_of(Layer(np.array([[1]]))), Target(), Tile(), SqueezeOut(depth=depth))
