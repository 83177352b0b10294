"""`verify` agrees with a good program, whatever is in it, and names the first layer where a changed one differs."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

import inputs
import shared
import smec
from smec.runtime.crossbars import Crossbars
from smec.stored import stored_faults

MODEL = str(shared.EXAMPLES / "digits_resnet.onnx")
CALIB = str(shared.EXAMPLES / "digits_calib.npz")


@pytest.fixture(scope="module")
def program() -> smec.Program:
    return smec.compile(MODEL, calib=CALIB)


@pytest.fixture(scope="module")
def squeezed() -> smec.Program:
    return smec.compile(MODEL, calib=CALIB, pattern="window", squeeze=3, sign="twos-complement")


def order(program: smec.Program) -> list[str]:
    """Layers in the order of execution."""
    return [layer.name for layer in smec.verify(MODEL, program, images=1).layers]


# -- good programs -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["auto", "exact", "adc"])
def test_good_programs_are_equal(program: smec.Program, engine: str) -> None:
    report = smec.verify(MODEL, program, str(shared.EXAMPLES / "digits_test.npz"), images=6, engine=engine)
    assert report.equal
    assert report.first_difference == ""
    assert report.images == 6
    assert all(check.elements for check in report.checks)
    assert all(check.snr_db is not None and check.snr_db > 20 for check in report.checks)


@pytest.mark.parametrize(
    "options",
    [
        {"pattern": "window", "squeeze": 3},
        {"pattern": "pot", "sign": "twos-complement"},
        {"sign": "offset", "scale": "tensor"},
        {"squeeze": 4, "shift": "fit", "sign": "twos-complement"},
        {"bits": 4, "act_bits": 4},
        {"act_bits": 12, "method": "min-max"},
        {"act_bits": 16, "squeeze": 2},
        {"target": "sme-mlc2", "squeeze": 2},
        {"target": "isaac"},
    ],
    ids=str,
)
def test_options_do_not_matter(options: dict[str, Any]) -> None:
    program = smec.compile(MODEL, calib=CALIB, **options)
    assert smec.verify(MODEL, program, images=2).equal


def test_more_bits_mean_less_noise(program: smec.Program) -> None:
    coarse = smec.compile(MODEL, calib=CALIB, bits=4, act_bits=4)
    fine = smec.verify(MODEL, program).outputs[0].snr_db
    rough = smec.verify(MODEL, coarse).outputs[0].snr_db
    assert fine is not None
    assert rough is not None
    assert fine > rough + 10


# -- changed programs --------------------------------------------------------------------------------------------------


@settings(max_examples=20)
@given(data=st.data())
def test_any_changed_cell_is_found(data: st.DataObject, program: smec.Program, squeezed: smec.Program) -> None:
    """Used or not, read or not: the cells of a program are what its layers are. The layer of the crossbar is named."""
    chosen = data.draw(st.sampled_from([program, squeezed]))
    cells = chosen.sections["cells"].copy()
    at = tuple(data.draw(st.integers(0, n - 1)) for n in cells.shape)
    cells[at] ^= 1 << data.draw(st.integers(0, 7))
    changed = chosen.replace_section("cells", cells)
    report = smec.verify(MODEL, changed, images=1)
    assert not report.equal
    tiles = np.repeat(np.arange(len(chosen.sections["tile_xbars"])), chosen.sections["tile_xbars"][:, 1])
    tenants = chosen.tile_layer[tiles[chosen.sections["xbar_phys"] == at[0]]]
    names = [chosen.metadata["layers"][i]["name"] for i in tenants]
    assert {check.name for check in report.layers if check.stored} & set(names)


def test_a_changed_weight_makes_the_layers_integers_differ(program: smec.Program) -> None:
    """A cell of the top plane of a driven row of the third layer: that layer is the first whose integers differ."""
    layer = 2
    crossbars = Crossbars(program.sections, program.hardware, program.act_bits)
    tile = crossbars.tile(program.metadata["layers"][layer]["tile_first"])
    weights = np.abs(program.sections["xbar_weight"][tile.first : tile.first + tile.count])
    crossbar = tile.first + int(weights.argmax())
    row = int(np.flatnonzero(program.sections["xbar_group"][crossbar] >= 0)[0])
    _, _, row0, column0 = program.sections["xbar_place"][crossbar].tolist()
    cells = program.sections["cells"].copy()
    column = column0 + int(tile.columns[0])
    cells[program.sections["xbar_phys"][crossbar], row0 + row, column // 8] ^= 1 << column % 8
    report = smec.verify(MODEL, program.replace_section("cells", cells), str(shared.EXAMPLES / "digits_test.npz"))
    assert report.first_difference == program.metadata["layers"][layer]["name"]
    check = next(c for c in report.layers if c.name == report.first_difference)
    assert check.stored
    assert check.difference is not None
    assert check.difference.index[2] == tile.column_to[0]
    document = report.to_json()
    assert document["first_difference"] == check.name
    assert f"layer '{check.name}' differs: {check.difference.count} elements differ" in report.explain()


def test_a_changed_multiplier_shows_in_the_next_layer(program: smec.Program) -> None:
    """The requantization of the first layer is wrong: its integers are right, the next layer's are not."""
    from smec.ir.isa_table import by_instruction

    first = order(program)[0]
    index = [layer["name"] for layer in program.metadata["layers"]].index(first)
    pool = program.sections["pool_f32"].copy()
    for instruction, _, columns in by_instruction(program.sections["code"]):
        if instruction.mnemonic == "requant":
            at = int(np.flatnonzero(columns["layer"] == index)[0])
            pool[columns["mult"][at] : columns["mult"][at] + columns["length"][at]] *= 1.5
    report = smec.verify(MODEL, program.replace_section("pool_f32", pool), images=4)
    assert report.layers[0].equal
    assert report.first_difference in order(program)[1:]
    assert not any(check.stored for check in report.layers)


