"""Budget allocation: what layers cost, what their errors do to the outputs, and the choice between their curves."""

from __future__ import annotations

from dataclasses import fields, replace
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

import shared
import smec
from smec import cli, targets
from smec.driver import lower
from smec.ir.dialects.quant import WeightedOp
from smec.ir.errors import SmecError
from smec.ir.store import load_module
from smec.passes.admm.choice import choose
from smec.passes.admm.curves import Candidate, Effort, Judge, Point, Space, solutions
from smec.passes.admm.prefix import FloatPrefix
from smec.passes.admm.probe import Probe, Reference
from smec.passes.allocate import pixels_of, sensitivity
from smec.passes.constraint_sets.boxes import ZeroRows
from smec.passes.constraint_sets.rows import Representable
from smec.passes.constraints import Geometry, error_of, intersect
from smec.passes.mapping.coding import planes
from smec.passes.mapping.footprint import (
    Footprint,
    busy_all_the_time,
    crossbars_at_least,
    crossbars_placed,
    footprint,
    tile_extents,
)
from smec.passes.mapping.layers import extent
from smec.passes.mapping.tiling import conv_blocks, dense_tiles, grouped_tiles
from smec.targets import Target

MODEL = shared.EXAMPLES / "digits_resnet.onnx"
CALIB = shared.EXAMPLES / "digits_calib.npz"
TEST = shared.EXAMPLES / "digits_test.npz"

#: Options with which the pass is quick; what it finds need not be good.
QUICK = "images=48 probes=16 iterations=3 sweeps=1 drop=0.1 depths=2,5,6,7"


def machine(**sizes: int) -> Target:
    return targets.load("sme").model_copy(update=sizes)


# -- crossbars ---------------------------------------------------------------------------------------------------------


@given(st.integers(1, 5), st.integers(1, 20), st.integers(1, 20), st.integers(1, 8), st.integers(1, 8))
def test_extents_are_those_of_the_tiles(groups: int, k: int, m: int, height: int, width: int) -> None:
    if groups == 1:
        tiles = dense_tiles(np.ones((k, m), np.int16), height, width)
    else:
        blocks, index = conv_blocks(np.ones((groups * m, k, 1, 1), np.int16), groups)
        tiles = grouped_tiles(blocks, index, height, width)
    found = tile_extents(groups, k, m, height, width)
    made = zip(extent(tiles.rows).tolist(), extent(tiles.cols).tolist(), strict=True)
    assert sorted(made) == sorted(zip(found.heights.tolist(), found.widths.tolist(), strict=True))


shapes = st.tuples(st.integers(1, 3), st.integers(1, 30), st.integers(1, 20), st.integers(1, 5))


