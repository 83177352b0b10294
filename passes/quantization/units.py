"""Units: the groups of `nn` operations that become one device operation each, and the host regions between them.

The pass `partition` writes the division into the module, so that later passes and a reader of the text see it:

* every operation of the graph but constants carries `_unit`, the name of its unit, and `_kind`, what the unit becomes:
  "host" for operations of a host region, else one of `DEVICE_KINDS`;
* the operations of a unit stand next to each other in the block, the one whose result leaves a device unit last;
* constants stand first, outside all units.

The pass `calibrate` adds `_types` to operations (a type for each result) and to the graph (a type for each input): the
quantized type of values that the device holds, the unchanged type of all others.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby

from smec.ir.core import BlockArgument, Operation, OpResult, Value
from smec.ir.dialects.builtin import GraphOp
from smec.ir.dialects.nn import Constant, NNOp
from smec.ir.types import Quantized, TensorType

UNIT, KIND, TYPES = "_unit", "_kind", "_types"

HOST = "host"
#: Layers whose weights sit in crossbars.
CROSSBAR_KINDS = ("conv", "gemm")
#: What the vector unit does; those that only move data keep the levels of their input.
MOVEMENT_KINDS = ("max_pool", "concat", "pad", "slice", "transpose", "reshape")
DEVICE_KINDS = (*CROSSBAR_KINDS, "add", "mul", "affine", "prelu", "lut", "avg_pool", "levels", *MOVEMENT_KINDS)

#: Ranks that the address generators cover; see `smec.ir.isa_table`.
MAX_RANK = 5


@dataclass(eq=False)
class Unit:
    """Operations that become one device operation, or one host region.

    Attributes:
        name: unique in the graph.
        kind: "host" or one of `DEVICE_KINDS`.
        ops: in graph order. In a device unit the first is the operation that gives the kind (for a table: any) and the
            last the one whose only result leaves the unit.
    """

    name: str
    kind: str
    ops: list[NNOp] = field(default_factory=list)

    @property
    def on_device(self) -> bool:
        return self.kind != HOST

    @property
    def on_crossbars(self) -> bool:
        return self.kind in CROSSBAR_KINDS

    @property
    def result(self) -> Value:
        """What leaves a device unit."""
        return self.ops[-1].results[0]

    @property
    def inputs(self) -> list[Value]:
        """The values, constants excluded, that the unit takes from outside, each once, in order of first use."""
        inside = {r for op in self.ops for r in op.results}
        found = (v for op in self.ops for v in op.operands if v not in inside and not is_constant(v))
        return list(dict.fromkeys(found))

    @property
    def outputs(self) -> list[Value]:
        """The results that something outside the unit uses (the graph's terminator counts)."""
        inside = set(self.ops)
        return [r for op in self.ops for r in op.results if any(user not in inside for user in r.users)]


def is_constant(value: Value) -> bool:
    return isinstance(value.defining_op(), Constant)


def graph_units(graph: GraphOp) -> Iterator[Unit]:
    """The units of a partitioned graph, in order.

    Raises:
        SmecError: an operation belongs to no unit.
    """
    ops = (op for op in graph.ops if not isinstance(op, Constant))
    for name, members in groupby(ops, key=unit_name):
        unit = Unit(name, "")
        for op in members:
            if not isinstance(op, NNOp):
                raise op.error("operation cannot be part of a unit", expected="an nn operation")
            unit.ops.append(op)
        unit.kind = str(unit.ops[0].attributes.get(KIND, ""))
        yield unit


def unit_name(op: Operation) -> str:
    """The unit of an operation.

    Raises:
        SmecError: it belongs to none.
    """
    name = op.attributes.get(UNIT)
    if not isinstance(name, str) or not name:
        raise op.error("operation belongs to no unit", hint="run 'partition' first")
    return name


def on_device(value: Value) -> bool:
    """Whether a value of a partitioned graph is the result of a device unit."""
    op = value.defining_op()
    return op is not None and op.attributes.get(KIND, HOST) != HOST and not isinstance(op, Constant)


def assigned_type(value: Value, graph: GraphOp) -> TensorType:
    """The type that `calibrate` chose for a value: quantized where the device holds it."""
    holder: Operation = value.defining_op() or graph
    types = holder.attributes.get(TYPES, ())
    index = value.index if isinstance(value, (OpResult, BlockArgument)) else 0
    chosen = types[index] if isinstance(types, tuple) and index < len(types) else value.type
    return chosen if isinstance(chosen, TensorType) else value.type


def fits_device(type: TensorType) -> bool:
    """Whether the device can hold a tensor: float32 in the model, static, of rank 1 to 5, not empty."""
    return type.element == "f32" and type.is_static and 1 <= len(type.shape) <= MAX_RANK and type.size > 0


def levels_of(type: TensorType) -> Quantized | None:
    """The quantized element type; None for a tensor of real values."""
    return type.element if isinstance(type.element, Quantized) else None
