r"""Writes a module as text in MLIR's generic form; `smec.ir.parser` is the inverse.

Attribute values and how they are spelled:

1. bool: `true`, `false`; None: `unit`
2. int: `3 : i64`; beyond 64 bits with the smallest multiple of 64 that holds it: `... : i128`
3. float: the shortest decimal that reads back the same, `0.1 : f64`; infinities and NaN by their bits, in
   hexadecimal: `0x7FF0... : f64`
4. str: `"..."` with the escapes `\n`, `\t`, `\\`, `\"` and two hexadecimal digits a byte
5. tuple: `array<i64: 1, 2>` if all are 64-bit ints, `array<f64: 0.5, 1.0>` if all are finite floats, else `[...]`
6. TensorType: `tensor<1x?x8xf32>`, quantized `tensor<1x8x!quant.u<8, 0.5, 128>>`
7. Handle: `#smec.handle<"digest", "float32", [16, 3]>`; the array itself goes to a side file (`smec.ir.store`)

A value is called by its hint, and by a number where it has none. A hint that is no name in MLIR is written byte by byte
where need be (`/conv` is `%$2Fconv`, a hint `12` is `%$312`), and of equal hints all but the first get a number
(`%x`, `%x$$1`): reading takes both back, so that hints survive.

What is longer than `LONG` characters, handles mostly, is written once, in front of the module, and stands behind an
alias in the attributes: `#h0 = #smec.handle<...>`, `#a0 = "..."`.

Every operation ends in its location, `loc("node"("file":line:0))` or, without a node, `loc("file":line:0)`.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import quote

import numpy as np

from smec.ir.core import Operation, Region, Value
from smec.ir.errors import SmecError
from smec.ir.types import ELEMENT_DTYPES, Handle, Location, Quantized, TensorType

#: Element type names that MLIR knows; any other is spelled `!onnx.NAME`.
PLAIN_ELEMENTS = frozenset(ELEMENT_DTYPES) | {"bf16"}

_plain = re.compile(r'[^"\\\x00-\x1f\x7f]*').fullmatch
_special = re.compile(r'["\\\x00-\x1f\x7f]')
_key = re.compile(r"[A-Za-z_][A-Za-z0-9_$.]*").fullmatch
_hint = re.compile(r"[A-Za-z_][A-Za-z0-9_.\-]*").fullmatch
_not_hint = re.compile(rb"^[^A-Za-z_]|[^A-Za-z0-9_.\-]")
_INT64 = range(-(1 << 63), 1 << 63)
_NAMED_ESCAPES = {"\n": "\\n", "\t": "\\t", "\\": "\\\\", '"': '\\"'}


#: Longest attribute value, in characters, that is written where it belongs; see `print_module`.
LONG = 72


def print_module(root: Operation, *, aliases: bool = True) -> str:
    """The text of an operation and all it holds; without `aliases` every attribute value is written in place.

    Raises:
        SmecError: an attribute value has no textual form (the verifier rejects such modules, too).
    """
    printer = _Printer(LONG if aliases else 1 << 62)
    printer.operation(root, "")
    printer.out.append("")
    return "\n".join([*(f"{name} = {text}" for text, name in printer.aliases.items()), *printer.out])


def quote_string(text: str) -> str:
    """A string literal, with quotes.

    Raises:
        SmecError: the string holds lone surrogates, which no encoding can write.
    """
    if _plain(text) and text.isascii():
        return f'"{text}"'
    try:
        text.encode()
    except UnicodeEncodeError:
        raise SmecError("string is not valid Unicode", found=ascii(text)) from None
    return '"' + _special.sub(lambda m: _NAMED_ESCAPES.get(m[0], f"\\{ord(m[0]):02X}"), text) + '"'


def quote_place(text: str) -> str:
    """A string literal within a location, which other MLIR readers want to be ASCII where it has escapes.

    What has both, and what begins with a percent sign, is percent-encoded after a leading percent sign.
    """
    if _plain(text) and text.isascii() and not text.startswith("%"):
        return f'"{text}"'
    mixed = not text.isascii() and (_special.search(text) or any("\ud800" <= c <= "\udfff" for c in text))
    if mixed or text.startswith("%"):
        text = "%" + quote(text, safe="/ :()[]{}<>,;=@!$&'*+-._~#|^`?", errors="surrogatepass")
    return quote_string(text)


def escape_hint(hint: str) -> str:
    """A hint as a name that MLIR accepts; `smec.ir.parser.unescape_hint` is the inverse."""
    return _not_hint.sub(lambda m: b"$%02X" % m[0][0], hint.encode("utf-8", "surrogatepass")).decode()


def format_location(location: Location) -> str:
    """`loc(...)`."""
    place = f"{quote_place(location.file)}:{location.line}:0"
    return f"loc({quote_place(location.node)}({place}))" if location.node else f"loc({place})"


def format_type(type: TensorType) -> str:
    """`tensor<...>`."""
    element = type.element
    if isinstance(element, Quantized) or element in PLAIN_ELEMENTS:
        return str(type)
    return str(TensorType(type.shape, f"!onnx.{element}"))


def format_float(value: float) -> str:
    """The digits of a float: the shortest that read back the same; the bits in hexadecimal where it is not finite."""
    if not math.isfinite(value):
        return f"0x{struct.unpack('<Q', struct.pack('<d', value))[0]:016X}"
    text = float.__repr__(value)
    if "e" in text and "." not in text:  # MLIR reads a number without a point as an integer
        text = text.replace("e", ".0e")
    return text


def format_attribute(value: Any) -> str:
    """The text of an attribute value.

    Raises:
        SmecError: it is none of the kinds that this module lists.
    """
    formatter = _FORMATTERS.get(type(value))
    if formatter is None:
        formatter = next((f for kind, f in _FORMATTERS.items() if isinstance(value, kind)), None)
        if formatter is None:
            expected = "bool, int, float, str, tuple, Handle, TensorType or None"
            raise SmecError("attribute value has no textual form", expected=expected, found=type(value).__name__)
    return formatter(value)


def _format_int(value: int) -> str:
    if value in _INT64:
        return f"{value:d} : i64"
    return f"{value:d} : i{(value.bit_length() + 64) // 64 * 64}"


def _format_tuple(value: tuple[Any, ...]) -> str:
    kinds = {*map(type, value)}
    if kinds == {int} and min(value) >= -(1 << 63) and max(value) < 1 << 63:
        return f"array<i64: {', '.join(map(str, value))}>"
    if kinds == {float} and all(map(math.isfinite, value)):
        return f"array<f64: {', '.join(map(format_float, value))}>"
    return f"[{', '.join(map(format_attribute, value))}]"


def _format_handle(value: Handle) -> str:
    dtype = np.dtype(value.dtype)
    if dtype.kind not in "biuf":
        raise SmecError("arrays of this element type cannot be written", found=dtype)
    return f'#smec.handle<"{value.digest}", "{dtype.name}", {list(value.shape)}>'


_FORMATTERS: dict[type, Callable[[Any], str]] = {
    bool: lambda value: "true" if value else "false",
    int: _format_int,
    float: lambda value: f"{format_float(value)} : f64",
    str: quote_string,
    tuple: _format_tuple,
    type(None): lambda _: "unit",
    TensorType: format_type,
    Handle: _format_handle,
}


class _Printer:
    """State of one printing: lines so far, names given to values, texts of types and keys seen before."""

    def __init__(self, long: int) -> None:
        self.out: list[str] = []
        self.long = long
        self.aliases: dict[str, str] = {}
        self.counts: dict[str, int] = {}
        self.names: dict[Value, str] = {}
        self.taken: set[str] = set()
        self.repeated: dict[str, int] = {}
        self.count = 0
        self.types: dict[TensorType, str] = {}
        # By identity, since hashing a type costs more than the rest of its printing; the module keeps them alive.
        self.types_by_id: dict[int, str] = {}
        self.quoted: dict[str, str] = {}
        self.keys: dict[str, str] = {}

    def name(self, value: Value) -> str:
        """The name of a value: its hint (see above) where it has one, else a number."""
        hint = value.name_hint
        if hint:
            if not _hint(hint):
                hint = escape_hint(hint)
            if hint in self.taken:
                count = self.repeated[hint] = self.repeated.get(hint, 0) + 1
                hint = f"{hint}$${count}"
            self.taken.add(hint)
            text = "%" + hint
        else:
            text = f"%{self.count}"
            self.count += 1
        self.names[value] = text
        return text

    def type(self, type: TensorType) -> str:
        text = self.types.get(type)
        if text is None:
            text = self.types[type] = format_type(type)
        self.types_by_id[id(type)] = text
        return text

    def type_list(self, values: Sequence[Value]) -> str:
        known = self.types_by_id
        return ", ".join([known.get(id(v.type)) or self.type(v.type) for v in values])

    def operation(self, op: Operation, indent: str) -> None:
        names = self.names
        operands, results = op.operands, op.results
        # Values without a name here break dominance; the text shows them all the same, for whoever looks for the fault.
        used = ", ".join([names.get(v) or self.name(v) for v in operands])
        if len(results) == 1:
            head, tail = f"{indent}{self.name(results[0])} = ", self.type_list(results)
        else:
            head = f"{indent}{', '.join([self.name(r) for r in results])} = " if results else indent
            tail = f"({self.type_list(results)})"
        name = self.quoted.get(op.name) or self.quoted.setdefault(op.name, quote_string(op.name))
        head = f"{head}{name}({used})"
        if op.regions:
            self.out.append(f"{head} ({{")
            self.regions(op.regions, indent)
            head = f"{indent}}})"
        attributes = self.attributes(op) if op.attributes else ""
        location = format_location(op.location)
        self.out.append(f"{head}{attributes} : ({self.type_list(operands)}) -> {tail} {location}")

    def attributes(self, op: Operation) -> str:
        parts = []
        for key, value in op.attributes.items():
            start = self.keys.get(key)
            if start is None:
                start = self.keys[key] = f"{key if _key(key) else quote_string(key)} = "
            formatter = _FORMATTERS.get(type(value), format_attribute)
            try:
                text = formatter(value)
                parts.append(start + (text if len(text) <= self.long else self.alias(text)))
            except SmecError as error:
                error.message = f"attribute '{key}' of '{op.name}': {error.message}"
                error.location = error.location or op.location
                raise
        return f" {{{', '.join(parts)}}}"

    def alias(self, text: str) -> str:
        """The alias of a long attribute value; handles are called h0, h1, ..., the rest a0, a1, ..."""
        name = self.aliases.get(text)
        if name is None:
            kind = "#h" if text.startswith("#smec.handle<") else "#a"
            self.counts[kind] = self.counts.get(kind, -1) + 1
            name = self.aliases[text] = f"{kind}{self.counts[kind]}"
        return name

    def regions(self, regions: Sequence[Region], indent: str) -> None:
        inner = indent + "  "
        for number, region in enumerate(regions):
            if number:
                self.out.append(f"{indent}}}, {{")
            for index, block in enumerate(region.blocks):
                if index or block.args or block.first is None:
                    args = ", ".join([f"{self.name(a)}: {self.type(a.type)}" for a in block.args])
                    self.out.append(f"{indent}^bb{index}({args}):" if args else f"{indent}^bb{index}:")
                op = block.first
                while op is not None:
                    self.operation(op, inner)
                    op = op.next
