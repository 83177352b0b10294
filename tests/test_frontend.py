"""Importing ONNX files: what is refused and how, extents, operator sets, shapes, subgraphs, real files."""

from __future__ import annotations

import random
import re
from pathlib import Path

import numpy as np
import onnx
import onnx_models as models
import pytest
from onnx import helper

import shared
from smec.frontend import fold, model_file
from smec.frontend.load import import_model
from smec.ir.dialects.builtin import ModuleOp
from smec.ir.dialects.nn import Constant, NNOp
from smec.ir.errors import SmecError
from smec.ir.float_runner import FloatRunner
from smec.ir.images import image_arrays
from smec.ir.interpreter import interpret
from smec.ir.types import TensorType
from smec.ir.verifier import verify


def operators(module: ModuleOp) -> list[NNOp]:
    return [op for op in module.graph.ops if isinstance(op, NNOp)]


def names(module: ModuleOp) -> list[str]:
    return [op.op_type for op in operators(module)]


def check_same(proto: onnx.ModelProto, arrays: dict[str, np.ndarray], **options: object) -> ModuleOp:
    """Import, verify, and compare interpretation and float run (arrays have the image axis) with onnxruntime."""
    module = import_model(proto, **options)  # type: ignore[arg-type]
    verify(module)
    wanted = models.expected(proto, arrays)
    interpreted = interpret(module, arrays)
    user = {n: a.reshape(-1, *a.shape[2:]) if a.ndim > 1 else a for n, a in arrays.items()}
    run = FloatRunner(module).outputs(user)
    for name, array in zip(module.graph.output_names, wanted, strict=True):
        np.testing.assert_allclose(interpreted[name], array, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(run[name], array, rtol=1e-4, atol=1e-5)
    return module


def small_cnn(opset: int = 17) -> onnx.ModelProto:
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], name="conv", pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["c", "scale", "shift", "mean", "var"], ["n"], name="norm"),
        helper.make_node("Relu", ["n"], ["r"], name="relu"),
        helper.make_node("MaxPool", ["r"], ["p"], name="pool", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Shape", ["p"], ["s"], name="shape"),
        helper.make_node("Gather", ["s", "zero"], ["n0"], name="first"),
        helper.make_node("Concat", ["n0", "rest"], ["target"], name="target", axis=0),
        helper.make_node("Reshape", ["p", "target"], ["f"], name="flat"),
        helper.make_node("Gemm", ["f", "g", "gb"], ["y"], name="fc", transB=1),
    ]
    weights = {
        "w": models.normal(0, 4, 3, 3, 3),
        "b": models.normal(1, 4),
        "scale": models.normal(2, 4),
        "shift": models.normal(3, 4),
        "mean": models.normal(4, 4),
        "var": np.abs(models.normal(5, 4)) + np.float32(0.5),
        "zero": np.array([0]),
        "rest": np.array([64]),
        "g": models.normal(6, 5, 64),
        "gb": models.normal(7, 5),
    }
    return models.model(nodes, {"x": ["N", 3, 8, 8]}, ["y"], weights, opset=opset)


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "file is empty"),
        (b"PK\x03\x04" + b"0" * 40, "a zip archive"),
        (b"\x00\x00\x00\x00TFL3" + b"0" * 40, "a TensorFlow Lite model"),
        (b"hello world, this is a text", "not an ONNX model"),
        (small_cnn().SerializeToString()[:300], "not an ONNX model, or a truncated one"),
        (onnx.ModelProto(ir_version=8).SerializeToString(), "expected a graph with outputs"),
    ],
)
def test_foreign_files_are_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(SmecError, match=re.escape(message)) as caught:
        import_model(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_missing_file_and_directory(tmp_path: Path) -> None:
    with pytest.raises(SmecError, match=r"absent\.onnx: no such file"):
        import_model(tmp_path / "absent.onnx")
    with pytest.raises(SmecError, match="is a directory"):
        import_model(tmp_path)


@pytest.mark.parametrize(("opset", "message"), [(6, "operator set is too old"), (1000, "operator set is newer")])
def test_opset_out_of_range(opset: int, message: str) -> None:
    proto = small_cnn()
    proto.opset_import[0].version = opset
    with pytest.raises(SmecError, match=message):
        import_model(proto)


def test_unknown_operator_names_node_and_domain() -> None:
    proto = small_cnn()
    proto.graph.node[2].op_type, proto.graph.node[2].domain = "Quant", "qonnx.custom_op.general"
    with pytest.raises(
        SmecError, match=r"node 'relu'.*no operator 'Quant' of domain 'qonnx.custom_op.general'"
    ) as caught:
        import_model(proto)
    assert "qonnx-convert" in (caught.value.hint or "")
    proto.graph.node[2].op_type, proto.graph.node[2].domain = "Rellu", ""
    with pytest.raises(SmecError, match=r"node 'relu'.*no operator 'Rellu'"):
        import_model(proto)


def test_refusal_of_onnxruntime_is_located() -> None:
    proto = small_cnn()
    proto.graph.node[0].attribute[0].ints[:] = [1, 1]
    with pytest.raises(SmecError, match="node 'conv': onnxruntime refuses the model") as caught:
        import_model(proto)
    assert "onnxruntime_src" not in str(caught.value)


def test_unnamed_nodes_get_unique_names() -> None:
    proto = models.parse(
        "t (float[N, 4] x) => (float[N, 4] y) { a = Relu(x) b = Neg(a) c = Relu(b) d = Neg(c) y = Abs(d) }"
    )
    found = [op.location.node for op in operators(import_model(proto))]
    assert found == ["Relu_a", "Neg_b", "Relu_c", "Neg_d", "Abs_y"]


def test_damaged_files_end_in_one_message(tmp_path: Path) -> None:
    data, path = small_cnn().SerializeToString(), tmp_path / "model.onnx"
    for seed in range(120):
        rng, damaged = random.Random(seed), bytearray(data)
        if seed % 3 == 0:
            del damaged[rng.randrange(len(data)) :]
        for _ in range(seed % 3 * 3):
            damaged[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        try:
            import_model(path)
        except SmecError as error:
            assert str(error)


def test_names_that_are_no_text() -> None:
    data = small_cnn().SerializeToString().replace(b"relu", b"r\xfflu")
    proto = onnx.ModelProto.FromString(data)
    with pytest.raises(SmecError, match="a name in it is no text"):
        import_model(proto)


# -- external data -----------------------------------------------------------------------------------------------------


def save_external(directory: Path) -> Path:
    path = directory / "model.onnx"
    onnx.save(small_cnn(), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    return path


def test_external_data(tmp_path: Path) -> None:
    path = save_external(tmp_path)
    x = models.normal(9, 2, 3, 8, 8)
    found = FloatRunner(import_model(path)).outputs({"x": x})["y"]
    np.testing.assert_allclose(found, models.expected(small_cnn(), {"x": x[:, None]})[0], rtol=1e-4, atol=1e-5)


def test_external_data_missing_or_outside(tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    path = save_external(inside)
    (inside / "weights.bin").rename(tmp_path / "weights.bin")
    with pytest.raises(SmecError, match=r"data file 'weights\.bin' of initializer 'w' is missing"):
        import_model(path)
    proto = onnx.load(path, load_external_data=False)
    for tensor in proto.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "../weights.bin"
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(SmecError, match="outside of the model's directory"):
        import_model(path)
    with pytest.raises(SmecError, match="model in memory"):
        import_model(proto)


# -- extents of inputs -------------------------------------------------------------------------------------------------


def resizable(height: int | str | None = "h") -> onnx.ModelProto:
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"]), helper.make_node("GlobalAveragePool", ["c"], ["y"])]
    return models.model(nodes, {"x": ["N", 3, height, "w_"]}, ["y"], {"w": models.normal(0, 4, 3, 3, 3)})


def test_symbolic_batch_becomes_one_image() -> None:
    module = import_model(small_cnn())
    assert module.graph.block.args[0].type == TensorType((1, 3, 8, 8))
    assert module.graph.batch == (0,)
    assert module.graph.input_names == ("x",)
    assert module.graph.output_names == ("y",)
    assert names(module) == ["Conv", "Relu", "MaxPool", "Reshape", "Gemm"]


@pytest.mark.parametrize("extent", [0, -1, None])
def test_batch_without_a_symbol(extent: int | None) -> None:
    proto = small_cnn()
    dim = proto.graph.input[0].type.tensor_type.shape.dim[0]
    dim.Clear()
    if extent is not None:
        dim.dim_value = extent
    assert import_model(proto).graph.block.args[0].type.shape == (1, 3, 8, 8)


def test_fixed_batch_stays() -> None:
    proto = models.parse("t (float[4, 6] x) => (float[4, 6] y) { y = Relu(x) }")
    module = import_model(proto)
    assert module.graph.block.args[0].type.shape == (4, 6)
    assert module.graph.batch == (4,)
    x = models.normal(0, 8, 6)
    assert image_arrays({"x": x}, module.graph)["x"].shape == (2, 4, 6)
    np.testing.assert_array_equal(FloatRunner(module).outputs({"x": x})["y"].reshape(8, 6), np.maximum(x, 0))


def test_other_symbols_must_be_given() -> None:
    with pytest.raises(SmecError, match=r"extent 2 of input 'x' is not known") as caught:
        import_model(resizable())
    assert "--calib" in str(caught.value)
    assert "--input-shape x=1x3x" in str(caught.value)
    shape = (1, 3, 9, 11)
    assert import_model(resizable(), input_shapes={"x": shape}).graph.block.args[0].type.shape == shape
    sample = {"x": np.zeros((7, 3, 9, 11), np.float32)}
    assert import_model(resizable(), sample=sample).graph.block.args[0].type.shape == shape


def test_contradicting_extents() -> None:
    with pytest.raises(SmecError, match=r"another extent at axis 1 \(expected 3, found 4\)"):
        import_model(resizable(), input_shapes={"x": (1, 4, 9, 9)})
    with pytest.raises(SmecError, match=r"rank of --input-shape for input 'x' is not the model's"):
        import_model(resizable(), input_shapes={"x": (3, 9, 9)})
    with pytest.raises(SmecError, match=r"symbol 'w_' of input 'x' has two extents"):
        import_model(resizable("w_"), input_shapes={"x": (1, 3, 9, 10)})
    with pytest.raises(SmecError, match=r"model has no input 'z'"):
        import_model(resizable(), input_shapes={"z": (1,)})


def test_initializers_among_inputs_are_constants() -> None:
    proto = small_cnn()
    proto.ir_version = 3
    for tensor in proto.graph.initializer:
        info = helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
        proto.graph.input.append(info)
    module = import_model(proto)
    assert module.graph.input_names == ("x",)
    assert names(module) == ["Conv", "Relu", "MaxPool", "Reshape", "Gemm"]


def test_user_arrays_are_checked() -> None:
    graph = import_model(small_cnn()).graph
    with pytest.raises(SmecError, match="no array for input 'x'"):
        image_arrays({}, graph)
    with pytest.raises(SmecError, match="model has no input 'y'"):
        image_arrays({"x": np.zeros((1, 3, 8, 8)), "y": np.zeros(1)}, graph)
    with pytest.raises(SmecError, match=r"wrong shape \(expected \(B, 3, 8, 8\), found \(2, 3, 8, 9\)\)"):
        image_arrays({"x": np.zeros((2, 3, 8, 9))}, graph)
    assert image_arrays({"x": np.zeros((2, 3, 8, 8), np.uint8)}, graph)["x"].dtype == np.float32


# -- operator sets -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("opset", [7, 8, 9, 10, 11, 12, 13, 15, 18, 20, 21, onnx.defs.onnx_opset_version()])
def test_every_opset_imports(opset: int) -> None:
    module = check_same(small_cnn(opset), {"x": models.normal(9, 2, 1, 3, 8, 8)})
    assert module.graph.opset == (17 if opset < 13 else opset)
    assert names(module) == ["Conv", "Relu", "MaxPool", "Reshape", "Gemm"]


def test_old_attributes_become_inputs() -> None:
    nodes = [
        helper.make_node("Clip", ["x"], ["c"], min=0.0, max=6.0),
        helper.make_node("Pad", ["c"], ["p"], pads=[0, 0, 1, 1, 0, 0, 1, 1]),
        helper.make_node("Slice", ["p"], ["y"], axes=[2], starts=[1], ends=[4]),
    ]
    proto = models.model(nodes, {"x": ["N", 2, 4, 4]}, ["y"], opset=9)
    module = check_same(proto, {"x": models.normal(1, 2, 1, 2, 4, 4)})
    clip = operators(module)[0]
    assert clip.constant_input(2) == np.float32(6)


def test_a_wrong_conversion_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    def convert(model: onnx.ModelProto, version: int) -> onnx.ModelProto:
        model.opset_import[0].version = version
        model.graph.node[2].op_type = "Neg"
        return model

    monkeypatch.setattr("onnx.version_converter.convert_version", convert)
    file = model_file.read(small_cnn(9))
    file.proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    assert fold.raise_opset(file, None).opset == 9


# -- shapes ------------------------------------------------------------------------------------------------------------


def test_extents_that_depend_on_values_stay_open() -> None:
    proto = models.parse("""
        t (float[N, 4] x) => (float[N, 4] y) {
            places = NonZero(x)
            numbers = Cast<to = 1>(places)
            mean = ReduceMean<keepdims = 0>(numbers)
            y = Add(x, mean)
        }""")
    module = check_same(proto, {"x": models.normal(0, 3, 1, 4)})
    types = {op.op_type: str(op.results[0].type) for op in operators(module)}
    assert types["NonZero"] == "tensor<2x?xi64>"
    assert types["Cast"] == "tensor<2x?xf32>"
    assert types["Add"] == "tensor<1x4xf32>"


def test_operator_without_shape_inference_is_run() -> None:
    gelu = helper.make_node("BiasGelu", ["x", "b"], ["g"], domain="com.microsoft")
    proto = models.model(
        [gelu, helper.make_node("Relu", ["g"], ["y"])],
        {"x": ["N", 3, 4]},
        ["y"],
        {"b": models.normal(0, 4)},
        domains={"com.microsoft": 1},
    )
    module = check_same(proto, {"x": models.normal(1, 2, 1, 3, 4)})
    assert all(r.type == TensorType((1, 3, 4)) for op in operators(module) for r in op.results)
    assert module.graph.opsets == ("com.microsoft=1",)


def test_model_local_functions_are_inlined() -> None:
    body = [helper.make_node("Mul", ["a", "a"], ["s"]), helper.make_node("Add", ["s", "a"], ["o"])]
    function = helper.make_function("mine", "SquarePlus", ["a"], ["o"], body, [helper.make_opsetid("", 17)])
    node = helper.make_node("SquarePlus", ["x"], ["y"], domain="mine")
    proto = models.model([node], {"x": ["N", 4]}, ["y"], domains={"mine": 1}, functions=[function])
    assert names(check_same(proto, {"x": models.normal(0, 2, 1, 4)})) == ["Mul", "Add"]


def test_half_precision_weights_are_constants() -> None:
    weight = models.normal(1, 2, 3, 3, 3).astype(np.float16)
    proto = models.parse("t (float16[N, 3, 6, 6] x) => (float16[N, 2, 4, 4] y) { y = Conv(x, w) }", w=weight)
    module = check_same(proto, {"x": models.normal(0, 2, 1, 3, 6, 6).astype(np.float16)})
    conv = next(op for op in operators(module) if op.op_type == "Conv")
    assert conv.constant_input(1) is not None


def test_same_model_imports_the_same() -> None:
    first, second = import_model(small_cnn()), import_model(small_cnn())
    for a, b in zip(first.walk(), second.walk(), strict=True):
        assert (a.name, a.location, a.attributes) == (b.name, b.location, b.attributes)
        assert [v.name_hint for v in a.operands] == [v.name_hint for v in b.operands]


# -- subgraphs ---------------------------------------------------------------------------------------------------------

IF = """
t (float[N, 4] x) => (float[N, 4] y) {
    zero = Constant<value = float {0.0}>()
    sum = ReduceSum<keepdims = 0>(x)
    cond = Greater(sum, zero)
    positive = Relu(x)
    y = If(cond) <
        then_branch = yes () => (float[N, 4] a) {
            one = Constant<value = float {1.0}>()
            q = Add(positive, one)
            a = Mul(q, w)
        },
        else_branch = no () => (float[N, 4] b) { one = Neg(x)  b = Sub(one, positive) }
    >
}"""

LOOP = """
t (float[N, 4] x) => (float[N, 4] y) {
    count = Constant<value = int64 {3}>()
    always = Constant<value = bool {1}>()
    y = Loop(count, always, x) <
        body = b (int64 i, bool c, float[N, 4] a) => (bool co, float[N, 4] ao) {
            co = Identity(c)
            d = MatMul(a, w)
            ao = Add(d, x)
        }
    >
}"""


def test_if_sees_what_it_takes_from_outside() -> None:
    module = check_same(models.parse(IF, w=models.normal(1, 4)), {"x": models.normal(0, 4, 1, 4)})
    op = operators(module)[-1]
    assert op.op_type == "If"
    assert sorted(op.captured) == ["positive", "w", "x"]
    assert op.captured["x"] is module.graph.block.args[0]


def test_loop() -> None:
    weight = models.normal(1, 4, 4) * np.float32(0.3)
    module = check_same(models.parse(LOOP, w=weight), {"x": models.normal(0, 2, 1, 4)})
    assert operators(module)[-1].results[0].type == TensorType((1, 4))


def test_clone_keeps_operators_whole() -> None:
    module = import_model(models.parse(IF, w=models.normal(1, 4)))
    copy = module.clone()
    assert isinstance(copy, ModuleOp)
    x = {"x": models.normal(0, 3, 1, 4)}
    np.testing.assert_array_equal(interpret(copy, x)["y"], interpret(module, x)["y"])


def test_sequences_stay_inside() -> None:
    proto = models.parse("""
        t (float[N, 4] x) => (float[N, 4] y) {
            parts = SplitToSequence<axis = 1>(x)
            y = ConcatFromSequence<axis = 1>(parts)
        }""")
    module = check_same(proto, {"x": models.normal(0, 3, 1, 4)})
    assert operators(module)[0].results[0].type.element == "opaque"


# -- real files --------------------------------------------------------------------------------------------------------

REAL = [p for p in [*shared.zoo(), shared.RESNET20, shared.RESNET8, shared.MOBILENET_V2] if "qonnx" not in p.name]


@shared.needs_zoo
@pytest.mark.parametrize("path", REAL, ids=lambda p: p.stem)
def test_real_files_compute_what_onnxruntime_computes(path: Path) -> None:
    shapes = {"x": (1, 3, 48, 192)} if "ppocr" in path.name else None
    module = import_model(path, input_shapes=shapes)
    verify(module)
    graph = module.graph
    assert all(r.type.is_static for op in graph.ops for r in op.results)
    assert all(op.tensor or op.op_type in ("Softmax", "Flatten") for op in operators(module))
    images = {
        n: models.normal(i, 2, *a.type.shape) for i, (n, a) in enumerate(zip(graph.input_names, graph.block.args))
    }
    wanted = models.expected(str(path), images)
    runner = FloatRunner(module)
    found = runner.outputs({n: a.reshape(-1, *a.shape[2:]) for n, a in images.items()})
    for name, array in zip(graph.output_names, wanted, strict=True):
        scale = float(np.abs(array).max())
        np.testing.assert_allclose(found[name], array, rtol=1e-3, atol=1e-4 * scale)


@shared.needs_zoo
def test_qonnx_file_is_diagnosed() -> None:
    with pytest.raises(
        SmecError, match=r"qonnx_TFC_2W2A\.onnx: node 'Quant_\d+': .*'Quant' of domain 'onnx\.brevitas'"
    ):
        import_model(shared.ZOO / "qonnx_TFC_2W2A.onnx")


@shared.needs_zoo
def test_unknown_extents_of_a_real_file() -> None:
    with pytest.raises(SmecError, match="extent 2 of input 'x' is not known"):
        import_model(shared.ZOO / "ch_ppocr_mobile_v2.0_cls_infer.onnx")


@shared.needs_zoo
def test_constants_are_shared() -> None:
    module = import_model(shared.ZOO / "mnist_cntk.onnx")
    handles = [op.value for op in module.graph.ops if isinstance(op, Constant)]
    assert len({id(h) for h in handles}) == len(handles)
