"""Builds device operations of the `quant` dialect from units of `nn` operations.

A value of the float graph may exist in two forms in the new graph: as real values and as levels. `Values` makes the
form that is missing where it is asked for, once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from smec.ir.core import AttrValue, Block, Operation, Value
from smec.ir.dialects import quant
from smec.ir.dialects.builtin import GraphOp
from smec.ir.dialects.nn import NNOp, graph_opsets
from smec.ir.types import Handle, Location, Quantized, TensorType
from smec.passes.quantization import specs
from smec.passes.quantization.candidates import bias_of, clamp_of
from smec.passes.quantization.carried import unit_levels
from smec.passes.quantization.chains import evaluate
from smec.passes.quantization.ranges import levels_for
from smec.passes.quantization.units import Unit, assigned_type, levels_of

F32 = np.float32
OpT = TypeVar("OpT", bound=Operation)

#: Bits of constant operands and of values that only pass between two operations of the vector unit: the rounding of
#: either then does not show in results of 8 bits, and products with 8-bit levels stay exact in float32.
WIDE_BITS = 16


class Values:
    """The values of the new graph by those of the float graph.

    Args:
        graph: partitioned and calibrated; new operations are put in front of `anchor`.
        anchor: an operation of the graph's block.
    """

    def __init__(self, graph: GraphOp, anchor: Operation) -> None:
        self.graph = graph
        self.anchor = anchor
        self.real: dict[Value, Value] = {}
        self.levels: dict[Value, Value] = {}

    @property
    def block(self) -> Block:
        return self.graph.block

    def emit(
        self,
        cls: type[OpT],
        operands: Sequence[Value],
        types: Sequence[TensorType],
        attributes: dict[str, AttrValue],
        location: Location,
        name_hint: str | None = None,
    ) -> OpT:
        """A new operation in front of the anchor."""
        op = self.block.insert_before(self.anchor, cls.create(operands, types, attributes, location=location))
        for result in op.results:
            result.name_hint = name_hint
        return op

    def get_real(self, value: Value) -> Value:
        """The real values."""
        if value not in self.real:
            source = self.levels[value]
            made = self.emit(
                quant.Dequantize, [source], [value.type], {}, _location(value, self.graph), value.name_hint
            )
            self.real[value] = made.out
        return self.real[value]

    def get_levels(self, value: Value) -> Value:
        """The levels, of the type that `calibrate` chose."""
        if value not in self.levels:
            wanted = assigned_type(value, self.graph)
            if levels_of(wanted) is None:
                raise _owner(value, self.graph).error("value has no levels", hint="run 'calibrate' first")
            source = self.real[value]
            made = self.emit(quant.Quantize, [source], [wanted], {}, _location(value, self.graph), value.name_hint)
            self.levels[value] = made.out
        return self.levels[value]

    def define(self, value: Value, made: Value) -> None:
        """`made` stands for `value`, in the form that its type says."""
        (self.real if levels_of(made.type) is None else self.levels)[value] = made


def _owner(value: Value, graph: GraphOp) -> Operation:
    return value.defining_op() or graph


def _location(value: Value, graph: GraphOp) -> Location:
    return _owner(value, graph).location


class UnitBuilder:
    """Builds the device operation of one unit after the other.

    Args:
        values: the graph under construction.
        constants: real values of constant operands, by the `nn` operation that has them (see `constant_operands`).
    """

    def __init__(self, values: Values, constants: dict[NNOp, list[Value]]) -> None:
        self.values = values
        self.constants = constants

    def build(self, unit: Unit) -> None:
        """Emit what `unit` becomes and define its result."""
        made = BUILDERS[unit.kind](self, unit)
        made.name_hint = made.name_hint or unit.result.name_hint
        self.values.define(unit.result, made)

    # -- pieces

    def _type(self, unit: Unit) -> TensorType:
        """The result's type: f32 for a layer that only the host reads."""
        return assigned_type(unit.result, self.values.graph)

    def _emit(
        self, unit: Unit, cls: type[OpT], operands: Sequence[Value], type: TensorType, **attributes: AttrValue
    ) -> Value:
        return self.values.emit(cls, operands, [type], attributes, unit.ops[0].location).results[0]

    def _reshaped(self, unit: Unit, value: Value, shape: tuple[int, ...]) -> Value:
        if value.type.shape == shape:
            return value
        return self._emit(unit, quant.Reshape, [value], TensorType(shape, value.type.element))

    def _input(self, unit: Unit) -> Value:
        return self.values.get_levels(unit.inputs[0])

    # -- layers

    def layer(self, unit: Unit) -> Value:
        core = unit.ops[0]
        spec, x, out = specs.read_layer(core), self._input(unit), self._type(unit)
        bias = spec.bias.copy()
        for op in unit.ops[1:]:
            added = bias_of(op, core)
            if added is not None:
                bias += added
        attributes: dict[str, AttrValue] = {
            "name": unit.name,
            "tensor": unit.ops[-1].tensor,
            "float_weight": Handle(spec.weight),
            "bias": Handle(bias.astype(F32)),
            **_clamp(unit),
        }
        if spec.integers is not None and spec.scales is not None and _fits_int16(spec.integers):
            # Beside the float weight: a quantize pass takes the one or the other.
            attributes |= {"weight": Handle(spec.integers.astype(np.int16)), "weight_scale": Handle(spec.scales)}
        if spec.kind == "gemm":
            return self._emit(unit, quant.Gemm, [x], out, **attributes)
        attributes |= {
            "strides": spec.strides, "pads": spec.pads, "dilations": spec.dilations, "groups": spec.groups
        }  # fmt: skip
        shape = specs.four_dims(out.shape)
        flat = self._reshaped(unit, x, specs.four_dims(x.type.shape))
        made = self._emit(unit, quant.Conv, [flat], TensorType(shape, out.element), **attributes)
        return self._reshaped(unit, made, out.shape)

    # -- elementwise

    def sum_or_product(self, unit: Unit) -> Value:
        core, cls = unit.ops[0], quant.Add if unit.kind == "add" else quant.Mul
        if core in self.constants:
            _, x, _ = specs.read_tensor_operand(core)
            operands = [self.values.get_levels(x), self._constant(unit, 0)]
        else:
            operands = [self.values.get_levels(specs.data(core, i)) for i in (0, 1)]
        return self._emit(unit, cls, operands, self._type(unit), **_clamp(unit))

    def affine(self, unit: Unit) -> Value:
        x, factor, offset = self._input(unit), self._constant(unit, 0), self._constant(unit, 1)
        low, high = _product_range(x.type.quantized, factor.type.quantized)
        between = TensorType(x.type.shape, levels_for(low, high, WIDE_BITS))
        product = self._emit(unit, quant.Mul, [x, factor], between)
        return self._emit(unit, quant.Add, [product, offset], self._type(unit), **_clamp(unit))

    def prelu(self, unit: Unit) -> Value:
        """max(x, 0) + slope min(x, 0): both parts of x are exact on levels of the same scale."""
        x, slope, shape = self._input(unit), self._constant(unit, 0), unit.result.type.shape
        q = x.type.quantized
        centred = np.arange(q.qmax + 1) - q.zero_point
        above, below = Quantized(q.bits, q.scale, 0), Quantized(q.bits, q.scale, q.qmax)
        parts = [
            self._emit(unit, quant.Lut, [x], TensorType(shape, kind), table=Handle(table.astype(np.uint16)))
            for kind, table in ((above, np.maximum(centred, 0)), (below, np.minimum(centred, 0) + q.qmax))
        ]
        low, high = _product_range(below, slope.type.quantized)
        between = TensorType(shape, levels_for(low, high, WIDE_BITS))
        product = self._emit(unit, quant.Mul, [parts[1], slope], between)
        return self._emit(unit, quant.Add, [parts[0], product], self._type(unit))

    def stated(self, unit: Unit) -> Value:
        """Levels that the model states: rounding of real values, or of other levels."""
        value, out = unit.inputs[0], self._type(unit)
        if value in self.values.levels:
            source = self.values.levels[value]
            if source.type == out:
                return source
            return self._emit(unit, quant.Rescale, [source], out)
        return self._emit(unit, quant.Quantize, [self.values.get_real(value)], out)

    def _constant(self, unit: Unit, index: int) -> Value:
        """Levels of a constant operand."""
        real = self.constants[unit.ops[0]][index]
        array = constant_operands(unit)[index]
        type = TensorType(array.shape, levels_for(float(array.min()), float(array.max()), WIDE_BITS))
        return self._emit(unit, quant.Quantize, [real], type)

    def table(self, unit: Unit) -> Value:
        x, out = self._input(unit), self._type(unit)
        q, y = x.type.quantized, out.quantized
        inputs = (np.arange(q.qmax + 1, dtype=np.int32) - q.zero_point).astype(F32) * F32(q.scale)
        function = unit.ops if unit_levels(unit.ops) is None else unit.ops[:-2]
        found = evaluate(function, unit.inputs[0], inputs, graph_opsets(self.values.graph))
        with np.errstate(all="ignore"):
            levels = np.rint(found.astype(np.float64) / y.scale) + y.zero_point
        levels = np.where(np.isnan(levels), y.zero_point, np.clip(levels, 0, y.qmax))
        return self._emit(unit, quant.Lut, [x], out, table=Handle(levels.astype(np.uint16)))

    # -- windows and movement

    def pool(self, unit: Unit) -> Value:
        spec, out = specs.read_pool(unit.ops[0]), self._type(unit)
        x = self._reshaped(unit, self._input(unit), spec.shape)
        attributes: dict[str, AttrValue] = {"kernel": spec.kernel, "strides": spec.strides, "pads": spec.pads}
        inner = TensorType(spec.out, out.element)
        if spec.kind == "max":
            made = self._emit(unit, quant.MaxPool, [x], inner, dilations=spec.dilations, **attributes)
        else:
            made = self._emit(unit, quant.AvgPool, [x], inner, count_include_pad=spec.count_include_pad, **attributes)
        return self._reshaped(unit, made, out.shape)

    def concat(self, unit: Unit) -> Value:
        core, out = unit.ops[0], self._type(unit)
        parts = []
        for index in range(len(core.inputs)):
            part = self.values.get_levels(specs.data(core, index))
            if part.type.element != out.element:
                part = self._emit(unit, quant.Rescale, [part], TensorType(part.type.shape, out.element))
            parts.append(part)
        return self._emit(unit, quant.Concat, parts, out, axis=specs.read_concat(core))

    def pad(self, unit: Unit) -> Value:
        (pads, value), out = specs.read_pad(unit.ops[0]), self._type(unit)
        q = out.quantized
        level = int(min(max(round(value / q.scale) + q.zero_point, 0), q.qmax))
        return self._emit(unit, quant.Pad, [self._input(unit)], out, pads=pads, value=level)

    def slice(self, unit: Unit) -> Value:
        starts, steps = specs.read_slice(unit.ops[0])
        return self._emit(unit, quant.Slice, [self._input(unit)], self._type(unit), starts=starts, steps=steps)

    def transpose(self, unit: Unit) -> Value:
        perm = specs.read_transpose(unit.ops[0])
        return self._emit(unit, quant.Transpose, [self._input(unit)], self._type(unit), perm=perm)

    def reshape(self, unit: Unit) -> Value:
        return self._emit(unit, quant.Reshape, [self._input(unit)], self._type(unit))


