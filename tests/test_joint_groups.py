"""Groups that crossbars side by side share: still lossless, timed as promised, and programs that compute the same."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_grouping import assert_lossless, group_loads, packed, price

from graphs import GraphMaker, sample
from programs import lower
from smec.ir.dialects.builtin import ModuleOp
from smec.ir.interpreter import interpret
from smec.ir.types import Handle
from smec.passes.mapping.grouping import Reader
from smec.passes.mapping.joint import group_layer, join
from smec.passes.mapping.row_exact import spans_of_groups
from smec.passes.mapping.row_improve import Effort
from smec.passes.mapping.row_packing import LEVELS
from smec.passes.mapping.row_search import interval_needs, search
from smec.passes.mapping.slicing import unpack_cells
from smec.runtime.container import Program
from smec.runtime.simulator import Simulator
from smec.runtime.timing.machine import Machine
from smec.runtime.timing.tiles import tile_costs

PIPELINE = "tile,{}slice-bits,group-rows{{{}}},assign-cores{{share=false}},emit"


def random_tiles(
    random: np.random.Generator, tiles: int, rows: int, columns: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One-bit cells [X, R, C] of tiles of random widths, the tile of each, and the widths."""
    widths = random.integers(1, columns + 1, tiles)
    tile = np.repeat(np.arange(tiles), random.integers(0, 7, tiles))
    cells = random.random((len(tile), rows, columns)) < random.choice([0.02, 0.3, 0.8], (len(tile), 1, 1))
    cells[np.arange(columns) >= widths[tile][:, None, None].repeat(rows, axis=1)] = False
    return cells, tile, widths


@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(1, 20), st.integers(1, 9), st.booleans())
def test_units_are_grouped_without_loss(seed: int, adc_bits: int, concurrent: int, act_bits: int, beside: bool) -> None:
    random = np.random.default_rng(seed)
    cells, tile, widths = random_tiles(random, 4, 20, 16)
    shifts = random.integers(0, 3, (4, 20)).astype(np.uint8)
    reader = Reader(adc_bits, 1, concurrent, act_bits)
    effort = Effort(limit=0.01)
    found = group_layer(packed(cells), tile, shifts, widths, 16, 1, reader, effort=effort, beside=beside)
    assert_lossless(cells, found.row_group, reader)
    assert (found.bound <= found.reads).all()
    units = join(packed(cells), tile, widths, 16, 1, beside)
    own = np.zeros(len(units.tile), np.int64)
    np.add.at(own, units.unit, price(found.row_group, shifts[tile], act_bits, 1))
    assert (found.reads <= own).all()
    for u in range(len(units.tile)):
        mine = np.flatnonzero(units.unit == u)
        assert set(tile[mine]) == {units.tile[u]}
        assert len(mine) * widths[units.tile[u]] <= 16 or len(mine) == 1
        joined = np.concatenate([cells[x, :, : widths[tile[x]]] for x in mine], axis=1)
        got = unpack_cells(units.cells[u], 16, 1)
        assert np.array_equal(got[:, : joined.shape[1]], joined)
        assert not got[:, joined.shape[1] :].any()
    if not beside:
        assert np.array_equal(found.reads, own)


def test_planes_side_by_side_share_their_reads() -> None:
    # Two planes of four columns; each column of either holds eight ones, so that three ADC bits call for two groups.
    random = np.random.default_rng(1)
    cells = np.zeros((2, 16, 8), bool)
    for x, n in itertools.product(range(2), range(4)):
        cells[x, random.permutation(16)[:8], n] = True
    layer = packed(cells), np.zeros(2, np.int64), np.zeros((1, 16), np.uint8), np.array([4]), 8, 1, Reader(3, 1, 16, 8)
    together, apart = (group_layer(*layer, effort=Effort(), beside=beside) for beside in (True, False))
    assert together.reads.tolist() == together.bound.tolist() == [16]
    assert apart.reads.tolist() == [16, 16]
    first, second = together.row_group
    both = (first >= 0) & (second >= 0)
    assert np.array_equal(first[both], second[both])


