"""Placement: nothing overlaps, a tile stays in one core, and sharing saves what it can."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mapping_layers import Layer, Target, layers, module_of, run, targets

from smec.ir.dialects.builtin import ModuleOp
from smec.ir.errors import SmecError
from smec.passes.assign_cores import AssignCores
from smec.passes.base import PassContext
from smec.passes.compact import Compact
from smec.passes.mapping.layers import crossbar_layers
from smec.passes.mapping.packing import least_crossbars
from smec.passes.mapping.placement import Placement, Work, place
from smec.passes.mapping.slicing import unpack_cells
from smec.passes.slice_bits import SliceBits
from smec.passes.tile import Tile


def assert_placed(
    placed: Placement, counts: np.ndarray, heights: np.ndarray, widths: np.ndarray, target: Target
) -> None:
    """Disjoint blocks in every physical crossbar, those of a tile side by side; one core a tile."""
    tile = np.repeat(np.arange(len(counts)), counts)
    for t in range(len(counts)):
        mine = tile == t
        assert len(set(placed.core[mine])) <= 1
    taken: dict[tuple[int, int], list[tuple[int, int, int, int, int]]] = {}
    for x, t in enumerate(tile):
        h, w, r, c = int(heights[t]), int(widths[t]), int(placed.row0[x]), int(placed.col0[x])
        assert r >= 0
        assert c >= 0
        assert r + h <= target.rows
        assert c + w <= target.columns
        others = taken.setdefault((int(placed.core[x]), int(placed.slot[x])), [])
        for t1, r1, h1, c1, w1 in others:
            apart = c + w <= c1 or c1 + w1 <= c
            assert (apart and r == r1) if t == t1 else (apart or r + h <= r1 or r1 + h1 <= r)
        others.append((t, r, h, c, w))
    assert len(taken) == placed.physical
    assert placed.physical <= counts.sum()
    assert placed.bound <= placed.physical
    cores = sorted({core for core, _ in taken})
    assert cores == list(range(placed.cores))
    for core in cores:
        slots = sorted(slot for c, slot in taken if c == core)
        assert slots == list(range(len(slots)))
        assert len(slots) <= target.crossbars_per_core


@given(
    st.lists(st.tuples(st.integers(0, 6), st.integers(1, 16), st.integers(1, 16), st.integers(0, 9)), max_size=40),
    st.integers(6, 12),
    st.booleans(),
    st.booleans(),
)
def test_places_do_not_overlap(
    tiles: list[tuple[int, int, int, int]], per_core: int, share: bool, beside: bool
) -> None:
    counts, heights, widths = (np.array([t[i] for t in tiles], np.int64) for i in range(3))
    target = Target(rows=16, columns=16, crossbars_per_core=per_core)
    placed = place(counts, heights, widths, rows=16, columns=16, per_core=per_core, share=share, beside=beside)
    assert_placed(placed, counts, heights, widths, target)
    if not share:
        assert placed.physical == placed.bound
    if not beside:
        for t in range(len(counts)):
            mine = np.repeat(np.arange(len(counts)), counts) == t
            assert len(set(placed.slot[mine])) == counts[t]
        alone = place(counts, heights, widths, rows=16, columns=16, per_core=per_core, share=share)
        assert alone.physical <= placed.physical
    reads, most = np.array([t[3] for t in tiles], np.int64), max((t[3] for t in tiles), default=0)
    limited = place(
        counts, heights, widths, rows=16, columns=16, per_core=per_core, share=share, beside=beside,
        work=Work(reads, most),
    )  # fmt: skip
    assert_placed(limited, counts, heights, widths, target)
    assert limited.physical >= placed.bound
    spent: dict[tuple[int, int], int] = {}
    tile = np.repeat(np.arange(len(counts)), counts)
    for core, slot, t in sorted({*zip(limited.core.tolist(), limited.slot.tolist(), tile.tolist(), strict=True)}):
        spent[core, slot] = spent.get((core, slot), 0) + int(reads[t])
    assert max(spent.values(), default=0) <= most


@given(st.lists(layers(), min_size=1, max_size=4), targets(), st.booleans())
def test_layers_are_placed(some: list[Layer], target: Target, compacted: bool) -> None:
    module = module_of(*some)
    context = run(module, target, Tile(), *([Compact()] if compacted else []), SliceBits(), AssignCores())
    ops = crossbar_layers(module)
    report = context.report["assign-cores"]
    physical = paint(module, target)
    assert len(physical) == report["crossbars"] <= report["crossbars_unshared"]
    assert report["crossbars_unshared"] == sum(len(op.xbar_tile.array) for op in ops)
    assert report["crossbars_dense_16"] == sum(layer["crossbars_dense_16"] for layer in report["layers"])
    assert 0 <= report["utilisation"] <= 1
    assert not AssignCores().run(module, context)


def paint(module: ModuleOp, target: Target) -> dict[tuple[int, int], np.ndarray]:
    """The cells of each physical crossbar, put there one by one.

    Two crossbars at one cell are an error, and two of a tile at different rows.
    """
    cells: dict[tuple[int, int], np.ndarray] = {}
    taken: dict[tuple[int, int], np.ndarray] = {}
    first_row: dict[tuple[int, int, str, int], int] = {}
    for op in crossbar_layers(module):
        values = unpack_cells(op.cells.array, target.columns, target.cell_bits)
        for x, t in enumerate(op.xbar_tile.array):
            where = (int(op.xbar_core.array[x]), int(op.xbar_slot.array[x]))
            r0, c0 = int(op.xbar_row0.array[x]), int(op.xbar_col0.array[x])
            picture = cells.setdefault(where, np.zeros((target.rows, target.columns), np.uint8))
            used_rows = np.flatnonzero(op.rows.array[t] >= 0) + r0
            used_cols = np.flatnonzero(op.cols.array[t] >= 0) + c0
            owned = taken.setdefault(where, np.zeros((target.rows, target.columns), np.bool_))
            assert not owned[np.ix_(used_rows, used_cols)].any()
            owned[np.ix_(used_rows, used_cols)] = True
            assert first_row.setdefault((*where, op.label, int(t)), r0) == r0
            picture[np.ix_(used_rows, used_cols)] = values[x][np.ix_(used_rows - r0, used_cols - c0)]
    return cells


def test_small_layers_share_crossbars() -> None:
    # Four layers of 4 x 4, all of one sign, so eight crossbars each: sixteen fill one of 16 x 16.
    module = module_of(*[Layer(np.full((4, 4), w)) for w in (255, -255, 255, -255)])
    target = Target(rows=16, columns=16)
    report = run(module, target, Tile(), Compact(), SliceBits(), AssignCores()).report["assign-cores"]
    assert report["crossbars"] == 8  # in no more time than one layer takes alone
    assert report["crossbars_unshared"] == 32
    assert report["utilisation"] == 32 * 16 / (8 * 256)
    fewest = run(module, target, AssignCores(crossbars=0)).report["assign-cores"]
    assert fewest["crossbars"] == fewest["bound"] == 2
    assert fewest["utilisation"] == 1
    alone = run(module, target, AssignCores(share=False, beside=False)).report["assign-cores"]
    assert alone["crossbars"] == 32


def test_planes_of_a_tall_tile_are_side_by_side() -> None:
    module = module_of(Layer(np.full((3, 16), 255)))
    report = run(module, Target(rows=16, columns=16), Tile(), SliceBits(), AssignCores()).report["assign-cores"]
    # Eight planes of three columns: five would fit a crossbar, four and four are as few.
    assert report["crossbars"] == report["bound"] == 2
    (op,) = crossbar_layers(module)
    assert op.xbar_slot.array.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert op.xbar_col0.array.tolist() == [0, 3, 6, 9] * 2
    assert not op.xbar_row0.array.any()


def test_large_tiles_fill_cores_in_layer_order() -> None:
    counts = np.array([4, 4, 4, 4, 2])
    full = np.full(5, 8)
    placed = place(counts, full, full, rows=8, columns=8, per_core=10)
    assert placed.core.tolist() == [0] * 8 + [1] * 8 + [1] * 2
    assert placed.slot.tolist() == [*range(8), *range(10)]


def test_short_blocks_go_where_there_is_room() -> None:
    # 12 x 16 leaves 4 rows, into which both crossbars of the 4 x 4 tile go, side by side.
    counts, heights, widths = np.array([1, 2]), np.array([12, 4]), np.array([16, 4])
    placed = place(counts, heights, widths, rows=16, columns=16, per_core=4)
    assert placed.physical == 1
    assert placed.row0.tolist() == [0, 12, 12]
    assert placed.col0.tolist() == [0, 0, 4]
    # 12 x 4 leaves 12 columns beside it, all rows of them.
    placed = place(counts, heights, np.array([4, 4]), rows=16, columns=16, per_core=4)
    assert (placed.physical, placed.row0.tolist(), placed.col0.tolist()) == (1, [0, 0, 0], [0, 4, 8])


def test_fewer_side_by_side_where_that_saves_a_crossbar() -> None:
    # Two tiles leave a strip of 6 columns each: the third's two crossbars, 10 wide together, go there one by one.
    counts, heights, widths = np.array([1, 1, 2]), np.array([16, 16, 16]), np.array([10, 10, 5])
    placed = place(counts, heights, widths, rows=16, columns=16, per_core=4)
    assert placed.physical == placed.bound == 2
    assert placed.slot.tolist() == [0, 1, 0, 1]
    assert placed.col0.tolist() == [0, 0, 10, 10]


def test_sharing_keeps_within_the_reads() -> None:
    # Each of four could go below another; two may, the other two take too long together.
    counts, heights, widths = np.ones(4, np.int64), np.full(4, 8), np.full(4, 16)
    reads = np.array([6, 5, 4, 3])
    for most, crossbars in ((18, 2), (9, 2), (8, 3), (6, 4)):
        placed = place(counts, heights, widths, rows=16, columns=16, per_core=4, work=Work(reads, most))
        assert placed.physical == crossbars
        assert placed.bound <= crossbars
        assert np.bincount(placed.slot, weights=reads).max() <= most


def test_many_rectangles_keep_apart() -> None:
    """Enough of all sizes that all rules of the packing come into play; property tests prefer small cases."""
    rng = np.random.default_rng(0)
    target = Target(rows=16, columns=16, crossbars_per_core=24)
    for _ in range(200):
        tiles = int(rng.integers(5, 40))
        counts, (heights, widths) = rng.integers(0, 5, tiles), rng.integers(1, 17, (2, tiles))
        reads = rng.integers(1, 50, tiles)
        most = int(rng.integers(reads.max(), 3 * reads.max()))
        placed = place(counts, heights, widths, rows=16, columns=16, per_core=24, work=Work(reads, most))
        assert_placed(placed, counts, heights, widths, target)
        tile = np.repeat(np.arange(tiles), counts)
        known = np.unique(np.stack([placed.core, placed.slot, tile], axis=1), axis=0)
        spent = np.bincount(known[:, 0] * 24 + known[:, 1], weights=reads[known[:, 2]], minlength=1)
        assert spent.max() <= most


rectangles = st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4)), min_size=1, max_size=5)


def fewest_crossbars(sizes: list[tuple[int, int]]) -> int:
    """The fewest crossbars of 4 x 4 cells that these rectangles go into, by trying all places."""

    def fits(left: list[tuple[int, int]], crossbars: tuple[int, ...]) -> bool:
        if not left:
            return True
        (h, w), rest = left[0], left[1:]
        for i, cells in enumerate(crossbars):
            for row in range(5 - h):
                for column in range(5 - w):
                    mask = sum(((1 << w) - 1) << (4 * r + column) for r in range(row, row + h))
                    if not cells & mask and fits(rest, (*crossbars[:i], cells | mask, *crossbars[i + 1 :])):
                        return True
            if not cells:
                break  # empty ones are alike
        return False

    ordered = sorted(sizes, key=lambda size: -size[0] * size[1])
    return next(n for n in range(1, len(sizes) + 1) if fits(ordered, (0,) * n))


@settings(max_examples=60)
@given(rectangles)
def test_no_packing_goes_below_the_bound(sizes: list[tuple[int, int]]) -> None:
    counts = np.ones(len(sizes), np.int64)
    heights, widths = (np.array([size[i] for size in sizes]) for i in range(2))
    placed = place(counts, heights, widths, rows=4, columns=4, per_core=9)
    fewest = fewest_crossbars(sizes)
    assert placed.bound == max(least_crossbars(counts, heights, widths, 4, 4), 1)
    assert placed.bound <= fewest <= placed.physical <= fewest + 1


def test_tiles_share_at_the_cost_of_time_on_demand() -> None:
    # Four layers that are read equally often, four blocks of 4 x 16 each: four of them fill a crossbar, in four times
    # the time.
    module = module_of(*[Layer(np.full((8, 4), 255))] * 4)
    target = Target(rows=16, columns=16)
    run(module, target, Tile(), SliceBits())
    found = {}
    for wanted in (None, 8, 6, 5, 0):
        report = run(module, target, AssignCores(crossbars=wanted)).report["assign-cores"]
        found[wanted] = report["crossbars"]
        paint(module, target)
    assert found == {None: 16, 8: 8, 6: 4, 5: 4, 0: 4}


@pytest.mark.parametrize(("columns", "beside", "slots"), [(4, False, 16), (4, True, 8), (2, True, 16)])
def test_a_core_too_small_for_a_tile_is_diagnosed(columns: int, beside: bool, slots: int) -> None:
    module = module_of(Layer(np.array([[255], [-255]])))
    run(module, Target(columns=columns), Tile(), SliceBits())
    cores = run(module, Target(columns=columns, crossbars_per_core=slots), AssignCores(beside=beside))
    assert cores.report["assign-cores"]["cores"] == 1
    with pytest.raises(SmecError, match="needs more crossbars than a core has") as caught:
        run(module, Target(columns=columns, crossbars_per_core=slots - 1), AssignCores(beside=beside))
    assert f"expected at most {slots - 1}, found {slots}" in str(caught.value)


def test_a_tile_that_fits_no_core_is_refused() -> None:
    with pytest.raises(SmecError, match="more crossbars than a core has"):
        place(np.array([1, 5]), np.full(2, 3), np.full(2, 3), rows=4, columns=4, per_core=4)


def test_a_pass_that_needs_a_target_says_so() -> None:
    with pytest.raises(SmecError, match="pass 'tile' needs a target"):
        Tile().run(module_of(Layer(np.array([[1]]))), PassContext())


def test_passes_name_the_one_to_run_first() -> None:
    module = module_of(Layer(np.array([[1]])))
    with pytest.raises(SmecError, match="has no 'xbar_tile' yet"):
        run(module, Target(), Tile(), AssignCores())
