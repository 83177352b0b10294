"""Rewrites to one form of each operator: explicit windows, plain Gemm, no operators that do nothing."""

from __future__ import annotations

import numpy as np

from smec.ir.core import AttrValue, Value
from smec.ir.dialects.nn import Constant, NNOp
from smec.ir.rewriter import Rewriter
from smec.ir.types import TensorType


def ints(op: NNOp, name: str, default: tuple[int, ...]) -> tuple[int, ...]:
    """An integer list attribute."""
    value = op.attributes.get(name)
    return tuple(int(v) for v in value) if isinstance(value, tuple) and value else default


def number(op: NNOp, name: str, default: float) -> float:
    """A scalar attribute."""
    value = op.attributes.get(name, default)
    return float(value) if isinstance(value, (int, float)) else default


def constant_before(op: NNOp, array: np.ndarray, rewriter: Rewriter, name_hint: str | None = None) -> Value:
    """A new constant in front of `op`."""
    return rewriter.insert_before(op, Constant.of(array, op.location, name_hint)).results[0]


def take_place(old: NNOp, new: Value, rewriter: Rewriter) -> None:
    """Let `new` stand for the first result of `old`, whose other results are unused; hand over name and tensor."""
    source = new.defining_op()
    if isinstance(source, NNOp) and source.results[0] is new and old.tensor:
        source.attributes.setdefault("_tensor", old.tensor)
    rewriter.replace_value(old.results[0], new)
    rewriter.erase_op(old)


# -- windows -----------------------------------------------------------------------------------------------------------


def explicit_window(op: NNOp, rewriter: Rewriter) -> None:
    """Spell out the window attributes of a convolution or pooling (case 2 of the normal form)."""
    x, y = op.operands[0].type.shape, op.results[0].type.shape
    spatial = len(x) - 2
    if spatial < 1 or any(d < 0 for d in (*x, *y)):
        return
    kernel = ints(op, "kernel_shape", op.operands[1].type.shape[2:] if op.op_type == "Conv" else ())
    if len(kernel) != spatial:
        return
    ones = (1,) * spatial
    strides, dilations = ints(op, "strides", ones), ints(op, "dilations", ones)
    extents = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    pads = ints(op, "pads", (0,) * (2 * spatial))
    mode = op.attributes.get("auto_pad", "NOTSET")
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        pads = _same_pads(x[2:], y[2:], extents, strides, upper=mode == "SAME_UPPER")
    elif mode == "VALID":
        pads = (0,) * (2 * spatial)
    # The rewrite only holds if explicit pads give the same extents: VALID with ceil_mode is read in two ways.
    if mode != "NOTSET" and _extents(op, x[2:], extents, strides, pads) != y[2:]:
        return
    explicit: dict[str, AttrValue] = {"kernel_shape": kernel, "strides": strides, "pads": pads}
    if op.op_type in ("Conv", "MaxPool") or "dilations" in op.attributes:
        explicit["dilations"] = dilations
    if op.op_type == "Conv":
        explicit["group"] = int(number(op, "group", 1))
    if "auto_pad" not in op.attributes and all(op.attributes.get(k) == v for k, v in explicit.items()):
        return
    op.attributes.pop("auto_pad", None)
    op.attributes.update(explicit)
    rewriter.notify(op)


def _same_pads(
    x: tuple[int, ...], y: tuple[int, ...], extents: list[int], strides: tuple[int, ...], *, upper: bool
) -> tuple[int, ...]:
    begins, ends = [], []
    for size, out, extent, stride in zip(x, y, extents, strides, strict=True):
        total = max((out - 1) * stride + extent - size, 0)
        small = total // 2
        begins.append(small if upper else total - small)
        ends.append(total - small if upper else small)
    return (*begins, *ends)


