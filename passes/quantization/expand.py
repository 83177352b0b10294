"""Prepares the graph for the partition: drops what nobody uses, and lets one Slice a part take the place of a Split."""

from __future__ import annotations

import numpy as np

from smec.ir.core import AttrValue, Block, Value
from smec.ir.dialects.builtin import GraphOp
from smec.ir.dialects.nn import Constant, NNOp
from smec.passes.quantization.units import fits_device


def expand(graph: GraphOp) -> bool:
    """Rewrite in place; return whether anything changed."""
    changed = _drop_unused(graph)
    for op in list(graph.ops):
        if not isinstance(op, NNOp) or op.domain or not all(fits_device(v.type) for v in op.results):
            continue
        if op.op_type == "Split" and fits_device(op.operands[0].type) and graph.opset >= 10:
            _split(op)
            changed = True
    return changed


def _drop_unused(graph: GraphOp) -> bool:
    unused = [op for op in reversed(graph.block.ops) if not op.is_terminator and not any(r.uses for r in op.results)]
    found = bool(unused)
    while unused:
        op = unused.pop()
        sources = [v.defining_op() for v in op.operands]
        op.erase()
        unused.extend(s for s in dict.fromkeys(sources) if s is not None and not any(r.uses for r in s.results))
    return found


def _split(op: NNOp) -> None:
    x = op.operands[0]
    axis = op.attributes.get("axis", 0)
    at = (axis if isinstance(axis, int) else 0) % len(x.type.shape)
    begin, parts = 0, []
    for result in op.results:
        end = begin + result.type.shape[at]
        limits = [_constant_before(op, [number]) for number in (begin, end, at)]
        part = _insert(op, "Slice", [x, *limits], result, {})
        parts.append(part)
        begin = end
    op.replace_with(parts)


def _constant_before(op: NNOp, numbers: list[int]) -> Value:
    constant = Constant.of(np.array(numbers, np.int64), op.location)
    return _block(op).insert_before(op, constant).results[0]


def _insert(op: NNOp, op_type: str, operands: list[Value], like: Value, attributes: dict[str, AttrValue]) -> Value:
    made = NNOp.make(op_type, operands, [like.type], attributes, op.location)
    return _block(op).insert_before(op, made).results[0]


def _block(op: NNOp) -> Block:
    if op.parent is None:
        raise op.error("operation is in no block")
    return op.parent
