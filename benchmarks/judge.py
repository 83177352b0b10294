"""How far the outputs of programs are from those of the float network."""

from __future__ import annotations

import numpy as np

import smec
from smec.data import load_data, ports_of_module, read_arrays
from smec.driver import import_float
from smec.ir.float_runner import FloatRunner


class Judge:
    """The float network's outputs on images, and how far a program's are from them.

    The error is squared, over the outputs' power, the mean over images taken out of that; with many outputs their mean.
    """

    def __init__(self, model: str, images: str) -> None:
        given = read_arrays(images)
        module = import_float(model, given)
        self.images = images
        self.right = FloatRunner(module).outputs(load_data(given, ports_of_module(module)).inputs)

    def __call__(self, program: smec.Program) -> tuple[float, float | None]:
        """(error, top-1 in percent or None where the images have no labels)."""
        result = program.simulate(self.images, engine="exact")
        errors = []
        for name, right in self.right.items():
            wide = right.astype(np.float64)
            difference = result.outputs[name].reshape(wide.shape) - wide
            errors.append(np.square(difference).sum() / np.square(wide - wide.mean(axis=0)).sum())
        return float(np.mean(errors)), result.top1