@given(st.lists(st.tuples(shapes, st.integers(1, 9)), min_size=1, max_size=5))
def test_placement_takes_no_less_than_the_bound(some: list[tuple[tuple[int, int, int, int], int]]) -> None:
    target = machine(rows=8, columns=8, crossbars_per_core=64)
    layers, pixels = [layer for layer, _ in some], [n for _, n in some]
    extents = [tile_extents(g, k, m, 8, 8) for g, k, m, _ in layers]
    counts = [n for *_, n in layers]
    busy = busy_all_the_time(pixels)
    footprints = [footprint(e, n, target, alone) for e, n, alone in zip(extents, counts, busy, strict=True)]
    placed = crossbars_placed(extents, counts, pixels, target)
    assert crossbars_at_least(footprints, target) <= placed
    if all(busy):
        assert placed == sum(f.large // 4 for f in footprints)
    # Tiles that fill a crossbar each leave nothing to estimate.
    full = tile_extents(1, 24, 16, 8, 8)
    for alone in (False, True):
        assert crossbars_at_least([footprint(full, 3, target, alone)], target) == 18
    assert crossbars_placed([full], [3], [1], target) == 18


def test_predicted_crossbars_are_those_of_the_program() -> None:
    program = smec.compile(MODEL, calib=CALIB, sign="twos-complement", squeeze=0, quantizer="nearest")
    target = targets.load("sme")
    layers = [
        (int(n["groups"]), int(n["K"]) // int(n["groups"]), int(n["M"]) // int(n["groups"]))
        for n in program.metadata["layers"]
    ]
    extents = [tile_extents(*shape, target.rows, target.columns) for shape in layers]
    module = lower(MODEL, "quant", calib=CALIB)
    pixels = pixels_of([op for op in module.graph.ops if isinstance(op, WeightedOp)])
    assert crossbars_placed(extents, [8] * len(layers), pixels, target) == program.metadata["crossbars"]


# -- rows that are left out --------------------------------------------------------------------------------------------


@given(st.integers(0, 4), st.integers(0, 3), st.integers(0, 2**31))
def test_zero_rows_projection_is_the_nearest(count: int, depth: int, seed: int) -> None:
    geometry = Geometry(4, "twos-complement", 4, 3)
    free = Representable(geometry, depth)
    found_in = intersect(free, ZeroRows(geometry, count))
    values = np.random.default_rng(seed).normal(0, 3, (4, 3)).astype(np.float32)
    found = found_in.project(values)
    assert (~found.any(axis=1)).sum() >= count
    errors = []
    for rows in combinations(range(4), count):
        point = free.project(values)
        point[list(rows)] = 0
        errors.append(error_of(values, point))
    # Free integers: exact; with row shifts too, since each row's shift is its own.
    assert error_of(values, found) == pytest.approx(min(errors), rel=1e-6, abs=1e-9)


# -- candidates --------------------------------------------------------------------------------------------------------


def space(**changes: Any) -> Space:
    default = Space(("uniform",), ("twos-complement", "differential"), ("column",), (), 8, 0.2, True, alone=False)
    return replace(default, **changes)


def kinds(candidates: list[Candidate]) -> list[tuple[str, int]]:
    return [(c.sign, c.squeeze) for c in candidates]


def test_candidates_that_cannot_win_are_left_out() -> None:
    target = machine()
    # 32 columns: four crossbars of a tile fit side by side, so that where they share with no other tile 2 planes cost
    # what 4 do, and 5 what 8 do. The integers of one differential plane are none that four planes of two's complement
    # have (128).
    found = space(alone=True).candidates((1, 256, 32), True, target)
    assert kinds(found) == [("differential", 7), ("twos-complement", 4), ("twos-complement", 0)]
    shared = space().candidates((1, 256, 32), True, target)
    twos = [("twos-complement", depth) for depth in range(6, -1, -1)]
    assert kinds(shared) == [*twos[:1], ("differential", 7), *twos[1:]]
    # A window is a part of what uniform magnitudes offer, at the same price; for four planes and fewer it is all.
    for patterns in ("uniform", "window"), ("window", "uniform"):
        both = space(patterns=patterns).candidates((1, 300, 64), True, target)
        assert {c.pattern for c in both if c.squeeze < 4} == {"uniform"}
        assert {c.pattern for c in both if c.squeeze >= 4} == {patterns[0]}
    assert {c.pattern for c in space(patterns=("window",)).candidates((1, 300, 64), True, target)} == {"window"}


def test_left_out_rows_save_tiles() -> None:
    target = machine()
    (first, *_) = space(depths=(5,)).candidates((1, 140, 64), True, target)
    fewer = space().dropped(first, (1, 140, 64), target)
    assert fewer is not None
    assert fewer.constraints == "zero-rows:12"
    assert len(fewer.extents.heights) == len(first.extents.heights) - 1
    assert space().dropped(first, (1, 200, 64), target) is None  # more than a fifth
    assert space().dropped(first, (1, 100, 64), target) is None  # there is one tile only
    assert space().dropped(first, (1, 256, 64), target) is None


def test_rows_are_doubled_where_tiles_have_some_to_spare() -> None:
    target = machine()

    def ways(shape: tuple[int, int, int], **changes: Any) -> list[list[bool]]:
        dense = shape[0] == 1
        changes = {"signs": ("twos-complement",), **changes}
        found = space(**changes).candidates(shape, dense, target)
        return [[way.double for way in space(**changes).doubled(c, shape, dense, target)] for c in found]

    # A tile that shares its crossbars with nothing: doubled rows are free.
    assert ways((1, 100, 128), depths=(5, 0), alone=True) == [[True], [False]]  # nothing is squeezed out at depth 0
    # Other tiles leave 28 rows to others.
    assert ways((1, 100, 128), depths=(5,)) == [[False, True]]
    assert ways((1, 100, 24), depths=(5,)) == [[False, True]]
    (first,) = space(depths=(5,), signs=("twos-complement",)).candidates((1, 40, 24), True, target)
    _, second = space().doubled(first, (1, 40, 24), True, target)
    assert second.extents.heights.tolist() == [80]  # no input has three rows
    assert ways((1, 256, 24), depths=(5,)) == [[False]]
    assert ways((3, 100, 24), depths=(5,)) == [[False]]
    assert ways((1, 100, 24), depths=(5,), double=False) == [[False]]
    assert ways((1, 100, 24), depths=(0, 5), signs=("offset",)) == [[False], [False]]


def test_doubled_rows_take_no_choice_away() -> None:
    """What has doubled rows takes more of the target than what leaves rows out: it says nothing against that."""
    rng = np.random.default_rng(0)
    # Sixteen inputs can be left out, which saves a tile; or all that matter doubled, which fills the second one.
    x = rng.normal(size=(2000, 144)) * np.where(np.arange(144) < 100, 1, 0.01)
    hessian = (x.T @ x / len(x)).astype(np.float32)[None]
    weight = rng.normal(size=(1, 144, 16)).astype(np.float32)
    judge = Judge(hessian, np.zeros((1, 144)), weight, float(np.einsum("gkm,gkl,glm->", weight, hessian, weight)))

    def found(double: bool, alone: bool) -> list[tuple[Footprint, float]]:
        effort = Effort(5, 1)
        twos = space(double=double, depths=(4, 5, 6), signs=("twos-complement",), alone=alone)
        ways = solutions(hessian, weight, twos, True, machine(), effort, judge)
        return [(candidate.footprint, error) for candidate, _, error in ways]

    def no_more(a: Footprint, b: Footprint) -> bool:
        return all(getattr(a, f.name) <= getattr(b, f.name) for f in fields(Footprint))

    for alone in (False, True):
        with_doubled = found(double=True, alone=alone)
        for taken, error in found(double=False, alone=alone):
            assert min(e for other, e in with_doubled if no_more(other, taken)) <= error * 1.01


# -- the choice --------------------------------------------------------------------------------------------------------


def point(crossbars: int, shape: tuple[int, int, int], error: float, target: Target) -> Point:
    extents = tile_extents(*shape, target.rows, target.columns)
    taken = footprint(extents, crossbars, target, alone=True)
    return Point(
        Candidate("uniform", "twos-complement", 8 - crossbars, "column", "", False, crossbars, extents, taken),
        error,
        error,
    )


@st.composite
def curves(draw: st.DrawFn) -> list[list[Point]]:
    target = machine(rows=8, columns=8)
    layers = draw(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 20), st.integers(1, 9)), min_size=1, max_size=3))
    return [[point(n, shape, draw(st.integers(0, 1000)) / 1000 + 1e-3, target) for n in (1, 2, 4)] for shape in layers]


