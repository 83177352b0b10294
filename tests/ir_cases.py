"""Modules for the tests of the IR: operations of a dialect `test`, random modules, and equality of modules.

Imported by its own name, like `shared`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from hypothesis import strategies as st

from smec.ir.core import Block, Operation, Region, Value, attr, operand, region, result, tuple_attr
from smec.ir.dialects.builtin import GraphOp, ModuleOp, ReturnOp
from smec.ir.types import Handle, Location, Quantized, TensorType

F32 = TensorType((1, 4), "f32")
HERE = Location("model.onnx", "node")


class Leaf(Operation):
    """Any operands, any results, any attributes."""

    name = "test.leaf"
    xs = operand(variadic=True)
    ys = result(variadic=True)

    def interpret(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
        return [inputs[0] if inputs else np.zeros((1, *r.type.shape), r.type.dtype) for r in self.results]


class Wrap(Operation):
    """A region that sees what is around it."""

    name = "test.wrap"
    xs = operand(variadic=True)
    ys = result(variadic=True)
    body = region()


class Pair(Operation):
    """Two regions, isolated."""

    name = "test.pair"
    is_isolated = True
    xs = operand(variadic=True)
    ys = result(variadic=True)
    first = region()
    second = region()


class Add(Operation):
    """Two operands, one result, declared attributes."""

    name = "test.add"
    a = operand()
    b = operand()
    out = result()
    bits = attr(int)
    factor = attr(float, default=1.0)
    pads = tuple_attr(int, default=())
    table = attr(Handle, default=None)
    label = attr(str, default="")

    def interpret(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
        return [inputs[0] + inputs[1]]


def make_module(arg_types: list[TensorType], input_names: tuple[str, ...] = ()) -> tuple[ModuleOp, Block]:
    """A module with an empty graph of these arguments, and the graph's block."""
    block = Block(arg_types)
    names = input_names or tuple(f"x{i}" for i in range(len(arg_types)))
    attributes: dict[str, Any] = {"opset": 17, "input_names": names, "output_names": ()}
    graph = GraphOp.create(attributes=attributes, regions=[Region([block])], location=Location("model.onnx"))
    module = ModuleOp.create(regions=[Region([Block([], [graph])])], location=Location("model.onnx"))
    return module, block


def finish(block: Block, values: list[Value]) -> None:
    """End the graph of `make_module` with `values` as outputs y0, y1, ..."""
    block.append(ReturnOp.create(values, location=Location("model.onnx")))
    assert block.parent is not None and block.parent.parent is not None
    block.parent.parent.attributes["output_names"] = tuple(f"y{i}" for i in range(len(values)))


def add(block: Block, a: Value, b: Value, hint: str | None = None, **attributes: Any) -> Add:
    """Append a `test.add`."""
    op = Add.create([a, b], [a.type], {"bits": 8, **attributes}, location=HERE)
    op.out.name_hint = hint
    return block.append(op)


# -- random modules ----------------------------------------------------------------------------------------------------

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
quantized = st.builds(
    lambda bits, scale, zero: Quantized(bits, scale, zero % (1 << bits)),
    st.integers(1, 16),
    st.floats(2.0**-126, 2.0**100, width=32),
    st.integers(0, 65535),
)
elements = st.sampled_from(["f32", "f16", "f64", "bf16", "i8", "ui8", "i64", "i1", "string", "f8E5M2"]) | quantized
tensor_types = st.builds(TensorType, st.lists(st.integers(-1, 2048), max_size=5).map(tuple), elements)
arrays = st.builds(
    lambda dtype, shape, seed: (np.random.default_rng(seed).random(shape) * 200).astype(dtype),
    st.sampled_from(["float32", "float64", "float16", "int8", "uint8", "int16", "int32", "int64", "bool"]),
    st.lists(st.integers(0, 3), max_size=3),
    st.integers(0, 3),
)
handles = st.builds(Handle, arrays)
floats = st.floats(allow_nan=True, allow_infinity=True) | st.floats(width=32)
integers = st.integers() | st.integers(-(2**63), 2**63 - 1) | st.integers(-(2**130), 2**130)
scalars = st.none() | st.booleans() | integers | floats | texts | tensor_types | handles
attribute_values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(integers, max_size=4).map(tuple)
        | st.lists(floats, max_size=4).map(tuple)
        | st.lists(inner, max_size=4).map(tuple)
    ),
    max_leaves=6,
)
keys = st.sampled_from(["a", "b_c", "x.y", "loc", "unit", "é ü"]) | texts.filter(
    lambda key: key and key.isprintable() and not set('"\\') & set(key)
)
attributes = st.dictionaries(keys, attribute_values, max_size=3)
locations = st.builds(Location, texts, texts, st.integers(0, 10**6))
hints = st.none() | st.sampled_from(["x", "y", "conv1", "/layer/Conv_output_0", "12", "a-b.c", "_"]) | texts


