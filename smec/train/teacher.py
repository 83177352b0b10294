"""Distillation from the float model."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional


class Teacher(nn.Module):
    """A frozen copy of a model, as it is now, whose outputs another one learns to reproduce.

    Source: Hinton et al., arXiv 1503.02531.

    Args:
        model: any module; it is copied.
        temperature: T, by which logits are divided.
    """

    def __init__(self, model: nn.Module, temperature: float = 4.0) -> None:
        super().__init__()
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.temperature = temperature

    def forward(self, *inputs: Tensor) -> Tensor:
        """The model's logits, without gradient."""
        with torch.no_grad():
            logits: Tensor = self.model(*inputs)
        return logits

    def train(self, mode: bool = True) -> Teacher:
        """A teacher stays in evaluation mode, whatever the module that it is part of does."""
        super().train(False)
        return self

    def loss(self, logits: Tensor, *inputs: Tensor) -> Tensor:
        """T^2 KL(teacher || student), the mean over the batch, from the student's logits [B, classes] on `inputs`."""
        return divergence(logits, self(*inputs), self.temperature)


def divergence(logits: Tensor, wanted: Tensor, temperature: float = 1.0) -> Tensor:
    """T^2 KL(wanted || found) of the softmax of two sets of logits [B, classes] over T, the mean over the batch."""
    found = functional.log_softmax(logits / temperature, dim=-1)
    target = functional.log_softmax(wanted / temperature, dim=-1)
    return functional.kl_div(found, target, reduction="batchmean", log_target=True) * temperature**2
