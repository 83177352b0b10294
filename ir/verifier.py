"""Checks that a module is well formed: what every pass may rely on, and must leave behind.

1. Structure: each operation, block and region knows its parent; each use is recorded; a terminator ends its block.
2. Declaration: the operation is known, and has the operands, results, regions and attributes that it declares.
   Attributes beyond the declared ones are allowed; their values must be of an attribute's kind, and their names
   printable without escapes.
3. Dominance: a value is computed before it is used, in the same block or one around it; the regions of isolated
   operations see nothing from outside.
4. Types: quantized element types are within their ranges.
5. The operation's own `verify`.
"""

from __future__ import annotations

import math
import re
from typing import Any, NamedTuple

from smec.ir.core import OPEN_DIALECTS, OPERATIONS, AttrDef, Block, BlockArgument, Operation, Value
from smec.ir.errors import SmecError
from smec.ir.types import Handle, Location, Quantized, TensorType

#: Bounds that the parser has, too: whatever is valid can be written and read back.
MAX_REGION_DEPTH = 32
MAX_ARRAY_DEPTH = 16
MAX_RANK = 64

_element_name = re.compile(r"[A-Za-z0-9_.]+").fullmatch
_SCALARS = (bool, int, float, str, Handle, TensorType, type(None))


class _Declared(NamedTuple):
    """What a class declares, in the form that the check of one operation needs."""

    operands: int
    more_operands: bool
    results: int
    more_results: bool
    regions: int
    attributes: dict[str, tuple[AttrDef[Any], type | None, set[type]]]
    required: frozenset[str]
    has_verify: bool


def verify(root: Operation) -> None:
    """Check an operation and all it holds.

    Raises:
        SmecError: the first fault found, at the operation concerned.
    """
    checker = _Verifier()
    checker.operation(root, set())


