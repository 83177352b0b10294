"""Calibration: statistics, ranges, levels, and which values share them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper
from onnx_models import model, normal, parse

from smec.frontend.load import import_model
from smec.ir.core import Value
from smec.ir.dialects.builtin import ModuleOp
from smec.ir.errors import SmecError
from smec.ir.types import Quantized, TensorType
from smec.passes.base import PassContext
from smec.passes.calibrate import CALIBRATION_INPUTS, Calibrate
from smec.passes.partition import Partition
from smec.passes.quantization import ranges
from smec.passes.quantization.ranges import Statistics, choose_range, input_levels, levels_for
from smec.passes.quantization.units import TYPES, assigned_type

METHODS = ("min-max", "percentile", "mse")


def statistics(*batches: Any, images: int = 1, **options: Any) -> Statistics:
    found = Statistics(**options)
    for batch in batches:
        found.add(np.asarray(batch, np.float32), images)
    return found


def calibrated(
    proto: onnx.ModelProto, calibration: dict[str, np.ndarray] | None, act_bits: int = 8, **options: Any
) -> tuple[ModuleOp, PassContext]:
    module, context = import_model(proto), PassContext(calibration=calibration, act_bits=act_bits)
    Partition().run(module, context)
    Calibrate(**options).run(module, context)
    return module, context


def levels(module: ModuleOp, name: str) -> Quantized | None:
    """Levels of the value called `name`."""
    graph = module.graph
    values: list[Value] = [*graph.block.args, *(r for op in graph.ops for r in op.results)]
    value = next(v for v in values if v.name_hint == name)
    element = assigned_type(value, graph).element
    return element if isinstance(element, Quantized) else None


# -- statistics --------------------------------------------------------------------------------------------------------


@given(st.lists(st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1, max_size=30), min_size=1, max_size=5))
def test_statistics_count_everything_within_their_reach(batches: list[list[float]]) -> None:
    found, values = statistics(*batches), np.concatenate([np.array(b, np.float32) for b in batches])
    assert (found.low, found.high) == (values.min(), values.max())
    assert found.count == values.size and found.bins.sum() + found.zeros == values.size
    assert found.reach >= np.abs(values).max()


@given(st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=50), st.integers(1, 49))
def test_bins_do_not_depend_on_how_values_arrive(values: list[float], cut: int) -> None:
    array = np.array(values, np.float32)
    whole, parts = statistics(array), Statistics()
    for part in (array[:cut], array[cut:]):
        parts.add(part, 1)
    assert parts.reach == whole.reach
    np.testing.assert_array_equal(parts.bins, whole.bins)


def test_values_that_are_not_finite_do_not_count() -> None:
    found = statistics([1.0, np.nan, np.inf, -2.0])
    assert (found.finite, found.low, found.high, found.count) == (False, -2.0, 1.0, 2)
    assert not statistics([np.nan]).finite and statistics([np.nan]).count == 0


def test_large_tensors_are_sampled_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranges, "SAMPLES", 8192)
    found = statistics(np.tile(np.arange(16, dtype=np.float32), (2, 4096)), images=2)
    # The stride shares no factor with the extents: all sixteen columns are seen about equally often.
    assert 7000 <= found.count <= 8192
    peaks = found.bins[found.bins > 0]
    assert len(peaks) == 15 and peaks.max() - peaks.min() <= 2


# -- ranges ------------------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(-(2.0**60), 2.0**60, width=32), min_size=1, max_size=40), st.sampled_from(METHODS))
def test_ranges_hold_zero_and_lie_within_what_was_seen(values: list[float], method: Any) -> None:
    low, high = choose_range(statistics(values), method, 256)
    assert min(min(values), 0) <= low <= 0 <= high <= max(max(values), 0)


def test_min_max_covers_all() -> None:
    assert choose_range(statistics([[-3.0, 5.0], [7.0, 0.5]]), "min-max", 256) == (-3.0, 7.0)
    assert choose_range(statistics([2.0, 5.0]), "min-max", 256) == (0.0, 5.0)


def test_percentile_leaves_outliers_out() -> None:
    values = np.append(np.linspace(0, 1, 99_999), 100).astype(np.float32)
    low, high = choose_range(statistics(values), "percentile", 256, 99.9)
    assert low == 0 and 0.95 < high < 1.2
    assert choose_range(statistics(values), "percentile", 256, 100.0)[1] == 100


def test_mse_weighs_clipping_against_resolution() -> None:
    values = np.random.default_rng(0).standard_normal(100_000).astype(np.float32)
    found = statistics(values)

    def error(low: float, high: float, bits: int) -> float:
        q = levels_for(low, high, bits)
        level = np.clip(np.rint(values / q.scale) + q.zero_point, 0, q.qmax)
        return float(np.square(q.scale * (level - q.zero_point) - values).mean())

    for bits in (3, 4, 8):
        chosen = error(*choose_range(found, "mse", 1 << bits), bits)
        assert chosen <= min(error(-s * 4.5, s * 4.5, bits) for s in np.linspace(0.1, 1, 50)) * 1.02
    assert choose_range(found, "mse", 8)[1] < choose_range(found, "mse", 256)[1]


def test_zeros_cost_nothing() -> None:
    # Without them, half of the values would lie in the first step and ask for a finer one.
    values = np.append(np.zeros(10_000), np.random.default_rng(0).uniform(0, 1, 1000)).astype(np.float32)
    assert choose_range(statistics(values), "mse", 256)[1] > 0.95


# -- levels ------------------------------------------------------------------------------------------------------------

real = st.floats(-(2.0**127), 2.0**127, width=32)


@given(real, real, st.integers(1, 16))
def test_levels_are_finite_and_represent_zero(a: float, b: float, bits: int) -> None:
    q = levels_for(min(a, b), max(a, b), bits)
    assert np.isfinite(q.scale) and q.scale > 0 and np.float32(q.scale) == q.scale
    assert 0 <= q.zero_point <= q.qmax


@given(st.floats(-1e6, 0, width=32), st.floats(0, 1e6, width=32), st.integers(2, 16))
def test_levels_cover_the_range_to_half_a_step(low: float, high: float, bits: int) -> None:
    q = levels_for(low, high, bits)
    if high - low > 1e-12:
        assert -q.zero_point * q.scale <= low + 0.501 * q.scale
        assert (q.qmax - q.zero_point) * q.scale >= high - 0.501 * q.scale


def test_degenerate_ranges() -> None:
    assert levels_for(0, 0, 8) == Quantized(8, 1.0, 0)
    assert levels_for(2.0, 2.0, 8).zero_point == 0
    assert levels_for(-1.0, -1.0, 8).zero_point == 255
    tiny = levels_for(0, 1e-45, 8)
    assert tiny.scale == ranges.SMALLEST_SCALE
    assert levels_for(-3.4e38, 3.4e38, 8).scale == ranges.LARGEST_SCALE


def test_raw_pixels_keep_their_values() -> None:
    pixels = np.arange(256, dtype=np.float32)
    for method in METHODS:
        assert input_levels(statistics(pixels), method, 8, 99.99) == Quantized(8, 1.0, 0)  # type: ignore[arg-type]
    assert input_levels(statistics(pixels - 128), "mse", 8, 99.99) == Quantized(8, 1.0, 128)
    assert input_levels(statistics(pixels), "min-max", 4, 99.99).scale > 1


def test_pixels_from_0_to_1_keep_their_values() -> None:
    pixels = (np.arange(256) / 255).astype(np.float32)
    q = input_levels(statistics(pixels, support={}), "mse", 8, 99.99)
    np.testing.assert_allclose(np.rint(pixels / q.scale) * q.scale, pixels, rtol=1e-6)


def test_pixels_half_way_between_levels_get_others() -> None:
    # x / 127.5 - 1: with scale 1 / 127.5 every pixel is half a step off, since 0 must be a level.
    pixels = (np.arange(256) / 127.5 - 1).astype(np.float32)

    def error(q: Quantized) -> float:
        level = np.clip(np.rint(pixels / q.scale) + q.zero_point, 0, 255)
        return float(np.square(q.scale * (level - q.zero_point) - pixels).mean())

    found, plain = statistics(pixels, support={}), levels_for(-1, 1, 8)
    assert error(input_levels(found, "mse", 8, 99.99)) < 0.5 * error(plain)


def test_support_is_given_up_for_continuous_inputs() -> None:
    assert statistics(np.linspace(0, 1, 5000), support={}).support is None


# -- the pass ----------------------------------------------------------------------------------------------------------

CONV = "m (float[1,3,8,8] x) => (float[1,4,8,8] y) { c = Conv<pads=[1,1,1,1]>(x, w) %s y = Conv<pads=[1,1,1,1]>(r, v) }"
WEIGHTS = {"w": normal(1, 4, 3, 3, 3), "v": normal(2, 4, 4, 3, 3)}


def two_layers(lines: str, **weights: np.ndarray) -> onnx.ModelProto:
    return parse(CONV % lines, **WEIGHTS, **weights)


@pytest.mark.parametrize("method", METHODS)
def test_relu_results_have_zero_point_0(method: str) -> None:
    module, _ = calibrated(two_layers("r = Relu(c)"), {"x": normal(0, 4, 3, 8, 8)}, method=method)
    q = levels(module, "r")
    assert q is not None and q.zero_point == 0 and q.bits == 8
    x = levels(module, "x")
    assert x is not None and 100 < x.zero_point < 156


def test_a_last_layer_needs_no_levels() -> None:
    module, _ = calibrated(two_layers("r = Relu(c)"), {"x": normal(0, 4, 3, 8, 8)})
    assert levels(module, "y") is None


def test_activation_bits() -> None:
    module, _ = calibrated(two_layers("r = Relu(c)"), {"x": normal(0, 4, 3, 8, 8)}, act_bits=4)
    q = levels(module, "r")
    assert q is not None and q.bits == 4


def test_synthetic_inputs_are_reported_and_seeded() -> None:
    first, context = calibrated(two_layers("r = Relu(c)"), None)
    second, _ = calibrated(two_layers("r = Relu(c)"), None)
    assert context.report["calibrate"]["source"] == "synthetic"
    assert levels(first, "r") == levels(second, "r")
    assert context.cache[CALIBRATION_INPUTS]["x"].shape == (8, 3, 8, 8)


def test_the_number_of_images_is_limited() -> None:
    images = normal(0, 10, 3, 8, 8)
    images[6:] *= 100
    for batch in (0, 1, 4):
        module, context = calibrated(two_layers("r = Relu(c)"), {"x": images}, method="min-max", images=6, batch=batch)
        q = levels(module, "x")
        assert context.report["calibrate"]["images"] == 6
        assert q is not None and q.scale == pytest.approx(np.ptp(images[:6]) / 255)


def test_dead_layers_get_finite_levels() -> None:
    weights = {"w": np.zeros((4, 3, 3, 3), np.float32), "v": WEIGHTS["v"]}
    proto = parse(CONV % "r = Relu(c)", **weights)
    module, _ = calibrated(proto, {"x": normal(0, 2, 3, 8, 8)})
    assert levels(module, "r") == Quantized(8, 1.0, 0)


def test_inputs_that_are_no_numbers_are_diagnosed() -> None:
    data = normal(0, 4, 3)
    data[2, 1] = np.nan
    with pytest.raises(SmecError, match=r"input 'x' hold NaN .*found 1 NaN, the first at \[2, 1\]"):
        calibrated(parse("m (float[N, 3] x) => (float y) { y = Relu(x) }"), {"x": data})


def test_values_that_are_not_finite_are_reported() -> None:
    proto = two_layers("r = Log(c)")
    module, context = calibrated(proto, {"x": normal(0, 2, 3, 8, 8)})
    assert context.report["calibrate"]["not_finite"] == ["r"]
    q = levels(module, "r")
    assert q is not None and np.isfinite(q.scale)


def test_movement_shares_levels() -> None:
    lines = "a = Relu(c) b = MaxPool<kernel_shape=[3,3], pads=[1,1,1,1]>(a) t = Transpose<perm=[0,1,3,2]>(b) r = Neg(t)"
    module, _ = calibrated(two_layers(lines), {"x": normal(0, 4, 3, 8, 8)})
    assert levels(module, "a") == levels(module, "b") == levels(module, "t") != levels(module, "r")


def test_padding_value_is_covered() -> None:
    pads = np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64)
    lines = "a = Relu(c) r = Pad(a, p, value)"
    text = CONV.replace("pads=[1,1,1,1]>(r", "pads=[0,0,0,0]>(r") % lines
    proto = parse(text, **WEIGHTS, p=pads, value=np.array(-50, np.float32))
    module, _ = calibrated(proto, {"x": normal(0, 4, 3, 8, 8)})
    q = levels(module, "r")
    assert q is not None and q == levels(module, "a") and -q.zero_point * q.scale <= -50 + q.scale


def branches(second: str, third: str = "") -> onnx.ModelProto:
    """Two layers whose results are concatenated, ten times apart in magnitude."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"]),
        helper.make_node("Conv", ["x", "v"], ["b"]),
        helper.make_node("Concat", ["a", second], ["c"], axis=1),
        helper.make_node("Conv", ["c", "u"], ["y"]),
    ]
    outputs = ["y"]
    if third:
        nodes.append(helper.make_node("Conv", [third, "t"], ["z"]))
        outputs.append("z")
    w = normal(1, 4, 3, 1, 1)
    weights = {"w": w, "v": 10 * w, "u": normal(2, 2, 8, 1, 1), "t": normal(3, 2, 4, 1, 1)}
    return model(nodes, {"x": (1, 3, 4, 4)}, outputs, weights)


