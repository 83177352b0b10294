"""Compiled loops: gathering inputs, accumulating, requantization, element-wise operations, pooling.

Every kernel works on a range of rows and releases the interpreter lock; `smec.runtime.threads` spreads ranges over
threads. A row is one pixel of one image: row i is pixel i % len(pixels) of image i // len(pixels), and `pixels` int64
[n] holds the pixels' addresses within an image's buffer. Activations are [B, size] arrays, blocks of accumulators
[rows, channels].

Float arithmetic is float32 with every operation rounded separately: fast-math flags, which would allow fused
multiply-adds, are never set. Addresses have been checked when the program was loaded, so kernels check nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np
from numba.extending import intrinsic

from smec.runtime.arrays import Array

_Function = TypeVar("_Function", bound=Callable[..., Any])


def kernel(function: _Function) -> _Function:
    """Compile without the interpreter, cached on disk, callable from several threads at a time."""
    return cast("_Function", numba.njit(nogil=True, cache=True)(function))


def _unary_intrinsic(name: str) -> Any:
    """An LLVM intrinsic of one argument whose result has the argument's type."""

    def typed(typingctx: Any, value: Any) -> Any:  # noqa: ARG001  # numba asks for these arguments
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:  # noqa: ARG001
            function = builder.module.declare_intrinsic(name, [arguments[0].type])
            return builder.call(function, arguments)

        return value(value), generate

    return intrinsic(typed)


#: Number of one-bits.
popcount = _unary_intrinsic("llvm.ctpop")
#: Nearest integer, halves to even (the processor's default rounding mode, which nothing here changes).
rint = _unary_intrinsic("llvm.rint")


# -- inputs of matrix products -----------------------------------------------------------------------------------------


@kernel
def gather_runs(
    src: Array, start: int, stop: int, pixels: Array, run_from: Array, run_length: Array, out: Array,
    mask: int | None = None,
) -> None:  # fmt: skip
    """out[i] = the row's inputs, converted to out's dtype; inputs are runs of consecutive addresses relative to the
    pixel. mask: their bits that count, None for all (here and below: decided when compiling).
    """
    image, pixel = divmod(start, len(pixels))
    for i in range(stop - start):
        data = src[image]
        row = out[i]
        at = 0
        for r in range(len(run_from)):
            n = run_length[r]
            first = pixels[pixel] + run_from[r]
            part = data[first : first + n]
            into = row[at : at + n]
            for j in range(n):
                into[j] = part[j] if mask is None else part[j] & mask
            at += n
        pixel += 1
        if pixel == len(pixels):
            pixel = 0
            image += 1


@kernel
def gather_points(
    src: Array, start: int, stop: int, pixels: Array, offsets: Array, out: Array, mask: int | None = None
) -> None:
    """out[i, k] = input at address pixel + offsets[k]: for inputs that do not form runs."""
    image, pixel = divmod(start, len(pixels))
    for i in range(stop - start):
        data = src[image]
        row = out[i]
        first = pixels[pixel]
        for k in range(len(offsets)):
            row[k] = data[first + offsets[k]] if mask is None else data[first + offsets[k]] & mask
        pixel += 1
        if pixel == len(pixels):
            pixel = 0
            image += 1


# -- blocks of accumulators --------------------------------------------------------------------------------------------


@kernel
def add_range(acc: Array, product: Array, first: int) -> None:
    """acc[i, first + n] += product[i, n]; the product holds integers in a float or integer dtype."""
    kind = acc.dtype.type
    for i in range(product.shape[0]):
        into = acc[i, first : first + product.shape[1]]
        values = product[i]
        for n in range(len(into)):
            into[n] += kind(values[n])


@kernel
def add_columns(acc: Array, product: Array, columns: Array) -> None:
    """acc[i, columns[n]] += product[i, n] where columns[n] >= 0."""
    kind = acc.dtype.type
    for i in range(product.shape[0]):
        into = acc[i]
        values = product[i]
        for n in range(len(columns)):
            if columns[n] >= 0:
                into[columns[n]] += kind(values[n])


