"""Spells operators on integers (QLinearConv, QGemm, ...) as DequantizeLinear, the float operator, QuantizeLinear.

That is what these operators mean (up to the rounding of their kernels), and the form that `carried` reads. Operators
that only move elements follow, where the integers that they move have just been made by a QuantizeLinear.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from smec.ir.core import AttrValue, Value
from smec.ir.dialects.builtin import GraphOp
from smec.ir.dialects.nn import Constant, NNOp
from smec.ir.types import TensorType

MICROSOFT = "com.microsoft"


@dataclass(frozen=True)
class Form:
    """How the inputs of an operator on integers are laid out.

    Attributes:
        op_type: the float operator.
        operands: index of each integer operand; its scale and zero point follow it.
        result: index of the result's scale; its zero point follows. They may be absent: the result is real then.
        bias: index of an int32 operand whose scale is the product of those of the first two operands, or -1.
    """

    op_type: str
    operands: tuple[int, ...]
    result: int
    bias: int = -1


#: By domain and operator. Sources: ONNX's operator schemas; onnxruntime's ContribOperators.md.
FORMS: dict[tuple[str, str], Form] = {
    ("", "QLinearConv"): Form("Conv", (0, 3), 6, 8),
    ("", "QLinearMatMul"): Form("MatMul", (0, 3), 6),
    (MICROSOFT, "QGemm"): Form("Gemm", (0, 3), 7, 6),
    (MICROSOFT, "QLinearAdd"): Form("Add", (0, 3), 6),
    (MICROSOFT, "QLinearMul"): Form("Mul", (0, 3), 6),
    (MICROSOFT, "QLinearSigmoid"): Form("Sigmoid", (0,), 3),
    (MICROSOFT, "QLinearLeakyRelu"): Form("LeakyRelu", (0,), 3),
    (MICROSOFT, "QLinearSoftmax"): Form("Softmax", (0,), 3),
    (MICROSOFT, "QLinearAveragePool"): Form("AveragePool", (0,), 3),
    (MICROSOFT, "QLinearGlobalAveragePool"): Form("GlobalAveragePool", (0,), 3),
}

#: Operators of ONNX's own that move elements of their first input, whatever the type.
MOVERS = frozenset(("Flatten", "MaxPool", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"))


def expand_qoperators(graph: GraphOp) -> bool:
    """Rewrite in place; return whether anything changed."""
    changed = False
    for op in list(graph.ops):
        if not isinstance(op, NNOp) or len(op.results) != 1:
            continue
        form = FORMS.get((op.domain, op.op_type))
        if op.domain == MICROSOFT and op.op_type == "QLinearConcat":
            form = Form("Concat", tuple(range(2, len(op.inputs), 3)), 0)
        if form is not None and not op.attributes.get("channels_last", 0):
            changed |= _Expansion(op).operator(form)
        elif op.op_type in MOVERS and not op.domain:
            changed |= _Expansion(op).mover()
    return changed


class _Expansion:
    """The operations that take the place of one."""

    def __init__(self, op: NNOp) -> None:
        self.op = op
        self.count = 0

    def operator(self, form: Form) -> bool:
        op = self.op
        scaled = [(op.input(i), op.input(i + 1), op.input(i + 2)) for i in form.operands]
        if any(x is None or scale is None for x, scale, _ in scaled):
            return False
        attributes = {k: v for k, v in op.attributes.items() if k not in ("domain", "channels_last", "_present")}
        if op.op_type == "QLinearSoftmax":
            attributes.pop("opset", None)
        axes = [0, self._weight_axis(form)]
        operands = [self._dequantize(*entry, axis) for entry, axis in zip(scaled, (*axes, *[0] * len(scaled)))]
        bias = op.input(form.bias) if form.bias >= 0 else None
        if bias is not None:
            scales = [op.constant_input(form.operands[k] + 1) for k in (0, 1)]
            if scales[0] is None or scales[1] is None:
                return False
            product = (scales[0].astype(np.float64) * scales[1]).astype(np.float32)
            constant = self._insert(
                Constant.of(product.reshape(-1) if product.size > 1 else product.reshape(()), op.location)
            )
            operands.append(self._dequantize(bias, constant, None, 0))
        result = op.results[0]
        real = TensorType(result.type.shape, "f32")
        made = self._emit(form.op_type, operands, real, attributes, main=True)
        scale, zero = op.input(form.result), op.input(form.result + 1)
        if scale is not None:
            made = self._quantize(made, scale, zero)
        op.replace_with([made])
        return True

    def _weight_axis(self, form: Form) -> int:
        """Axis of the outputs in the second operand."""
        transposed = form.op_type == "Conv" or bool(self.op.attributes.get("transB", 0))
        return 0 if transposed else 1

    def mover(self) -> bool:
        op = self.op
        source = op.operands[0].defining_op() if op.operands else None
        if not isinstance(source, NNOp) or source.op_type != "QuantizeLinear" or source.domain:
            return False
        scale, zero = source.input(1), source.input(2)
        if scale is None:
            return False
        real = self._dequantize(op.operands[0], scale, zero, 1)
        shape = TensorType(op.results[0].type.shape, "f32")
        made = self._emit(op.op_type, [real, *op.operands[1:]], shape, dict(op.attributes), main=True)
        op.replace_with([self._quantize(made, scale, zero)])
        return True

    def _dequantize(self, x: Value | None, scale: Value | None, zero: Value | None, axis: int) -> Value:
        if x is None or scale is None:
            raise self.op.error("operator lacks an operand or its scale")
        operands = [v for v in (x, scale, zero) if v is not None]
        attributes: dict[str, AttrValue] = {"axis": axis} if scale.type.size > 1 else {}
        return self._emit("DequantizeLinear", operands, TensorType(x.type.shape, "f32"), attributes)

    def _quantize(self, x: Value, scale: Value, zero: Value | None) -> Value:
        operands = [v for v in (x, scale, zero) if v is not None]
        return self._emit("QuantizeLinear", operands, self.op.results[0].type, {})

    def _emit(
        self,
        op_type: str,
        operands: Sequence[Value],
        type: TensorType,
        attributes: dict[str, AttrValue],
        main: bool = False,
    ) -> Value:
        location = self.op.location
        if not main:
            location = replace(location, node=f"{location.node}/{op_type}_{self.count}")
            self.count += 1
        return self._insert(NNOp.make(op_type, operands, [type], attributes, location))

    def _insert(self, made: NNOp | Constant) -> Value:
        if self.op.parent is None:
            raise self.op.error("operation is in no block")
        self.op.parent.insert_before(self.op, made)
        return made.results[0]
