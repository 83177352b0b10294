"""Address generators as affine expressions: `act3[35 + 34*i + j; i<32, j<32]` visits 35, 36, ..., 67, 69, ...

Variables are i, j, k, l, m, n; the bounds list them outermost first, and one without a term has stride 0. Outer
dimensions of count 1 and stride 0, which fill a row of `agus` up to six, are not written. `#5` behind the bracket names
the row of the table where several rows are equal.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches

from smec.assembly.faults import FaultError
from smec.ir.isa_sections import AGU_DIMS

VARIABLES = "ijklmn"

_generator = re.compile(r"([A-Za-z_][A-Za-z0-9_.]*)\[([^\[\];]*)(?:;([^\[\];]*))?\](?:#([0-9]+))?")
_bound = re.compile(r"\s*([a-z])\s*<\s*([0-9]{1,18})\s*(,|$)")
_term = re.compile(r"\s*([+\-]?)\s*(?:([0-9]{1,18})(?:\s*\*\s*([a-z]))?|([a-z]))(?![0-9A-Za-z_])\s*")


def format_generator(row: Sequence[int], buffer: str) -> str:
    """One row of `agus` (plain integers) as an expression on the buffer of that name."""
    dims = list(zip(row[2::2], row[3::2], strict=True))
    while dims and dims[0] == (1, 0):
        del dims[0]
    terms = [(row[1], "")] if row[1] or not any(stride for _, stride in dims) else []
    terms += [(stride, name) for (_, stride), name in zip(dims, VARIABLES) if stride]
    text = ""
    for value, name in terms:
        size = abs(value)
        body = str(size) if not name else name if size == 1 else f"{size}*{name}"
        sign = "-" if value < 0 else "+"
        text += f" {sign} {body}" if text else f"{sign.strip('+')}{body}"
    bounds = ", ".join(f"{name}<{count}" for (count, _), name in zip(dims, VARIABLES))
    return f"{buffer}[{text}; {bounds}]" if bounds else f"{buffer}[{text}]"


def parse_generator(text: str, buffers: Mapping[str, int]) -> tuple[tuple[int, ...], int | None]:
    """The row of `agus` that an expression stands for, and the index that it names.

    Raises:
        FaultError: the expression is malformed, or its buffer is unknown; offsets are within `text`.
    """
    match = _generator.fullmatch(text)
    if match is None:
        raise FaultError("malformed address generator", 0, len(text), expected="name[35 + 34*i + j; i<32, j<32]")
    name = match[1]
    if name not in buffers:
        close = get_close_matches(name, buffers, n=1, cutoff=0.7) if len(buffers) < 10_000 else []
        hint = f"did you mean '{close[0]}'?" if close else None
        raise FaultError(f"unknown buffer '{name}'", 0, len(name), hint=hint)
    dims = _bounds(match[3] or "", match.start(3))
    if len(dims) > AGU_DIMS:
        raise FaultError("too many dimensions", match.start(3), len(match[3]), expected=AGU_DIMS, found=len(dims))
    offset, strides = _sum(match[2], match.start(2), dims)
    row = [buffers[name], offset, *(1, 0) * (AGU_DIMS - len(dims))]
    for variable, count in dims.items():
        row += [count, strides.get(variable, 0)]
    return tuple(row), None if match[4] is None else int(match[4])


def _bounds(text: str, start: int) -> dict[str, int]:
    """Variable to count, outermost first."""
    dims: dict[str, int] = {}
    at, more = 0, bool(text.strip())
    while more:
        match = _bound.match(text, at)
        if match is None:
            raise FaultError("malformed bound", start + at, max(1, len(text) - at), expected="i<32")
        if match[1] in dims:
            raise FaultError(f"variable '{match[1]}' has two bounds", start + match.start(1))
        dims[match[1]] = int(match[2])
        at, more = match.end(), bool(match[3])
    return dims


def _sum(text: str, start: int, dims: Mapping[str, int]) -> tuple[int, dict[str, int]]:
    """Constant part, and stride of each variable."""
    offset: int | None = None
    strides: dict[str, int] = {}
    at = 0
    while at < len(text) or at == 0:
        match = _term.match(text, at)
        if match is None or (at > 0 and not match[1]):
            where = at + len(text[at:]) - len(text[at:].lstrip())
            raise FaultError("malformed sum", start + where, max(1, len(text) - where), expected="35 + 34*i + j")
        sign, number, factor, alone = match.groups()
        value = int(number or 1) * (-1 if sign == "-" else 1)
        variable = factor or alone
        if variable is None:
            if offset is not None:
                raise FaultError("sum has two constants", start + match.start(2), len(number))
            offset = value
        else:
            where = start + match.start(3 if factor else 4)
            if variable not in dims:
                raise FaultError(f"variable '{variable}' has no bound", where, expected=f"; {variable}<COUNT")
            if variable in strides:
                raise FaultError(f"variable '{variable}' stands twice in the sum", where)
            strides[variable] = value
        at = match.end()
    return offset or 0, strides
