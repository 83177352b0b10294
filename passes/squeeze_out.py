"""The pass `squeeze-out`."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from smec.ir.core import AttrValue
from smec.ir.dialects.builtin import ModuleOp
from smec.ir.dialects.xbar import MvmOp
from smec.ir.errors import SmecError
from smec.ir.types import Handle
from smec.passes.base import Pass, PassContext, register_pass
from smec.passes.mapping.coding import planes
from smec.passes.mapping.layers import crossbar_layers, groups_of, offset_of

if TYPE_CHECKING:
    from smec.passes.mapping.squeezing import Squeezed

INT16 = np.iinfo(np.int16)


@register_pass
@dataclass(frozen=True)
class SqueezeOut(Pass):
    """Shift the rows of each tile down until x bit positions of every code are free, so that x planes vanish.

    The shifted row's input is multiplied by 2^k_r. Integers that N - x bits and a row shift cannot represent are
    rounded to the nearest that they can; the layer's `weight` (the oracle) becomes what the tiles hold. With c-bit
    cells shifts are multiples of c, so that whole planes are kept.
    """

    name = "squeeze-out"
    requires = ("xbar.tiled",)
    forbids = ("xbar.sliced",)
    ensures = ("xbar.squeezed",)
    exact = False

    depth: int | None = field(
        default=None, metadata={"doc": "x, bit positions given up; none: what each layer's quantizer asked for"}
    )
    shift: Literal["leading-one", "fit"] | None = field(
        default=None,
        metadata={"doc": "choice of row shifts: largest entry, or least squared error; none: the layer's own"},
    )

    def run(self, module: ModuleOp, context: PassContext) -> bool:
        if self.depth is not None and self.depth < 0:
            raise SmecError("squeeze depth is negative", expected="0 or more", found=self.depth)
        layers = crossbar_layers(module)
        report, changed = [], False
        for done, op in enumerate(layers):
            context.progress(self.name, done, len(layers))
            figures, different = self._squeeze(op)
            report.append(figures)
            changed |= different
        context.report[self.name] = {
            "squared_error": sum(layer["squared_error"] for layer in report),
            "weights_changed": sum(layer["weights_changed"] for layer in report),
            "layers": report,
        }
        return changed

    def _squeeze(self, op: MvmOp) -> tuple[dict[str, Any], bool]:
        from smec.passes.mapping.squeezing import scatter_weights, squeeze  # compiled code: only when it runs

        depth = op.squeeze if self.depth is None else self.depth
        shift = op.shift if self.shift is None else self.shift
        if not 0 <= depth < op.bits:
            raise op.error(f"squeeze depth of layer '{op.label}'", expected=f"0 to {op.bits - 1}", found=depth)
        if shift not in ("leading-one", "fit"):
            raise op.error(f"row shifts of layer '{op.label}'", expected="leading-one or fit", found=shift)
        rows, cols, groups = op.rows.array, op.cols.array, groups_of(op)
        result = squeeze(
            rows,
            cols,
            op.codes.array,
            op.shifts.array,
            sign=op.sign,
            bits=op.bits,
            depth=depth,
            fit=shift == "fit",
            cell_bits=op.cell_bits,
            scale=op.weight_scale.array,
            dense=groups == 1,
        )
        new: dict[str, AttrValue] = {
            "codes": _kept(op.codes, result.codes),
            "shifts": _kept(op.shifts, result.shifts),
            "squeeze": depth,
            "shift": shift,
            "squeeze_error": op.squeeze_error,
        }
        if result.changed:
            weight = scatter_weights(rows, cols, result.codes, result.shifts, offset_of(op), op.integers(), groups)
            if op.doubled is not None:
                result = _of_sums(result, op, weight)
            new["weight"] = _kept(op.weight, weight.astype(np.int16))
        lost = result.real_error / result.real_energy if result.real_energy else 0.0
        if result.changed:
            new["squeeze_error"] = lost
        old = {key: op.attributes.get(key) for key in new}
        # Arrays that are equal are the same handle (`_kept`): comparing handles would hash them.
        changed = any(old[key] is not v if isinstance(v, Handle) else old[key] != v for key, v in new.items())
        op.attributes.update(new)
        figures = {
            "name": op.label,
            "depth": depth,
            "planes": len(planes(op.sign, op.bits - depth, op.cell_bits)),
            "squared_error": result.squared_error,
            "relative_error": math.sqrt(lost),
            "weights_changed": result.changed,
            "largest_shift": int(result.shifts.max(initial=0)),
        }
        return figures, changed


def _of_sums(result: Squeezed, op: MvmOp, weight: np.ndarray) -> Squeezed:
    """What was lost where some weights are sums of two rows: of the sums, not of each row."""
    old, scale = op.integers().astype(np.int64), op.weight_scale.array.astype(np.float64)
    if weight.min(initial=0) < INT16.min or weight.max(initial=0) > INT16.max:
        found = f"{weight.min()} to {weight.max()}"
        raise op.error(f"squeezed integers of layer '{op.label}' exceed 16 bits", found=found)
    change, factor = weight - old, np.square(scale).reshape(-1, *[1] * (old.ndim - 1))
    return replace(
        result,
        squared_error=int(np.square(change).sum()),
        real_error=float((np.square(change) * factor).sum()),
        real_energy=float((np.square(old) * factor).sum()),
        changed=int(np.count_nonzero(change)),
    )


def _kept(old: Handle, new: Any) -> Handle:
    """The handle at hand if the array did not change, so that its hash need not be computed again."""
    return old if old.dtype == new.dtype and old.shape == new.shape and (old.array == new).all() else Handle(new)
