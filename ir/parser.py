"""Reads the text that `smec.ir.printer` writes (and what people write like it).

Parsing has two steps. Lark (LALR, contextual lexer, inline transformer) turns the text into nested tuples, bottom up
and without recursion; `_Builder` then makes the operations in order, since a value's name means something only where
it is visible. Text from anywhere is safe to read: nothing is evaluated, and nesting, numbers and sizes are bounded.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, cast

import lark
import numpy as np

from smec.ir.core import OPEN_DIALECTS, OPERATIONS, Block, Operation, Region, Value
from smec.ir.dialects.builtin import ModuleOp
from smec.ir.errors import SmecError, SourceSpan
from smec.ir.parser_atoms import AtomError, parse_atom, parse_place, parse_signature, parse_type, unescape_hint, unquote
from smec.ir.store import UnloadedHandle
from smec.ir.types import Handle, Location, TensorType
from smec.ir.verifier import MAX_ARRAY_DEPTH, MAX_REGION_DEPTH

#: Longest text, in characters.
MAX_TEXT = 1 << 28

#: Dialects that are imported when a text first names them.
DIALECTS = ("nn", "quant", "xbar", "isa")

#: What the terminals of the grammar are called in messages.
_READABLE = {
    "RESULTS": "'%result ='",
    "VALUES": "operands",
    "NAME": "an operation name in quotes",
    "SIGNATURE": "': (operand types) -> result types'",
    "LOCATION": "a location",
    "LABEL": "a block label",
    "KEY": "'attribute ='",
    "FLAG": "an attribute name",
    "STRING": "a string",
    "NUMBER": "a number",
    "WORD": "true, false or unit",
    "TYPE": "a tensor type",
    "DENSE": "'array<...>'",
    "HANDLE": "a handle",
    "ALIAS": "an alias",
    "OPEN": "'['",
    "LPAR": "'('",
    "RPAR": "')'",
    "LBRACE": "'{'",
    "RBRACE": "'}'",
    "RSQB": "']'",
    "COMMA": "','",
    "$END": "the end of the text",
    "<END-OF-FILE>": "the end of the text",
}

_value_name = re.compile(r"%[A-Za-z0-9_$.\-]+")
_block_arg = re.compile(r"\s*(%[A-Za-z0-9_$.\-]+)\s*:\s*(tensor<[^<>]*(?:<[^<>]*>[^<>]*)*>)\s*(,|$)")


class _Place(NamedTuple):
    """A token: its text, and where it starts."""

    text: str
    start: int


class _Ref(NamedTuple):
    """A handle as it stands in the text."""

    digest: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    length: int


class _Op(NamedTuple):
    results: _Place | None
    name: _Place
    operands: _Place | None
    regions: list[_Region] | None
    attributes: list[tuple[_Place, Any]] | None
    signature: _Place
    location: _Place | None


class _Block(NamedTuple):
    label: _Place
    ops: list[_Op]


class _Region(NamedTuple):
    ops: list[_Op]
    blocks: list[_Block]


class _FaultError(Exception):
    """An error at an offset of the text; `parse_module` makes the SmecError, since it has the text."""

    def __init__(self, message: str, start: int, length: int = 1, **details: Any) -> None:
        super().__init__(message)
        self.message, self.start, self.length, self.details = message, start, length, details


# -- first step: text to tuples ----------------------------------------------------------------------------------------


class _Tree:
    """What lark calls as it reduces: terminals by upper-case name, rules by lower-case name."""

    def __init__(self) -> None:
        # Attribute values recur: of equal text the value is made once a parse.
        self.atoms: dict[str, Any] = {}
        self.aliases: dict[str, Any] = {}

    def clear(self) -> None:
        self.atoms.clear()
        self.aliases.clear()

    def _atom(self, token: lark.Token) -> Any:
        text = token.value
        value = self.atoms.get(text, self)
        if value is self:
            try:
                value = self.atoms[text] = parse_atom(text)
            except AtomError as error:
                raise _FaultError(
                    error.message, (token.start_pos or 0) + error.start, error.length, **error.details
                ) from None
        return value

    def _place(self, token: lark.Token) -> _Place:
        return _Place(token.value, token.start_pos or 0)

    NUMBER = WORD = TYPE = DENSE = STRING = _atom
    RESULTS = VALUES = NAME = SIGNATURE = LOCATION = LABEL = FLAG = KEY = OPEN = ALIAS = _place

    def HANDLE(self, token: lark.Token) -> _Ref:  # noqa: N802  # lark finds it by the terminal's name
        digest, dtype, shape = self._atom(token)
        return _Ref(digest, dtype, shape, token.start_pos or 0, len(token.value))

    def alias(self, children: list[Any]) -> None:
        name, value = children
        if name.text in self.aliases:
            raise _FaultError(f"alias {name.text} is defined twice", name.start, len(name.text))
        self.aliases[name.text] = value

    def ref(self, children: list[Any]) -> Any:
        name = children[0]
        if name.text not in self.aliases:
            close = get_close_matches(name.text, self.aliases, n=1) if len(self.aliases) < 10_000 else []
            hint = f"did you mean '{close[0]}'?" if close else None
            raise _FaultError(f"alias {name.text} is not defined", name.start, len(name.text), hint=hint)
        return self.aliases[name.text]

    def attribute(self, children: list[Any]) -> tuple[_Place, Any]:
        return children[0], (children[1] if len(children) == 2 else None)

    def attributes(self, children: list[Any]) -> list[Any]:
        return children

    regions = attributes

    def array(self, children: list[Any]) -> tuple[Any, ...]:
        value = tuple(children[1:])
        if _array_depth(value) > MAX_ARRAY_DEPTH:
            raise _FaultError(f"arrays are nested more than {MAX_ARRAY_DEPTH} deep", children[0].start)
        return value

    def block(self, children: list[Any]) -> _Block:
        return _Block(children[0], children[1:])

    def region(self, children: list[Any]) -> _Region:
        blocks = [c for c in children if type(c) is _Block]
        return _Region(children[: len(children) - len(blocks)], blocks)

    def op(self, children: list[Any]) -> _Op:
        return _Op(*children)

    def start(self, children: list[Any]) -> Any:
        return children[-1]


def _array_depth(value: tuple[Any, ...]) -> int:
    return 1 + max((_array_depth(v) for v in value if type(v) is tuple), default=0)


@cache
def _grammar() -> str:
    return (Path(__file__).parent / "grammar.lark").read_text(encoding="utf-8")


@cache
def _lark() -> tuple[lark.Lark, _Tree]:
    """The parser, made on first use: reading the grammar takes some 30 ms."""
    tree = _Tree()
    return lark.Lark(_grammar(), parser="lalr", lexer="contextual", transformer=tree, maybe_placeholders=True), tree


def _read(text: str, file: str) -> _Op:
    if len(text) > MAX_TEXT:
        raise SmecError("text is too long", location=file, expected=f"at most {MAX_TEXT} characters", found=len(text))
    parser, tree = _lark()
    tree.clear()
    try:
        root = cast("_Op", parser.parse(text))  # what `_Tree.start` returns
    except lark.UnexpectedCharacters as error:
        start = error.pos_in_stream or 0
        found = _snippet(text, start)
        raise _syntax_error(text, start, file, set(error.allowed or ()), found) from None
    except lark.UnexpectedToken as error:
        ended = error.token.type == "$END"
        start = len(text.rstrip()) if ended else (error.token.start_pos or 0)
        found = "the end of the text" if ended else _snippet(text, start)
        raise _syntax_error(text, start, file, set(error.accepts or error.expected), found) from None
    finally:
        tree.clear()
    return root


def _snippet(text: str, start: int) -> str:
    match = re.compile(r"\w+|.", re.DOTALL).match(text, start)
    return repr(match[0][:40]) if match else "the end of the text"


def _syntax_error(text: str, start: int, file: str, expected: set[str], found: str) -> SmecError:
    names = [readable for name, readable in _READABLE.items() if name in expected]
    return SmecError(
        "syntax error", location=SourceSpan.at(text, start, file), expected=" or ".join(names) or None, found=found
    )


# -- second step: tuples to operations ---------------------------------------------------------------------------------


class _Builder:
    """Makes operations of tuples, with what recurs (signatures, keys, classes) looked up by text."""

    def __init__(self, text: str, file: str, weights: Mapping[str, Handle | np.ndarray] | None, foreign: bool) -> None:
        self.text, self.file, self.weights, self.foreign = text, file, weights, foreign
        self.signatures: dict[str, tuple[list[TensorType], list[TensorType]]] = {}
        self.types: dict[str, TensorType] = {}
        self.keys: dict[str, str] = {}
        self.classes: dict[str, type[Operation]] = {}
        self.line, self.line_start = 1, 0
        self.places: dict[Operation, tuple[int, int]] | None = None

    def operation(self, node: _Op, scope: dict[str, Value], depth: int) -> Operation:
        result_place, name_place, operand_place, regions, attributes, signature_place, location_place = node
        name = name_place.text[1:-1]
        cls = self.classes.get(name) or self.find_class(name, name_place)
        signature = self.signatures.get(signature_place.text) or self.signature(signature_place)
        operand_types, result_types = signature
        location = self.location(location_place, name_place.start)
        operands = self.operands(operand_place, operand_types, scope, signature_place) if operand_place else []
        if len(operands) != len(operand_types):
            self.count_fault("operands", signature_place, len(operands), len(operand_types))
        values = self.attributes(attributes, name, location) if attributes else {}
        built = [self.region(r, {} if cls.is_isolated else dict(scope), depth + 1, name_place) for r in regions or ()]
        op = cls(operands, result_types, values, built, location)
        if op.name != name:
            op.name = name
        if self.places is not None:
            self.places[op] = (name_place.start, len(name_place.text))
        self.results(op, result_place, scope, signature_place)
        return op

    def find_class(self, name: str, place: _Place) -> type[Operation]:
        dialect = name.partition(".")[0]
        if name not in OPERATIONS and dialect in DIALECTS:
            importlib.import_module(f"smec.ir.dialects.{dialect}")
        cls = OPERATIONS.get(name) or OPEN_DIALECTS.get(dialect) or (Operation if self.foreign else None)
        if cls is None or "." not in name:
            close = get_close_matches(name, OPERATIONS, n=2)
            hint = f"did you mean {' or '.join(repr(c) for c in close)}?" if close else None
            raise _FaultError(f"unknown operation '{name}'", place.start, len(place.text), hint=hint)
        self.classes[name] = cls
        return cls

    def signature(self, place: _Place) -> tuple[list[TensorType], list[TensorType]]:
        try:
            operand_types, result_types = parse_signature(place.text)
        except AtomError as error:
            raise _FaultError(error.message, place.start + error.start, error.length, **error.details) from None
        # One object for equal types: an operand's type is then mostly the very object that the signature names.
        result = ([self.intern(t) for t in operand_types], [self.intern(t) for t in result_types])
        self.signatures[place.text] = result
        return result

    def intern(self, type: TensorType) -> TensorType:
        return self.types.setdefault(repr(type), type)

    def location(self, place: _Place | None, start: int) -> Location:
        parsed = None
        if place is not None:
            try:
                parsed = parse_place(place.text)
            except AtomError as error:
                raise _FaultError(error.message, place.start, len(place.text), **error.details) from None
        if parsed is None:
            return Location(self.file, "", self.line_of(start))
        file, node, line = parsed
        return Location(self.file, node, self.line_of(start)) if file is None else Location(file, node, line)

    def line_of(self, start: int) -> int:
        """Line of an offset; offsets come in rising order mostly, so that counting goes on from the last one."""
        if start < self.line_start:
            self.line, self.line_start = 1, 0
        self.line += self.text.count("\n", self.line_start, start)
        self.line_start = start
        return self.line

    def operands(
        self, place: _Place, types: list[TensorType], scope: dict[str, Value], signature: _Place
    ) -> list[Value]:
        names = [n.strip() for n in place.text.split(",")]
        if len(names) != len(types):
            self.count_fault("operands", signature, len(names), len(types))
        values = []
        for index, name in enumerate(names):
            value = scope.get(name)
            if value is None:
                self.unknown_value(place, index, scope)
            elif value.type is not types[index] and value.type != types[index]:
                start = signature.start
                message = f"operand {name} has another type than the signature says"
                raise _FaultError(message, start, len(signature.text), expected=value.type, found=types[index])
            else:
                values.append(value)
        return values

    def unknown_value(self, place: _Place, index: int, scope: dict[str, Value]) -> None:
        match = list(_value_name.finditer(place.text))[index]
        close = get_close_matches(match[0], scope, n=1, cutoff=0.8) if len(scope) < 10_000 else []
        hint = f"did you mean '{close[0]}'?" if close else None
        raise _FaultError(
            f"value {match[0]} is not defined before its use", place.start + match.start(), len(match[0]), hint=hint
        )

    def count_fault(self, what: str, signature: _Place, have: int, want: int) -> None:
        message = f"number of {what} differs from the signature"
        raise _FaultError(message, signature.start, len(signature.text), expected=want, found=have)

    def results(self, op: Operation, place: _Place | None, scope: dict[str, Value], signature: _Place) -> None:
        names = [n.strip() for n in place.text[:-1].split(",")] if place is not None else []
        if len(names) != len(op.results):
            self.count_fault("results", signature, len(names), len(op.results))
        for index, (name, result) in enumerate(zip(names, op.results, strict=True)):
            if name in scope and place is not None:
                match = list(_value_name.finditer(place.text))[index]
                raise _FaultError(f"value {name} is defined twice", place.start + match.start(), len(name))
            self.define(name, result, scope)

    @staticmethod
    def define(name: str, value: Value, scope: dict[str, Value]) -> None:
        scope[name] = value
        if not name[1].isdigit():
            value.name_hint = unescape_hint(name[1:]) if "$" in name else name[1:]

    def attributes(self, items: list[tuple[_Place, Any]], name: str, location: Location) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for place, value in items:
            text = place.text
            key = self.keys.get(text)
            if key is None:
                key = self.keys[text] = self.key(place)
            if key in values:
                raise _FaultError(f"attribute '{key}' is given twice", place.start, len(text))
            kind = type(value)
            values[key] = self.resolve(value, location, name) if kind is _Ref or kind is tuple else value
        return values

    def key(self, place: _Place) -> str:
        text = place.text[:-1].rstrip() if place.text.endswith("=") else place.text
        if not text.startswith('"'):
            return text
        try:
            return unquote(text)
        except AtomError as error:
            raise _FaultError(error.message, place.start + error.start, error.length, **error.details) from None

    def resolve(self, value: Any, location: Location, name: str) -> Any:
        """The value with its handles looked up."""
        if type(value) is tuple:
            if any(type(v) is _Ref or type(v) is tuple for v in value):
                return tuple(self.resolve(v, location, name) for v in value)
            return value
        return self.handle(value, location, name) if type(value) is _Ref else value

    def handle(self, ref: _Ref, location: Location, name: str) -> Handle:
        if self.weights is None:
            return UnloadedHandle(ref.digest, ref.dtype, ref.shape, f"'{name}'", location)
        found = self.weights.get(ref.digest)
        if found is None:
            hint = "the side file belongs to another module, or is incomplete"
            raise _FaultError(
                f"array {ref.digest[:12]} of '{name}' is not in the side file", ref.start, ref.length, hint=hint
            )
        handle = found if isinstance(found, Handle) else Handle(found)
        if handle.digest != ref.digest:
            raise _FaultError(
                f"array {ref.digest[:12]} of '{name}' has other contents than its digest says", ref.start, ref.length
            )
        if handle.shape != ref.shape or handle.dtype != np.dtype(ref.dtype):
            have, want = f"{handle.dtype} {list(handle.shape)}", f"{ref.dtype} {list(ref.shape)}"
            raise _FaultError("array is not what the handle says", ref.start, ref.length, expected=want, found=have)
        return handle

    def region(self, node: _Region, scope: dict[str, Value], depth: int, place: _Place) -> Region:
        if depth > MAX_REGION_DEPTH:
            raise _FaultError(f"regions are nested more than {MAX_REGION_DEPTH} deep", place.start, len(place.text))
        region = Region()
        if node.ops:
            self.fill(region.append(Block()), node.ops, scope, depth)
        seen: set[str] = set()
        for label, ops in node.blocks:
            name = label.text.partition("(")[0].partition(":")[0].strip()
            if name in seen:
                raise _FaultError(f"block {name} is defined twice", label.start, len(name))
            seen.add(name)
            self.fill(region.append(self.labelled(label, scope)), ops, scope, depth)
        return region

    def labelled(self, label: _Place, scope: dict[str, Value]) -> Block:
        block = Block()
        opened = label.text.find("(")
        at, end = opened + 1, label.text.rfind(")")
        more = opened >= 0 and bool(label.text[at:end].strip())
        while more:
            match = _block_arg.match(label.text, at, end)
            if match is None:
                raise _FaultError(
                    "malformed block argument", label.start + at, max(1, end - at), expected="%name: tensor<...>"
                )
            try:
                type = self.intern(parse_type(match[2]))
            except AtomError as error:
                start = label.start + match.start(2) + error.start
                raise _FaultError(error.message, start, error.length, **error.details) from None
            if match[1] in scope:
                raise _FaultError(f"value {match[1]} is defined twice", label.start + match.start(1), len(match[1]))
            self.define(match[1], block.add_arg(type), scope)
            at, more = match.end(), bool(match[3])
        return block

    def fill(self, block: Block, ops: list[_Op], scope: dict[str, Value], depth: int) -> None:
        for op in ops:
            block.append(self.operation(op, scope, depth))


def parse_module(
    text: str,
    file: str = "<text>",
    weights: Mapping[str, Handle | np.ndarray] | None = None,
    *,
    allow_unregistered: bool = False,
    places: dict[Operation, tuple[int, int]] | None = None,
) -> ModuleOp:
    """Read a module.

    Args:
        text: one `builtin.module` in generic form. An operation without a location gets its place in this text.
        file: name of the text in locations and messages.
        weights: arrays by digest, checked against the digest (a `Handle` brings one that was checked). None: handles
            know shape and dtype, and reading their array is an error that names the operation.
        allow_unregistered: operations nobody declared become plain `Operation`s instead of an error.
        places: receives, for each operation, where its name stands in the text: offset and length.

    Raises:
        SmecError: the text is malformed, with line and column.
    """
    try:
        root = _read(text, file)
        builder = _Builder(text, file, weights, allow_unregistered)
        builder.places = places
        op = builder.operation(root, {}, 0)
        if not isinstance(op, ModuleOp):
            raise _FaultError(
                "outermost operation is not a module", root.name.start, len(root.name.text), expected='"builtin.module"'
            )
    except _FaultError as fault:
        span = SourceSpan.at(text, fault.start, file, fault.length)
        raise SmecError(fault.message, location=span, **fault.details) from None
    return op
