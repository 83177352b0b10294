"""Integers that the model carries: QDQ pairs and operators on integers keep theirs."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx_models import model
from quantized import both, find, lower, names, snr
from test_quantize import CHANNELS, X, layer_then, scalar

from smec.frontend.load import import_model
from smec.ir.errors import SmecError
from smec.passes.base import PassContext
from smec.passes.pipeline import parse_pipeline
from smec.passes.quantize_nearest import QuantizeNearest


def qdq(per_column: bool, activation: str = "uint8", readers: int = 1) -> onnx.ModelProto:
    """x -> pair -> Conv(int8 weight) -> Relu -> pair -> Conv(int8 weight) -> y, as QDQ tools write it."""
    rng = np.random.default_rng(0)
    zero = np.array(120 if activation == "uint8" else -8, activation)
    scales = {"s1": (4,), "s2": (2,)} if per_column else {"s1": (), "s2": ()}
    weights: dict[str, np.ndarray] = {
        "q1": rng.integers(-128, 128, (4, 3, 3, 3)).astype(np.int8),
        "q2": rng.integers(-128, 128, (2, 4, 1, 1)).astype(np.int8),
        "sx": scalar(0.03),
        "zx": zero,
        "sr": scalar(0.02),
        "zr": np.array(0 if activation == "uint8" else -128, activation),
        **{name: rng.uniform(0.001, 0.002, shape).astype(np.float32) for name, shape in scales.items()},
    }
    axis = {"axis": 0} if per_column else {}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "sx", "zx"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "sx", "zx"], ["xd"]),
        helper.make_node("DequantizeLinear", ["q1", "s1"], ["w1"], **axis),
        helper.make_node("DequantizeLinear", ["q2", "s2"], ["w2"], **axis),
        helper.make_node("Conv", ["xd", "w1"], ["c"]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("QuantizeLinear", ["r", "sr", "zr"], ["rq"]),
        *(helper.make_node("DequantizeLinear", ["rq", "sr", "zr"], [f"rd{i}"]) for i in range(readers)),
        *(helper.make_node("Conv", [f"rd{i}", "w2"], [f"y{i}"]) for i in range(readers)),
    ]
    return model(nodes, {"x": (1, 3, 8, 8)}, [f"y{i}" for i in range(readers)], weights)


@pytest.mark.parametrize("per_column", [False, True])
@pytest.mark.parametrize("activation", ["uint8", "int8"])
def test_carried_integers_are_kept(per_column: bool, activation: str) -> None:
    proto = qdq(per_column, activation)
    module, context, exact, found = both(proto, {"x": X}, weights=QuantizeNearest(pattern="external"))
    carried = {t.name: onnx.numpy_helper.to_array(t) for t in proto.graph.initializer}
    first, second = find(module, "quant.conv")
    np.testing.assert_array_equal(first.weight.array, carried["q1"])
    np.testing.assert_array_equal(second.weight.array, carried["q2"])
    np.testing.assert_array_equal(first.weight_scale.array, carried["s1"].reshape(-1))
    assert (first.x.type.quantized.scale, first.x.type.quantized.zero_point) == (float(np.float32(0.03)), 120)
    assert (second.x.type.quantized.scale, second.x.type.quantized.zero_point) == (float(np.float32(0.02)), 0)
    assert first.clamp_min == 0.0
    assert context.report["quantize-nearest"]["not_carried"] == []
    assert names(module) == ["quant.quantize", "quant.conv", "quant.conv"]
    # onnxruntime rounds the same values in float32 by other steps: a level may differ here and there.
    assert snr(found["y0"], exact["y0"]) > 50


def test_one_pair_with_several_readers() -> None:
    module, _, exact, found = both(qdq(False, readers=2), {"x": X}, weights=QuantizeNearest(pattern="external"))
    assert names(module).count("quant.conv") == 3 and "smec.host" not in names(module)
    assert snr(found["y1"], exact["y1"]) > 50


def test_operators_on_integers() -> None:
    """QLinearConv, MaxPool and Reshape on integers, QLinearAdd and QGemm."""
    rng = np.random.default_rng(0)
    weights: dict[str, np.ndarray] = {
        "w": rng.integers(-128, 128, (4, 3, 3, 3)).astype(np.int8),
        "ws": rng.uniform(0.001, 0.002, 4).astype(np.float32),
        "wz": np.zeros(4, np.int8), "b": rng.integers(-2000, 2000, 4).astype(np.int32),
        "v": rng.integers(-128, 128, (36, 5)).astype(np.int8), "vs": scalar(0.002), "vz": np.array(0, np.int8),
        "bv": rng.integers(-2000, 2000, 5).astype(np.int32),
        "s": scalar(0.03), "z": np.array(120, np.uint8), "cs": scalar(0.025), "cz": np.array(100, np.uint8),
        "shape": np.array([1, 36], np.int64),
    }  # fmt: skip
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["xq"]),
        helper.make_node("QLinearConv", ["xq", "s", "z", "w", "ws", "wz", "cs", "cz", "b"], ["c"]),
        helper.make_node("MaxPool", ["c"], ["m"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("QLinearAdd", ["m", "cs", "cz", "m", "cs", "cz", "s", "z"], ["a"], domain="com.microsoft"),
        helper.make_node("Reshape", ["a", "shape"], ["r"]),
        helper.make_node("QGemm", ["r", "s", "z", "v", "vs", "vz", "bv"], ["y"], domain="com.microsoft"),
    ]
    proto = model(nodes, {"x": (1, 3, 8, 8)}, ["y"], weights, domains={"com.microsoft": 1})
    module, context, exact, found = both(proto, {"x": X}, weights=QuantizeNearest(pattern="external"))
    assert "smec.host" not in names(module) and context.report["quantize-nearest"]["not_carried"] == []
    np.testing.assert_array_equal(find(module, "quant.conv")[0].weight.array, weights["w"])
    np.testing.assert_array_equal(find(module, "quant.gemm")[0].weight.array, weights["v"].T)
    assert snr(found["y"], exact["y"]) > 40


def test_carried_integers_may_be_quantized_anew() -> None:
    module, _, exact, found = both(qdq(True), {"x": X}, weights=QuantizeNearest(bits=8))
    assert find(module, "quant.conv")[0].pattern == "uniform"
    assert snr(found["y0"], exact["y0"]) > 35


def test_carried_integers_must_fit() -> None:
    with pytest.raises(SmecError, match="do not fit 7-bit differential weights"):
        lower(qdq(False), {"x": X}, weights=QuantizeNearest(pattern="external", bits=7))


@pytest.mark.parametrize("quantizer", ["nearest", "admm"])
def test_carried_integers_take_the_sign_scheme(quantizer: str) -> None:
    module = import_model(qdq(False))
    text = (
        f"partition,calibrate,quantize-activations,quantize-{quantizer}{{pattern=external sign=polarized sign-rows=4}}"
    )
    parse_pipeline(text).run(module, PassContext(calibration={"x": X}))
    assert {(op.sign, op.sign_rows) for op in find(module, "quant.conv")} == {("polarized", 4)}


def test_layers_that_carry_nothing_are_named() -> None:
    proto = layer_then("y = Conv(c, v)", v=CHANNELS["v"])
    _, context = lower(proto, {"x": X}, weights=QuantizeNearest(pattern="external"))
    assert len(context.report["quantize-nearest"]["not_carried"]) == 2
