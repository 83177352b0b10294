"""The exported ONNX model computes, in onnxruntime, the very bits that the `quant` dialect's interpretation defines."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smec.export import export_onnx, is_batchable
from smec.export_ops import byte_parts
from smec.ir.core import AttrValue, Block, Operation, Region, Value
from smec.ir.dialects import quant
from smec.ir.dialects.builtin import GraphOp, HostOp, ModuleOp, ReturnOp
from smec.ir.dialects.nn import Constant, NNOp
from smec.ir.errors import SmecError
from smec.ir.interpreter import interpret
from smec.ir.types import Handle, Location, Quantized, TensorType

HERE = Location("test.onnx", "node")
BITS = st.sampled_from([4, 8, 12, 16])


class Net:
    """A graph under construction: quantized inputs are float inputs that are quantized first."""

    def __init__(self) -> None:
        self.block = Block()
        self.inputs: list[str] = []

    def input(self, shape: tuple[int, ...], element: str = "f32") -> Value:
        self.inputs.append(f"in{len(self.inputs)}")
        return self.block.add_arg(TensorType(shape, element), self.inputs[-1])

    def levels(self, shape: tuple[int, ...], q: Quantized) -> Value:
        return self.add(quant.Quantize, [self.input(shape)], TensorType(shape, q))

    def add(self, cls: type[Operation], operands: list[Value], type: TensorType, **attributes: AttrValue) -> Value:
        op = cls.create(operands, [type], attributes, location=HERE)
        op.verify()
        return self.block.append(op).results[0]

    def module(self, *outputs: Value) -> ModuleOp:
        self.block.append(ReturnOp.create(list(outputs), location=HERE))
        attributes: dict[str, AttrValue] = {
            "sym_name": "net",
            "opset": 17,
            "input_names": tuple(self.inputs),
            "output_names": tuple(f"out{i}" for i in range(len(outputs))),
            "batch": (0,) * len(self.inputs),
        }
        graph = GraphOp.create([], [], attributes, [Region([self.block])], location=HERE)
        return ModuleOp.create(regions=[Region([Block(ops=[graph])])], location=HERE)


def run_onnx(model: onnx.ModelProto, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Run without graph optimisation, all images at once or one by one as the model allows."""
    import onnxruntime

    onnx.checker.check_model(model)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    images = len(next(iter(inputs.values())))
    if session.get_inputs()[0].shape[:1] == ["N"]:
        arrays = session.run(names, {k: v.reshape(-1, *v.shape[2:]) for k, v in inputs.items()})
        return {n: a.reshape(images, 1, *a.shape[1:]) for n, a in zip(names, arrays, strict=True)}
    rows = [session.run(names, {k: v[i] for k, v in inputs.items()}) for i in range(images)]
    return {n: np.stack([r[k] for r in rows]) for k, n in enumerate(names)}


def check(module: ModuleOp, seed: int, images: int = 3, spread: float = 1.0, batched: bool = True) -> None:
    """Interpretation and exported model agree on random inputs, accumulators included."""
    rng = np.random.default_rng(seed)
    graph = module.graph
    assert is_batchable(graph) == batched
    inputs = {}
    for name, arg in zip(graph.input_names, graph.block.args, strict=True):
        x = rng.normal(size=(images, *arg.type.shape)).astype(np.float32) * np.float32(spread)
        inputs[name] = x if arg.type.element == "f32" else np.abs(x * 50).astype(arg.type.dtype)
    accumulators: dict[str, np.ndarray] = {}

    def tap(op: Operation, results: list[np.ndarray]) -> None:
        if isinstance(op, quant.WeightedOp):
            accumulators[f"{op.label}.acc"] = op.accumulate(last[op.x])
        last.update(zip(op.results, results, strict=True))

    last: dict[Value, np.ndarray] = {}
    expected = interpret(module, inputs, tap)
    found = run_onnx(export_onnx(module, accumulators=True), inputs)
    assert list(found) == [*graph.output_names, *accumulators]
    for name, array in {**expected, **accumulators}.items():
        np.testing.assert_array_equal(found[name].astype(array.dtype), array, err_msg=name)


def scales() -> st.SearchStrategy[float]:
    return st.floats(1e-3, 0.2)


@st.composite
def levels(draw: Callable[..., Any], bits: int | None = None) -> Quantized:
    bits = draw(BITS) if bits is None else bits
    zero = draw(st.sampled_from([0, 1 << (bits - 1), (1 << bits) - 1, 3]))
    return Quantized(bits, draw(scales()) * 2.0 ** (8 - bits), zero)


