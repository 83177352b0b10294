"""Batch normalisation folded into the layer in front: the weights that are trained are those of the crossbars."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx, nn

from smec.ir.errors import SmecError
from smec.train.options import LAYERS

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


def fold_batch_norm(model: nn.Module, pairs: Sequence[tuple[str, str]] | None = None) -> list[tuple[str, str]]:
    """Fold batch normalisations into the convolutions and linear layers that only they read, in place.

    With the running statistics: w' = w f and b' = (b - mean) f + beta, f = gamma / sqrt(var + eps), in float64. The
    normalisation becomes `nn.Identity` and its statistics are frozen thereby: the layer's weight and bias are what is
    trained on. A layer without a bias gets one, so make the optimizer afterwards. A linear layer must have inputs
    [B, features].

    Args:
        model: any module.
        pairs: names of a layer and of the normalisation behind it. None: found by tracing with `torch.fx`.

    Returns:
        the pairs that were folded.

    Raises:
        SmecError: the model has batch normalisations and cannot be traced; a pair does not fit together.
    """
    modules = dict(model.named_modules())
    if not any(isinstance(m, _NORMS) for m in modules.values()):
        if pairs:
            raise SmecError("the model has no batch normalisation", found=pairs)
        return []
    found = _traced_pairs(model, modules) if pairs is None else list(pairs)
    for layer_name, norm_name in found:
        layer, norm = modules.get(layer_name), modules.get(norm_name)
        if not isinstance(layer, LAYERS):
            raise SmecError(f"no layer is called '{layer_name}'", expected="Conv1d, Conv2d or Linear", found=layer)
        if not isinstance(norm, _NORMS):
            raise SmecError(f"no batch normalisation is called '{norm_name}'", found=norm)
        _fold(layer_name, layer, norm_name, norm)
        parent, _, name = norm_name.rpartition(".")
        setattr(model.get_submodule(parent), name, nn.Identity())
    return found


def _traced_pairs(model: nn.Module, modules: dict[str, nn.Module]) -> list[tuple[str, str]]:
    try:
        graph = fx.Tracer().trace(model)
    except Exception as error:
        # Whatever a model does that cannot be traced, the user can name the pairs.
        raise SmecError(
            f"the model cannot be traced to find what its batch normalisations follow: {error}",
            hint="call fold_batch_norm(model, [(layer, norm), ...]) first",
        ) from error
    calls = {node: str(node.target) for node in graph.nodes if node.op == "call_module"}
    times = Counter(calls.values())
    found = []
    for node, norm in calls.items():
        source = node.args[0] if node.args else None
        if not isinstance(modules.get(norm), _NORMS) or not isinstance(source, fx.Node):
            continue
        layer = calls.get(source, "")
        alone = len(source.users) == 1 and times[layer] == times[norm] == 1
        if alone and isinstance(modules.get(layer), LAYERS):
            found.append((layer, norm))
    return found


def _fold(layer_name: str, layer: Any, norm_name: str, norm: Any) -> None:
    outputs: int = layer.weight.shape[0]
    if norm.running_mean is None or norm.running_var is None:
        raise SmecError("batch normalisation keeps no running statistics", location=norm_name)
    if norm.num_features != outputs:
        raise SmecError(
            f"batch normalisation does not follow layer '{layer_name}'",
            location=norm_name,
            expected=f"{outputs} features",
            found=norm.num_features,
        )
    with torch.no_grad():
        factor = torch.rsqrt(norm.running_var.double() + norm.eps)
        beta = torch.zeros_like(factor)
        if norm.affine:
            factor, beta = factor * norm.weight.double(), norm.bias.double()
        bias = torch.zeros_like(factor) if layer.bias is None else layer.bias.double()
        folded = (bias - norm.running_mean.double()) * factor + beta
        along = (-1, *(1,) * (layer.weight.ndim - 1))
        layer.weight.copy_(layer.weight.double() * factor.reshape(along))
        if layer.bias is None:
            layer.bias = nn.Parameter(folded.to(layer.weight.dtype))
        else:
            layer.bias.copy_(folded)
