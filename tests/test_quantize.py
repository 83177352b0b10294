"""The quantized graph: each operation against the float model, weights, constants, host regions."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper
from onnx_models import model, normal, parse
from quantized import both, find, lower, names, snr
from random_graphs import RandomGraph

import inputs
import shared
import smec
from smec.ir.dialects.quant import WeightedOp
from smec.ir.errors import SmecError
from smec.ir.interpreter import interpret
from smec.ir.parser import parse_module
from smec.ir.printer import print_module
from smec.ir.store import handles
from smec.ir.types import Location
from smec.passes.patterns import Uniform, Window
from smec.passes.patterns import parse as parse_pattern
from smec.passes.quantization.scales import fit_scales, full_scales
from smec.passes.quantize_nearest import QuantizeNearest

X = normal(0, 4, 3, 8, 8)
W = normal(1, 4, 3, 3, 3) * 0.3


def layer_then(lines: str, opset: int = 17, **weights: np.ndarray) -> onnx.ModelProto:
    """c = Conv(x), the lines (from c to r), y = MatMul(flattened r)."""
    text = (
        f'<ir_version: 8, opset_import: ["": {opset}]>\nm (float[1,3,8,8] x) => (float y) {{ c = Conv(x, w) {lines} }}'
    )
    return parse(text, w=W, **weights)


def scalar(value: float) -> np.ndarray:
    return np.array(value, np.float32)


# -- layers ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attributes", "shape", "weight"),
    [
        ({}, (1, 3, 8, 8), (4, 3, 3, 3)),
        ({"strides": [2, 1], "pads": [1, 0, 2, 1]}, (1, 3, 8, 8), (4, 3, 3, 2)),
        ({"dilations": [2, 1], "auto_pad": "SAME_UPPER"}, (1, 3, 8, 8), (4, 3, 3, 3)),
        ({"group": 3}, (1, 6, 8, 8), (9, 2, 3, 3)),
        ({"group": 4, "pads": [1, 1, 1, 1]}, (1, 4, 8, 8), (4, 1, 3, 3)),
        ({"pads": [2, 1], "strides": [2], "dilations": [2]}, (1, 3, 12), (5, 3, 3)),
        ({"group": 3, "auto_pad": "SAME_LOWER"}, (1, 3, 12), (3, 1, 4)),
    ],
)
def test_convolutions(attributes: dict[str, Any], shape: tuple[int, ...], weight: tuple[int, ...]) -> None:
    nodes = [helper.make_node("Conv", ["x", "w", "b"], ["y"], name="layer", **attributes)]
    weights = {"w": normal(1, *weight), "b": normal(2, weight[0])}
    proto = model(nodes, {"x": shape}, ["y"], weights)
    module, _, exact, found = both(proto, {"x": normal(0, 4, *shape[1:])})
    assert snr(found["y"], exact["y"]) > 35
    (op,) = find(module, "quant.conv")
    assert (op.label, op.tensor, op.out.type.element) == ("layer", "y", "f32")
    assert "float_weight" not in op.attributes


@pytest.mark.parametrize(
    ("node", "shape", "weight", "bias"),
    [
        (("Gemm", {"alpha": 0.5, "beta": 2.0}), (2, 8), (8, 4), (4,)),
        (("Gemm", {"transB": 1}), (2, 8), (4, 8), (1, 1)),
        (("Gemm", {}), (1, 8), (8, 4), ()),
        (("MatMul", {}), (2, 8), (8, 4), None),
        (("MatMul", {}), (1, 5, 8), (8, 4), None),
        (("MatMul", {}), (1, 2, 3, 5, 8), (8, 4), None),
    ],
)
def test_matrix_products(node: Any, shape: tuple[int, ...], weight: tuple[int, ...], bias: Any) -> None:
    op_type, attributes = node
    weights = {"w": normal(1, *weight)}
    if bias is not None:
        weights["b"] = normal(2, *bias)
    nodes = [helper.make_node(op_type, ["x", *weights], ["y"], **attributes)]
    x = normal(0, 8 * shape[0], *shape[1:])
    module, _, exact, found = both(model(nodes, {"x": shape}, ["y"], weights), {"x": x})
    assert snr(found["y"], exact["y"]) > 35
    assert "quant.gemm" in names(module)


def test_bias_and_clamp_join_the_layer() -> None:
    text = "m (float[1,5,8] x) => (float[1,5,4] y) { a = MatMul(x, w) b = Add(a, v) y = Clip(b, lo, hi) }"
    weights = {"w": normal(1, 8, 4), "v": normal(2, 4), "lo": scalar(-0.5), "hi": scalar(2)}
    module, _, exact, found = both(parse(text, **weights), {"x": normal(0, 4, 5, 8)})
    assert names(module) == ["quant.quantize", "quant.gemm"]
    (op,) = find(module, "quant.gemm")
    assert (op.clamp_min, op.clamp_max, op.tensor) == (-0.5, 2.0, "y")
    np.testing.assert_array_equal(op.bias.array, weights["v"])
    assert snr(found["y"], exact["y"]) > 35


# -- vector unit -------------------------------------------------------------------------------------------------------

CHANNELS = {"k": normal(3, 4, 1, 1), "v": normal(2, 2, 4, 1, 1)}


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("d = Conv(c, u) r = Add(d, c)", ["quant.add"]),
        ("d = Conv(c, u) s = Add(d, c) r = Relu(s)", ["quant.add"]),
        ("d = Conv(c, u) r = Mul(d, c)", ["quant.mul"]),
        ("g = GlobalAveragePool(c) h = Conv(g, u) i = Sigmoid(h) r = Mul(c, i)", ["quant.avg_pool", "quant.mul"]),
        ("a = Relu(c) b = Add(a, c) r = MaxPool<kernel_shape=[2,2], strides=[2,2]>(b)", ["quant.max_pool"]),
        ("r = MaxPool<kernel_shape=[3,3], pads=[1,1,1,1], strides=[2,2], dilations=[2,2]>(c)", ["quant.max_pool"]),
        ("r = MaxPool<kernel_shape=[3,3], strides=[2,2], ceil_mode=1>(c)", ["quant.max_pool"]),
        ("r = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1], strides=[2,2]>(c)", ["quant.avg_pool"]),
        ("r = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1], count_include_pad=1>(c)", ["quant.avg_pool"]),
        ("r = AveragePool<kernel_shape=[3,3], strides=[2,2], ceil_mode=1>(c)", ["quant.avg_pool"]),
        ("r = GlobalMaxPool(c)", ["quant.max_pool"]),
        ("r = ReduceMean<axes=[2,3]>(c)", ["quant.avg_pool"]),
        ("d = ReduceMean<axes=[-1], keepdims=0>(c) r = Unsqueeze(d, last)", ["quant.reshape", "quant.avg_pool"]),
        ("d = Relu(c) e = Concat<axis=1>(c, d) r = Conv(e, e8)", ["quant.concat"]),
        ("r = Transpose<perm=[0,1,3,2]>(c)", ["quant.transpose"]),
        ("d = Reshape(c, half) t = Transpose<perm=[0,2,1]>(d) r = Reshape(t, back)", ["quant.reshape"]),
        ("r = Pad(c, pads, level)", ["quant.pad"]),
        ("r = Slice(c, starts, ends, axes, steps)", ["quant.slice"]),
        ("a, b = Split<axis=1>(c) r = Concat<axis=1>(b, a)", ["quant.slice", "quant.concat"]),
        ("d = Softmax<axis=1>(c) r = Add(d, c)", ["smec.host", "quant.add"]),
        ("r = PRelu(c, k)", ["quant.lut", "quant.mul", "quant.add"]),
    ],
)  # fmt: skip
def test_vector_operations(lines: str, expected: list[str]) -> None:
    weights = {
        **CHANNELS,
        "u": normal(4, 4, 4, 1, 1),
        "e8": normal(5, 4, 8, 1, 1),
        "last": np.array([3], np.int64),
        "half": np.array([1, 2, 72], np.int64),
        "back": np.array([1, 4, 6, 6], np.int64),
        "pads": np.array([0, 0, 1, 0, 0, 0, 2, 1], np.int64),
        "level": scalar(1.5),
        "starts": np.array([-1, 1], np.int64),
        "ends": np.array([-7, 6], np.int64),
        "axes": np.array([2, 3], np.int64),
        "steps": np.array([-1, 2], np.int64),
    }
    used = {
        name: array
        for name, array in weights.items()
        if name in lines.replace("(", " ").replace(")", " ").replace(",", " ").split() or name == "v"
    }
    module, _, exact, found = both(layer_then(f"{lines} y = Conv(r, v)", **used), {"x": X})
    assert set(expected) <= set(names(module))
    assert snr(found["y"], exact["y"]) > 25


@pytest.mark.parametrize(
    "lines",
    [
        "r = Sigmoid(c)", "r = Tanh(c)", "r = LeakyRelu<alpha=0.2>(c)", "r = Elu(c)", "r = HardSigmoid(c)",
        "r = HardSwish(c)", "r = Softplus(c)", "r = Erf(c)", "r = PRelu(c, half)", "r = Abs(c)", "r = Pow(c, two)",
        "r = Max(c, half)", "r = Neg(c)", "s = Sigmoid(c) r = Mul(c, s)",
        "a = Add(c, three) b = Clip(a, zero, six) d = Mul(c, b) r = Div(d, six)",
        "a = Div(c, two) b = Erf(a) d = Add(b, one) e = Mul(c, d) r = Mul(e, half)",
        "a = Softplus(c) b = Tanh(a) r = Mul(c, b)", "a = Mul(c, c) r = Sub(a, c)",
    ],
)  # fmt: skip
def test_tables(lines: str) -> None:
    constants = {"zero": 0, "one": 1, "two": 2, "three": 3, "six": 6, "half": 0.5}
    used = {name: scalar(value) for name, value in constants.items() if name in lines}
    module, _, exact, found = both(layer_then(f"{lines} y = Conv(r, v)", v=CHANNELS["v"], **used), {"x": X})
    assert names(module).count("quant.lut") == 1 and "smec.host" not in names(module)
    assert snr(found["y"], exact["y"]) > 25


def test_gelu_and_mish() -> None:
    for op_type in ("Gelu", "Mish"):
        nodes = [
            helper.make_node("Conv", ["x", "w"], ["c"]),
            helper.make_node(op_type, ["c"], ["r"]),
            helper.make_node("Conv", ["r", "v"], ["y"]),
        ]
        proto = model(nodes, {"x": (1, 3, 8, 8)}, ["y"], {"w": W, "v": CHANNELS["v"]}, opset=20)
        module, _, exact, found = both(proto, {"x": X})
        assert "quant.lut" in names(module)
        assert snr(found["y"], exact["y"]) > 25


def test_constants_of_many_elements() -> None:
    lines = """d = Relu(c) e = Concat<axis=1>(c, d) a = Mul(e, k) b = Add(a, o) s = Sub(b, o2) t = Div(s, k)
    y = Conv(t, v)"""
    weights = {
        "k": 1 + np.abs(normal(3, 8, 1, 1)),
        "o": normal(4, 8, 1, 1),
        "o2": normal(5, 1, 8, 6, 6),
        "v": normal(6, 2, 8, 1, 1),
    }
    module, _, exact, found = both(layer_then(lines, **weights), {"x": X})
    assert snr(found["y"], exact["y"]) > 25
    (region,) = find(module, "smec.host")
    assert region.label == "constants" and not region.operands


def test_batch_normalisation_after_a_concatenation() -> None:
    lines = """d = Relu(c) e = Concat<axis=1>(c, d) n = BatchNormalization(e, gamma, beta, mean, var) r = Relu(n)
    y = Conv(r, v)"""
    weights = {
        "gamma": normal(3, 8), "beta": normal(4, 8), "mean": normal(5, 8), "var": np.abs(normal(6, 8)) + 0.01,
        "v": normal(7, 2, 8, 1, 1),
    }  # fmt: skip
    module, _, exact, found = both(layer_then(lines, **weights), {"x": X})
    assert snr(found["y"], exact["y"]) > 28
    (added,) = find(module, "quant.add")
    assert added.clamp_min == 0.0 and added.a.type.quantized.bits == 16


# -- the whole graph ---------------------------------------------------------------------------------------------------


def test_more_activation_bits_are_more_exact() -> None:
    lines = "a = Relu(c) d = Conv(a, u) s = Add(d, a) r = Sigmoid(s) y = Conv(r, v)"
    weights = {"u": normal(4, 4, 4, 1, 1), "v": CHANNELS["v"]}
    found = {}
    for bits in (4, 8, 12, 16):
        _, _, exact, result = both(
            layer_then(lines, **weights), {"x": X}, act_bits=bits, weights=QuantizeNearest(bits=14)
        )
        found[bits] = snr(result["y"], exact["y"])
    assert found[4] < found[8] - 15 and found[8] < found[12] - 15 and found[16] > 60


def test_all_on_the_host_is_exact() -> None:
    nodes = [helper.make_node("Relu", ["x"], ["a"]), helper.make_node("Softmax", ["a"], ["y"])]
    module, _, exact, found = both(model(nodes, {"x": (1, 4)}, ["y"]), {"x": normal(0, 3, 4)})
    assert names(module) == ["smec.host"]
    np.testing.assert_allclose(found["y"], exact["y"], rtol=1e-6)


def test_outputs_of_every_kind() -> None:
    """A layer's result, a vector result, an input, a constant and a host result, each an output."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("Sigmoid", ["c"], ["s"]),
        helper.make_node("Softmax", ["s"], ["h"], axis=1),
        helper.make_node("Identity", ["x"], ["same"]),
        helper.make_node("Constant", [], ["k"], value_floats=[1.0, 2.0]),
    ]
    outputs = ["c", "s", "h", "same", "k"]
    module, _, exact, found = both(model(nodes, {"x": (1, 3, 8, 8)}, outputs, {"w": W}), {"x": X})
    for name in outputs:
        assert found[name].dtype == np.float32
        assert snr(found[name].reshape(-1), exact[name].reshape(-1)) > 25
    assert {op.label for op in find(module, "smec.host")} == {"host0", "constants"}


