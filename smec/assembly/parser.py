"""Reads assembly text into items; what they mean is for `smec.assembly.assembler` to say.

Lark (LALR, contextual lexer, inline transformer) builds the items bottom up and without recursion. Text from anywhere
is safe to read: nothing is evaluated, and nesting, numbers and sizes are bounded.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, cast

import lark

from smec.assembly.faults import FaultError

#: Longest text, in characters.
MAX_TEXT = 1 << 28

#: Deepest nesting of lists and objects.
MAX_DEPTH = 32

#: What the terminals of the grammar are called in messages.
_READABLE = {
    "_SMEASM": "'.smeasm'",
    "_SIDE": "'.side'",
    "_META": "'.meta'",
    "_SECTION": "'.section'",
    "_BUFFER": "'.buffer'",
    "_AGUS": "'.agus'",
    "_CORE": "'.core'",
    "_ON": "'core'",
    "_AT": "'at'",
    "_EQUALS": "'='",
    "NAME": "a name",
    "KEY": "'name ='",
    "TYPE": "a type as uint8[3, 128]",
    "AGU": "an address generator",
    "DIGEST": "sha256: and 64 digits",
    "STRING": "a string",
    "INT": "a number",
    "NUMBER": "a number",
    "WORD": "true, false or null",
    "OPEN": "'['",
    "BRACE": "'{'",
    "RSQB": "']'",
    "RBRACE": "'}'",
    "COLON": "':'",
    "COMMA": "','",
    "$END": "the end of the text",
    "<END-OF-FILE>": "the end of the text",
}

_word = re.compile(r"\w+|.", re.DOTALL)


class Token(NamedTuple):
    """A token: its text, and where it starts."""

    text: str
    start: int


class Value(NamedTuple):
    """A value as JSON has it, or an address generator (`kind` "agu", whose `value` is its text).

    kind: "string", "number", "word", "agu", "array" (a list of values) or "object" (a list of members).
    """

    kind: str
    value: Any
    depth: int
    start: int
    length: int


class Member(NamedTuple):
    key: Token
    value: Value


class Side(NamedTuple):
    """`.side "FILE"`."""

    file: Token


class Meta(NamedTuple):
    """`.meta KEY = VALUE`."""

    key: Token
    value: Value


class Section(NamedTuple):
    """`.section NAME: TYPE = VALUE`, or `.section NAME: TYPE sha256:DIGEST`."""

    name: Token
    type: Token
    content: Value | Token


class Buffer(NamedTuple):
    """`.buffer NAME: TYPE SPACE core N at BASE`."""

    name: Token
    type: Token
    space: Token
    core: Token
    base: Token | None


class Agus(NamedTuple):
    """`.agus` and the generators of the table, in order."""

    rows: list[Token]


class Operand(NamedTuple):
    key: Token
    value: Token


class Instruction(NamedTuple):
    mnemonic: Token
    operands: list[Operand]


class Core(NamedTuple):
    """`.core N` and the core's instructions."""

    number: Token
    instructions: list[Instruction]


Item = Side | Meta | Section | Buffer | Agus | Core


def unquote(token: Token) -> str:
    """The string that a literal (JSON's) spells."""
    import json

    try:
        return cast("str", json.loads(token.text))
    except ValueError:
        raise FaultError("malformed string", token.start, len(token.text), expected="JSON's escapes") from None


class _Tree:
    """What lark calls as it reduces: terminals by upper-case name, rules by lower-case name."""

    def _token(self, token: lark.Token) -> Token:
        return Token(token.value, token.start_pos or 0)

    NAME = KEY = TYPE = DIGEST = STRING = INT = NUMBER = WORD = AGU = OPEN = BRACE = _token

    def side(self, children: list[Any]) -> Side:
        return Side(*children)

    def meta(self, children: list[Any]) -> Meta:
        return Meta(children[0], _value(children[1]))

    def section(self, children: list[Any]) -> Section:
        name, type, content = children
        return Section(name, type, content if _is_digest(content) else _value(content))

    def buffer(self, children: list[Any]) -> Buffer:
        return Buffer(*children)

    def agus(self, children: list[Any]) -> Agus:
        return Agus(children)

    def operand(self, children: list[Any]) -> Operand:
        return Operand(*children)

    def instruction(self, children: list[Any]) -> Instruction:
        return Instruction(children[0], [c for c in children[1:] if c is not None])

    def core(self, children: list[Any]) -> Core:
        return Core(children[0], children[1:])

    def member(self, children: list[Any]) -> Member:
        return Member(children[0], _value(children[1]))

    def array(self, children: list[Any]) -> Value:
        items = [_value(c) for c in children[1:]]
        return self._nested("array", items, items, children[0])

    def object(self, children: list[Any]) -> Value:
        return self._nested("object", children[1:], [member.value for member in children[1:]], children[0])

    def _nested(self, kind: str, content: list[Any], values: list[Value], opening: Token) -> Value:
        depth = 1 + max((v.depth for v in values), default=0)
        if depth > MAX_DEPTH:
            raise FaultError(f"values are nested more than {MAX_DEPTH} deep", opening.start)
        return Value(kind, content, depth, opening.start, 1)

    def start(self, children: list[Any]) -> list[Any]:
        return children


def _is_digest(content: Value | Token) -> bool:
    return isinstance(content, Token) and content.text.startswith("sha256:")


def _value(content: Value | Token) -> Value:
    if isinstance(content, Value):
        return content
    text, start = content
    if text.startswith('"'):
        return Value("string", unquote(content), 0, start, len(text))
    if text in ("true", "false", "null"):
        return Value("word", {"true": True, "false": False, "null": None}[text], 0, start, len(text))
    if text.endswith("]") or "#" in text:
        return Value("agu", text, 0, start, len(text))
    number: int | float = int(text) if text.lstrip("-").isdigit() else float(text)
    if isinstance(number, float) and number in (float("inf"), float("-inf")):
        raise FaultError("number is too large", start, len(text))
    return Value("number", number, 0, start, len(text))


@cache
def _lark() -> lark.Lark:
    """The parser, made on first use."""
    grammar = (Path(__file__).parent / "grammar.lark").read_text(encoding="utf-8")
    return lark.Lark(grammar, parser="lalr", lexer="contextual", transformer=_Tree(), maybe_placeholders=True)


def parse(text: str) -> tuple[Token, list[Item]]:
    """Version and items of an assembly text.

    Raises:
        FaultError: the text is malformed.
    """
    if len(text) > MAX_TEXT:
        raise FaultError("text is too long", 0, expected=f"at most {MAX_TEXT} characters", found=len(text))
    try:
        version, *items = cast("list[Any]", _lark().parse(text))  # what `_Tree.start` returns
    except lark.UnexpectedCharacters as error:
        raise _syntax_fault(text, error.pos_in_stream or 0, set(error.allowed or ())) from None
    except lark.UnexpectedToken as error:
        start = len(text.rstrip()) if error.token.type == "$END" else (error.token.start_pos or 0)
        raise _syntax_fault(text, start, set(error.accepts or error.expected)) from None
    return version, items


def _syntax_fault(text: str, start: int, expected: set[str]) -> FaultError:
    match = _word.match(text, start)
    found = repr(match[0][:40]) if match else "the end of the text"
    names = list(dict.fromkeys(readable for name, readable in _READABLE.items() if name in expected))
    return FaultError("syntax error", start, expected=" or ".join(names) or None, found=found)
