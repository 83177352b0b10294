"""Rounds the weights of every layer to the nearest points of a pattern."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from smec.ir.dialects.builtin import ModuleOp
from smec.ir.dialects.quant import WeightedOp
from smec.ir.errors import SmecError
from smec.ir.types import Handle
from smec.passes.base import Pass, PassContext, register_pass
from smec.passes.patterns import External, Pattern, parse
from smec.passes.quantization.scales import fit_scales, full_scales


@register_pass
@dataclass(frozen=True)
class QuantizeNearest(Pass):
    """Give every layer integer weights: the nearest points of the pattern, at the scale that clips no weight.

    The sign scheme `polarized` asks that weights share a sign within blocks of rows, which rounding does not see to: it
    is for integers that the model carries, else for `quantize-admm` and `quantize-greedy`.

    With the pattern `external`, layers keep the integers that the model carries; layers for which it carries none are
    rounded to uniform ones, and the report names them.

    Reports, by layer under `layers`: `weight_error` (squared error over squared weights), `weights_zero` (share); under
    `not_carried` the layers that `external` had to round.

    Raises:
        SmecError: weights are not finite; carried integers do not fit the pattern's bits and sign scheme.
    """

    name = "quantize-nearest"
    requires = ("quant.float",)
    forbids = ("quant",)
    ensures = ("quant",)
    exact = False

    pattern: str = field(default="uniform", metadata={"doc": "set of magnitudes, see `smec.passes.patterns`"})
    bits: int = field(
        default=8, metadata={"doc": "N: bits of a magnitude, or of the whole integer if not differential"}
    )
    scale: Literal["tensor", "column"] = field(
        default="column", metadata={"doc": "one scale a layer, or one an output"}
    )
    sign: Literal["differential", "offset", "polarized", "twos-complement"] = field(
        default="differential", metadata={"doc": "how crossbars hold signs"}
    )
    sign_rows: int = field(
        default=8, metadata={"doc": "g: rows of a tile that share a sign in each column, with sign=polarized"}
    )
    window: int = field(default=3, metadata={"doc": "S of the window pattern"})
    terms: int = field(default=2, metadata={"doc": "n of the apot pattern"})
    fit: bool = field(default=False, metadata={"doc": "search for the scales of least squared error"})

    def run(self, module: ModuleOp, context: PassContext) -> bool:
        pattern = parse(self.pattern, self.bits, self.sign, {"window": self.window, "terms": self.terms})
        layers = [op for op in module.graph.ops if isinstance(op, WeightedOp)]
        report: dict[str, Any] = {}
        missing = [op.label for op in layers if op.weight is None] if pattern.name == External.name else []
        for done, op in enumerate(layers):
            report[op.label] = self._quantize(op, pattern)
            context.progress("quantizing weights", done + 1, len(layers))
        module.drop_float_graph()
        context.report[self.name] = {"layers": report, "not_carried": missing}
        return bool(layers)

    def _quantize(self, op: WeightedOp, pattern: Pattern) -> dict[str, float]:
        if op.weight is not None and pattern.name == External.name:
            return _keep(op, pattern, self.sign_rows)
        weight = float_weights(op)
        flat = weight.reshape(weight.shape[0] if self.scale == "column" else 1, -1)
        scales = full_scales(flat, pattern)
        if self.fit:
            scales = fit_scales(flat, pattern, scales)
        integers = pattern.project(flat, scales[:, None])
        set_integers(op, integers.reshape(weight.shape), scales, pattern, self.sign_rows)
        error = float(np.square(flat - scales[:, None] * integers, dtype=np.float64).sum())
        power = float(np.square(flat, dtype=np.float64).sum())
        return {"weight_error": error / power if power else 0.0, "weights_zero": zero_share(integers)}


def _keep(op: WeightedOp, pattern: Pattern, sign_rows: int) -> dict[str, float]:
    """Case `external`."""
    integers, scales = op.weight.array, op.weight_scale.array
    low, high = int(integers.min(initial=0)), int(integers.max(initial=0))
    positive, negative = pattern.largest
    if high > positive or -low > negative:
        raise op.error(
            f"integers that the model carries do not fit {pattern.bits}-bit {pattern.sign} weights",
            expected=f"{-negative} to {positive}",
            found=f"{low} to {high}",
            hint="give more bits",
        )
    set_integers(op, integers, scales, pattern, sign_rows)
    return {"weight_error": 0.0, "weights_zero": zero_share(integers)}


def float_weights(op: WeightedOp) -> np.ndarray:
    """The weights of a layer that is to be quantized, float32, ONNX layout.

    Raises:
        SmecError: they or its bias hold NaN or infinities.
    """
    for name, array in (("weights", op.float_weight.array), ("bias", op.bias.array)):
        if not np.isfinite(array).all():
            raise op.error(f"layer '{op.label}' has NaN or infinities in its {name}", expected="finite numbers")
    weights: np.ndarray = op.float_weight.array
    return weights


def set_integers(
    op: WeightedOp, integers: np.ndarray, scales: np.ndarray, pattern: Pattern, sign_rows: int = 8
) -> None:
    """Write integer weights into a layer, in place of the float ones.

    Args:
        op: the layer.
        integers: of the float weight's shape.
        scales: f32 [M] or [1].
        pattern: what the integers belong to.
        sign_rows: g, rows that share a sign, where its sign scheme is `polarized`.

    Raises:
        SmecError: the integers do not fit int16.
    """
    narrow = integers.astype(np.int16)
    if not np.array_equal(narrow, integers):
        raise SmecError("integer weights do not fit 16 bits", location=op.location, found=int(np.abs(integers).max()))
    op.attributes.pop("float_weight", None)
    op.attributes |= {
        "weight": Handle(narrow),
        "weight_scale": Handle(scales.astype(np.float32)),
        "bits": pattern.bits,
        "pattern": pattern.text(),
        "sign": pattern.sign,
    }
    if pattern.sign == "polarized":
        op.attributes["sign_rows"] = sign_rows


def zero_share(integers: np.ndarray) -> float:
    return float((integers == 0).mean()) if integers.size else 0.0
