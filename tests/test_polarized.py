"""The sign scheme `polarized`: signs of blocks of rows, through every pass, in programs, and in every engine.

The oracles: what the crossbars of a layer hold against its integers after each pass, the IR's interpretation before and
after, and the reference machine, which reads digit by digit.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mapping_layers import Layer, Target, assert_maps, module_of, only_layer, run

from graphs import GraphMaker, sample
from programs import assembled, assert_passes, lower
from smec import targets
from smec.assembly import assemble, disassemble
from smec.inspection import inspect
from smec.ir.dialects import quant
from smec.ir.dialects.builtin import ModuleOp
from smec.ir.dialects.xbar import MvmOp
from smec.ir.errors import SmecError
from smec.ir.interpreter import interpret
from smec.ir.isa_machine import run_machine
from smec.ir.types import Handle
from smec.passes.base import PassContext
from smec.passes.compact import Compact
from smec.passes.constraints import Geometry, layer_constraint
from smec.passes.group_rows import GroupRows
from smec.passes.legality import check_legal
from smec.passes.pipeline import parse_pipeline
from smec.passes.slice_bits import SliceBits
from smec.passes.squeeze_out import SqueezeOut
from smec.passes.tile import Tile
from smec.runtime.container import Program
from smec.runtime.simulator import Simulator

KINDS = ["any", "sparse", "zero", "most", "least", "holes"]
MAPPING = "tile,squeeze-out,compact,slice-bits,group-rows,assign-cores,emit"


def polarize(weight: np.ndarray, sign_rows: int, rng: np.random.Generator) -> np.ndarray:
    """The same magnitudes with one sign for each output and `sign_rows` consecutive inputs, in the order of im2col."""
    m = len(weight)
    flat = np.abs(weight.transpose(0, 2, 3, 1) if weight.ndim == 4 else weight).reshape(m, -1)
    signs = rng.choice([-1, 1], (m, -(-flat.shape[1] // sign_rows)))
    flat = flat * np.repeat(signs, sign_rows, axis=1)[:, : flat.shape[1]]
    if weight.ndim == 2:
        return flat
    _, depth, kh, kw = weight.shape
    return flat.reshape(m, kh, kw, depth).transpose(0, 3, 1, 2)


def magnitudes(kind: str, shape: tuple[int, ...], top: int, rng: np.random.Generator) -> np.ndarray:
    w = rng.integers(0, top + 1, shape)
    if kind == "sparse":
        return np.where(rng.random(shape) < 0.1, w, 0)
    if kind == "holes":
        outputs = (rng.random(shape[0]) < 0.5).reshape(-1, *[1] * (len(shape) - 1))
        return w * outputs * (rng.random(shape[1:]) < 0.4)
    return {"any": w, "zero": np.zeros_like(w), "most": np.full_like(w, top), "least": np.minimum(w, 1)}[kind]


@st.composite
def cases(draw: st.DrawFn) -> tuple[Layer, Target]:
    """Layers of all kinds on small crossbars, whose rows the blocks divide."""
    rows, columns, sign_rows = draw(st.sampled_from([(8, 8, 8), (16, 8, 8), (9, 5, 3), (6, 17, 1), (32, 16, 16)]))
    bits, groups = draw(st.integers(1, 10)), 1
    if draw(st.booleans()):
        shape: tuple[int, ...] = (draw(st.integers(1, 19)), draw(st.integers(1, 70)))
    else:
        groups = draw(st.sampled_from([1, 2, 3, 9]))
        kernel = draw(st.sampled_from([(1, 1), (3, 3), (1, 5)]))
        depth, outputs = draw(st.integers(1, 4)), draw(st.integers(1, 4))
        shape = (groups * outputs, depth, *kernel)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    weight = polarize(magnitudes(draw(st.sampled_from(KINDS)), shape, 2**bits - 1, rng), sign_rows, rng)
    target = Target(
        rows, columns, draw(st.sampled_from([1, 1, 2, 3])), draw(st.sampled_from([1, 1, 2])),
        draw(st.integers(6, 9)), draw(st.integers(1, rows)),
    )  # fmt: skip
    return Layer(weight, "polarized", bits, groups, sign_rows=sign_rows), target


def assert_grouped(op: MvmOp, concurrent: int, lossless: int | None) -> None:
    """Groups cover the rows with a one, stay within blocks, and are lossless (up to that current)."""
    cells = np.unpackbits(op.cells.array, axis=2, bitorder="little")
    count, height, _ = cells.shape
    values = cells[:, :, : op.geometry[1] * op.cell_bits].reshape(count, height, op.geometry[1], op.cell_bits)
    values = values @ (1 << np.arange(op.cell_bits))
    for x, group in enumerate(op.row_group.array):
        assert (group[values[x].any(axis=1)] >= 0).all()
        assert sorted(set(group[group >= 0])) == list(range(group.max(initial=-1) + 1))
        for g in range(group.max(initial=-1) + 1):
            driven = np.flatnonzero(group == g)
            assert len(set(driven // op.sign_rows)) == 1
            if lossless is not None:
                assert len(driven) <= concurrent
                assert values[x, driven].sum(axis=0).max() <= lossless


@given(cases(), st.integers(0, 9), st.sampled_from(["fit", "leading-one"]), st.booleans(), st.booleans())
def test_every_pass_keeps_the_weights(
    case: tuple[Layer, Target], depth: int, shift: Any, gather: bool, beside: bool
) -> None:
    layer, target = case
    module = module_of(layer)
    run(module, target, Tile())
    op = only_layer(module)
    assert_maps(op)
    run(module, target, SqueezeOut(min(depth, layer.bits - 1), shift))
    assert_maps(op)
    kept = op.integers()
    run(module, target, Compact(gather=gather))
    assert_maps(op)
    rows, cols = op.rows.array >= 0, op.cols.array >= 0
    held = (op.codes.array != 0) & rows[:, :, None] & cols[:, None, :]
    assert np.array_equal(held.any(axis=2), rows)
    assert np.array_equal(held.any(axis=1), cols)
    assert not Compact(gather=gather).run(module, PassContext(target=target, act_bits=8))
    run(module, target, SliceBits())
    assert len(op.xbar_tile.array) <= len(rows) * -(-(layer.bits - op.squeeze) // target.cell_bits)
    assert (op.xbar_weight.array > 0).all()
    assert np.array_equal(op.effective_weights(), kept)
    run(module, target, GroupRows(beside=beside, limit=0.0))
    assert_grouped(op, target.concurrent_rows, (2**target.adc_bits - 1) // (2**target.dac_bits - 1))
    assert np.array_equal(op.effective_weights(), kept)
    run(module, target, GroupRows(rows=3))
    assert_grouped(op, target.concurrent_rows, None)
    assert np.array_equal(op.effective_weights(), kept)


@given(cases())
def test_compaction_never_adds_crossbars(case: tuple[Layer, Target]) -> None:
    layer, target = case
    before = run(module_of(layer), target, Tile(), SliceBits()).report["slice-bits"]["crossbars"]
    after = run(module_of(layer), target, Tile(), Compact(), SliceBits()).report["slice-bits"]["crossbars"]
    assert after <= before


def test_compaction_moves_whole_blocks() -> None:
    """Of three tiles, two blocks of four rows are in use: they share one tile, with their rows at their places."""
    weight = np.zeros((1, 24), np.int64)
    weight[0, [5, 6]], weight[0, 19] = -3, 2
    module = module_of(Layer(weight, "polarized", sign_rows=4))
    run(module, Target(rows=8, columns=4), Tile(), Compact())
    assert only_layer(module).rows.array.tolist() == [[-1, 5, 6, -1, -1, -1, -1, 19]]


def test_blocks_of_groups_begin_at_multiples_of_their_rows() -> None:
    """3 x 3 depthwise kernels on the diagonal of tiles: nine rows take two blocks of eight."""
    rng = np.random.default_rng(0)
    weight = polarize(rng.integers(1, 16, (4, 1, 3, 3)), 8, rng)
    module = module_of(Layer(weight, "polarized", bits=4, groups=4))
    run(module, Target(rows=32, columns=8), Tile())
    used = only_layer(module).rows.array >= 0
    assert used.shape == (2, 32)
    assert np.array_equal(np.flatnonzero(used[0]), [*range(9), *range(16, 25)])


def test_blocks_bound_groups_and_reads() -> None:
    """Eight rows at a time, though the converter could read all: 128 rows in 16 groups of A reads."""
    module = module_of(Layer(np.ones((2, 128), np.int64), "polarized", bits=1))
    context = run(module, Target(), Tile(), SliceBits(), GroupRows())
    figures = context.report["group-rows"]
    assert (figures["groups"], figures["reads"], figures["bound"]) == (16, 16 * 8, 16 * 8)


# -- what is refused


def test_signs_belong_to_the_level() -> None:
    module = signed(polarized_network(np.random.default_rng(0), 8), 8, np.random.default_rng(0))
    context = PassContext(target=targets.load("sme"), act_bits=8)
    parse_pipeline("tile,slice-bits").run(module, context)
    check_legal(module)
    layer = next(op for op in module.graph.ops if isinstance(op, MvmOp))
    del layer.attributes["block_signs"]
    with pytest.raises(SmecError, match=r"lacks its attribute 'block_signs' at level xbar.sliced"):
        check_legal(module)


def test_mixed_signs_are_located() -> None:
    weight = np.ones((3, 20), np.int64)
    weight[2, 13] = -7
    with pytest.raises(SmecError) as caught:
        run(module_of(Layer(weight, "polarized")), Target(rows=16), Tile())
    text = str(caught.value)
    assert "layer0" in text
    assert "row block 1 (tile rows 8 to 15) of tile 0, output column 2" in text
    assert "found 1 at matrix row 8 and -7 at matrix row 13" in text
    assert "quantize-admm" in text


def test_signs_that_a_pass_mixed_are_located() -> None:
    module = module_of(Layer(np.ones((3, 20), np.int64), "polarized"))
    run(module, Target(rows=16), Tile())
    op = only_layer(module)
    codes = op.codes.array.copy()
    codes[1, 3, 1] = -1
    op.attributes["codes"] = Handle(codes)
    with pytest.raises(SmecError, match=r"row block 0 .* of tile 1, output column 1"):
        run(module, Target(rows=16), SliceBits())


@pytest.mark.parametrize("sign_rows", [0, -8, 5, 32])
def test_blocks_must_divide_a_tile(sign_rows: int) -> None:
    layer = Layer(np.ones((3, 20), np.int64), "polarized", sign_rows=sign_rows)
    with pytest.raises(SmecError, match=r"rows of a sign block .*expected a divisor of the tile's 16 rows"):
        run(module_of(layer), Target(rows=16), Tile())


def test_rows_of_a_block_are_said_once() -> None:
    with pytest.raises(SmecError, match="part of the sign scheme"):
        layer_constraint(Geometry(sign="polarized"), extra="polarized:16")
    assert "polarized:16" in layer_constraint(Geometry(sign="polarized"), sign_rows=16).text()


# -- programs


def polarized_network(rng: np.random.Generator, sign_rows: int, bits: int = 8) -> ModuleOp:
    """Convolutions of all kinds and a matrix product."""
    g = GraphMaker(rng)
    layer: dict[str, Any] = {"low": -(2**bits) + 1, "high": 2**bits - 1, "bits": bits}
    x = g.quantize(g.input("x", (1, 5, 5, 5)))
    a = g.conv(x, 9, strides=(2, 2), clamp_min=0.0, **layer)
    b = g.conv(a, 9, groups=9, **layer)
    c = g.conv(b, 6, groups=3, **layer)
    flat = g.view(quant.Reshape, c, (1, 54))
    return signed(g.finish(g.gemm(flat, 7, real=True, **layer)), sign_rows, rng)


def signed(module: ModuleOp, sign_rows: int, rng: np.random.Generator) -> ModuleOp:
    """The module with its layers' weights polarized."""
    for op in module.graph.ops:
        if isinstance(op, quant.WeightedOp):
            weight = polarize(op.weight.array, sign_rows, rng).astype(np.int16)
            op.attributes |= {"weight": Handle(weight), "sign": "polarized", "sign_rows": sign_rows}
    return module


