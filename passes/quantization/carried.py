"""Integers and levels that a model carries itself: ONNX's QuantizeLinear and DequantizeLinear nodes.

Operators on integers are spelled with those first (see `qoperator`).

1. DequantizeLinear of a constant becomes a float constant that remembers its integers and scales (`_integers`,
   `_scales`, `_axis`). A layer whose weight it is can keep them: the pattern `external`.
2. QuantizeLinear whose results only DequantizeLinear nodes of the same scale and zero point read, is a *pair* with
   them: it states the levels of an activation. (One DequantizeLinear node is left of several.)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from smec.ir.core import Value
from smec.ir.dialects.builtin import GraphOp
from smec.ir.dialects.nn import Constant, NNOp
from smec.ir.types import Handle, Quantized
from smec.passes.quantization.qoperator import expand_qoperators

INTEGERS, SCALES, AXIS = "_integers", "_scales", "_axis"

#: Bits of the integer types that hold levels, and what makes their values unsigned.
_LEVEL_TYPES: dict[str, tuple[int, int]] = {"ui8": (8, 0), "i8": (8, 128), "ui16": (16, 0), "i16": (16, 1 << 15)}


@dataclass(frozen=True)
class CarriedWeight:
    """Integer weights, zero point removed, and scales: along `axis` of the integers, or one for all."""

    integers: np.ndarray
    scales: np.ndarray
    axis: int


def collect_carried(graph: GraphOp) -> bool:
    """Apply both cases in place; return whether anything changed."""
    changed = expand_qoperators(graph)
    for op in list(graph.ops):
        if not isinstance(op, NNOp) or op.domain:
            continue
        if op.op_type == "DequantizeLinear":
            changed |= _fold_constant(op)
        elif op.op_type == "QuantizeLinear":
            changed |= _merge_readers(op)
    return changed


def _fold_constant(op: NNOp) -> bool:
    """Case 1."""
    integers, scale = op.constant_input(0), op.constant_input(1)
    zero = op.constant_input(2)
    if integers is None or scale is None or integers.dtype.kind not in "iu" or scale.dtype != np.float32:
        return False
    if op.attributes.get("block_size", 0) or (zero is None and op.input(2) is not None) or op.parent is None:
        return False
    axis = op.attributes.get("axis", 1)
    at = axis % integers.ndim if isinstance(axis, int) and integers.ndim else 0
    if scale.size > 1 and (scale.ndim != 1 or not integers.ndim or scale.size != integers.shape[at]):
        return False
    along = [1] * integers.ndim
    if scale.size > 1:
        along[at] = -1
    centred = integers.astype(np.int64) - (0 if zero is None else zero.astype(np.int64).reshape(along))
    real = (centred.astype(np.float64) * scale.astype(np.float64).reshape(along)).astype(np.float32)
    made = op.parent.insert_before(op, Constant.of(real, op.location, op.results[0].name_hint))
    made.attributes |= {INTEGERS: Handle(centred), SCALES: Handle(scale.reshape(-1)), AXIS: at}
    op.replace_with(made.results)
    return True


def carried_weight(value: Value | None) -> CarriedWeight | None:
    """What a constant that came of case 1 remembers."""
    op = value.defining_op() if value is not None else None
    if not isinstance(op, Constant):
        return None
    integers, scales, axis = (op.attributes.get(key) for key in (INTEGERS, SCALES, AXIS))
    if not isinstance(integers, Handle) or not isinstance(scales, Handle) or not isinstance(axis, int):
        return None
    return CarriedWeight(integers.array, scales.array, axis)


def _merge_readers(op: NNOp) -> bool:
    """Case 2: let the first of several readers stand for all."""
    readers = [user for user in op.results[0].users if isinstance(user, NNOp)]
    if len(readers) < 2 or any(_pair_levels(op, reader) is None for reader in readers):
        return False
    if any(user.is_terminator for user in op.results[0].users):
        return False
    first = readers[0]
    for other in readers[1:]:
        if other.parent is None or first.parent is not other.parent:
            return False
    # The readers may stand anywhere behind `op`: the one that is kept moves up to it.
    first.detach()
    if op.parent is not None:
        op.parent.insert_after(op, first)
    for other in readers[1:]:
        other.replace_with(first.results)
    return True


def pair_of(op: NNOp) -> tuple[NNOp, Quantized] | None:
    """The DequantizeLinear node that makes a pair with `op`, and the levels that both state; None if there is none."""
    if op.op_type != "QuantizeLinear" or op.domain:
        return None
    uses = list(op.results[0].uses)
    if len(uses) != 1 or not isinstance(uses[0][0], NNOp):
        return None
    reader = uses[0][0]
    levels = _pair_levels(op, reader)
    return None if levels is None else (reader, levels)


def _pair_levels(op: NNOp, reader: NNOp) -> Quantized | None:
    """The levels that a QuantizeLinear and a DequantizeLinear node both state."""
    if reader.op_type != "DequantizeLinear" or reader.domain or reader.operands[0] is not op.results[0]:
        return None
    element = op.results[0].type.element
    stated = [(n.constant_input(1), n.constant_input(2), n.input(2) is None) for n in (op, reader)]
    if not isinstance(element, str) or element not in _LEVEL_TYPES:
        return None
    found = set()
    for scale, zero, absent in stated:
        if scale is None or scale.size != 1 or scale.dtype != np.float32 or not (zero is not None or absent):
            return None
        found.add((float(scale.reshape(-1)[0]), 0 if zero is None else int(zero.reshape(-1)[0])))
    if len(found) != 1:
        return None
    scale_value, zero_value = found.pop()
    bits, shift = _LEVEL_TYPES[element]
    if not (np.isfinite(scale_value) and scale_value > 0):
        return None
    return Quantized(bits, scale_value, zero_value + shift)


def unit_levels(ops: list[NNOp]) -> Quantized | None:
    """The levels that a pair at the end of a unit states."""
    found = pair_of(ops[-2]) if len(ops) > 1 else None
    return found[1] if found is not None else None