BUILDERS: dict[str, Callable[[UnitBuilder, Unit], Value]] = {
    "conv": UnitBuilder.layer,
    "gemm": UnitBuilder.layer,
    "add": UnitBuilder.sum_or_product,
    "mul": UnitBuilder.sum_or_product,
    "affine": UnitBuilder.affine,
    "prelu": UnitBuilder.prelu,
    "levels": UnitBuilder.stated,
    "lut": UnitBuilder.table,
    "max_pool": UnitBuilder.pool,
    "avg_pool": UnitBuilder.pool,
    "concat": UnitBuilder.concat,
    "pad": UnitBuilder.pad,
    "slice": UnitBuilder.slice,
    "transpose": UnitBuilder.transpose,
    "reshape": UnitBuilder.reshape,
}


def constant_operands(unit: Unit) -> list[np.ndarray]:
    """The constant tensors, f32, that a device unit's operations take beside weights; often none."""
    if unit.kind == "affine":
        return list(specs.read_affine(unit.ops[0]))
    if unit.kind == "prelu":
        return [specs.read_prelu(unit.ops[0])]
    if unit.kind in ("add", "mul") and any(unit.ops[0].constant_input(i) is not None for i in (0, 1)):
        return [specs.read_tensor_operand(unit.ops[0])[2]]
    return []


def _clamp(unit: Unit) -> dict[str, AttrValue]:
    for op in unit.ops[1:]:
        found = clamp_of(op)
        if found is not None:
            return {"clamp_min": found[0], "clamp_max": found[1]}
    return {}


def _fits_int16(integers: np.ndarray) -> bool:
    return integers.size == 0 or bool(np.abs(integers).max() < 2**15)


def _product_range(a: Quantized, b: Quantized) -> tuple[float, float]:
    """Bounds of a product of values of both types."""
    ends = [[(level - q.zero_point) * q.scale for level in (0, q.qmax)] for q in (a, b)]
    products = [x * y for x in ends[0] for y in ends[1]]
    return min(products), max(products)
