"""Engines `exact`, `adc` and `auto` against a brute-force model of the crossbars that is written out here.

The model reads every crossbar digit by digit and column by column, as DESIGN section 2 says; programs are built
section by section (`crossbar_programs`), with random cells, groups, shifts, splice weights, offsets, placements and
sizes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from crossbar_programs import U8, U16, Network
from hypothesis import given
from hypothesis import strategies as st

from smec.ir.errors import SmecError
from smec.runtime.container import Program
from smec.runtime.simulator import SimResult, Simulator, adc_reads, cycles, simulate


@dataclass
class Plane:
    """One crossbar: splice weight, cells [rows, columns], row group of each row."""

    weight: int
    cells: np.ndarray
    group: np.ndarray


@dataclass
class Tile:
    """Addresses of rows and columns (-1 unused), row shifts, offset, crossbars."""

    rows: np.ndarray
    cols: np.ndarray
    shift: np.ndarray
    offset: int
    planes: list[Plane]


@dataclass
class Converter:
    """A, d, B."""

    act_bits: int
    dac_bits: int
    adc_bits: int


def brute_force(tile: Tile, inputs: np.ndarray, converter: Converter) -> tuple[np.ndarray, int, int]:
    """int64 [pixels, columns] for inputs [pixels, rows], saturated reads, all reads."""
    used_rows, used_cols = tile.rows >= 0, tile.cols >= 0
    total = np.zeros((len(inputs), len(tile.cols)), np.int64)
    saturated = reads = 0
    top = 2**converter.adc_bits - 1
    for plane in tile.planes:
        for group in range(plane.group.max(initial=-1) + 1):
            driven = [r for r in range(len(tile.rows)) if plane.group[r] == group]
            lowest = min(int(tile.shift[r]) for r in driven)
            highest = max(int(tile.shift[r]) for r in driven)
            for digit in range(-(-(converter.act_bits + highest - lowest) // converter.dac_bits)):
                current = np.zeros_like(total)
                for r in driven:
                    fed = inputs[:, r] << (int(tile.shift[r]) - lowest)
                    level = (fed >> (digit * converter.dac_bits)) % 2**converter.dac_bits
                    current += level[:, None] * plane.cells[r]
                saturated += int((current[:, used_cols] > top).sum())
                reads += current[:, used_cols].size
                total += plane.weight * np.minimum(current, top) * 2 ** (lowest + digit * converter.dac_bits)
    total -= tile.offset * inputs[:, used_rows].sum(axis=1, keepdims=True)
    return total, saturated, reads


def random_tile(
    random: np.random.Generator,
    rows: np.ndarray,
    cols: np.ndarray,
    cell_bits: int,
    *,
    planes: int = 3,
    groups: int = 3,
    shifts: int = 4,
    fill: str = "random",
    offset: int = 0,
) -> Tile:
    """A tile whose crossbars hold zeros, the largest digit, or random ones."""
    made = []
    for p in range(planes):
        shape = (len(rows), len(cols))
        largest = 2**cell_bits - 1
        cells = {
            "zero": np.zeros(shape, np.int64),
            "full": np.full(shape, largest),
            "random": random.integers(0, largest + 1, shape),
        }[fill]
        group = np.where(rows >= 0, random.integers(-1 if groups > 1 else 0, groups, len(rows)), -1)
        known, number = np.unique(group[group >= 0], return_inverse=True)
        group[group >= 0] = number if len(known) else 0
        made.append(Plane(int(random.choice([-1, 1])) << (p * cell_bits), cells, group))
    return Tile(rows, cols, random.integers(0, shifts, len(rows)), offset, made)


def add_tile(network: Network, tile: Tile, **more: Any) -> int:
    """The tile's number in the program."""
    planes = [(p.weight, p.cells, p.group) for p in tile.planes]
    return network.tile(tile.rows, tile.cols, tile.shift, tile.offset, planes, **more)


def product_program(
    random: np.random.Generator, tiles: list[Tile], k: int, m: int, pixels: int, converter: Converter, **more: Any
) -> tuple[Program, np.ndarray]:
    """A program that multiplies [pixels, k] inputs by tiles, on one core, and its init table."""
    target = {name: more.pop(name) for name in list(more) if name in ("rows", "columns", "cell_bits")}
    network = Network(converter.act_bits, dac_bits=converter.dac_bits, adc_bits=converter.adc_bits, **target)
    wide = converter.act_bits > 8
    x, acc = network.buffer(pixels * k, U16 if wide else U8), network.acc(pixels * m, **more)
    network.port("x", network.agu(x), (pixels, k), "uint16" if wide else "uint8")
    layer = network.layer()
    table = random.integers(-1000, 1000, m)
    network.emit("init", dst=network.agu(acc, 0, (pixels, m), (m, 1)), table=network.table("pool_i64", table), length=m)
    for tile in tiles:
        index = add_tile(network, tile)
        network.emit("mvm", dst=network.agu(acc, 0, (pixels, m)), src=network.agu(x, 0, (pixels, k)), tile=index)
    network.requant(acc, ((pixels, m), (m, 1)), layer, m)
    return network.program(), table