def _extents(
    op: NNOp, x: tuple[int, ...], extents: list[int], strides: tuple[int, ...], pads: tuple[int, ...]
) -> tuple[int, ...]:
    found = []
    for axis, (size, extent, stride) in enumerate(zip(x, extents, strides, strict=True)):
        room = size + pads[axis] + pads[axis + len(x)] - extent
        found.append((-(-room // stride) if op.attributes.get("ceil_mode") else room // stride) + 1)
    return tuple(found)


# -- Gemm and Sum ------------------------------------------------------------------------------------------------------


def plain_gemm(op: NNOp, rewriter: Rewriter) -> None:
    """Case 3 of the normal form."""
    b, c = op.constant_input(1), op.constant_input(2)
    if b is None or b.dtype.kind != "f" or op.operands[0].type.shape == ():
        return
    alpha, beta = number(op, "alpha", 1.0), number(op, "beta", 1.0)
    trans_a, trans_b = bool(number(op, "transA", 0)), bool(number(op, "transB", 0))
    width = b.shape[0] if trans_b else b.shape[1]
    c_value = op.input(2)
    plain_c = c_value is None or c_value.type.shape == (width,)
    if (alpha, beta, trans_a, trans_b) == (1.0, 1.0, False, True) and plain_c:
        return
    if c_value is not None and (c is None or (c.ndim == 2 and c.shape[0] != 1)):
        _split_bias(op, beta, rewriter)
        return
    x = op.operands[0]
    if c is not None and c.size not in (1, width):
        return  # does not broadcast: fails where it is run
    if trans_a:
        type = TensorType(x.type.shape[::-1], x.type.element)
        x = rewriter.insert_before(op, NNOp.make("Transpose", [x], [type], {"perm": (1, 0)}, op.location)).results[0]
    weight = b if trans_b else b.T
    operands = [x, op.operands[1]]
    if alpha != 1.0 or not trans_b:
        scaled = (weight * b.dtype.type(alpha)).astype(b.dtype)
        operands[1] = constant_before(op, scaled, rewriter, op.operands[1].name_hint)
    if c is not None and c_value is not None:
        row = np.broadcast_to((c * c.dtype.type(beta)).astype(c.dtype).reshape(-1), (width,))
        operands.append(constant_before(op, row, rewriter, c_value.name_hint))
    attributes = _without(op, "alpha", "beta", "transA", "transB", "broadcast", "_present")
    attributes |= {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 1}
    new = rewriter.insert_before(op, NNOp.make("Gemm", operands, [op.results[0].type], attributes, op.location))
    take_place(op, new.results[0], rewriter)


def _split_bias(op: NNOp, beta: float, rewriter: Rewriter) -> None:
    """A third operand that is no row of constants becomes an addition of its own."""
    c = op.operands[2]
    if beta != 1.0:
        factor = constant_before(op, np.array(beta, dtype=c.type.dtype), rewriter)
        c = rewriter.insert_before(op, NNOp.make("Mul", [c, factor], [c.type], {}, op.location)).results[0]
    attributes = _without(op, "beta", "_tensor")
    types = [op.results[0].type]
    product = rewriter.insert_before(op, NNOp.make("Gemm", op.operands[:2], types, attributes, op.location))
    # The result's name and tensor go to the sum (see `take_place`).
    total = rewriter.insert_before(op, NNOp.make("Add", [product.results[0], c], types, {}, op.location))
    take_place(op, total.results[0], rewriter)


def _without(op: NNOp, *names: str) -> dict[str, AttrValue]:
    return {k: v for k, v in op.attributes.items() if k not in names}


def binary_sum(op: NNOp, rewriter: Rewriter) -> None:
    """Sum as additions, from the left."""
    total = op.operands[0]
    if len(op.operands) == 1:
        drop_no_op(op, rewriter)
        return
    for position, operand in enumerate(op.operands[1:], start=2):
        last = position == len(op.operands)
        shape = np.broadcast_shapes(total.type.shape, operand.type.shape) if not last else op.results[0].type.shape
        type = TensorType(tuple(shape), op.results[0].type.element)
        addition = NNOp.make("Add", [total, operand], [type], {}, op.location)
        total = rewriter.insert_before(op, addition).results[0]
    take_place(op, total, rewriter)


# -- operators that do nothing -----------------------------------------------------------------------------------------


def drop_no_op(op: NNOp, rewriter: Rewriter) -> None:
    """Case 4 of the normal form."""
    if not op.operands or any(r.uses for r in op.results[1:]):
        return
    source, result = op.operands[0], op.results[0]
    if not _does_nothing(op):
        return
    if source.type != result.type and not source.type.is_static:
        source.type = result.type
    take_place(op, source, rewriter)


def _does_nothing(op: NNOp) -> bool:
    x, y = op.operands[0].type, op.results[0].type
    if op.op_type in ("Identity", "Sum"):
        return True
    if op.op_type == "Dropout":
        mode = op.input(2)
        training = op.constant_input(2)
        return mode is None or (training is not None and not training.any())
    if x != y or not x.is_static:
        return False
    if op.op_type == "Transpose":
        perm = ints(op, "perm", tuple(reversed(range(len(x.shape)))))
        # Moving axes of extent 1 moves no element.
        moved = [axis for axis in perm if x.shape[axis] != 1]
        return moved == sorted(moved)
    if op.op_type == "Pad":
        pads = op.constant_input(1)
        return pads is not None and not pads.any()
    # Reshapes in row-major order, and a cast or expansion to the type at hand.
    return True
