"""The rewrites behind the import: one form of each operator, constants folded into weights, nothing to no effect."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_models as models
import pytest
from onnx import helper
from test_frontend import check_same, names, operators

from smec.frontend import fold
from smec.frontend.load import import_model
from smec.ir.dialects.builtin import ModuleOp
from smec.ir.dialects.nn import NNOp


@pytest.fixture
def unfolded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without onnxruntime's folding, so that the rewrites here have everything to do themselves."""
    monkeypatch.setattr(fold, "fold", lambda file: file)


def only(module: ModuleOp, op_type: str) -> NNOp:
    (op,) = [op for op in operators(module) if op.op_type == op_type]
    return op


def image(*shape: int) -> dict[str, np.ndarray]:
    return {"x": models.normal(99, 2, *shape)}


# -- windows -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("auto_pad", "size", "stride", "dilation", "pads"),
    [
        ("SAME_UPPER", 8, 1, 1, (1, 1, 2, 2)),
        ("SAME_LOWER", 8, 1, 1, (2, 2, 1, 1)),
        ("SAME_UPPER", 8, 2, 1, (1, 1, 1, 1)),
        ("SAME_UPPER", 9, 2, 1, (1, 1, 2, 2)),
        ("SAME_LOWER", 9, 3, 1, (1, 1, 0, 0)),
        ("VALID", 9, 2, 1, (0, 0, 0, 0)),
        ("NOTSET", 9, 2, 1, (0, 0, 0, 0)),
    ],
)
def test_auto_pad_of_conv(auto_pad: str, size: int, stride: int, dilation: int, pads: tuple[int, ...]) -> None:
    attributes = {"auto_pad": auto_pad, "strides": [stride] * 2, "dilations": [dilation] * 2}
    node = helper.make_node("Conv", ["x", "w"], ["y"], **attributes)
    proto = models.model([node], {"x": ["N", 2, size, size]}, ["y"], {"w": models.normal(0, 3, 2, 4, 4)})
    conv = only(check_same(proto, image(1, 2, size, size)), "Conv")
    assert conv.attributes["pads"] == pads
    assert conv.attributes["kernel_shape"] == (4, 4)
    assert conv.attributes["strides"] == (stride, stride)
    assert conv.attributes["dilations"] == (dilation, dilation)
    assert conv.attributes["group"] == 1
    assert "auto_pad" not in conv.attributes


def test_conv_in_one_dimension_and_depthwise() -> None:
    node = helper.make_node("Conv", ["x", "w"], ["y"], group=4, pads=[2, 1], strides=[3])
    proto = models.model([node], {"x": ["N", 4, 20]}, ["y"], {"w": models.normal(0, 4, 1, 5)})
    conv = only(check_same(proto, image(1, 4, 20)), "Conv")
    assert conv.attributes == {
        "group": 4,
        "pads": (2, 1),
        "strides": (3,),
        "kernel_shape": (5,),
        "dilations": (1,),
        "_tensor": "y",
    }


@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER", "VALID", "NOTSET"])
@pytest.mark.parametrize("op_type", ["MaxPool", "AveragePool"])
@pytest.mark.parametrize("ceil_mode", [0, 1])
def test_pools(op_type: str, auto_pad: str, ceil_mode: int) -> None:
    node = helper.make_node(
        op_type, ["x"], ["y"], auto_pad=auto_pad, kernel_shape=[3, 3], strides=[2, 2], ceil_mode=ceil_mode
    )
    proto = models.model([node], {"x": ["N", 2, 8, 8]}, ["y"])
    pool = only(check_same(proto, image(1, 2, 8, 8)), op_type)
    explicit = "auto_pad" not in pool.attributes
    assert explicit or (auto_pad, ceil_mode) == ("VALID", 1)
    if explicit:
        assert len(pool.attributes["pads"]) == 4  # type: ignore[arg-type]


def test_unused_indices_of_max_pool_are_gone() -> None:
    node = helper.make_node("MaxPool", ["x"], ["y", "indices"], kernel_shape=[2, 2])
    pool = only(check_same(models.model([node], {"x": ["N", 2, 8, 8]}, ["y"]), image(1, 2, 8, 8)), "MaxPool")
    assert len(pool.results) == 1


# -- Gemm --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("c_shape", [None, (5,), (1, 5), (1,), (1, 1), ()])
@pytest.mark.parametrize("attributes", [{}, {"transB": 1}, {"alpha": 0.5, "beta": 2.0}, {"transA": 1, "transB": 1}])
def test_gemm_with_constant_weight(
    unfolded: None, attributes: dict[str, float], c_shape: tuple[int, ...] | None
) -> None:
    weight = models.normal(0, 5, 6) if attributes.get("transB") else models.normal(0, 6, 5)
    weights = {"b": weight}
    if c_shape is not None:
        weights["c"] = models.normal(1, *c_shape).reshape(c_shape)
    node = helper.make_node("Gemm", ["x", *weights], ["y"], **attributes)
    shape = (6, 1) if attributes.get("transA") else (1, 6)
    module = check_same(models.model([node], {"x": shape}, ["y"], weights), image(*shape))
    gemm = only(module, "Gemm")
    plain = {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 1}
    stated = {k: gemm.attributes.get(k, {"transA": 0}.get(k, 1.0)) for k in plain}
    assert stated == plain
    assert gemm.constant_input(1).shape == (5, 6)  # type: ignore[union-attr]
    bias = gemm.constant_input(2)
    assert (bias is None) == (c_shape is None)
    assert bias is None or bias.shape == (5,)
    assert gemm.tensor == "y"


