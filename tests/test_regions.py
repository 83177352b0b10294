"""Which part of a layer's input each core is sent: what its tiles read, no less and little more.

The oracle lists every position that every tile of every copy reads.
"""

from __future__ import annotations

import itertools
from math import prod

import numpy as np
import pytest
from digit_shares import share_digits
from hypothesis import given
from hypothesis import strategies as st

from graphs import GraphMaker, sample
from programs import lower
from smec import targets
from smec.ir.dialects import quant
from smec.ir.dialects.xbar import MvmConv, MvmOp
from smec.ir.interpreter import interpret
from smec.ir.isa_table import by_instruction
from smec.passes.base import PassContext
from smec.passes.mapping.layers import crossbar_layers
from smec.passes.mapping.regions import Region, regions_read, tile_cores
from smec.passes.mapping.shares import Share, shares_of
from smec.passes.pipeline import parse_pipeline
from smec.runtime.engines import ENGINES
from smec.runtime.simulator import Simulator
from smec.runtime.timing import time_program


def positions(op: MvmOp, tiles: np.ndarray, share: Share) -> np.ndarray:
    """Every position of the input that these tiles read for a copy's pixels, one by one, int [n, axes]."""
    found = []
    rows = op.rows.array[tiles]
    for piece in share:
        box = piece.box
        axes = [range(f, f + n * s, s) for f, n, s in zip(box.first, box.shape, box.step, strict=True)]
        for pixel, k in itertools.product(itertools.product(*axes), sorted({*rows[rows >= 0].tolist()})):
            if not isinstance(op, MvmConv):
                found.append((*pixel, k))
                continue
            place, channel = divmod(k, op.x.type.shape[1])
            at = [
                p * s + w * d - pad
                for p, s, w, d, pad in zip(
                    pixel[1:], op.strides, divmod(place, op.kernel[1]), op.dilations, op.pads[:2], strict=True
                )
            ]
            found.append((pixel[0], channel, *at))
    return np.array(found)


@given(st.integers(0, 2**32 - 1), st.sampled_from(["conv", "depthwise", "gemm", "rows"]), st.booleans())
def test_regions_are_what_tiles_read(seed: int, kind: str, shared: bool) -> None:
    rng = np.random.default_rng(seed)
    g = GraphMaker(rng)
    channels = int(rng.integers(1, 14))
    if kind in ("conv", "depthwise"):
        x = g.quantize(g.input("x", (1, channels, *rng.integers(3, 7, 2).tolist())))
        kernel = (int(rng.integers(1, 4)), int(rng.integers(1, 4)))
        outputs, groups = (channels, channels) if kind == "depthwise" else (int(rng.integers(1, 9)), 1)
        strides, pads = (int(rng.integers(1, 3)), 1), (1, 0, int(rng.integers(0, 2)), 1)
        out = g.conv(x, outputs, kernel, strides=strides, pads=pads, groups=groups)
    else:
        out = g.gemm(g.quantize(g.input("x", (1, 5, channels) if kind == "rows" else (1, channels))), 6)
    module = g.finish(g.dequantize(out))
    machine = targets.load("sme").model_copy(update={"rows": 8, "columns": 8, "crossbars_per_core": 16})
    context = PassContext(target=machine, act_bits=8)
    parse_pipeline("tile,slice-bits,group-rows").run(module, context)
    if shared:
        share_digits(module, context, rng)
    (op,) = crossbar_layers(module)
    crossbars = len(op.xbar_tile.array)
    of_tile = rng.integers(0, 3, (op.copies, len(op.rows.array)))
    cores = tile_cores(op, of_tile[:, op.xbar_tile.array].reshape(-1))
    assert all(len(c) == len(op.rows.array) for c in cores) and crossbars
    shares = shares_of(op)
    regions = regions_read(op, cores, shares)
    alone, sent = 0, dict[tuple[int, Region], int]()
    for tile_core, share, by_core in zip(cores, shares, regions, strict=True):
        assert set(by_core) == {*tile_core[tile_core >= 0].tolist()}
        for core, region in by_core.items():
            read = positions(op, np.flatnonzero(tile_core == core), share)
            tight = Region.between(read.min(axis=0).tolist(), read.max(axis=0).tolist())
            alone += tight.size
            if region is None:
                continue
            assert region.holds(tight) and region.size < prod(op.x.type.shape)
            sent[core, region] = region.size
            if op.copies == 1:
                assert region == tight
    assert sum(sent.values()) <= alone