class _Verifier:
    def __init__(self) -> None:
        self.declared: dict[type[Operation], _Declared] = {}
        self.known_names: set[tuple[type[Operation], str]] = set()
        # Types by identity: one object usually serves many values, and the module keeps it alive.
        self.good_types: set[int] = set()
        self.depth = 0

    def operation(self, op: Operation, visible: set[Value]) -> None:
        """Check `op`, whose operands must be in `visible`; its results are added to it."""
        cls = op.__class__
        if (cls, op.name) not in self.known_names:
            self.name(op)
        declared = self.declared.get(cls) or self.declaration(cls)
        if type(op.location) is not Location:
            raise SmecError(f"operation '{op.name}' has no location")
        operands, results = op.operands, op.results
        count = len(operands)
        if count != declared.operands and (count < declared.operands or not declared.more_operands):
            raise op.error(
                "wrong number of operands", expected=_count(declared.operands, declared.more_operands), found=count
            )
        count = len(results)
        if count != declared.results and (count < declared.results or not declared.more_results):
            raise op.error(
                "wrong number of results", expected=_count(declared.results, declared.more_results), found=count
            )
        for index, value in enumerate(operands):
            if value not in visible:
                raise self.not_visible(op, index, value)
            if (op, index) not in value.uses:
                raise op.error(f"operand {index} does not record this use")
        self.attributes(op, declared)
        if op.regions or declared.regions:
            self.regions(op, declared, visible)
        if declared.has_verify:
            op.verify()
        for result in results:
            if result.owner is not op:
                raise op.error(f"result {result.index} belongs to another operation")
            if id(result.type) not in self.good_types:
                self.type(result.type, op)
            if result.uses:
                self.uses(result, op)
            visible.add(result)

    def name(self, op: Operation) -> None:
        known = OPERATIONS.get(op.name) or OPEN_DIALECTS.get(op.name.partition(".")[0])
        if known is None:
            raise op.error("unknown operation")
        if not isinstance(op, known):
            raise op.error(
                "operation is not of the class declared for its name", expected=known.__name__, found=type(op).__name__
            )
        self.known_names.add((op.__class__, op.name))

    def declaration(self, cls: type[Operation]) -> _Declared:
        attributes: dict[str, tuple[AttrDef[Any], type | None, set[type]]] = {}
        for name, definition in cls.attribute_defs.items():
            items = {definition.of} if definition.kind is tuple and definition.of is not None else set()
            attributes[name] = definition, None if items else definition.kind, items
        more_operands = any(d.variadic for d in cls.operand_defs)
        more_results = any(d.variadic for d in cls.result_defs)
        declared = self.declared[cls] = _Declared(
            len(cls.operand_defs) - more_operands,
            more_operands,
            len(cls.result_defs) - more_results,
            more_results,
            len(cls.region_defs),
            attributes,
            frozenset(name for name, d in cls.attribute_defs.items() if d.required),
            cls.verify is not Operation.verify,
        )
        return declared

    def attributes(self, op: Operation, declared: _Declared) -> None:
        attributes = op.attributes
        if not declared.required <= attributes.keys():
            name = min(declared.required - attributes.keys())
            raise op.error(f"lacks its attribute '{name}'", expected=declared.attributes[name][0].expects)
        definitions = declared.attributes
        for name, value in attributes.items():
            found = definitions.get(name)
            if found is not None:
                definition, kind, items = found
                value_type = type(value)
                # The common cases first, by identity of types: `accepts` decides the rest.
                if value_type is kind or (items and isinstance(value, tuple) and items.issuperset(map(type, value))):
                    if value_type is not tuple or items:
                        continue
                elif value is None and definition.default is None:
                    continue
                elif not definition.accepts(value):
                    raise op.error(
                        f"attribute '{name}' has the wrong type", expected=definition.expects, found=_kind(value)
                    )
            elif not (name and name.isprintable()) or '"' in name or "\\" in name:
                raise op.error("attribute has an unprintable name", found=repr(name))
            if not _is_attribute(value):
                raise op.error(f"attribute '{name}' has no attribute's value", found=_kind(value))

    def regions(self, op: Operation, declared: _Declared, visible: set[Value]) -> None:
        if len(op.regions) != declared.regions:
            raise op.error("wrong number of regions", expected=declared.regions, found=len(op.regions))
        if self.depth >= MAX_REGION_DEPTH:
            raise op.error(f"regions are nested more than {MAX_REGION_DEPTH} deep")
        self.depth += 1
        for region in op.regions:
            if region.parent is not op:
                raise op.error("region belongs to another operation")
            # Values of a block are visible in that block and below, not in the blocks after it.
            for block in region.blocks:
                if block.parent is not region:
                    raise op.error("block belongs to another region")
                self.block(op, block, set() if op.is_isolated else set(visible))
        self.depth -= 1

    def block(self, owner: Operation, block: Block, visible: set[Value]) -> None:
        for index, arg in enumerate(block.args):
            if arg.owner is not block or arg.index != index:
                raise owner.error(f"block argument {index} belongs to another block or place")
            self.type(arg.type, owner)
            self.uses(arg, owner)
            visible.add(arg)
        previous: Operation | None = None
        op = block.first
        while op is not None:
            if op.parent is not block or op.prev is not previous:
                raise op.error("operation is not linked to its block")
            if previous is not None and previous.is_terminator:
                raise op.error("operation stands after the end of its block")
            self.operation(op, visible)
            previous, op = op, op.next
        if block.last is not previous:
            raise owner.error("block does not know its last operation")

    @staticmethod
    def uses(value: Value, owner: Operation) -> None:
        for user, index in value.uses:
            if index >= len(user.operands) or user.operands[index] is not value:
                raise owner.error(f"a value records a use by '{user.name}' that is not there")
            if user.parent is None:
                raise owner.error(f"a value is used by '{user.name}', which is in no block", found=user.location)

    def type(self, type: TensorType, owner: Operation) -> None:
        if id(type) in self.good_types:
            return
        if not isinstance(type, TensorType):
            raise owner.error("value has no tensor type", found=_kind(type))
        if any(d < -1 for d in type.shape):
            raise owner.error("extent is negative", expected="at least 0, or -1 if unknown", found=type)
        element = type.element
        if isinstance(element, Quantized):
            in_range = 1 <= element.bits <= 16 and 0 <= element.zero_point <= element.qmax
            if not (in_range and element.scale > 0 and math.isfinite(element.scale)):
                expected = "1 to 16 bits, a positive scale, a zero point of that many bits"
                raise owner.error("quantized type is out of range", expected=expected, found=element)
        elif not (isinstance(element, str) and _element_name(element)):
            raise owner.error("element type is no name", found=_kind(element))
        if len(type.shape) > MAX_RANK:
            raise owner.error("tensor has too many dimensions", expected=f"at most {MAX_RANK}", found=len(type.shape))
        self.good_types.add(id(type))

    @staticmethod
    def not_visible(op: Operation, index: int, value: Value) -> SmecError:
        if isinstance(value, BlockArgument):
            return op.error(f"operand {index} is an argument of a block that is not around it")
        producer = value.defining_op()
        if producer is None or producer.parent is None:
            return op.error(f"operand {index} comes from an operation that is in no block")
        what = f"'{producer.name}' ({producer.location})"
        if producer.parent is op.parent:
            return op.error(f"operand {index} is used before {what} computes it")
        return op.error(f"operand {index} is not visible here: it comes from {what}")


def _count(least: int, more: bool) -> str:
    return f"at least {least}" if more else str(least)


def _kind(value: object) -> str:
    return f"{type(value).__name__} {value!r}"[:80]


def _is_attribute(value: object, depth: int = 0) -> bool:
    if isinstance(value, tuple):
        return depth < MAX_ARRAY_DEPTH and all(_is_attribute(v, depth + 1) for v in value)
    return isinstance(value, _SCALARS)
