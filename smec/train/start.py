"""Integers that training starts from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Start:
    """Integers and scales of a layer, such as the compile-time ADMM finds.

    Attributes:
        integers: of the shape of the layer's weight.
        scales: positive, [M] or [1].
        bias: [M]; None leaves the layer's bias as it is.
    """

    integers: np.ndarray
    scales: np.ndarray
    bias: np.ndarray | None = None
