"""Reads the parameters of `nn` operations in the form that device operations need.

Each reader either returns a specification or raises `Unsupported` with the reason why the device cannot do the
operation: `partition` asks whether it can, `quantize-activations` asks again to build it. Shapes are ONNX's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from smec.ir.core import Value
from smec.ir.dialects.nn import NNOp
from smec.ir.types import TensorType
from smec.passes.quantization.carried import carried_weight
from smec.passes.quantization.units import fits_device

F32 = np.float32
Pair = tuple[int, int]


class Unsupported(Exception):  # noqa: N818  # a verdict on an operation, not a mistake of the user's
    """Why the device cannot do an operation: short, lower case."""


@dataclass(frozen=True)
class Layer:
    """A layer with constant weights.

    Attributes:
        kind: "conv" or "gemm".
        weight: f32 [M, C/g, kh, kw] (1-D convolutions with kh = 1) or [M, K].
        bias: f32 [M].
        strides, dilations, pads (top, left, bottom, right), groups: of a convolution.
        integers, scales: what the model carries for `weight` (see `carried`): int64 of its shape, and f32 [M] or [1];
            None if it carries none, or other scales than these.
    """

    kind: str
    weight: np.ndarray
    bias: np.ndarray
    strides: Pair = (1, 1)
    dilations: Pair = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    groups: int = 1
    integers: np.ndarray | None = None
    scales: np.ndarray | None = None


@dataclass(frozen=True)
class Pool:
    """A maximum or mean over windows, on the input seen as `shape` (rank 4), giving `out` (rank 4)."""

    kind: str
    shape: tuple[int, ...]
    out: tuple[int, ...]
    kernel: Pair
    strides: Pair = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilations: Pair = (1, 1)
    count_include_pad: bool = False


def require(condition: bool, reason: str) -> None:
    if not condition:
        raise Unsupported(reason)


def data(op: NNOp, index: int = 0) -> Value:
    """The non-constant input at `index`, which the device must be able to hold."""
    value = op.input(index)
    if value is None or op.constant_input(index) is not None:
        raise Unsupported(f"input {index} is constant or omitted")
    require_tensor(value.type)
    return value


def require_tensor(type: TensorType) -> None:
    require(type.element == "f32", "not float32")
    require(type.is_static, "shape is not known at compile time")
    require(fits_device(type), "rank or extent out of range")


def single_result(op: NNOp) -> Value:
    require(sum(bool(r.uses) for r in op.results[1:]) == 0, "more than one result is used")
    require_tensor(op.results[0].type)
    return op.results[0]


def constant(op: NNOp, index: int, what: str) -> np.ndarray:
    array = op.constant_input(index)
    if array is None:
        raise Unsupported(f"{what} is not constant")
    return array


def optional_constant(op: NNOp, index: int, what: str) -> np.ndarray | None:
    return None if op.input(index) is None else constant(op, index, what)


def ints(op: NNOp, name: str, default: tuple[int, ...]) -> tuple[int, ...]:
    value = op.attributes.get(name, default)
    return tuple(int(v) for v in value) if isinstance(value, tuple) and value else default


def integer(op: NNOp, name: str, default: int) -> int:
    value = op.attributes.get(name, default)
    return int(value) if isinstance(value, (int, float)) else default


def number(op: NNOp, name: str, default: float) -> float:
    value = op.attributes.get(name, default)
    return float(value) if isinstance(value, (int, float)) else default


# -- layers ------------------------------------------------------------------------------------------------------------


def read_layer(op: NNOp) -> Layer:
    """Conv in 1-D or 2-D, Gemm or MatMul, all weights constant."""
    readers = {"Conv": _read_conv, "Gemm": _read_gemm, "MatMul": _read_matmul}
    require(op.op_type in readers, "no crossbar layer")
    single_result(op)
    layer = readers[op.op_type](op)
    require(layer.weight.size > 0, "weights are empty")
    return layer


def _read_conv(op: NNOp) -> Layer:
    x, weight = data(op), constant(op, 1, "weight")
    spatial = len(x.type.shape) - 2
    require(spatial in (1, 2), "convolution is neither 1-D nor 2-D")
    require(weight.dtype == F32, "weight is not float32")
    _require_explicit_padding(op)
    bias = optional_constant(op, 2, "bias")
    pads = ints(op, "pads", (0,) * (2 * spatial))
    require(min(pads) >= 0, "padding is negative")
    shape = (*weight.shape[:2], *_two(weight.shape[2:]))
    integers, scales = _carried(op, 0)
    return Layer(
        "conv",
        weight.reshape(shape),
        np.zeros(weight.shape[0], F32) if bias is None else bias.astype(F32),
        _two(ints(op, "strides", (1,) * spatial)),
        _two(ints(op, "dilations", (1,) * spatial)),
        _four(pads),
        integer(op, "group", 1),
        None if integers is None else integers.reshape(shape),
        scales,
    )


def _read_gemm(op: NNOp) -> Layer:
    data(op)
    weight = constant(op, 1, "B")
    require(weight.dtype == F32, "B is not float32")
    require(integer(op, "transA", 0) == 0, "A is transposed")
    transposed = bool(integer(op, "transB", 0))
    integers, scales = _carried(op, 0 if transposed else 1)
    weight = weight if transposed else weight.T
    alpha, beta = F32(number(op, "alpha", 1.0)), F32(number(op, "beta", 1.0))
    bias = np.zeros(weight.shape[0], F32)
    c = optional_constant(op, 2, "C")
    if c is not None:
        bias = channel_vector(c, 1, len(bias), 2) * beta
    if alpha != 1:
        return Layer("gemm", weight * alpha, bias.astype(F32))
    if integers is not None and not transposed:
        integers = integers.T
    return Layer("gemm", weight, bias.astype(F32), integers=integers, scales=scales)


def _read_matmul(op: NNOp) -> Layer:
    data(op)
    weight = constant(op, 1, "right operand")
    require(weight.ndim == 2, "right operand is not of rank 2")
    require(weight.dtype == F32, "right operand is not float32")
    integers, scales = _carried(op, 1)
    integers = None if integers is None else integers.T
    return Layer("gemm", weight.T, np.zeros(weight.shape[1], F32), integers=integers, scales=scales)


def _carried(op: NNOp, outputs: int) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Integers and scales that the weight of `op` carries, if there is one scale, or one along its axis `outputs`."""
    found = carried_weight(op.input(1))
    if found is None or (found.scales.size > 1 and found.axis != outputs):
        return None, None
    return found.integers, found.scales


