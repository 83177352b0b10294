"""Replication: optimal numbers of copies, disjoint pixels, and programs that still compute the same."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import shared
import smec
from graphs import GraphMaker, sample
from programs import lower
from smec import targets
from smec.ir.dialects import quant
from smec.ir.errors import SmecError
from smec.ir.interpreter import interpret
from smec.ir.isa_machine import run_machine
from smec.ir.types import Handle
from smec.passes.assign_cores import AssignCores
from smec.passes.base import PassContext
from smec.passes.mapping.replication import Layer, continuous_bound, lower_bound, replicate, replicate_sharing
from smec.passes.pipeline import parse_pipeline
from smec.passes.replicate import Replicate
from smec.runtime.simulator import Simulator
from smec.runtime.timing import time_program
from smec.verification import verify

PIPELINE = "tile,slice-bits,group-rows,{}assign-cores,emit"


@st.composite
def small_layers(draw: st.DrawFn) -> Layer:
    """Up to five pixels, and one or two units whose row groups read up to four digits each."""
    most = draw(st.integers(0, 4))
    digits = []
    for _ in range(draw(st.integers(1, 2))):
        groups = draw(st.lists(st.integers(0, most), min_size=1, max_size=3))
        digits.append(tuple(sum(n > t for n in groups) for t in range(most)))
    return Layer(draw(st.integers(1, 5)), tuple(digits), draw(st.integers(1, 5)))


def reads_between(layer: Layer, start: int, stop: int) -> int:
    """Reads of a stretch, digit by digit."""
    most = len(layer.digits[0])
    return max(sum(unit[at % most] for at in range(start, stop)) for unit in layer.digits)


def least_reads(layer: Layer) -> list[int]:
    """The least reads of the busiest of 1, 2 ... copies that share out the stretch, over all ways to cut it."""
    length = layer.pixels * len(layer.digits[0])
    best = [reads_between(layer, 0, stop) for stop in range(length + 1)]
    found = [best[length]]
    for _ in range(1, length):
        best = [
            min((max(best[cut], reads_between(layer, cut, stop)) for cut in range(stop)), default=0)
            for stop in range(length + 1)
        ]
        found.append(best[length])
    return found


LAYERS = st.lists(small_layers(), min_size=1, max_size=3)


@given(LAYERS, st.integers(0, 40))
def test_copies_are_optimal_and_above_the_bound(layers: list[Layer], spare: int) -> None:
    budget = sum(layer.cost for layer in layers) + spare
    found = replicate(layers, budget)
    reads = [least_reads(layer) for layer in layers]

    def cost(copies: tuple[int, ...]) -> int:
        return sum(n * layer.cost for layer, n in zip(layers, copies, strict=True))

    affordable = [
        max(of[n - 1] for of, n in zip(reads, copies, strict=True))
        for copies in itertools.product(*(range(1, len(of) + 1) for of in reads))
        if cost(copies) <= budget
    ]
    assert found.cycles == min(affordable)
    assert found.crossbars == cost(tuple(found.copies)) <= budget
    assert found.continuous - 1e-9 <= found.bound <= found.cycles


@given(small_layers(), st.data())
def test_cuts_keep_within_the_limit_and_share_few_pixels(layer: Layer, data: st.DataObject) -> None:
    limit = data.draw(st.integers(max(layer.least, 1), max(layer.cycles, 1)))
    copies = layer.copies_for(limit)
    cuts, most = layer.cuts(copies, limit), layer.pixel_digits
    if not cuts:
        assert copies <= layer.pixels and -(-layer.pixels // copies) * layer.reads <= limit
        return
    ends = [0, *cuts, layer.length]
    assert len(cuts) == copies - 1
    assert all(a < b and reads_between(layer, a, b) <= limit for a, b in itertools.pairwise(ends))
    # a cut within a pixel has no whole pixel to go to, from the cut before and with the copies that are left
    for i, cut in enumerate(cuts, 1):
        for whole in range(0, layer.length + 1, most) if cut % most else ():
            rest = Layer(layer.pixels - whole // most, layer.digits, 1)
            behind = rest.copies_for(limit) if rest.pixels else 0
            assert (
                reads_between(layer, ends[i - 1], max(whole, ends[i - 1])) > limit
                or behind > copies - i
                or (whole <= ends[i - 1])
            )


def test_bounds_of_real_copies() -> None:
    # 1200 and 300 reads, one crossbar each: 4 crossbars are best shared 3.2 to 0.8, so the second layer keeps one
    layers = [Layer(100, ((12,),), 1), Layer(100, ((3,),), 1)]
    assert continuous_bound(layers, 4) == pytest.approx(400)
    assert continuous_bound(layers, 10) == pytest.approx(150)
    assert continuous_bound(layers, 10**6) == lower_bound(layers, 10**6) == 12  # one digit each
    # Inputs of one digit. Four crossbars: 33 pixels, 396 reads, would take 3.03 copies beside the second layer's one,
    # so 34 pixels. Ten: 12 pixels, 144 reads, would take 8.33 copies, and 48 pixels of the second layer 2.08: more.
    assert lower_bound(layers, 4) == 408
    assert lower_bound(layers, 10) == 156
    # Inputs of several digits may stop at any read.
    layers = [Layer(100, ((1,) * 12,), 1), Layer(100, ((1,) * 3,), 1)]
    assert lower_bound(layers, 4) == 400 and replicate(layers, 4).cycles == 400
    assert lower_bound(layers, 10) == 150 and replicate(layers, 10).cycles == 150
    assert replicate(layers, 10).cuts == [[150 * i for i in range(1, 8)], []]
    assert replicate([], 5).cycles == 0


def test_within_five_percent_of_the_bound_on_resnet50() -> None:
    layers = resnet50()
    once = sum(layer.cost for layer in layers)
    found = replicate(layers, -(-once // (168 * 96)) * 168 * 96)  # the whole chips that one copy needs
    assert found.cycles / found.continuous < 1.05
    assert max(layer.cycles for layer in layers) > 40 * found.cycles


def resnet50() -> list[Layer]:
    """Its layers at 8 bits, differential signs, one bit a cell, 128 x 128 crossbars, all rows at once."""

    def layer(size: int, k: int, m: int) -> Layer:
        abreast = max(1, 128 // min(m, 128))
        return Layer(size * size, ((1,) * 8,), -(-k // 128) * -(-m // 128) * -(-16 // abreast))

    out = [layer(112, 147, 64)]
    inputs = 64
    for width, blocks, size in ((64, 3, 56), (128, 4, 28), (256, 6, 14), (512, 3, 7)):
        for block in range(blocks):
            before = size * 2 if block == 0 and width > 64 else size
            out += [layer(before, inputs, width), layer(size, 9 * width, width), layer(size, width, 4 * width)]
            if block == 0:
                out.append(layer(size, inputs, 4 * width))
            inputs = 4 * width
    return [*out, Layer(1, ((1,) * 8,), 16 * 16 * 8)]


@settings(max_examples=25)
@given(st.integers(0, 10**6), st.integers(0, 40), st.booleans())
def test_sharing_never_makes_copies_slower(seed: int, spare: int, digits: bool) -> None:
    rng = np.random.default_rng(seed)
    g = GraphMaker(rng, 4)
    y = g.quantize(g.input("x", (1, 2, int(rng.integers(1, 6)), int(rng.integers(1, 6)))))
    for _ in range(int(rng.integers(1, 4))):
        y = g.conv(y, int(rng.integers(1, 12)))
    module = g.finish(g.dequantize(y))
    target = targets.load("sme").model_copy(update={"rows": 16, "columns": 16, "crossbars_per_core": 64})
    context = PassContext(target=target, act_bits=4)
    parse_pipeline("tile,slice-bits,group-rows,replicate{crossbars=1000000 share=false}").run(module, context)
    least = context.report["replicate"]["crossbars_once"]
    found = {}
    for share in (True, False):
        Replicate(crossbars=least + spare, digits=digits, share=share).run(module, context)
        found[share] = context.report["replicate"]
        assert found[share]["bound"] <= found[share]["cycles"]
        assert found[share]["crossbars"] <= least + spare
    assert found[True]["cycles"] <= found[False]["cycles"]
    assert found[True]["continuous_bound"] == found[False]["continuous_bound"]
    # what the pass promises is what assign-cores finds
    Replicate(crossbars=least + spare, digits=digits).run(module, context)
    AssignCores().run(module, context)
    assert context.report["assign-cores"]["crossbars"] == found[True]["crossbars"]


def test_the_last_copy_has_time_for_other_tiles() -> None:
    # 10 reads within 4 each: 4, 4 and 2. Whole pixels of three digits within 7: two pixels and one.
    layer = Layer(10, ((1,),), 1)
    assert layer.filled(layer.copies_for(4), 4) == [4, 8]
    assert layer.cuts(3, 4) == []
    layer = Layer(3, ((1, 1, 1),), 1, whole=True)
    assert (layer.copies_for(7), layer.filled(2, 7), layer.least) == (2, [6], 3)


def test_copies_take_crossbars_that_tiles_share() -> None:
    """Two layers of half a crossbar each: together they leave room for a second copy of the slower one."""
    found = replicate_sharing(
        [Layer(8, ((1,),), 1, Fraction(1, 2), 8), Layer(2, ((1,),), 1, Fraction(1, 2), 2)],
        2,
        lambda copies, cuts, enough: (2 if max(copies) < 3 else 3, 5 if copies[0] == 2 and cuts[0] == [5] else 8),
    )
    assert (found.copies, found.cycles, found.crossbars, found.bound) == ([2, 1], 5, 2, 5)
    with pytest.raises(ValueError, match="does not pay for one copy"):
        replicate_sharing([Layer(8, ((1,),), 2)], 1, lambda copies, cuts, enough: (2, 8))


@settings(max_examples=20)
@given(st.integers(0, 10**6), st.integers(0, 60))
def test_results_stay_bit_exact(seed: int, spare: int) -> None:
    rng = np.random.default_rng(seed)
    g = GraphMaker(rng, 4)
    x = g.quantize(g.input("x", (int(rng.integers(1, 3)), 2, int(rng.integers(1, 6)), int(rng.integers(1, 6)))))
    y = g.conv(g.conv(x, int(rng.integers(1, 20))), 3, strides=(int(rng.integers(1, 3)), 1))
    tokens = g.view(quant.Reshape, y, (y.type.shape[0], y.type.shape[1], y.type.shape[2] * y.type.shape[3]))
    module = g.finish(g.dequantize(g.gemm(tokens, 4)), g.dequantize(y))
    inputs = sample(module, rng)
    expected = interpret(module, inputs)
    program = lower(
        module, PIPELINE.format(f"replicate{{crossbars={150 + 5 * spare}}},"), act_bits=4, rows=16, columns=16,
        crossbars_per_core=int(rng.choice([16, 32])),
    )  # fmt: skip
    machine = run_machine(program, inputs)
    run = Simulator(program).run(inputs, trace_accumulators=True)
    assert run.accumulators is not None
    for name, array in expected.items():
        np.testing.assert_array_equal(machine.outputs()[name], array)
        np.testing.assert_array_equal(run.outputs[name].reshape(array.shape), array)
    for index, layer in enumerate(program.metadata["layers"]):
        wanted = np.concatenate(machine.accumulators[index], axis=1)
        np.testing.assert_array_equal(run.accumulators[layer["name"]].reshape(wanted.shape), wanted)


def test_crossbars_side_by_side_that_take_more_digits_together() -> None:
    """One plane reads only the row that is not shifted, another only the one that is shifted most."""
    rng = np.random.default_rng(0)
    g = GraphMaker(rng, 8)
    y = g.conv(g.quantize(g.input("x", (1, 2, 7, 5))), 1, (1, 1), pads=(0, 0, 0, 0), sign="twos-complement", bits=8)
    weights = np.array([1, 64], np.int16)  # codes of five bits: 1 << 0 and 8 << 3
    y.owner.attributes["weight"] = Handle(weights.reshape(1, 2, 1, 1))
    module = g.finish(g.dequantize(y))
    inputs = sample(module, rng)
    expected = interpret(module, inputs)
    before = "tile,squeeze-out{depth=3 shift=fit},slice-bits,group-rows,"
    seen = set()
    for crossbars in range(2, 40, 3):
        program = lower(module.clone(), f"{before}replicate{{crossbars={crossbars}}},assign-cores,emit", act_bits=8)
        seen.add(program.metadata["layers"][0]["copies"])
        outputs = Simulator(program).run(inputs).outputs
        for name, array in expected.items():
            np.testing.assert_array_equal(outputs[name].reshape(array.shape), array)
    assert len(seen) > 5


def test_copies_raise_throughput_as_promised() -> None:
    g = GraphMaker(np.random.default_rng(3))
    y = g.conv(g.conv(g.quantize(g.input("x", (1, 4, 12, 12))), 16), 8, strides=(2, 2))
    module = g.finish(g.dequantize(y))
    plain = time_program(lower(module.clone(), PIPELINE.format("")))
    copied = time_program(lower(module.clone(), PIPELINE.format("replicate{crossbars=60},")))
    copies = [max(layer["copies"] for layer in p.graph.program.metadata["layers"]) for p in (plain, copied)]
    assert copies[0] == 1 and copies[1] >= 4
    assert copied.interval * copies[1] == plain.interval
    assert copied.latency_ns < plain.latency_ns


def test_refuses_what_does_not_fit() -> None:
    g = GraphMaker(np.random.default_rng(0))
    module = g.finish(g.dequantize(g.conv(g.quantize(g.input("x", (1, 3, 4, 4))), 4)))
    with pytest.raises(SmecError, match="too few crossbars for one copy of each layer"):
        lower(module.clone(), PIPELINE.format("replicate{crossbars=0},"))
    with pytest.raises(SmecError, match="have their places already"):
        lower(module.clone(), "tile,slice-bits,group-rows,assign-cores,replicate,emit")


def test_verify_accepts_copies_and_finds_a_fault_in_one() -> None:
    model, data = shared.EXAMPLES / "digits_resnet.onnx", shared.EXAMPLES / "digits_calib.npz"
    plain = smec.compile(model, calib=data)
    pipeline = plain.metadata["options"]["pipeline"].replace("assign-cores", "replicate{crossbars=300},assign-cores")
    program = smec.compile(model, calib=data, pipeline=pipeline)
    assert program.metadata["layers"][0]["copies"] > 1
    assert verify(model, program, images=2).equal
    cells = program.sections["cells"].copy()
    last = int(program.sections["xbar_phys"][program.metadata["layers"][0]["blocks"] - 1])  # the last copy's
    cells[last, 0, 0] ^= 1
    report = verify(model, program.replace_section("cells", cells), images=2)
    assert not report.equal
