"""Prepares the graph for the partition: drops what nobody uses, and lets one Slice a part take the place of a Split."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from smec.ir.core import Value
from smec.ir.dialects.builtin import GraphOp
from smec.ir.dialects.nn import Constant, NNOp
from smec.passes.quantization.units import fits_device


def expand(graph: GraphOp) -> bool:
    """Rewrite in place; return whether anything changed."""
    changed = _drop_unused(graph)
    for op in list(graph.ops):
        if not isinstance(op, NNOp) or op.domain or op.op_type != "Split" or graph.opset < 10:
            continue
        if all(fits_device(v.type) for v in [op.operands[0], *op.results]):
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
    if op.parent is None:
        raise op.error("operation is in no block")
    x, axis = op.operands[0], op.attributes.get("axis", 0)
    at = (axis if isinstance(axis, int) else 0) % len(x.type.shape)
    begin = 0
    parts: list[Value] = []
    for index, result in enumerate(op.results):
        end = begin + result.type.shape[at]
        if not result.uses:
            parts.append(result)
            begin = end
            continue
        location = replace(op.location, node=f"{op.location.node}_{index}")
        limits = [Constant.of(np.array([number], np.int64), location) for number in (begin, end, at)]
        part = NNOp.make("Slice", [x, *(c.results[0] for c in limits)], [result.type], {}, location)
        if index == 0 and op.tensor:
            part.attributes["_tensor"] = op.tensor
        for made in (*limits, part):
            op.parent.insert_before(op, made)
        parts.append(part.results[0])
        begin = end
    op.replace_with(parts)
