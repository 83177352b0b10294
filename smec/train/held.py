"""Weights that are held on a set while they are trained: projected going forward, straight through going backward.

The parameter W is free; what the layer computes with is g a Q with Q = project(W / a). The scales a were fitted when
training on the set began and stay; the gains g (1 at first, one a column or one a tensor) are trained. So

    dL/dg = <dL/d(g a Q), a Q>                  exact, the integers do not depend on g
    dL/dW = g dL/d(g a Q)                       straight through: dQ/dW is taken to be 1 / a

Source: Bengio et al., arXiv 1308.3432 (straight-through estimator).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from smec.passes.admm.problem import SMALLEST_SCALE, nearest_integers
from smec.passes.constraints import ConstraintSet
from smec.train.matrices import as_numpy, finite_blocks, from_blocks, to_blocks


class _StraightThrough(torch.autograd.Function):
    """The second argument, with the gradient of the first."""

    @staticmethod
    def forward(ctx: Any, free: Tensor, held: Tensor) -> Tensor:  # noqa: ARG004  # as torch calls it
        return held.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # noqa: ARG004  # as torch calls it
        return gradient, None


class Held(nn.Module):
    """The parametrization of a weight on a set.

    Attributes:
        gain: g, trainable: [G, 1, M] or [1, 1, 1].
        base: a, float32 [G, 1, M], a buffer.
        column: whether each output has a scale of its own.
        fixed: what the weight is whatever the parameter; for export.
    """

    gain: nn.Parameter
    base: Tensor
    fixed: Tensor | None

    def __init__(self, name: str, constraint: ConstraintSet, groups: int, scales: Tensor, column: bool) -> None:
        super().__init__()
        self.name = name
        self.constraint = constraint
        self.groups = groups
        self.column = column
        self.gain = nn.Parameter(torch.ones_like(scales) if column else scales.new_ones(1, 1, 1))
        self.register_buffer("base", scales.clone())
        self.register_buffer("fixed", None, persistent=False)

    def forward(self, weight: Tensor) -> Tensor:
        """g a Q, of the shape of `weight`."""
        if self.fixed is not None:
            return self.fixed
        integers = torch.from_numpy(self.integers(weight).astype(np.float32)).to(weight.device)
        straight_through: Any = _StraightThrough.apply
        blocks = straight_through(to_blocks(weight, self.groups), integers * self.base)
        return from_blocks(blocks * self._positive(), tuple(weight.shape))

    def right_inverse(self, weight: Tensor) -> Tensor:
        """What the parameter becomes when the weight is assigned to."""
        return weight

    def integers(self, weight: Tensor) -> np.ndarray:
        """Q, int16 [G, K, M], of the parameter `weight`."""
        return nearest_integers(finite_blocks(weight, self.groups, self.name), as_numpy(self.base), self.constraint)

    def scales(self) -> np.ndarray:
        """g a, float32 [M], or [1] for one a tensor."""
        flat = as_numpy(self.base * self._positive()).reshape(-1)
        return flat if self.column else flat[:1]

    def _positive(self) -> Tensor:
        """The gains; a scale must not change its sign."""
        return self.gain.clamp(min=float(SMALLEST_SCALE))