def assert_engines(program: Program, inputs: dict[str, np.ndarray], *engines: str) -> int:
    """The engines give what the reference machine gives, saturated reads included; returns their number."""
    machine = run_machine(program, inputs)
    simulator = Simulator(program)
    for engine in engines:
        result = simulator.run(inputs, engine)
        for name, array in machine.outputs().items():
            np.testing.assert_array_equal(result.outputs[name], array.reshape(result.outputs[name].shape), engine)
        assert sum(result.saturated.values()) == machine.saturated.sum()
    return int(machine.saturated.sum())


@pytest.mark.parametrize("sign_rows", [8, 16])
@pytest.mark.parametrize(("cell_bits", "dac_bits", "adc_bits"), [(1, 1, 8), (1, 1, 3), (2, 2, 5)])
def test_programs_compute_what_the_graph_does(sign_rows: int, cell_bits: int, dac_bits: int, adc_bits: int) -> None:
    rng = np.random.default_rng(sign_rows)
    module = polarized_network(rng, sign_rows)
    inputs = sample(module, rng)
    context = PassContext(
        target=targets.load("sme").model_copy(
            update={"rows": 32, "columns": 16, "cell_bits": cell_bits, "dac_bits": dac_bits, "adc_bits": adc_bits}
        ),
        act_bits=8,
    )
    assert_passes(module, MAPPING, context, inputs)
    assert not assert_engines(assembled(module), inputs, "exact", "adc", "auto")


