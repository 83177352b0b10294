"""The `nn` dialect: attributes there and back, omitted inputs, what the operators mean."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_models as models
import pytest
from onnx import helper, numpy_helper
from test_frontend import operators

from smec.frontend.load import import_model
from smec.ir.dialects.nn import Constant, NNOp, to_node
from smec.ir.dialects.nn_proto import (
    attribute_to_value,
    element_of_dtype,
    handle_to_array,
    handle_to_tensor,
    tensor_to_handle,
    type_proto,
    value_to_attribute,
)
from smec.ir.errors import SmecError
from smec.ir.interpreter import interpret
from smec.ir.types import Handle, Location, TensorType

HERE = Location("model.onnx", "node")


def subgraph() -> onnx.GraphProto:
    return helper.make_graph([helper.make_node("Relu", ["a"], ["b"])], "g", [], [onnx.ValueInfoProto(name="b")])


ATTRIBUTES = [
    helper.make_attribute("i", 3),
    helper.make_attribute("f", 0.1),
    helper.make_attribute("whole", 2.0),
    helper.make_attribute("s", "text"),
    helper.make_attribute("raw", b"\xff\xfe"),
    helper.make_attribute("ints", [1, 2]),
    helper.make_attribute("floats", [1.0, 2.5]),
    helper.make_attribute("strings", ["a", "b"]),
    helper.make_attribute("no_ints", [], attr_type=onnx.AttributeProto.INTS),
    helper.make_attribute("no_floats", [], attr_type=onnx.AttributeProto.FLOATS),
    helper.make_attribute("no_strings", [], attr_type=onnx.AttributeProto.STRINGS),
    helper.make_attribute("tensor", numpy_helper.from_array(np.arange(6, dtype=np.int16).reshape(2, 3))),
    helper.make_attribute("exotic", helper.make_tensor("t", onnx.TensorProto.BFLOAT16, [2], [1.0, 2.0])),
    helper.make_attribute("graph", subgraph()),
    helper.make_attribute("graphs", [subgraph(), subgraph()]),
    helper.make_attribute("type", helper.make_tensor_type_proto(1, [2, None])),
]


@pytest.mark.parametrize("attribute", ATTRIBUTES, ids=lambda a: a.name)
def test_attribute_there_and_back(attribute: onnx.AttributeProto) -> None:
    value, kind = attribute_to_value(attribute)
    assert value_to_attribute(attribute.name, value, kind) == attribute


def test_attribute_without_onnx_form() -> None:
    with pytest.raises(SmecError, match="attribute 'a' has no ONNX form"):
        value_to_attribute("a", None, "")


@pytest.mark.parametrize("number", [1, 2, 3, 6, 7, 9, 10, 11, 16, 17, 21, 22])
def test_constant_of_every_element_type(number: int) -> None:
    tensor = helper.make_tensor("t", number, [3], [0, 1, 1])
    handle = tensor_to_handle(tensor)
    type = TensorType((3,), element_of_dtype(numpy_helper.to_array(tensor).dtype))
    again = handle_to_tensor(handle, "u", type)
    assert again.data_type == number
    np.testing.assert_array_equal(numpy_helper.to_array(again), numpy_helper.to_array(tensor))
    np.testing.assert_array_equal(handle_to_array(handle, type), numpy_helper.to_array(tensor))
    assert type_proto(type).tensor_type.elem_type == number


def test_strings_are_constants_too() -> None:
    tensor = helper.make_tensor("t", onnx.TensorProto.STRING, [2], [b"a", b"bc"])
    op = Constant.create([], [TensorType((2,), "string")], {"value": tensor_to_handle(tensor)}, location=HERE)
    assert list(op.array) == ["a", "bc"]


def test_omitted_inputs_keep_their_places() -> None:
    proto = models.parse("""
        t (float[N, 4] x) => (float[N, 4] y) { top = Constant<value = float {0.5}>()  y = Clip(x, , top) }""")
    (clip,) = operators(import_model(proto))
    assert clip.input(1) is None
    assert clip.input(7) is None
    assert clip.constant_input(2) == np.float32(0.5)
    assert clip.constant_input(0) is None
    assert list(to_node(clip, ["a", "b"], ["c"]).input) == ["a", "", "b"]


def test_omitted_outputs_keep_their_places() -> None:
    nodes = [helper.make_node("LSTM", ["x", "w", "r"], ["", "h"], hidden_size=2)]
    weights = {"w": models.normal(0, 1, 8, 3), "r": models.normal(1, 1, 8, 2)}
    proto = models.model(nodes, {"x": [5, 1, 3]}, ["h"], weights)
    module = import_model(proto)
    (lstm,) = operators(module)
    assert list(to_node(lstm, ["x", "w", "r"], ["h"]).output) == ["", "h"]
    x = models.normal(2, 2, 5, 1, 3)
    np.testing.assert_allclose(interpret(module, {"x": x})["h"], models.expected(proto, {"x": x})[0], rtol=1e-5)


def test_verify_counts_operands() -> None:
    value = Constant.of(np.zeros(3, np.float32), HERE).results[0]
    op = NNOp.make("Clip", [value], [value.type], {"_present": (True, False, True)}, HERE)
    with pytest.raises(SmecError, match=r"node 'node': 'nn\.Clip': operands and omitted inputs disagree"):
        op.verify()


def test_meaning_falls_back_to_onnxruntime() -> None:
    value = Constant.of(np.zeros((1, 4), np.float32), HERE).results[0]
    bias = Constant.of(np.ones(4, np.float32), HERE).results[0]
    op = NNOp.make("BiasGelu", [value, bias], [value.type], {}, HERE, "com.microsoft")
    x = models.normal(0, 3, 1, 4)
    found = op.interpret([x, np.ones((3, 4), np.float32)])[0]
    from scipy.special import erf

    y = x + 1
    np.testing.assert_allclose(found, 0.5 * y * (1 + erf(y / np.sqrt(2))), rtol=1e-4, atol=1e-6)


def test_meaning_that_nobody_knows() -> None:
    value = Constant.of(np.zeros((1, 4), np.float32), HERE).results[0]
    op = NNOp.make("Nonsense", [value], [value.type], {}, HERE)
    with pytest.raises(SmecError, match=r"node 'node': 'nn\.Nonsense': onnxruntime cannot compute the operator"):
        op.interpret([np.zeros((1, 1, 4), np.float32)])


def test_images_of_different_extents_are_refused() -> None:
    value = Constant.of(np.zeros(4, np.float32), HERE).results[0]
    op = NNOp.make("NonZero", [value], [TensorType((1, -1), "i64")], {}, HERE)
    with pytest.raises(SmecError, match="results of different images have different shapes"):
        op.interpret([np.array([[1, 0, 1, 0], [1, 1, 1, 0]], np.float32)])


def test_handles_of_equal_constants_are_equal() -> None:
    a, b = Handle(np.arange(3)), Handle(np.arange(3))
    assert (a, hash(a)) == (b, hash(b))