def test_groups_without_a_one_keep_their_number() -> None:
    # Rows two by two in three groups; the second crossbar has nothing in the group that the first calls 1 or 2.
    cells = np.zeros((2, 6, 8), bool)
    cells[0, :4, 0] = True
    cells[1, [0, 1, 4, 5], 0] = True
    layer = packed(cells), np.zeros(2, np.int64), np.zeros((1, 6), np.uint8), np.array([4]), 8, 1
    found = group_layer(*layer, Reader(8, 1, 2, 8))
    for group in found.row_group:
        assert sorted(set(group[group >= 0].tolist())) == list(range(group.max() + 1))
    assert found.reads.tolist() == [24]
    assert_lossless(cells, found.row_group, Reader(8, 1, 2, 8))


@given(
    st.integers(0, 2**32 - 1), st.integers(1, 24), st.integers(1, 12), st.integers(1, 4), st.integers(1, 12),
    st.integers(1, 3),
)  # fmt: skip
def test_search_finds_what_fits(seed: int, rows: int, columns: int, groups: int, most: int, largest: int) -> None:
    """Cells that were made to fit some groups: what the search returns fits them too, and needs are no more."""
    random = np.random.default_rng(seed)
    cell = random.integers(0, largest + 1, (rows, columns)).astype(np.uint8)
    cell[:, 0] = np.maximum(cell[:, 0], 1)
    shifts = random.integers(0, 3, rows).astype(np.uint8)
    made = random.integers(0, groups, rows)
    used = np.unique(made)
    capacity = int(max(cell[made == g].sum(axis=0, dtype=int).max() for g in used))
    most = max(most, int(np.bincount(made).max()))
    low, high = (np.array([f(shifts[made == g]) for g in used], np.int64) for f in (np.min, np.max))
    levels = np.unique(shifts).astype(np.int64)
    needs = np.zeros((len(levels), len(levels)), np.int64)
    interval_needs(cell, shifts, np.arange(rows), levels, capacity, most, needs)
    for p, q in itertools.combinations_with_replacement(range(len(levels)), 2):
        assert needs[p, q] <= ((low <= levels[q]) & (high >= levels[p])).sum()
    group = np.full(rows, -1, np.int16)
    if search(cell, shifts, np.arange(rows), low, high, capacity, most, 200, 1, group) >= 0:
        (load,) = group_loads(cell[None], group[None], 1)
        assert load.max() <= capacity
        assert np.bincount(group).max() <= most
        assert (low[group] <= shifts).all() and (shifts <= high[group]).all()


def test_search_packs_tightly() -> None:
    # Columns of exactly 4 x 7 ones in 64 rows: four groups of seven must be found, not one more.
    random = np.random.default_rng(0)
    cell = np.zeros((64, 32), np.uint8)
    for n in range(32):
        cell[random.permutation(64)[:28], n] = 1
    group = np.full(64, -1, np.int16)
    levels = np.zeros(4, np.int64)
    steps = search(cell, np.zeros(64, np.uint8), np.arange(64), levels, levels, 8, 64, 400, 1, group)
    assert steps >= 0
    (load,) = group_loads(cell[None], group[None], 1)
    assert load.shape[0] == 4 and load.max() <= 8


