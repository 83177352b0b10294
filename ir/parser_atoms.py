"""Takes the coarse tokens of the IR text apart: strings, numbers, types, dense arrays, handles, signatures, locations.

Each function gets the token's text alone. A fault is an `AtomError` with an offset into that text; the parser knows
where the token stands and makes the user's message.
"""

from __future__ import annotations

import re
import struct
from difflib import get_close_matches
from typing import Any
from urllib.parse import unquote as percent_decode

import numpy as np

from smec.ir.printer import PLAIN_ELEMENTS
from smec.ir.types import Quantized, TensorType
from smec.ir.verifier import MAX_RANK

_STRING = r'"([^"\\\n]*(?:\\.[^"\\\n]*)*)"'
_TENSOR = r"tensor<[^<>]*(?:<[^<>]*>[^<>]*)*>"
_escape = re.compile(r"\\(n|t|\\|\"|[0-9A-Fa-f]{2})?")
# `*+` gives nothing back, so that a malformed type is refused in linear time.
_tensor = re.compile(r"tensor<\s*+((?:(?:\?|[0-9]{1,18})\s*x\s*)*+)([^<>]*(?:<[^<>]*>\s*)?)>")
_quantized = re.compile(r"!quant\.u<\s*([0-9]{1,2})\s*,\s*([0-9.eE+\-]{1,40})\s*,\s*([0-9]{1,5})\s*>")
_foreign = re.compile(r"!onnx\.([A-Za-z0-9_.]+)")
_number = re.compile(r"(-?)(0x)?([0-9A-Fa-f.eE+\-]+?)(?:\s*:\s*([a-z]+[0-9]*))?")
_integer_type = re.compile(r"(?:[su]?i[0-9]{1,4}|index)")
_dense = re.compile(r"array<\s*(i64|f64)\s*(?::([^<>]*))?>")
_handle = re.compile(r'#smec\.handle<\s*"([0-9a-f]{64})"\s*,\s*"([a-z]+[0-9]*)"\s*,\s*\[([0-9,\s]{0,1500})\]\s*>')
_location = re.compile(
    rf"loc\s*\(\s*(?:unknown|{_STRING}\s*:\s*([0-9]+)\s*:\s*[0-9]+"
    rf"|{_STRING}(?:\s*\(\s*{_STRING}\s*:\s*([0-9]+)\s*:\s*[0-9]+\s*\))?)\s*\)"
)
_signature = re.compile(rf":\s*\(([^()]*)\)\s*->\s*(?:\(([^()]*)\)|({_TENSOR}))")
_type_item = re.compile(rf"\s*({_TENSOR})\s*(,|$)")
_number_item = re.compile(r"\s*(-?[0-9]+(?:\.[0-9]*(?:[eE][+\-]?[0-9]+)?)?)\s*(,|$)")
_escaped_hint = re.compile(r"((?:[A-Za-z0-9_.\-]|\$[0-9A-F]{2})*)(?:\$\$[0-9]+)?").fullmatch
_hint_byte = re.compile(rb"\$([0-9A-F]{2})")


class AtomError(Exception):
    """A fault at an offset within a token."""

    def __init__(self, message: str, start: int = 0, length: int = 1, **details: Any) -> None:
        super().__init__(message)
        self.message, self.start, self.length, self.details = message, start, length, details


def unquote(text: str) -> str:
    """The string that a literal (with its quotes) spells."""
    body = text[1:-1]
    if "\\" not in body:
        return body
    out, at = bytearray(), 0
    for match in _escape.finditer(body):
        code = match[1]
        if code is None:
            raise AtomError(
                "unknown escape", match.start() + 1, 2, expected=r"\n, \t, \\, \" or two hexadecimal digits"
            )
        out += body[at : match.start()].encode()
        named = {"n": b"\n", "t": b"\t", "\\": b"\\", '"': b'"'}
        out += named[code] if code in named else bytes.fromhex(code)
        at = match.end()
    out += body[at:].encode()
    try:
        return out.decode()
    except UnicodeDecodeError:
        raise AtomError("string is not valid UTF-8", 0, len(text)) from None


