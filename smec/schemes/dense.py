"""Dense schemes: all bits of a weight in adjacent columns of one crossbar, every row and column driven.

Offset coding, as ISAAC has it (Shafiee et al., ISCA 2016: weights are stored with a bias of 2^(N-1), which is taken off
digitally). Cells hold c bits, so that a weight takes ceil(N / c) columns.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from smec.ir.errors import SmecError
from smec.schemes import Scheme, register_scheme
from smec.targets import Target


def columns_of_tile(target: Target, bits: int) -> int:
    """Weights whose `bits` fit side by side into a row of a crossbar; 0 where not one does."""
    return target.columns // -(-bits // target.cell_bits)


@dataclass(frozen=True)
class Dense(Scheme):
    """Base of the dense schemes: `bits` of a weight side by side, chosen by a `quantizer`."""

    bits: ClassVar[int] = 8
    quantizer: ClassVar[str] = "nearest"

    signs: Literal["offset", "split"] = field(
        default="offset", metadata={"doc": "offset coding, or magnitudes of N - 1 bits in two crossbars"}
    )

    def passes(self, target: Target) -> str:
        coding = f"bits={self.bits} sign=offset"
        if self.signs == "split":
            coding = f"bits={self.bits - 1} sign=differential"
        columns = columns_of_tile(target, self.bits)
        if not columns:
            raise SmecError(
                f"scheme '{self.name}' needs all bits of a weight in one crossbar",
                expected=f"{-(-self.bits // target.cell_bits)} columns or more",
                found=target.columns,
            )
        return f"quantize-{self.quantizer}{{{coding}}},tile{{columns={columns}}},compact"


@register_scheme
@dataclass(frozen=True)
class Dense16(Dense):
    """ISAAC's mapping: 16-bit weights, rounded to nearest, all bits of a weight in adjacent columns."""

    name = "dense-16"
    bits = 16


@register_scheme
@dataclass(frozen=True)
class Dense8(Dense):
    """The dense mapping with 8-bit weights, rounded to nearest."""

    name = "dense-8"


@register_scheme
@dataclass(frozen=True)
class Dense4(Dense):
    """The dense mapping with 4-bit weights chosen by ADMM: the rival of bit-level sparsity."""

    name = "dense-4"
    bits = 4
    quantizer = "admm"
