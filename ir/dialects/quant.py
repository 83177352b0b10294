"""The quantized network: integers, scales and the digital operations of DESIGN section 2.

The interpretations here are the definition of the arithmetic: engines, exported ONNX and instructions are tested
against them. Quantized values are unsigned integers with a scale and a zero point in their type (`Quantized`). Shapes
are ONNX's (NCHW); every array carries the image axis B first.

All scaling after an accumulator is done in float32 with separately rounded operations and round half to even, because
that is what NumPy, ONNX Runtime's plain operators and a vector unit can all reproduce bit for bit.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from smec.ir.core import Operation, attr, operand, result, tuple_attr
from smec.ir.dialects.arithmetic import (
    accumulator_bound,
    add_params,
    align,
    average_factors,
    clamp_bounds,
    dequantize_params,
    pad_spatial,
    requantize_params,
    rescale_params,
    round_clip,
    windows,
)
from smec.ir.types import Handle, Quantized

if TYPE_CHECKING:
    from smec.ir.types import TensorType

F32 = np.float32


def _check_quantized(op: Operation, *types: TensorType) -> None:
    for t in types:
        if not isinstance(t.element, Quantized):
            raise op.error("operand must be quantized", expected="!quant.u<...>", found=t)


# -- conversions -------------------------------------------------------------------------------------------------------


class Quantize(Operation):
    """Round real values to the levels of the result type: clip(rint(x / s) + z, 0, 2^A - 1); NaN becomes z.

    `%q = "quant.quantize"(%x) : (tensor<4xf32>) -> tensor<4x!quant.u<8, 0.5, 0>>`
    """

    name = "quant.quantize"
    x = operand()
    out = result()

    def verify(self) -> None:
        _check_quantized(self, self.out.type)

    def interpret(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
        q = self.out.type.quantized
        with np.errstate(invalid="ignore", over="ignore"):
            y = np.rint(inputs[0].astype(F32) / F32(q.scale)) + F32(q.zero_point)
        y = np.where(np.isnan(y), F32(q.zero_point), y)
        return [np.clip(y, F32(0), F32(q.qmax)).astype(q.dtype)]


class Dequantize(Operation):
    """Back to real values: f32(q - z) * s.

    `%x = "quant.dequantize"(%q) : (tensor<4x!quant.u<8, 0.5, 0>>) -> tensor<4xf32>`
    """

    name = "quant.dequantize"
    x = operand()
    out = result()

    def verify(self) -> None:
        _check_quantized(self, self.x.type)

    def interpret(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
        q = self.x.type.quantized
        return [(inputs[0].astype(np.int32) - q.zero_point).astype(F32) * F32(q.scale)]


class Rescale(Operation):
    """Move to another scale and zero point: clip(rint(q * m + off), lo, hi).

    `%r = "quant.rescale"(%q) : (tensor<4x!quant.u<8, 0.5, 0>>) -> tensor<4x!quant.u<8, 0.25, 3>>`
    """

    name = "quant.rescale"
    x = operand()
    out = result()
    clamp_min = attr(float, default=-math.inf)
    clamp_max = attr(float, default=math.inf)

    def verify(self) -> None:
        _check_quantized(self, self.x.type, self.out.type)

    def interpret(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
        x, y = self.x.type.quantized, self.out.type.quantized
        m, off = rescale_params(x, y)
        return [round_clip(inputs[0].astype(F32) * m + off, *clamp_bounds(y, self.clamp_min, self.clamp_max), y)]


# -- layers with weights -----------------------------------------------------------------------------------------------


class WeightedOp(Operation):
    """What `quant.conv` and `quant.gemm` share: integer weights, scales, and the step after the accumulator.

    Before quantization `float_weight` is there and `weight` is not; after it, the reverse.
    """

    x = operand("quantized input")
    out = result("quantized, or f32 where no crossbar layer reads it")
    label = attr(str, doc="unique layer name")
    tensor = attr(str, default="", doc="the float model's tensor that the result stands for")
    float_weight = attr(Handle, default=None, doc="f32, ONNX layout")
    weight = attr(Handle, default=None, doc="int16, ONNX layout: conv [M, C/g, kh, kw], gemm [M, K]")
    weight_scale = attr(Handle, default=None, doc="f32 [M] or [1]")
    bias = attr(Handle, doc="f32 [M], real units")
    clamp_min = attr(float, default=-math.inf)
    clamp_max = attr(float, default=math.inf)
    bits = attr(int, default=8, doc="N: bits of a weight's magnitude (of the whole integer if not differential)")
    pattern = attr(str, default="uniform")
    sign = attr(str, default="differential")
    sign_rows = attr(int, default=8, doc="g: rows of a tile that share a sign in each column, where sign is polarized")
    squeeze = attr(int, default=0, doc="x: how many of the N bit positions are given up")
    shift = attr(str, default="leading-one")
    scale = attr(str, default="column", doc="scales that a quantizer is to choose: one a column, or one a tensor")
    constraints = attr(str, default="", doc="further sets that it is to choose from, parted by '+'")
    double = attr(bool, default=False, doc="whether it may give idle rows of tiles to inputs as second ones")
    doubled = attr(
        Handle, default=None, doc="int32 [D], ascending: rows of the matrix [K, M] that are to have two rows of tiles"
    )

    def integers(self) -> np.ndarray:
        """The integer weights, ONNX layout.

        Raises:
            SmecError: the layer is not quantized yet.
        """
        if self.weight is None:
            raise self.error("layer has no integer weights yet", hint="run a quantize pass first")
        return self.weight.array

    def effective_weights(self) -> np.ndarray:
        """The integers that inputs are multiplied by, ONNX layout; on crossbars, what the crossbars hold."""
        return self.integers()

    def accumulate(self, q: np.ndarray) -> np.ndarray:
        """Accumulators sum_k (q_k - z) w[k, n], int64, in the layout of the result."""
        raise NotImplementedError  # each subclass defines it

    def channel_axis(self) -> int:
        """Axis of the output channel in an array of the result (image axis counted)."""
        raise NotImplementedError  # each subclass defines it

    def finish(self, acc: np.ndarray) -> np.ndarray:
        """Accumulators -> the result: scale, bias and clamp (DESIGN 2, "After the crossbar")."""
        shape = [1] * acc.ndim
        shape[self.channel_axis()] = -1
        x = self.x.type.quantized
        f = acc.astype(np.int32 if np.abs(acc).max(initial=0) < 2**31 else np.int64).astype(F32)
        if isinstance(self.out.type.element, Quantized):
            y = self.out.type.element
            mult, off = requantize_params(self.weight_scale.array, self.bias.array, x, y)
            f = f * mult.reshape(shape) + off.reshape(shape)
            return round_clip(f, *clamp_bounds(y, self.clamp_min, self.clamp_max), y)
        mult, bias = dequantize_params(self.weight_scale.array, self.bias.array, x)
        real: np.ndarray = f * mult.reshape(shape) + bias.reshape(shape)
        clamped: np.ndarray = np.clip(real, F32(self.clamp_min), F32(self.clamp_max))
        return clamped

    def interpret(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
        return [self.finish(self.accumulate(inputs[0]))]

    def verify(self) -> None:
        _check_quantized(self, self.x.type)
        outputs = self.bias.shape[0] if len(self.bias.shape) == 1 else -1
        for key in ("float_weight", "weight"):
            handle = self.attributes.get(key)
            if isinstance(handle, Handle) and handle.shape[0] != outputs:
                raise self.error(f"{key} and bias disagree", expected=f"{outputs} outputs", found=handle.shape)
        if self.weight is not None and self.weight_scale is None:
            raise self.error("integer weights need a weight_scale")
        if self.weight is not None and self.weight.dtype != np.int16:
            raise self.error("integer weights have the wrong dtype", expected="int16", found=self.weight.dtype)
        if self.doubled is not None:
            if self.doubled.dtype != np.int32 or len(self.doubled.shape) != 1:
                found = f"{self.doubled.dtype} {self.doubled.shape}"
                raise self.error("doubled rows are no list of int32", expected="int32 [D]", found=found)
            if self.attributes.get("groups", 1) != 1:
                raise self.error("doubled rows in a convolution with groups", expected="1 group")


class Conv(WeightedOp):
    """2-D convolution with integer weights (groups, strides, dilations, asymmetric padding).

    `%y = "quant.conv"(%x) {name = "c1", weight = #smec.handle<...>, strides = [1, 1], ...} : (...) -> (...)`
    """

    name = "quant.conv"
    strides = tuple_attr(int, default=(1, 1))
    pads = tuple_attr(int, default=(0, 0, 0, 0), doc="top, left, bottom, right")
    dilations = tuple_attr(int, default=(1, 1))
    groups = attr(int, default=1)

    @property
    def kernel(self) -> tuple[int, int]:
        handle = self.weight if self.weight is not None else self.float_weight
        return handle.shape[2], handle.shape[3]

    def channel_axis(self) -> int:
        return 2

    def accumulate(self, q: np.ndarray) -> np.ndarray:
        w = self.effective_weights()
        b, n, c, _, _ = q.shape
        g, m = self.groups, w.shape[0]
        z = self.x.type.quantized.zero_point
        x = pad_spatial(
            q.astype(F32 if accumulator_bound(w, self.x.type.quantized) < 2**24 else np.float64), self.pads, z
        )
        x -= z
        view = windows(x.reshape(b * n, g, c // g, *x.shape[3:]), self.kernel, self.strides, self.dilations)
        oh, ow = view.shape[3:5]
        # Products and sums of integers below 2^24 (2^53) are exact in float32 (float64), so BLAS may do the work.
        cols = view.transpose(0, 1, 3, 4, 2, 5, 6).reshape(b * n, g, oh * ow, -1)
        mat = w.reshape(g, m // g, -1).transpose(0, 2, 1).astype(x.dtype)
        acc = (cols @ mat).transpose(0, 1, 3, 2).reshape(b, n, m, oh, ow)
        exact: np.ndarray = np.rint(acc).astype(np.int64)
        return exact

    def verify(self) -> None:
        super().verify()
        handle = self.weight if self.weight is not None else self.float_weight
        if handle is None or len(handle.shape) != 4:
            raise self.error("convolution needs a weight of rank 4", found=handle)
        if len(self.x.type.shape) != 4 or len(self.out.type.shape) != 4:
            raise self.error("convolution works on tensors of rank 4", found=f"{self.x.type} -> {self.out.type}")
        channels, outputs = self.x.type.shape[1], handle.shape[0]
        if self.groups < 1 or channels != handle.shape[1] * self.groups or outputs % self.groups:
            raise self.error(
                "channels do not fit the groups",
                expected=f"{handle.shape[1]} x {self.groups} input channels",
                found=f"{channels} (and {outputs} outputs)",
            )
        if len(self.strides) != 2 or len(self.pads) != 4 or len(self.dilations) != 2 or min(self.pads) < 0:
            raise self.error(
                "strides, pads or dilations are malformed", found=(self.strides, self.pads, self.dilations)
            )
        size = [
            (extent + p0 + p1 - (k - 1) * d - 1) // s + 1
            for extent, p0, p1, k, d, s in zip(
                self.x.type.shape[2:],
                self.pads[:2],
                self.pads[2:],
                self.kernel,
                self.dilations,
                self.strides,
                strict=True,
            )
        ]
        expected = (self.x.type.shape[0], outputs, *size)
        if self.out.type.shape != expected:
            raise self.error("result has the wrong shape", expected=expected, found=self.out.type.shape)


class Gemm(WeightedOp):
    """Product with an integer matrix over the last axis of the input.

    `%y = "quant.gemm"(%x) {name = "fc", weight = #smec.handle<...>, ...} : (...) -> (...)`
    """

    name = "quant.gemm"

    def channel_axis(self) -> int:
        return len(self.out.type.shape)

    def accumulate(self, q: np.ndarray) -> np.ndarray:
        w = self.effective_weights()
        wide = F32 if accumulator_bound(w, self.x.type.quantized) < 2**24 else np.float64
        x: np.ndarray = q.astype(wide)
        x -= self.x.type.quantized.zero_point
        exact: np.ndarray = np.rint(x @ w.T.astype(wide)).astype(np.int64)
        return exact

    def verify(self) -> None:
        super().verify()
        handle = self.weight if self.weight is not None else self.float_weight
        if handle is None or len(handle.shape) != 2:
            raise self.error("matrix product needs a weight of rank 2", found=handle)
        expected = (*self.x.type.shape[:-1], handle.shape[0])
        if self.x.type.shape[-1] != handle.shape[1] or self.out.type.shape != expected:
            raise self.error("shapes do not fit", expected=expected, found=f"{self.x.type} -> {self.out.type}")


# -- elementwise -------------------------------------------------------------------------------------------------------


class Add(Operation):
    """Sum of two quantized tensors, NumPy broadcasting: clip(rint((a ma + b mb) + off), lo, hi).

    `%y = "quant.add"(%a, %b) {clamp_min = 0.0 : f64} : (...) -> (...)`
    """

    name = "quant.add"
    a = operand()
    b = operand()
    out = result()
    clamp_min = attr(float, default=-math.inf)
    clamp_max = attr(float, default=math.inf)

    def verify(self) -> None:
        _check_quantized(self, self.a.type, self.b.type, self.out.type)

    def interpret(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
        qa, qb, y = self.a.type.quantized, self.b.type.quantized, self.out.type.quantized
        ma, mb, off = add_params(qa, qb, y)
        rank = len(self.out.type.shape)
        f = (align(inputs[0], rank).astype(F32) * ma + align(inputs[1], rank).astype(F32) * mb) + off
        return [round_clip(f, *clamp_bounds(y, self.clamp_min, self.clamp_max), y)]


class Mul(Operation):
    """Product of two quantized tensors, NumPy broadcasting: clip(rint(f32((a - za)(b - zb)) m + z), lo, hi).

    `%y = "quant.mul"(%a, %b) : (...) -> (...)`
    """

    name = "quant.mul"
    a = operand()
    b = operand()
    out = result()
    clamp_min = attr(float, default=-math.inf)
    clamp_max = attr(float, default=math.inf)

    def verify(self) -> None:
        _check_quantized(self, self.a.type, self.b.type, self.out.type)

    def interpret(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
        qa, qb, y = self.a.type.quantized, self.b.type.quantized, self.out.type.quantized
        rank = len(self.out.type.shape)
        a = align(inputs[0], rank).astype(np.int64) - qa.zero_point
        b = align(inputs[1], rank).astype(np.int64) - qb.zero_point
        f = (a * b).astype(F32) * F32(qa.scale * qb.scale / y.scale) + F32(y.zero_point)
        return [round_clip(f, *clamp_bounds(y, self.clamp_min, self.clamp_max), y)]


class Lut(Operation):
    """Any function of one quantized value, as a table over its 2^A levels.

    `%y = "quant.lut"(%x) {table = #smec.handle<...>} : (...) -> (...)`
    """

    name = "quant.lut"
    x = operand()
    out = result()
    table = attr(Handle, doc="uint16 [2^A]")

    def verify(self) -> None:
        _check_quantized(self, self.x.type, self.out.type)
        if self.table.shape != (self.x.type.quantized.qmax + 1,) or self.table.dtype != np.uint16:
            raise self.error(
                "table does not fit", expected=f"uint16[{self.x.type.quantized.qmax + 1}]", found=self.table
            )
        if int(self.table.array.max()) > self.out.type.quantized.qmax:
            raise self.error("table entry exceeds the result's levels", found=int(self.table.array.max()))

    def interpret(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
        return [self.table.array[inputs[0]].astype(self.out.type.dtype)]


# -- windows -----------------------------------------------------------------------------------------------------------


class MaxPool(Operation):
    """Maximum over windows; padding never wins. The result has the input's levels.

    `%y = "quant.max_pool"(%x) {kernel = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]} : (...) -> (...)`
    """

    name = "quant.max_pool"
    x = operand()
    out = result()
    kernel = tuple_attr(int)
    strides = tuple_attr(int, default=(1, 1))
    pads = tuple_attr(int, default=(0, 0, 0, 0))
    dilations = tuple_attr(int, default=(1, 1))

    def verify(self) -> None:
        _check_quantized(self, self.x.type)
        if self.x.type.element != self.out.type.element:
            raise self.error("input and result must have the same levels", found=f"{self.x.type} -> {self.out.type}")

    def interpret(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
        # Levels are unsigned: padding with 0 never exceeds a real input.
        view = windows(pad_spatial(inputs[0], self.pads, 0), self.kernel, self.strides, self.dilations)
        oh, ow = self.out.type.shape[2:]
        return [view[..., :oh, :ow, :, :].max((-2, -1))]


class AvgPool(Operation):
    """Mean over windows: clip(rint(f32(sum(q - z)) factor + z'), 0, 2^A - 1), factor = s / s' / count per output pixel.

    `%y = "quant.avg_pool"(%x) {kernel = [8, 8]} : (...) -> (...)`
    """

    name = "quant.avg_pool"
    x = operand()
    out = result()
    kernel = tuple_attr(int)
    strides = tuple_attr(int, default=(1, 1))
    pads = tuple_attr(int, default=(0, 0, 0, 0))
    count_include_pad = attr(bool, default=False)

    def verify(self) -> None:
        _check_quantized(self, self.x.type, self.out.type)

    def interpret(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
        x, y = self.x.type.quantized, self.out.type.quantized
        centred = pad_spatial(inputs[0].astype(np.int32) - x.zero_point, self.pads, 0)
        oh, ow = self.out.type.shape[2:]
        total = windows(centred, self.kernel, self.strides, (1, 1))[..., :oh, :ow, :, :].sum((-2, -1), dtype=np.int32)
        f = total.astype(F32) * average_factors(self) + F32(y.zero_point)
        return [round_clip(f, 0, y.qmax, y)]


# -- data movement -----------------------------------------------------------------------------------------------------


class Concat(Operation):
    """Join along an axis; all operands have the result's element type.

    `%y = "quant.concat"(%a, %b) {axis = 1 : i64} : (...) -> (...)`
    """

    name = "quant.concat"
    inputs = operand(variadic=True)
    out = result()
    axis = attr(int, doc="logical axis, not negative")

    def verify(self) -> None:
        for v in self.inputs:
            if v.type.element != self.out.type.element:
                raise self.error("operands must have the result's levels", expected=self.out.type, found=v.type)

    def interpret(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
        return [np.concatenate(inputs, axis=self.axis + 1)]


class Pad(Operation):
    """Constant padding with a level.

    `%y = "quant.pad"(%x) {pads = [0, 4, 0, 0, 0, 4, 0, 0], value = 0 : i64} : (...) -> (...)`
    """

    name = "quant.pad"
    x = operand()
    out = result()
    pads = tuple_attr(int, doc="begin of every axis, then end of every axis; not negative")
    value = attr(int)

    def interpret(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
        rank = len(self.pads) // 2
        width = [(0, 0), *zip(self.pads[:rank], self.pads[rank:], strict=True)]
        return [np.pad(inputs[0], width, constant_values=self.value)]


class Slice(Operation):
    """Strided slice with positive or negative steps; extents come from the result type.

    `%y = "quant.slice"(%x) {starts = [0, 0, 0, 0], steps = [1, 1, 2, 2]} : (...) -> (...)`
    """

    name = "quant.slice"
    x = operand()
    out = result()
    starts = tuple_attr(int, doc="one an axis, not negative")
    steps = tuple_attr(int, doc="one an axis, not zero")

    def interpret(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
        index: list[Any] = [slice(None)]
        for start, step, extent in zip(self.starts, self.steps, self.out.type.shape, strict=True):
            index.append(np.arange(start, start + step * extent, step)[:extent])
        view = inputs[0]
        for axis, picks in enumerate(index[1:], start=1):
            view = view.take(picks, axis=axis)
        return [view]


class Transpose(Operation):
    """Permute axes.

    `%y = "quant.transpose"(%x) {perm = [0, 2, 1, 3]} : (...) -> (...)`
    """

    name = "quant.transpose"
    x = operand()
    out = result()
    perm = tuple_attr(int)

    def interpret(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
        return [inputs[0].transpose(0, *(p + 1 for p in self.perm))]


class Reshape(Operation):
    """Same elements in row-major order, other shape (the result type's).

    `%y = "quant.reshape"(%x) : (...) -> (...)`
    """

    name = "quant.reshape"
    x = operand()
    out = result()

    def verify(self) -> None:
        if self.x.type.size != self.out.type.size:
            raise self.error("number of elements changes", expected=self.x.type.size, found=self.out.type.size)

    def interpret(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
        return [inputs[0].reshape(inputs[0].shape[0], *self.out.type.shape)]
