"""What a user may choose for the layers of a model, and which layers that are."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn.utils import parametrize

from smec.ir.errors import SmecError
from smec.passes.constraints import ConstraintSet, Geometry, layer_constraint
from smec.passes.mapping.polarity import check_sign_rows

if TYPE_CHECKING:
    from smec.targets import Target

#: Modules whose weights sit in crossbars.
LAYERS = (nn.Conv1d, nn.Conv2d, nn.Linear)

SCALES = ("column", "tensor")


@dataclass(frozen=True)
class LayerOptions:
    """The set that a layer's integers are to be in; the words are those of `smec compile`.

    Attributes:
        pattern: set of magnitudes, see `smec.passes.patterns`.
        bits: N.
        sign: "differential", "offset", "polarized" or "twos-complement".
        squeeze: x, bit positions that squeeze-out is to free without error.
        scale: one scale a "column" (output) or one a "tensor".
        constraints: further sets, parted by "+", see `smec.passes.constraints`.
        sign_rows: g, rows of a tile that share a sign in each column, with sign "polarized".
    """

    pattern: str = "uniform"
    bits: int = 8
    sign: str = "differential"
    squeeze: int = 0
    scale: str = "column"
    constraints: str = ""
    sign_rows: int = 8

    def constraint(self, target: Target, dense: bool) -> ConstraintSet:
        """The set, on the tiles of `target`; `dense`: the layer has no groups.

        Raises:
            SmecError: an option is out of range.
        """
        if self.scale not in SCALES:
            raise SmecError("unknown granularity of scales", expected=" | ".join(SCALES), found=repr(self.scale))
        if self.sign == "polarized":
            check_sign_rows(self.sign_rows, target.rows)
        geometry = Geometry(self.bits, self.sign, target.rows, target.columns, target.cell_bits, dense)
        return layer_constraint(geometry, self.pattern, self.squeeze, self.constraints, self.sign_rows)


def choose(
    model: nn.Module, default: LayerOptions, overrides: Mapping[str, LayerOptions | None]
) -> dict[str, LayerOptions]:
    """The layers to constrain, by name, in the order of the model, and the options of each.

    `overrides`: by name of a layer, or by pattern of names as in a shell; later entries win; None leaves the layer out.

    Raises:
        SmecError: an override is for no layer; there are no layers; a layer cannot be constrained.
    """
    layers = {name: m for name, m in model.named_modules() if isinstance(m, LAYERS)}
    chosen: dict[str, LayerOptions | None] = dict.fromkeys(layers, default)
    for key, options in overrides.items():
        matching = [name for name in layers if fnmatchcase(name, key)]
        if not matching:
            close = difflib.get_close_matches(key, layers, n=3, cutoff=0.5)
            hint = f"did you mean {' or '.join(repr(c) for c in close)}?" if close else None
            expected = "the name of a Conv1d, Conv2d or Linear, or a pattern of such names"
            raise SmecError(f"no layer is called '{key}'", expected=expected, hint=hint)
        chosen |= dict.fromkeys(matching, options)
    found = {name: options for name, options in chosen.items() if options is not None}
    if not found:
        raise SmecError("the model has no layer to constrain", expected="Conv1d, Conv2d or Linear")
    owners: dict[int, str] = {}
    for name in found:
        _check(name, layers[name], owners)
    return found


def _check(name: str, layer: nn.Module, owners: dict[int, str]) -> None:
    """Refuse weights that cannot be trained on a set; `owners`: layers so far, by the identity of their weight."""
    if parametrize.is_parametrized(layer, "weight"):
        raise SmecError("weight is parametrized already", location=name, expected="a plain weight", hint="remove it")
    weight = layer.weight
    if not isinstance(weight, nn.Parameter) or isinstance(weight, nn.parameter.UninitializedParameter):
        raise SmecError("weight is no initialised parameter", location=name, found=type(weight).__name__)
    if weight.dtype != torch.float32:
        raise SmecError("weight is not float32", location=name, expected="float32", found=weight.dtype)
    if not weight.numel():
        raise SmecError("weight is empty", location=name, found=tuple(weight.shape))
    if not bool(torch.isfinite(weight).all()):
        raise SmecError("weights hold NaN or infinities", location=name, expected="finite weights")
    other = owners.setdefault(id(weight), name)
    if other != name:
        raise SmecError(f"weight is shared with layer '{other}'", location=name, hint="leave both out by overrides")
