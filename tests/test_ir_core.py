"""Operations and values, the verifier's messages, and the interpreter."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from ir_cases import F32, HERE, Add, Leaf, Pair, Wrap, add, assert_same, finish, make_module
from smec.ir.core import Block, Operation, OpResult, Region, Value
from smec.ir.dialects.builtin import HostOp, ModuleOp, ReturnOp
from smec.ir.errors import SmecError, SourceSpan
from smec.ir.interpreter import interpret, interpret_block
from smec.ir.types import Handle, Location, Quantized, TensorType
from smec.ir.verifier import verify

# -- structure ---------------------------------------------------------------------------------------------------------


def test_uses_follow_operands() -> None:
    _, block = make_module([F32, F32])
    x, y = block.args
    first = add(block, x, x)
    second = add(block, first.out, x)
    assert list(x.uses) == [(first, 0), (first, 1), (second, 1)]
    assert x.users == [first, second]
    x.replace_all_uses_with(y)
    assert not x.uses
    assert first.operands == [y, y]
    with pytest.raises(ValueError, match="results are used"):
        first.erase()
    second.erase()
    first.erase()
    assert not y.uses
    assert not block.ops


def test_block_order() -> None:
    _, block = make_module([F32])
    x = block.args[0]
    b = add(block, x, x)
    a = block.insert_before(b, Add.create([x, x], [F32], {"bits": 1}, location=HERE))
    c = block.insert_after(b, Add.create([x, x], [F32], {"bits": 3}, location=HERE))
    assert list(block.ops) == [a, b, c]
    assert list(reversed(block.ops)) == [c, b, a]
    b.detach()
    assert (list(block.ops), b.parent, len(block.ops), block.ops[1]) == ([a, c], None, 2, c)
    with pytest.raises(ValueError, match="in a block already"):
        block.append(a)


def test_replace_with_passes_the_name_on() -> None:
    _, block = make_module([F32])
    x = block.args[0]
    old, new = add(block, x, x, "conv1"), add(block, x, x)
    user = add(block, old.out, new.out)
    old.replace_with([new.out])
    assert user.operands == [new.out, new.out]
    assert new.out.name_hint == "conv1"


def test_clone_is_deep() -> None:
    module, block = make_module([F32])
    x = block.args[0]
    inner = Block([F32])
    inner.append(Leaf.create([x, inner.args[0]], [F32], {"k": 1}, location=HERE))
    wrap = block.append(Wrap.create([x], [F32], regions=[Region([inner])], location=HERE))
    finish(block, [wrap.results[0]])
    copy = module.clone()
    verify(copy)
    assert_same(module, copy)
    assert not set(module.walk()) & set(copy.walk())


def test_handles() -> None:
    a = Handle(np.arange(6, dtype=np.int16).reshape(2, 3).T)
    same = Handle(np.array([[0, 3], [1, 4], [2, 5]], dtype=">i2"))
    assert a == same
    assert hash(a) == hash(same)
    assert a.digest == same.digest
    assert a != Handle(a.array.reshape(2, 3))
    assert a != Handle(a.array.astype(np.int32))
    assert a != "a"
    with pytest.raises(ValueError, match="read-only"):
        a.array[0, 0] = 1


def test_declared_attributes() -> None:
    _, block = make_module([F32])
    op = add(block, block.args[0], block.args[0], pads=(1, 2))
    assert (op.bits, op.pads, op.factor, op.table, op.a) == (8, (1, 2), 1.0, None, block.args[0])
    op.bits = 4
    assert op.attributes["bits"] == 4
    del op.attributes["bits"]
    with pytest.raises(SmecError, match=r"'test.add' lacks its attribute 'bits' \(expected int\)"):
        _ = op.bits


def test_excerpt_of_a_span() -> None:
    span = SourceSpan.at("one\n\ttwo", 5, "f", 99)
    assert (span.line, span.column, span.text, span.length) == (2, 2, " two", 3)
    assert str(SmecError("wrong", location=span, hint="so")) == "f:2:2: wrong\n   two\n   ^^^\nhint: so"
    assert SourceSpan.at("", 7, "f") == SourceSpan("f", 1, 1, "", 1)


# -- verifier ----------------------------------------------------------------------------------------------------------


def _valid() -> tuple[ModuleOp, Block, Add, Add]:
    module, block = make_module([F32, F32])
    first = add(block, *block.args)
    second = add(block, first.out, block.args[0])
    finish(block, [second.out])
    return module, block, first, second


def _break_unknown(block: Block, first: Add, second: Add) -> None:
    first.name = "test.nope"


def _break_class(block: Block, first: Add, second: Add) -> None:
    first.name = "test.leaf"


def _break_operands(block: Block, first: Add, second: Add) -> None:
    first.set_operands([block.args[0]])


def _break_results(block: Block, first: Add, second: Add) -> None:
    first.results.append(OpResult(first, 1, F32))


def _break_required(block: Block, first: Add, second: Add) -> None:
    del first.attributes["bits"]


def _break_kind(block: Block, first: Add, second: Add) -> None:
    first.attributes["bits"] = 1.5


def _break_bool_for_int(block: Block, first: Add, second: Add) -> None:
    first.attributes["bits"] = True


def _break_items(block: Block, first: Add, second: Add) -> None:
    first.attributes["pads"] = (1, "2")


def _break_extra(block: Block, first: Add, second: Add) -> None:
    first.attributes["extra"] = [1]  # type: ignore[assignment]


def _break_key(block: Block, first: Add, second: Add) -> None:
    first.attributes['a"'] = 1


def _break_order(block: Block, first: Add, second: Add) -> None:
    first.detach()
    block.insert_after(second, first)


def _break_region_scope(block: Block, first: Add, second: Add) -> None:
    inner = Block()
    leaf = inner.append(Leaf.create([], [F32], location=HERE))
    block.insert_before(second, Wrap.create(regions=[Region([inner])], location=HERE))
    second.set_operand(0, leaf.results[0])


def _break_isolation(block: Block, first: Add, second: Add) -> None:
    inner = Block()
    inner.append(Leaf.create([first.out], location=HERE))
    block.insert_before(second, Pair.create(regions=[Region([inner]), Region()], location=HERE))


def _break_regions(block: Block, first: Add, second: Add) -> None:
    block.insert_before(second, Pair.create(regions=[Region()], location=HERE))


def _break_foreign_argument(block: Block, first: Add, second: Add) -> None:
    second.set_operand(0, Block([F32]).args[0])


def _break_erased_operand(block: Block, first: Add, second: Add) -> None:
    first.detach()
    first.drop_operands()


def _break_terminator(block: Block, first: Add, second: Add) -> None:
    block.insert_before(first, ReturnOp.create(location=HERE))


def _break_uses(block: Block, first: Add, second: Add) -> None:
    first.out.uses[first, 0] = None


def _break_missing_use(block: Block, first: Add, second: Add) -> None:
    del first.out.uses[second, 0]


def _break_dangling_user(block: Block, first: Add, second: Add) -> None:
    Leaf.create([first.out], location=HERE)


def _break_owner(block: Block, first: Add, second: Add) -> None:
    first.results[0], second.results[0] = second.results[0], first.results[0]


def _break_link(block: Block, first: Add, second: Add) -> None:
    second.prev = None


def _break_quantized(block: Block, first: Add, second: Add) -> None:
    first.out.type = TensorType((1, 4), Quantized(8, 1.0, 256))


def _break_extent(block: Block, first: Add, second: Add) -> None:
    first.out.type = TensorType((1, -4))


def _break_type(block: Block, first: Add, second: Add) -> None:
    first.out.type = "f32"  # type: ignore[assignment]


def _break_element(block: Block, first: Add, second: Add) -> None:
    first.out.type = TensorType((1,), "f 32")


def _break_location(block: Block, first: Add, second: Add) -> None:
    first.location = "model.onnx"  # type: ignore[assignment]


def _break_depth(block: Block, first: Add, second: Add) -> None:
    inner = block
    for _ in range(33):
        wrap = Wrap.create(regions=[Region([Block()])], location=HERE)
        inner.insert_before(inner.first, wrap) if inner.first is not None else inner.append(wrap)
        inner = wrap.regions[0].block


def _break_graph(block: Block, first: Add, second: Add) -> None:
    assert block.last is not None
    block.last.erase()


def _break_output_names(block: Block, first: Add, second: Add) -> None:
    assert block.parent is not None and block.parent.parent is not None
    block.parent.parent.attributes["output_names"] = ("a", "b")


def _break_host(block: Block, first: Add, second: Add) -> None:
    inner = Block([TensorType((2,))])
    inner.append(ReturnOp.create([inner.args[0]], location=HERE))
    host = HostOp.create([first.out], [F32], {"name": "h"}, [Region([inner])], location=HERE)
    block.insert_before(second, host)


BREAKS: dict[Callable[[Block, Add, Add], None], str] = {
    _break_unknown: "'test.nope': unknown operation",
    _break_class: "not of the class declared for its name .expected Leaf, found Add",
    _break_operands: "'test.add': wrong number of operands .expected 2, found 1",
    _break_results: "wrong number of results .expected 1, found 2",
    _break_required: "lacks its attribute 'bits' .expected int",
    _break_kind: "attribute 'bits' has the wrong type .expected int, found float 1.5",
    _break_bool_for_int: "attribute 'bits' has the wrong type .expected int, found bool True",
    _break_items: "attribute 'pads' has the wrong type .expected a tuple of int",
    _break_extra: "attribute 'extra' has no attribute's value .found list",
    _break_key: "attribute has an unprintable name",
    _break_order: r"operand 0 is used before 'test.add' \(model.onnx: node 'node'\) computes it",
    _break_region_scope: "operand 0 is not visible here: it comes from 'test.leaf'",
    _break_isolation: "operand 0 is not visible here: it comes from 'test.add'",
    _break_regions: "wrong number of regions .expected 2, found 1",
    _break_foreign_argument: "operand 0 is an argument of a block that is not around it",
    _break_erased_operand: "operand 0 comes from an operation that is in no block",
    _break_terminator: "operation stands after the end of its block",
    _break_uses: "records a use by 'test.add' that is not there",
    _break_missing_use: "operand 0 does not record this use",
    _break_dangling_user: "used by 'test.leaf', which is in no block",
    _break_owner: "result 0 belongs to another operation",
    _break_link: "operation is not linked to its block",
    _break_quantized: "quantized type is out of range",
    _break_extent: "extent is negative",
    _break_type: "value has no tensor type",
    _break_element: "element type is no name",
    _break_location: "'test.add' has no location",
    _break_depth: "regions are nested more than 32 deep",
    _break_graph: "region is not one block that ends in 'smec.return'",
    _break_output_names: "number of output names differs from the outputs .expected 1, found 2",
    _break_host: "types of the region's inputs differ",
}


@pytest.mark.parametrize("damage", BREAKS, ids=lambda f: f.__name__[7:])
def test_verifier_finds(damage: Callable[[Block, Add, Add], None]) -> None:
    module, block, first, second = _valid()
    verify(module)
    damage(block, first, second)
    with pytest.raises(SmecError, match=BREAKS[damage]):
        verify(module)


def test_none_is_an_absent_attribute_and_int_a_float() -> None:
    module, _, first, _ = _valid()
    first.attributes.update(table=None, factor=2)
    verify(module)


def test_blocks_see_what_is_around_them_only() -> None:
    module, block, first, second = _valid()
    blocks = [Block(), Block()]
    leaf = blocks[0].append(Leaf.create([first.out], [F32], location=HERE))
    blocks[1].append(Leaf.create([leaf.results[0]], location=HERE))
    block.insert_before(second, Wrap.create(regions=[Region(blocks)], location=HERE))
    with pytest.raises(SmecError, match="is not visible here"):
        verify(module)


# -- interpreter -------------------------------------------------------------------------------------------------------


def test_interpret() -> None:
    module, _, first, second = _valid()
    x0, x1 = np.ones((3, 1, 4), np.float32), np.full((3, 1, 4), 2, np.float32)
    seen: list[tuple[Operation, float]] = []
    out = interpret(module, {"x0": x0, "x1": x1}, lambda op, arrays: seen.append((op, float(arrays[0].flat[0]))))
    assert list(out) == ["y0"]
    np.testing.assert_array_equal(out["y0"], np.full((3, 1, 4), 4, np.float32))
    assert seen == [(first, 3.0), (second, 4.0)]


def test_arrays_are_dropped_after_last_use() -> None:
    module, block = make_module([F32])
    value: Value = block.args[0]
    for _ in range(5):
        value = add(block, value, value).out
    finish(block, [value])
    made: list[weakref.ref[Any]] = []
    alive: list[int] = []

    def tap(_: Operation, arrays: list[np.ndarray]) -> None:
        made.append(weakref.ref(arrays[0]))
        alive.append(sum(ref() is not None for ref in made))

    interpret(module, {"x0": np.ones((1, 1, 4), np.float32)}, tap)
    assert alive == [1, 1, 1, 1, 1]


def test_operations_without_operands_get_the_image_axis() -> None:
    module, block = make_module([F32])
    zero = block.append(Leaf.create([], [F32], location=HERE))
    total = add(block, block.args[0], zero.results[0])
    finish(block, [total.out, zero.results[0]])
    out = interpret(module, {"x0": np.ones((5, 1, 4), np.float32)})
    assert out["y1"].shape == (5, 1, 4)
    np.testing.assert_array_equal(out["y0"], 1)


def test_host_regions_are_interpreted() -> None:
    inner = Block([F32])
    doubled = add(inner, inner.args[0], inner.args[0])
    inner.append(ReturnOp.create([doubled.out], location=HERE))
    module, block = make_module([F32])
    host = HostOp.create([block.args[0]], [F32], {"name": "h"}, [Region([inner])], location=HERE)
    finish(block, [block.append(host).results[0]])
    verify(module)
    out = interpret(module, {"x0": np.ones((2, 1, 4), np.float32)})
    np.testing.assert_array_equal(out["y0"], 2)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"x0": np.ones((3, 1, 4), np.float32)}, "no array for input 'x1'"),
        ({"x0": np.ones((3, 1, 4), np.float32), "z": np.ones(1)}, "graph has no input 'z' .expected one of x0, x1"),
        (
            {"x0": np.ones((3, 4), np.float32), "x1": np.ones((3, 1, 4), np.float32)},
            r"'smec.graph': input 0 does not fit its type .expected 3 images of tensor<1x4xf32>, found float32 \[3, ",
        ),
        ({"x0": np.ones((3, 1, 4)), "x1": np.ones((3, 1, 4), np.float32)}, "input 0 does not fit.*found float64"),
        (
            {"x0": np.ones((2, 1, 4), np.float32), "x1": np.ones((3, 1, 4), np.float32)},
            "input 0 does not fit.*expected 3 images",
        ),
    ],
)
def test_wrong_inputs(inputs: dict[str, np.ndarray], message: str) -> None:
    module, *_ = _valid()
    with pytest.raises(SmecError, match=message):
        interpret(module, inputs)


class _Misfit(Operation):
    """Returns what its attribute says, not what its type says."""

    name = "test.misfit"

    def interpret(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
        if self.attributes["what"] == "fail":
            return [np.ones(2) @ np.ones(3)]
        return [np.ones((1, 2), np.float32)] * int(self.attributes["what"] == "shape")


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("shape", "'test.misfit': result 0 does not fit its type"),
        ("count", "wrong number of results .expected 1, found 0"),
        ("fail", "model.onnx: node 'node': 'test.misfit': cannot be computed: .*mismatch"),
    ],
)
def test_wrong_results(what: str, message: str) -> None:
    block = Block()
    block.append(_Misfit.create([], [F32], {"what": what}, location=HERE))
    block.append(ReturnOp.create(location=Location("f")))
    with pytest.raises(SmecError, match=message):
        interpret_block(block, [])


def test_block_faults() -> None:
    with pytest.raises(SmecError, match="block has no terminator"):
        interpret_block(Block(), [])
    with pytest.raises(SmecError, match=r"wrong number of inputs .expected 1, found 0"):
        interpret_block(Block([F32]), [])
    outside = Block([F32])
    block = Block()
    add(block, outside.args[0], outside.args[0])
    with pytest.raises(SmecError, match="operand is not computed before it is used"):
        interpret_block(block, [])