def expected_sums(
    tiles: list[Tile], inputs: np.ndarray, table: np.ndarray, converter: Converter
) -> tuple[np.ndarray, int, int]:
    """Accumulators int64 [images, pixels, m], saturated reads, all reads."""
    images, pixels, _ = inputs.shape
    sums = np.broadcast_to(table, (images, pixels, len(table))).astype(np.int64)
    saturated = reads = 0
    for tile in tiles:
        flat = inputs.reshape(images * pixels, -1).astype(np.int64)
        out, clipped, read = brute_force(
            tile, np.where(tile.rows >= 0, flat[:, np.maximum(tile.rows, 0)], 0), converter
        )
        used = tile.cols >= 0
        sums[:, :, tile.cols[used]] += out[:, used].reshape(images, pixels, -1)
        saturated, reads = saturated + clipped, reads + read
    return sums, saturated, reads


def compare(result: SimResult, sums: np.ndarray, saturated: int, reads: int, dtype: type = np.int32) -> None:
    assert result.accumulators is not None
    np.testing.assert_array_equal(result.accumulators["layer0"], sums.astype(dtype))
    assert result.saturated == {"layer0": saturated}
    assert result.reads == {"layer0": reads}


# -- random crossbars --------------------------------------------------------------------------------------------------

ROWS = st.sampled_from([1, 5, 64, 127, 128, 129])


@given(
    seed=st.integers(0, 2**32 - 1),
    rows=ROWS,
    columns=st.sampled_from([1, 3, 8, 9]),
    cell_bits=st.integers(1, 4),
    dac_bits=st.integers(1, 3),
    adc_bits=st.integers(1, 9),
    act_bits=st.sampled_from([1, 3, 4, 8, 9, 12]),
    fill=st.sampled_from(["random", "random", "full", "zero"]),
    groups=st.sampled_from([1, 4]),
    pixels=st.sampled_from([1, 3, 70]),
    offset=st.sampled_from([0, 128]),
)
def test_engines_equal_the_model(
    seed: int, rows: int, columns: int, cell_bits: int, dac_bits: int, adc_bits: int, act_bits: int, fill: str,
    groups: int, pixels: int, offset: int,
) -> None:  # fmt: skip
    random = np.random.default_rng(seed)
    converter = Converter(act_bits, dac_bits, adc_bits)
    tiles = []
    for row_block in range(2):
        for column_block in range(2):
            at = row_block * rows + np.arange(rows), column_block * columns + np.arange(columns)
            kept = [np.where(random.random(len(a)) < 0.9, a, -1) for a in at]
            tiles.append(random_tile(random, *kept, cell_bits, groups=groups, fill=fill, offset=offset, planes=2))
    more = {"rows": rows, "columns": columns, "cell_bits": cell_bits}
    program, table = product_program(random, tiles, 2 * rows, 2 * columns, pixels, converter, **more)
    inputs = random.integers(0, 2**act_bits, (2, pixels, 2 * rows)).astype(np.uint16 if act_bits > 8 else np.uint8)
    inputs[0, 0] = 2**act_bits - 1
    sums, saturated, reads = expected_sums(tiles, inputs, table, converter)
    simulator = Simulator(program)
    for engine in ("adc", "auto"):
        compare(simulator.run({"x": inputs}, engine, trace_accumulators=True), sums, saturated, reads)
    try:
        result = simulator.run({"x": inputs}, "exact", trace_accumulators=True)
    except SmecError as error:
        assert "layer0" in str(error)
        return
    assert saturated == 0
    compare(result, sums, saturated, reads)


