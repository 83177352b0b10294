"""A plug-in for smec, used as `--plugin smec_example.py` or installed: a pattern, a pass and a scheme of both."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from smec.ir.dialects.builtin import ModuleOp
from smec.ir.dialects.quant import WeightedOp
from smec.ir.types import Handle
from smec.passes.base import Pass, PassContext, register_pass
from smec.passes.patterns import Pattern, register_pattern
from smec.schemes import Scheme, register_scheme
from smec.targets import Target


@register_pattern
@dataclass(frozen=True)
class Coarse(Pattern):
    """Multiples of 2^k: the lowest k planes stay empty, and empty crossbars are not made."""

    name = "coarse"
    zeros: int = 1

    def magnitudes(self, bits: int) -> range:
        return range(0, 1 << bits, 1 << self.zeros)


@register_pass
@dataclass(frozen=True)
class DropSmall(Pass):
    """Set small integer weights to zero, so that more rows and crossbars are empty."""

    name = "drop-small"
    requires, forbids = ("quant",), ("xbar.tiled",)
    exact = False  # the network computes something else afterwards, by design
    below: int = field(default=2, metadata={"doc": "magnitudes below this become 0"})

    def run(self, module: ModuleOp, context: PassContext) -> bool:
        dropped = 0
        for op in [op for op in module.graph.ops if isinstance(op, WeightedOp)]:
            small = (np.abs(op.integers()) < self.below) & (op.integers() != 0)
            op.attributes["weight"] = Handle(np.where(small, 0, op.integers()).astype(np.int16))
            dropped += int(small.sum())
        context.report[self.name] = {"dropped": dropped}
        return dropped > 0


@register_scheme
@dataclass(frozen=True)
class CoarseSlices(Scheme):
    """Coarse weights, small ones dropped, each bit in a crossbar of its own."""

    name = "coarse-slices"
    zeros: int = 2

    def passes(self, target: Target) -> str:
        return f"quantize-nearest{{pattern=coarse:{self.zeros}}},drop-small{{below=5}},tile,compact"
