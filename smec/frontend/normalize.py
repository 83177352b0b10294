"""The normal form of the float graph, on which all passes rely: rewrites finish what onnxruntime's folding leaves.

1. Every constant is an `nn.Constant` at the head of the graph or before its first use; one for each initializer.
2. Conv, MaxPool, AveragePool and LpPool state `kernel_shape`, `strides`, `pads` (begin of each axis, then end),
   `dilations` (where they have any) and `group`; `auto_pad` is gone (unless the operator's extents would change).
3. Gemm with a constant second operand has `transA` = 0, `transB` = 1, `alpha` = `beta` = 1: its weight is [M, K]. Its
   third operand, if there is one, has shape [M]. (The weight of a MatMul stays [K, M], as ONNX has it.)
4. Sum is Add; Identity, Dropout, and reshapes, transposes, pads and casts that change nothing are gone.
5. Per-channel arithmetic with constants (BatchNormalization, Mul, Div, Add, Sub) after a Conv or Gemm with constant
   weights is folded into weight and bias; scales after a MatMul are folded into its weight. After a remaining
   BatchNormalization (per-channel Mul and Add) it is folded into that.
6. Zero padding before a Conv is part of its `pads`.

A result that takes the place of another takes its `_tensor` and its name.
"""

from __future__ import annotations

from collections.abc import Callable

from smec.frontend import affine, canonical
from smec.ir.core import Block
from smec.ir.dialects.builtin import ModuleOp
from smec.ir.dialects.nn import Constant, NNOp
from smec.ir.rewriter import Pattern, Rewriter, apply_patterns

Rewrite = Callable[[NNOp, Rewriter], None]

#: Rewrites by operator, tried in order.
REWRITES: dict[str, tuple[Rewrite, ...]] = {
    "Add": (affine.fold_affine,),
    "AveragePool": (canonical.explicit_window,),
    "BatchNormalization": (affine.fold_affine,),
    "Cast": (canonical.drop_no_op,),
    "Conv": (canonical.explicit_window, affine.merge_pad),
    "Div": (affine.fold_affine,),
    "Dropout": (canonical.drop_no_op,),
    "Expand": (canonical.drop_no_op,),
    "Flatten": (canonical.drop_no_op,),
    "Gemm": (canonical.plain_gemm,),
    "Identity": (canonical.drop_no_op,),
    "LpPool": (canonical.explicit_window,),
    "MaxPool": (canonical.explicit_window,),
    "Mul": (affine.fold_affine,),
    "Pad": (canonical.drop_no_op,),
    "Reshape": (canonical.drop_no_op,),
    "Squeeze": (canonical.drop_no_op,),
    "Sub": (affine.fold_affine,),
    "Sum": (canonical.binary_sum,),
    "Transpose": (canonical.drop_no_op,),
    "Unsqueeze": (canonical.drop_no_op,),
}


def _on_standard_operators(rewrite: Rewrite) -> Rewrite:
    """`rewrite` on ONNX's own operators only: other domains give the same names other meanings."""

    def guarded(op: NNOp, rewriter: Rewriter) -> None:
        if isinstance(op, NNOp) and not op.domain:
            rewrite(op, rewriter)

    guarded.__name__ = rewrite.__name__
    return guarded


PATTERNS: tuple[Pattern, ...] = tuple(
    Pattern(f"nn.{op_type}", _on_standard_operators(rewrite))
    for op_type, rewrites in REWRITES.items()
    for rewrite in rewrites
)


def normalize(module: ModuleOp) -> bool:
    """Bring the graph of `module` to normal form, in place; return whether anything changed."""
    changed = apply_patterns(module, PATTERNS)
    return remove_unused(module.graph.block) or changed


def remove_unused(block: Block) -> bool:
    """Erase operations whose results nobody uses; return whether there were any."""
    removed = False
    for op in reversed(block.ops):
        if isinstance(op, (NNOp, Constant)) and not any(r.uses for r in op.results):
            op.erase()
            removed = True
    return removed