@kernel
def multiply_taps(
    src: Array, start: int, stop: int, pixels: Array, taps: Array, weight: Array, acc: Array, first: int,
    mask: int | None = None,
) -> None:  # fmt: skip
    """acc[i, first + n] += sum_k weight[k, n] * input at pixel + taps[k] + n: depthwise convolutions, channels
    innermost.
    """
    kind = acc.dtype.type
    image, pixel = divmod(start, len(pixels))
    for i in range(stop - start):
        data = src[image]
        into = acc[i, first : first + weight.shape[1]]
        for k in range(len(taps)):
            at = pixels[pixel] + taps[k]
            part = data[at : at + weight.shape[1]]
            factors = weight[k]
            for n in range(len(into)):
                into[n] += kind(part[n] if mask is None else part[n] & mask) * kind(factors[n])
        pixel += 1
        if pixel == len(pixels):
            pixel = 0
            image += 1


@kernel
def add_region(
    memory: Array, start: int, stop: int, pixels: Array, step: int, acc: Array, first: int, count: int
) -> None:
    """acc[i, first + n] += memory at pixel + n * step, for n in range(count): a buffer's accumulators join a block."""
    kind = acc.dtype.type
    image, pixel = divmod(start, len(pixels))
    for i in range(stop - start):
        for n in range(count):
            acc[i, first + n] += kind(memory[image, pixels[pixel] + n * step])
        pixel += 1
        if pixel == len(pixels):
            pixel = 0
            image += 1


@kernel
def scatter_add(acc: Array, start: int, stop: int, pixels: Array, offsets: Array, memory: Array) -> None:
    """memory at pixel + offsets[n] += acc[i, n]: a block joins a buffer's accumulators."""
    image, pixel = divmod(start, len(pixels))
    for i in range(stop - start):
        for n in range(len(offsets)):
            memory[image, pixels[pixel] + offsets[n]] += acc[i, n]
        pixel += 1
        if pixel == len(pixels):
            pixel = 0
            image += 1


# -- after the accumulator ---------------------------------------------------------------------------------------------


@kernel
def requantize(
    acc: Array, start: int, pixels: Array, step: int, mult: Array, off: Array, lo: float, hi: float, dst: Array
) -> None:
    """dst at pixel + n * step = clip(rint(f32(acc[i, n]) * mult[n] + off[n]), lo, hi)."""
    kind = dst.dtype.type
    low, high = np.float32(lo), np.float32(hi)
    image, pixel = divmod(start, len(pixels))
    for i in range(acc.shape[0]):
        values = acc[i]
        first = pixels[pixel]
        if step == 1:
            into = dst[image, first : first + len(values)]
            for n in range(len(into)):
                scaled = np.float32(values[n]) * mult[n]
                # the bounds are integers: rounding after clipping gives what clipping after rounding does
                into[n] = kind(np.int32(rint(min(max(scaled + off[n], low), high))))
        else:
            for n in range(len(values)):
                scaled = np.float32(values[n]) * mult[n]
                dst[image, first + n * step] = kind(np.int32(rint(min(max(scaled + off[n], low), high))))
        pixel += 1
        if pixel == len(pixels):
            pixel = 0
            image += 1


@kernel
def dequantize_accumulators(
    acc: Array, start: int, pixels: Array, step: int, mult: Array, bias: Array, lo: float, hi: float, dst: Array
) -> None:
    """dst (float32) at pixel + n * step = clip(f32(acc[i, n]) * mult[n] + bias[n], lo, hi)."""
    low, high = np.float32(lo), np.float32(hi)
    image, pixel = divmod(start, len(pixels))
    for i in range(acc.shape[0]):
        first = pixels[pixel]
        for n in range(acc.shape[1]):
            scaled = np.float32(acc[i, n]) * mult[n]
            dst[image, first + n * step] = min(max(scaled + bias[n], low), high)
        pixel += 1
        if pixel == len(pixels):
            pixel = 0
            image += 1


# -- element-wise operations and pooling -------------------------------------------------------------------------------
# A row is here one run of an operation's innermost dimension; `steps` are the strides along it.