def test_a_changed_row_shift_is_found(squeezed: smec.Program) -> None:
    shifts = squeezed.sections["tile_shift"].copy()
    tile, row = (int(v[0]) for v in np.nonzero(shifts > 0))
    shifts[tile, row] -= 1
    changed = squeezed.replace_section("tile_shift", shifts)
    name = squeezed.metadata["layers"][int(squeezed.tile_layer[tile])]["name"]
    assert any(check.stored for check in smec.verify(MODEL, changed, images=1).layers if check.name == name)


def test_a_clipping_adc_is_a_difference(program: smec.Program) -> None:
    """The check is of the program as the hardware runs it: reads that clip make other integers."""
    metadata = dict(program.metadata)
    metadata["target"] = {**program.metadata["target"], "adc_bits": 3}
    clipped = smec.Program(program.sections, metadata)  # type: ignore[arg-type]  # a changed copy of the document
    report = smec.verify(MODEL, clipped, images=2)
    saturated = clipped.simulate(clipped.inputs(images=2)).saturated
    assert report.first_difference == next(name for name in order(program) if saturated[name])
    assert not any(check.stored for check in report.layers)


def test_stored_faults_names_no_good_layer(program: smec.Program, squeezed: smec.Program) -> None:
    from smec.ir.dialects.quant import WeightedOp
    from smec.oracle import oracle_module

    for good in (program, squeezed):
        layers = [op for op in oracle_module(good).graph.ops if isinstance(op, WeightedOp)]
        assert stored_faults(good, layers) == {}


# -- other models ------------------------------------------------------------------------------------------------------


def conv_weight(rng: np.random.Generator, name: str, *shape: int) -> onnx.TensorProto:
    return numpy_helper.from_array(rng.normal(0, 0.3, shape).astype(np.float32), name)


def build(
    nodes: list[onnx.NodeProto], inputs: dict[str, list[int | str]], outputs: list[str], weights: list[onnx.TensorProto]
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in inputs.items()],
        [onnx.ValueInfoProto(name=n, type=helper.make_tensor_type_proto(TensorProto.FLOAT, None)) for n in outputs],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return onnx.shape_inference.infer_shapes(model, strict_mode=True)