def bruteforce(layers: list[list[Point]], target: Target) -> list[tuple[int, float]]:
    """(crossbars at least, error) of every choice."""
    return [
        (crossbars_at_least([p.candidate.footprint for p in picked], target), sum(p.network_error for p in picked))
        for picked in product(*layers)
    ]


@settings(max_examples=40)
@given(curves(), st.floats(0.01, 3.0))
def test_the_fewest_crossbars_within_an_error(layers: list[list[Point]], bound: float) -> None:
    target = machine(rows=8, columns=8)
    able = [(n, e) for n, e in bruteforce(layers, target) if e <= bound]
    if not able:
        least = min(e for _, e in bruteforce(layers, target))
        with pytest.raises(SmecError, match=f"{least:.3g} or more"):
            choose(layers, [1] * len(layers), target, bound, None)
        return
    found = choose(layers, [1] * len(layers), target, bound, None)
    assert found.error <= bound * (1 + 1e-12)
    assert found.optimal
    # Errors are rounded up to steps of the bound: a choice at the very bound may be missed, no other.
    steps = len(layers) * bound * 2.0**-23
    assert found.at_least <= min((n for n, e in able if e <= bound - steps), default=1 << 30)


@settings(max_examples=40)
@given(curves(), st.integers(1, 60))
def test_the_least_error_within_crossbars(layers: list[list[Point]], bound: int) -> None:
    target = machine(rows=8, columns=8)
    every = [
        (
            crossbars_placed(
                [p.candidate.extents for p in c], [p.candidate.crossbars for p in c], [1] * len(c), target
            ),
            c,
        )
        for c in product(*layers)
    ]
    try:
        found = choose(layers, [1] * len(layers), target, None, bound)
    except SmecError as error:
        assert "or more" in str(error)
        assert bound < min(n for n, _ in every) + 2  # tiles of unequal extents may be placed one worse than at best
        return
    assert found.crossbars <= bound
    assert found.at_least <= found.crossbars
    within = [e for n, e in bruteforce(layers, target) if n <= found.at_least]
    assert found.error <= min(within) + 1e-9 or not found.optimal


