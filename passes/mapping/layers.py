"""What the mapping passes read from the module and the context."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from smec.ir.dialects.builtin import ModuleOp
from smec.ir.dialects.quant import WeightedOp
from smec.ir.dialects.xbar import MvmOp, code_offset
from smec.ir.errors import SmecError
from smec.passes.base import PassContext
from smec.passes.mapping.tiling import Tiles


class Hardware(Protocol):
    """The fields of a target that mapping depends on."""

    @property
    def rows(self) -> int: ...
    @property
    def columns(self) -> int: ...
    @property
    def cell_bits(self) -> int: ...
    @property
    def dac_bits(self) -> int: ...
    @property
    def adc_bits(self) -> int: ...
    @property
    def concurrent_rows(self) -> int: ...
    @property
    def crossbars_per_core(self) -> int: ...


def hardware(context: PassContext, name: str) -> Hardware:
    """The target.

    Raises:
        SmecError: the context has none.
    """
    if context.target is None:
        raise SmecError(f"pass '{name}' needs a target", hint="name one with --target")
    target: Hardware = context.target
    return target


def crossbar_layers(module: ModuleOp) -> list[MvmOp]:
    """The layers that are on crossbars, in the order of the graph."""
    return [op for op in module.graph.ops if isinstance(op, MvmOp)]


def array(op: MvmOp, name: str, pass_name: str) -> np.ndarray:
    """The array of an attribute that an earlier pass makes.

    Raises:
        SmecError: the attribute is absent.
    """
    handle: Any = op.attributes.get(name)
    if handle is None:
        raise op.error(f"layer '{op.label}' has no '{name}' yet", hint=f"run {pass_name} first")
    value: np.ndarray = handle.array
    return value


def tiles_of(op: MvmOp) -> Tiles:
    """The layer's tiles."""
    return Tiles(op.rows.array, op.cols.array, op.codes.array, op.shifts.array)


def offset_of(op: MvmOp) -> int:
    """What the layer's codes have added."""
    return code_offset(op.sign, op.bits)


def sign_block(op: MvmOp) -> int:
    """g, the rows of a sign block; 0 where the sign scheme has none."""
    return op.sign_rows if op.sign == "polarized" else 0


def groups_of(op: WeightedOp) -> int:
    """Groups of a convolution; 1 for a matrix product."""
    groups = op.attributes.get("groups", 1)
    return groups if isinstance(groups, int) else 1


def block_shape(op: MvmOp) -> tuple[int, int, int]:
    """(g, K, M): number of groups, rows and columns of one group's weight matrix."""
    weight = op.integers()
    groups = groups_of(op)
    return groups, int(np.prod(weight.shape[1:])), weight.shape[0] // groups


def extent(index: np.ndarray) -> np.ndarray:
    """Last used index + 1 of each tile, int64 [T]: what the tile takes of a physical crossbar."""
    used = index >= 0
    last = used.shape[1] - np.argmax(used[:, ::-1], axis=1)
    beyond: np.ndarray = np.where(used.any(axis=1), last, 0).astype(np.int64)
    return beyond