def host_between() -> onnx.ModelProto:
    """Two layers with a softmax, which no crossbar computes, between them."""
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("Softmax", ["a"], ["s"], axis=1),
        helper.make_node("Conv", ["s", "w1"], ["y"]),
    ]
    weights = [conv_weight(rng, "w0", 4, 3, 3, 3), conv_weight(rng, "w1", 5, 4, 1, 1)]
    return build(nodes, {"x": ["N", 3, 6, 6]}, ["y"], weights)


def attention() -> onnx.ModelProto:
    """Products between activations stay on the host, with the batch fixed to 1."""
    rng = np.random.default_rng(1)
    nodes = [helper.make_node("MatMul", ["x", f"w{n}"], [n]) for n in "qkv"]
    nodes += [
        helper.make_node("Transpose", ["k"], ["kt"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["q", "kt"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["p"], axis=-1),
        helper.make_node("MatMul", ["p", "v"], ["o"]),
        helper.make_node("MatMul", ["o", "wq"], ["y"]),
    ]
    return build(nodes, {"x": [1, 5, 8]}, ["y"], [conv_weight(rng, f"w{n}", 8, 8) for n in "qkv"])


def transformer() -> onnx.ModelProto:
    """Layer normalization and GELU in small operators, which onnxruntime joins to ones that round otherwise."""
    rng = np.random.default_rng(4)
    constants = {"two": 2.0, "eps": 1e-5, "half": 0.5, "one": 1.0, "root": 2**0.5}
    weights = [numpy_helper.from_array(np.float32(v), name) for name, v in constants.items()]
    weights += [conv_weight(rng, "w0", 16, 32), conv_weight(rng, "w1", 32, 16), conv_weight(rng, "g", 16)]
    weights += [conv_weight(rng, "b", 16)]
    steps = [
        ("ReduceMean", ["x"], "mean"), ("Sub", ["x", "mean"], "d"), ("Pow", ["d", "two"], "sq"),
        ("ReduceMean", ["sq"], "v"), ("Add", ["v", "eps"], "ve"), ("Sqrt", ["ve"], "std"), ("Div", ["d", "std"], "n"),
        ("Mul", ["n", "g"], "ng"), ("Add", ["ng", "b"], "o"), ("MatMul", ["o", "w0"], "h"), ("Div", ["h", "root"], "r"),
        ("Erf", ["r"], "f"), ("Add", ["f", "one"], "e1"), ("Mul", ["h", "e1"], "he"), ("Mul", ["he", "half"], "gelu"),
        ("MatMul", ["gelu", "w1"], "m"), ("Add", ["m", "x"], "s"), ("Softmax", ["s"], "y"),
    ]  # fmt: skip
    axes: dict[str, dict[str, Any]] = {"ReduceMean": {"axes": [-1]}, "Softmax": {"axis": -1}}
    nodes = [helper.make_node(kind, inputs, [out], **axes.get(kind, {})) for kind, inputs, out in steps]
    return build(nodes, {"x": ["N", 7, 16]}, ["y"], weights)


def two_inputs() -> onnx.ModelProto:
    rng = np.random.default_rng(2)
    nodes = [
        helper.make_node("Conv", ["a", "w0"], ["c"]),
        helper.make_node("Conv", ["b", "w1"], ["d"]),
        helper.make_node("Add", ["c", "d"], ["e"]),
        helper.make_node("Relu", ["e"], ["y"]),
        helper.make_node("GlobalAveragePool", ["y"], ["z"]),
    ]
    weights = [conv_weight(rng, "w0", 4, 3, 1, 1), conv_weight(rng, "w1", 4, 2, 1, 1)]
    return build(nodes, {"a": ["N", 3, 5, 4], "b": ["N", 2, 5, 4]}, ["y", "z"], weights)


def fixed_batch() -> onnx.ModelProto:
    """A model that takes four images at a time: one run is four of the user's images."""
    rng = np.random.default_rng(3)
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Conv", ["r", "w1"], ["y"], strides=[2, 2]),
    ]
    weights = [conv_weight(rng, "w0", 3, 2, 3, 3), conv_weight(rng, "w1", 3, 3, 3, 3)]
    return build(nodes, {"x": [4, 2, 5, 5]}, ["y"], weights)


@pytest.mark.parametrize(
    ("make", "inputs"),
    [
        (host_between, {"x": (5, 3, 6, 6)}),
        (attention, {"x": (3, 5, 8)}),
        (transformer, {"x": (40, 7, 16)}),
        (two_inputs, {"a": (3, 3, 5, 4), "b": (3, 2, 5, 4)}),
        (fixed_batch, {"x": (8, 2, 5, 5)}),
    ],
)
def test_models_of_other_shapes(
    make: Callable[[], onnx.ModelProto], inputs: dict[str, tuple[int, ...]], tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    model = make()
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    arrays = {name: rng.normal(size=shape).astype(np.float32) for name, shape in inputs.items()}
    program = smec.compile(path, calib=arrays)
    report = smec.verify(path, program, arrays, images=40)
    assert report.equal, report.explain()
    assert all(c.snr_db is not None and c.snr_db > 15 for c in report.checks)
    in_memory = smec.compile(model, calib=arrays)
    assert smec.verify(model, in_memory, arrays).equal


def test_without_float_tensors_there_is_no_ratio(program: smec.Program) -> None:
    """A layer whose tensor the float model does not name has no ratio; an exact one has an infinite one."""
    from smec.verification import _Noise

    meter = _Noise()
    assert meter.decibels() is None
    meter.add(np.ones(3, np.float32), np.ones(3, np.float32))
    assert meter.decibels() == math.inf
    meter.add(np.ones(1, np.float32), np.full(1, 1.1, np.float32))
    assert meter.decibels() == pytest.approx(10 * math.log10(4 / 0.01), rel=1e-3)


# -- refusals ----------------------------------------------------------------------------------------------------------


def test_another_model_is_refused(program: smec.Program, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(two_inputs(), path)
    with pytest.raises(smec.SmecError, match="compiled from another model") as caught:
        smec.verify(path, program)
    assert "digits_resnet.onnx" in str(caught.value)


def test_a_program_without_its_network_is_refused(program: smec.Program) -> None:
    bare = {name: array for name, array in program.sections.items() if name != "model"}
    with pytest.raises(smec.SmecError, match="does not carry its quantized network"):
        smec.verify(MODEL, smec.Program(bare, program.metadata))


# -- real models -------------------------------------------------------------------------------------------------------


@shared.needs_resnet20
def test_resnet20() -> None:
    images, _ = inputs.cifar10_test(4)
    program = smec.compile(shared.RESNET20, calib=inputs.cifar10_calib(64))
    report = smec.verify(shared.RESNET20, program, images)
    assert report.equal
    assert len(report.layers) == 20
    assert all(c.snr_db is not None and c.snr_db > 10 for c in report.checks)


#: Shapes of inputs that a model leaves open.
OPEN_SHAPES = {"ch_ppocr_mobile_v2.0_cls_infer.onnx": {"x": (1, 3, 48, 192)}}


@shared.needs_zoo
@pytest.mark.slow
@pytest.mark.parametrize("path", [p for p in shared.zoo() if "qonnx" not in p.name], ids=lambda p: p.stem)
def test_zoo(path: Path) -> None:
    program = smec.compile(path, input_shapes=OPEN_SHAPES.get(path.name))
    report = smec.verify(path, program, images=1)
    assert report.equal, report.explain()


@shared.needs_zoo
def test_qonnx_is_diagnosed() -> None:
    path = next(p for p in shared.zoo() if "qonnx" in p.name)
    with pytest.raises(smec.SmecError) as caught:
        smec.compile(path)
    assert str(path) in str(caught.value)
    assert "Quant_" in str(caught.value)