@pytest.mark.parametrize("span", [0, 3])
def test_lossless_proof_is_tight(span: int) -> None:
    """15 full rows fit a 4-bit ADC, 16 do not; with shifts that part the rows' bits, more do."""
    random = np.random.default_rng(1)
    for rows, shift, fits in ((15, 0, True), (16, 0, False), (16, span, span >= 3)):
        converter = Converter(3, 1, 4)
        tile = random_tile(random, np.arange(rows), np.arange(2), 1, planes=1, groups=1, fill="full")
        tile.shift = np.where(np.arange(rows) % 2, shift, 0)
        program, _ = product_program(random, [tile], rows, 2, 1, converter, rows=16)
        inputs = np.full((1, 1, rows), 7, np.uint8)
        result = simulate(program, {"x": inputs}, "adc")
        assert (result.saturated["layer0"] == 0) == fits
        assert simulate(program, {"x": inputs}, "auto").engines == {"layer0": "exact" if fits else "adc"}
        if not fits:
            with pytest.raises(SmecError, match="layer 'layer0': engine 'exact'"):
                simulate(program, {"x": inputs}, "exact")


def test_sparse_cells_are_lossless_by_their_contents() -> None:
    """128 driven rows with 15 ones a column: only the cells show that a 4-bit ADC suffices."""
    random = np.random.default_rng(2)
    tile = random_tile(random, np.arange(128), np.arange(8), 1, planes=1, groups=1, fill="zero")
    for column in range(8):
        tile.planes[0].cells[random.permutation(128)[:15], column] = 1
    program, table = product_program(random, [tile], 128, 8, 3, Converter(8, 1, 4), rows=128)
    inputs = random.integers(0, 256, (4, 3, 128)).astype(np.uint8)
    sums, saturated, reads = expected_sums([tile], inputs, table, Converter(8, 1, 4))
    for engine in ("exact", "adc", "auto"):
        result = simulate(program, {"x": inputs}, engine, trace_accumulators=True)
        compare(result, sums, saturated, reads)
        assert result.engines == {"layer0": "adc" if engine == "adc" else "exact"}


def test_engines_mix_within_a_layer() -> None:
    random = np.random.default_rng(3)
    converter = Converter(8, 1, 3)
    few = random_tile(random, np.arange(7), np.arange(4), 1, groups=1)
    many = random_tile(random, np.arange(7, 27), np.arange(4), 1, groups=1, fill="full")
    program, table = product_program(random, [few, many], 27, 4, 5, converter, rows=32)
    inputs = random.integers(0, 256, (3, 5, 27)).astype(np.uint8)
    expected = expected_sums([few, many], inputs, table, converter)
    assert expected[1] > 0
    result = simulate(program, {"x": inputs}, "auto", trace_accumulators=True)
    compare(result, *expected)
    assert result.engines == {"layer0": "mixed"}


# -- shapes of the exact engine ----------------------------------------------------------------------------------------


def test_long_sums_are_split_and_wide_ones_use_64_bits() -> None:
    """16-bit inputs times 8-bit weights: float32 would need a piece a row; accumulators exceed 32 bits."""
    random = np.random.default_rng(4)
    converter = Converter(16, 1, 9)
    k = 400
    tiles = [
        random_tile(random, np.arange(at, at + 100), np.arange(3), 1, planes=14, groups=1, shifts=1)
        for at in range(0, k, 100)
    ]
    for tile in tiles:
        for plane in tile.planes:
            plane.weight = abs(plane.weight)
    program, table = product_program(random, tiles, k, 3, 2, converter, rows=100, wide=True)
    inputs = random.integers(60000, 65536, (2, 2, k)).astype(np.uint16)
    expected = expected_sums(tiles, inputs, table, converter)
    assert expected[0].max() > 2**31
    for engine in ("exact", "adc"):
        compare(simulate(program, {"x": inputs}, engine, trace_accumulators=True), *expected, dtype=np.int64)


def test_float32_pieces_of_k() -> None:
    random = np.random.default_rng(5)
    k, converter = 1024, Converter(8, 1, 8)
    tiles = [
        random_tile(random, np.arange(at, at + 128), np.arange(6), 1, planes=8, groups=1, shifts=1, fill="full")
        for at in range(0, k, 128)
    ]
    for tile in tiles:
        for plane in tile.planes:
            plane.weight = abs(plane.weight)  # 255 each: 1024 * 255 * 255 exceeds 2^24
    program, table = product_program(random, tiles, k, 6, 3, converter, rows=128)
    inputs = np.full((2, 3, k), 255, np.uint8)
    inputs[1] = random.integers(0, 256, (3, k))
    expected = expected_sums(tiles, inputs, table, converter)
    simulator = Simulator(program)
    compare(simulator.run({"x": inputs}, "exact", trace_accumulators=True), *expected)
    (part,) = simulator.plan.units[0].parts["exact"]
    assert part.dtype is np.float32 and len(part.splits) > 1  # type: ignore[attr-defined]


