"""The border that operations with windows need around their operand."""

from __future__ import annotations

from collections.abc import Sequence

from smec.ir.core import Operation
from smec.ir.dialects import quant

#: Rows above, columns before, rows below, columns behind.
Halo = tuple[int, int, int, int]
NO_HALO: Halo = (0, 0, 0, 0)


def window_halo(
    extent: Sequence[int],
    out: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    pads: Sequence[int],
) -> Halo:
    """Border that windows really touch: what lies before, and how far the last window reaches behind."""
    reach = [
        max(0, (o - 1) * s + (k - 1) * d + 1 - n - p)
        for n, o, k, s, d, p in zip(extent, out, kernel, strides, dilations, pads[:2], strict=True)
    ]
    return (pads[0], pads[1], reach[0], reach[1])


def reader_halo(op: Operation) -> tuple[Halo, int] | None:
    """The border and its level that an operation needs around its (first) operand; None if it has no windows."""
    if isinstance(op, (quant.MaxPool, quant.AvgPool)):
        dilations = op.dilations if isinstance(op, quant.MaxPool) else (1, 1)
        fill = 0 if isinstance(op, quant.MaxPool) else op.x.type.quantized.zero_point
    elif isinstance(op, quant.Conv):
        dilations, fill = op.dilations, op.x.type.quantized.zero_point
    else:
        return None
    halo = window_halo(op.x.type.shape[2:], op.out.type.shape[2:], op.kernel, op.strides, dilations, op.pads)
    return halo, fill
