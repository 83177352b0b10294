"""Running float graphs and host regions with onnxruntime: any tensor, many images at once where that is right."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_models as models
import pytest
from onnx import helper
from test_frontend import IF, LOOP, operators, small_cnn

from smec.frontend.load import import_model
from smec.ir.batching import stacking
from smec.ir.core import Block, Region
from smec.ir.dialects.builtin import HostOp, ModuleOp, ReturnOp
from smec.ir.dialects.nn import NNOp
from smec.ir.errors import SmecError
from smec.ir.float_runner import FloatRunner
from smec.ir.interpreter import interpret
from smec.ir.onnx_model import probe_batchable, region_interface, region_to_model
from smec.ir.onnx_session import Session

ATTENTION = """
t (float[N, 5, 8] x) => (float[N, 5, 8] y) {
    mixed = MatMul(x, w)
    shape = Constant<value = int64[5] {1, 5, 3, 2, 4}>()
    parts = Reshape(mixed, shape)
    moved = Transpose<perm = [2, 0, 3, 1, 4]>(parts)
    q3, k3, v3 = Split<axis = 0, num_outputs = 3>(moved)
    zero = Constant<value = int64[1] {0}>()
    q = Squeeze(q3, zero)
    k = Squeeze(k3, zero)
    v = Squeeze(v3, zero)
    turned = Transpose<perm = [0, 1, 3, 2]>(k)
    scores = MatMul(q, turned)
    weights = Softmax<axis = -1>(scores)
    found = MatMul(weights, v)
    back = Transpose<perm = [0, 2, 1, 3]>(found)
    flat = Constant<value = int64[3] {1, 5, 8}>()
    joined = Reshape(back, flat)
    y = Add(joined, x)
}"""


def attention() -> onnx.ModelProto:
    header = '<ir_version: 8, opset_import: ["": 18]>\n'
    return models.parse(header + ATTENTION, w=models.normal(0, 8, 24))


def stacked_as(module: ModuleOp) -> dict[str | None, int]:
    """The axis of each stacked result by its name."""
    graph = module.graph
    return {v.name_hint: axis for v, axis in stacking(graph.ops, graph.block.args).axes.items()}


def runs(runner: FloatRunner, x: np.ndarray) -> dict[str | None, np.ndarray]:
    """All tensors of all images, whatever the size of the steps."""
    values = [r for op in runner.graph.ops if isinstance(op, NNOp) for r in op.results]
    parts = list(runner.run({"x": x}, values, batch_size=3))
    return {v.name_hint: np.concatenate([p[v] for p in parts]) for v in values}


# -- tensors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("proto", [small_cnn(), attention()], ids=["cnn", "attention"])
def test_every_tensor_of_every_image(proto: onnx.ModelProto) -> None:
    module = import_model(proto)
    x = models.normal(3, 7, *module.graph.block.args[0].type.shape[1:])
    found = runs(FloatRunner(module), x)
    taps: dict[str | None, np.ndarray] = {}

    def tap(op: object, results: list[np.ndarray]) -> None:
        if isinstance(op, NNOp):
            taps.update({r.name_hint: a for r, a in zip(op.results, results)})

    interpret(module, {"x": x[:, None]}, tap)
    assert found.keys() == taps.keys()
    for name, array in found.items():
        assert array.shape == taps[name].shape
        np.testing.assert_allclose(array, taps[name], rtol=1e-4, atol=1e-5)


def test_steps_and_given_values() -> None:
    runner = FloatRunner(import_model(small_cnn()))
    x = models.normal(0, 10, 3, 8, 8)
    constant = next(op.results[0] for op in runner.graph.ops if op.name == "nn.Constant")
    argument = runner.graph.block.args[0]
    parts = list(runner.run({"x": x}, [argument, constant, runner.value("y")], batch_size=4))
    assert [len(p[argument]) for p in parts] == [4, 4, 2]
    assert parts[0][constant].shape == (4, *constant.type.shape)
    np.testing.assert_array_equal(np.concatenate([p[argument] for p in parts])[:, 0], x)
    assert next(runner.run({"x": x}, [argument]))[argument].shape == (10, 1, 3, 8, 8)


def test_tensors_by_their_original_names() -> None:
    runner = FloatRunner(import_model(small_cnn()))
    assert {"x", "n", "r", "p", "y"} <= runner.tensors.keys()
    with pytest.raises(SmecError, match="float graph has no tensor 'c'"):
        runner.value("c")  # folded: the convolution now computes what the normalization did


def test_module_may_change_afterwards() -> None:
    module = import_model(small_cnn())
    x = models.normal(0, 3, 3, 8, 8)
    before = FloatRunner(module).outputs({"x": x})["y"]
    runner = FloatRunner(module)
    relu = next(op for op in operators(module) if op.op_type == "Relu")
    relu.replace_with([relu.operands[0]])
    np.testing.assert_array_equal(runner.outputs({"x": x})["y"], before)


def test_errors_of_a_run() -> None:
    runner = FloatRunner(import_model(small_cnn()))
    with pytest.raises(SmecError, match="no array for input 'x'"):
        runner.outputs({})
    with pytest.raises(SmecError, match="batch size is below 1"):
        runner.outputs({"x": models.normal(0, 1, 3, 8, 8)}, batch_size=0)
    other = import_model(attention()).graph.block.terminator.operands[0]
    with pytest.raises(SmecError, match="value is not computed by the float graph"):
        list(runner.run({"x": models.normal(0, 1, 3, 8, 8)}, [other]))


def test_inputs_without_a_batch_are_shared() -> None:
    proto = models.parse("t (float[N, 4] x, float s) => (float[N, 4] y) { y = Mul(x, s) }")
    x = models.normal(0, 3, 4)
    found = FloatRunner(import_model(proto)).outputs({"x": x, "s": np.float32(2)})["y"]
    np.testing.assert_array_equal(found[:, 0], x * 2)


# -- images at once ----------------------------------------------------------------------------------------------------


def test_attention_is_stacked() -> None:
    axes = stacked_as(import_model(attention()))
    assert (axes["x"], axes["q3"], axes["q"], axes["y"]) == (0, 1, 0, 0)


def test_attention_operator_is_stacked() -> None:
    node = helper.make_node("Attention", ["x", "x", "x"], ["y"], q_num_heads=2, kv_num_heads=2)
    module = import_model(models.model([node], {"x": ["N", 5, 8]}, ["y"], opset=23))
    if [op.op_type for op in operators(module)] != ["Attention"]:
        pytest.skip("this onnxruntime expands the operator")
    assert stacked_as(module)["y"] == 0
    x = models.normal(0, 5, 5, 8)
    found = FloatRunner(module).outputs({"x": x})["y"]
    np.testing.assert_allclose(found, interpret(module, {"x": x[:, None]})["y"], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("text", [IF, LOOP])
def test_control_flow_is_run_image_by_image(text: str) -> None:
    # A condition on the sum over all images would hold or fail for all of them.
    shape = (4,) if text is IF else (4, 4)
    module = import_model(models.parse(text, w=models.normal(1, *shape)))
    assert "y" not in stacked_as(module)
    x = models.normal(5, 6, 4)
    alone = [FloatRunner(module).outputs({"x": x[i : i + 1]})["y"] for i in range(6)]
    np.testing.assert_array_equal(FloatRunner(module).outputs({"x": x})["y"], np.concatenate(alone))


MIXING = {
    "ReduceMean": {"axes": [0, 1]},
    "ReduceMax": {},
    "Softmax": {"axis": 0},
    "CumSum": None,
    "Transpose": {"perm": [1, 0]},
}


@pytest.mark.parametrize("op_type", MIXING)
def test_operators_that_mix_images(op_type: str) -> None:
    weights = {"axis": np.array(0)} if op_type == "CumSum" else {}
    nodes = [
        helper.make_node(op_type, ["x", *weights], ["m"], **(MIXING[op_type] or {})),
        helper.make_node("Relu", ["m"], ["r"]),
        helper.make_node("Softmax", ["r"], ["y"], axis=-1) if op_type == "Transpose" else None,
    ]
    kept = [n for n in nodes if n is not None]
    proto = models.model(kept, {"x": ["N", 4]}, [kept[-1].output[0]], weights)
    assert kept[-1].output[0] not in stacked_as(import_model(proto))


def test_size_is_taken_from_the_images_at_hand() -> None:
    weights = {"sizes": np.array([1, 2, 8, 6])}
    node = helper.make_node("Resize", ["x", "", "", "sizes"], ["y"], mode="linear")
    module = import_model(models.model([node], {"x": ["N", 2, 4, 4]}, ["y"], weights))
    assert stacked_as(module)["y"] == 0
    runner = FloatRunner(module)
    x = models.normal(0, 5, 2, 4, 4)
    found = runner.outputs({"x": x})["y"]
    np.testing.assert_allclose(found, interpret(module, {"x": x[:, None]})["y"], rtol=1e-5, atol=1e-6)


# -- host regions ------------------------------------------------------------------------------------------------------


def outline(module: ModuleOp, ops: list[NNOp]) -> HostOp:
    """Put `ops` in a host region at the place of the last of them."""
    inputs, outputs = region_interface(ops)
    block = Block([v.type for v in inputs])
    mapping = dict(zip(inputs, block.args))
    for op in ops:
        for value in op.operands:
            source = value.defining_op()
            if value not in mapping and source is not None and source not in ops:
                block.append(source.clone(mapping))  # type: ignore[arg-type]
        block.append(op.clone(mapping))  # type: ignore[arg-type]
    block.append(ReturnOp.create([mapping[v] for v in outputs], location=ops[-1].location))
    host = HostOp.create(
        inputs, [v.type for v in outputs], {"name": "host0"}, [Region([block])], location=ops[-1].location
    )
    module.graph.block.insert_after(ops[-1], host)
    for old, new in zip(outputs, host.results):
        old.replace_all_uses_with(new)
    for op in reversed(ops):
        op.erase()
    return host


@pytest.mark.parametrize("proto", [small_cnn(), attention()], ids=["cnn", "attention"])
def test_region_as_a_model_of_its_own(proto: onnx.ModelProto) -> None:
    module = import_model(proto)
    x = models.normal(0, 4, *module.graph.block.args[0].type.shape)
    wanted = interpret(module, {"x": x})["y"]
    ops = operators(module)
    from_ops = region_to_model(ops, module.graph)
    host = outline(module, ops)
    data = region_to_model(host, module.graph)
    np.testing.assert_allclose(interpret(module, {"x": x})["y"], wanted, rtol=1e-5, atol=1e-6)
    assert data == region_to_model(host, module.graph)
    for model in (data, from_ops):
        session = Session(model)
        assert (session.input_names, session.output_names) == (["arg0"], ["out0"])
        assert probe_batchable(model)
        assert probe_batchable(model, [x])
        found = session.run({"arg0": x.reshape(-1, *x.shape[2:])})[0]
        np.testing.assert_allclose(found.reshape(wanted.shape), wanted, rtol=1e-4, atol=1e-5)


def test_region_that_mixes_images_keeps_its_extents() -> None:
    module = import_model(models.parse(IF, w=models.normal(1, 4)))
    data = region_to_model(operators(module), module.graph)
    assert not probe_batchable(data)
    proto = onnx.ModelProto.FromString(data)
    assert proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 1
    x = models.normal(0, 1, 4)
    wanted = interpret(module, {"x": x[None]})["y"]
    np.testing.assert_allclose(Session(data).run({"arg0": x})[0], wanted[0], rtol=1e-5)


def test_probe_finds_what_mixes_images() -> None:
    proto = models.parse("t (float[N, 4] x) => (float[N, 4] y) { m = ReduceMean<keepdims = 0>(x)  y = Add(x, m) }")
    assert not probe_batchable(proto.SerializeToString())
    fixed = models.parse("t (float[1, 4] x) => (float[1, 4] y) { y = Relu(x) }")
    assert not probe_batchable(fixed.SerializeToString())
    plain = models.parse("t (float[N, 4] x) => (float[N, 4] y) { y = Relu(x) }")
    assert probe_batchable(plain.SerializeToString(), exact=True)


def test_region_of_other_operations_is_refused() -> None:
    module = import_model(small_cnn())
    host = outline(module, operators(module)[:2])
    with pytest.raises(SmecError, match=r"'smec\.host': operation has no ONNX form"):
        region_to_model([host], module.graph)


# -- integers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
def test_integer_products_do_not_saturate(dtype: type[np.generic]) -> None:
    """Pairs of products exceed 16 bits here, which matters to onnxruntime on processors without VNNI."""
    weights = {"w": np.full((64, 5), 127, dtype)}
    node = helper.make_node("MatMulInteger", ["x", "w"], ["y"])
    graph = helper.make_graph(
        [node],
        "integers",
        [helper.make_tensor_value_info("x", onnx.TensorProto.UINT8, (3, 64))],
        [helper.make_tensor_value_info("y", onnx.TensorProto.INT32, (3, 5))],
        [onnx.numpy_helper.from_array(a, n) for n, a in weights.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (y,) = Session(proto).run({"x": np.full((3, 64), 255, np.uint8)})
    np.testing.assert_array_equal(y, 64 * 255 * 127)
