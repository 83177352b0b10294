"""Schemes that slice the bits of weights across crossbars."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from smec.schemes import Scheme, register_scheme
from smec.targets import Target


@register_scheme
@dataclass(frozen=True)
class BitSlice(Scheme):
    """Every bit of 8-bit magnitudes in a crossbar of its own, signs split, empty crossbars dropped; no squeeze-out."""

    name = "bit-slice"

    def passes(self, target: Target) -> str:
        return "quantize-nearest{bits=8 sign=differential},tile,compact"


@register_scheme
@dataclass(frozen=True)
class SmePublished(Scheme):
    """SME as published: windows of three bits chosen by ADMM, signs split, five of eight planes, leading-one shifts.

    Source: SoBS-X, IEEE TCAD 2023, doi 10.1109/tcad.2022.3172907.
    """

    name = "sme-published"

    def passes(self, target: Target) -> str:
        options = "pattern=window squeeze=3 shift=leading-one"
        return (
            f"quantize-admm{{bits=8 sign=differential {options}}},tile,squeeze-out{{depth=3 shift=leading-one}},compact"
        )


@register_scheme
@dataclass(frozen=True)
class Sme(Scheme):
    """The best that we know of: ADMM, row shifts by least error, and for each layer the depth that the outputs allow.

    Depths are chosen by `allocate`, the fewest crossbars within `max-error`. With a depth for all layers, signs are as
    it asks for: with one bit a magnitude (depth 7) split signs take two crossbars a tile and have the weights 0 and
    +-2^k, one k a row; two's complement takes as many (depth 6), with codes -2..1. From three crossbars on two's
    complement wins. docs/results.md and docs/budget.md have the measurements.
    """

    name = "sme"

    depth: int | Literal["auto"] = field(
        default="auto", metadata={"doc": "squeeze depth x of 8 bits; auto: of each layer, within max-error"}
    )
    max_error: float = field(
        default=0.03, metadata={"doc": "squared error of the network's outputs over their power, for depth auto"}
    )

    def passes(self, target: Target) -> str:
        if self.depth == "auto":
            choice = f"allocate{{max-error={self.max_error}}}"
            return f"{choice},quantize-admm{{squeeze=auto}},tile,squeeze-out,compact"
        sign = "differential" if self.depth == 7 else "twos-complement"  # see above
        weights = f"bits=8 sign={sign} squeeze={self.depth} shift=fit"
        squeeze = f"squeeze-out{{depth={self.depth} shift=fit}}," if self.depth else ""
        return f"quantize-admm{{{weights}}},tile,{squeeze}compact"