def test_host_regions_exchange_values_of_any_type() -> None:
    nodes = [
        helper.make_node("ArgMax", ["x"], ["i"], axis=1, keepdims=1),
        helper.make_node("Cast", ["i"], ["f"], to=1),
        helper.make_node("Softmax", ["x"], ["p"], axis=1),
        helper.make_node("Conv", ["p", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("ArgMax", ["c"], ["j"], axis=1, keepdims=1),
        helper.make_node("Equal", ["i", "j"], ["e"]),
        helper.make_node("Cast", ["e"], ["y"], to=1),
    ]
    module, context, _, found = both(model(nodes, {"x": (1, 3, 8, 8)}, ["y", "f"], {"w": W}), {"x": X})
    assert context.report["partition"]["regions"] == 2
    assert found["y"].shape == (4, 1, 1, 8, 8)
    assert [op.label for op in find(module, "smec.host")] == ["host0", "host1"]


def test_layer_names_are_unique_and_the_nodes_own() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], name="first"),
        helper.make_node("Relu", ["c"], ["r"], name="act"),
        helper.make_node("Conv", ["r", "v"], ["y"], name="second"),
    ]
    module, _ = lower(model(nodes, {"x": (1, 3, 8, 8)}, ["y"], {"w": W, "v": CHANNELS["v"]}))
    assert [(op.label, op.tensor) for op in find(module, "quant.conv")] == [("first", "r"), ("second", "y")]


