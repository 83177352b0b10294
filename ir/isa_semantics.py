"""What every instruction means: one NumPy function each, on the machine state of `smec.ir.isa_machine`.

These are definitions: clear rather than fast, and every engine is tested against them. Arrays carry the image axis
first: `m.read(agu)` is [B, points] in the order of the address generator, `m.write(agu, values)` the reverse. All float
arithmetic is float32, one rounded operation at a time (no fused multiply-add); `rint` rounds half to even.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from smec.ir.isa_sections import row_signs

if TYPE_CHECKING:
    from smec.ir.isa_machine import Machine

Array = npt.NDArray[Any]
F32 = np.float32


def _clip(values: Array, low: int, high: int) -> Array:
    """Rounded float32 -> the integers of [low, high]."""
    return np.clip(np.rint(values), F32(low), F32(high))


def mvm(m: Machine, o: SimpleNamespace) -> None:
    """acc[dst_p + tile_cols[n]] += sum over crossbars of weight * read, - tile_offset * sum of the inputs.

    With `digits`, of each row group's reads only those from number `first` on, and that part of the inputs' sum.
    """
    s, dac_bits = m.sections, m.hardware.dac_bits
    window = range(o.first, o.first + o.digits) if o.digits else None
    rows = np.flatnonzero(s["tile_rows"][o.tile] >= 0)
    cols = np.flatnonzero(s["tile_cols"][o.tile] >= 0)
    source = m.addresses(o.src)[:, None] + s["tile_rows"][o.tile, rows].astype(np.int64)
    target = m.addresses(o.dst)[:, None] + s["tile_cols"][o.tile, cols].astype(np.int64)
    q = m.memory_of(o.src)[:, source].astype(np.int64)  # [B, pixels, rows]
    total = np.zeros((*q.shape[:2], len(cols)), np.int64)
    first, count = s["tile_xbars"][o.tile]
    for xbar in range(first, first + count):
        total += s["xbar_weight"][xbar] * read_crossbar(m, o.tile, xbar, q, rows, cols, window)
    if window:
        q &= (1 << window.stop * dac_bits) - (1 << window.start * dac_bits)
    total -= s["tile_offset"][o.tile] * q.sum(-1, keepdims=True)
    memory = m.memory_of(o.dst)
    total += memory[:, target]
    memory[:, target] = total.astype(memory.dtype)  # integers wrap; the compiler proves that none does


def read_crossbar(
    m: Machine, tile: int, xbar: int, q: Array, rows: Array, cols: Array, window: range | None = None
) -> Array:
    """One crossbar's reads, spliced over row groups and input digits: int64 [B, pixels, len(cols)].

    q: int64 [B, pixels, len(rows)]. window: the digits that are read of each group, None for all. Each read of a row
    group drives one input digit of its rows; the ADC returns min(current, 2^adc_bits - 1). Reads that exceed that are
    counted in `m.saturated[tile]`. In a tile with sign blocks a read counts with the sign of (block of its rows,
    column).
    """
    s, hw = m.sections, m.hardware
    _, _, row0, col0 = s["xbar_place"][xbar]
    cells = m.physical_cells(s["xbar_phys"][xbar])[row0 + rows][:, col0 + cols].astype(np.float64)
    signs = row_signs(s, tile, rows, cols)
    group = s["xbar_group"][xbar, rows]
    shift = s["tile_shift"][tile, rows].astype(np.int64)
    top = 2**hw.adc_bits - 1
    spliced = np.zeros((*q.shape[:2], len(cols)), np.int64)
    for g in range(group.max(initial=-1) + 1):
        driven = np.flatnonzero(group == g)
        low, high = shift[driven].min(), shift[driven].max()
        fed = q[..., driven] << (shift[driven] - low)
        for digit in range(-(-(m.act_bits + high - low) // hw.dac_bits)):
            if window is not None and digit not in window:
                continue
            digits = (fed >> (digit * hw.dac_bits)) & (2**hw.dac_bits - 1)
            # float64 products of small integers are exact, and BLAS makes them quick
            current = (digits.astype(np.float64) @ cells[driven]).astype(np.int64)
            m.saturated[tile] += np.count_nonzero(current > top)
            read = np.minimum(current, top) << (low + digit * hw.dac_bits)
            spliced += read if signs is None else read * signs[driven[0]]  # a group is of one sign block
    return spliced


def init(m: Machine, o: SimpleNamespace) -> None:
    m.write(o.dst, m.per_channel("pool_i64", o.table, o.length, o.dst))


def accadd(m: Machine, o: SimpleNamespace) -> None:
    m.write(o.dst, m.read(o.dst).astype(np.int64) + m.read(o.src))


def requant(m: Machine, o: SimpleNamespace) -> None:
    acc = m.read(o.src)
    m.record(o.layer, acc)
    mult = m.per_channel("pool_f32", o.mult, o.length, o.dst)
    off = m.per_channel("pool_f32", o.off, o.length, o.dst)
    m.write(o.dst, _clip(acc.astype(F32) * mult + off, o.lo, o.hi))


def dequant(m: Machine, o: SimpleNamespace) -> None:
    acc = m.read(o.src)
    m.record(o.layer, acc)
    mult = m.per_channel("pool_f32", o.mult, o.length, o.dst)
    bias = m.per_channel("pool_f32", o.bias, o.length, o.dst)
    low, high = m.pool("pool_f32", o.clamp, 2)
    m.write(o.dst, np.clip(acc.astype(F32) * mult + bias, low, high))


def quantize(m: Machine, o: SimpleNamespace) -> None:
    (scale,) = m.pool("pool_f32", o.params, 1)
    scaled = np.rint(m.read(o.src) / scale) + F32(o.zero_point)
    m.write(o.dst, np.where(np.isnan(scaled), F32(o.zero_point), np.clip(scaled, F32(0), F32(o.hi))))


def dequantize(m: Machine, o: SimpleNamespace) -> None:
    (scale,) = m.pool("pool_f32", o.params, 1)
    m.write(o.dst, (m.read(o.src).astype(np.int32) - o.zero_point).astype(F32) * scale)


def add(m: Machine, o: SimpleNamespace) -> None:
    ma, mb, off = m.pool("pool_f32", o.params, 3)
    m.write(o.dst, _clip((m.read(o.a).astype(F32) * ma + m.read(o.b).astype(F32) * mb) + off, o.lo, o.hi))


def mul(m: Machine, o: SimpleNamespace) -> None:
    scale, zero = m.pool("pool_f32", o.params, 2)
    product = (m.read(o.a).astype(np.int64) - o.za) * (m.read(o.b).astype(np.int64) - o.zb)
    m.write(o.dst, _clip(product.astype(F32) * scale + zero, o.lo, o.hi))


def rescale(m: Machine, o: SimpleNamespace) -> None:
    scale, off = m.pool("pool_f32", o.params, 2)
    m.write(o.dst, _clip(m.read(o.src).astype(F32) * scale + off, o.lo, o.hi))


def lut(m: Machine, o: SimpleNamespace) -> None:
    size = 2**m.act_bits
    m.write(o.dst, m.pool("pool_u16", o.table, size)[np.minimum(m.read(o.src), size - 1)])


def _windows(m: Machine, o: SimpleNamespace) -> Array:
    """Elements of each output's window, [B, points, window points]."""
    return m.memory_of(o.src)[:, m.addresses(o.src)[:, None] + m.addresses(o.window)]


