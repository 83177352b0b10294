"""What host operators cost: floating-point operations, from which the timing model's roofline follows.

smec knows the operators that multiply and accumulate, and those that only move data; any other counts one operation
for each element of its largest operand or result. Where that is not what your processor does, a cost model says so. It
is a frozen dataclass that is called after the operator; in a plug-in file or in a package (entry-point group
`smec.host_costs`)::

    @register_host_cost
    @dataclass(frozen=True)
    class Softmax(HostCost):
        \"\"\"Maximum, difference, exponential, sum and quotient.\"\"\"

        name = "Softmax"
        exponential: int = 8

        def flops(self, op: NNOp) -> int:
            return (4 + self.exponential) * op.results[0].type.size

The count is part of the program: simulating it needs no plug-in.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, TypeVar

from smec.ir.core import Operation
from smec.ir.dialects.nn import NNOp
from smec.ir.errors import SmecError
from smec.passes.base import origin
from smec.passes.registry import Registry

#: Name of the entry-point group by which other packages offer cost models.
ENTRY_POINT_GROUP = "smec.host_costs"

#: Operators whose multiply-accumulates are counted: all that ONNX has with a reduction of products.
_CONVOLUTIONS = {"Conv", "ConvInteger", "QLinearConv"}
_PRODUCTS = {"MatMul", "Gemm", "MatMulInteger", "QLinearMatMul"}
#: Recurrent operators: W is [directions, gates x hidden, inputs], R [directions, gates x hidden, hidden].
_RECURRENT = {"RNN", "GRU", "LSTM"}

#: Operators that compute nothing: they move data, or tell what is known; or hold others, which count themselves.
_FREE = frozenset(
    {
        *("Cast", "CastLike", "Concat", "ConcatFromSequence", "Constant", "ConstantOfShape", "DepthToSpace", "Dropout"),
        *("Expand", "Flatten", "Gather", "GatherElements", "GatherND", "Identity", "If", "Loop", "Pad", "Reshape"),
        *("ReverseSequence", "Scan", "ScatterElements", "ScatterND", "SequenceAt", "SequenceConstruct", "Shape"),
        *("Size", "Slice", "SpaceToDepth", "Split", "SplitToSequence", "Squeeze", "Tile", "Transpose", "Unsqueeze"),
    }
)

#: Counts are below this: JSON readers other than Python's keep integers exact up to here.
_MOST = 1 << 53

CostT = TypeVar("CostT", bound="type[HostCost]")


@dataclass(frozen=True)
class HostCost:
    """The cost model of one operator.

    Attributes:
        name: ONNX's operator name; for operators of another domain the domain before it, `com.microsoft.Gelu`.
    """

    name: ClassVar[str] = ""

    def flops(self, op: NNOp) -> int:
        """Floating-point operations of one run of the operator, on an image.

        Args:
            op: shapes are `op.operands[i].type.shape` and `op.results[i].type.shape` (-1 for extents that are not known
                before the run, see `type.is_static`), attributes `op.attributes`.
        """
        raise NotImplementedError  # each model defines it


REGISTRY = Registry(
    "host cost model", HostCost, ENTRY_POINT_GROUP, is_name=lambda name: all(map(str.isidentifier, name.split(".")))
)

#: Classes that have been imported, by name.
HOST_COSTS = REGISTRY.known


def register_host_cost(cls: CostT) -> CostT:
    """Class decorator: make a cost model known, in place of what smec assumes of the operator.

    Raises:
        SmecError: the class is no frozen dataclass with a name, or another one has that name.
    """
    REGISTRY.register(cls)
    return cls


def flops_of(op: Operation) -> int:
    """Floating-point operations an image of a host operator.

    Raises:
        SmecError: a cost model fails, or what it returns is no count.
    """
    if not isinstance(op, NNOp):
        return 0
    name = f"{op.domain}.{op.op_type}" if op.domain else op.op_type
    if name in HOST_COSTS or name in REGISTRY.offered():
        return _modelled(REGISTRY.find(name), op)
    macs = macs_of(op)
    if macs or op.op_type in _FREE:
        return 2 * macs
    return max((v.type.size for v in (*op.operands, *op.results) if v.type.is_static), default=0)


def _modelled(cls: type[HostCost], op: NNOp) -> int:
    file = origin(cls)
    who = f"host cost model '{cls.name}'" + (f" (plug-in {file})" if file else "")
    try:
        count = cls().flops(op)
    except SmecError:
        raise
    except Exception as error:
        # A plug-in's own code: whatever it raises, its name belongs into the message.
        raise op.error(f"{who} fails: {type(error).__name__}: {error}") from error
    if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count < _MOST:
        raise op.error(f"{who} returns no count", expected="an int of 0 or more", found=repr(count))
    return count


def macs_of(op: Operation) -> int:
    """Multiply-accumulates an image of a host operator; 0 where its shapes are not static."""
    kind = op.name.removeprefix("nn.")
    if not op.results or not op.results[0].type.is_static:
        return 0
    out = op.results[0].type
    if kind in _CONVOLUTIONS and op.operands[1].type.is_static:
        return out.size * math.prod(op.operands[1].type.shape[1:])
    if kind == "ConvTranspose" and op.operands[0].type.is_static:
        return op.operands[0].type.size * math.prod(op.operands[1].type.shape[1:])
    if kind in _PRODUCTS and op.operands[0].type.is_static:
        transposed = kind == "Gemm" and bool(op.attributes.get("transA", 0))
        return out.size * op.operands[0].type.shape[0 if transposed else -1]
    if kind in _RECURRENT and all(v.type.is_static for v in op.operands[:3]):
        x, w, r = (v.type for v in op.operands[:3])
        return x.shape[0] * x.shape[1] * (w.size + r.size)
    return 0