def test_what_cannot_be_met_is_said_with_what_can() -> None:
    target = machine(rows=8, columns=8)
    layers = [[point(n, (1, 8, 8), 0.1 / n, target) for n in (1, 2, 4)]]
    assert choose(layers, [1] * len(layers), target, 0.1, None).picked == (0,)
    assert choose(layers, [1] * len(layers), target, 0.06, None).picked == (1,)
    with pytest.raises(SmecError, match=r"0\.025 or more, which takes 4 crossbars"):
        choose(layers, [1] * len(layers), target, 0.02, None)
    two = [*layers, [point(2, (1, 8, 8), 0.1, target)]]
    with pytest.raises(SmecError, match=r"3 or more, with a network error of 0\.2"):
        choose(two, [1] * len(two), target, None, 2)


def test_the_sensitivity_between_two_probes() -> None:
    seen = [(0.1, 4.0), (0.001, 2.0)]
    assert sensitivity(seen, 0.01) == pytest.approx(3.0)
    assert sensitivity(seen, 1.0) == 4.0
    assert sensitivity(seen, 1e-6) == 2.0
    assert sensitivity([], 0.1) == sensitivity(seen, 0.0) == 0.0


# -- probes ------------------------------------------------------------------------------------------------------------


def network(weights: dict[str, np.ndarray]) -> onnx.ModelProto:
    """A padded convolution, a grouped one with a clamp, a mean over pixels, a matrix product; two outputs."""
    nodes = [
        helper.make_node("Conv", ["x", "a", "a_bias"], ["p"], name="first", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["p"], ["q"]),
        helper.make_node("Conv", ["q", "b", "b_bias"], ["r"], name="second", group=2, strides=[2, 2]),
        helper.make_node("Clip", ["r", "zero", "six"], ["s"]),
        helper.make_node("GlobalAveragePool", ["s"], ["t"]),
        helper.make_node("Flatten", ["t"], ["u"]),
        helper.make_node("Gemm", ["u", "c", "c_bias"], ["y"], name="third", transB=1),
        helper.make_node("Softmax", ["y"], ["z"]),
    ]
    ports = [("x", [1, 3, 8, 8]), ("y", [1, 5]), ("z", [1, 5])]
    infos = [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n, shape in ports]
    initializers = [numpy_helper.from_array(np.float32(v), n) for n, v in {"zero": 0.0, "six": 6.0, **weights}.items()]
    graph = helper.make_graph(nodes, "g", infos[:1], infos[1:], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_a_probe_is_the_network_with_other_weights() -> None:
    rng = np.random.default_rng(3)
    shapes = {"a": (6, 3, 3, 3), "a_bias": (6,), "b": (4, 3, 3, 3), "b_bias": (4,), "c": (5, 4), "c_bias": (5,)}
    weights = {name: rng.normal(0, 0.4, shape).astype(np.float32) for name, shape in shapes.items()}
    images = rng.normal(0, 1, (12, 3, 8, 8)).astype(np.float32)
    module = smec.lower(network(weights), "quant.float", calib={"x": images})
    floats = module.float_graph
    assert floats is not None
    arrays = {"x": images[:, None]}
    reference = Reference(floats, {"x": arrays["x"][:8]})
    prefix = FloatPrefix(floats, arrays)
    right = run(network(weights), images[:8])
    layers = [op for op in module.graph.ops if isinstance(op, WeightedOp)]
    assert len(layers) == 3
    for op, name in zip(layers, "abc", strict=True):
        prefix.input_of(op.label)
        probe = Probe(op, prefix, reference)
        assert probe.error(op.float_weight.array, op.bias.array) < 1e-9
        moved = op.float_weight.array + rng.normal(0, 0.1, op.float_weight.shape).astype(np.float32)
        shift = rng.normal(0, 0.1, op.bias.shape).astype(np.float32)
        bias = weights[f"{name}_bias"] + shift
        found = run(network({**weights, name: moved.reshape(weights[name].shape), f"{name}_bias": bias}), images[:8])
        errors = [
            np.square(f - r).sum() / np.square(r - r.mean(axis=0)).sum() for f, r in zip(found, right, strict=True)
        ]
        assert probe.error(moved, op.bias.array + shift) == pytest.approx(float(np.mean(errors)), rel=1e-3)


def run(model: onnx.ModelProto, images: np.ndarray) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return [np.concatenate(a) for a in zip(*(session.run(None, {"x": i[None]}) for i in images), strict=True)]


# -- the pass ----------------------------------------------------------------------------------------------------------


def pipeline(options: str) -> str:
    return (
        f"partition,calibrate,quantize-activations,allocate{{{QUICK} {options}}},"
        "quantize-admm{squeeze=auto iterations=9},tile,squeeze-out,compact,slice-bits,group-rows,assign-cores,emit"
    )


@pytest.mark.parametrize("double", ["true", "false"])
def test_the_choice_is_what_is_compiled(double: str, tmp_path: Path) -> None:
    report: dict[str, Any] = {}
    passes = pipeline(f"max-error=0.05 double={double}")
    program = smec.compile(MODEL, calib=CALIB, pipeline=passes, report=report, dump_ir=tmp_path)
    chosen, found = report["allocate"], report["quantize-admm"]
    assert chosen["weight_error"] <= 0.05
    assert chosen["predicted_error"] == chosen["weight_error"] + chosen["activation_error"]
    assert chosen["optimal"]
    assert chosen["gap"] == 0
    assert 0 < found["network_error"] < 2 * chosen["predicted_error"]
    assert report["squeeze-out"]["squared_error"] == 0
    assert program.metadata["crossbars"] <= chosen["crossbars"]
    module = load_module(next(tmp_path.glob("*quantize-admm.mlir")))
    ops = [op for op in module.graph.ops if isinstance(op, WeightedOp)]
    assert len({(op.sign, op.squeeze) for op in ops}) > 1
    for op in ops:
        mine = chosen["layers"][op.label]
        assert (op.sign, op.squeeze, op.shift, op.scale) == (mine["sign"], mine["squeeze"], "fit", mine["scale"])
        assert (op.constraints, op.double) == (mine["constraints"], mine["double"])
        assert (op.attributes.get("doubled") is not None) == op.double
        assert mine["crossbars_a_tile"] == len(planes(op.sign, op.bits - op.squeeze, 1))
        costs = [p["crossbars_a_tile"] for p in mine["curve"] if not p["constraints"]]
        assert costs == sorted(costs)
    assert any(op.double for op in ops) == (double == "true")
    # From the text of the chosen depths on, the same program.
    again = smec.compile(next(tmp_path.glob("*allocate.mlir")), calib=CALIB)
    assert again.to_bytes() == program.to_bytes()


def test_a_bound_on_crossbars_holds() -> None:
    report: dict[str, Any] = {}
    for bound in (17, 23):
        program = smec.compile(MODEL, calib=CALIB, pipeline=pipeline(f"max-crossbars={bound}"), report=report)
        assert program.metadata["crossbars"] <= report["allocate"]["crossbars"] <= bound


def test_the_last_layer_stands_for_outputs_that_are_no_real_numbers() -> None:
    """A class index is all that this network says; a second one has no layer at all."""
    rng = np.random.default_rng(0)
    weight = numpy_helper.from_array(rng.normal(0, 1, (6, 4)).astype(np.float32), "w")
    product = helper.make_node("MatMul", ["x", "w"], ["y"])
    index = helper.make_node("ArgMax", ["y"], ["z"], axis=1, keepdims=0)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 6])
    z = helper.make_tensor_value_info("z", TensorProto.INT64, ["N"])
    graph = helper.make_graph([product, index], "g", [x], [z], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    data = {"x": rng.normal(0, 1, (48, 6)).astype(np.float32)}
    report: dict[str, Any] = {}
    program = smec.compile(model, calib=data, pipeline=pipeline("max-error=0.1"), report=report)
    assert report["allocate"]["predicted_error"] > 0
    assert "network_error" not in report["quantize-admm"]
    assert program.metadata["crossbars"] == report["allocate"]["crossbars"] == 1
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 6])
    plain = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y])
    model = helper.make_model(plain, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    assert smec.compile(model, calib=data, pipeline=pipeline("max-error=0.1")).metadata["crossbars"] == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("", "one of max-error and max-crossbars"),
        ("max-error=0.1 max-crossbars=9", "found both"),
        ("max-error=0.0", "above 0"),
        ("max-crossbars=0", "1 or more"),
        ("max-crossbars=9 probes=0", "number of probes"),
        ("max-crossbars=9 sweeps=-1", "'sweeps' is negative"),
        ("max-crossbars=9 depths=8", "0 to 7"),
        ("max-crossbars=1", "with a network error of"),
        ("max-error=1e-9", "or more, which takes"),
        ("max-crossbars=90 signs=twos-complement depths=7", "has no candidate"),
    ],
)
def test_wrong_budgets_are_diagnosed(options: str, message: str) -> None:
    quick = " ".join(word for word in QUICK.split() if word.split("=")[0] not in options)
    with pytest.raises(SmecError, match=message):
        smec.lower(MODEL, "quant", calib=CALIB, pipeline=pipeline(options).replace(QUICK, quick))


