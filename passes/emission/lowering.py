"""Lowers each operation of a placed graph to instructions.

Conventions:

* Rank-4 activations are stored channels last ([N][H][W][C]) with the halo that their windowed readers need, so that
  a convolution's window is one affine address pattern; everything else is row-major.
* Reshape, transpose and slice move nothing: they only change the `Layout`. A value whose addresses have no strides
  becomes `Scattered`; a matrix product reads it as it is, through its row address list, and other readers gather it.
* An operation runs on the core that holds its first operand; a layer on the core of its first crossbar, where the
  partial sums of its other cores arrive. Graph inputs, host regions and host data live on core 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from smec.ir.core import Operation, Value
from smec.ir.dialects import arithmetic, quant, xbar
from smec.ir.dialects.builtin import GraphOp, HostOp
from smec.ir.isa_sections import dtype_code
from smec.ir.types import Quantized
from smec.passes.emission.builder import ACC, ACT, DTYPE_CODE, HOST, Builder
from smec.passes.emission.crossbars import CrossbarTables
from smec.passes.emission.halo import NO_HALO, Halo, reader_halo
from smec.passes.emission.layout import Layout, Scattered, row_major
from smec.passes.emission.window import Window, row_addresses
from smec.passes.mapping.regions import Region, regions_read, tile_cores
from smec.passes.mapping.shares import Box, Piece, row_by_row, shares_of
from smec.passes.mapping.workload import digits_of_tiles

#: Core of graph inputs and host regions.
HOST_CORE = 0


class Lowering:
    """Emits one graph. `run` returns nothing; read `builder`, `tables`, `layers`, `regions`, `inputs`, `outputs`."""

    def __init__(self, graph: GraphOp, tables: CrossbarTables, act_bits: int, dac_bits: int) -> None:
        self.graph = graph
        self.act_bits, self.dac_bits = act_bits, dac_bits
        self.builder = Builder()
        self.tables = tables
        self.places: dict[Value, Layout | Scattered] = {}
        self._padded: dict[tuple[Value, Halo, int], Layout] = {}
        self.layers: list[xbar.MvmOp] = []
        self.regions: list[HostOp] = []
        self.inputs: list[int] = []
        self.outputs: list[int] = []

    def run(self) -> None:
        b = self.builder
        for arg in self.graph.block.args:
            layout = b.dense(HOST_CORE, HOST, self._static(arg), dtype_code(arg.type.dtype))
            self.places[arg] = layout
            self.inputs.append(self._walk_rows(layout))
        for op in self.graph.ops:
            handler = HANDLERS.get(type(op))
            if handler is None:
                raise op.error("no instruction does this", hint="run the mapping passes before 'emit'")
            handler(self, op)
        for value in self.graph.terminator.operands:
            place = self.places[value]
            if isinstance(value.type.element, Quantized):
                raise self.graph.error("a quantized value cannot be a graph output", found=value.type)
            self.outputs.append(self._walk_rows(self._strided(place)))

    # -- values

    def _static(self, value: Value) -> tuple[int, ...]:
        if not value.type.is_static:
            op = value.defining_op() or self.graph
            raise op.error("shape depends on the data; no buffer can hold it", found=value.type)
        return value.type.shape

    def _walk_rows(self, place: Layout) -> int:
        return self.builder.walk(place, range(len(place.shape)))

    def _halo_of(self, value: Value) -> tuple[Halo, int]:
        """The border and its level that most readers of a rank-4 value ask for (others copy)."""
        wanted: dict[int, list[Halo]] = {}
        for op in value.users:
            need = reader_halo(op)
            if need is not None and any(need[0]):
                wanted.setdefault(need[1], []).append(need[0])
        if not wanted:
            return NO_HALO, 0
        fill = max(wanted, key=lambda f: (len(wanted[f]), -f))
        top, left, bottom, right = (max(h[i] for h in wanted[fill]) for i in range(4))
        return (top, left, bottom, right), fill

    def _activation(self, core: int, value: Value, halo: Halo = NO_HALO, fill: int = 0) -> Layout:
        """A new activation buffer for a value of this type: channels last with a halo if of rank 4."""
        shape = self._static(value)
        dtype = DTYPE_CODE["u8"] if value.type.quantized.bits <= 8 else DTYPE_CODE["u16"]
        b = self.builder
        if len(shape) != 4:
            return b.dense(core, ACT, shape, dtype)
        n, c, h, w = shape
        hp, wp = h + halo[0] + halo[2], w + halo[1] + halo[3]
        buffer = b.buffer(core, ACT, n * hp * wp * c, dtype)
        if any(halo):
            b.emit(core, "fill", dst=b.whole(buffer), value=fill)
        offset = (halo[0] * wp + halo[1]) * c
        return Layout(buffer, shape, (hp * wp * c, 1, wp * c, c), offset, halo, fill)

    def define(self, core: int, value: Value) -> Layout:
        """Allocate the home of a result, with the halo its readers want."""
        halo, fill = self._halo_of(value) if len(value.type.shape) == 4 else (NO_HALO, 0)
        layout = self._activation(core, value, halo, fill)
        self.places[value] = layout
        return layout

    def _strided(self, place: Layout | Scattered) -> Layout:
        """A value with strides; a scattered one is gathered into a row-major buffer on its core."""
        if isinstance(place, Layout):
            return place
        b = self.builder
        core, space, _, _, dtype = b.buffers[place.buffer]
        target = b.dense(core, space, place.shape, dtype)
        b.gather(place, target)
        return target

    def read(self, value: Value) -> Layout:
        place = self.places[value]
        if isinstance(place, Scattered):
            place = self.places[value] = self._strided(place)
        return place

    def read_on(self, value: Value, core: int) -> Layout:
        placed: Layout = self.builder.on_core(self.read(value), core)
        return placed

    def core_of(self, value: Value) -> int:
        return self.builder.core_of(self.places[value].buffer)

    def padded(self, value: Value, halo: Halo, fill: int) -> Layout:
        """The value in a buffer that has this border; copied there once if its home has not."""
        place = self.read(value)
        if place.covers(halo, fill):
            return place
        key = (value, halo, fill)
        if key not in self._padded:
            core = self.builder.core_of(place.buffer)
            target = self._activation(core, value, halo, fill)
            self.move(core, place, target)
            self._padded[key] = target
        return self._padded[key]

    def move(self, core: int, source: Layout, target: Layout) -> None:
        order = target.order()
        self.builder.emit(core, "copy", dst=self.builder.walk(target, order), src=self.builder.walk(source, order))

    # -- crossbar layers

    def mvm(self, op: xbar.MvmOp) -> None:
        b, q = self.builder, op.x.type.quantized
        source, pixels = self._input(op), op.pixel_shape()
        weights = op.integers().reshape(op.weight.shape[0], -1)
        wide = arithmetic.accumulator_bound(weights if op.doubled is None else op.absolute_sums(), q) >= 2**31
        dtype = DTYPE_CODE["i64" if wide else "i32"]
        copies, shares, digits = tile_cores(op, op.xbar_core.array), shares_of(op), self._tile_digits(op)
        regions = regions_read(op, copies, shares)
        nowhere = Window.of(op, source)  # of tiles without crossbars
        remote: list[tuple[Layout, Layout]] = []
        outputs = weights.shape[0]
        home = next((core for tile_core in copies for core in tile_core.tolist() if core >= 0), self.core_of(op.x))
        total = b.dense(home, ACC, (*pixels, outputs), dtype)
        start = -q.zero_point * weights.sum(axis=1, dtype=np.int64)
        b.emit(home, "init", dst=self._walk_rows(total), table=b.i64.add(start), length=outputs)
        for copy, tile_core in enumerate(copies):
            # A core that is not the layer's home accumulates only the span of channels that its tiles produce.
            cores = list(dict.fromkeys(tile_core[tile_core >= 0].tolist()))
            span = {core: _span(op.cols.array[tile_core == core]) if core != home else (0, outputs) for core in cores}
            col_base = np.array([span[c][0] if c >= 0 else 0 for c in tile_core.tolist()], np.int64)
            windows = {core: self._window(op, source, core, tile_core, regions[copy][core]) for core in cores}
            windows[-1] = nowhere
            index = self.tables.add_copy(op, copy, row_addresses(op, tile_core, windows), col_base)
            for core in cores:
                boxes = [piece.box for piece in shares[copy]]
                parts = [total.slice((*x.first, span[core][0]), (*x.step, 1), (*x.shape, span[core][1] - span[core][0]))
                         for x in boxes]  # fmt: skip
                accs = parts
                if core != home:
                    accs = self._partial_sums(core, boxes, span[core][1] - span[core][0], dtype)
                    remote += zip(accs, parts, strict=True)
                window = windows[core]
                for piece, acc in zip(shares[copy], accs, strict=True):
                    box = piece.box
                    offset = window.origin + sum(i * s for i, s in zip(box.first, window.steps, strict=True))
                    steps = tuple(s * step for s, step in zip(window.steps, box.step, strict=True))
                    dst = b.agu(acc.buffer, acc.offset, box.shape or (1,), acc.strides[:-1] or (0,))
                    src = b.agu(window.buffer, offset, box.shape or (1,), steps or (0,))
                    here = tile_core == core
                    for tile, most in zip(index[here].tolist(), digits[here].tolist(), strict=True):
                        read = _digits(piece, most)
                        if read is not None:
                            b.emit(core, "mvm", dst=dst, src=src, tile=tile, first=read[0], digits=read[1])
        for acc, part in remote:
            arrived = b.on_core(acc, home)
            b.emit(home, "accadd", dst=self._walk_rows(part), src=self._walk_rows(arrived))
        self._finish(op, home, total)
        self.layers.append(op)

    def _input(self, op: xbar.MvmOp) -> Layout | Scattered:
        """Where a layer's input lies, with the border that its windows need; a single pixel may be scattered."""
        if isinstance(op, xbar.MvmConv):
            halo, fill = reader_halo(op) or (NO_HALO, 0)
            return self.padded(op.x, halo, fill)
        place = self.places[op.x]
        single = isinstance(place, Scattered) and math.prod(op.x.type.shape[:-1]) == 1
        return place if single else self.read(op.x)

    def _window(
        self, op: xbar.MvmOp, source: Layout | Scattered, core: int, tile_core: np.ndarray, region: Region | None
    ) -> Window:
        """The window of a core's tiles, where the core has the part of the input that they read."""
        b = self.builder
        if region is None or isinstance(source, Scattered) or b.is_on(source.buffer, core):
            return Window.of(op, b.on_core(source, core))
        window = Window.of(op, b.part_on_core(source, core, region))
        rows = op.rows.array[tile_core == core]
        return window.counted_from(int(window.offsets[rows[rows >= 0]].min(initial=window.offsets.max())))

    def _tile_digits(self, op: xbar.MvmOp) -> np.ndarray:
        """The input digits of each tile, int64 [T]; 0 where nothing is shared and nobody asks.

        Raises:
            SmecError: the layer's cuts count other digits of a pixel.
        """
        if not op.cuts:
            return np.zeros(len(op.rows.array), np.int64)
        digits = digits_of_tiles(op, self.act_bits, self.dac_bits)
        if op.pixel_digits != digits.max(initial=0):
            found = op.pixel_digits
            raise op.error(f"bad 'pixel_digits' of layer '{op.label}'", expected=int(digits.max()), found=found)
        return digits

    def _partial_sums(self, core: int, boxes: list[Box], channels: int, dtype: int) -> list[Layout]:
        """Accumulators of a core for some pixels, 0 at first, in one buffer: a region for each box."""
        b = self.builder
        shape, starts = row_by_row(boxes)
        whole = b.dense(core, ACC, (*shape, channels), dtype)
        zeros = b.i64.add(np.zeros(channels))
        b.emit(core, "init", dst=self._walk_rows(whole), table=zeros, length=channels)
        ones = (1,) * len(whole.shape)
        return [
            whole.slice((*start, 0), ones, (*box.shape, channels)) for start, box in zip(starts, boxes, strict=True)
        ]

    def _finish(self, op: xbar.MvmOp, core: int, acc: Layout) -> None:
        """Accumulators to activations, or to real values where the host reads them."""
        b, x, layer = self.builder, op.x.type.quantized, len(self.layers)
        rank = len(op.out.type.shape)
        channel = op.channel_axis() - 1
        order = (*(a for a in range(rank) if a != channel), channel)
        length = acc.shape[-1]
        src = self._walk_rows(acc)
        element = op.out.type.element
        if isinstance(element, Quantized):
            mult, off = arithmetic.requantize_params(op.weight_scale.array, op.bias.array, x, element)
            lo, hi = arithmetic.clamp_bounds(element, op.clamp_min, op.clamp_max)
            dst = b.walk(self.define(core, op.out), order)
            b.emit(
                core,
                "requant",
                dst=dst,
                src=src,
                mult=b.f32.add(mult),
                off=b.f32.add(off),
                length=length,
                lo=lo,
                hi=hi,
                layer=layer,
            )
            return
        mult, bias = arithmetic.dequantize_params(op.weight_scale.array, op.bias.array, x)
        target = self.places[op.out] = b.dense(core, HOST, self._static(op.out), DTYPE_CODE["f32"])
        b.emit(
            core,
            "dequant",
            dst=b.walk(target, order),
            src=src,
            mult=b.f32.add(mult),
            bias=b.f32.add(bias),
            length=length,
            clamp=b.f32.add([op.clamp_min, op.clamp_max]),
            layer=layer,
        )

    # -- conversions and elementwise operations

    def quantize(self, op: quant.Quantize) -> None:
        core = self.core_of(op.x)
        source, target, q = self.read(op.x), self.define(core, op.out), op.out.type.quantized
        order, b = target.order(), self.builder
        b.emit(
            core,
            "quantize",
            dst=b.walk(target, order),
            src=b.walk(source, order),
            params=b.f32.add([q.scale]),
            zero_point=q.zero_point,
            hi=q.qmax,
        )

    def dequantize(self, op: quant.Dequantize) -> None:
        core, q, b = self.core_of(op.x), op.x.type.quantized, self.builder
        source = self.read(op.x)
        target = self.places[op.out] = b.dense(core, HOST, self._static(op.out), DTYPE_CODE["f32"])
        b.emit(
            core,
            "dequantize",
            dst=self._walk_rows(target),
            src=self._walk_rows(source),
            params=b.f32.add([q.scale]),
            zero_point=q.zero_point,
        )

    def rescale(self, op: quant.Rescale) -> None:
        x, y = op.x.type.quantized, op.out.type.quantized
        lo, hi = arithmetic.clamp_bounds(y, op.clamp_min, op.clamp_max)
        self._unary(op, "rescale", params=self.builder.f32.add(arithmetic.rescale_params(x, y)), lo=lo, hi=hi)

    def lut(self, op: quant.Lut) -> None:
        self._unary(op, "lut", table=self.builder.u16.add(op.table.array))

    def _unary(self, op: Any, mnemonic: str, **operands: int) -> None:
        core, b = self.core_of(op.x), self.builder
        source, target = self.read(op.x), self.define(core, op.out)
        order = target.order()
        b.emit(core, mnemonic, dst=b.walk(target, order), src=b.walk(source, order), **operands)

    def _binary(self, op: Any, mnemonic: str, **operands: int) -> None:
        core, b = self.core_of(op.a), self.builder
        shape = op.out.type.shape
        first, second = (self.read_on(v, core).broadcast(shape) for v in (op.a, op.b))
        target = self.define(core, op.out)
        order = target.order()
        b.emit(core, mnemonic, dst=b.walk(target, order), a=b.walk(first, order), b=b.walk(second, order), **operands)

    def add(self, op: quant.Add) -> None:
        y = op.out.type.quantized
        lo, hi = arithmetic.clamp_bounds(y, op.clamp_min, op.clamp_max)
        params = self.builder.f32.add(arithmetic.add_params(op.a.type.quantized, op.b.type.quantized, y))
        self._binary(op, "add", params=params, lo=lo, hi=hi)

    def mul(self, op: quant.Mul) -> None:
        a, b, y = op.a.type.quantized, op.b.type.quantized, op.out.type.quantized
        lo, hi = arithmetic.clamp_bounds(y, op.clamp_min, op.clamp_max)
        params = self.builder.f32.add([a.scale * b.scale / y.scale, y.zero_point])
        self._binary(op, "mul", params=params, za=a.zero_point, zb=b.zero_point, lo=lo, hi=hi)

    # -- windows

    def max_pool(self, op: quant.MaxPool) -> None:
        core, dst, src, window = self._pool(op, op.dilations)
        self.builder.emit(core, "maxpool", dst=dst, src=src, window=window)

    def avg_pool(self, op: quant.AvgPool) -> None:
        x, y, b = op.x.type.quantized, op.out.type.quantized, self.builder
        core, dst, src, window = self._pool(op, (1, 1))
        factors = np.tile(arithmetic.average_factors(op).reshape(-1), op.out.type.shape[0])
        params = b.f32.add([*factors, y.zero_point])
        b.emit(core, "avgpool", dst=dst, src=src, window=window, params=params, zero_point=x.zero_point, hi=y.qmax)

    def _pool(self, op: Any, dilations: tuple[int, ...]) -> tuple[int, int, int, int]:
        b = self.builder
        halo, fill = reader_halo(op) or (NO_HALO, 0)
        source = self.padded(op.x, halo, fill)
        core = b.core_of(source.buffer)
        target = self.define(core, op.out)
        s_n, s_c, s_h, s_w = source.strides
        n, c, oh, ow = op.out.type.shape
        origin = source.offset - op.pads[0] * s_h - op.pads[1] * s_w
        src = b.agu(source.buffer, origin, (n, oh, ow, c), (s_n, op.strides[0] * s_h, op.strides[1] * s_w, s_c))
        window = b.agu(source.buffer, 0, op.kernel, (dilations[0] * s_h, dilations[1] * s_w))
        return core, b.walk(target, (0, 2, 3, 1)), src, window

    # -- data movement

    def concat(self, op: quant.Concat) -> None:
        core = self.core_of(op.inputs[0])
        target = self.define(core, op.out)
        rank, at = len(op.out.type.shape), 0
        for value in op.inputs:
            shape = value.type.shape
            starts = tuple(at if a == op.axis else 0 for a in range(rank))
            self.move(core, self.read_on(value, core), target.slice(starts, (1,) * rank, shape))
            at += shape[op.axis]

    def pad(self, op: quant.Pad) -> None:
        core, rank = self.core_of(op.x), len(op.pads) // 2
        source, target, b = self.read(op.x), self.define(core, op.out), self.builder
        b.emit(core, "fill", dst=self._walk_rows(target), value=op.value)
        self.move(core, source, target.slice(op.pads[:rank], (1,) * rank, op.x.type.shape))

    def slice(self, op: quant.Slice) -> None:
        place = self.read(op.x)
        self.places[op.out] = place.slice(op.starts, op.steps, op.out.type.shape)

    def transpose(self, op: quant.Transpose) -> None:
        place = self.places[op.x]
        if isinstance(place, Scattered):
            self.places[op.out] = Scattered(place.buffer, place.index.transpose(op.perm))
        else:
            self.places[op.out] = place.transpose(op.perm)

    def reshape(self, op: quant.Reshape) -> None:
        place, shape = self.places[op.x], op.out.type.shape
        view = place.reshape(shape) if isinstance(place, Layout) else None
        self.places[op.out] = view or Scattered(place.buffer, place.addresses().reshape(shape))

    # -- host

    def host(self, op: HostOp) -> None:
        b = self.builder
        sources = [self._walk_rows(self._dense_on_host(v)) for v in op.operands]
        targets = []
        for result in op.results:
            layout = self.places[result] = b.dense(HOST_CORE, HOST, self._static(result), dtype_code(result.type.dtype))
            targets.append(self._walk_rows(layout))
        b.emit(
            HOST_CORE,
            "host",
            region=len(self.regions),
            first_in=b.i64.add(sources),
            n_in=len(sources),
            first_out=b.i64.add(targets),
            n_out=len(targets),
        )
        self.regions.append(op)

    def _dense_on_host(self, value: Value) -> Layout:
        place = self.read_on(value, HOST_CORE)
        if isinstance(value.type.element, Quantized):
            raise self.graph.error("a host region reads a quantized value", found=value.type)
        if place.strides == row_major(place.shape):
            return place
        b = self.builder
        target = b.dense(HOST_CORE, HOST, place.shape, b.buffers[place.buffer][4])
        self.move(HOST_CORE, place, target)
        return target