def test_module_round_trips_through_text() -> None:
    proto = layer_then("s = Softmax<axis=1>(c) r = Add(s, c) y = Conv(r, v)", v=CHANNELS["v"])
    module, _ = lower(proto, {"x": X})
    arrays = {digest: handle.array for digest, handle in handles(module).items()}
    again = parse_module(print_module(module), "again", arrays)
    before, after = (interpret(m, {"x": X[:, None]})["y"] for m in (module, again))
    np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("seed", range(40))
def test_random_graphs_keep_their_meaning(seed: int) -> None:
    """With fine levels, what remains is the meaning of operations and the order in which they run."""
    proto = RandomGraph(seed).model()
    _, _, exact, found = both(proto, {"x": normal(seed, 3, 4, 8, 8)}, act_bits=16, weights=QuantizeNearest(bits=14))
    for name in exact:
        assert snr(found[name], exact[name]) > 45


# -- weights -----------------------------------------------------------------------------------------------------------


def quantized_layer(weight: np.ndarray, **options: Any) -> Any:
    nodes = [helper.make_node("Gemm", ["x", "w"], ["y"], transB=1)]
    proto = model(nodes, {"x": (1, weight.shape[1])}, ["y"], {"w": weight})
    module, _ = lower(proto, {"x": normal(0, 4, weight.shape[1])}, weights=QuantizeNearest(**options))
    (op,) = find(module, "quant.gemm")
    return op