def test_few_images_cannot_judge() -> None:
    """Of a classifier one image is one sample, which has no variance: every candidate would be without error."""
    few = {"image": np.load(CALIB)["image"][:7]}
    with pytest.raises(SmecError, match=r"too few calibration images .* \(expected 8 or more, found 7\)"):
        smec.lower(MODEL, "quant", calib=few, pipeline=pipeline("max-error=0.1"))


def test_auto_without_a_choice_is_diagnosed() -> None:
    text = "partition,calibrate,quantize-activations,quantize-admm{squeeze=auto},tile"
    with pytest.raises(SmecError, match="no choice has been made") as caught:
        smec.lower(MODEL, "quant", calib=CALIB, pipeline=text)
    assert "allocate" in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"squeeze": "auto"}, "needs a budget"),
        ({"squeeze": "auto", "max_error": 0.1, "max_crossbars": 3}, "found both"),
        ({"squeeze": 2, "max_error": 0.1}, "without squeeze 'auto'"),
        ({"squeeze": "auto", "max_error": 0.1, "quantizer": "nearest"}, "'nearest'"),
        ({"squeeze": "auto", "max_error": 0.1, "sign": "polarized"}, "'polarized'"),
    ],
)
def test_options_that_do_not_go_together(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SmecError, match=message):
        smec.default_pipeline(**options)


def test_options_make_the_pipeline() -> None:
    text = smec.default_pipeline(squeeze="auto", max_error=0.01, sign="twos-complement", pattern="window").text()
    assert "allocate{max-error=0.01 patterns=window signs=twos-complement},quantize-admm{squeeze=auto},tile" in text
    assert "squeeze-out,compact" in text


def test_the_command_line(tmp_path: Path) -> None:
    out = str(tmp_path / "p.smebin")
    command = ["compile", str(MODEL), "--calib", str(CALIB), "-o", out, "--squeeze", "auto"]
    result = CliRunner().invoke(cli.main, [*command, "--max-crossbars", "1"])
    assert result.exit_code == 1
    assert "no choice was found that keeps the crossbars within --max-crossbars" in result.output
    assert CliRunner().invoke(cli.main, [*command[:-1], "some", "--max-error", "0.1"]).exit_code == 2