def maxpool(m: Machine, o: SimpleNamespace) -> None:
    m.write(o.dst, _windows(m, o).max(-1))


def avgpool(m: Machine, o: SimpleNamespace) -> None:
    window = _windows(m, o).astype(np.int32)
    total = window.sum(-1, dtype=np.int32) - np.int32(window.shape[-1] * o.zero_point)
    channels = m.channels(o.dst)
    pixels = total.shape[1] // channels
    table = m.pool("pool_f32", o.params, pixels + 1)
    m.write(o.dst, _clip(total.astype(F32) * np.repeat(table[:-1], channels) + table[-1], 0, o.hi))


def copy(m: Machine, o: SimpleNamespace) -> None:
    m.write(o.dst, m.read(o.src))


def gather(m: Machine, o: SimpleNamespace) -> None:
    base = int(m.sections["agus"][o.src, 1])
    offsets = m.pool("pool_i64", o.table, len(m.addresses(o.dst)))
    m.write(o.dst, m.memory_of(o.src)[:, base + offsets])


def fill(m: Machine, o: SimpleNamespace) -> None:
    memory = m.memory_of(o.dst)
    # the word is the element's bit pattern: cut to its width, or sign-extended to 64 bits
    bits = np.array([o.value], np.uint32)
    value = bits.view(np.int32).astype(np.int64) if memory.itemsize == 8 else bits.view(memory.dtype)[:1]
    memory[:, m.addresses(o.dst)] = value


def host(m: Machine, o: SimpleNamespace) -> None:
    """Run the region's ONNX model on one image at a time: inputs and outputs in the order of the model's own lists."""
    sources = m.pool("pool_i64", o.first_in, o.n_in)
    targets = m.pool("pool_i64", o.first_out, o.n_out)
    for image in range(m.images):
        results = m.run_region(o.region, [m.read(agu)[image] for agu in sources])
        if len(results) != len(targets):
            raise m.region_error(o.region, "has another number of outputs", len(targets), len(results))
        for agu, result in zip(targets, results, strict=True):
            m.write_image(agu, image, result)


def send(m: Machine, o: SimpleNamespace) -> None:
    m.post(o.dst_core, o.token, m.read(o.src))


def recv(m: Machine, o: SimpleNamespace) -> None:
    m.write(o.dst, m.collect(o.src_core, o.token))


def halt(m: Machine, _: SimpleNamespace) -> None:
    m.halted.add(m.core)
