"""Shares of a layer's reads: pixels, and digits of pixels that copies share, from cuts to programs and their timing.

The oracles: lists of all (pixel, digit) pairs, the IR's interpretation, the reference machine, and programs without
copies.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from crossbar_programs import Network
from digit_shares import lower_shared, share_digits
from hypothesis import given, settings
from hypothesis import strategies as st
from isa_programs import Pieces, demo
from test_admm import context_of, residual
from test_engines import Converter, Tile, add_tile, compare, expected_sums, random_tile
from test_isa_semantics import crossbar_cases, execute, run_mvm
from test_polarized import assert_engines, polarized_network
from test_routing import sent
from test_timing import check as check_timing
from test_timing import grow, machine

from graphs import GraphMaker, sample
from programs import assembled
from smec import targets
from smec.assembly import assemble, disassemble
from smec.ir.dialects import quant
from smec.ir.dialects.builtin import ModuleOp
from smec.ir.errors import SmecError
from smec.ir.interpreter import interpret
from smec.ir.isa_machine import run_machine
from smec.ir.isa_sections import U8, U16
from smec.ir.isa_table import decode, encode
from smec.ir.parser import parse_module
from smec.ir.printer import print_module
from smec.ir.store import handles
from smec.passes.base import PassContext
from smec.passes.mapping.layers import crossbar_layers
from smec.passes.mapping.shares import Box, row_by_row, shares
from smec.passes.mapping.traffic import core_traffic
from smec.passes.pipeline import parse_pipeline
from smec.runtime.container import Program
from smec.runtime.engines import ENGINES
from smec.runtime.simulator import SimResult, Simulator
from smec.runtime.timing import time_program

seeds = st.integers(0, 2**32 - 1)

# -- pixels and digits -------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 7), min_size=0, max_size=3), st.data())
def test_shares_of_whole_pixels_are_disjoint_complete_and_even(shape: list[int], data: st.DataObject) -> None:
    extents = tuple(shape)
    most = int(np.prod(shape[-2:], dtype=int))
    copies = data.draw(st.integers(1, most))
    parts = shares(extents, copies)
    seen = Counter(pixel for share in parts for piece in share for pixel in pixels(piece.box))
    assert seen == Counter(itertools.product(*(range(n) for n in extents)))
    outer = int(np.prod(shape[:-2], dtype=int))
    assert max(sum(piece.box.pixels for piece in share) for share in parts) == outer * -(-most // copies)
    assert len(parts) == copies and max(map(len, parts)) <= 3


@given(st.integers(1, 7), st.integers(1, 7), st.data())
def test_sums_of_a_copy_travel_row_by_row(rows: int, columns: int, data: st.DataObject) -> None:
    digits = data.draw(st.integers(1, 3))
    cuts = data.draw(st.sets(st.integers(1, rows * columns * digits - 1))) if rows * columns * digits > 1 else []
    copies = data.draw(st.integers(1, rows * columns))
    for share in shares((2, rows, columns), copies) + shares((2, rows, columns), len(cuts) + 1, sorted(cuts), digits):
        boxes = [piece.box for piece in share]
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


@given(st.lists(st.integers(1, 5), min_size=0, max_size=3), st.integers(1, 4), st.data())
def test_every_digit_of_every_pixel_is_read_once(shape: list[int], digits: int, data: st.DataObject) -> None:
    extents, length = tuple(shape), int(np.prod(shape[-2:], dtype=int)) * digits
    cuts = sorted(data.draw(st.sets(st.integers(1, length - 1), min_size=1))) if length > 1 else []
    parts = shares(extents, len(cuts) + 1, cuts, digits)
    seen: Counter[Any] = Counter()
    outer = int(np.prod(shape[:-2], dtype=int))
    for share, size in zip(parts, np.diff([0, *cuts, length]).tolist(), strict=True):
        mine = [
            (pixel, digit)
            for piece in share
            for pixel in pixels(piece.box)
            for digit in range(piece.first, digits if piece.stop is None else piece.stop)
        ]
        assert len(mine) == size * outer and len(share) <= 5
        assert len({pixel for pixel, _ in mine}) == sum(piece.box.pixels for piece in share)
        seen.update(mine)
    assert seen == Counter(itertools.product(itertools.product(*(range(n) for n in extents)), range(digits)))


# -- instructions and engines ------------------------------------------------------------------------------------------


@given(crossbar_cases(), st.data())
def test_digits_of_a_product_add_up(case: tuple[Pieces, int, int, np.ndarray], data: st.DataObject) -> None:
    """The definition: parts of the reads, each once, make the product and clip what it clips."""
    p, tile, act_bits, q = case
    whole, sums = run_mvm(p, tile, act_bits, q)
    most = -(-(act_bits + 3) // p.hardware.dac_bits)  # row shifts are 0 to 3
    cuts = sorted(data.draw(st.sets(st.integers(1, most - 1)))) if most > 1 else []
    m, found = run_mvm(p, tile, act_bits, q)
    found[:] = 0
    m.saturated[:] = 0
    dst, src = len(p.sections["agus"]) - 2, len(p.sections["agus"]) - 1
    for first, stop in itertools.pairwise([0, *cuts, most]):
        execute(m, "mvm", dst=dst, src=src, tile=tile, first=first, digits=stop - first)
    np.testing.assert_array_equal(found, sums)
    np.testing.assert_array_equal(m.saturated, whole.saturated)


@settings(max_examples=60)
@given(
    seed=seeds, cell_bits=st.integers(1, 3), dac_bits=st.integers(1, 3), act_bits=st.integers(1, 11),
    adc_bits=st.sampled_from([2, 4, 8]), groups=st.integers(1, 3), shifts=st.integers(1, 5), offset=st.booleans(),
)  # fmt: skip
def test_engines_read_digits_as_the_definition_says(
    seed: int, cell_bits: int, dac_bits: int, act_bits: int, adc_bits: int, groups: int, shifts: int, offset: bool
) -> None:
    """Any crossbars, clipped or not, whose digits are read by several instructions: sums, clipped and all reads."""
    random = np.random.default_rng(seed)
    converter = Converter(act_bits, dac_bits, adc_bits)
    rows, columns, images, count = int(random.choice([5, 64, 70])), int(random.choice([3, 9])), 3, 2
    tile = random_tile(
        random, np.where(random.random(rows) < 0.9, np.arange(rows), -1), random.permutation(columns), cell_bits,
        groups=groups, shifts=shifts, offset=5 if offset else 0,
    )  # fmt: skip
    windows = random_windows(random, tile, converter)
    program, table = digits_program(random, tile, windows, converter, count, rows=rows, columns=columns,
                                    cell_bits=cell_bits)  # fmt: skip
    inputs = random.integers(0, 1 << act_bits, (images, count, rows)).astype(np.uint16 if act_bits > 8 else np.uint8)
    sums, saturated, all_reads = expected_sums([tile], inputs, table, converter)
    for result in results(program, inputs, bool(saturated)):
        compare(result, sums, saturated, all_reads)
    # some of the digits alone: the same as the definition says
    some = [window for window in windows if random.random() < 0.5] or windows[:1]
    program, table = digits_program(random, tile, some, converter, count, rows=rows, columns=columns,
                                    cell_bits=cell_bits)  # fmt: skip
    machine = run_machine(program, {"x": inputs})
    for result in results(program, inputs, bool(saturated)):
        assert result.accumulators is not None
        found = result.accumulators["layer0"].reshape(images, -1)
        np.testing.assert_array_equal(found, np.concatenate(machine.accumulators[0], axis=1))
        assert result.saturated == {"layer0": machine.saturated.sum()}


def results(program: Program, inputs: np.ndarray, clips: bool) -> Iterator[SimResult]:
    """What each engine makes of a program that can be run on it."""
    simulator = Simulator(program)
    for engine in ENGINES:
        try:
            yield simulator.run({"x": inputs}, engine, trace_accumulators=True)
        except SmecError as error:  # where nothing is clipped, other inputs could be
            assert engine == "exact" and "cannot compute reads that the ADC may clip" in str(error)
        else:
            assert engine != "exact" or not clips


def random_windows(random: np.random.Generator, tile: Tile, converter: Converter) -> list[tuple[int, int]]:
    """First digit and number of digits of instructions that together read all digits of a tile."""
    spreads = [
        int(np.ptp(tile.shift[plane.group == group]))
        for plane in tile.planes
        for group in range(plane.group.max(initial=-1) + 1)
    ]
    most = max(len(range(0, converter.act_bits + spread, converter.dac_bits)) for spread in (0, *spreads))
    cuts = np.flatnonzero(random.random(most - 1) < 0.4) + 1
    return [(first, stop - first) for first, stop in itertools.pairwise([0, *cuts.tolist(), most])]


def digits_program(
    random: np.random.Generator,
    tile: Tile,
    windows: list[tuple[int, int]],
    converter: Converter,
    pixels: int,
    **target: Any,
) -> tuple[Program, np.ndarray]:
    """A program that multiplies inputs [pixels, rows] by a tile, some digits after the other; and its init table."""
    network = Network(converter.act_bits, **{**target, "dac_bits": converter.dac_bits, "adc_bits": converter.adc_bits})
    wide, rows, columns = converter.act_bits > 8, len(tile.rows), len(tile.cols)
    x, acc = network.buffer(pixels * rows, U16 if wide else U8), network.acc(pixels * columns)
    network.port("x", network.agu(x), (pixels, rows), "uint16" if wide else "uint8")
    layer, table = network.layer(), random.integers(-1000, 1000, columns)
    channels = network.agu(acc, 0, (pixels, columns), (columns, 1))
    network.emit("init", dst=channels, table=network.table("pool_i64", table), length=columns)
    index = add_tile(network, tile)
    for first, digits in windows:
        dst, src = network.agu(acc, 0, (pixels, columns)), network.agu(x, 0, (pixels, rows))
        network.emit("mvm", dst=dst, src=src, tile=index, first=first, digits=digits)
    network.requant(acc, ((pixels, columns), (columns, 1)), layer, columns)
    return network.program(), table


# -- programs ----------------------------------------------------------------------------------------------------------


def network_of(rng: np.random.Generator, act_bits: int, **layer: Any) -> ModuleOp:
    """Convolutions with strides and groups, a product of tokens, and one of a single vector."""
    g = GraphMaker(rng, act_bits)
    x = g.quantize(g.input("x", (int(rng.integers(1, 3)), 2, int(rng.integers(2, 6)), int(rng.integers(2, 6)))))
    y = g.conv(g.conv(x, int(rng.integers(2, 20)), **layer), 4, strides=(int(rng.integers(1, 3)), 1), **layer)
    y = g.conv(y, 4, groups=4, **layer)
    n, c, h, w = y.type.shape
    tokens = g.gemm(g.view(quant.Reshape, y, (n * c, h * w)), 3, **layer)
    vector = g.gemm(g.view(quant.Reshape, y, (n * c * h * w,)), 5, **layer)
    return g.finish(g.dequantize(tokens), g.dequantize(y), g.dequantize(vector))


@settings(max_examples=25, deadline=None)
@given(
    seeds, st.sampled_from(["differential", "offset", "twos-complement"]), st.sampled_from([1, 2]),
    st.sampled_from([1, 2, 3]), st.sampled_from([3, 5, 8]), st.sampled_from([0, 0, 2, 4]),
)  # fmt: skip
def test_programs_stay_bit_exact(
    seed: int, sign: str, cell_bits: int, dac_bits: int, adc_bits: int, squeeze: int
) -> None:
    rng = np.random.default_rng(seed)
    act_bits, adc_bits = int(rng.choice([3, 4, 8])), max(adc_bits, cell_bits + dac_bits)
    integers = {"low": -127, "high": 127} if sign != "differential" else {}
    module = network_of(rng, act_bits, sign=sign, **integers)
    depth = f"squeeze-out{{depth={squeeze} shift=fit}}," if squeeze and sign != "offset" else ""
    context = PassContext(
        target=targets.load("sme").model_copy(
            update={"rows": 16, "columns": 16, "cell_bits": cell_bits, "dac_bits": dac_bits, "adc_bits": adc_bits,
                    "crossbars_per_core": int(rng.choice([16, 40]))}
        ),
        act_bits=act_bits,
    )  # fmt: skip
    inputs = sample(module, rng)
    parse_pipeline(f"tile,{depth}compact,slice-bits,group-rows").run(module, context)
    expected = interpret(module, inputs)
    share_digits(module, context, rng)
    parse_pipeline("assign-cores,emit").run(module, context)
    assert all(np.array_equal(expected[name], array) for name, array in interpret(module, inputs).items())
    program = assembled(module)
    found = run_machine(program, inputs).outputs()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array.reshape(found[name].shape))
    assert not assert_engines(program, inputs, "exact", "adc", "auto")
    text, arrays = disassemble(program)
    assert assemble(text, "f.smeasm", arrays).to_bytes() == program.to_bytes()


@pytest.mark.parametrize("doubled", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_sign_blocks_and_doubled_rows_stay_bit_exact(seed: int, doubled: bool) -> None:
    rng = np.random.default_rng(seed)
    if doubled:
        g, module = residual()
        context = context_of(module, g, rows=32, columns=16)
        parse_pipeline("quantize-admm{sign=twos-complement squeeze=5 shift=fit double=true}").run(module, context)
    else:
        target = targets.load("sme").model_copy(update={"rows": 32, "columns": 16})
        module, context = polarized_network(rng, 8), PassContext(target=target, act_bits=8)
    inputs = sample(module, rng)
    expected = interpret(module, inputs)["y0"]
    lower_shared(module, "tile,squeeze-out,compact,slice-bits,group-rows", context, rng)
    program = assembled(module)
    np.testing.assert_array_equal(run_machine(program, inputs).outputs()["y0"], expected)
    assert not assert_engines(program, inputs, "exact", "adc", "auto")


@pytest.mark.parametrize("seed", range(4))
def test_clipped_reads_do_not_depend_on_the_shares(seed: int) -> None:
    """Groups that the ADC clips: a read is the same whichever copy makes it."""
    rng = np.random.default_rng(seed)
    module = network_of(rng, 4)
    target = targets.load("sme").model_copy(update={"rows": 16, "columns": 16, "adc_bits": 2})
    inputs = sample(module, rng)
    mapping = "tile,squeeze-out{depth=2 shift=fit},slice-bits,group-rows{rows=8}"
    plain, shared = module, module.clone()
    parse_pipeline(f"{mapping},assign-cores,emit").run(plain, PassContext(target=target, act_bits=4))
    lower_shared(shared, mapping, PassContext(target=target, act_bits=4), rng)
    machines = [run_machine(assembled(some), inputs) for some in (plain, shared)]
    assert machines[0].saturated.sum() == machines[1].saturated.sum() > 0
    for name, array in machines[0].outputs().items():
        np.testing.assert_array_equal(machines[1].outputs()[name], array)
    assert assert_engines(assembled(shared), inputs, "adc", "auto") > 0


def test_copies_of_the_pass_share_pixels() -> None:
    """A 3 x 3 image on five copies, 72 reads: 15 each instead of 16, and as fast as that says."""
    g = GraphMaker(np.random.default_rng(3))
    module = g.finish(g.dequantize(g.conv(g.quantize(g.input("x", (1, 4, 3, 3))), 8)))
    context = PassContext(target=targets.load("sme"), act_bits=8)
    inputs = sample(module, np.random.default_rng(0))
    expected = interpret(module, inputs)["y0"]
    parse_pipeline("tile,slice-bits,group-rows,replicate{crossbars=5},assign-cores{share=false},emit").run(
        module, context
    )
    report = context.report["replicate"]
    assert (report["cycles"], report["bound"], report["shared_pixels"]) == (15, 15, 4)
    assert report["layers"][0]["copies"] == 5 and report["layers"][0]["shared_pixels"] == 4
    assert report["continuous_gap"] == pytest.approx(15 / 14.4 - 1)
    (op,) = crossbar_layers(module)
    assert op.pixel_digits == 8 and len(op.cuts) == 4
    program = assembled(module)
    steps = [step.operands for step in decode(program.sections["code"]) if step.mnemonic == "mvm"]
    assert sum(step["digits"] or 8 for step in steps if program.sizes.points[step["dst"]] == 1) % 8 == 0
    assert time_program(program).interval == 15 * 100_000_000
    np.testing.assert_array_equal(run_machine(program, inputs).outputs()["y0"], expected)


def test_pixels_stay_whole_on_demand() -> None:
    module, context = grouped()
    parse_pipeline("replicate{crossbars=5 digits=false}").run(module, context)
    (op,) = crossbar_layers(module)
    report = context.report["replicate"]
    assert (report["cycles"], report["bound"], report["shared_pixels"], op.copies) == (16, 15, 0, 5)
    assert report["continuous_bound"] == 14.4 and "cuts" not in op.attributes


def test_the_pass_forgets_earlier_cuts() -> None:
    module, context = grouped()
    (op,) = crossbar_layers(module)
    assert op.cuts == (14, 28, 43, 57) and op.pixel_digits == 8
    parse_pipeline("replicate{crossbars=3}").run(module, context)
    assert op.copies == 3 and "cuts" not in op.attributes and "pixel_digits" not in op.attributes


# -- timing ------------------------------------------------------------------------------------------------------------


def shared_program(seed: int) -> Program:
    """A random graph on a random small machine, its layers shared out at random."""
    g, x = grow(seed)
    rng = np.random.default_rng(seed)
    module = g.finish(g.dequantize(x))
    depth = f"squeeze-out{{depth={rng.integers(1, 4)}}}," if rng.random() < 0.5 else ""
    target = machine(
        rows=int(rng.choice([8, 16])),
        adc={"crossbars": int(rng.choice([1, 2, 4])), "per_bank": int(rng.choice([1, 2]))},
        buffer={"bytes_per_ns": float(rng.choice([0.5, 4.0]))},
        crossbars_per_core=int(rng.choice([16, 32])),
    )
    context = PassContext(target=type(targets.load("sme")).model_validate(target), act_bits=g.act_bits)
    lower_shared(module, f"tile,{depth}slice-bits,group-rows", context, rng)
    return assembled(module)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 2))
def test_timing_agrees_with_brute_force(seed: int, images: int) -> None:
    check_timing(shared_program(seed), images)


@pytest.mark.parametrize("seed", range(8))
def test_timing_of_groups_with_more_digits_than_others(seed: int) -> None:
    random = np.random.default_rng(seed)
    rows, columns, converter = 16, 8, Converter(4, int(random.choice([1, 2])), 4)
    tile = random_tile(random, np.arange(rows), np.arange(columns), 1, shifts=5)
    some = random_windows(random, tile, converter)
    target = machine(rows=rows, columns=columns, concurrent_rows=16, adc={"crossbars": int(random.choice([1, 2]))})
    program, _ = digits_program(random, tile, some, converter, 3, **target)
    check_timing(program, 1)


@pytest.mark.parametrize("seed", range(4))
def test_passes_count_what_programs_do(seed: int) -> None:
    """Bytes between cores and work of converters, as `assign-cores` knows them before there is a program."""
    rng = np.random.default_rng(seed)
    g = GraphMaker(rng)
    flat = {"kernel": (1, 1), "pads": (0, 0, 0, 0)}
    y = g.conv(g.quantize(g.input("x", (1, 20, 3, 3))), int(rng.integers(10, 40)), **flat)
    module = g.finish(g.dequantize(g.conv(y, 4, **flat)), g.dequantize(y))
    adc = {**targets.load("sme").adc.model_dump(), "crossbars": 4, "per_bank": 1}
    numbers = {"rows": 16, "columns": 16, "crossbars_per_core": 16, "adc_bits": 6, "adc": adc}
    base = targets.load("sme")
    context = PassContext(target=type(base).model_validate({**base.model_dump(), **numbers}), act_bits=8)
    parse_pipeline("tile,squeeze-out{depth=2},slice-bits,group-rows").run(module, context)
    share_digits(module, context, rng)
    parse_pipeline("assign-cores{route=false share=false},emit").run(module, context)
    program = assembled(module)
    traffic = core_traffic(module.graph, [op.xbar_core.array for op in crossbar_layers(module)])
    expected: Counter[tuple[int, int]] = Counter()
    for a, b, size in traffic.edges(data="bytes"):
        first, second = sorted(0 if end == "host" else end for end in (a, b))
        if first != second:
            expected[first, second] += size
    assert sent(program) == expected
    bank: Counter[int] = Counter()
    report = time_program(program)
    for task in report.graph.tasks:
        if task.mnemonic == "mvm":
            for b, conversions in report.graph.tiles.banks[task.use]:
                bank[b] += conversions * int(task.points.sum())
    assert max(bank.values()) == context.report["assign-cores"]["workload"]["objective"]


# -- what is refused ---------------------------------------------------------------------------------------------------


def grouped() -> tuple[ModuleOp, PassContext]:
    """A layer of 3 x 3 pixels and 8 digits that five copies share, before `assign-cores`."""
    g = GraphMaker(np.random.default_rng(3))
    module = g.finish(g.dequantize(g.conv(g.quantize(g.input("x", (1, 4, 3, 3))), 8)))
    context = PassContext(target=targets.load("sme"), act_bits=8)
    parse_pipeline("tile,slice-bits,group-rows,replicate{crossbars=5}").run(module, context)
    return module, context


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("cuts = array<i64: 14,", "cuts = array<i64: 3, 14,", "5 copies (expected 4 cuts, found 5)"),
        ("cuts = array<i64: 14,", "cuts = array<i64:", "5 copies (expected 4 cuts, found 3)"),
        ("28, 43", "28, 28", "bad cut between copies of layer 'layer1' (expected ascending numbers"),
        ("i64: 14", "i64: 0", "(expected ascending numbers from 1 to 71, found 0)"),
        ("i64: 14", "i64: -3", "(expected ascending numbers from 1 to 71, found -3)"),
        ("57>", "72>", "(expected ascending numbers from 1 to 71, found 72)"),
        ("pixel_digits = 8", "pixel_digits = 0", "bad 'pixel_digits' of layer 'layer1' (expected 1 or more, found 0)"),
        ("pixel_digits = 8", "pixel_digits = 9", "bad 'pixel_digits' of layer 'layer1' (expected 8, found 9)"),
        ("copies = 5", "copies = 10", "10 copies (expected 9 cuts, found 4)"),
        ("copies = 5 : i64, cuts = array<i64: 14, 28, 43, 57>", "copies = 10 : i64", "(expected 1 to 9, found 10)"),
        ("copies = 5 : i64, cuts = array<i64: 14, 28, 43, 57>", "copies = 0 : i64", "(expected 1 to 9, found 0)"),
    ],
)
def test_malformed_cuts_are_refused(old: str, new: str, message: str) -> None:
    module, context = grouped()
    text = print_module(module)
    assert text.count(old) == 1
    changed = text.replace(old, new)
    again = parse_module(changed, "f.mlir", weights=handles(module))
    with pytest.raises(SmecError) as caught:
        parse_pipeline("assign-cores,emit").run(again, context)
    assert message in str(caught.value) and caught.value.location is not None


@pytest.mark.parametrize(
    ("first", "digits", "message"),
    [
        (3, 0, "instruction 2 (mvm): 'first' is set, but not 'digits' (expected 0, found 3)"),
        (0, 17, "instruction 2 (mvm): 'first' and 'digits' leave the tile's input digits (expected at most 8 in all"),
        (8, 1, "leave the tile's input digits (expected at most 8 in all, found 9)"),
        (65535, 65535, "leave the tile's input digits (expected at most 8 in all, found 131070)"),
    ],
)
def test_malformed_digits_are_refused(first: int, digits: int, message: str) -> None:
    program = demo()
    code = program.sections["code"].copy()
    (at, *_) = np.flatnonzero(code[:, 0] == encode("mvm", dst=0, src=0, tile=0)[0])
    code[at, 4] = first | digits << 16
    changed = program.replace_section("code", code)
    with pytest.raises(SmecError) as caught:
        changed.validate()
    assert message.replace("instruction 2", f"instruction {at}") in str(caught.value)


def test_operands_that_are_not_given_are_zero() -> None:
    plain = encode("mvm", dst=3, src=1, tile=2)
    assert plain.tolist() == [1, 3, 1, 2, 0, 0, 0, 0]
    assert encode("mvm", dst=3, src=1, tile=2, first=4, digits=3).tolist() == [1, 3, 1, 2, 4 | 3 << 16, 0, 0, 0]
    (step,) = decode(plain[None])
    assert step.operands["first"] == step.operands["digits"] == 0
    assert str(step) == "mvm dst=3 src=1 tile=2"
    with pytest.raises(SmecError, match="'digits' does not fit"):
        encode("mvm", dst=3, src=1, tile=2, digits=1 << 16)
    with pytest.raises(SmecError, match="wrong operands"):
        encode("mvm", dst=3, src=1)
    with pytest.raises(SmecError, match="wrong operands"):
        encode("mvm", dst=3, src=1, tile=2, last=3)
