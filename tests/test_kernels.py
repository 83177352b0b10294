"""The compiled kernels against plain NumPy, over strides, dtypes and roundings."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smec.runtime import kernels, kernels_adc
from smec.runtime.kernels import kernel

F32 = np.float32
DTYPES = (np.int32, np.int64)


@kernel
def _bits(values: np.ndarray, out: np.ndarray) -> None:
    for i in range(len(values)):
        out[i] = kernels.popcount(values[i])


@kernel
def _rint(values: np.ndarray, out: np.ndarray) -> None:
    for i in range(len(values)):
        out[i] = kernels.rint(values[i])


@kernel
def _load8(values: np.ndarray, out: np.ndarray) -> None:
    for i in range(len(out)):
        out[i] = kernels_adc.load8(values, i)


@kernel
def _transpose8(values: np.ndarray, out: np.ndarray) -> None:
    for i in range(len(values)):
        out[i] = kernels_adc.transpose8(values[i])


def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def places(random: np.random.Generator, pixels: int, stride: int) -> np.ndarray:
    """Addresses of `pixels` runs of at most `stride` elements that do not overlap, in any order."""
    return random.permutation(pixels).astype(np.int64) * stride


# -- intrinsics --------------------------------------------------------------------------------------------------------


def test_popcount() -> None:
    values = rng().integers(0, 1 << 63, 100).astype(np.uint64) * np.uint64(2) + np.uint64(1)
    out = np.empty_like(values)
    _bits(values, out)
    np.testing.assert_array_equal(out, [int(value).bit_count() for value in values])


def test_rint_rounds_halves_to_even() -> None:
    values = np.array([0.5, 1.5, 2.5, -0.5, -1.5, 0.49999997, 8388607.5, np.inf], F32)
    out = np.empty_like(values)
    _rint(values, out)
    np.testing.assert_array_equal(out, np.rint(values))


def test_load8_is_unaligned_and_little_endian() -> None:
    values = rng().integers(0, 256, 40).astype(np.uint8)
    out = np.empty(33, np.uint64)
    _load8(values, out)
    np.testing.assert_array_equal(out, [int.from_bytes(values[i : i + 8].tobytes(), "little") for i in range(33)])


def test_transpose8() -> None:
    values = rng().integers(0, 1 << 63, 50).astype(np.uint64)
    out = np.empty_like(values)
    _transpose8(values, out)

    def bits(words: np.ndarray) -> np.ndarray:
        return np.unpackbits(words.view(np.uint8).reshape(-1, 8), axis=1, bitorder="little").reshape(-1, 8, 8)

    np.testing.assert_array_equal(bits(out), bits(values).transpose(0, 2, 1))


# -- gathering and accumulating ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("start", [0, 5])
def test_gathers(dtype: type, start: int) -> None:
    random = rng()
    src = random.integers(0, np.iinfo(dtype).max, (3, 200)).astype(dtype)
    pixels = random.integers(0, 100, 7)
    run_from, run_length = np.array([3, 20, 50]), np.array([4, 1, 9])
    offsets = np.concatenate([np.arange(f, f + n) for f, n in zip(run_from, run_length, strict=True)])
    rows = np.arange(start, 19)
    expected = src[(rows // 7)[:, None], pixels[rows % 7][:, None] + offsets]
    for out in (np.empty((len(rows), len(offsets)), F32), np.empty((len(rows), len(offsets)), np.float64)):
        kernels.gather_runs(src, start, 19, pixels, run_from, run_length, out)
        np.testing.assert_array_equal(out, expected)
        out[:] = -1
        kernels.gather_points(src, start, 19, pixels, offsets, out)
        np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("product", [np.float32, np.float64, np.int64])
def test_adding_to_blocks(dtype: type, product: type) -> None:
    random = rng()
    acc = random.integers(-1000, 1000, (5, 9)).astype(dtype)
    values = random.integers(-(1 << 20), 1 << 20, (5, 4)).astype(product)
    expected = acc.copy()
    expected[:, 3:7] += values.astype(dtype)
    found = acc.copy()
    kernels.add_range(found, values, 3)
    np.testing.assert_array_equal(found, expected)
    columns = np.array([8, -1, 0, 2])
    expected = acc.copy()
    expected[:, [8, 0, 2]] += values[:, [0, 2, 3]].astype(dtype)
    kernels.add_columns(acc, values, columns)
    np.testing.assert_array_equal(acc, expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_taps(dtype: type) -> None:
    random = rng()
    src = random.integers(0, 256, (2, 300)).astype(np.uint8)
    pixels, taps = random.integers(0, 200, 6), np.array([0, 7, 50])
    weight = random.integers(-255, 256, (3, 11)).astype(np.int32)
    acc = random.integers(-9, 9, (10, 13)).astype(dtype)
    expected = acc.copy()
    for i, row in enumerate(range(2, 12)):
        for k in range(3):
            at = pixels[row % 6] + taps[k]
            expected[i, 1:12] += weight[k] * src[row // 6, at : at + 11].astype(dtype)
    kernels.multiply_taps(src, 2, 12, pixels, taps, weight, acc, 1)
    np.testing.assert_array_equal(acc, expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_regions_and_scatters(dtype: type) -> None:
    random = rng()
    memory = random.integers(-99, 99, (2, 60)).astype(dtype)
    pixels = places(random, 5, 10)
    acc = random.integers(-9, 9, (7, 6)).astype(dtype)
    expected = acc.copy()
    rows = np.arange(2, 9)
    expected[:, 1:5] += memory[(rows // 5)[:, None], pixels[rows % 5][:, None] + 2 * np.arange(4)]
    kernels.add_region(memory, 2, 9, pixels, 2, acc, 1, 4)
    np.testing.assert_array_equal(acc, expected)
    offsets = np.array([0, 3, 4, 5, 8, 9])
    wanted = memory.copy()
    wanted[(rows // 5)[:, None], pixels[rows % 5][:, None] + offsets] += acc
    kernels.scatter_add(acc, 2, 9, pixels, offsets, memory)
    np.testing.assert_array_equal(memory, wanted)


# -- float arithmetic --------------------------------------------------------------------------------------------------


@given(
    st.integers(0, 2**32 - 1), st.sampled_from(DTYPES), st.sampled_from([1, 3]), st.sampled_from([np.uint8, np.uint16])
)
def test_requantize(seed: int, dtype: type, step: int, result: type) -> None:
    """Two rounded float32 operations, then halves to even: a fused multiply-add would differ in some of these."""
    random = np.random.default_rng(seed)
    acc = random.integers(-(1 << 27), 1 << 27, (9, 40)).astype(dtype)
    mult = random.normal(0, 1e-6, 40).astype(F32)
    off = random.uniform(-50, 200, 40).astype(F32)
    acc[:, :10] >>= 20
    mult[:10] = F32(0.5)
    off[:10] = F32(3)  # many halves
    lo, hi = sorted(random.integers(0, 256, 2).tolist())
    pixels = places(random, 4, 40 * step)
    dst = np.full((3, 4 * 40 * step), 7, result)
    expected = dst.copy()
    values = np.clip(np.rint(acc.astype(F32) * mult + off), F32(lo), F32(hi))
    rows = np.arange(3, 12)
    expected[(rows // 4)[:, None], pixels[rows % 4][:, None] + step * np.arange(40)] = values.astype(result)
    kernels.requantize(acc, 3, pixels, step, mult, off, float(lo), float(hi), dst)
    np.testing.assert_array_equal(dst, expected)


@pytest.mark.parametrize("bounds", [(-np.inf, np.inf), (0.0, np.inf), (-1.5, 6.0)])
def test_dequantize_accumulators(bounds: tuple[float, float]) -> None:
    random = rng()
    acc = random.integers(-(1 << 30), 1 << 30, (8, 17)).astype(np.int32)
    mult, bias = random.normal(0, 1e-8, 17).astype(F32), random.normal(0, 3, 17).astype(F32)
    pixels = places(random, 4, 34)
    dst = np.zeros((2, 4 * 34), F32)
    expected = dst.copy()
    rows = np.arange(8)
    values = np.clip(acc.astype(F32) * mult + bias, F32(bounds[0]), F32(bounds[1]))
    expected[(rows // 4)[:, None], pixels[rows % 4][:, None] + 2 * np.arange(17)] = values
    kernels.dequantize_accumulators(acc, 0, pixels, 2, mult, bias, *bounds, dst)
    np.testing.assert_array_equal(dst, expected)


@given(st.integers(0, 2**32 - 1), st.tuples(*[st.sampled_from([0, 1, 2])] * 2), st.sampled_from([1, 2]))
def test_add_rows(seed: int, steps: tuple[int, int], step_dst: int) -> None:
    random = np.random.default_rng(seed)
    a, b = (random.integers(0, 256, (2, 100)).astype(np.uint8) for _ in range(2))
    dst = np.zeros((2, 200), np.uint8)
    count, a_at, b_at = 19, random.integers(0, 60, 5), random.integers(0, 60, 5)
    dst_at = places(random, 5, 40)
    params = np.array([random.normal(0, 1), random.normal(0, 1), random.normal(0, 60)], F32)
    expected = dst.copy()
    n = np.arange(count)
    for row in range(1, 10):
        image, r = divmod(row, 5)
        x, y = a[image, a_at[r] + n * steps[0]].astype(F32), b[image, b_at[r] + n * steps[1]].astype(F32)
        total = (x * params[0] + y * params[1]) + params[2]
        expected[image, dst_at[r] + n * step_dst] = np.clip(np.rint(total), F32(3), F32(250)).astype(np.uint8)
    kernels.add_rows(a, b, dst, 1, 10, a_at, b_at, dst_at, count, (*steps, step_dst), params, 3.0, 250.0)
    np.testing.assert_array_equal(dst, expected)


@pytest.mark.parametrize("result", [np.uint8, np.uint16, np.float32])
def test_lookup_rows(result: type) -> None:
    random = rng()
    src = random.integers(0, 256, (2, 50)).astype(np.uint8)
    table = random.integers(0, 250, 200).astype(result)  # shorter than the levels: the last entry serves the rest
    dst = np.zeros((2, 60), result)
    expected = dst.copy()
    src_at, dst_at, n = np.array([0, 20]), np.array([30, 0]), np.arange(15)
    for row in range(4):
        levels = src[row // 2, src_at[row % 2] + n]
        expected[row // 2, dst_at[row % 2] + 2 * n] = table[np.minimum(levels, 199)]
    kernels.lookup_rows(src, dst, 0, 4, src_at, dst_at, 15, (1, 2), table)
    np.testing.assert_array_equal(dst, expected)


@pytest.mark.parametrize("steps", [(1, 1), (2, 1), (1, 3)])
def test_pooling(steps: tuple[int, int]) -> None:
    random = rng()
    src = random.integers(0, 256, (3, 120)).astype(np.uint8)
    window, count = np.array([0, 1, 10, 31]), 13
    src_at, dst_at, n = random.integers(0, 50, 4), places(random, 4, 40), np.arange(13)
    factors = random.uniform(0.1, 0.4, 4).astype(F32)
    largest, average = np.zeros((3, 160), np.uint8), np.zeros((3, 160), np.uint8)
    expected_largest, expected_average = largest.copy(), average.copy()
    for row in range(1, 12):
        image, r = divmod(row, 4)
        values = src[image, src_at[r] + n[:, None] * steps[0] + window]
        at = dst_at[r] + n * steps[1]
        expected_largest[image, at] = values.max(axis=1)
        total = (values.astype(np.int32) - 100).sum(axis=1).astype(F32)
        expected_average[image, at] = np.clip(np.rint(total * factors[r] + F32(60)), F32(0), F32(200)).astype(np.uint8)
    kernels.max_pool_rows(src, largest, 1, 12, src_at, dst_at, count, steps, window)
    kernels.average_pool_rows(src, average, 1, 12, src_at, dst_at, count, steps, window, factors, 100, 60.0, 200.0)
    np.testing.assert_array_equal(largest, expected_largest)
    np.testing.assert_array_equal(average, expected_average)


# -- bit planes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mask", [-1, 0b0110_1100])
@pytest.mark.parametrize(("dtype", "planes"), [(np.uint8, 8), (np.uint8, 12), (np.uint16, 20)])
def test_packed_inputs(dtype: type, planes: int, mask: int) -> None:
    """Every bit of every (shifted) input is where the reads look for it; masked ones and lanes without a pixel are
    empty.
    """
    random = rng()
    rows, pixels = 83, 41
    flat = random.integers(0, np.iinfo(dtype).max, 3000).astype(dtype)
    flat &= dtype((1 << min(planes - 4, 16)) - 1)
    origin = np.zeros(kernels_adc.LANES, np.int64)
    origin[:pixels] = random.integers(0, 2000, pixels)
    offsets = np.concatenate([np.arange(40), random.integers(0, 900, rows - 40)])
    shifts = np.concatenate([np.zeros(40, np.int64), random.integers(0, 5, rows - 40)])
    slot_from, slot_shift = np.zeros(128, np.int64), np.zeros(128, np.int64)
    slot_from[:rows], slot_shift[:rows] = offsets, shifts
    runs = (np.diff(slot_from.reshape(-1, 8), axis=1) == 1).all(axis=1) & (slot_shift.reshape(-1, 8) == 0).all(axis=1)
    assert runs.any() and not runs.all()
    packed = np.full((planes * 2 + 3, kernels_adc.LANES), 99, np.uint64)
    chunk = np.array([0, 2, planes, 3, mask])
    kernels_adc.pack_chunk(flat, origin, pixels, chunk, slot_from, slot_shift, np.array([64, rows - 64]), runs, packed)
    levels = flat[origin[:pixels, None] + offsets].astype(np.int64) << shifts & mask
    for t in range(planes):
        for w in range(2):
            words = packed[3 + t * 2 + w]
            assert not words[pixels:].any()
            bits = np.unpackbits(words[:pixels].view(np.uint8).reshape(-1, 8), axis=1, bitorder="little")
            part = levels[:, 64 * w : 64 * w + 64]
            np.testing.assert_array_equal(bits[:, : part.shape[1]], part >> t & 1)
            assert not bits[:, part.shape[1] :].any()


def test_packed_cells() -> None:
    random = rng()
    values = random.integers(0, 8, (70, 5)).astype(np.uint8)
    order = random.permutation(70).astype(np.int64)
    order[[3, 65]] = -1
    for bit in range(3):
        out = np.zeros((5, 2), np.uint64)
        kernels_adc.pack_cells(values, order, bit, out)
        for i, row in enumerate(order):
            found = out[:, i // 64] >> np.uint64(i % 64) & np.uint64(1)
            np.testing.assert_array_equal(found, 0 if row < 0 else values[row] >> bit & 1)