@kernel
def add_rows(
    a: Array, b: Array, dst: Array, start: int, stop: int, a_at: Array, b_at: Array, dst_at: Array, count: int,
    steps: tuple[int, int, int], params: Array, lo: float, hi: float,
) -> None:  # fmt: skip
    """dst = clip(rint((f32(a) * ma + f32(b) * mb) + off), lo, hi); params float32 = ma, mb, off."""
    kind = dst.dtype.type
    ma, mb, off, low, high = params[0], params[1], params[2], np.float32(lo), np.float32(hi)
    step_a, step_b, step_dst = steps
    image, row = divmod(start, len(dst_at))
    for _ in range(start, stop):
        if step_a == 1 and step_b == 1 and step_dst == 1:
            first = a[image, a_at[row] : a_at[row] + count]
            second = b[image, b_at[row] : b_at[row] + count]
            into = dst[image, dst_at[row] : dst_at[row] + count]
            for n in range(count):
                total = np.float32(first[n]) * ma + np.float32(second[n]) * mb
                into[n] = kind(np.int32(rint(min(max(total + off, low), high))))
        else:
            for n in range(count):
                x = np.float32(a[image, a_at[row] + n * step_a])
                y = np.float32(b[image, b_at[row] + n * step_b])
                total = x * ma + y * mb
                dst[image, dst_at[row] + n * step_dst] = kind(np.int32(rint(min(max(total + off, low), high))))
        row += 1
        if row == len(dst_at):
            row = 0
            image += 1


@kernel
def lookup_rows(
    src: Array, dst: Array, start: int, stop: int, src_at: Array, dst_at: Array, count: int, steps: tuple[int, int],
    table: Array,
) -> None:  # fmt: skip
    """dst = table[min(src, len(table) - 1)]."""
    last = len(table) - 1
    step_src, step_dst = steps
    image, row = divmod(start, len(dst_at))
    for _ in range(start, stop):
        for n in range(count):
            level = min(int(src[image, src_at[row] + n * step_src]), last)
            dst[image, dst_at[row] + n * step_dst] = table[level]
        row += 1
        if row == len(dst_at):
            row = 0
            image += 1


@kernel
def max_pool_rows(
    src: Array, dst: Array, start: int, stop: int, src_at: Array, dst_at: Array, count: int, steps: tuple[int, int],
    window: Array,
) -> None:  # fmt: skip
    """dst = max over w of src at the element's address + window[w]."""
    step_src, step_dst = steps
    image, row = divmod(start, len(dst_at))
    for _ in range(start, stop):
        if step_src == 1 and step_dst == 1:
            into = dst[image, dst_at[row] : dst_at[row] + count]
            for w in range(len(window)):
                at = src_at[row] + window[w]
                part = src[image, at : at + count]
                if w == 0:
                    for n in range(count):
                        into[n] = part[n]
                else:
                    for n in range(count):
                        into[n] = max(into[n], part[n])
        else:
            for n in range(count):
                best = src[image, src_at[row] + window[0] + n * step_src]
                for w in range(1, len(window)):
                    best = max(best, src[image, src_at[row] + window[w] + n * step_src])
                dst[image, dst_at[row] + n * step_dst] = best
        row += 1
        if row == len(dst_at):
            row = 0
            image += 1


@kernel
def average_pool_rows(
    src: Array, dst: Array, start: int, stop: int, src_at: Array, dst_at: Array, count: int, steps: tuple[int, int],
    window: Array, factors: Array, zero_in: int, zero_out: float, hi: float,
) -> None:  # fmt: skip
    """dst = clip(rint(f32(sum over w of (src - zero_in)) * factors[row] + zero_out), 0, hi); a row is one pixel."""
    kind = dst.dtype.type
    zero, low, high = np.float32(zero_out), np.float32(0), np.float32(hi)
    step_src, step_dst = steps
    sums = np.empty(count, np.int32)
    image, row = divmod(start, len(dst_at))
    for _ in range(start, stop):
        sums[:] = np.int32(-zero_in * len(window))
        for w in range(len(window)):
            at = src_at[row] + window[w]
            if step_src == 1:
                part = src[image, at : at + count]
                for n in range(count):
                    sums[n] += np.int32(part[n])
            else:
                for n in range(count):
                    sums[n] += np.int32(src[image, at + n * step_src])
        for n in range(count):
            scaled = np.float32(sums[n]) * factors[row]
            level = kind(np.int32(rint(min(max(scaled + zero, low), high))))
            dst[image, dst_at[row] + n * step_dst] = level
        row += 1
        if row == len(dst_at):
            row = 0
            image += 1