def channel_vector(array: np.ndarray, axis: int, extent: int, rank: int) -> np.ndarray:
    """`array`, which broadcasts against a tensor of `rank`, as one value for each of the `extent` places of `axis`."""
    require(array.ndim <= rank, "operand has more axes than the tensor")
    shape = (1,) * (rank - array.ndim) + array.shape
    full = array.reshape(shape)
    for at in range(rank):
        if at != axis and shape[at] != 1:
            first = full.take([0], axis=at)
            require(bool((full == first).all()), "operand varies along more than the channel axis")
            full = first
    require(full.shape[axis] in (1, extent), "operand does not fit the channels")
    return np.broadcast_to(full.reshape(-1), (extent,)).astype(F32)


def layer_channel_axis(op: NNOp) -> int:
    """Axis of a layer's result that counts its outputs: 1 for convolutions, else the last."""
    return 1 if op.op_type == "Conv" else len(op.results[0].type.shape) - 1


def _require_explicit_padding(op: NNOp) -> None:
    require(op.attributes.get("auto_pad", "NOTSET") in ("NOTSET", "VALID"), "padding is not resolved")


def _two(values: tuple[int, ...]) -> Pair:
    """Two spatial values; one alone belongs to the width, where it gets a neutral partner of 1."""
    return (1, values[0]) if len(values) == 1 else (values[0], values[1])


def _four(pads: tuple[int, ...]) -> tuple[int, int, int, int]:
    """(top, left, bottom, right) of ONNX's padding in one or two spatial axes."""
    return (0, pads[0], 0, pads[1]) if len(pads) == 2 else (pads[0], pads[1], pads[2], pads[3])


# -- elementwise -------------------------------------------------------------------------------------------------------


def read_clamp(op: NNOp) -> tuple[float, float]:
    """(minimum, maximum) of a Relu, or of a Clip with constant limits."""
    single_result(op)
    data(op)
    if op.op_type == "Relu":
        return 0.0, math.inf
    require(op.op_type == "Clip", "no clamp")
    limits = []
    for index, name, default in ((1, "min", -math.inf), (2, "max", math.inf)):
        array = optional_constant(op, index, name)
        require(array is None or array.size == 1, "limit of the clamp is no scalar")
        limit = number(op, name, default) if array is None else float(array.reshape(-1)[0])
        limits.append(limit)
    require(limits[0] <= limits[1], "limits of the clamp are crossed")
    return limits[0], limits[1]


