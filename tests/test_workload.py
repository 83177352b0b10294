"""Workload grouping: banks of converters are level, a bound holds, and programs stay the same but faster."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphs import GraphMaker, sample
from programs import lower
from smec import targets
from smec.ir.interpreter import interpret
from smec.passes.mapping.layers import crossbar_layers
from smec.passes.mapping.workload import balance, conversions, reads_of_units
from smec.runtime.simulator import Simulator
from smec.runtime.timing import time_program
from smec.runtime.timing.machine import Machine
from smec.runtime.timing.tiles import tile_costs

PIPELINE = "tile,slice-bits,group-rows,{}assign-cores{},emit"


def loads(slot: np.ndarray, work: np.ndarray, share: int) -> np.ndarray:
    """Work of each bank of one core."""
    return np.bincount(slot // share, weights=work).astype(np.int64)


@given(st.lists(st.integers(0, 30), min_size=1, max_size=5), st.integers(1, 3), st.integers(0, 2), st.integers(1, 4))
def test_banks_are_as_level_as_can_be(work: list[int], share: int, spare: int, tiles: int) -> None:
    """Against every assignment of up to five crossbars to banks."""
    n = len(work)
    per_core = n + spare
    tile = np.arange(n) % tiles
    found = balance(np.zeros(n), np.arange(n), np.array(work), tile, per_core, share, 0.5)
    assert len(set(found.slot.tolist())) == n and found.slot.min() >= 0 and found.slot.max() < per_core
    busiest = int(loads(found.slot, np.array(work), share).max())
    rooms = [min(share, per_core - first) for first in range(0, per_core, share)]
    best = min(
        int(np.bincount(banks, weights=work).max())
        for banks in map(list, itertools.product(range(len(rooms)), repeat=n))
        if (np.bincount(banks, minlength=len(rooms)) <= rooms).all()
    )
    assert found.busiest == busiest == best == found.bound <= found.before
    again = balance(np.zeros(n), np.arange(n), np.array(work), tile, per_core, share, 0.5)
    assert np.array_equal(again.slot, found.slot)
    quick = balance(np.zeros(n), np.arange(n), np.array(work), tile, per_core, share, 0.0)
    assert quick.bound <= best <= quick.busiest


def test_crossbars_of_a_tile_are_spread() -> None:
    # Two tiles of four equal crossbars in two banks: each tile has two in either.
    found = balance(np.zeros(8), np.arange(8), np.full(8, 5), np.repeat([0, 1], 4), 8, 4, 0.5)
    bank = found.slot // 4
    assert np.bincount(bank[:4]).tolist() == np.bincount(bank[4:]).tolist() == [2, 2]
    assert (found.busiest, found.bound, found.before) == (20, 20, 20)


def test_slots_stay_where_nothing_is_shared() -> None:
    found = balance(np.array([0, 0, 1]), np.array([0, 1, 0]), np.array([3, 9, 4]), np.zeros(3), 4, 1, 0.5)
    assert found.slot.tolist() == [0, 1, 0]
    assert found.busiest == found.bound == found.before == 9
    left = balance(np.zeros(3), np.arange(3), np.array([3, 9, 4]), np.zeros(3), 4, 2, None)
    assert left.slot.tolist() == [0, 1, 2]
    assert (left.busiest, left.bound) == (12, 9)


def network(rng: np.random.Generator) -> Any:
    """Three small layers on an image."""
    g = GraphMaker(rng)
    x = g.quantize(g.input("x", (1, 3, 6, 6)))
    y = g.conv(g.conv(x, int(rng.integers(4, 20))), int(rng.integers(2, 12)), strides=(2, 1))
    return g.finish(g.dequantize(g.conv(y, 4, kernel=(1, 1), pads=(0, 0, 0, 0))))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("copies", ["", "replicate{crossbars=120},"])
def test_work_is_what_timing_counts_and_results_stay(seed: int, copies: str) -> None:
    rng = np.random.default_rng(seed)
    module = network(rng)
    adc = {**targets.load("sme").adc.model_dump(), "crossbars": 4, "per_bank": 1}
    numbers: dict[str, Any] = {"adc": adc, "rows": 32, "columns": 32, "adc_bits": 6, "crossbars_per_core": 40}
    report: dict[str, Any] = {}
    levelled = module.clone()
    program = lower(levelled, PIPELINE.format(copies, "{share=false}"), report=report, **numbers)
    plain = lower(module.clone(), PIPELINE.format(copies, "{share=false level=false}"), **numbers)
    figures = report["assign-cores"]["workload"]
    assert figures["bound"] <= figures["objective"] <= figures["unlevelled"]
    # the work of all banks, as the timing model counts conversions
    costs = tile_costs(program, Machine.from_target(program.metadata["target"]))
    bank: dict[int, int] = {}
    for task in time_program(program).graph.tasks:
        if task.mnemonic == "mvm":
            for b, conversions_of in costs.banks[task.use]:
                bank[b] = bank.get(b, 0) + conversions_of * int(task.points.sum())
    assert max(bank.values()) == figures["objective"]
    for op in crossbar_layers(levelled):
        physical = op.xbar_core.array.astype(np.int64) * 1000 + op.xbar_slot.array
        assert conversions(op, physical, 8, 1).shape == physical.shape
    assert time_program(program).interval <= time_program(plain).interval
    inputs = sample(module, rng)
    expected = interpret(module, inputs)
    for engine in ("exact", "adc"):
        for some in (program, plain):
            outputs = Simulator(some).run(inputs, engine=engine).outputs
            for name, array in expected.items():
                np.testing.assert_array_equal(outputs[name].reshape(array.shape), array)


def test_reads_of_crossbars_that_share() -> None:
    # Groups 0 (shifts 0 and 2: ten reads) and 1 (eight reads); the second crossbar drives one row of group 0 alone.
    row_group = np.array([[0, 0, 1, -1], [-1, 0, -1, -1]], np.int16)
    shifts = np.array([[0, 2, 1, 0]] * 2, np.uint8)
    units, own = reads_of_units(row_group, shifts, np.zeros(2, np.int64), 8, 1)
    assert (units.tolist(), own.tolist()) == ([18], [18, 10])
    units, own = reads_of_units(row_group, shifts, np.arange(2), 8, 1)
    assert (units.tolist(), own.tolist()) == ([18, 8], [18, 8])
