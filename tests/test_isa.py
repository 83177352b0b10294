"""The instruction table: encoding, the definition of each instruction, whole programs, cycles, IR and documentation."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from isa_programs import TARGET, Pieces, demo, demo_images

from smec.ir.dialects.isa import (
    INSTRUCTIONS,
    KINDS,
    SECTIONS,
    TYPES,
    CoreOp,
    Instruction,
    InstructionOp,
    Machine,
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
from smec.ir.isa_sections import F32, I32, I64, U8, U16

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


# -- the crossbar read


def scalar_mvm(p: Pieces, tile: int, q: list[int], act_bits: int) -> tuple[list[int], int]:
    """The product of one pixel's rows by plain integer loops: (value of each column [C], saturated reads)."""
    s, hw = p.sections, p.hardware
    rows, cols = s["tile_rows"][tile].tolist(), s["tile_cols"][tile].tolist()
    first, count = s["tile_xbars"][tile].tolist()
    out, saturated = [0] * hw.columns, 0
    for x in range(first, first + count):
        _, _, row0, col0 = s["xbar_place"][x].tolist()
        group = s["xbar_group"][x].tolist()
        packed = s["cells"][s["xbar_phys"][x]]
        for g in set(group) - {-1}:
            members = [r for r in range(hw.rows) if group[r] == g]
            shifts = {r: int(s["tile_shift"][tile, r]) for r in members}
            low, high = min(shifts.values()), max(shifts.values())
            for digit in range(-(-(act_bits + high - low) // hw.dac_bits)):
                for n in (n for n in range(hw.columns) if cols[n] >= 0):
                    current = 0
                    for r in members:
                        fed = (q[r] << (shifts[r] - low)) >> (digit * hw.dac_bits) & ((1 << hw.dac_bits) - 1)
                        bits = int.from_bytes(packed[row0 + r].tobytes(), "little")
                        current += fed * (bits >> ((col0 + n) * hw.cell_bits) & ((1 << hw.cell_bits) - 1))
                    top = (1 << hw.adc_bits) - 1
                    saturated += current > top
                    weight = int(s["xbar_weight"][x])
                    out[n] += weight * (min(current, top) << (low + digit * hw.dac_bits))
    total = sum(q[r] for r in range(hw.rows) if rows[r] >= 0)
    return [value - int(s["tile_offset"][tile]) * total for value in out], saturated


@st.composite
def crossbar_cases(draw: st.DrawFn) -> tuple[Pieces, int, int, np.ndarray]:
    """(pieces, tile, activation bits, inputs [images, pixels, used rows])."""
    numbers = st.integers
    target = {
        **TARGET,
        "cell_bits": draw(numbers(1, 3)),
        "dac_bits": draw(numbers(1, 3)),
        "adc_bits": draw(numbers(1, 6)),
    }
    p, act_bits = Pieces(target), draw(numbers(1, 9))
    seed = np.random.default_rng(draw(numbers(0, 2**32)))
    rows, cols = draw(numbers(1, 4)), draw(numbers(1, 6))
    crossbars = []
    for _ in range(draw(numbers(0, 3))):
        cells = np.zeros((4, 6), np.int64)
        cells[:rows, :cols] = seed.integers(0, 2 ** target["cell_bits"], (rows, cols))
        group = np.full(4, -1)
        group[:rows] = np.unique(seed.integers(-1, 2, rows), return_inverse=True)[1] - draw(st.booleans())
        crossbars.append((draw(numbers(-8, 8)), group, cells))
    place = (0, draw(numbers(0, 4 - rows)), draw(numbers(0, 6 - cols)))
    addresses = np.where(np.arange(4) < rows, np.arange(4), -1)
    channels = np.where(np.arange(6) < cols, seed.permutation(6), -1)
    shift = np.where(np.arange(4) < rows, seed.integers(0, 4, 4), 0)
    tile = p.tile(addresses, channels, crossbars, shift, draw(numbers(0, 8)), place)
    return p, tile, act_bits, seed.integers(0, 2**act_bits, (2, 3, rows))


def execute(machine: Machine, mnemonic: str, **operands: int) -> None:
    """Run one instruction, through its words."""
    (step,) = decode(encode(mnemonic, **operands)[None])
    step.instruction.semantics(machine, SimpleNamespace(**step.operands))


def run_mvm(p: Pieces, tile: int, act_bits: int, q: np.ndarray, start: int = 0) -> tuple[Machine, np.ndarray]:
    """Multiply q [images, pixels, rows] by a tile, onto sums of `start`: (machine, sums [images, pixels, 6])."""
    images, pixels, rows = q.shape
    source, sums = p.buffer(pixels * rows, U16), p.buffer(pixels * 6, I32)
    dst, src = p.agu(sums, (pixels, 6)), p.agu(source, (pixels, rows))
    m = p.machine(images, act_bits)
    m.memory[source][:] = q.reshape(images, -1)
    m.memory[sums][:] = start
    execute(m, "mvm", dst=dst, src=src, tile=tile)
    return m, m.memory[sums].reshape(images, pixels, 6)


@given(crossbar_cases())
def test_mvm_reads_digit_by_digit(case: tuple[Pieces, int, int, np.ndarray]) -> None:
    p, tile, act_bits, q = case
    m, sums = run_mvm(p, tile, act_bits, q, start=-50)
    cols, saturated = p.sections["tile_cols"][tile], 0
    expected = np.full(sums.shape, -50)
    for image, pixel in np.ndindex(q.shape[:2]):
        out, clipped = scalar_mvm(p, tile, [*q[image, pixel].tolist(), 0, 0, 0, 0], act_bits)
        saturated += clipped
        for n in np.flatnonzero(cols >= 0):
            expected[image, pixel, cols[n]] += out[n]
    assert np.array_equal(sums, expected)
    assert m.saturated[tile] == saturated


@given(crossbar_cases())
def test_lossless_mvm_is_the_integer_product(case: tuple[Pieces, int, int, np.ndarray]) -> None:
    narrow, tile, act_bits, q = case
    p = Pieces({**narrow.target, "adc_bits": 12})
    p.sections = s = narrow.sections
    m, sums = run_mvm(p, tile, act_bits, q)
    rows = q.shape[2]
    weight = np.zeros((rows, 6), np.int64)
    first, count = s["tile_xbars"][tile]
    for x in range(first, first + count):
        _, _, row0, col0 = s["xbar_place"][x]
        cells = m.physical_cells(s["xbar_phys"][x])[row0 : row0 + rows, col0:]
        driven = s["xbar_group"][x, :rows, None] >= 0
        weight[:, : 6 - col0] += np.where(driven, cells * s["xbar_weight"][x], 0)
    weight = (weight << s["tile_shift"][tile, :rows, None].astype(np.int64)) - s["tile_offset"][tile]
    cols = s["tile_cols"][tile]
    expected = np.zeros(sums.shape, np.int64)
    expected[..., cols[cols >= 0]] = q @ weight[:, cols >= 0]
    assert np.array_equal(sums, expected)
    assert m.saturated[tile] == 0


# -- the vector unit: every instruction against plain arithmetic on scalars


def level(x: np.float32, lo: int = 0, hi: int = 255) -> int:
    """Rounded (half to even) and clipped."""
    return min(max(round(float(x)), lo), hi)


class Vector:
    """Arrays of 6 channels x 4 pixels for two images, on a machine that is made once everything is declared."""

    def __init__(self) -> None:
        self.p = Pieces()
        self._contents: list[tuple[int, np.ndarray]] = []

    def array(self, dtype: int, low: float = 0, high: float = 256) -> tuple[int, np.ndarray]:
        """An address generator over [4, 6] elements, and their values for two images [2, 24]."""
        buffer = self.p.buffer(24, dtype)
        values = np.random.default_rng(buffer).uniform(low, high, (2, 24)).astype(dtype_of_code(dtype))
        self._contents.append((buffer, values))
        return self.p.agu(buffer, (4, 6), (6, 1)), values

    def run(self, mnemonic: str, dst: int, **operands: int) -> list[list[Any]]:
        """The destination's elements, by image."""
        m = self.p.machine(2)
        for buffer, values in self._contents:
            m.memory[buffer][:] = values
        execute(m, mnemonic, dst=dst, **operands)
        return m.read(dst).tolist()


def test_init_and_accadd() -> None:
    v = Vector()
    dst, before = v.array(I32, -(2**31), 2**31)
    src, other = v.array(I64, -1000, 1000)
    assert v.run("init", dst, table=v.p.i64(1, 2, 3, -4, 5, 6), length=6) == [[1, 2, 3, -4, 5, 6] * 4] * 2
    assert v.run("accadd", dst, src=src) == (before + other).astype(np.int32).tolist()


def test_requant_and_dequant() -> None:
    v = Vector()
    dst, _ = v.array(U8)
    real, _ = v.array(F32)
    src, acc = v.array(I32, -(2**25), 2**25)
    mult, off = [np.float32(x) for x in (1e-5, 2e-5, 3e-6, 0.5, 1e-7, -1e-5)], [np.float32(x) for x in range(6)]
    o = {"src": src, "mult": v.p.f32(*mult), "length": 6, "layer": 0}
    table = v.p.f32(*off)
    scaled = [[np.float32(a) * mult[i % 6] + off[i % 6] for i, a in enumerate(image)] for image in acc]
    assert v.run("requant", dst, off=table, lo=3, hi=200, **o) == [
        [level(x, 3, 200) for x in image] for image in scaled
    ]
    expected = [[float(min(max(x, np.float32(-90)), np.float32(99))) for x in image] for image in scaled]
    assert v.run("dequant", real, bias=table, clamp=v.p.f32(-90, 99), **o) == expected


def test_quantize_and_dequantize() -> None:
    v = Vector()
    dst, _ = v.array(U16)
    real, x = v.array(F32, -100, 100)
    x[0, :4] = np.nan, np.inf, -np.inf, 1.05
    src, q = v.array(U8)
    scale = np.float32(0.3)
    o = {"params": v.p.f32(0.3), "zero_point": 130}
    got = v.run("quantize", dst, src=real, hi=400, **o)
    assert got[0][:3] == [130, 400, 0]
    finite = [[min(max(round(float(value / scale)) + 130, 0), 400) for value in image] for image in x[1:]]
    assert got[1:] == finite
    values = [[float(np.float32(int(i) - 130) * scale) for i in image] for image in q]
    assert v.run("dequantize", real, src=src, **o) == values


def test_add_mul_rescale_lut() -> None:
    v = Vector()
    f = np.float32
    dst, _ = v.array(U8)
    (a, qa), (b, qb) = v.array(U8), v.array(U8)
    pairs = [list(zip(qa[i].tolist(), qb[i].tolist(), strict=True)) for i in range(2)]
    add = [[level((f(x) * f(0.7) + f(y) * f(0.9)) + f(-20.5), 5, 200) for x, y in image] for image in pairs]
    assert v.run("add", dst, a=a, b=b, params=v.p.f32(0.7, 0.9, -20.5), lo=5, hi=200) == add
    mul = [[level(f((x - 7) * (y - 130)) * f(0.01) + f(100), 5, 200) for x, y in image] for image in pairs]
    assert v.run("mul", dst, a=a, b=b, params=v.p.f32(0.01, 100), za=7, zb=130, lo=5, hi=200) == mul
    rescale = [[level(f(x) * f(1.37) + f(-3), 5, 255) for x, _ in image] for image in pairs]
    assert v.run("rescale", dst, src=a, params=v.p.f32(1.37, -3), lo=5, hi=255) == rescale
    table = [(i * 37) % 256 for i in range(256)]
    assert v.run("lut", dst, src=a, table=v.p.u16(*table)) == [[table[x] for x, _ in image] for image in pairs]


def test_lut_reads_its_last_entry_beyond_the_activation_bits() -> None:
    p = Pieces()
    src, dst = p.array(2, U8), p.array(2, U8)
    table = p.u16(*range(100, 116), 7)
    m = p.machine(1, act_bits=4)
    m.write(src, np.array([[15, 200]]))
    execute(m, "lut", dst=dst, src=src, table=table)
    assert m.read(dst).tolist() == [[115, 115]]


def test_pooling() -> None:
    p = Pieces()
    image, out = p.buffer(4 * 4 * 2, U8), p.buffer(3 * 2 * 2, U8)
    # 2 x 2 windows at a stride of (1, 2), on [4, 4, 2]
    dst, src = p.agu(out, (3, 4), (2, 2), (2, 1)), p.agu(image, (3, 8), (2, 4), (2, 1))
    window = p.agu(image, (2, 8), (2, 2))
    factors = [np.float32(x) for x in (0.25, 0.5, 1, 0.1, 0.2, 0.3)]
    params = p.f32(*factors, 9)
    m = p.machine(2)
    q = m.memory[image][:] = RNG.integers(0, 256, m.memory[image].shape, np.uint8)
    cut = q.reshape(2, 4, 4, 2).astype(int)
    places = [(y, 2 * x, c) for y in range(3) for x in range(2) for c in range(2)]
    windows = [[cut[i, y : y + 2, x : x + 2, c] for y, x, c in places] for i in range(2)]
    execute(m, "maxpool", dst=dst, src=src, window=window)
    assert m.read(dst).tolist() == [[w.max() for w in image] for image in windows]
    execute(m, "avgpool", dst=dst, src=src, window=window, params=params, zero_point=100, hi=200)
    expected = [
        [level(np.float32((w - 100).sum()) * factors[i // 2] + np.float32(9), 0, 200) for i, w in enumerate(image)]
        for image in windows
    ]
    assert m.read(dst).tolist() == expected


def test_copy_gather_fill() -> None:
    p = Pieces()
    buffer = p.buffer(12, F32)
    flipped, across = p.agu(buffer, (3, -1), (4, 3), offset=2), p.agu(buffer, (3, 4), (4, 1))
    table = p.i64(*range(9, -3, -1))
    base = p.agu(buffer, offset=2)
    whole = p.agu(buffer, (12, 1))
    words = [(dtype, p.array(2, dtype)) for dtype in (U8, U16, I32, I64, F32)]
    m = p.machine(2)
    m.write(whole, np.arange(24.0).reshape(2, 12))
    execute(m, "copy", dst=across, src=flipped)
    assert m.read(whole)[0].tolist() == [2, 5, 8, 11, 1, 4, 7, 10, 0, 3, 6, 9]
    m.write(whole, np.arange(24.0).reshape(2, 12))
    execute(m, "gather", dst=whole, src=base, table=table)
    assert m.read(whole).tolist() == [[*range(11, -1, -1)], [*range(23, 11, -1)]]
    for word, expected in ((0x40490FDB, [0xDB, 0x0FDB, 0x40490FDB, 0x40490FDB]), (0xFFFFFFFE, [254, 65534, -2, -2])):
        for (_, agu), value in zip(words, expected, strict=False):
            execute(m, "fill", dst=agu, value=word)
            assert m.read(agu).tolist() == [[value] * 2] * 2
    execute(m, "fill", dst=words[-1][1], value=0x3FC00000)
    assert m.read(words[-1][1]).tolist() == [[1.5, 1.5]] * 2


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
