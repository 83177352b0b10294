"""The weights of torch layers as matrices [G, K, M] in the order of im2col, as crossbars have them (G groups)."""

from __future__ import annotations

import numpy as np
from torch import Tensor, nn

from smec.ir.errors import SmecError


def groups_of(layer: nn.Module) -> int:
    groups = getattr(layer, "groups", 1)
    return groups if isinstance(groups, int) else 1


def to_blocks(weight: Tensor, groups: int) -> Tensor:
    """[M, C / G, *kernel] or [M, K] as [G, K, M / G]: rows (ky kw + kx) C / G + c, as tiles have them."""
    outputs, depth = weight.shape[:2]
    split = weight.reshape(groups, outputs // groups, depth, -1)
    return split.permute(0, 3, 2, 1).reshape(groups, -1, outputs // groups)


def from_blocks(blocks: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The inverse of `to_blocks`, for a weight of `shape`."""
    groups, _, outputs = blocks.shape
    return blocks.reshape(groups, -1, shape[1], outputs).permute(0, 3, 2, 1).reshape(shape)


def as_numpy(blocks: Tensor) -> np.ndarray:
    """A float tensor of any device as float32."""
    array: np.ndarray = blocks.detach().float().cpu().contiguous().numpy()
    return array


def finite_blocks(weight: Tensor, groups: int, name: str) -> np.ndarray:
    """The weight of the layer `name` as float32 [G, K, M].

    Raises:
        SmecError: it holds NaN or infinities.
    """
    blocks = as_numpy(to_blocks(weight, groups))
    if not np.isfinite(blocks).all():
        raise SmecError("weights hold NaN or infinities", location=name, hint="a smaller learning rate")
    return blocks