def grouped_program(
    random: np.random.Generator, groups: int, taps: int, outputs: int, per_tile: int, stride: int
) -> tuple[Program, np.ndarray, int, int]:
    """A 1-D convolution with groups of one input channel, weights [taps, groups, outputs], a few groups a tile."""
    network = Network(8, rows=per_tile * taps, columns=per_tile * outputs)
    length = 11
    out_length = (length - taps) // stride + 1
    weights = random.integers(-1, 2, (taps, groups, outputs))
    weights[:, 1] = 0  # one group without any weight
    m = groups * outputs
    x, acc = network.buffer(length * groups), network.acc(out_length * m)
    network.port("x", network.agu(x), (length, groups), "uint8")
    layer = network.layer()
    network.emit(
        "init", dst=network.agu(acc, 0, (out_length, m), (m, 1)), table=network.table("pool_i64", np.zeros(m)), length=m
    )
    for first in range(0, groups, per_tile):
        members = np.arange(first, min(first + per_tile, groups))
        rows = (np.arange(taps)[:, None] * groups + members).reshape(-1)
        cols = (members[:, None] * outputs + np.arange(outputs)).reshape(-1)
        dense = np.zeros((taps, len(members), len(members), outputs), np.int64)
        for i, g in enumerate(members):
            dense[:, i, i] = weights[:, g]
        dense = dense.reshape(len(rows), len(cols))
        zero = np.zeros(len(rows), np.int64)
        planes = [(1, np.maximum(dense, 0), zero), (-1, np.maximum(-dense, 0), zero)]
        tile = network.tile(rows, cols, zero, 0, planes)
        network.emit(
            "mvm",
            dst=network.agu(acc, 0, (out_length, m)),
            src=network.agu(x, 0, (out_length, stride * groups)),
            tile=tile,
        )
    network.requant(acc, ((out_length, m), (m, 1)), layer, m)
    return network.program(), weights, length, out_length


@pytest.mark.parametrize("outputs", [1, 2, 3])
@pytest.mark.parametrize("stride", [1, 2])
def test_depthwise_and_grouped(outputs: int, stride: int) -> None:
    """Block-diagonal tiles: taps for one output a group, batched products else; an empty group gives zeros."""
    random = np.random.default_rng(6)
    program, weights, length, out_length = grouped_program(random, 12, 3, outputs, 5, stride)
    inputs = random.integers(0, 256, (3, length, 12)).astype(np.uint8)
    windows = np.stack([inputs[:, i * stride : i * stride + 3] for i in range(out_length)], axis=1).astype(np.int64)
    sums = np.einsum("bptg,tgo->bpgo", windows, weights).reshape(3, out_length, -1)
    simulator = Simulator(program)
    for engine in ("exact", "adc"):
        result = simulator.run({"x": inputs}, engine, trace_accumulators=True)
        assert result.accumulators is not None
        np.testing.assert_array_equal(result.accumulators["layer0"], sums)
    kinds = {type(part).__name__ for part in simulator.plan.units[0].parts["exact"]}
    assert ("TapsPart" in kinds) == (outputs == 1)
    assert ("BlocksPart" in kinds) == (outputs > 1)


def test_packed_blocks_of_one_physical_crossbar() -> None:
    """A block away from the corner, cells that straddle bytes."""
    random = np.random.default_rng(8)
    converter = Converter(8, 1, 8)
    tile = random_tile(random, np.arange(5), np.arange(4), 3, groups=1)
    network = Network(8, rows=16, columns=9, cell_bits=3)
    x, acc = network.buffer(5), network.acc(4)
    network.port("x", network.agu(x), (5,), "uint8")
    layer = network.layer()
    index = add_tile(network, tile, corner=(7, 5))
    network.emit("mvm", dst=network.agu(acc, 0, (1, 0)), src=network.agu(x, 0, (1, 0)), tile=index)
    network.requant(acc, ((4, 1),), layer, 4)
    program = network.program()
    inputs = random.integers(0, 256, (6, 5)).astype(np.uint8)
    sums = expected_sums([tile], inputs[:, None], np.zeros(4, np.int64), converter)[0]
    for engine in ("exact", "adc"):
        result = simulate(program, {"x": inputs}, engine, trace_accumulators=True)
        assert result.accumulators is not None
        np.testing.assert_array_equal(result.accumulators["layer0"], sums)


# -- what surrounds the engines ----------------------------------------------------------------------------------------


def small_program(seed: int = 0) -> tuple[Program, np.ndarray]:
    random = np.random.default_rng(seed)
    tile = random_tile(random, np.arange(10), np.arange(6), 1)
    program, _ = product_program(random, [tile], 10, 6, 4, Converter(6, 1, 8))
    return program, random.integers(0, 64, (7, 4, 10)).astype(np.uint8)


