"""Fake quantization of activations: the rounding of the device's levels, in the training loop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from smec.ir.errors import SmecError


class FakeActivations:
    """Rounds the inputs of layers to levels of `bits` bits, with straight-through gradients, until `remove`.

    Ranges are an exponential average of the batches' extremes, 0 included; they move in training mode only. They are
    not exported: `smec compile` calibrates its own. To resume, use `state_dict` and `load_state_dict`.

    Args:
        model: the model that the layers are in.
        names: of its layers, as `Admm.layers` has them.
        bits: A.
        momentum: share of a new batch in the ranges.

    Raises:
        SmecError: `bits` is out of range.
    """

    def __init__(self, model: nn.Module, names: Sequence[str], bits: int = 8, momentum: float = 0.05) -> None:
        if not 1 <= bits <= 16:
            raise SmecError("activation bits out of range", expected="1 to 16", found=bits)
        self.last = (1 << bits) - 1
        self.momentum = momentum
        self.ranges: dict[str, Tensor] = {}
        self._hooks = [model.get_submodule(name).register_forward_pre_hook(self._hook(name)) for name in names]

    def _hook(self, name: str) -> Any:
        def rounded(layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            x, *rest = inputs
            return (self._rounded(name, x, layer.training), *rest)

        return rounded

    def _rounded(self, name: str, x: Tensor, training: bool) -> Tensor:
        with torch.no_grad():
            if training or name not in self.ranges:
                low, high = torch.aminmax(x.detach())
                seen = torch.stack([low.clamp(max=0), high.clamp(min=0)])
                known = self.ranges.get(name)
                self.ranges[name] = seen if known is None else torch.lerp(known.to(seen), seen, self.momentum)
            low, high = self.ranges[name].to(x.device)
            step = ((high - low) / self.last).clamp(min=torch.finfo(x.dtype).tiny)
            zero = torch.round(-low / step)
            levels = (torch.round(x / step) + zero).clamp(0, self.last)
            held = (levels - zero) * step
        return x + (held - x).detach()

    def remove(self) -> None:
        """Let the layers compute with real inputs again."""
        for hook in self._hooks:
            hook.remove()

    def state_dict(self) -> dict[str, Any]:
        return {"ranges": {name: value.cpu().clone() for name, value in self.ranges.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.ranges = {name: value.clone() for name, value in state["ranges"].items()}