def parse_place(text: str) -> tuple[str | None, str, int] | None:
    """File, node and line of a location; None for `loc(unknown)`. The file is None where only a node is named."""
    match = _location.fullmatch(text)
    if match is None:  # the lexer's pattern is the same one
        raise AtomError("malformed location", 0, len(text))
    file, line, node, node_file, node_line = match.groups()
    if file is not None:
        return _place_string(file), "", int(line)
    if node is None:
        return None
    return (None if node_file is None else _place_string(node_file)), _place_string(node), int(node_line or 0)


def _place_string(body: str) -> str:
    text = unquote(f'"{body}"')
    return percent_decode(text[1:], errors="surrogatepass") if text.startswith("%") else text


def parse_type(text: str) -> TensorType:
    """A tensor type."""
    match = _tensor.fullmatch(text)
    if match is None:
        raise AtomError("malformed tensor type", 0, len(text), expected="tensor<1x?x8xf32>")
    shape = tuple(-1 if d.strip() == "?" else int(d) for d in match[1].split("x")[:-1])
    if len(shape) > MAX_RANK:
        raise AtomError(
            "tensor has too many dimensions", 0, len(text), expected=f"at most {MAX_RANK}", found=len(shape)
        )
    return TensorType(shape, _element(match[2].strip(), match.start(2)))


def _element(text: str, start: int) -> str | Quantized:
    if text in PLAIN_ELEMENTS:
        return text
    foreign = _foreign.fullmatch(text)
    if foreign is not None:
        return foreign[1]
    match = _quantized.fullmatch(text)
    if match is None:
        close = get_close_matches(text, PLAIN_ELEMENTS, n=1)
        hint = f"did you mean '{close[0]}'?" if close else "quantized elements are !quant.u<bits, scale, zero point>"
        raise AtomError("unknown element type", start, max(1, len(text)), found=repr(text), hint=hint)
    bits, zero_point = int(match[1]), int(match[3])
    try:
        scale = float(match[2])
    except ValueError:
        raise AtomError("malformed scale", start + match.start(2), len(match[2])) from None
    if not 1 <= bits <= 16:
        raise AtomError(
            "bit width is out of range", start + match.start(1), len(match[1]), expected="1 to 16", found=bits
        )
    with np.errstate(over="ignore", under="ignore"):
        if not 0 < float(np.float32(scale)) < float("inf"):
            details = {"expected": "a positive float32", "found": match[2]}
            raise AtomError("scale is out of range", start + match.start(2), len(match[2]), **details)
    if zero_point >= 1 << bits:
        details = {"expected": f"0 to {(1 << bits) - 1}", "found": str(zero_point)}
        raise AtomError("zero point is out of range", start + match.start(3), len(match[3]), **details)
    return Quantized(bits, scale, zero_point)


def parse_types(text: str, start: int) -> list[TensorType]:
    """A list of types; `start` is where it stands in its token."""
    types: list[TensorType] = []
    at, more = 0, bool(text.strip())
    while more:
        match = _type_item.match(text, at)
        if match is None:
            raise AtomError("malformed list of types", start + at, max(1, len(text) - at), expected="tensor<...>")
        try:
            types.append(parse_type(match[1]))
        except AtomError as error:
            error.start += start + match.start(1)
            raise
        at, more = match.end(), bool(match[2])
    return types


def parse_signature(text: str) -> tuple[list[TensorType], list[TensorType]]:
    """Operand types and result types."""
    match = _signature.fullmatch(text)
    if match is None:  # the lexer's pattern is the same one
        raise AtomError("malformed signature", 0, len(text))
    group = 2 if match[2] is not None else 3
    return parse_types(match[1], match.start(1)), parse_types(match[group], match.start(group))


