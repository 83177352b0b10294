"""Sections as text: element types, literals and digests."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from smec.assembly.faults import FaultError
from smec.assembly.parser import Token, Value
from smec.ir.isa_sections import DTYPE_CODES, dtype_of_code

#: Element types by name.
DTYPES: dict[str, np.dtype[Any]] = {dtype_of_code(code).name: dtype_of_code(code) for code in DTYPE_CODES}

#: Sections of fewer elements are written out where that loses nothing.
INLINE = 256

_WIDTH = 112


def digest(array: np.ndarray) -> str:
    """`sha256:` and the digest of the array's bytes, as the container has it."""
    flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8) if array.size else np.zeros(0, np.uint8)
    return f"sha256:{hashlib.sha256(flat.data).hexdigest()}"


def can_spell(array: np.ndarray) -> bool:
    """Whether an array is short, and all its elements are finite."""
    return array.size <= INLINE and array.ndim > 0 and bool(np.isfinite(array).all())


def spell(array: np.ndarray) -> str:
    """A literal that `fill` reads back; see `can_spell`."""
    if not array.size:
        return "[]"
    if array.ndim == 1:
        return fold([_number(x) for x in array], "[", "]", "  ")
    return "[\n  " + ",\n  ".join(map(_row, array)) + "\n]"


def _row(array: np.ndarray) -> str:
    return f"[{', '.join(map(_row, array) if array.ndim > 1 else map(_number, array))}]"


def fold(parts: list[str], opening: str, closing: str, indent: str) -> str:
    """Parts with commas between them, on one line if they fit, else on full lines."""
    line = f"{opening}{', '.join(parts)}{closing}"
    if len(line) + len(indent) <= _WIDTH and "\n" not in line:
        return line
    lines, current = [], indent
    for number, part in enumerate(parts):
        text = part + ("," if number + 1 < len(parts) else "")
        if current.strip() and len(current) + 1 + len(text) > _WIDTH:
            lines.append(current)
            current = indent
        current += text if not current.strip() else f" {text}"
    return "\n".join([opening, *lines, current, f"{indent[:-2]}{closing}"])


def _number(x: Any) -> str:
    if isinstance(x, np.bool_):
        return "true" if x else "false"
    if isinstance(x, np.integer):
        return str(int(x))
    short = str(x)
    if type(x)(float(short)).tobytes() == x.tobytes():
        return short
    return repr(float(x))


def fill(value: Value, dtype: np.dtype[Any], shape: tuple[int, ...], index_of: Callable[[Token], int]) -> np.ndarray:
    """The array of a literal: nested lists of `shape`, or one flat list of its elements.

    Raises:
        FaultError: another shape, or an element that the type cannot hold.
    """
    if value.kind != "array":
        raise FaultError("section is not a list", value.start, value.length, expected="[...]")
    elements: list[Value] = []
    nested = value.value and value.value[0].kind == "array"
    _flatten(value, shape if nested else (math.prod(shape),), elements)
    numbers: list[int | float | bool] = [_element(e, dtype, index_of) for e in elements]
    return np.array(numbers, dtype).reshape(shape)


def _flatten(value: Value, shape: tuple[int, ...], out: list[Value]) -> None:
    if value.kind != "array" or len(value.value) != shape[0]:
        found = f"{len(value.value)} of them" if value.kind == "array" else f"a {value.kind}"
        raise FaultError("list has another shape", value.start, value.length, expected=f"{shape[0]} items", found=found)
    for item in value.value:
        if len(shape) > 1:
            _flatten(item, shape[1:], out)
        else:
            out.append(item)


def _element(value: Value, dtype: np.dtype[Any], index_of: Callable[[Token], int]) -> int | float | bool:
    number = index_of(Token(value.value, value.start)) if value.kind == "agu" else value.value
    good = isinstance(number, bool) if dtype.kind == "b" else type(number) is int
    if dtype.kind == "f":
        good = type(number) in (int, float)
        with np.errstate(over="ignore"):
            good = good and abs(number) < 1 << 1023 and bool(np.isfinite(dtype.type(number)))
    elif good and dtype.kind in "iu":
        info = np.iinfo(dtype)
        good = info.min <= number <= info.max
    if not good:
        found = value.value if value.kind in ("number", "string", "word") else f"a {value.kind}"
        raise FaultError(f"not an element of type {dtype.name}", value.start, value.length, found=repr(found)[:40])
    result: int | float | bool = number
    return result