def read_tensor_operand(op: NNOp) -> tuple[str, Value, np.ndarray]:
    """("add" or "mul", x, c) of an operation that equals x + c or x * c for a constant tensor c."""
    require(op.op_type in ("Add", "Sub", "Mul", "Div", "Sum") and len(op.inputs) == 2, "no sum or product of two")
    single_result(op)
    at = 1 if op.constant_input(1) is not None else 0
    array = constant(op, at, "second operand")
    x = data(op, 1 - at)
    require(array.dtype == F32 and array.ndim <= 5, "constant operand is not float32 of rank 5 or less")
    require(at == 1 or op.op_type in ("Add", "Mul", "Sum"), "constant is the first operand")
    if op.op_type in ("Add", "Sub", "Sum"):
        return "add", x, -array if op.op_type == "Sub" else array
    if op.op_type == "Div":
        require(bool((array != 0).all()), "division by zero")
        return "mul", x, (1 / array.astype(np.float64)).astype(F32)
    return "mul", x, array


def read_affine(op: NNOp) -> tuple[np.ndarray, np.ndarray]:
    """(factor, offset), f32 [C, 1, ...], of a batch normalisation with constant statistics."""
    require(op.op_type == "BatchNormalization" and not integer(op, "training_mode", 0), "no inference normalisation")
    x = data(op)
    require(len(x.type.shape) >= 2, "normalisation of a vector")
    single_result(op)
    gamma, beta, mean, var = (constant(op, i, "statistic").astype(np.float64) for i in range(1, 5))
    factor = gamma / np.sqrt(var + number(op, "epsilon", 1e-5))
    shape = (-1, *(1,) * (len(x.type.shape) - 2))
    return factor.astype(F32).reshape(shape), (beta - mean * factor).astype(F32).reshape(shape)


def read_prelu(op: NNOp) -> np.ndarray:
    """The slopes, f32, that broadcast against the input, of a PRelu with constant slopes."""
    require(op.op_type == "PRelu", "no PRelu")
    data(op)
    single_result(op)
    slope = constant(op, 1, "slope")
    require(slope.dtype == F32 and slope.ndim <= 5, "slope is not float32 of rank 5 or less")
    return slope


# -- windows -----------------------------------------------------------------------------------------------------------


def read_pool(op: NNOp) -> Pool:
    """MaxPool, AveragePool, their global forms, and ReduceMean over neighbouring axes."""
    readers = {
        "MaxPool": _read_window,
        "AveragePool": _read_window,
        "GlobalAveragePool": _read_global,
        "GlobalMaxPool": _read_global,
        "ReduceMean": _read_mean,
    }
    require(op.op_type in readers, "no pooling")
    single_result(op)
    pool = readers[op.op_type](op)
    # Sums of levels are 32-bit; levels have at most 16 bits.
    require(pool.kind == "max" or pool.kernel[0] * pool.kernel[1] < 2**15, "window is too large")
    return pool


def _read_window(op: NNOp) -> Pool:
    x, out = data(op), op.results[0].type.shape
    spatial = len(x.type.shape) - 2
    require(spatial in (1, 2), "pooling is neither 1-D nor 2-D")
    _require_explicit_padding(op)
    kind = "max" if op.op_type == "MaxPool" else "avg"
    kernel, strides = _two(ints(op, "kernel_shape", ())), _two(ints(op, "strides", (1,) * spatial))
    dilations = _two(ints(op, "dilations", (1,) * spatial))
    pads = _four(ints(op, "pads", (0,) * (2 * spatial)))
    include = bool(integer(op, "count_include_pad", 0))
    shape, out4 = four_dims(x.type.shape), four_dims(out)
    # With ceil_mode the last window reaches beyond the padding: further padding, which no count includes.
    reach = [
        (o - 1) * s + (k - 1) * d + 1 - n - begin
        for o, s, k, d, n, begin in zip(out4[2:], strides, kernel, dilations, shape[2:], pads[:2])
    ]
    full = (pads[0], pads[1], max(pads[2], reach[0]), max(pads[3], reach[1]))
    if kind == "avg":
        require(dilations == (1, 1), "mean over a dilated window")
        require(full == pads or not include, "mean counts padding beyond the border")
    return Pool(kind, shape, out4, kernel, strides, full, dilations, include)


def _read_global(op: NNOp) -> Pool:
    shape = data(op).type.shape
    require(len(shape) >= 3, "no spatial axes")
    extent = (shape[2], math.prod(shape[3:]))
    kind = "max" if op.op_type == "GlobalMaxPool" else "avg"
    return Pool(kind, (*shape[:2], *extent), (*shape[:2], 1, 1), extent)