def weights(rng: np.random.Generator, shape: tuple[int, ...], span: tuple[int, int]) -> np.ndarray:
    return rng.integers(span[0], span[1] + 1, shape).astype(np.int16)


SPANS = st.sampled_from([(-255, 255), (-128, 127), (0, 200), (-7, 7), (-255, -1), (0, 0), (-2000, 1500)])


def layer(
    rng: np.random.Generator, w: np.ndarray, clamp: tuple[float, float], per_column: bool
) -> dict[str, AttrValue]:
    m = w.shape[0]
    return {
        "name": "layer",
        "weight": Handle(w),
        "weight_scale": Handle(rng.uniform(1e-3, 2e-2, m if per_column else 1).astype(np.float32)),
        "bias": Handle(rng.normal(size=m).astype(np.float32)),
        "clamp_min": clamp[0],
        "clamp_max": clamp[1],
    }


PADS = st.tuples(*[st.integers(0, 3)] * 4)
CLAMPS = st.sampled_from([(-math.inf, math.inf), (0.0, math.inf), (0.0, 6.0), (-0.5, 0.5)])
SEEDS = st.integers(0, 2**31)


@given(
    x=levels(), y=st.none() | levels(), span=SPANS, clamp=CLAMPS, seed=SEEDS, per_column=st.booleans(),
    groups=st.sampled_from([(1, 3, 4), (2, 4, 6), (5, 5, 5)]), kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    strides=st.tuples(st.integers(1, 2), st.integers(1, 3)), dilations=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    pads=st.tuples(*[st.integers(0, 2)] * 4),
)  # fmt: skip
def test_conv(
    x: Quantized, y: Quantized | None, span: tuple[int, int], clamp: tuple[float, float], seed: int, per_column: bool,
    groups: tuple[int, int, int], kernel: tuple[int, int], strides: tuple[int, int], dilations: tuple[int, int],
    pads: tuple[int, int, int, int],
) -> None:  # fmt: skip
    rng = np.random.default_rng(seed)
    g, c, m = groups
    w = weights(rng, (m, c // g, *kernel), span)
    shape = (7, 6)
    out = tuple(
        (n + p + q - (k - 1) * d - 1) // s + 1
        for n, p, q, k, d, s in zip(shape, pads[:2], pads[2:], kernel, dilations, strides, strict=True)
    )
    net = Net()
    result = net.add(
        quant.Conv, [net.levels((1, c, *shape), x)], TensorType((1, m, *out), y or "f32"),
        **layer(rng, w, clamp, per_column), strides=strides, pads=pads, dilations=dilations, groups=g,
    )  # fmt: skip
    check(net.module(result), seed)


@given(
    x=levels(),
    y=st.none() | levels(),
    span=SPANS,
    clamp=CLAMPS,
    seed=SEEDS,
    lead=st.sampled_from([(1,), (1, 4), (1, 2, 3)]),
)
def test_gemm(
    x: Quantized,
    y: Quantized | None,
    span: tuple[int, int],
    clamp: tuple[float, float],
    seed: int,
    lead: tuple[int, ...],
) -> None:
    rng = np.random.default_rng(seed)
    w = weights(rng, (5, 37), span)
    net = Net()
    type = TensorType((*lead, 5), y or "f32")
    check(net.module(net.add(quant.Gemm, [net.levels((*lead, 37), x)], type, **layer(rng, w, clamp, True))), seed)


@pytest.mark.parametrize(
    ("bits", "span"), [(8, (-255, 255)), (8, (-128, 127)), (16, (-255, 255)), (16, (-30000, 30000))]
)
def test_accumulators_near_the_limits_of_32_bits(bits: int, span: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    k = 40_000  # 255 * 255 * k exceeds 2^31
    w = np.where(np.arange(k) % 2, span[0], span[1]).astype(np.int16)[None].repeat(2, axis=0)
    w[1] = span[1]
    net = Net()
    # One-sided inputs reach the largest sums.
    x = net.levels((1, k), Quantized(bits, 1e-9, 0))
    type = TensorType((1, 2), Quantized(8, 1.0, 0))
    check(net.module(net.add(quant.Gemm, [x], type, **layer(rng, w, (0.0, math.inf), True))), 0)


@given(w=SPANS, size=st.integers(1, 40))
def test_byte_parts_add_up(w: tuple[int, int], size: int) -> None:
    weight = weights(np.random.default_rng(size), (3, size), w)
    total = np.zeros((3, size), np.int64)
    for part, zero, factor in byte_parts(weight, (1,)):
        assert part.dtype == np.uint8
        assert 0 <= zero < 256
        total += factor * (part.astype(np.int64) - zero)
    np.testing.assert_array_equal(total, weight)


def test_long_sums_are_cut() -> None:
    weight = np.full((1, 70_000), 255, np.int16)
    weight[0, 0] = -255
    parts = list(byte_parts(weight, (1,)))
    assert all(int(p.astype(np.int64).sum()) * 255 < 2**31 for p, zero, _ in parts if zero == 0)
    total = sum(f * (p.astype(np.int64) - z) for p, z, f in parts)
    np.testing.assert_array_equal(total, weight)


@given(q=levels(), seed=SEEDS, element=st.sampled_from(["f32", "f64", "ui8", "i64"]))
def test_quantize_and_dequantize(q: Quantized, seed: int, element: str) -> None:
    net = Net()
    x = net.add(quant.Quantize, [net.input((1, 3, 5), element)], TensorType((1, 3, 5), q))
    check(net.module(net.add(quant.Dequantize, [x], TensorType((1, 3, 5)))), seed, spread=3.0)


def test_quantize_takes_special_values() -> None:
    q = Quantized(8, 0.1, 7)
    net = Net()
    x = net.add(quant.Quantize, [net.input((1, 6))], TensorType((1, 6), q))
    module = net.module(net.add(quant.Dequantize, [x], TensorType((1, 6))))
    values = np.array([[[np.nan, np.inf, -np.inf, -0.0, 0.05, 0.15]]], np.float32)
    expected = interpret(module, {"in0": values})["out0"]
    np.testing.assert_array_equal(run_onnx(export_onnx(module), {"in0": values})["out0"], expected)
    assert expected[0, 0, 0] == 0.0


@given(x=levels(), y=levels(), clamp=CLAMPS, seed=SEEDS)
def test_rescale(x: Quantized, y: Quantized, clamp: tuple[float, float], seed: int) -> None:
    net = Net()
    out = net.add(
        quant.Rescale, [net.levels((1, 50), x)], TensorType((1, 50), y), clamp_min=clamp[0], clamp_max=clamp[1]
    )
    check(net.module(out), seed, spread=3.0)


@pytest.mark.parametrize("cls", [quant.Add, quant.Mul])
@given(
    a=levels(),
    b=levels(),
    y=levels(),
    clamp=CLAMPS,
    seed=SEEDS,
    shape=st.sampled_from([(1, 3, 4, 5), (1, 3, 1, 1), (1, 1, 4, 1)]),
)
def test_add_and_mul(
    cls: type[Operation], a: Quantized, b: Quantized, y: Quantized, clamp: tuple[float, float], seed: int,
    shape: tuple[int, ...],
) -> None:  # fmt: skip
    net = Net()
    operands = [net.levels((1, 3, 4, 5), a), net.levels(shape, b)]
    out = net.add(cls, operands, TensorType((1, 3, 4, 5), y), clamp_min=clamp[0], clamp_max=clamp[1])
    check(net.module(out), seed, spread=3.0)


def test_operands_of_lower_rank_keep_the_batch_axis_fixed() -> None:
    q = Quantized(8, 0.02, 128)
    net = Net()
    out = net.add(quant.Add, [net.levels((1, 3, 4), q), net.levels((1, 4), q)], TensorType((1, 3, 4), q))
    check(net.module(out), 0, batched=False)


@given(x=levels(), y=levels(), seed=SEEDS)
def test_lut(x: Quantized, y: Quantized, seed: int) -> None:
    table = np.random.default_rng(seed).integers(0, y.qmax + 1, x.qmax + 1).astype(np.uint16)
    net = Net()
    out = net.add(quant.Lut, [net.levels((1, 2, 9), x)], TensorType((1, 2, 9), y), table=Handle(table))
    check(net.module(out), seed, spread=2.0)


@given(
    x=levels(), seed=SEEDS, kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)), dilation=st.integers(1, 2),
    strides=st.tuples(st.integers(1, 3), st.integers(1, 3)), pads=PADS, crop=st.booleans(),
)  # fmt: skip
def test_max_pool(
    x: Quantized, seed: int, kernel: tuple[int, int], dilation: int, strides: tuple[int, int], pads: tuple[int, ...],
    crop: bool,
) -> None:  # fmt: skip
    out = pooled((6, 7), kernel, strides, pads, dilation, crop)
    net = Net()
    result = net.add(
        quant.MaxPool, [net.levels((1, 3, 6, 7), x)], TensorType((1, 3, *out), x),
        kernel=kernel, strides=strides, pads=pads, dilations=(dilation, dilation),
    )  # fmt: skip
    check(net.module(result), seed)


@given(
    x=levels(), y=levels(), seed=SEEDS, kernel=st.tuples(st.integers(1, 4), st.integers(1, 3)), include=st.booleans(),
    strides=st.tuples(st.integers(1, 3), st.integers(1, 3)), pads=PADS, crop=st.booleans(),
)  # fmt: skip
def test_avg_pool(
    x: Quantized, y: Quantized, seed: int, kernel: tuple[int, int], strides: tuple[int, int], pads: tuple[int, ...],
    include: bool, crop: bool,
) -> None:  # fmt: skip
    out = pooled((6, 7), kernel, strides, pads, 1, crop)
    net = Net()
    result = net.add(
        quant.AvgPool, [net.levels((1, 3, 6, 7), x)], TensorType((1, 3, *out), y),
        kernel=kernel, strides=strides, pads=pads, count_include_pad=include,
    )  # fmt: skip
    check(net.module(result), seed)


def pooled(
    shape: tuple[int, int],
    kernel: tuple[int, int],
    strides: tuple[int, int],
    pads: tuple[int, ...],
    dilation: int,
    crop: bool,
) -> tuple[int, ...]:
    """Extents of a pool's result; with `crop` one less than fits, where there are two or more."""
    full = [
        (n + p + q - (k - 1) * dilation - 1) // s + 1
        for n, p, q, k, s in zip(shape, pads[:2], pads[2:], kernel, strides, strict=True)
    ]
    return tuple(n - 1 if crop and n > 1 else n for n in full)


def test_global_average_pool() -> None:
    net = Net()
    x = net.levels((1, 4, 7, 7), Quantized(8, 0.02, 100))
    check(net.module(net.add(quant.AvgPool, [x], TensorType((1, 4, 1, 1), Quantized(8, 0.01, 20)), kernel=(7, 7))), 0)


@given(x=levels(), seed=SEEDS)
def test_data_movement(x: Quantized, seed: int) -> None:
    net = Net()
    a = net.levels((1, 2, 4, 6), x)
    padded = net.add(quant.Pad, [a], TensorType((1, 3, 4, 9), x), pads=(0, 1, 0, 1, 0, 0, 0, 2), value=x.zero_point)
    joined = net.add(quant.Concat, [padded, padded], TensorType((1, 6, 4, 9), x), axis=1)
    back = net.add(quant.Slice, [joined], TensorType((1, 3, 4, 5), x), starts=(0, 5, 3, 0), steps=(1, -2, -1, 2))
    turned = net.add(quant.Transpose, [back], TensorType((1, 5, 3, 4), x), perm=(0, 3, 1, 2))
    flat = net.add(quant.Reshape, [turned], TensorType((1, 15, 4), x))
    check(net.module(net.add(quant.Dequantize, [flat], TensorType((1, 15, 4)))), seed)


def test_movement_across_the_leading_axis_keeps_it_fixed() -> None:
    q = Quantized(8, 0.02, 128)
    net = Net()
    x = net.levels((1, 4, 6), q)
    rows = net.add(quant.Reshape, [x], TensorType((4, 6), q))
    turned = net.add(quant.Transpose, [rows], TensorType((6, 4), q), perm=(1, 0))
    check(net.module(net.add(quant.Dequantize, [turned], TensorType((6, 4)))), 0, batched=False)


def host(
    net: Net,
    operands: list[Value],
    build: Callable[[Block], list[Value]],
    types: list[TensorType],
    **attributes: AttrValue,
) -> list[Any]:
    block = Block([v.type for v in operands])
    block.append(ReturnOp.create(build(block), location=HERE))
    op = HostOp.create(
        operands, types, {"name": "host0", "batchable": True, **attributes}, [Region([block])], location=HERE
    )
    return list(net.block.append(op).results)


def test_host_regions_are_inlined() -> None:
    def build(block: Block) -> list[Value]:
        x = block.args[0]
        two = block.append(Constant.of(np.float32([[1, 2, 3, 4]]), HERE)).results[0]
        scaled = block.append(NNOp.make("Mul", [x, two], [x.type], location=HERE)).results[0]
        soft = block.append(NNOp.make("Softmax", [scaled], [x.type], {"axis": -1}, HERE)).results[0]
        return [soft, x]

    q = Quantized(8, 0.02, 128)
    plain = TensorType((1, 4))
    net = Net()
    x = net.add(quant.Dequantize, [net.levels((1, 4), q)], plain)
    soft, same = host(net, [x], build, [plain, plain])
    again = net.add(quant.Quantize, [soft], TensorType((1, 4), Quantized(8, 1 / 255, 0)))
    module = net.module(net.add(quant.Dequantize, [again], plain), same)
    check(module, 0)
    model = export_onnx(module)
    assert [n.op_type for n in model.graph.node].count("Softmax") == 1
    assert len({n.name for n in model.graph.node}) == len(model.graph.node)


def test_a_region_that_cannot_be_batched_keeps_the_axis_fixed() -> None:
    def build(block: Block) -> list[Value]:
        return [block.append(NNOp.make("Relu", [block.args[0]], [block.args[0].type], location=HERE)).results[0]]

    net = Net()
    x = net.input((1, 4))
    (y,) = host(net, [x], build, [x.type], batchable=False)
    check(net.module(y), 0, batched=False)


def test_subgraphs_keep_what_they_capture() -> None:
    """Both branches of an If use a value from outside; names inside two such regions do not clash."""

    def branch(factor: float) -> Handle:
        helper = onnx.helper
        constant = helper.make_node("Constant", [], ["f"], value_float=factor)
        node = helper.make_node("Mul", ["outer", "f"], ["y"])
        output = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)
        graph = helper.make_graph([constant, node], "branch", [], [output])
        return Handle(np.frombuffer(graph.SerializeToString(), np.uint8))

    def build(block: Block) -> list[Value]:
        x = block.args[0]
        total = block.append(NNOp.make("ReduceSum", [x], [TensorType(())], {"keepdims": 0}, HERE)).results[0]
        zero = block.append(Constant.of(np.float32(0), HERE)).results[0]
        positive = block.append(NNOp.make("Greater", [total, zero], [TensorType((), "i1")], location=HERE)).results[0]
        attributes: dict[str, AttrValue] = {
            "then_branch": branch(2.0),
            "else_branch": branch(-1.0),
            "_kinds": ("then_branch=graph", "else_branch=graph"),
            "_captured": ("outer",),
        }
        return [block.append(NNOp.make("If", [positive, x], [x.type], attributes, HERE)).results[0]]

    net = Net()
    x = net.input((1, 4))
    (y,) = host(net, [x], build, [x.type], batchable=False)
    (z,) = host(net, [y], build, [x.type], name="host1", batchable=False)
    check(net.module(y, z), 0, batched=False, images=6)


