"""What a program's metadata says about its layers and host regions."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np

from smec.ir.dialects.builtin import HostOp
from smec.ir.dialects.xbar import MvmConv, MvmOp
from smec.passes.host_costs import flops_of, macs_of


def layer_info(op: MvmOp, tile_first: int) -> dict[str, Any]:
    """The metadata entry of a layer (`smec.runtime.metadata.LayerInfo`)."""
    w = op.integers()
    m = w.shape[0]
    if isinstance(op, MvmConv):
        n, _, oh, ow = op.out.type.shape
        k, pixels = op.x.type.shape[1] * op.kernel[0] * op.kernel[1], n * oh * ow
    else:
        k, pixels = w.shape[1], math.prod(op.out.type.shape[:-1])
    return {
        "name": op.label,
        "kind": op.name.removeprefix("xbar."),
        "node": op.location.node,
        "tensor": op.tensor,
        "K": k,
        "M": m,
        "groups": op.groups if isinstance(op, MvmConv) else 1,
        "weights": int(w.size),
        "pixels": pixels,
        "macs": pixels * int(w.size),
        "bits": op.bits,
        "sign": op.sign,
        "pattern": op.pattern,
        "squeeze": op.squeeze,
        "shift": op.shift,
        "planes": op.planes,
        "tile_first": tile_first,
        "tiles": len(op.rows.array) * op.copies,
        "copies": op.copies,
        "crossbars": len(np.unique(_physical(op))),
        "blocks": len(op.xbar_core.array),
        "blocks_empty": op.blocks_empty,
        "squeeze_error": op.squeeze_error,
    }


def _physical(op: MvmOp) -> np.ndarray:
    """A number for the physical crossbar of each of a layer's blocks, int64."""
    place: np.ndarray = op.xbar_core.array.astype(np.int64) << 32 | op.xbar_slot.array
    return place


def host_info(op: HostOp) -> dict[str, Any]:
    """The metadata entry of a host region (`smec.runtime.metadata.HostInfo`)."""
    inner = [o for o in op.walk() if o is not op and not o.is_terminator and o.name != "nn.Constant"]
    ops = Counter(o.name.removeprefix("nn.") for o in inner)
    return {
        "name": op.label,
        "batchable": op.batchable,
        "macs": sum(map(macs_of, inner)),
        "flops": sum(map(flops_of, inner)),
        "ops": dict(sorted(ops.items())),
    }