def _digits(piece: Piece, most: int) -> tuple[int, int] | None:
    """Operands `first` and `digits` of what a piece reads in a tile of `most` digits; None: nothing."""
    if piece.whole:
        return 0, 0
    stop = most if piece.stop is None else min(piece.stop, most)
    if piece.first >= stop:
        return None
    return (0, 0) if (piece.first, stop) == (0, most) else (piece.first, stop - piece.first)


def _span(cols: np.ndarray) -> tuple[int, int]:
    """First and one past the last channel that tiles [t, C] produce."""
    used = cols[cols >= 0]
    return int(used.min()), int(used.max()) + 1


HANDLERS: dict[type[Operation], Callable[[Lowering, Any], None]] = {
    xbar.MvmConv: Lowering.mvm,
    xbar.MvmGemm: Lowering.mvm,
    quant.Quantize: Lowering.quantize,
    quant.Dequantize: Lowering.dequantize,
    quant.Rescale: Lowering.rescale,
    quant.Lut: Lowering.lut,
    quant.Add: Lowering.add,
    quant.Mul: Lowering.mul,
    quant.MaxPool: Lowering.max_pool,
    quant.AvgPool: Lowering.avg_pool,
    quant.Concat: Lowering.concat,
    quant.Pad: Lowering.pad,
    quant.Slice: Lowering.slice,
    quant.Transpose: Lowering.transpose,
    quant.Reshape: Lowering.reshape,
    HostOp: Lowering.host,
}