def test_gemm_with_a_full_matrix_to_add(unfolded: None) -> None:
    weights = {"b": models.normal(0, 6, 5), "c": models.normal(1, 4, 5)}
    node = helper.make_node("Gemm", ["x", "b", "c"], ["y"], beta=0.5)
    module = check_same(models.model([node], {"x": [4, 6]}, ["y"], weights), {"x": models.normal(2, 2, 4, 6)})
    assert names(module)[-2:] == ["Gemm", "Add"]
    assert [op.tensor for op in operators(module)][-1] == "y"


# -- folding into weights ----------------------------------------------------------------------------------------------

CHANNEL = {"a": models.normal(1, 4, 1, 1), "b": models.normal(2, 1, 4, 1, 1), "s": np.array(0.5, np.float32)}
CHAINS = [
    [("Mul", "a"), ("Add", "b")],
    [("Sub", "a"), ("Div", "s")],
    [("Add", "a"), ("Mul", "s"), ("Sub", "b")],
]


@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("bias", [True, False])
def test_arithmetic_after_conv(unfolded: None, chain: list[tuple[str, str]], bias: bool) -> None:
    weights = {"w": models.normal(0, 4, 3, 3, 3), "bias": models.normal(3, 4), **CHANNEL}
    nodes = [helper.make_node("Conv", ["x", "w", "bias"] if bias else ["x", "w"], ["t0"], name="conv")]
    for i, (op_type, operand) in enumerate(chain):
        nodes.append(helper.make_node(op_type, [f"t{i}", operand], [f"t{i + 1}"]))
    proto = models.model(nodes, {"x": ["N", 3, 6, 6]}, [f"t{len(chain)}"], weights)
    conv = only(check_same(proto, image(1, 3, 6, 6)), "Conv")
    assert conv.location.node == "conv"
    assert conv.tensor == f"t{len(chain)}"


def norm_weights(channels: int) -> dict[str, np.ndarray]:
    arrays = {n: models.normal(10 + i, channels) for i, n in enumerate(["scale", "shift", "mean"])}
    return {**arrays, "var": np.abs(models.normal(14, channels)) + np.float32(0.5)}


@pytest.mark.parametrize("producer", ["Conv", "Gemm", "MatMul", "MatMul+Add"])
def test_batch_norm_is_folded(unfolded: None, producer: str) -> None:
    norm = ["t", "scale", "shift", "mean", "var"]
    weights = norm_weights(4)
    if producer == "Conv":
        nodes, shape = [helper.make_node("Conv", ["x", "w"], ["t"])], (1, 3, 6, 6)
        weights["w"] = models.normal(0, 4, 3, 3, 3)
    else:
        kind = producer.partition("+")[0]
        nodes, shape = [helper.make_node(kind, ["x", "w"], ["m" if "+" in producer else "t"])], (1, 6)
        weights["w"] = models.normal(0, 6, 4)
        if "+" in producer:
            weights["b"] = models.normal(1, 4)
            nodes.append(helper.make_node("Add", ["m", "b"], ["t"]))
    nodes.append(helper.make_node("BatchNormalization", norm, ["y"], epsilon=1e-3))
    module = check_same(models.model(nodes, {"x": ["N", *shape[1:]]}, ["y"], weights), image(*shape))
    assert names(module) == (["MatMul", "Add"] if "MatMul" in producer else [producer])
    assert operators(module)[-1].tensor == "y"


def test_arithmetic_after_a_norm_that_stays(unfolded: None) -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["t"]),
        helper.make_node("BatchNormalization", ["t", "scale", "shift", "mean", "var"], ["n"]),
        helper.make_node("Mul", ["n", "a"], ["m"]),
        helper.make_node("Add", ["m", "b"], ["y"]),
    ]
    proto = models.model(nodes, {"x": ["N", 4, 5, 5]}, ["y"], {**norm_weights(4), **CHANNEL})
    assert names(check_same(proto, image(1, 4, 5, 5))) == ["Relu", "BatchNormalization"]


def test_scale_after_matmul_in_three_dimensions(unfolded: None) -> None:
    weights = {"w": models.normal(0, 6, 4), "s": models.normal(1, 4), "b": models.normal(2, 4)}
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"]),
        helper.make_node("Add", ["b", "m"], ["a"]),
        helper.make_node("Mul", ["a", "s"], ["y"]),
    ]
    module = check_same(models.model(nodes, {"x": ["N", 5, 6]}, ["y"], weights), image(1, 5, 6))
    assert names(module) == ["MatMul", "Add"]