def _read_mean(op: NNOp) -> Pool:
    shape = data(op).type.shape
    listed = optional_constant(op, 1, "axes")
    axes = ints(op, "axes", ()) if listed is None else tuple(int(a) for a in listed.reshape(-1))
    require(bool(axes) or not integer(op, "noop_with_empty_axes", 0), "no axes")
    over = sorted({a % len(shape) for a in axes} or set(range(len(shape))))
    require(over == list(range(over[0], over[-1] + 1)), "axes of the mean are not neighbours")
    before, behind = math.prod(shape[: over[0]]), math.prod(shape[over[-1] + 1 :])
    if len(shape) == 4 and over == [2, 3]:
        return Pool("avg", shape, (*shape[:2], 1, 1), (shape[2], shape[3]))
    count = math.prod(shape[over[0] : over[-1] + 1])
    return Pool("avg", (1, before, count, behind), (1, before, 1, behind), (count, 1))


def four_dims(shape: tuple[int, ...]) -> tuple[int, ...]:
    """[N, C, W] as [N, C, 1, W]; rank 4 unchanged."""
    return (*shape[:2], 1, shape[2]) if len(shape) == 3 else shape


# -- data movement -----------------------------------------------------------------------------------------------------

#: Operators whose result has the elements of their first input in the same order.
RESHAPES = ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Dropout")


def read_reshape(op: NNOp) -> None:
    require(op.op_type in RESHAPES, "no reshape")
    x, out = data(op), single_result(op)
    require(x.type.size == out.type.size, "number of elements changes")


def read_transpose(op: NNOp) -> tuple[int, ...]:
    """The permutation of axes."""
    require(op.op_type == "Transpose", "no transpose")
    rank = len(data(op).type.shape)
    single_result(op)
    return ints(op, "perm", tuple(range(rank))[::-1])


def read_concat(op: NNOp) -> int:
    """The axis, not negative; all inputs are data."""
    require(op.op_type == "Concat", "no concatenation")
    for index in range(len(op.inputs)):
        data(op, index)
    return integer(op, "axis", 0) % len(single_result(op).type.shape)


def read_pad(op: NNOp) -> tuple[tuple[int, ...], float]:
    """(begin of every axis, then end of every axis; the value) of a constant padding."""
    require(op.op_type == "Pad", "no padding")
    rank = len(data(op).type.shape)
    single_result(op)
    require(op.attributes.get("mode", "constant") == "constant", "padding copies values")
    listed = optional_constant(op, 1, "pads")
    amounts = ints(op, "pads", ()) if listed is None else tuple(int(p) for p in listed.reshape(-1))
    axes = optional_constant(op, 3, "axes")
    over = list(range(rank)) if axes is None else [int(a) % rank for a in axes.reshape(-1)]
    require(len(amounts) == 2 * len(over), "padding is malformed")
    pads = [0] * (2 * rank)
    for i, axis in enumerate(over):
        pads[axis], pads[axis + rank] = amounts[i], amounts[i + len(over)]
    require(min(pads) >= 0, "padding is negative")
    given = optional_constant(op, 2, "padding value")
    value = number(op, "value", 0.0) if given is None or not given.size else float(given.reshape(-1)[0])
    require(math.isfinite(value), "padding value is not finite")
    return tuple(pads), value


def read_slice(op: NNOp) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(starts, steps), one an axis; extents are the result's."""
    require(op.op_type == "Slice", "no slice")
    shape, out = data(op).type.shape, single_result(op).type.shape
    if "starts" in op.attributes:
        begins: tuple[int, ...] = ints(op, "starts", ())
        axes, strides = ints(op, "axes", tuple(range(len(begins)))), (1,) * len(begins)
    else:
        begins = tuple(int(v) for v in constant(op, 1, "starts").reshape(-1))
        listed, given = optional_constant(op, 3, "axes"), optional_constant(op, 4, "steps")
        axes = tuple(range(len(begins))) if listed is None else tuple(int(v) for v in listed.reshape(-1))
        strides = (1,) * len(begins) if given is None else tuple(int(v) for v in given.reshape(-1))
    starts, steps = [0] * len(shape), [1] * len(shape)
    for begin, raw_axis, step in zip(begins, axes, strides, strict=True):
        axis = raw_axis % len(shape)
        extent = shape[axis]
        begin = begin + extent if begin < 0 else begin
        # ONNX clamps to what the step can start from.
        starts[axis] = min(max(begin, 0), extent) if step > 0 else min(max(begin, 0), extent - 1)
        steps[axis] = step
    for start, step, extent, count in zip(starts, steps, shape, out, strict=True):
        require(0 <= start + step * (count - 1) < extent and start < extent, "slice leaves the tensor")
    return tuple(starts), tuple(steps)
