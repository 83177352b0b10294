"""Applies local patterns until none changes anything more.

A pattern is a function on one operation; it changes the module through the `Rewriter` only::

    @pattern(Add)
    def add_of_zero(op: Add, rewriter: Rewriter) -> None:
        if is_zero(op.b):
            rewriter.replace_op(op, op.a)

The worklist holds what a change may have made applicable: new and changed operations, the users of their results, and
whoever computes operands that lost a use. Its order depends on the module alone, so that results are reproducible.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from smec.ir.core import Operation, Value

OpT = TypeVar("OpT", bound=Operation)
Function = Callable[[Any, "Rewriter"], None]


@dataclass(frozen=True)
class Pattern:
    """A rewrite function and what it applies to: an operation class, a full operation name, or None for everything."""

    target: type[Operation] | str | None
    function: Function

    def matches(self, op: Operation) -> bool:
        """Whether `op` is of the kind that the pattern asks for."""
        if isinstance(self.target, str):
            return op.name == self.target
        return self.target is None or isinstance(op, self.target)

    @property
    def name(self) -> str:
        return getattr(self.function, "__name__", repr(self.function))

    def __call__(self, op: Operation, rewriter: Rewriter) -> None:
        self.function(op, rewriter)


def pattern(target: type[Operation] | str | None = None) -> Callable[[Function], Pattern]:
    """Decorator: make a function (op, rewriter) -> None a pattern on operations of a class or name."""
    return lambda function: Pattern(target, function)


class Rewriter:
    """Changes a module on behalf of patterns, and keeps the worklist."""

    def __init__(self) -> None:
        self._stack: list[Operation] = []
        self._queued: set[Operation] = set()
        #: Number of changes so far.
        self.changes = 0

    @property
    def changed(self) -> bool:
        """Whether anything was changed."""
        return self.changes > 0

    # -- changes

    def replace_op(self, op: Operation, new: Operation | Value | Sequence[Value]) -> None:
        """Let `new` take the place of `op`, which is erased.

        An operation that is in no block yet is inserted before `op`. Values stand for the results of `op`, one each.
        """
        if isinstance(new, Operation):
            if new.parent is None:
                self.insert_before(op, new)
            values: Sequence[Value] = new.results
        else:
            values = [new] if isinstance(new, Value) else new
        if len(values) != len(op.results):
            raise op.error("is replaced by another number of values", expected=len(op.results), found=len(values))
        for old, value in zip(op.results, values, strict=True):
            self.replace_value(old, value)
        self.erase_op(op)

    def replace_value(self, old: Value, new: Value) -> None:
        """Let `new` take the place of `old` in all its uses (and bear its name, if it has none)."""
        if new is old:
            return
        if new.name_hint is None:
            new.name_hint = old.name_hint
        self.changes += 1
        for user, index in list(old.uses):
            user.set_operand(index, new)
            self.enqueue(user)

    def erase_op(self, op: Operation) -> None:
        """Erase an operation with all it holds.

        Raises:
            SmecError: a result is still used.
        """
        for result in op.results:
            if result.uses:
                raise op.error("is erased while its results are used", found=f"{len(result.uses)} uses")
        self.changes += 1
        for value in op.operands:
            producer = value.defining_op()
            if producer is not None:
                self.enqueue(producer)
        op.detach()
        if op.regions:
            for nested in op.walk():
                nested.drop_operands()
                self._queued.discard(nested)
        else:
            op.drop_operands()
            self._queued.discard(op)

    def insert_before(self, anchor: Operation, op: OpT) -> OpT:
        """Insert a new operation before `anchor`; returns it."""
        return self._inserted(anchor, op, after=False)

    def insert_after(self, anchor: Operation, op: OpT) -> OpT:
        """Insert a new operation after `anchor`; returns it."""
        return self._inserted(anchor, op, after=True)

    def _inserted(self, anchor: Operation, op: OpT, *, after: bool) -> OpT:
        block = anchor.parent
        if block is None:
            raise anchor.error("is in no block, so that nothing can be inserted beside it")
        if after:
            block.insert_after(anchor, op)
        else:
            block.insert_before(anchor, op)
        self.changes += 1
        for inner in op.walk():
            self.enqueue(inner)
        return op

    def set_operand(self, op: Operation, index: int, value: Value) -> None:
        """Change one operand."""
        producer = op.operands[index].defining_op()
        op.set_operand(index, value)
        if producer is not None:
            self.enqueue(producer)
        self.notify(op)

    def notify(self, op: Operation) -> None:
        """Say that `op` was changed in place (its attributes, or the types of its results)."""
        self.changes += 1
        self.enqueue(op)
        for result in op.results:
            for user, _ in result.uses:
                self.enqueue(user)

    # -- worklist

    def enqueue(self, op: Operation) -> None:
        """Have the patterns look at `op` (again)."""
        if op not in self._queued:
            self._queued.add(op)
            self._stack.append(op)

    def take(self) -> Operation | None:
        """The next operation to look at; None when there is none."""
        stack, queued = self._stack, self._queued
        while stack:
            op = stack.pop()
            if op in queued:
                queued.discard(op)
                return op
        return None


def apply_patterns(root: Operation, patterns: Iterable[Pattern], *, max_changes: int | None = None) -> bool:
    """Apply patterns to all operations inside `root` until none changes anything; returns whether anything changed.

    Args:
        root: the operation around all others (it is not rewritten itself).
        patterns: tried in this order on each operation.
        max_changes: bound on the number of changes; by default 64 for each operation at the start, and 1000.

    Raises:
        SmecError: the bound is reached: the patterns undo one another, or grow the module for ever.
    """
    patterns = tuple(patterns)
    rewriter = Rewriter()
    ops = list(root.walk())[1:]
    for op in reversed(ops):
        rewriter.enqueue(op)
    limit = 64 * len(ops) + 1000 if max_changes is None else max_changes
    by_kind: dict[tuple[type[Operation], str], tuple[Pattern, ...]] = {}
    while (op_or_none := rewriter.take()) is not None:
        op = op_or_none
        kind = (op.__class__, op.name)
        candidates = by_kind.get(kind)
        if candidates is None:
            candidates = by_kind[kind] = tuple(p for p in patterns if p.matches(op))
        for candidate in candidates:
            before = rewriter.changes
            candidate.function(op, rewriter)
            if rewriter.changes == before:
                continue
            if rewriter.changes > limit:
                raise op.error(
                    f"rewriting does not settle; the last pattern was '{candidate.name}'",
                    expected=f"at most {limit} changes",
                )
            if op.parent is not None:
                rewriter.enqueue(op)  # the patterns before this one may apply now
            break
    return rewriter.changed
