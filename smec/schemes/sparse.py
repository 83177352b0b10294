"""Schemes that skip or prune zeros of whole weights."""

from __future__ import annotations

from dataclasses import dataclass, field

from smec.ir.errors import SmecError
from smec.schemes import Scheme, register_scheme
from smec.schemes.dense import columns_of_tile
from smec.targets import Target


@register_scheme
@dataclass(frozen=True)
class RowSkip(Scheme):
    """Operation units of few rows and columns, each of which skips the rows in which it holds no one.

    Source: Sparse ReRAM Engine, Yang et al., ISCA 2019, doi 10.1145/3307650.3322271: units of 16 x 16, since reading
    more rows at once is not reliable; rows of a unit that are all zero are taken out and the others move together.
    Signs are split, because offset coding leaves no zeros. What that engine gains from zeros among the input bits
    depends on the image, and is not part of this scheme.
    """

    name = "row-skip"

    rows: int = field(default=16, metadata={"doc": "rows of an operation unit"})
    columns: int = field(default=16, metadata={"doc": "columns of an operation unit"})

    def machine(self, target: Target) -> Target:
        if not 1 <= self.rows <= target.rows:
            raise SmecError("rows of an operation unit", expected=f"1 to {target.rows}", found=self.rows)
        return replaced(target, concurrent_rows=min(self.rows, target.concurrent_rows))

    def passes(self, target: Target) -> str:
        return f"quantize-nearest{{bits=8 sign=differential}},tile{{columns={self.columns}}},compact"


@register_scheme
@dataclass(frozen=True)
class Prune(Scheme):
    """Crossbar-aware pruning of 8-bit weights: a share of each layer's rows of tiles is zero, and dropped.

    Source: PIM-Prune, Chu et al., DAC 2020, doi 10.1109/DAC18072.2020.9218523: blocks of the size that a crossbar can
    drop, with rows and columns permuted. Blocks here are what a row of a tile holds; tiles are as wide as the dense
    mapping's. ADMM chooses them label-free, without the paper's retraining.
    """

    name = "prune"

    percent: int = field(default=30, metadata={"doc": "share of zero blocks"})

    def passes(self, target: Target) -> str:
        columns = max(columns_of_tile(target, 8), 1)
        pruned = f"zero-blocks:{self.percent}:1:{columns}"
        return f"quantize-admm{{bits=8 sign=offset constraints={pruned}}},tile{{columns={columns}}},compact"


def replaced(target: Target, **values: object) -> Target:
    """The target with other values, checked anew."""
    from smec.targets import from_values

    return from_values({**target.model_dump(), **values}, target.name)
