"""The instruction table: encoding, the definition of each instruction, whole programs, cycles, IR and documentation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from isa_programs import Pieces, demo, demo_images

from smec.ir.dialects.isa import (
    INSTRUCTIONS,
    KINDS,
    SECTIONS,
    TYPES,
    CoreOp,
    Instruction,
    InstructionOp,
    agu_addresses,
    agu_row,
    agu_view,
    check_words,
    decode,
    dtype_code,
    dtype_of_code,
    encode,
    isa_markdown,
    merge_dims,
    run_machine,
    to_ir,
    to_words,
)
from smec.ir.errors import SmecError
from smec.ir.isa_sections import U8

RNG = np.random.default_rng(0)


# -- encoding


@st.composite
def instructions(draw: st.DrawFn) -> tuple[Instruction, dict[str, int]]:
    """Any instruction with any operands that fit."""
    row = draw(st.sampled_from(INSTRUCTIONS))
    return row, {p.operand.name: draw(st.integers(0, (1 << p.bits) - 1)) for p in row.places}


@given(st.lists(instructions(), max_size=20))
def test_decode_inverts_encode(drawn: list[tuple[Instruction, dict[str, int]]]) -> None:
    words = np.array([row.encode(**operands) for row, operands in drawn], np.uint32).reshape(-1, 8)
    assert [(step.instruction, step.operands) for step in decode(words)] == drawn


@given(st.integers(1, len(INSTRUCTIONS)), st.lists(st.integers(0, 2**32 - 1), min_size=7, max_size=7))
def test_words_that_decode_are_what_encode_makes(opcode: int, operands: list[int]) -> None:
    words = np.array([[opcode, *operands]], np.uint32)
    try:
        (step,) = decode(words)
    except SmecError as error:
        assert error.message == "instruction 0: unused bits are set"
    else:
        assert np.array_equal(step.instruction.encode(**step.operands), words[0])


def test_columns_are_encoded_together() -> None:
    row = Instruction.by_mnemonic("mvm")
    words = row.encode_columns(3, dst=[1, 2, 3], src=4, tile=np.arange(3))
    assert [str(step) for step in decode(words)][1] == "mvm dst=2 src=4 tile=1"


def test_table_is_sound() -> None:
    assert [row.opcode for row in INSTRUCTIONS] == list(range(1, len(INSTRUCTIONS) + 1))
    assert len({row.mnemonic for row in INSTRUCTIONS}) == len(INSTRUCTIONS)
    for row in INSTRUCTIONS:
        assert Instruction.by_opcode(row.opcode) is row is Instruction.by_mnemonic(row.mnemonic)
        assert all(place.word < 8 for place in row.places), row
        assert row.doc and row.cycles.__doc__, row
        names = [operand.name for operand in row.operands]
        assert len(set(names)) == len(names) and set(row.same) <= set(names)
        for operand in row.operands:
            assert operand.kind in KINDS
            assert (operand.kind == "agu") == (operand.types in TYPES and bool(operand.access))
            assert operand.kind.startswith("pool_") == (operand.count is not None)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: encode("jump"), "unknown instruction (expected mvm, init,"),
        (lambda: encode("copy", dst=1), "copy: wrong operands (expected dst, src, found dst)"),
        (lambda: encode("copy", dst=1, src=2, n=3), "copy: wrong operands (expected dst, src, found dst, src, n)"),
        (lambda: encode("copy", dst=-1, src=2), "copy: operand 'dst' does not fit (expected 0 to 4294967295"),
        (lambda: encode("rescale", dst=0, src=0, params=0, lo=0, hi=65536), "operand 'hi' does not fit (expected 0 to"),
        (lambda: Instruction.by_opcode(0), "unknown opcode (expected 1 to 20, found 0)"),
        (lambda: check_words(np.zeros((1, 8), np.uint32)), "instruction 0: unknown opcode"),
        (lambda: check_words(np.zeros((1, 7), np.uint32)), "bad instruction words (expected uint32 [n, 8]"),
        (lambda: check_words(np.zeros((1, 8), np.int64)), "bad instruction words (expected uint32 [n, 8]"),
        (lambda: dtype_of_code(15), "unknown dtype code"),
        (lambda: dtype_code(np.complex64), "no buffer can hold this dtype"),
        (lambda: agu_row(0, 0, [(2, 9), (2, 8), (2, 7), (2, 6), (2, 5), (2, 4), (2, 3)]), "too many dimensions"),
    ],
)
def test_bad_encodings_are_diagnosed(make: Any, message: str) -> None:
    with pytest.raises(SmecError) as caught:
        make()
    assert message in str(caught.value)


# -- address generators

DIMS = st.lists(st.tuples(st.integers(1, 3), st.integers(-4, 9)), max_size=6)


@given(DIMS)
def test_address_generators_walk_row_major(dims: list[tuple[int, int]]) -> None:
    row = np.array(agu_row(0, 100, dims), np.int64)
    expected = [100]
    for count, stride in dims:
        expected = [address + i * stride for address in expected for i in range(count)]
    assert agu_addresses(row).tolist() == expected
    memory = RNG.integers(0, 100, (2, 300))
    assert np.array_equal(agu_view(memory, row).reshape(2, -1), memory[:, expected])
    assert agu_addresses(np.array(agu_row(0, 100, merge_dims(dims)))).tolist() == expected


def test_seven_dimensions_fold() -> None:
    row = agu_row(3, 4, [(1, 99), (2, 24), (2, 12), (3, 4), (1, 0), (2, 2), (2, 1)])
    assert row == [3, 4, *[1, 0] * 5, 48, 1]


# -- whole programs


def test_program_runs_and_counts_saturation() -> None:
    program = demo()
    program.validate()
    m = run_machine(program, demo_images())
    (y,) = m.outputs().values()
    assert y.shape == (3, 1, 3)
    assert np.allclose(y.sum(-1), 1)
    assert m.saturated.tolist() == [0, 0, 0]
    x = demo_images()["x"].astype(int)[:, 0, 0]
    padded = np.pad(2 * x + 2, ((0, 0), (1, 0), (1, 0)), constant_values=2)
    first = np.array([[1, 0], [1, 1], [0, 1], [1, 1]])
    weight = first - 2 * np.roll(first, 1, 0)
    windows = np.stack([padded[:, i : i + 4, j : j + 4] for i in (0, 1) for j in (0, 1)], axis=-1)
    assert np.array_equal(m.accumulators[0][0].reshape(3, 4, 4, 2), windows @ weight + [3, -4])


def test_narrow_adc_clips() -> None:
    program = demo()
    program.metadata["target"] = {**program.metadata["target"], "adc_bits": 1}
    clipped, free = run_machine(program, demo_images()), run_machine(demo(), demo_images())
    assert clipped.saturated[0] > 0
    assert not np.array_equal(clipped.accumulators[0][0], free.accumulators[0][0])


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "wrong inputs (expected x, found none)"),
        ({"x": np.zeros((2, 15), np.float32)}, "input 'x' does not fit (expected float32 [2, 1, 1, 4, 4], found"),
        ({"x": np.zeros((2, 16))}, "found float64 [2, 16])"),
    ],
)
def test_wrong_inputs_are_diagnosed(inputs: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(SmecError) as caught:
        run_machine(demo(), inputs)
    assert message in str(caught.value)


def test_deadlock_is_diagnosed() -> None:
    p = Pieces()
    for core, other in ((0, 1), (1, 0)):
        agu = p.array(1, U8, core)
        p.emit("recv", core=core, dst=agu, src_core=other, token=1)
        p.emit("send", core=core, dst_core=other, src=agu, token=1, kind=0)
    program = p.program()
    program.validate()
    with pytest.raises(SmecError, match=r"deadlock.*cores \[0, 1\] at \['recv dst=0 src_core=1 token=1'"):
        run_machine(program, {})


def test_cycles_follow_the_operands() -> None:
    program = demo()
    counts = dict(
        zip([step.mnemonic for step in decode(program.sections["code"])], program.cycles.tolist(), strict=True)
    )
    # conv: 16 pixels, and the slower crossbar has two row groups of 8 one-bit reads; fc: one pixel, one group whose
    # shifts differ by 1 in the first tile and by 2 in the second
    mvm = [
        c for c, step in zip(program.cycles, decode(program.sections["code"]), strict=True) if step.mnemonic == "mvm"
    ]
    assert mvm == [16 * 2 * 8, 8 + 1, 8 + 2]
    # 4 lanes: 25 elements of the fill, 8 x 4 of the pooling; 2 bytes a cycle on the link for 8 bytes
    assert (counts["fill"], counts["maxpool"], counts["send"], counts["recv"], counts["host"]) == (7, 8, 4, 4, 0)


# -- IR and documentation


def test_ir_holds_the_whole_program() -> None:
    program = demo()
    op = to_ir(program.sections, dict(program.metadata), "demo.smebin")
    for inner in op.walk():
        inner.verify()
    cores = [core for core in op.body.block.ops if isinstance(core, CoreOp)]
    steps = list(cores[1].body.block.ops)
    assert [step.name for step in steps][:3] == ["isa.recv", "isa.init", "isa.mvm"]
    assert str(steps[0].location) == "demo.smebin: node 'instruction 8'"
    sections, document = to_words(op)
    assert document == program.metadata
    assert sections.keys() == program.sections.keys()
    assert all(np.array_equal(sections[name], array) for name, array in program.sections.items())
    x = demo_images()["x"]
    (y,) = op.interpret([x])
    assert np.array_equal(y, run_machine(program, {"x": x}).outputs()["y"])


def test_instruction_ops_execute_and_are_checked() -> None:
    p = Pieces()
    dst = p.array(2, U8)
    op = to_ir(p.program().sections, {}).body.block.ops[0].body.block.ops[0]
    assert isinstance(op, InstructionOp)
    assert op.instruction.mnemonic == "halt"
    fill = to_ir({**p.program().sections, "code": np.stack([encode("fill", dst=dst, value=5), encode("halt")]),
                  "core_table": np.array([[0, 2]])}, {}).body.block.ops[0].body.block.ops[0]  # fmt: skip
    m = p.machine(1)
    fill.execute(m)
    assert m.read(dst).tolist() == [[5, 5]]
    for bad, message in ((-1, "operand 'value' does not fit"), ("x", "bad operand 'value'")):
        fill.attributes["value"] = bad
        with pytest.raises(SmecError, match=message) as caught:
            fill.verify()
        assert "instruction 0" in str(caught.value)


def test_stream_without_halt_is_diagnosed() -> None:
    core = to_ir(demo().sections, {}).body.block.ops[0]
    core.body.block.last.erase()
    with pytest.raises(SmecError, match=r"the stream does not end \(expected isa.halt, found isa.send\)"):
        core.verify()


def test_documentation_names_everything() -> None:
    page = isa_markdown()
    for row in INSTRUCTIONS:
        assert f"| {row.opcode} | `{row.mnemonic}` | {row.doc} |" in page
    for spec in SECTIONS:
        assert f"| `{spec.name}` | {spec.dtype} |" in page
    widths = {line.count("|") for line in page.splitlines() if line.startswith(("| opcode", "| 1 |"))}
    assert widths == {6}
