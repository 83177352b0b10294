"""The pattern rewriter: what it changes, in which order, and when it gives up."""

from __future__ import annotations

import pytest

from ir_cases import F32, HERE, Add, Leaf, Wrap, add, finish, make_module
from smec.ir.core import Block, Operation, Region, Value
from smec.ir.dialects.builtin import ModuleOp
from smec.ir.errors import SmecError
from smec.ir.printer import print_module
from smec.ir.rewriter import Pattern, Rewriter, apply_patterns, pattern
from smec.ir.verifier import verify


@pattern(Add)
def halve(op: Add, rewriter: Rewriter) -> None:
    """bits 2n -> n."""
    if op.bits % 2 == 0:
        attributes = {**op.attributes, "bits": op.bits // 2}
        rewriter.replace_op(op, Add.create(op.operands, [F32], attributes, location=op.location))


@pattern()
def erase_unused(op: Operation, rewriter: Rewriter) -> None:
    if op.results and not any(r.uses for r in op.results):
        rewriter.erase_op(op)


@pattern("test.add")
def drop_zero(op: Add, rewriter: Rewriter) -> None:
    if op.bits == 0:
        rewriter.replace_op(op, op.a)


def chain(*bits: int) -> ModuleOp:
    module, block = make_module([F32])
    value: Value = block.args[0]
    for n in bits:
        value = add(block, value, value, f"v{n}", bits=n).out
    finish(block, [value])
    return module


def bits_of(module: ModuleOp) -> list[object]:
    return [op.attributes["bits"] for op in module.graph.ops if isinstance(op, Add)]


def test_runs_to_a_fixed_point() -> None:
    module = chain(8, 3, 12)
    assert apply_patterns(module, [halve])
    verify(module)
    assert bits_of(module) == [1, 3, 3]
    assert not apply_patterns(module, [halve])


def test_what_replaces_inherits_the_name() -> None:
    module = chain(8)
    apply_patterns(module, [halve])
    assert '%v8 = "test.add"' in print_module(module)


def test_value_replaces_an_operation() -> None:
    module = chain(0, 5, 0)
    assert apply_patterns(module, [drop_zero])
    verify(module)
    assert bits_of(module) == [5]


def test_producers_are_looked_at_again() -> None:
    """Erasing the last user makes the chain before it dead, from its end to its beginning."""
    module = chain(1, 2, 3, 4)
    graph = module.graph
    graph.terminator.set_operand(0, graph.block.args[0])
    assert apply_patterns(module, [erase_unused])
    verify(module)
    assert bits_of(module) == []


def test_patterns_reach_nested_operations_and_erase_them() -> None:
    module, block = make_module([F32])
    x = block.args[0]
    inner = Block()
    add(inner, x, x, bits=4)
    wrap = block.append(Wrap.create([x], [F32], regions=[Region([inner])], location=HERE))
    finish(block, [x])
    assert apply_patterns(module, [halve])
    assert [op.attributes["bits"] for op in inner.ops] == [1]
    assert apply_patterns(module, [Pattern(Wrap, erase_unused.function)])
    verify(module)
    assert wrap.parent is None
    assert [user.name for user in x.users] == ["smec.return"]


def test_insert_notify_and_set_operand() -> None:
    module = chain(1, 2)

    @pattern(Add)
    def edit(op: Add, rewriter: Rewriter) -> None:
        if op.bits == 1 and "done" not in op.attributes:
            op.attributes["done"] = True
            rewriter.notify(op)
            before = rewriter.insert_before(op, Leaf.create([], [F32], location=op.location))
            after = rewriter.insert_after(op, Leaf.create([], [F32], location=op.location))
            rewriter.set_operand(op, 0, before.results[0])
            assert op.next is after

    assert apply_patterns(module, [edit])
    verify(module)
    assert [op.name for op in module.graph.ops] == ["test.leaf", "test.add", "test.leaf", "test.add"]


def test_order_is_deterministic_and_from_the_top() -> None:
    seen: list[object] = []

    @pattern(Add)
    def look(op: Add, rewriter: Rewriter) -> None:
        seen.append(op.bits)

    assert not apply_patterns(chain(5, 3, 9), [look])
    assert seen == [5, 3, 9]


def test_first_pattern_wins() -> None:
    module = chain(2)

    @pattern(Add)
    def to_seven(op: Add, rewriter: Rewriter) -> None:
        if op.bits != 7:
            op.bits = 7
            rewriter.notify(op)

    apply_patterns(module, [to_seven, halve])
    assert bits_of(module) == [7]


def test_patterns_that_do_not_settle() -> None:
    module = chain(1)

    @pattern(Add)
    def grow(op: Add, rewriter: Rewriter) -> None:
        op.bits += 1
        rewriter.notify(op)

    with pytest.raises(SmecError, match=r"node 'node': 'test.add': rewriting does not settle; .* was 'grow'"):
        apply_patterns(module, [grow])


def test_misuse_is_diagnosed() -> None:
    module = chain(1, 2)
    first, second = module.graph.ops
    rewriter = Rewriter()
    with pytest.raises(SmecError, match="is erased while its results are used"):
        rewriter.erase_op(first)
    with pytest.raises(SmecError, match=r"another number of values .expected 1, found 2"):
        rewriter.replace_op(first, [*second.operands])
    loose = Leaf.create([], [F32], location=HERE)
    with pytest.raises(SmecError, match="is in no block"):
        rewriter.insert_before(loose, Leaf.create([], [F32], location=HERE))
    assert not rewriter.changed