@given(
    st.sampled_from([1, 127, 128, 129]), st.sampled_from([1, 5]), st.sampled_from(KINDS), st.sampled_from([8, 16]),
    st.sampled_from([2, 3, 8]), st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_engines_agree_at_the_edges(
    rows: int, columns: int, kind: str, sign_rows: int, adc_bits: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    g = GraphMaker(rng)
    y = g.gemm(g.quantize(g.input("x", (1, rows))), columns, real=True, bits=3)
    module = g.finish(y)
    (op,) = (op for op in module.graph.ops if isinstance(op, quant.WeightedOp))
    op.attributes["weight"] = Handle(magnitudes(kind, (columns, rows), 7, rng).astype(np.int16))
    signed(module, sign_rows, rng)
    inputs = sample(module, rng, 3)
    expected = interpret(module, inputs)["y0"]
    program = lower(module, MAPPING, adc_bits=adc_bits)
    np.testing.assert_array_equal(run_machine(program, inputs).outputs()["y0"], expected)
    assert not assert_engines(program, inputs, "exact", "adc")


@pytest.mark.parametrize(("cell_bits", "dac_bits"), [(1, 1), (2, 1), (1, 2)])
def test_clipped_reads_count_with_their_sign(cell_bits: int, dac_bits: int) -> None:
    """Whole blocks at once into an ADC of two bits: what it clips is clipped before the sign."""
    rng = np.random.default_rng(1)
    module = polarized_network(rng, 8)
    inputs = sample(module, rng)
    pipeline = MAPPING.replace("group-rows", "group-rows{rows=8}")
    program = lower(module, pipeline, rows=32, columns=16, adc_bits=2, cell_bits=cell_bits, dac_bits=dac_bits)
    assert assert_engines(program, inputs, "adc", "auto") > 0


@pytest.fixture(scope="module")
def program() -> Program:
    return lower(polarized_network(np.random.default_rng(0), 8), MAPPING, rows=32, columns=16)


def test_text_and_bytes_of_programs(program: Program) -> None:
    text, arrays = disassemble(program)
    assert ".section sign_blocks: uint8[" in text
    assert assemble(text, "f.smeasm", arrays).to_bytes() == program.to_bytes()
    assert [layer["sign_rows"] for layer in inspect(program)["layers"]] == [8] * 4
    assert [layer["sign"] for layer in inspect(program)["layers"]] == ["polarized"] * 4


def edited(program: Program, name: str, index: Any, value: Any) -> Program:
    sections = dict(program.sections)
    sections[name] = sections[name].copy()
    sections[name][index] = value
    return Program(sections, program.metadata)


def test_signs_decide_the_result(program: Program) -> None:
    inputs = {"x": np.random.default_rng(0).uniform(-1, 1, (2, 1, 5, 5, 5)).astype(np.float32)}
    before = Simulator(program).run(inputs, "adc").outputs["y0"]
    used = np.packbits(program.sections["tile_cols"][0] >= 0, bitorder="little")
    other = edited(program, "sign_blocks", 0, program.sections["sign_blocks"][0] ^ used)
    other.validate()
    assert not np.array_equal(Simulator(other).run(inputs, "adc").outputs["y0"], before)
    assert_engines(other, inputs, "exact", "adc")


@pytest.mark.parametrize(
    ("name", "index", "value", "message"),
    [
        ("tile_sign", (0, 0), 1, "tile 0: its sign blocks do not follow those of the tile before"),
        ("tile_sign", (1, 0), 1 << 40, "tile 1: its sign blocks do not follow"),
        ("tile_sign", (0, 1), -1, "tile 0: bad rows of a sign block"),
        ("tile_sign", (0, 1), 33, "tile 0: bad rows of a sign block"),
        ("tile_sign", (0, 1), 5, "tile 0: sign blocks do not divide its rows"),
        ("tile_sign", (0, 1), 16, "tile 1: its sign blocks do not follow"),
        ("tile_sign", slice(None), 0, "tile_sign does not cover the sign blocks"),
        ("sign_blocks", (1, 1), 0x80, "sign block 1: negative columns that its tile does not use"),
        ("xbar_group", (0, [0, 8]), 0, "crossbar 0: "),
    ],
)
def test_damaged_signs_are_located(program: Program, name: str, index: Any, value: int, message: str) -> None:
    with pytest.raises(SmecError) as caught:
        edited(program, name, index, value).validate()
    assert message in str(caught.value)


def test_groups_across_blocks_are_refused(program: Program) -> None:
    group = program.sections["xbar_group"]
    crossbar = int(np.flatnonzero((group[:, 8:16] >= 0).any(axis=1) & (group[:, :8] >= 0).any(axis=1))[0])
    merged = group[crossbar].copy()
    second = np.flatnonzero(merged[8:16] >= 0)[0] + 8
    merged[merged == merged[second]] = merged[np.flatnonzero(merged[:8] >= 0)[0]]
    numbers = np.unique(merged[merged >= 0])
    merged = np.where(merged >= 0, np.searchsorted(numbers, merged), -1)
    with pytest.raises(SmecError, match=f"crossbar {crossbar}: row groups reach across sign blocks"):
        edited(program, "xbar_group", crossbar, merged).validate()


def test_missing_and_damaged_sections_of_files(program: Program, tmp_path: Path) -> None:
    file = tmp_path / "p.smebin"
    program.save(file)
    data = bytearray(file.read_bytes())
    signs = program.sections["sign_blocks"].tobytes()
    assert data.count(signs) == 1
    data[data.index(signs)] ^= 1
    file.write_bytes(data)
    with pytest.raises(SmecError, match=r"section 'sign_blocks'.*"):
        Program.load(file)
    without = {name: array for name, array in program.sections.items() if name != "sign_blocks"}
    with pytest.raises(SmecError, match=r"a section is missing .*expected sign_blocks"):
        Program(without, program.metadata).validate()
    short = Program({**program.sections, "sign_blocks": program.sections["sign_blocks"][:, :1]}, program.metadata)
    with pytest.raises(SmecError, match="section 'sign_blocks' has the wrong layout"):
        short.validate()