@st.composite
def modules(draw: st.DrawFn) -> ModuleOp:
    """A valid module with nested regions and all kinds of attributes."""
    module, block = make_module(draw(st.lists(tensor_types, max_size=3)))
    visible: list[Value] = list(block.args)
    _fill(draw, block, visible, 0)
    finish(block, draw(st.lists(st.sampled_from(visible), max_size=3)) if visible else [])
    module.attributes.update(draw(attributes))
    return module


def _fill(draw: st.DrawFn, block: Block, visible: list[Value], depth: int) -> None:
    for value in block.args:
        value.name_hint = draw(hints)
    for _ in range(draw(st.integers(0, 4))):
        kinds: list[type[Operation]] = [Leaf, Leaf, Wrap, Pair] if depth < 3 else [Leaf]
        cls = draw(st.sampled_from(kinds))
        operands = draw(st.lists(st.sampled_from(visible), max_size=3)) if visible else []
        regions = [_region(draw, [] if cls.is_isolated else visible, depth + 1) for _ in cls.region_defs]
        result_types = draw(st.lists(tensor_types, max_size=3))
        op = cls.create(operands, result_types, draw(attributes), regions, location=draw(locations))
        block.append(op)
        for value in op.results:
            value.name_hint = draw(hints)
        visible.extend(op.results)


def _region(draw: st.DrawFn, visible: list[Value], depth: int) -> Region:
    made = Region()
    for _ in range(draw(st.integers(0, 2))):
        block = made.append(Block(draw(st.lists(tensor_types, max_size=2))))
        _fill(draw, block, [*visible, *block.args], depth)
    return made


# -- equality ----------------------------------------------------------------------------------------------------------


def same_value(a: Any, b: Any) -> bool:
    """Whether two attribute values are equal, kind and bits of floats included."""
    if type(a) is not type(b):
        return isinstance(a, Handle) and isinstance(b, Handle) and a == b
    if isinstance(a, tuple):
        return len(a) == len(b) and all(map(same_value, a, b))
    if isinstance(a, float):
        return (math.isnan(a) and math.isnan(b)) or (a == b and math.copysign(1, a) == math.copysign(1, b))
    return bool(a == b)


def assert_same(a: Operation, b: Operation, values: dict[Value, Value] | None = None) -> None:
    """Fail unless two operations are equal in everything, the hints of their values included."""
    values = {} if values is None else values
    assert (a.name, type(a), a.location) == (b.name, type(b), b.location)
    assert [values[v] for v in a.operands] == b.operands
    assert [r.type for r in a.results] == [r.type for r in b.results]
    assert [r.name_hint or None for r in a.results] == [r.name_hint or None for r in b.results]
    assert list(a.attributes) == list(b.attributes)
    for key in a.attributes:
        assert same_value(a.attributes[key], b.attributes[key]), (key, a.attributes[key], b.attributes[key])
    assert len(a.regions) == len(b.regions)
    for region_a, region_b in zip(a.regions, b.regions, strict=True):
        assert len(region_a.blocks) == len(region_b.blocks)
        for block_a, block_b in zip(region_a.blocks, region_b.blocks, strict=True):
            assert [v.type for v in block_a.args] == [v.type for v in block_b.args]
            assert [v.name_hint or None for v in block_a.args] == [v.name_hint or None for v in block_b.args]
            values.update(zip(block_a.args, block_b.args, strict=True))
            ops_a, ops_b = list(block_a.ops), list(block_b.ops)
            assert len(ops_a) == len(ops_b)
            for op_a, op_b in zip(ops_a, ops_b, strict=True):
                assert_same(op_a, op_b, values)
    values.update(zip(a.results, b.results, strict=True))


def read_with_xdsl(text: str) -> None:
    """Fail unless xDSL reads a text, and finds as many operations in it."""
    from xdsl.context import Context
    from xdsl.dialects.builtin import Builtin
    from xdsl.parser import Parser

    context = Context(allow_unregistered=True)
    context.load_dialect(Builtin)
    module = Parser(context, text).parse_module()
    module.verify()
    assert len(list(module.walk())) == text.count(" loc(")