def test_concatenated_results_share_levels() -> None:
    module, _ = calibrated(branches("b"), {"x": normal(0, 4, 3, 4, 4)})
    assert levels(module, "a") == levels(module, "b") == levels(module, "c")


def test_a_result_with_another_reader_keeps_its_levels() -> None:
    module, _ = calibrated(branches("b", third="a"), {"x": normal(0, 4, 3, 4, 4)})
    a, b, c = levels(module, "a"), levels(module, "b"), levels(module, "c")
    assert b == c and a is not None and c is not None and a.scale < 0.2 * c.scale


def test_types_are_written_for_inputs_and_results() -> None:
    module, _ = calibrated(two_layers("r = Relu(c)"), {"x": normal(0, 4, 3, 8, 8)})
    types = module.graph.attributes[TYPES]
    assert isinstance(types, tuple) and isinstance(types[0], TensorType)
    assert types[0].shape == (1, 3, 8, 8) and isinstance(types[0].element, Quantized)


@pytest.mark.parametrize("options", [{"percentile": 50.0}, {"percentile": 101.0}, {"images": -1}, {"batch": -1}])
def test_bad_options_are_diagnosed(options: dict[str, Any]) -> None:
    with pytest.raises(SmecError):
        calibrated(two_layers("r = Relu(c)"), None, **options)
