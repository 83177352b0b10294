"""Assembly: text and programs are inverse to each other, and wrong text is one located message."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from corruptions import assert_located, corrupted
from hypothesis import given, settings
from hypothesis import strategies as st
from isa_programs import Pieces, demo, demo_images

import shared
import smec
from smec import cli
from smec.assembly import assemble, disassemble, load_assembly, save_assembly
from smec.assembly.affine import format_generator, parse_generator
from smec.ir.errors import SmecError
from smec.ir.isa_sections import F32, U8
from smec.ir.isa_table import INSTRUCTIONS
from smec.program import Program

HANDWRITTEN = (shared.EXAMPLES / "handwritten.smeasm").read_text(encoding="utf-8")


def round_trip(program: Any) -> None:
    text, arrays = disassemble(program)
    again = assemble(text, "f.smeasm", arrays)
    assert again.to_bytes() == program.to_bytes()
    assert disassemble(again)[0] == text


# -- round trip --------------------------------------------------------------------------------------------------------


def test_demo_program() -> None:
    program = demo()
    round_trip(program)
    again = assemble(*_text(program))
    outputs = again.simulate(demo_images()["x"].reshape(-1, 1, 4, 4), engine="adc").outputs["y"]
    assert np.array_equal(outputs, Program.of(program).simulate(demo_images()["x"].reshape(-1, 1, 4, 4)).outputs["y"])


def _text(program: Any) -> tuple[str, str, dict[str, np.ndarray]]:
    text, arrays = disassemble(program)
    return text, "f.smeasm", arrays


def test_text_reads_well() -> None:
    text, arrays = disassemble(demo())
    assert (
        "mvm dst=acc2[8*i + 2*j; i<4, j<4], src=act1[5*i + j; i<4, j<4], tile=0  // tile 1 of 1: 4 x 2, 2 blocks"
        in text
    )
    assert "// layer 1, fc: gemm, K 4 x M 6, 1 pixel, 2 tiles" in text
    assert ".buffer acc2: int32[32] acc core 0 at 0  // accumulators of conv" in text
    assert "// softmax: Softmax" in text
    assert '"agu": host0[16*i + 16*j + 4*k + l; i<1, j<1, k<4, l<4]' in text
    assert set(arrays) == {"pool_f32", "host.0", "sample.x"}  # infinities, bytes, images


def test_digits_program(tmp_path: Path) -> None:
    program = smec.compile(
        shared.EXAMPLES / "digits_resnet.onnx", calib=shared.EXAMPLES / "digits_calib.npz", squeeze=4
    )
    program.save(tmp_path / "d.smebin")
    run = CliRunner().invoke
    assert run(cli.main, ["disasm", str(tmp_path / "d.smebin"), "-o", str(tmp_path / "t.smeasm")]).exit_code == 0
    assert run(cli.main, ["asm", str(tmp_path / "t.smeasm"), "-o", str(tmp_path / "e.smebin")]).exit_code == 0
    assert (tmp_path / "d.smebin").read_bytes() == (tmp_path / "e.smebin").read_bytes()
    # The same program gives the same text and the same side file.
    first = [path.read_bytes() for path in (tmp_path / "t.smeasm", tmp_path / "t.safetensors")]
    save_assembly(Program.load(tmp_path / "e.smebin"), tmp_path / "t.smeasm")
    assert [path.read_bytes() for path in (tmp_path / "t.smeasm", tmp_path / "t.safetensors")] == first


@pytest.mark.parametrize("model", [shared.RESNET20, shared.MOBILENET_V2], ids=["resnet20", "mobilenet-v2"])
@shared.needs(shared.RESNET20, shared.MOBILENET_V2)
def test_real_programs(model: Path, tmp_path: Path) -> None:
    program = smec.compile(model)
    save_assembly(program, tmp_path / "p.smeasm")
    again = load_assembly(tmp_path / "p.smeasm")
    assert again.to_bytes() == program.to_bytes()


rows = st.builds(
    lambda offset, dims: (0, offset, *(n for pair in dims for n in pair)),
    st.integers(0, 2**33),
    st.lists(st.tuples(st.integers(1, 2**20) | st.just(1), st.integers(-(2**29), 2**29) | st.sampled_from([0, 1, -1])),
             min_size=6, max_size=6),
)  # fmt: skip


@given(rows)
def test_generators_round_trip(row: tuple[int, ...]) -> None:
    assert parse_generator(format_generator(row, "act0"), {"act0": 0}) == (row, None)


def test_equal_rows_of_the_table_keep_their_numbers() -> None:
    p = Pieces()
    x, q = p.buffer(4, F32), p.buffer(4, U8)
    source, _, target = p.agu(x, (4, 1)), p.agu(q, (4, 1)), p.agu(q, (4, 1))
    p.emit("quantize", dst=target, src=source, params=p.f32(1.0), zero_point=0, hi=255)
    port = {"name": "x", "agu": source, "shape": [4], "dtype": "float32", "batch": None}
    program = p.program(inputs=[port])
    assert "quantize dst=act1[i; i<4]#2, src=host0[i; i<4]" in disassemble(program)[0]
    round_trip(program)


def test_every_instruction_has_a_text() -> None:
    """The text follows from the table: no instruction is known by name in the assembler."""
    sources = [p.read_text(encoding="utf-8") for p in (shared.ROOT / "smec" / "assembly").glob("*.py")]
    for row in INSTRUCTIONS:
        if row.mnemonic == "host":
            continue  # a space and a metadata key of that name are not the instruction
        assert not any(f'"{row.mnemonic}"' in source for source in sources), row.mnemonic


# -- a program by hand -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["auto", "exact", "adc"])
def test_handwritten_program_runs(engine: str) -> None:
    program = load_assembly(shared.EXAMPLES / "handwritten.smeasm")
    x = np.random.default_rng(0).integers(0, 256, (5, 4)).astype(np.float32) / 16
    w = np.array([[1, 0, 2], [3, -1, 0], [0, -1, 1], [2, 0, -1]], np.float32)
    y = program.simulate(x, engine=engine).outputs["y"]
    assert np.array_equal(y, x @ w + np.array([0, 0.5, 0], np.float32))
    round_trip(program)


# -- messages ----------------------------------------------------------------------------------------------------------

WRONG = {
    "version": (".smeasm 1", ".smeasm 2", "unknown version of the assembly language"),
    "syntax": (".core 0", ".core zero", "syntax error .expected a number, found 'zero'"),
    "instruction": ("  quantize dst", "  quantise dst", r"unknown instruction[^$]*hint: did you mean 'quantize'"),
    "operand": ("params=0", "parms=0", "'quantize' has no operand 'parms'"),
    "operand twice": ("params=0", "hi=0", "operand 'hi' is given twice"),
    "operand missing": (", zero_point=0", "", "'quantize' lacks its operand 'zero_point'"),
    "operand large": ("hi=255", "hi=4294967296", "quantize: operand 'hi' does not fit"),
    "operand kind": ("src=x[i; i<4], params", "src=3, params", "wrong value for operand 'src' .expected an address"),
    "generator for a number": ("tile=0", "tile=q[0]", "wrong value for operand 'tile' .expected a number"),
    "buffer": ("src=q[0]", "src=qq[0]", "unknown buffer 'qq'"),
    "buffer hint": ("dst=acc[0]", "dst=accu[0]", "did you mean 'acc'"),
    "buffer twice": (".buffer q:", ".buffer x:", "buffer 'x' is defined twice"),
    "buffer rank": ("uint8[4] act", "uint8[2, 2] act", "buffer is not flat"),
    "buffer space": ("uint8[4] act", "uint8[4] ram", "unknown space .expected act or acc or host, found 'ram'"),
    "buffer type": ("uint8[4] act", "int4[4] act", "unknown element type .*found 'int4'"),
    "bound": ("dst=q[i; i<4]", "dst=q[i; i=4]", "malformed bound"),
    "bound twice": ("dst=q[i; i<4]", "dst=q[i; i<4, i<4]", "variable 'i' has two bounds"),
    "no bound": ("dst=q[i; i<4]", "dst=q[i]", "variable 'i' has no bound"),
    "sum": ("dst=q[i; i<4]", "dst=q[i j; i<4]", "malformed sum"),
    "constants": ("dst=acc[0]", "dst=acc[0 + 1]", "sum has two constants"),
    "variable twice": ("dst=q[i; i<4]", "dst=q[i + 2*i; i<4]", "variable 'i' stands twice"),
    "generator": ("dst=q[i; i<4]", "dst=q[i; i<4; j<4]", "malformed address generator"),
    "row number": ("src=q[0]", "src=q[0]#1", "row 1 of the table is another address generator"),
    "section": (".section tile_rows", ".section tile_row", r"unknown section[^$]*hint: did you mean 'tile_rows'"),
    "section twice": (".section tile_cols", ".section tile_rows", "section 'tile_rows' is given twice"),
    "section spelled": (".section tile_rows", ".section agus", "section 'agus' follows from"),
    "section layout": ("tile_rows: int32[1, 4]", "tile_rows: int64[1, 4]", "section 'tile_rows' has the wrong layout"),
    "side": ("int64[1] = [0]", "int64[1] sha256:" + "0" * 64, "section 'tile_offset' is in a side file"),
    "list": ("= [0, 1, 2, 3]", "= [0, 1, 2]", "list has another shape .expected 4 items, found 3 of them"),
    "no list": ("int64[1] = [0]", "int64[1] = 0", "section is not a list"),
    "element": ("= [0, 1, 2, 3]", "= [0, 1, 2, 3.5]", "not an element of type int32 .found 3.5"),
    "element range": ("tile_shift: uint8[1, 4] = [0", "tile_shift: uint8[1, 4] = [256", "not an element of type uint8"),
    "number": ("-1e30", "-1e999", "number is too large"),
    "string": ('"name": "x"', '"name": "\\x"', "malformed string"),
    "metadata twice": (".meta outputs", ".meta inputs", "metadata 'inputs' is given twice"),
    "key twice": ('"kind": "gemm"', '"name": "gemm"', "key 'name' is given twice"),
    "metadata type": ('"M": 3', '"M": 3.5', r"metadata.layers\[0\].M has the wrong type"),
    "target": ('"inherits": "sme"', '"inherits": "smee"', "unknown target 'smee'"),
    "target key": ('"adc_bits": 3', '"adc_bit": 3', "unknown key 'adc_bit'"),
    "no target": (".meta target", ".meta other", "program has no target"),
    "no core": (HANDWRITTEN[HANDWRITTEN.index(".core 0") :], "", "program has no core"),
    "table": (".section tile_rows", ".agus x[0] q[0]#2\n.section tile_rows", "another number .expected #1, found #2"),
    "core order": (".core 0", ".core 1", "cores are not in order .expected 0, found 1"),
    "validator": ("mvm dst=acc[0]", "mvm dst=acc[1]", r"instruction 2 \(mvm\): the tile leaves the buffer of 'dst'"),
    "no halt": ("  halt", "", "a core's instructions do not end"),
    "port": ('"shape": [1, 4]', '"shape": [1, 5]', "input 'x': shape and address generator differ"),
    "generator range": ("dst=q[i; i<4]", "dst=q[i; i<5]", "address generator 2 leaves its buffer"),
    "nesting": ('"node": ""', f'"node": {"[" * 40}{"]" * 40}', "values are nested more than 32 deep"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_wrong_text_is_located(case: str) -> None:
    old, new, message = WRONG[case]
    assert HANDWRITTEN.count(old) >= 1
    text = HANDWRITTEN.replace(old, new, 1)
    with pytest.raises(SmecError, match=message) as caught:
        assemble(text, "f.smeasm")
    assert_located(caught.value, text)
    assert str(caught.value).startswith("f.smeasm:")
    assert "^" in str(caught.value)


def test_place_of_an_error() -> None:
    text = HANDWRITTEN.replace("tile=0", "tile=1")
    with pytest.raises(SmecError) as caught:
        assemble(text, "f.smeasm")
    lines = str(caught.value).splitlines()
    assert lines[1:] == ["  mvm dst=acc[0], src=q[0], tile=1".rjust(36), "    ^^^"]


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "p.smeasm"
    assert [f.name for f in save_assembly(demo(), path)] == ["p.smeasm", "p.safetensors"]
    side = tmp_path / "p.safetensors"
    data = side.read_bytes()
    side.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(SmecError, match=r"section '[\w.]+' of the side file has other contents") as caught:
        load_assembly(path)
    assert_located(caught.value, path.read_text())
    side.write_bytes(b"nonsense")
    with pytest.raises(SmecError, match="side file cannot be read"):
        load_assembly(path)
    side.unlink()
    with pytest.raises(SmecError, match="side file not found"):
        load_assembly(path)
    with pytest.raises(SmecError, match="cannot read the assembly"):
        load_assembly(tmp_path / "absent.smeasm")
    path.write_bytes(b"\xff")
    with pytest.raises(SmecError, match="not a text in UTF-8"):
        load_assembly(path)
    with pytest.raises(SmecError, match="text and side file would have the same name"):
        save_assembly(demo(), tmp_path / "p.safetensors")


@pytest.mark.parametrize("name", ["../p.safetensors", "/etc/passwd", "a\\\\b", ""])
def test_side_file_is_beside_the_text(name: str) -> None:
    with pytest.raises(SmecError, match="side file is not a plain file name"):
        assemble(f'.smeasm 1\n.side "{name}"', "f.smeasm")


def test_wrong_arrays() -> None:
    text, _, arrays = _text(demo())
    with pytest.raises(SmecError, match="the side file has no section 'pool_f32'"):
        assemble(text, "f.smeasm", {})
    with pytest.raises(SmecError, match="section 'pool_f32' of the side file is another"):
        assemble(text, "f.smeasm", {**arrays, "pool_f32": arrays["pool_f32"][1:]})
    with pytest.raises(SmecError, match="two side files"):
        assemble(text.replace(".meta", '.side "other"\n.meta', 1), "f.smeasm", arrays)


# -- corruption --------------------------------------------------------------------------------------------------------

DEMO = disassemble(demo())


@settings(max_examples=max(300, settings.default.max_examples))
@given(corrupted(HANDWRITTEN))
def test_corrupted_handwriting_is_diagnosed(text: str) -> None:
    _assemble_or_refuse(text, None)


@settings(max_examples=max(300, settings.default.max_examples))
@given(corrupted(DEMO[0]))
def test_corrupted_disassembly_is_diagnosed(text: str) -> None:
    _assemble_or_refuse(text, DEMO[1])


def _assemble_or_refuse(text: str, arrays: dict[str, np.ndarray] | None) -> None:
    try:
        program = assemble(text, "f.smeasm", arrays)
    except SmecError as error:
        assert_located(error, text)
    else:
        program.validate()


N = 100_000
HOSTILE = {
    "lists": ".meta a = " + "[" * N,
    "closed lists": ".meta a = " + "[" * N + "]" * N,
    "objects": ".meta a = " + '{"a":' * N,
    "string": '.meta a = "' + "a" * N,
    "escapes": '.meta a = "' + '\\"' * N,
    "number": ".meta a = " + "1" * N,
    "name": ".buffer " + "a." * N,
    "type": ".section code: a" + "1" * N + "[",
    "shape": ".section code: uint8[" + "1," * N,
    "size": ".section cells: uint8[999999999999, 999999999999] = []",
    "buffer": ".buffer b: uint8[999999999999] act core 999999999999",
    "generator": ".buffer b: uint8[1] act core 0\n.agus b[" + "i+" * N + "; i<2]",
    "bounds": ".buffer b: uint8[1] act core 0\n.agus b[0;" + " i<2," * N + "]",
    "blanks": ".buffer b: uint8[1] act core 0\n.agus b[" + " " * N + "x",
    "comments": "// \n" * N + "x",
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_text_is_refused_in_linear_time(case: str) -> None:
    with pytest.raises(SmecError) as caught:
        assemble(".smeasm 1\n" + HOSTILE[case], "f.smeasm")
    assert len(str(caught.value)) < 1500