@pytest.mark.parametrize("seed", range(4))
def test_parts_of_views_and_borders_reach_other_cores(seed: int) -> None:
    """Slices, transposes, concatenations and padding in front of layers that several cores share; copies, too."""
    rng = np.random.default_rng(seed)
    g = GraphMaker(rng)
    x = g.quantize(g.input("x", (1, 12, 6, 5)))
    a = g.conv(x, 12)
    turned = g.view(quant.Transpose, a, (1, 12, 5, 6), perm=(0, 1, 3, 2))
    part = g.view(quant.Slice, turned, (1, 10, 5, 3), starts=(0, 1, 0, 0), steps=(1, 1, 1, 2))
    b = g.conv(part, 9, strides=(1, 2), pads=(1, 1, 1, 1))
    c = g.conv(a, 12, groups=12, dilations=(2, 1), pads=(2, 1, 2, 1))
    module = g.finish(g.dequantize(b), g.dequantize(g.conv(c, 7, kernel=(1, 1), pads=(0, 0, 0, 0))), g.dequantize(c))
    mapping = "tile,slice-bits,group-rows,replicate{{crossbars={}}},assign-cores,emit"
    numbers = {"rows": 16, "columns": 16, "crossbars_per_core": 16, "adc_bits": 8}
    program = lower(module.clone(), mapping.format(700), **numbers)
    inputs = sample(module, rng)
    expected = interpret(module, inputs)
    for engine in ENGINES:
        outputs = Simulator(program).run(inputs, engine=engine).outputs
        for name, array in expected.items():
            np.testing.assert_array_equal(outputs[name].reshape(array.shape), array)


def test_a_core_is_sent_its_part_only() -> None:
    """A layer of 64 inputs in tiles of 16 rows, one core each: each is sent its 16 channels."""
    g = GraphMaker(np.random.default_rng(0))
    x = g.quantize(g.input("x", (1, 64, 4, 4)))
    module = g.finish(g.dequantize(g.conv(x, 16, kernel=(1, 1), pads=(0, 0, 0, 0))))
    program = lower(module, "tile,slice-bits,group-rows,assign-cores,emit", rows=16, columns=16, crossbars_per_core=16)
    cores = {int(core) for core in program.sections["xbar_place"][:, 0]}
    sizes = []
    for instruction, _, operands in by_instruction(program.sections["code"]):
        if instruction.mnemonic == "send":
            sizes += program.sizes.points[operands["src"][operands["kind"] == 0]].tolist()
    assert len(cores) == 4
    assert sizes == [16 * 16] * 3


@pytest.mark.parametrize("share", ["", "{share=false}"])
def test_shared_crossbars_are_no_busier_than_a_copy(share: str) -> None:
    """Sixteen small layers would all fit on a few diagonals; with copies they must not wait for each other there."""
    g = GraphMaker(np.random.default_rng(1))
    x = g.quantize(g.input("x", (1, 4, 12, 12)))
    for _ in range(3):
        x = g.conv(x, 4, kernel=(1, 1), pads=(0, 0, 0, 0))
    module = g.finish(g.dequantize(g.conv(x, 4, kernel=(1, 1), strides=(3, 3), pads=(0, 0, 0, 0))))
    report: dict[str, dict[str, int]] = {}
    mapping = "tile,slice-bits,group-rows,replicate{{crossbars=60}},assign-cores{},emit"
    program = lower(module, mapping.format(share), report=report, rows=32, columns=32, crossbars_per_core=16)
    graph = time_program(program).graph
    busy = np.zeros(int(program.sections["xbar_phys"].max()) + 1, np.int64)
    for task in graph.tasks:
        if task.mnemonic == "mvm":
            for physical, reads in graph.tiles.arrays[task.use]:
                busy[physical] += reads * int(task.points.sum())
    assert report["replicate"]["cycles"] < report["replicate"]["cycles_once"]
    assert busy.max() == report["replicate"]["cycles"]
    if not share:
        assert report["assign-cores"]["crossbars"] < report["assign-cores"]["crossbars_unshared"]
