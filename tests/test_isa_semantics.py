"""What each instruction does: crossbar reads against loops over digits, the vector unit against scalar arithmetic."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from isa_programs import TARGET, Pieces

from smec.ir.dialects.isa import Machine, decode, dtype_of_code, encode
from smec.ir.isa_sections import F32, I32, I64, U8, U16

RNG = np.random.default_rng(0)


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
