"""What may appear in a module that has reached a level, beyond what the verifier checks of any module.

1. Before `quant.float` the graph holds `nn` operations only.
2. From `quant.float` on it holds `quant` and `xbar` operations and host regions; `nn` operations stand inside those.
3. From `quant` on every layer has integers, and no float weights.
4. From `xbar.tiled` on every layer is on crossbars.
5. From `xbar.sliced`, `xbar.grouped` and `xbar.placed` on a layer has the attributes of that step; one with the sign
   scheme `polarized` has its blocks' signs from `xbar.sliced` on.
6. From `isa` on there is a program.

Operations of dialects that are not ours are for whoever made them to account for.
"""

from __future__ import annotations

from smec.ir.core import Operation
from smec.ir.dialects.builtin import HostOp, ModuleOp
from smec.ir.dialects.quant import WeightedOp
from smec.ir.dialects.xbar import MvmOp
from smec.passes.base import levels

#: Attributes that a layer has from a level on (rule 5).
_STEPS = {
    "xbar.sliced": ("xbar_tile", "xbar_weight", "cells"),
    "xbar.grouped": ("row_group",),
    "xbar.placed": ("xbar_core", "xbar_slot", "xbar_row0", "xbar_col0"),
}

_OURS = ("nn", "quant", "xbar", "isa")


def check_legal(module: ModuleOp) -> None:
    """Check a module against the levels that it says it has reached.

    Raises:
        SmecError: at the first operation that must not be there.
    """
    reached = set(levels(module))
    if not reached:
        return
    for op in module.graph.ops:
        _check(op, reached)
    if "isa" in reached:
        _ = module.program


def _check(op: Operation, reached: set[str]) -> None:
    dialect = op.name.partition(".")[0]
    if "quant.float" not in reached:
        if (dialect in _OURS and dialect != "nn") or isinstance(op, HostOp):
            raise op.error("stands in a graph that is not quantized", expected="nn operations only")
        return
    if dialect in ("nn", "isa"):
        raise op.error("stands in a quantized graph", expected="quant and xbar operations, and host regions")
    if not isinstance(op, WeightedOp):
        return
    if "quant" in reached and (op.weight is None or op.float_weight is not None):
        raise op.error(f"layer '{op.label}' has no integer weights at level quant", expected="weight, no float_weight")
    if "xbar.tiled" in reached and not isinstance(op, MvmOp):
        raise op.error(f"layer '{op.label}' is not on crossbars at level xbar.tiled", expected="xbar.conv or xbar.gemm")
    for level, names in _STEPS.items():
        for name in names:
            if level in reached and op.attributes.get(name) is None:
                raise op.error(f"layer '{op.label}' lacks its attribute '{name}' at level {level}")
    if "xbar.sliced" in reached and op.sign == "polarized" and op.attributes.get("block_signs") is None:
        raise op.error(f"layer '{op.label}' lacks its attribute 'block_signs' at level xbar.sliced")
