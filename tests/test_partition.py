"""The partition: what goes on crossbars, on the vector unit and to the host, and what becomes one operation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx_models import model, normal, parse

import shared
from smec.frontend.load import import_model
from smec.ir.dialects.builtin import ModuleOp
from smec.ir.dialects.nn import Constant
from smec.ir.errors import SmecError
from smec.ir.interpreter import interpret
from smec.ir.parser import parse_module
from smec.ir.printer import print_module
from smec.ir.verifier import verify
from smec.passes.base import PassContext
from smec.passes.partition import Partition
from smec.passes.quantization.units import graph_units

W = normal(1, 4, 3, 3, 3)


def partition(proto: onnx.ModelProto | str | Path, **options: Any) -> tuple[ModuleOp, dict[str, Any]]:
    module, context = import_model(proto, **options), PassContext()
    Partition().run(module, context)
    verify(module)
    return module, context.report["partition"]


def units(proto: onnx.ModelProto) -> list[tuple[str, list[str]]]:
    """(kind, operators) of each unit, in order."""
    module, _ = partition(proto)
    return [(u.kind, [op.op_type for op in u.ops]) for u in graph_units(module.graph)]


def conv_then(lines: str, outputs: str = "float[1,4,6,6] y", **weights: np.ndarray) -> onnx.ModelProto:
    """A model: c = Conv(x), and the lines."""
    text = f"m (float[1,3,8,8] x) => ({outputs}) {{ c = Conv(x, w) {lines} }}"
    return parse(text, w=W, **weights)


def scalar(value: float) -> np.ndarray:
    return np.array(value, np.float32)


def test_layer_absorbs_its_clamp() -> None:
    assert units(conv_then("y = Relu(c)")) == [("conv", ["Conv", "Relu"])]
    clip = conv_then("y = Clip(c, lo, hi)", lo=scalar(0), hi=scalar(6))
    assert units(clip) == [("conv", ["Conv", "Clip"])]


def test_a_result_with_another_use_keeps_its_clamp_apart() -> None:
    found = units(conv_then("r = Relu(c) y = Add(c, r)"))
    assert found[0] == ("conv", ["Conv"])
    # Both operands are functions of c alone: one table.
    assert found[1] == ("lut", ["Relu", "Add"])


def test_matmul_absorbs_bias_and_clamp() -> None:
    text = "m (float[2,8] x) => (float[2,4] y) { a = MatMul(x, w) b = Add(a, v) y = Relu(b) }"
    found = units(parse(text, w=normal(1, 8, 4), v=normal(2, 4)))
    assert [kind for kind, _ in found] == ["gemm"]


def test_matmul_of_rank_3_absorbs_bias() -> None:
    text = "m (float[1,5,8] x) => (float[1,5,4] y) { a = MatMul(x, w) y = Add(v, a) }"
    assert units(parse(text, w=normal(1, 8, 4), v=normal(2, 4))) == [("gemm", ["MatMul", "Add"])]


@pytest.mark.parametrize(
    "lines",
    [
        "s = Sigmoid(c) y = Mul(c, s) z = Conv(y, v)",
        "a = Add(c, three) b = Clip(a, zero, six) d = Mul(c, b) y = Div(d, six) z = Conv(y, v)",
        "a = Div(c, root) b = Erf(a) d = Add(b, one) e = Mul(c, d) y = Mul(e, half) z = Conv(y, v)",
        "a = LeakyRelu(c) y = Tanh(a) z = Conv(y, v)",
    ],
)
def test_chains_become_one_table(lines: str) -> None:
    constants = {"zero": 0, "one": 1, "three": 3, "six": 6, "half": 0.5, "root": 2**0.5}
    weights = {name: scalar(value) for name, value in constants.items()}
    found = units(conv_then(lines, "float[1,4,6,6] z", v=normal(2, 4, 4, 1, 1), **weights))
    assert [kind for kind, _ in found] == ["conv", "lut", "conv"]


def test_a_chain_ends_where_its_value_is_used_elsewhere() -> None:
    lines = "s = Sigmoid(c) p = Mul(c, s) q = Conv(s, v) y = Add(p, q)"
    found = units(conv_then(lines, v=normal(2, 4, 4, 1, 1)))
    assert sorted(kind for kind, _ in found) == ["add", "conv", "conv", "lut", "mul"]


def test_residual_sum_absorbs_its_clamp() -> None:
    lines = "a = Conv(c, v) s = Add(a, c) r = Relu(s) y = Conv(r, v)"
    found = units(conv_then(lines, v=normal(2, 4, 4, 1, 1)))
    assert [kind for kind, _ in found] == ["conv", "conv", "add", "conv"]
    assert found[2][1] == ["Add", "Relu"]


def test_movement_of_a_last_layers_result_follows_it_to_the_host() -> None:
    lines = "y = Reshape(c, shape)"
    module, report = partition(conv_then(lines, "float[1,144] y", shape=np.array([1, 144], np.int64)))
    assert report["host"] == {"Reshape": {"moves a layer's result to the host": 1}}
    assert report["units"] == {"conv": 1}
    assert [u.name for u in graph_units(module.graph)][-1] == "host0"


def test_movement_between_layers_stays_on_the_device() -> None:
    lines = "r = Reshape(c, shape) y = MatMul(r, v)"
    proto = conv_then(lines, "float[1,5] y", shape=np.array([1, 144], np.int64), v=normal(2, 144, 5))
    assert [kind for kind, _ in units(proto)] == ["conv", "reshape", "gemm"]


def test_an_input_enters_the_device_at_once() -> None:
    text = "m (float[1,8,8,3] x) => (float[1,4,6,6] y) { t = Transpose<perm=[0,3,1,2]>(x) y = Conv(t, w) }"
    assert [kind for kind, _ in units(parse(text, w=W))] == ["transpose", "conv"]


def test_exact_arithmetic_on_an_input_stays_on_the_host() -> None:
    text = "m (float[1,3,8,8] x) => (float[1,4,6,6] y) { a = Sub(x, m) b = Div(a, s) y = Conv(b, w) }"
    mean, std = normal(3, 3, 1, 1), 1 + np.abs(normal(4, 3, 1, 1))
    padded = helper.make_node("Pad", ["b", "p"], ["q"], mode="reflect")
    proto = parse(text, w=W, m=mean, s=std, p=np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64))
    # Reflection keeps the front end from folding the constants into the weights.
    proto.graph.node.insert(2, padded)
    proto.graph.node[3].input[0] = "q"
    proto.graph.output[0].type.tensor_type.shape.dim[2].dim_value = 8
    proto.graph.output[0].type.tensor_type.shape.dim[3].dim_value = 8
    _, report = partition(proto)
    assert report["units"] == {"conv": 1}
    assert report["regions"] == 1


def test_split_becomes_slices() -> None:
    lines = "a, b = Split<axis=1>(c) d = Conv(a, v) e = Conv(b, v) y = Add(d, e)"
    found = units(conv_then(lines, "float[1,2,6,6] y", v=normal(2, 2, 2, 1, 1)))
    assert [kind for kind, _ in found].count("slice") == 2


CEILING = {"kernel_shape": [4, 4], "strides": [3, 3], "ceil_mode": 1, "count_include_pad": 1}


def test_parts_of_a_split_that_nobody_reads_vanish() -> None:
    lines = "a, b = Split<axis=1>(c) y = Conv(b, v)"
    found = units(conv_then(lines, "float[1,2,6,6] y", v=normal(2, 2, 2, 1, 1)))
    assert [kind for kind, _ in found] == ["conv", "slice", "conv"]
    on_host = "a, b = Split<axis=1>(x) y = Softmax<axis=1>(b)"
    module, report = partition(parse(f"m (float[1,4,3,3] x) => (float[1,2,3,3] y) {{ {on_host} }}"))
    assert report["regions"] == 1 and all(op.results[0].uses for op in module.graph.ops)


@pytest.mark.parametrize(
    ("node", "weights", "reason"),
    [
        (("ConvTranspose", ["c", "v"]), {"v": normal(2, 4, 4, 1, 1)}, "no device operation computes it"),
        (("MatMul", ["c", "c"]), {}, "right operand is not constant"),
        (("Softmax", ["c"]), {}, "no device operation computes it"),
        (("ReduceMean", ["c"], {"axes": [1, 3]}), {}, "axes of the mean are not neighbours"),
        (("AveragePool", ["c"], CEILING), {}, "mean counts padding beyond the border"),
    ],
)
def test_what_the_device_cannot_do_is_reported(node: Any, weights: dict[str, np.ndarray], reason: str) -> None:
    op_type, inputs, *attributes = node
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node(op_type, inputs, ["y"], **(attributes[0] if attributes else {})),
    ]
    _, report = partition(model(nodes, {"x": (1, 3, 8, 8)}, ["y"], {"w": W, **weights}))
    assert report["host"] == {op_type: {reason: 1}}


def test_convolution_in_3d_goes_to_the_host() -> None:
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"])]
    _, report = partition(model(nodes, {"x": (1, 2, 4, 4, 4)}, ["y"], {"w": normal(0, 3, 2, 2, 2, 2)}))
    assert report["host"] == {"Conv": {"convolution is neither 1-D nor 2-D": 1}}
    assert report["crossbar_share"] == 0.0 and report["macs_host"] == 3 * 27 * 16


def test_as_few_regions_as_the_dependences_allow() -> None:
    # Two branches of softmax - layer - softmax: their regions are shared.
    lines = []
    for branch in ("a", "b"):
        lines += [
            helper.make_node("Softmax", ["x"], [f"{branch}0"], axis=1 if branch == "a" else 2),
            helper.make_node("Conv", [f"{branch}0", "w"], [f"{branch}1"]),
            helper.make_node("Softmax", [f"{branch}1"], [f"{branch}2"], axis=1),
        ]
    lines.append(helper.make_node("MatMul", ["a2", "b2"], ["y"]))
    module, report = partition(model(lines, {"x": (1, 3, 8, 8)}, ["y"], {"w": W}))
    assert report["regions"] == 2
    assert report["units"] == {"conv": 2}
    assert [u.name for u in graph_units(module.graph) if not u.on_device] == ["host0", "host1"]


def test_values_that_no_buffer_holds_stay_within_one_region() -> None:
    # NonZero's extent depends on the data; the layer's result is needed beside it.
    nodes = [
        helper.make_node("NonZero", ["x"], ["n"]),
        helper.make_node("Cast", ["n"], ["f"], to=1),
        helper.make_node("ReduceMax", ["f"], ["r"], keepdims=0),
        helper.make_node("Softmax", ["x"], ["p"], axis=1),
        helper.make_node("Conv", ["p", "w"], ["c"]),
        helper.make_node("ReduceMax", ["c"], ["s"], keepdims=0),
        helper.make_node("Transpose", ["f"], ["t"], perm=[1, 0]),
        helper.make_node("Add", ["t", "s"], ["u"]),
        helper.make_node("ReduceSum", ["u"], ["v"], keepdims=0),
        helper.make_node("Add", ["v", "r"], ["y"]),
    ]
    _, report = partition(model(nodes, {"x": (1, 3, 8, 8)}, ["y"], {"w": W}))
    assert report["regions"] == 1
    assert "must share a region" in str(report["host"]["Conv"])


def test_a_graph_without_layers_is_all_host() -> None:
    nodes = [helper.make_node("Relu", ["x"], ["a"]), helper.make_node("Softmax", ["a"], ["y"])]
    _, report = partition(model(nodes, {"x": (1, 4)}, ["y"]))
    assert (report["units"], report["regions"], report["crossbar_share"]) == ({}, 1, 0.0)


def test_partition_keeps_the_meaning_and_prints() -> None:
    lines = "s = Sigmoid(c) p = Mul(c, s) q = Softmax<axis=1>(p) d = Conv(q, v) y = Add(d, p)"
    proto = conv_then(lines, v=normal(2, 4, 4, 1, 1))
    inputs = {"x": normal(0, 2, 1, 3, 8, 8)}
    before = interpret(import_model(proto), inputs)
    module, _ = partition(proto)
    after = interpret(module, inputs)
    np.testing.assert_array_equal(after["y"], before["y"])
    again = parse_module(print_module(module), "again")
    assert [op.attributes.get("_unit") for op in again.graph.ops] == [
        op.attributes.get("_unit") for op in module.graph.ops
    ]


def test_units_stand_together_behind_the_constants() -> None:
    module, _ = partition(conv_then("r = Relu(c) y = Softmax(r)"))
    kinds = [isinstance(op, Constant) for op in module.graph.ops]
    assert kinds == sorted(kinds, reverse=True)
    seen = [u.name for u in graph_units(module.graph)]
    assert len(seen) == len(set(seen))


def test_an_unpartitioned_graph_has_no_units() -> None:
    module = import_model(conv_then("y = Relu(c)"))
    with pytest.raises(SmecError, match="belongs to no unit"):
        list(graph_units(module.graph))


#: Share of the multiply-accumulates on crossbars, and how many host regions there are at most.
ZOO = {
    "ch_ppocr_mobile_v2.0_cls_infer": 1,
    "cifar10_resnet20_raw_dynamicpad": 0,
    "light_densenet121": 0,
    "light_resnet50": 1,
    "light_shufflenet": 1,
    "light_squeezenet": 1,
    "mlperf_tiny_vww_96": 0,
    "mnist_cntk": 0,
    "mtcnn_onet": 1,
}


@shared.needs_zoo
@pytest.mark.parametrize("name", ZOO)
def test_zoo_models_run_on_crossbars(name: str) -> None:
    shapes = {"x": (1, 3, 48, 192)} if name.startswith("ch_") else None
    _, report = partition(shared.ZOO / f"{name}.onnx", input_shapes=shapes)
    assert report["crossbar_share"] == 1.0
    assert report["regions"] <= ZOO[name]


@shared.needs(shared.RESNET20, shared.RESNET8, shared.MOBILENET_V2)
def test_models_need_no_host() -> None:
    for path in (shared.RESNET20, shared.RESNET8, shared.MOBILENET_V2):
        _, report = partition(path)
        assert (report["crossbar_share"], report["regions"]) == (1.0, 0)