@pytest.mark.parametrize("sign", ["differential", "offset", "twos-complement"])
@pytest.mark.parametrize("pattern", ["uniform", "window", "pot", "apot", "window:2"])
def test_weights_are_points_of_the_pattern(pattern: str, sign: str) -> None:
    weight = normal(3, 5, 40)
    op = quantized_layer(weight, pattern=pattern, sign=sign, bits=6)
    points = parse_pattern(pattern, 6, sign)
    integers, scale = op.weight.array, op.weight_scale.array
    assert integers.dtype == np.int16 and set(integers.ravel()) <= set(points.points())
    np.testing.assert_array_equal(integers, points.project(weight, scale[:, None]))
    assert (op.pattern, op.sign, op.bits) == (pattern, sign, 6)


def test_scale_of_tensor_and_column() -> None:
    weight = normal(3, 5, 40) * np.array([[1], [10], [0.1], [1], [1]], np.float32)
    whole, column = quantized_layer(weight, scale="tensor"), quantized_layer(weight, scale="column")
    assert whole.weight_scale.shape == (1,) and column.weight_scale.shape == (5,)
    assert whole.weight_scale.array[0] == pytest.approx(np.abs(weight).max() / 255)
    np.testing.assert_allclose(column.weight_scale.array, np.abs(weight).max(axis=1) / 255, rtol=1e-6)
    assert np.abs(column.weight.array).max(axis=1).tolist() == [255] * 5