@pytest.mark.parametrize("batch", [1, 2, 7, 100])
def test_batches_give_the_same(batch: int) -> None:
    program, inputs = small_program()
    whole = simulate(program, {"x": inputs}, trace_accumulators=True)
    parts = simulate(program, {"x": inputs}, batch=batch, trace_accumulators=True)
    np.testing.assert_array_equal(whole.outputs["y0"], parts.outputs["y0"])
    assert whole.accumulators is not None and parts.accumulators is not None
    np.testing.assert_array_equal(whole.accumulators["layer0"], parts.accumulators["layer0"])
    assert whole.reads == parts.reads
    assert (parts.images, parts.batch) == (7, min(batch, 7))


def test_thread_counts_give_the_same() -> None:
    program, inputs = small_program()
    inputs = np.tile(inputs, (50, 1, 1))
    results = [Simulator(program, threads).run({"x": inputs}, "adc").outputs["y0"] for threads in (1, 2, 3)]
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])


def test_a_changed_cell_changes_the_result() -> None:
    """What is kept for a program does not survive a change of it; weights come from the cells."""
    program, inputs = small_program()
    before = simulate(program, {"x": inputs}, trace_accumulators=True).accumulators
    crossbar, row = np.argwhere(program.sections["xbar_group"] >= 0)[0]
    program.sections["cells"][program.sections["xbar_phys"][crossbar], row, 0] ^= 1
    for engine in ("exact", "adc"):
        after = simulate(program, {"x": inputs}, engine, trace_accumulators=True).accumulators
        assert before is not None and after is not None
        assert (before["layer0"] != after["layer0"]).any()


def test_inputs_are_not_changed() -> None:
    program, inputs = small_program()
    kept = inputs.copy()
    simulate(program, {"x": inputs})
    np.testing.assert_array_equal(inputs, kept)
    inputs.flags.writeable = False
    simulate(program, {"x": inputs})


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"y": np.zeros((1, 4, 10), np.uint8)}, "wrong inputs"),
        ({}, "wrong inputs"),
        ({"x": np.zeros((1, 4, 9), np.uint8)}, "wrong shape"),
        ({"x": np.uint8(3)}, "wrong shape"),
        ({"x": np.zeros((1, 4, 10), np.float32)}, "wrong dtype"),
        ({"x": np.full((1, 4, 10), 64, np.uint8)}, "out of range"),
    ],
)
def test_wrong_inputs(inputs: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(SmecError, match=message):
        simulate(small_program()[0], inputs)


def test_wrong_options() -> None:
    program, inputs = small_program()
    with pytest.raises(SmecError, match="unknown engine"):
        simulate(program, {"x": inputs}, "digital")
    with pytest.raises(SmecError, match="bad batch"):
        simulate(program, {"x": inputs}, batch=0)


def test_no_images() -> None:
    program, inputs = small_program()
    result = simulate(program, {"x": inputs[:0]})
    assert result.outputs["y0"].shape == (0, 4, 6)
    assert result.images == 0


def test_trace_and_progress() -> None:
    program, inputs = small_program()
    steps: list[tuple[str, int]] = []
    done: list[tuple[int, int]] = []
    simulate(
        program, {"x": inputs}, batch=4, trace=lambda step, images, _: steps.append((step.name, images)),
        progress=lambda *images: done.append(images),
    )  # fmt: skip
    assert steps == [("input", 4), ("requant", 4), ("input", 3), ("requant", 3)]
    assert done == [(4, 7), (7, 7)]


def test_cycles_and_reads() -> None:
    """Two planes: 10 rows in two groups of A and A + 2 cycles, and in one of A + 2; four pixels, six columns."""
    random = np.random.default_rng(0)
    tile = random_tile(random, np.arange(10), np.arange(6), 1, planes=2)
    tile.shift = np.array([1] * 5 + [0, 1, 2, 2, 1])
    tile.planes[0].group = np.array([0] * 5 + [1] * 5)
    tile.planes[1].group = np.zeros(10, np.int64)
    program, _ = product_program(random, [tile], 10, 6, 4, Converter(6, 1, 8))
    assert adc_reads(program).tolist() == [4 * (6 + 8 + 8) * 6]
    counted = cycles(program)
    assert counted.read_per_layer == {"layer0": 4 * max(6 + 8, 8)}
    assert counted.read.sum() == 4 * 14
    # init and halt belong to no layer: ceil(24 / 4 lanes) and 1; requant to its own
    assert counted.clock.tolist() == [[6], [7]]
    assert counted.per_core == [(56, 13)]