def test_a_float_layer_is_refused() -> None:
    net = Net()
    x = net.levels((1, 3), Quantized(8, 0.1, 0))
    w = Handle(np.zeros((2, 3), np.float32))
    y = net.add(quant.Gemm, [x], TensorType((1, 2)), name="fc", float_weight=w, bias=Handle(np.zeros(2, np.float32)))
    with pytest.raises(SmecError, match="no integer weights yet"):
        export_onnx(net.module(y))


def test_names_survive() -> None:
    """Inputs and outputs keep their names even where a layer wants the same ones; an input may be an output."""
    q = Quantized(8, 0.1, 0)
    net = Net()
    x = net.levels((1, 3), q)
    y = net.add(
        quant.Gemm, [x], TensorType((1, 2)), name="out0", weight=Handle(np.ones((2, 3), np.int16)),
        weight_scale=Handle(np.ones(1, np.float32)), bias=Handle(np.zeros(2, np.float32)),
    )  # fmt: skip
    module = net.module(y, net.block.args[0])
    model = export_onnx(module, accumulators=True)
    assert [v.name for v in model.graph.input] == ["in0"]
    assert [v.name for v in model.graph.output] == ["out0", "out1", "out0.acc"]
    check(module, 0)


def test_no_signed_bytes_are_multiplied() -> None:
    """uint8 x int8 kernels saturate on processors without VNNI: no int8 tensor may appear."""
    rng = np.random.default_rng(0)
    net = Net()
    x = net.levels((1, 8), Quantized(8, 0.1, 0))
    w = weights(rng, (4, 8), (-128, 127))
    model = export_onnx(
        net.module(net.add(quant.Gemm, [x], TensorType((1, 4)), **layer(rng, w, (-math.inf, math.inf), True)))
    )
    assert {t.data_type for t in model.graph.initializer} <= {onnx.TensorProto.UINT8, onnx.TensorProto.FLOAT}
    assert [n.op_type for n in model.graph.node].count("MatMulInteger") == 1
