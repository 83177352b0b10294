"""Operations, values, blocks and regions: the in-memory form of the IR.

The shape is MLIR's: an operation has operands, results, attributes and regions; a region holds blocks; a block holds
arguments and a list of operations. Attribute values are plain Python (`bool`, `int`, `float`, `str`, tuples of those,
`Handle`, `TensorType`), so a pass reads and writes them without wrappers. Every operation has a `Location`.

Operations are declared, not coded::

    class Lut(Operation):
        \"\"\"Table look-up.\"\"\"

        name = "quant.lut"
        x = operand()
        out = result()
        table = attr(Handle)

Blocks keep their operations in a doubly linked list, and values keep their uses in a dictionary, so that insertion,
removal and replacement take constant time: a rewrite of a large module is linear.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar, Generic, TypeVar, overload

import numpy as np

from smec.ir.errors import SmecError
from smec.ir.types import Handle, Location, TensorType

T = TypeVar("T")
OpT = TypeVar("OpT", bound="Operation")

AttrValue = bool | int | float | str | Handle | TensorType | tuple[Any, ...] | None


class Value:
    """An SSA value: the result of an operation or the argument of a block."""

    __slots__ = ("name_hint", "type", "uses")

    def __init__(self, type: TensorType, name_hint: str | None = None) -> None:
        self.type = type
        self.name_hint = name_hint
        #: (operation, operand index) pairs in order of creation.
        self.uses: dict[tuple[Operation, int], None] = {}

    @property
    def users(self) -> list[Operation]:
        """The distinct operations that use this value, in order of first use."""
        return list(dict.fromkeys(op for op, _ in self.uses))

    def replace_all_uses_with(self, other: Value) -> None:
        if other is self:
            return
        for op, index in list(self.uses):
            op.set_operand(index, other)

    def defining_op(self) -> Operation | None:
        """The operation that produces this value; None for a block argument."""
        return None


class OpResult(Value):
    __slots__ = ("index", "owner")

    def __init__(self, owner: Operation, index: int, type: TensorType) -> None:
        super().__init__(type)
        self.owner = owner
        self.index = index

    def defining_op(self) -> Operation:
        return self.owner


class BlockArgument(Value):
    __slots__ = ("index", "owner")

    def __init__(self, owner: Block, index: int, type: TensorType, name_hint: str | None = None) -> None:
        super().__init__(type, name_hint)
        self.owner = owner
        self.index = index


# -- declarations ------------------------------------------------------------------------------------------------------


class OperandDef:
    """Declares the next operand (or, if variadic, all that remain) of an operation class."""

    def __init__(self, variadic: bool = False, doc: str = "") -> None:
        self.variadic, self.doc, self.index, self.name = variadic, doc, 0, ""

    def __get__(self, op: Operation | None, owner: type) -> Any:
        if op is None:
            return self
        return tuple(op.operands[self.index :]) if self.variadic else op.operands[self.index]


class ResultDef:
    """Declares the next result of an operation class."""

    def __init__(self, variadic: bool = False, doc: str = "") -> None:
        self.variadic, self.doc, self.index, self.name = variadic, doc, 0, ""

    def __get__(self, op: Operation | None, owner: type) -> Any:
        if op is None:
            return self
        return tuple(op.results[self.index :]) if self.variadic else op.results[self.index]


class RegionDef:
    """Declares the next region of an operation class."""

    def __init__(self, doc: str = "") -> None:
        self.doc, self.index, self.name = doc, 0, ""

    def __get__(self, op: Operation | None, owner: type) -> Any:
        return self if op is None else op.regions[self.index]


_MISSING: Any = object()


class AttrDef(Generic[T]):
    """Declares an attribute: its Python type, its element type if it is a tuple, and whether it may be absent."""

    def __init__(self, kind: Any, of: type | None, default: Any, doc: str) -> None:
        self.kind, self.of, self.default, self.doc, self.name = kind, of, default, doc, ""

    @property
    def required(self) -> bool:
        return self.default is _MISSING

    @overload
    def __get__(self, op: None, owner: type) -> AttrDef[T]: ...
    @overload
    def __get__(self, op: Operation, owner: type) -> T: ...
    def __get__(self, op: Operation | None, owner: type) -> Any:
        if op is None:
            return self
        value = op.attributes.get(self.name, self.default)
        if value is _MISSING:
            raise SmecError(
                f"operation '{op.name}' lacks its attribute '{self.name}'", location=op.location, expected=self.expects
            )
        return value

    def __set__(self, op: Operation, value: T) -> None:
        op.attributes[self.name] = value  # type: ignore[assignment]  # T is one of the kinds of AttrValue

    def accepts(self, value: object) -> bool:
        """Whether `value` has the declared type (a bool is not taken for an int, an int is taken for a float)."""
        if self.kind is tuple:
            return isinstance(value, tuple) and (self.of is None or all(_is_a(v, self.of) for v in value))
        return _is_a(value, self.kind)

    @property
    def expects(self) -> str:
        if self.kind is tuple:
            return f"a tuple of {self.of.__name__}" if self.of else "a tuple"
        return str(self.kind.__name__)


def _is_a(value: object, kind: type) -> bool:
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, kind)


def operand(doc: str = "", *, variadic: bool = False) -> Any:
    """Declare an operand; a variadic one must be the last."""
    return OperandDef(variadic, doc)


def result(doc: str = "", *, variadic: bool = False) -> Any:
    """Declare a result; a variadic one must be the last."""
    return ResultDef(variadic, doc)


def region(doc: str = "") -> Any:
    """Declare a region."""
    return RegionDef(doc)


def attr(kind: type[T], *, default: Any = _MISSING, doc: str = "") -> AttrDef[T]:
    """Declare an attribute of Python type `kind` (bool, int, float, str, Handle, TensorType)."""
    return AttrDef(kind, None, default, doc)


def tuple_attr(of: type[T], *, default: Any = _MISSING, doc: str = "") -> AttrDef[tuple[T, ...]]:
    """Declare an attribute that is a tuple of `of`."""
    return AttrDef(tuple, of, default, doc)


#: Every declared operation class by its full name.
OPERATIONS: dict[str, type[Operation]] = {}

#: Class that stands for every operation `dialect.*` that is not declared one by one (`nn`: ONNX's own operators).
OPEN_DIALECTS: dict[str, type[Operation]] = {}


class Operation:
    """One operation. Make it with `create`; read operands, results, attributes and regions through its declarations."""

    name: str = ""
    operand_defs: ClassVar[tuple[OperandDef, ...]] = ()
    result_defs: ClassVar[tuple[ResultDef, ...]] = ()
    region_defs: ClassVar[tuple[RegionDef, ...]] = ()
    attribute_defs: ClassVar[dict[str, AttrDef[Any]]] = {}
    #: A terminator ends its block and nothing follows it.
    is_terminator: ClassVar[bool] = False
    #: The regions of an isolated operation see none of the values around it.
    is_isolated: ClassVar[bool] = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        operands, results, regions = list(cls.operand_defs), list(cls.result_defs), list(cls.region_defs)
        attributes = dict(cls.attribute_defs)
        for key, value in list(vars(cls).items()):
            if isinstance(value, OperandDef):
                value.name, value.index = key, len(operands)
                operands.append(value)
            elif isinstance(value, ResultDef):
                value.name, value.index = key, len(results)
                results.append(value)
            elif isinstance(value, RegionDef):
                value.name, value.index = key, len(regions)
                regions.append(value)
            elif isinstance(value, AttrDef):
                # `name` is taken by the operation's own name: the attribute "name" is declared as `label`.
                value.name = "name" if key == "label" else key
                attributes[value.name] = value
        cls.operand_defs, cls.result_defs = tuple(operands), tuple(results)
        cls.region_defs, cls.attribute_defs = tuple(regions), attributes
        if "name" in vars(cls) and isinstance(cls.name, str) and cls.name:
            OPERATIONS[cls.name] = cls

    def __init__(
        self,
        operands: Sequence[Value],
        result_types: Sequence[TensorType],
        attributes: dict[str, AttrValue],
        regions: Sequence[Region],
        location: Location,
    ) -> None:
        self.location = location
        self.attributes = attributes
        self.parent: Block | None = None
        self.prev: Operation | None = None
        self.next: Operation | None = None
        self.operands: list[Value] = list(operands)
        for i, value in enumerate(self.operands):
            value.uses[self, i] = None
        self.results: list[OpResult] = [OpResult(self, i, t) for i, t in enumerate(result_types)]
        self.regions: list[Region] = list(regions)
        for r in self.regions:
            r.parent = self

    @classmethod
    def create(
        cls: type[OpT],
        operands: Sequence[Value] = (),
        result_types: Sequence[TensorType] = (),
        attributes: dict[str, AttrValue] | None = None,
        regions: Sequence[Region] = (),
        *,
        location: Location,
    ) -> OpT:
        """Make an operation that is in no block yet."""
        return cls(operands, result_types, dict(attributes or {}), regions, location)

    # -- structure

    def set_operand(self, index: int, value: Value) -> None:
        old = self.operands[index]
        del old.uses[self, index]
        self.operands[index] = value
        value.uses[self, index] = None

    def set_operands(self, values: Sequence[Value]) -> None:
        """Replace all operands at once (their number may change)."""
        self.drop_operands()
        self.operands = list(values)
        for i, value in enumerate(self.operands):
            value.uses[self, i] = None

    def drop_operands(self) -> None:
        for i, value in enumerate(self.operands):
            value.uses.pop((self, i), None)
        self.operands = []

    def detach(self) -> None:
        """Take the operation out of its block, keeping it whole."""
        if self.parent is not None:
            self.parent.unlink(self)

    def erase(self) -> None:
        """Detach and drop the operands.

        Raises:
            ValueError: a result is still used.
        """
        if any(r.uses for r in self.results):
            raise ValueError(f"'{self.name}' is erased while its results are used")
        self.detach()
        self.drop_operands()

    def replace_with(self, values: Sequence[Value]) -> None:
        """Let `values` take the place of the results, then erase the operation."""
        for old, new in zip(self.results, values, strict=True):
            if new.name_hint is None:
                new.name_hint = old.name_hint
            old.replace_all_uses_with(new)
        self.erase()

    def parent_op(self) -> Operation | None:
        block = self.parent
        return block.parent.parent if block is not None and block.parent is not None else None

    def walk(self) -> Iterator[Operation]:
        """This operation and all that are nested in it, outermost first."""
        yield self
        for r in self.regions:
            for b in r.blocks:
                for op in b.ops:
                    yield from op.walk()

    def clone(self, mapping: dict[Value, Value] | None = None) -> Operation:
        """A deep copy. `mapping` gives new values for operands from outside, and receives those made here."""
        mapping = {} if mapping is None else mapping
        operands = [mapping.get(v, v) for v in self.operands]
        copy = type(self)(operands, [r.type for r in self.results], dict(self.attributes), [], self.location)
        if "name" in self.__dict__:
            copy.name = self.name
        for old, new in zip(self.results, copy.results, strict=True):
            new.name_hint = old.name_hint
            mapping[old] = new
        for r in self.regions:
            new_region = Region([])
            new_region.parent = copy
            copy.regions.append(new_region)
            for b in r.blocks:
                block = Block([a.type for a in b.args])
                new_region.append(block)
                for old_arg, new_arg in zip(b.args, block.args, strict=True):
                    new_arg.name_hint = old_arg.name_hint
                    mapping[old_arg] = new_arg
                for op in b.ops:
                    block.append(op.clone(mapping))
        return copy

    # -- meaning

    def verify(self) -> None:
        """Check what the declaration cannot say. Raises SmecError."""

    def interpret(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
        """The NumPy meaning of the operation; every array has the image axis first."""
        raise SmecError(f"operation '{self.name}' has no interpretation", location=self.location)

    def error(self, message: str, **details: Any) -> SmecError:
        """A SmecError at this operation."""
        error = SmecError(f"'{self.name}': {message}", location=self.location, **details)
        error.operation = self
        return error

    def __repr__(self) -> str:
        return f"<{self.name} at {self.location}>"


class BlockOps:
    """The operations of a block, in order. Removing the operation at hand while iterating is allowed."""

    __slots__ = ("_block",)

    def __init__(self, block: Block) -> None:
        self._block = block

    def __iter__(self) -> Iterator[Operation]:
        op = self._block.first
        while op is not None:
            following = op.next
            yield op
            op = following

    def __reversed__(self) -> Iterator[Operation]:
        op = self._block.last
        while op is not None:
            preceding = op.prev
            yield op
            op = preceding

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __bool__(self) -> bool:
        return self._block.first is not None

    def __getitem__(self, index: int) -> Operation:
        return list(self)[index]


class Block:
    """Arguments and a linked list of operations."""

    __slots__ = ("args", "first", "last", "parent")

    def __init__(self, arg_types: Iterable[TensorType] = (), ops: Iterable[Operation] = ()) -> None:
        self.args: list[BlockArgument] = [BlockArgument(self, i, t) for i, t in enumerate(arg_types)]
        self.first: Operation | None = None
        self.last: Operation | None = None
        self.parent: Region | None = None
        for op in ops:
            self.append(op)

    @property
    def ops(self) -> BlockOps:
        return BlockOps(self)

    def add_arg(self, type: TensorType, name_hint: str | None = None) -> BlockArgument:
        arg = BlockArgument(self, len(self.args), type, name_hint)
        self.args.append(arg)
        return arg

    def append(self, op: OpT) -> OpT:
        return self._link(op, self.last, None)

    def insert_before(self, anchor: Operation, op: OpT) -> OpT:
        return self._link(op, anchor.prev, anchor)

    def insert_after(self, anchor: Operation, op: OpT) -> OpT:
        return self._link(op, anchor, anchor.next)

    def _link(self, op: OpT, before: Operation | None, after: Operation | None) -> OpT:
        if op.parent is not None:
            raise ValueError(f"'{op.name}' is in a block already")
        op.parent, op.prev, op.next = self, before, after
        if before is None:
            self.first = op
        else:
            before.next = op
        if after is None:
            self.last = op
        else:
            after.prev = op
        return op

    def unlink(self, op: Operation) -> None:
        if op.prev is None:
            self.first = op.next
        else:
            op.prev.next = op.next
        if op.next is None:
            self.last = op.prev
        else:
            op.next.prev = op.prev
        op.parent = op.prev = op.next = None

    @property
    def terminator(self) -> Operation:
        if self.last is None or not self.last.is_terminator:
            raise SmecError("block has no terminator")
        return self.last


class Region:
    """A list of blocks that belongs to an operation."""

    __slots__ = ("blocks", "parent")

    def __init__(self, blocks: Iterable[Block] = ()) -> None:
        self.parent: Operation | None = None
        self.blocks: list[Block] = []
        for b in blocks:
            self.append(b)

    @property
    def block(self) -> Block:
        """The only block.

        Raises:
            SmecError: there is not exactly one.
        """
        if len(self.blocks) != 1:
            raise SmecError("region has not exactly one block", expected=1, found=len(self.blocks))
        return self.blocks[0]

    def append(self, block: Block) -> Block:
        block.parent = self
        self.blocks.append(block)
        return block
