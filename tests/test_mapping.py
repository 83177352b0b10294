"""Tiling, compaction and slicing: after each pass the crossbars hold the oracle's weights."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mapping_layers import SIGNS, Layer, Target, assert_maps, layers, module_of, only_layer, run, targets

from smec.ir.dialects.xbar import MvmConv, MvmGemm, MvmOp, code_offset
from smec.ir.errors import SmecError
from smec.passes.compact import Compact
from smec.passes.mapping.coding import planes
from smec.passes.mapping.slicing import unpack_cells
from smec.passes.mapping.tiling import count_tiles, crossbars_dense
from smec.passes.slice_bits import SliceBits
from smec.passes.squeeze_out import SqueezeOut
from smec.passes.tile import Tile


def tiled(layer: Layer, target: Target) -> MvmOp:
    module = module_of(layer)
    run(module, target, Tile())
    return only_layer(module)


def assert_cells(op: MvmOp) -> None:
    """The crossbars of each tile, spliced, are its codes; none is empty unless it is an offset tile's only one."""
    columns, tile = op.geometry[1], op.xbar_tile.array
    assert (np.diff(tile) >= 0).all()
    assert tile.dtype == np.int32
    assert op.xbar_weight.array.dtype == np.int64
    assert op.cells.shape == (len(tile), op.geometry[0], -(-columns * op.cell_bits // 8))
    cells = unpack_cells(op.cells.array, columns, op.cell_bits).astype(np.int64)
    spliced = np.zeros(op.codes.shape, np.int64)
    np.add.at(spliced, tile, cells * op.xbar_weight.array[:, None, None])
    assert np.array_equal(spliced, op.codes.array)
    empty = ~cells.any(axis=(1, 2))
    if op.sign == "offset":
        has_rows = (op.rows.array >= 0).any(axis=1)
        assert np.array_equal(np.isin(np.arange(len(has_rows)), tile), has_rows)
        assert (np.bincount(tile, minlength=len(has_rows))[tile[empty]] == 1).all()
    else:
        assert not empty.any()
    # No stray bits behind the last column.
    bits = np.unpackbits(op.cells.array, axis=-1, bitorder="little")
    assert not bits[..., columns * op.cell_bits :].any()


@given(layers(), targets(), st.integers(0, 9), st.booleans())
def test_every_pass_keeps_the_weights(layer: Layer, target: Target, depth: int, gather: bool) -> None:
    module = module_of(layer)
    run(module, target, Tile())
    op = only_layer(module)
    assert isinstance(op, MvmGemm if layer.weight.ndim == 2 else MvmConv)
    assert np.array_equal(op.integers(), layer.weight)
    assert_maps(op)
    run(module, target, SqueezeOut(depth=min(depth, layer.bits - 1), shift="leading-one"))
    assert_maps(op)
    squeezed = op.integers()
    run(module, target, Compact(gather=gather))
    assert np.array_equal(op.integers(), squeezed)
    assert_maps(op)
    assert_compact(op)
    context = run(module, target, SliceBits())
    assert_maps(op)
    assert_cells(op)
    assert context.report["slice-bits"]["crossbars"] == len(op.xbar_tile.array)


def assert_compact(op: MvmOp) -> None:
    """Used rows and columns come first, rows by shift; none of them is without a weight."""
    weight = (op.codes.array.astype(np.int64) << op.shifts.array[:, :, None]) - code_offset(op.sign, op.bits)
    rows, cols = op.rows.array >= 0, op.cols.array >= 0
    weight[~(rows[:, :, None] & cols[:, None, :])] = 0
    assert np.array_equal(weight.any(axis=2), rows)
    assert np.array_equal(weight.any(axis=1), cols)
    for used in (rows, cols):
        assert (np.diff(used.astype(int), axis=1) <= 0).all()
    assert rows.any(axis=1).all()
    steps = np.diff(op.shifts.array.astype(int), axis=1)
    assert (steps[rows[:, 1:]] >= 0).all()


@given(layers(), targets())
def test_compacting_twice_changes_nothing(layer: Layer, target: Target) -> None:
    module = module_of(layer)
    context = run(module, target, Tile(), Compact())
    assert not Compact().run(module, context)


@given(layers(), targets())
def test_compaction_never_adds_crossbars(layer: Layer, target: Target) -> None:
    plain, packed = module_of(layer), module_of(layer)
    before = run(plain, target, Tile(), SliceBits()).report["slice-bits"]["crossbars"]
    after = run(packed, target, Tile(), Compact(), SliceBits()).report["slice-bits"]["crossbars"]
    assert after <= before


@pytest.mark.parametrize("sign", SIGNS)
@pytest.mark.parametrize(("k", "m"), [(1, 1), (127, 129), (128, 128), (129, 127), (257, 1), (1, 257)])
def test_sizes_around_a_tile(k: int, m: int, sign: str) -> None:
    weight = np.random.default_rng(k).integers(-100, 101, (m, k))
    module = module_of(Layer(weight, sign))
    run(module, Target(), Tile())
    op = only_layer(module)
    assert op.rows.shape[0] == -(-k // 128) * -(-m // 128)
    assert_maps(op)
    run(module, Target(), Compact(), SliceBits())
    assert_maps(op)
    assert_cells(op)


def test_tiles_are_in_row_major_order() -> None:
    op = tiled(Layer(np.ones((5, 5), np.int16)), Target(rows=3, columns=4))
    assert op.rows.array.tolist() == [[0, 1, 2], [0, 1, 2], [3, 4, -1], [3, 4, -1]]
    assert op.cols.array.tolist() == [[0, 1, 2, 3], [4, -1, -1, -1]] * 2


def test_rows_of_a_convolution_are_in_im2col_order() -> None:
    weight = np.arange(2 * 3 * 2 * 2, dtype=np.int16).reshape(2, 3, 2, 2)
    op = tiled(Layer(weight), Target(rows=16, columns=2))
    column = op.codes.array[0, :, 1]
    for ky in range(2):
        for kx in range(2):
            for c in range(3):
                assert column[(ky * 2 + kx) * 3 + c] == weight[1, c, ky, kx]


def test_depthwise_convolutions_share_tiles() -> None:
    weight = np.random.default_rng(0).integers(1, 256, (32, 1, 3, 3))
    op = tiled(Layer(weight, groups=32), Target())
    # 14 channels of nine rows fill 126 of 128 rows.
    assert op.rows.shape[0] == 3
    assert ((op.cols.array >= 0).sum(axis=1) == [14, 14, 4]).all()
    assert_maps(op)


def test_unrelated_pairs_of_an_offset_tile_hold_weight_zero() -> None:
    op = tiled(Layer(np.full((3, 1, 1, 2), -7), "offset", bits=4, groups=3), Target(rows=8, columns=8))
    block = np.full((6, 3), 8)
    for g in range(3):
        block[2 * g : 2 * g + 2, g] = 1
    assert op.codes.array[0, :6, :3].tolist() == block.tolist()
    assert_maps(op)


@given(st.integers(1, 9), st.integers(1, 40), st.integers(1, 40), st.sampled_from([(8, 8), (16, 5), (7, 30)]))
def test_number_of_tiles_is_known_beforehand(groups: int, k: int, m: int, size: tuple[int, int]) -> None:
    weight = np.ones((groups * m, k, 1, 1), np.int16)
    op = tiled(Layer(weight, groups=groups), Target(rows=size[0], columns=size[1]))
    assert op.rows.shape[0] == count_tiles(groups, k, m, *size)


def test_dense_crossbars() -> None:
    # ResNet-50's first layer, K = 147: two row blocks; 64 outputs of 16 columns: eight crossbars.
    assert crossbars_dense(1, 147, 64, 128, 128, 16) == 2 * 8
    # Depthwise 3 x 3: 14 blocks by rows, 8 by columns (16 columns a weight) or 14 (8 columns: 16, so rows decide).
    assert crossbars_dense(96, 9, 1, 128, 128, 16) == 12
    assert crossbars_dense(96, 9, 1, 128, 128, 8) == 7


def test_planes() -> None:
    assert [p.weight for p in planes("differential", 3, 1)] == [1, -1, 2, -2, 4, -4]
    assert [p.weight for p in planes("twos-complement", 4, 1)] == [1, 2, 4, -8]
    assert [p.weight for p in planes("twos-complement", 4, 2)] == [1, 4, -8]
    assert [p.weight for p in planes("twos-complement", 1, 1)] == [-1]
    assert [p.weight for p in planes("offset", 8, 4)] == [1, 16]


def test_gathering_empties_the_top_planes() -> None:
    # Every other row needs eight bits, the others two: as they come, both tiles hold all planes.
    weight = np.where(np.arange(16) % 2, 255, 3)[None, :].repeat(4, axis=0)
    target = Target(rows=8, columns=4)
    apart, together = module_of(Layer(weight)), module_of(Layer(weight))
    assert run(apart, target, Tile(), Compact(gather=False), SliceBits()).report["slice-bits"]["crossbars"] == 16
    assert run(together, target, Tile(), Compact(), SliceBits()).report["slice-bits"]["crossbars"] == 10
    assert_maps(only_layer(together))


def test_zero_rows_of_a_column_block_do_not_cost_tiles() -> None:
    weight = np.ones((4, 32), np.int16) * (np.arange(32) % 4 == 0)
    module = module_of(Layer(weight))
    report = run(module, Target(rows=8, columns=4), Tile(), Compact()).report["compact"]
    assert (report["tiles"], report["tiles_removed"], report["rows_removed"]) == (1, 3, 24)
    assert_maps(only_layer(module))


def test_a_layer_of_zeros_has_no_tile() -> None:
    module = module_of(Layer(np.zeros((3, 5), np.int16)))
    run(module, Target(), Tile(), Compact(), SliceBits())
    op = only_layer(module)
    assert op.rows.shape == (0, 128)
    assert op.cells.shape == (0, 128, 16)
    assert_maps(op)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (Layer(np.array([[256]])), "exceed 8 bits"),
        (Layer(np.array([[128]]), "twos-complement"), "exceed 8 bits"),
        (Layer(np.array([[1]]), "unsigned"), "cannot be tiled"),
        (Layer(np.array([[1]]), "offset", bits=17), "bits of layer"),
    ],
)
def test_integers_that_do_not_fit_are_diagnosed(layer: Layer, message: str) -> None:
    with pytest.raises(SmecError, match=message) as caught:
        run(module_of(layer), Target(), Tile())
    assert "test.onnx" in str(caught.value)


def test_slicing_before_squeezing_is_diagnosed() -> None:
    with pytest.raises(SmecError, match="run squeeze-out first"):
        run(module_of(Layer(np.array([[255]]), squeeze=3)), Target(), Tile(), SliceBits())