@given(st.lists(st.integers(0, 3), min_size=6, max_size=6), st.integers(1, 8), st.integers(1, 2))
def test_spans_are_the_cheapest(some: list[int], act_bits: int, dac_bits: int) -> None:
    """Against every multiset of up to four intervals of three shifts."""
    levels = (0, 1, 4)
    pairs = [(a, b) for a in range(3) for b in range(a, 3)]
    need = {pair: max(1, n) for pair, n in zip(pairs, some, strict=True)}
    for a, b in pairs:  # an interval needs what a part of it needs
        need[a, b] = min(4, max(need[p, q] for p, q in pairs if a <= p <= q <= b))
    table = tuple(tuple(need.get((a, b), 0) for b in range(3)) for a in range(3))

    def cost(chosen: tuple[tuple[int, int], ...]) -> int:
        return sum(-(-(act_bits + levels[b] - levels[a]) // dac_bits) for a, b in chosen)

    def meets(chosen: tuple[tuple[int, int], ...]) -> bool:
        return all(sum(a <= q and b >= p for a, b in chosen) >= n for (p, q), n in need.items())

    best = min(
        cost(chosen)
        for size in range(1, 8)
        for chosen in itertools.combinations_with_replacement(pairs, size)
        if meets(chosen)
    )
    found = spans_of_groups(levels, table, act_bits, dac_bits, 0, 1000)
    assert found is not None
    assert found.cost == found.bound == best
    assert spans_of_groups(levels, table, act_bits, dac_bits, 0, best) is None
    dearer = spans_of_groups(levels, table, act_bits, dac_bits, best + 1, 1000)
    assert dearer is not None and dearer.cost > best
    assert max(high for _, high in found.groups) < LEVELS


def gemm_module(weight: np.ndarray, rng: np.random.Generator) -> ModuleOp:
    """One matrix product, with these integers [M, K]."""
    g = GraphMaker(rng)
    y = g.gemm(g.quantize(g.input("x", (2, weight.shape[1]))), weight.shape[0])
    module = g.finish(g.dequantize(y))
    for op in module.graph.ops:
        if "weight" in op.attributes:
            op.attributes["weight"] = Handle(weight.astype(np.int16))
    return module


def assert_exact(program: Program, module: ModuleOp, rng: np.random.Generator, squeezed: bool = False) -> None:
    """The engines agree with one another and, unless squeeze-out rounded, with the interpreter; inputs saturate too."""
    inputs = sample(module, rng)
    for array in inputs.values():
        array[-1] = 100
    exact, adc = (Simulator(program).run(inputs, engine=engine).outputs for engine in ("exact", "adc"))
    for name, array in exact.items():
        np.testing.assert_array_equal(adc[name], array)
    if not squeezed:
        for name, array in interpret(module, inputs).items():
            np.testing.assert_array_equal(exact[name].reshape(array.shape), array)


@pytest.mark.parametrize("rows", [1, 127, 128, 129])
@pytest.mark.parametrize("kind", ["random", "zero", "largest", "column"])
@pytest.mark.parametrize("adc_bits", [3, 6])
def test_engines_agree_at_the_edges(rows: int, kind: str, adc_bits: int) -> None:
    rng = np.random.default_rng(rows)
    shape = (1 if kind == "column" else 5, rows)
    weight = {"zero": np.zeros(shape), "largest": np.full(shape, 255)}.get(kind, rng.integers(-255, 256, shape))
    module = gemm_module(weight, rng)
    assert_exact(lower(module.clone(), PIPELINE.format("", ""), adc_bits=adc_bits), module, rng)


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1), st.integers(2, 6), st.integers(1, 16), st.booleans())
def test_programs_compute_the_same_and_read_as_promised(
    seed: int, adc_bits: int, concurrent: int, squeezed: bool
) -> None:
    rng = np.random.default_rng(seed)
    g = GraphMaker(rng)
    x = g.quantize(g.input("x", (1, 2, 3, 3)))
    y = g.conv(g.conv(x, int(rng.integers(1, 12))), int(rng.integers(1, 9)))
    module = g.finish(g.dequantize(y))
    squeeze = "squeeze-out{depth=3},compact," if squeezed else ""
    numbers = {"rows": 16, "columns": 16, "adc_bits": adc_bits, "concurrent_rows": concurrent}
    report: dict[str, Any] = {}
    program = lower(module.clone(), PIPELINE.format(squeeze, "limit=0.01"), report=report, **numbers)
    assert_exact(program, module, rng, squeezed)
    costs = tile_costs(program, Machine.from_target(program.metadata["target"]))
    reads = sum(reads for arrays in costs.arrays for _, reads in arrays)
    promised = report["group-rows"]
    if any(layer["read_apart"] for layer in promised["layers"]):
        assert reads <= promised["reads"]  # some of them may agree after all
    else:
        assert reads == promised["reads"]
