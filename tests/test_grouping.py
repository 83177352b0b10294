"""Row groups: lossless for the worst input, within the concurrent rows, priced right, never below the bound."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mapping_layers import Layer, Target, layers, module_of, only_layer, run, targets

from smec.ir.dialects.xbar import MvmOp
from smec.ir.errors import SmecError
from smec.passes.base import PassContext
from smec.passes.compact import Compact
from smec.passes.group_rows import GroupRows
from smec.passes.mapping.grouping import Grouped, Reader, group_rows
from smec.passes.mapping.row_improve import Effort
from smec.passes.mapping.slicing import unpack_cells
from smec.passes.slice_bits import SliceBits
from smec.passes.squeeze_out import SqueezeOut
from smec.passes.tile import Tile


def packed(cells: np.ndarray) -> np.ndarray:
    """One-bit cells [X, R, C] as the layers hold them."""
    return np.packbits(cells.astype(np.uint8), axis=-1, bitorder="little")


def group_loads(cells: np.ndarray, row_group: np.ndarray, digit: int) -> list[np.ndarray]:
    """Currents int64 [groups, C] of each crossbar, every row of a group fed the digit, for cells [X, R, C]."""
    loads = []
    for cell, group in zip(cells.astype(np.int64) * digit, row_group, strict=True):
        load = np.zeros((group.max(initial=-1) + 1, cell.shape[1]), np.int64)
        np.add.at(load, group[group >= 0], cell[group >= 0])
        loads.append(load)
    return loads


def price(row_group: np.ndarray, shifts: np.ndarray, act_bits: int, dac_bits: int) -> np.ndarray:
    """Reads of each crossbar: ceil((A + max k - min k) / d) a group."""
    total = np.zeros(len(row_group), np.int64)
    for x, group in enumerate(row_group):
        for g in range(group.max(initial=-1) + 1):
            k = shifts[x][group == g].astype(int)
            total[x] += -(-(act_bits + k.max() - k.min()) // dac_bits)
    return total


def assert_groups(cells: np.ndarray, shifts: np.ndarray, grouped: Grouped, reader: Reader) -> None:
    """What a lossless grouping is, for cell values [X, R, C]."""
    group = grouped.row_group
    assert group.dtype == np.int16
    assert np.array_equal(group >= 0, cells.any(axis=2))
    assert_lossless(cells, group, reader)
    assert np.array_equal(grouped.groups, group.max(axis=1, initial=-1) + 1)
    assert np.array_equal(grouped.reads, price(group, shifts, reader.act_bits, reader.dac_bits))
    assert (grouped.bound <= grouped.reads).all()
    assert not grouped.overflow.any()


def assert_lossless(cells: np.ndarray, group: np.ndarray, reader: Reader) -> None:
    """Every row with a one is driven, and the worst input keeps every column within the ADC, for cells [X, R, C]."""
    assert (group[cells.any(axis=2)] >= 0).all()
    for x, load in enumerate(group_loads(cells, group, 2**reader.dac_bits - 1)):
        rows = np.bincount(group[x][group[x] >= 0], minlength=len(load))
        assert (rows > 0).all()
        assert rows.max(initial=0) <= reader.concurrent_rows
        assert load.max(initial=0) <= 2**reader.adc_bits - 1


@given(layers(), targets(), st.integers(0, 6), st.integers(1, 16), st.booleans())
def test_groups_of_layers_are_lossless(layer: Layer, target: Target, depth: int, act_bits: int, beside: bool) -> None:
    module = module_of(layer)
    squeeze = SqueezeOut(min(depth, layer.bits - 1), "leading-one")
    group_pass = GroupRows(beside=beside)
    context = run(module, target, Tile(), squeeze, Compact(), SliceBits(), group_pass, act_bits=act_bits)
    op = only_layer(module)
    reader = Reader(target.adc_bits, target.dac_bits, target.concurrent_rows, act_bits)
    cells = unpack_cells(op.cells.array, op.geometry[1], op.cell_bits)
    assert_lossless(cells, op.row_group.array, reader)
    report = context.report["group-rows"]
    assert report["bound"] <= report["reads"]
    assert report["lossy_groups"] == 0
    assert not group_pass.run(module, context)
    own = price(op.row_group.array, op.shifts.array[op.xbar_tile.array], act_bits, target.dac_bits)
    if beside:
        assert report["reads"] <= own.sum()
    else:
        assert report["reads"] == own.sum()
        assert report["layers"][0]["crossbars"] == len(cells)


@given(
    st.integers(0, 2**32 - 1), st.floats(0.05, 1), st.integers(1, 6), st.integers(1, 40), st.integers(1, 9),
    st.integers(0, 5),
)  # fmt: skip
def test_groups_with_small_converters(
    seed: int, density: float, adc_bits: int, concurrent: int, act_bits: int, spread: int
) -> None:
    random = np.random.default_rng(seed)
    cells = random.random((6, 40, 24)) < density
    shifts = random.integers(0, spread + 1, (6, 40)).astype(np.uint8)
    reader = Reader(adc_bits, 1, concurrent, act_bits)
    quick = group_rows(packed(cells), shifts, 24, 1, reader)
    assert_groups(cells, shifts, quick, reader)
    better = group_rows(packed(cells), shifts, 24, 1, reader, effort=Effort(limit=0.01))
    assert_groups(cells, shifts, better, reader)
    assert (quick.bound <= better.bound).all() and (better.reads <= quick.reads).all()
    again = group_rows(packed(cells), shifts, 24, 1, reader, effort=Effort(limit=0.01))
    assert np.array_equal(again.row_group, better.row_group)


@given(st.integers(0, 2**32 - 1), st.integers(1, 3), st.integers(1, 3), st.integers(1, 4), st.integers(0, 2))
def test_small_crossbars_are_grouped_near_the_best(
    seed: int, adc_bits: int, concurrent: int, act_bits: int, spread: int
) -> None:
    """Against every partition of five rows: the bounds hold, the heuristic is one group off at most, CP-SAT none."""
    random = np.random.default_rng(seed)
    cells = random.random((1, 5, 8)) < 0.6
    shifts = random.integers(0, spread + 1, (1, 5)).astype(np.uint8)
    reader = Reader(adc_bits, 1, concurrent, act_bits)
    grouped = group_rows(packed(cells), shifts, 8, 1, reader)
    best = 1 << 30
    driven = cells[0].any(axis=1)
    for labels in itertools.product(range(5), repeat=5):
        # Canonical labels only: each first use of a label is the next number.
        group = np.where(driven, labels, -1)
        seen = list(dict.fromkeys(group[group >= 0].tolist()))
        if seen != list(range(len(seen))):
            continue
        (load,) = group_loads(cells, group[None], 1)
        if load.max(initial=0) > 2**adc_bits - 1 or np.bincount(group[driven], minlength=1).max() > concurrent:
            continue
        best = min(best, int(price(group[None], shifts, act_bits, 1)[0]))
    assert grouped.bound[0] <= best <= grouped.reads[0]
    assert grouped.reads[0] <= best + act_bits
    exact = group_rows(packed(cells), shifts, 8, 1, reader, effort=Effort())
    assert exact.bound[0] == exact.reads[0] == best


def test_one_group_where_the_adc_is_wide_enough() -> None:
    grouped = group_rows(packed(np.ones((3, 128, 128))), np.zeros((3, 128), np.uint8), 128, 1, Reader(8, 1, 128, 8))
    assert (grouped.row_group == 0).all()
    assert grouped.reads.tolist() == grouped.bound.tolist() == [8, 8, 8]


def test_four_adc_bits_read_fifteen_rows() -> None:
    grouped = group_rows(packed(np.ones((1, 128, 128))), np.zeros((1, 128), np.uint8), 128, 1, Reader(4, 1, 128, 8))
    assert grouped.groups.tolist() == [9]
    assert grouped.reads.tolist() == grouped.bound.tolist() == [72]


def test_rows_of_equal_shift_meet_where_groups_are_many() -> None:
    shifts = np.tile(np.array([0, 5], np.uint8), 8)[None]
    grouped = group_rows(packed(np.ones((1, 16, 8))), shifts, 8, 1, Reader(3, 1, 8, 8))
    # Seven rows a group. Two groups for each shift would cost 4 x 8; the two rows left over in one group of their own,
    # 13 reads for a spread of 5, make it 8 + 8 + 13.
    assert grouped.reads.tolist() == [8 + 8 + 13]
    assert grouped.bound.tolist() == [3 * 8]


def test_shifts_are_parted_where_inputs_are_short() -> None:
    shifts = np.array([[0, 1, 6, 7]], np.uint8)
    one = group_rows(packed(np.ones((1, 4, 8))), shifts, 8, 1, Reader(8, 1, 128, 8))
    two = group_rows(packed(np.ones((1, 4, 8))), shifts, 8, 1, Reader(8, 1, 128, 2))
    assert one.row_group.tolist() == [[0, 0, 0, 0]]
    assert one.reads.tolist() == [15]
    assert two.row_group.tolist() == [[0, 0, 1, 1]]
    assert two.reads.tolist() == two.bound.tolist() == [6]


def fixed(target: Target, rows: int) -> tuple[MvmOp, PassContext]:
    module = module_of(Layer(np.array([[255, 0, 255, 255, 255]] * 2)))
    context = run(module, target, Tile(), Compact(), SliceBits(), GroupRows(rows=rows))
    return only_layer(module), context


def test_fixed_groups_are_consecutive_and_may_be_lossy() -> None:
    op, context = fixed(Target(rows=8, columns=2, adc_bits=1), 3)
    assert (op.row_group.array == [0, 0, 0, 1, -1, -1, -1, -1]).all()
    report = context.report["group-rows"]
    # Eight crossbars; the first group of each reaches 3, the ADC 1.
    assert (report["groups"], report["reads"], report["lossy_groups"]) == (16, 128, 8)
    _, context = fixed(Target(rows=8, columns=2, adc_bits=2), 3)
    assert context.report["group-rows"]["lossy_groups"] == 0


def test_group_sizes_below_one_are_diagnosed() -> None:
    with pytest.raises(SmecError, match="group size"):
        fixed(Target(), 0)


def test_an_adc_too_small_for_one_cell_is_diagnosed() -> None:
    module = module_of(Layer(np.array([[255]])))
    with pytest.raises(SmecError, match="cannot read even one row"):
        run(module, Target(cell_bits=4, adc_bits=3), Tile(), SliceBits(), GroupRows())
