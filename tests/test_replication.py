"""Replication: optimal numbers of copies, disjoint pixels, and programs that still compute the same."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import shared
import smec
from graphs import GraphMaker, sample
from programs import lower
from smec.ir.dialects import quant
from smec.ir.errors import SmecError
from smec.ir.interpreter import interpret
from smec.ir.isa_machine import run_machine
from smec.passes.mapping.replication import Box, Layer, continuous_bound, lower_bound, replicate, row_by_row, shares
from smec.runtime.simulator import Simulator
from smec.runtime.timing import time_program
from smec.verification import verify

PIPELINE = "tile,slice-bits,group-rows,{}assign-cores,emit"

LAYERS = st.lists(st.builds(Layer, st.integers(1, 12), st.integers(1, 9), st.integers(1, 5)), min_size=1, max_size=4)


@given(LAYERS, st.integers(0, 40))
def test_copies_are_optimal_and_above_the_bound(layers: list[Layer], spare: int) -> None:
    budget = sum(layer.cost for layer in layers) + spare
    found = replicate(layers, budget)

    def busiest(copies: tuple[int, ...]) -> int:
        return max(-(-layer.pixels // n) * layer.reads for layer, n in zip(layers, copies, strict=True))

    def cost(copies: tuple[int, ...]) -> int:
        return sum(n * layer.cost for layer, n in zip(layers, copies, strict=True))

    affordable = [
        copies
        for copies in itertools.product(*(range(1, layer.pixels + 1) for layer in layers))
        if cost(copies) <= budget
    ]
    assert found.cycles == min(busiest(copies) for copies in affordable) == busiest(tuple(found.copies))
    assert found.crossbars == cost(tuple(found.copies)) <= budget
    assert found.continuous - 1e-9 <= found.bound <= found.cycles


def test_bounds_of_real_copies() -> None:
    # 1200 and 300 reads, one crossbar each: 4 crossbars are best shared 3.2 to 0.8, so the second layer keeps one
    layers = [Layer(100, 12, 1), Layer(100, 3, 1)]
    assert continuous_bound(layers, 4) == pytest.approx(400)
    assert continuous_bound(layers, 10) == pytest.approx(150)
    assert continuous_bound(layers, 10**6) == lower_bound(layers, 10**6) == 12  # one pixel each
    # Four crossbars: 33 pixels, 396 reads, would take 3.03 copies beside the second layer's one, so 34 pixels. Ten: 12
    # pixels, 144 reads, would take 8.33 copies, and 48 pixels of the second layer 2.08: more than ten.
    assert lower_bound(layers, 4) == 408
    assert lower_bound(layers, 10) == 156
    assert replicate([], 5).cycles == 0


def test_within_five_percent_of_the_bound_on_resnet50() -> None:
    layers = resnet50()
    once = sum(layer.cost for layer in layers)
    found = replicate(layers, -(-once // (168 * 96)) * 168 * 96)  # the whole chips that one copy needs
    assert found.cycles / found.bound < 1.05
    assert max(layer.cycles for layer in layers) > 40 * found.cycles


def resnet50() -> list[Layer]:
    """Its layers at 8 bits, differential signs, one bit a cell, 128 x 128 crossbars, all rows at once."""

    def layer(size: int, k: int, m: int) -> Layer:
        abreast = max(1, 128 // min(m, 128))
        return Layer(size * size, 8, -(-k // 128) * -(-m // 128) * -(-16 // abreast))

    out = [layer(112, 147, 64)]
    inputs = 64
    for width, blocks, size in ((64, 3, 56), (128, 4, 28), (256, 6, 14), (512, 3, 7)):
        for block in range(blocks):
            before = size * 2 if block == 0 and width > 64 else size
            out += [layer(before, inputs, width), layer(size, 9 * width, width), layer(size, width, 4 * width)]
            if block == 0:
                out.append(layer(size, inputs, 4 * width))
            inputs = 4 * width
    return [*out, Layer(1, 8, 16 * 16 * 8)]


@given(st.lists(st.integers(1, 7), min_size=0, max_size=3), st.data())
def test_shares_are_disjoint_complete_and_even(shape: list[int], data: st.DataObject) -> None:
    extents = tuple(shape)
    most = int(np.prod(shape[-2:], dtype=int))
    copies = data.draw(st.integers(1, most))
    parts = shares(extents, copies)
    seen = Counter(pixel for boxes in parts for box in boxes for pixel in pixels(box))
    assert seen == Counter(itertools.product(*(range(n) for n in extents)))
    outer = int(np.prod(shape[:-2], dtype=int))
    assert max(sum(box.pixels for box in boxes) for boxes in parts) == outer * -(-most // copies)
    assert len(parts) == copies and max(len(boxes) for boxes in parts) <= 3


@given(st.integers(1, 7), st.integers(1, 7), st.data())
def test_sums_of_a_copy_travel_row_by_row(rows: int, columns: int, data: st.DataObject) -> None:
    copies = data.draw(st.integers(1, rows * columns))
    for boxes in shares((2, rows, columns), copies):
        (outer, height, width), starts = row_by_row(boxes)
        assert outer == 2 and height <= rows
        assert height * width < sum(box.pixels for box in boxes) // outer + rows  # little is wasted
        taken: dict[tuple[int, int], int] = {}
        for start, box in zip(starts, boxes, strict=True):
            for y, x in itertools.product(range(box.shape[1]), range(box.shape[2])):
                at = start[1] + y, start[2] + x
                assert at[0] < height and at[1] < width and at not in taken
                taken[at] = box.first[1] + y
        # element (y, x) of the array holds a pixel of the layer's row y, counted from the copy's first one
        top = min(box.first[1] for box in boxes)
        assert all(row - top == y for (y, _), row in taken.items())


def pixels(box: Box) -> list[tuple[int, ...]]:
    axes = [range(f, f + n * s, s) for f, n, s in zip(box.first, box.shape, box.step, strict=True)]
    return list(itertools.product(*axes))


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