def parse_atom(text: str) -> Any:
    """An attribute value that is one token; for a handle the tuple (digest, dtype name, shape)."""
    first = text[0]
    if first == '"':
        return unquote(text)
    if first == "#":
        return _parse_handle(text)
    if text.startswith("tensor"):
        return parse_type(text)
    if text.startswith("array"):
        return _parse_dense(text)
    if text in ("true", "false", "unit"):
        return None if text == "unit" else text == "true"
    return _parse_number(text)


def _parse_number(text: str) -> bool | int | float:
    match = _number.fullmatch(text)
    if match is None:
        raise AtomError("malformed number", 0, len(text))
    sign, is_hex, digits, kind = match.groups()
    where = (match.start(4), len(kind)) if kind else (0, len(text))
    if kind in ("f64", "f32"):
        return _parse_float(sign, digits, bool(is_hex), kind)
    fraction = not is_hex and ("." in digits or "e" in digits.lower())
    if kind is None and fraction:
        return float(sign + digits)
    if kind is not None and not _integer_type.fullmatch(kind):
        raise AtomError("unknown number type", *where, expected="i64, f64, ...", found=kind)
    if fraction:
        raise AtomError("number with a fraction cannot have an integer type", *where, expected="f64", found=kind)
    value = int(sign + digits, 16 if is_hex else 10)
    if kind == "i1":
        if value not in (-1, 0, 1):
            raise AtomError("number does not fit its type", 0, len(text), expected="0 or 1", found=value)
        return bool(value)
    return value


def _parse_float(sign: str, digits: str, is_hex: bool, kind: str) -> float:
    if is_hex:  # the bits of the number, not its value
        size, code = (8, "<d") if kind == "f64" else (4, "<f")
        bits = int(digits, 16)
        if sign or bits >> (8 * size):
            raise AtomError("bits do not fit the floating-point type", 0, len(digits) + 2, expected=f"{8 * size} bits")
        return float(struct.unpack(code, bits.to_bytes(size, "little"))[0])
    value = float(sign + digits)
    if kind == "f64":
        return value
    with np.errstate(over="ignore"):
        return float(np.float32(value))


def _parse_dense(text: str) -> tuple[int | float, ...]:
    match = _dense.fullmatch(text)
    if match is None:
        raise AtomError("malformed array", 0, len(text), expected="array<i64: 1, 2> or array<f64: 0.5>")
    kind, body = match[1], match[2]
    values: list[int | float] = []
    at = 0
    while body is not None:
        item = _number_item.match(body, at)
        if item is None or (kind == "i64" and not item[1].lstrip("-").isdigit()) or len(item[1]) > 400:
            what = "an integer" if kind == "i64" else "a number"
            raise AtomError("malformed array element", match.start(2) + at, 1, expected=what)
        values.append(int(item[1]) if kind == "i64" else float(item[1]))
        at = item.end()
        if not item[2]:
            break
    return tuple(values)


#: Element types that a handle's array may have.
HANDLE_DTYPES = frozenset(
    [f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)] + ["bool", "float16", "float32", "float64"]
)


def _parse_handle(text: str) -> tuple[str, str, tuple[int, ...]]:
    match = _handle.fullmatch(text)
    if match is None:
        form = '#smec.handle<"SHA-256", "float32", [16, 3]>'
        raise AtomError("malformed handle", 0, len(text), expected=form)
    digest, dtype, body = match.groups()
    if dtype not in HANDLE_DTYPES:
        raise AtomError("unknown array type", match.start(2), len(dtype), found=dtype)
    parts = [p.strip() for p in body.split(",")] if body.strip() else []
    if not all(p.isdigit() and len(p) <= 18 for p in parts) or len(parts) > MAX_RANK:
        raise AtomError("malformed shape", match.start(3), max(1, len(body)))
    return digest, dtype, tuple(map(int, parts))


def unescape_hint(name: str) -> str:
    """The hint that a value's name spells (see `smec.ir.printer`); a name that nothing here wrote is its own hint."""
    match = _escaped_hint(name)
    if match is None:
        return name
    hint = _hint_byte.sub(lambda m: bytes.fromhex(m[1].decode()), match[1].encode())
    try:
        return hint.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return name
