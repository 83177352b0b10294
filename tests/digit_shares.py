"""Copies of layers at random: cuts anywhere in the stretch of (pixel, input digit) pairs, few pairs a copy or many."""

from __future__ import annotations

from math import prod

import numpy as np

from smec.ir.dialects.builtin import ModuleOp
from smec.passes.base import PassContext
from smec.passes.mapping.layers import crossbar_layers
from smec.passes.mapping.workload import digits_of_tiles
from smec.passes.pipeline import parse_pipeline


def share_digits(module: ModuleOp, context: PassContext, rng: np.random.Generator, most: int = 6) -> None:
    """Give each grouped layer up to `most` copies, cut at random places."""
    for op in crossbar_layers(module):
        digits = int(digits_of_tiles(op, context.act_bits, context.target.dac_bits).max())
        length = prod(op.pixel_shape()[-2:]) * digits
        copies = int(rng.integers(1, min(most, length) + 1))
        cuts = np.sort(rng.choice(length - 1, copies - 1, replace=False) + 1) if copies > 1 else np.zeros(0, int)
        op.attributes |= {"copies": copies, "cuts": tuple(cuts.tolist())}
        if copies > 1:
            op.attributes["pixel_digits"] = digits


def lower_shared(module: ModuleOp, mapping: str, context: PassContext, rng: np.random.Generator) -> None:
    """Run passes up to the groups, share out digits at random, and go on to instructions."""
    parse_pipeline(mapping).run(module, context)
    share_digits(module, context, rng)
    parse_pipeline("assign-cores,emit").run(module, context)