def test_columns_of_zeros_have_scale_1() -> None:
    weight = normal(3, 3, 8)
    weight[1] = 0
    for fit in (False, True):
        op = quantized_layer(weight, fit=fit)
        assert op.weight_scale.array[1] == 1 and not op.weight.array[1].any()
    assert quantized_layer(0 * weight, scale="tensor").weight_scale.array.tolist() == [1.0]


@given(st.integers(0, 1000), st.sampled_from(["uniform", "window", "pot"]), st.integers(2, 8))
def test_fitted_scales_are_no_worse(seed: int, pattern: str, bits: int) -> None:
    values = normal(seed, 4, 30)
    points = parse_pattern(pattern, bits)
    start = full_scales(values, points)
    fitted = fit_scales(values, points, start)

    def error(scales: np.ndarray) -> np.ndarray:
        found: np.ndarray = np.square(values - scales[:, None] * points.project(values, scales[:, None])).sum(axis=1)
        return found

    assert (error(fitted) <= error(start) * (1 + 1e-5)).all()


def test_fitting_pays_at_few_bits() -> None:
    weight = normal(3, 8, 200)
    errors = []
    for fit in (False, True):
        op = quantized_layer(weight, bits=3, fit=fit)
        errors.append(np.square(weight - op.weight_scale.array[:, None] * op.weight.array).sum())
    assert errors[1] < 0.8 * errors[0]


def test_full_scale_of_signed_codes_uses_both_ends() -> None:
    pattern = Uniform(bits=8, sign="twos-complement")
    scales = full_scales(np.array([[1.0, -1.0], [0.5, -1.0], [1.0, 0.0]], np.float32), pattern)
    np.testing.assert_allclose(scales, [1 / 127, 1 / 128, 1 / 127], rtol=1e-6)
    assert full_scales(np.array([[1.0, -2.0]], np.float32), Uniform(bits=1, sign="offset")).tolist() == [2.0]
    assert Window(bits=8).largest == (224, 224)


def test_weights_that_are_not_finite_are_diagnosed() -> None:
    weight = normal(3, 2, 8)
    weight[0, 0] = np.nan
    with pytest.raises(SmecError, match="NaN or infinities") as caught:
        quantized_layer(weight)
    assert isinstance(caught.value.location, Location)


@pytest.mark.parametrize("quantizer", ["nearest", "admm"])
def test_biases_that_are_not_finite_are_diagnosed(quantizer: str) -> None:
    bias = np.array([0, np.nan], np.float32)
    proto = layer_then("y = Conv(c, v, b)", v=CHANNELS["v"], b=bias)
    with pytest.raises(SmecError, match="NaN or infinities in its bias"):
        smec.lower(proto, "quant", calib={"x": X}, quantizer=quantizer)


def test_inputs_whose_squares_are_not_finite_are_diagnosed() -> None:
    proto = layer_then("y = Conv(c, v)", v=CHANNELS["v"])
    with pytest.raises(SmecError, match=r"squares of what layer .* are not finite"):
        smec.lower(proto, "quant", calib={"x": X * np.float32(1e30)}, quantizer="admm")


# -- real networks -----------------------------------------------------------------------------------------------------


@shared.needs_resnet20
def test_resnet20_keeps_its_answers() -> None:
    images, _ = inputs.cifar10_test(16)
    proto = onnx.load(shared.RESNET20)
    name = proto.graph.input[0].name
    _, _, exact, found = both(proto, {name: images}, calibration={name: inputs.cifar10_calib(64)})
    (output,) = exact
    assert snr(found[output], exact[output]) > 25


def test_every_layer_is_weighted() -> None:
    module, _ = lower(layer_then("y = Conv(c, v)", v=CHANNELS["v"]), {"x": X})
    assert all(op.weight is not None for op in module.graph.ops if isinstance(op, WeightedOp))