@pytest.mark.parametrize("case", ["used twice", "not per channel", "infinite", "wider"])
def test_what_is_not_folded(unfolded: None, case: str) -> None:
    weights = {"w": models.normal(0, 4, 3, 3, 3), **CHANNEL}
    if case == "not per channel":
        weights["a"] = models.normal(1, 4, 4)
    if case == "infinite":
        weights["a"] = np.full((4, 1, 1), np.inf, np.float32)
    if case == "wider":
        weights["a"] = models.normal(1, 2, 4, 1, 1)
    nodes = [helper.make_node("Conv", ["x", "w"], ["t"]), helper.make_node("Add", ["t", "a"], ["y"])]
    outputs = ["y", "t"] if case == "used twice" else ["y"]
    assert names(import_model(models.model(nodes, {"x": ["N", 3, 6, 6]}, outputs, weights))) == ["Conv", "Add"]


# -- padding -----------------------------------------------------------------------------------------------------------


def pad_model(pads: list[int], value: float | None = None, mode: str = "constant", opset: int = 17) -> onnx.ModelProto:
    weights = {"w": models.normal(0, 4, 3, 3, 3), "pads": np.array(pads)}
    inputs = ["x", "pads"]
    if value is not None:
        weights["value"] = np.array(value, np.float32)
        inputs.append("value")
    nodes = [
        helper.make_node("Pad", inputs, ["p"], mode=mode),
        helper.make_node("Conv", ["p", "w"], ["y"], pads=[1, 0, 0, 1]),
    ]
    return models.model(nodes, {"x": ["N", 3, 6, 6]}, ["y"], weights, opset=opset)


@pytest.mark.parametrize("value", [None, 0.0])
def test_zero_padding_is_merged(unfolded: None, value: float | None) -> None:
    module = check_same(pad_model([0, 0, 1, 2, 0, 0, 3, 4], value), image(1, 3, 6, 6))
    assert names(module) == ["Conv"]
    assert only(module, "Conv").attributes["pads"] == (2, 2, 3, 5)


@pytest.mark.parametrize(
    ("pads", "value", "mode"),
    [
        ([0, 0, 1, 1, 0, 0, 1, 1], 1.0, "constant"),
        ([0, 0, 1, 1, 0, 0, 1, 1], None, "reflect"),
        ([0, 0, -1, 1, 0, 0, 1, 1], None, "constant"),
    ],
)
def test_other_padding_stays(unfolded: None, pads: list[int], value: float | None, mode: str) -> None:
    assert names(check_same(pad_model(pads, value, mode), image(1, 3, 6, 6))) == ["Pad", "Conv"]


def test_padding_by_axes(unfolded: None) -> None:
    proto = pad_model([1, 2, 3, 4], opset=18)
    proto.graph.node[0].input.extend(["", "axes"])
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array([-1, 2]), "axes"))
    conv = only(check_same(proto, image(1, 3, 6, 6)), "Conv")
    assert conv.attributes["pads"] == (3, 1, 4, 4)


# -- nothing left that does nothing ------------------------------------------------------------------------------------


def test_no_operators_that_do_nothing(unfolded: None) -> None:
    proto = models.parse("""
        t (float[N, 3, 1, 4] x) => (float[N, 3, 1, 4] y) {
            a = Identity(x)
            b = Dropout(a)
            shape = Constant<value = int64[4] {0, 3, 1, -1}>()
            c = Reshape(b, shape)
            d = Transpose<perm = [0, 1, 2, 3]>(c)
            e = Cast<to = 1>(d)
            pads = Constant<value = int64[8] {0, 0, 0, 0, 0, 0, 0, 0}>()
            f = Pad(e, pads)
            g = Relu(f)
            h = Transpose<perm = [2, 1, 0, 3]>(g)
            y = Sum(h)
        }""")
    # onnxruntime turns nodes of constants into initializers; without it they are turned here.
    module = import_model(proto_with_initializers(proto))
    assert names(module) == ["Relu"]
    assert only(module, "Relu").tensor in ("g", "y")


def proto_with_initializers(proto: onnx.ModelProto) -> onnx.ModelProto:
    for node in [n for n in proto.graph.node if n.op_type == "Constant"]:
        tensor = node.attribute[0].t
        tensor.name = node.output[0]
        proto.graph.initializer.append(tensor)
        proto.graph.node.remove(node)
    return proto


def test_sum_becomes_additions(unfolded: None) -> None:
    nodes = [helper.make_node("Relu", ["x"], ["a"]), helper.make_node("Sum", ["x", "a", "x"], ["y"])]
    module = check_same(models.model(nodes, {"x": ["N", 4]}, ["y"]), image(1, 4))
    assert names(module) == ["Relu", "Add", "Add"]
    assert [op.tensor for op in operators(module)] == ["a", "", "y"]


def test_output_that_is_an_input(unfolded: None) -> None:
    proto = models.parse("t (float[N, 4] x) => (float[N, 4] y, float[N, 4] z) { y = Identity(x) z = Identity(x) }")
    assert names(check_same(proto, image(1, 4))) == []
