"""From assembly text to a program: names to numbers, numbers to words, and every error at its place in the text.

Buffers are numbered in the order of the text. Address generators are numbered as `.agus` lists them, then as they
appear: an expression whose row is in the table stands for that row, any other joins it. Sections that the text does not
mention are empty; metadata that it does not mention has the values of `_DEFAULTS`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from pathlib import PurePath
from typing import Any, cast

import numpy as np

from smec.assembly.affine import parse_generator
from smec.assembly.arrays import DTYPES, digest, fill
from smec.assembly.faults import FaultError
from smec.assembly.parser import (
    Agus,
    Buffer,
    Core,
    Instruction,
    Item,
    Meta,
    Section,
    Side,
    Token,
    Value,
    parse,
    unquote,
)
from smec.ir.errors import SmecError
from smec.ir.isa_sections import (
    AGU_WIDTH,
    SECTIONS,
    SPACE_NAMES,
    Hardware,
    dtype_code,
    empty_sections,
    section_known,
)
from smec.ir.isa_table import INSTRUCTIONS, WORDS
from smec.ir.isa_table import Instruction as Row
from smec.program import Program

VERSION = "1"

#: Sections that the text spells with directives of their own.
SPELLED = ("code", "core_table", "buffers", "agus")

#: Metadata of a program whose text says nothing else.
_DEFAULTS: dict[str, Any] = {
    "act_bits": 8,
    "options": {},
    "inputs": [],
    "outputs": [],
    "layers": [],
    "host": [],
    "macs_crossbar": 0,
    "macs_host": 0,
    "crossbars_dense_16": 0,
    "crossbars_dense_8": 0,
}

_AGU_KINDS = ("agu", "window")


class Assembler:
    """Assembles one text; `places` remembers where everything stands, for errors that the validator finds."""

    def __init__(self, arrays: Mapping[str, np.ndarray] | None) -> None:
        self.arrays = arrays
        self.places: dict[tuple[str, int | str], Token] = {}
        self.buffers: dict[str, int] = {}
        self.buffer_rows: list[list[int]] = []
        self.agus: list[tuple[int, ...]] = []
        self.agu_index: dict[tuple[int, ...], int] = {}
        self.agu_texts: dict[str, int] = {}
        self.words: list[list[int]] = []
        self.core_table: list[list[int]] = []
        self.sections: dict[str, np.ndarray] = {}
        self.metadata: dict[str, Any] = {}

    def run(self, items: list[Item], file: str) -> Program:
        for kinds in ((Buffer,), (Agus,), (Side, Meta, Section, Core)):
            for item in items:
                if isinstance(item, kinds):
                    _HANDLERS[type(item)](self, item)
        return self.program(file)

    # -- items

    def side(self, item: Side) -> None:
        """The file was read before the text was assembled."""

    def buffer(self, item: Buffer) -> None:
        name = item.name.text
        if name in self.buffers:
            raise _at(item.name, f"buffer '{name}' is defined twice")
        dtype, shape = self.type(item.type)
        if len(shape) != 1:
            raise _at(item.type, "buffer is not flat", expected=f"{dtype.name}[elements]", found=item.type.text)
        if item.space.text not in SPACE_NAMES:
            raise _at(item.space, "unknown space", expected=" or ".join(SPACE_NAMES), found=repr(item.space.text))
        core, space = int(item.core.text), SPACE_NAMES.index(item.space.text)
        free = max((r[2] + r[3] for r in self.buffer_rows if r[:2] == [core, space]), default=0)
        base = free if item.base is None else int(item.base.text)
        self.places["buffer", len(self.buffer_rows)] = item.name
        self.buffers[name] = len(self.buffer_rows)
        self.buffer_rows.append([core, space, base, shape[0], dtype_code(dtype)])

    def table(self, item: Agus) -> None:
        for token in item.rows:
            row, index = self.generator(token)
            if index is not None and index != len(self.agus):
                raise _at(token, "row has another number", expected=f"#{len(self.agus)}", found=f"#{index}")
            self.add_agu(row, token)

    def meta(self, item: Meta) -> None:
        key = item.key.text[:-1].rstrip()
        if key.startswith('"'):
            key = unquote(Token(key, item.key.start))
        if key in self.metadata:
            raise _at(item.key, f"metadata '{key}' is given twice")
        self.places["metadata", key] = item.key
        value = self.plain(item.value)
        if key == "target" and (isinstance(value, str) or (isinstance(value, dict) and "inherits" in value)):
            from smec import targets

            try:
                value = targets.from_values({"inherits": value} if isinstance(value, str) else value).model_dump()
            except SmecError as error:
                token = Token("", item.value.start)
                raise _at(token, error.message, expected=error.expected, found=error.found) from None
        self.metadata[key] = value

    def section(self, item: Section) -> None:
        name = unquote(item.name) if item.name.text.startswith('"') else item.name.text
        if name in SPELLED:
            raise _at(item.name, f"section '{name}' follows from buffers, address generators and instructions")
        if not section_known(name):
            close = get_close_matches(name, [s.name for s in SECTIONS], n=1)
            raise _at(item.name, f"unknown section '{name}'", hint=f"did you mean '{close[0]}'?" if close else None)
        if name in self.sections:
            raise _at(item.name, f"section '{name}' is given twice")
        self.places["section", name] = item.name
        dtype, shape = self.type(item.type)
        if isinstance(item.content, Value):
            self.sections[name] = fill(item.content, dtype, shape, self.index_of)
        else:
            self.sections[name] = self.stored(name, item.content, dtype, shape)

    def stored(self, name: str, token: Token, dtype: np.dtype[Any], shape: tuple[int, ...]) -> np.ndarray:
        """A section of the side file, checked."""
        if self.arrays is None:
            raise _at(token, f"section '{name}' is in a side file, and there is none", expected='.side "FILE"')
        array = self.arrays.get(name)
        if array is None:
            raise _at(token, f"the side file has no section '{name}'")
        if array.dtype != dtype or array.shape != shape:
            found = f"{array.dtype.name} {list(array.shape)}"
            raise _at(
                token, f"section '{name}' of the side file is another", expected=f"{dtype} {list(shape)}", found=found
            )
        found = digest(array)
        if found != token.text:
            raise _at(token, f"section '{name}' of the side file has other contents", found=found[:23] + "...")
        return array

    def core(self, item: Core) -> None:
        if int(item.number.text) != len(self.core_table):
            raise _at(item.number, "cores are not in order", expected=len(self.core_table), found=item.number.text)
        self.places["core", len(self.core_table)] = item.number
        self.core_table.append([len(self.words), len(item.instructions)])
        for instruction in item.instructions:
            self.places["instruction", len(self.words)] = instruction.mnemonic
            self.words.append(self.encode(instruction))

    # -- parts

    def type(self, token: Token) -> tuple[np.dtype[Any], tuple[int, ...]]:
        """Dtype and shape of `uint8[3, 128]`."""
        name, _, rest = token.text.partition("[")
        if name not in DTYPES:
            raise _at(token, "unknown element type", expected=" or ".join(DTYPES), found=repr(name))
        parts = [part.strip() for part in rest[:-1].split(",")] if rest[:-1].strip() else []
        if not all(part.isdigit() and len(part) <= 12 for part in parts) or len(parts) > 8:
            raise _at(token, "malformed shape", expected="up to 8 extents", found=token.text)
        return DTYPES[name], tuple(map(int, parts))

    def generator(self, token: Token) -> tuple[tuple[int, ...], int | None]:
        try:
            return parse_generator(token.text, self.buffers)
        except FaultError as fault:
            raise fault.shifted(token.start) from None

    def add_agu(self, row: tuple[int, ...], token: Token) -> int:
        index = len(self.agus)
        self.places["address generator", index] = token
        self.agus.append(row)
        return self.agu_index.setdefault(row, index)

    def index_of(self, token: Token) -> int:
        """Index of an address generator; a new one joins the table."""
        known = self.agu_texts.get(token.text)
        if known is not None:
            return known
        row, index = self.generator(token)
        if index is None:
            found = self.agu_index.get(row)
            index = self.add_agu(row, token) if found is None else found
        elif index >= len(self.agus) or self.agus[index] != row:
            raise _at(token, f"row {index} of the table is another address generator")
        self.agu_texts[token.text] = index
        return index

    def plain(self, value: Value) -> Any:
        """Metadata as plain Python."""
        if value.kind == "array":
            return [self.plain(item) for item in value.value]
        if value.kind == "object":
            members: dict[str, Any] = {}
            for member in value.value:
                key = unquote(member.key)
                if key in members:
                    raise _at(member.key, f"key '{key}' is given twice")
                members[key] = self.plain(member.value)
            return members
        if value.kind == "agu":
            return self.index_of(Token(value.value, value.start))
        return value.value

    def encode(self, item: Instruction) -> list[int]:
        mnemonic = item.mnemonic.text
        try:
            row = Row.by_mnemonic(mnemonic)
        except SmecError as error:
            close = get_close_matches(mnemonic, [i.mnemonic for i in INSTRUCTIONS], n=1)
            hint = f"did you mean '{close[0]}'?" if close else f"instructions: {error.expected}"
            raise _at(item.mnemonic, f"unknown instruction '{mnemonic}'", hint=hint) from None
        kinds = {operand.name: operand.kind for operand in row.operands}
        values: dict[str, int] = {}
        tokens: dict[str, Token] = {}
        for key, token in item.operands:
            name = key.text[:-1].rstrip()
            if name not in kinds:
                expected = ", ".join(kinds) or "no operands"
                raise _at(key, f"'{mnemonic}' has no operand '{name}'", expected=expected)
            if name in values:
                raise _at(key, f"operand '{name}' is given twice")
            wants, given = kinds[name] in _AGU_KINDS, token.text.endswith("]") or "#" in token.text
            if wants != given:
                expected = "an address generator, as act0[i; i<16]" if wants else "a number"
                raise _at(token, f"wrong value for operand '{name}'", expected=expected, found=token.text)
            values[name] = self.index_of(token) if wants else int(token.text)
            tokens[name] = token
        missing = [o.name for o in row.operands if o.name not in values and not o.optional]
        if missing:
            raise _at(item.mnemonic, f"'{mnemonic}' lacks its operand '{missing[0]}'", expected=", ".join(kinds))
        try:
            return row.encode(**values)
        except SmecError as error:
            named = re.search(r"operand '(\w+)'", error.message)
            token = tokens.get(named[1], item.mnemonic) if named else item.mnemonic
            raise _at(token, error.message, expected=error.expected, found=error.found) from None

    # -- the whole

    def program(self, file: str) -> Program:
        from smec.driver import version

        if "target" not in self.metadata:
            raise FaultError("program has no target", 0, expected='.meta target = "sme"')
        if not self.core_table:
            raise FaultError("program has no core", 0, expected=".core 0")
        defaults = {"smec_version": version(), "source": {"file": PurePath(file).name, "sha256": ""}}
        try:
            empty = empty_sections(Hardware.from_dict(_target(self.metadata)))
            sections = {
                **empty,
                **self.sections,
                "code": np.array(self.words, np.uint32).reshape(-1, WORDS),
                "core_table": np.array(self.core_table, np.int64).reshape(-1, 2),
                "buffers": np.array(self.buffer_rows, np.int64).reshape(-1, 5),
                "agus": np.array(self.agus, np.int64).reshape(-1, AGU_WIDTH),
            }
            crossbars = {"crossbars": len(sections["cells"]), "blocks": len(sections["xbar_phys"])}
            metadata = {**_DEFAULTS, **defaults, **crossbars, **self.metadata}
            program = Program(sections, cast("Any", metadata))
            program.validate()
        except SmecError as error:
            token = self.place_of(error.message)
            length = max(1, len(token.text))
            details = {"expected": error.expected, "found": error.found, "hint": error.hint}
            raise FaultError(error.message, token.start, length, **details) from None
        return program

    def place_of(self, message: str) -> Token:
        """Where what the validator speaks of stands in the text; its beginning, if nowhere."""
        for pattern, kind in _SUBJECTS:
            match = re.search(pattern, message)
            if match:
                number = match[1]
                found = self.places.get((kind, int(number) if number.isdigit() else number))
                if found is not None:
                    return found
        for words, key in _TOPICS.items():
            place = self.places.get(key)
            if place is not None and re.search(words, message):
                return place
        return Token("", 0)


#: What messages of the validator begin with, and what that is here.
_SUBJECTS = (
    (r"\binstruction (\d+)", "instruction"),
    (r"\bbuffer (\d+)", "buffer"),
    (r"\baddress generator (\d+)", "address generator"),
    (r"\bcore (\d+)", "core"),
    (r"\bsection '([^']+)'", "section"),
    (r"\bmetadata\.(\w+)", "metadata"),
)
_TOPICS: dict[str, tuple[str, int | str]] = {
    r"\bbad value of": ("metadata", "target"),
    r"\binputs? ": ("metadata", "inputs"),
    r"\boutputs? ": ("metadata", "outputs"),
    r"\blayers? ": ("metadata", "layers"),
    r"\btiles? \d+": ("section", "tile_xbars"),
    r"\bcrossbar \d+": ("section", "xbar_place"),
    r"\bplaces ": ("section", "xbar_phys"),
    r"\bhost sections": ("metadata", "host"),
}

_HANDLERS: dict[type, Callable[[Assembler, Any], None]] = {
    Side: Assembler.side,
    Buffer: Assembler.buffer,
    Agus: Assembler.table,
    Meta: Assembler.meta,
    Section: Assembler.section,
    Core: Assembler.core,
}


def _target(metadata: Mapping[str, Any]) -> Mapping[str, Any]:
    target = metadata["target"]
    if not isinstance(target, dict):
        raise SmecError("metadata.target has the wrong type", expected="an object or the name of a preset")
    return target


def _at(token: Token, message: str, **details: Any) -> FaultError:
    return FaultError(message, token.start, max(1, len(token.text)), **details)


def read(text: str, file: str = "<text>") -> tuple[list[Item], str | None]:
    """The items of a text, and the name of its side file.

    Raises:
        SmecError: the text is malformed, at line and column.
    """
    try:
        version, items = parse(text)
        if version.text != VERSION:
            raise _at(version, "unknown version of the assembly language", expected=VERSION, found=version.text)
        names = [item.file for item in items if isinstance(item, Side)]
        if len(names) > 1:
            raise _at(names[1], "two side files")
        side = unquote(names[0]) if names else None
        if side is not None and (not side or not side.isprintable() or PurePath(side).name != side or "\\" in side):
            raise _at(names[0], "side file is not a plain file name", found=repr(side))
    except FaultError as fault:
        raise fault.located(text, file) from None
    return items, side


def assemble(text: str, file: str = "<text>", arrays: Mapping[str, np.ndarray] | None = None) -> Program:
    """The program that a text spells, validated.

    Args:
        text: assembly.
        file: its name, in messages.
        arrays: the sections of its side file, by name; each is checked against the digest in the text.

    Raises:
        SmecError: at line and column.
    """
    items, _ = read(text, file)
    return assemble_items(items, text, file, arrays)


def assemble_items(items: list[Item], text: str, file: str, arrays: Mapping[str, np.ndarray] | None) -> Program:
    """The second step of `assemble`."""
    try:
        return Assembler(arrays).run(items, file)
    except FaultError as fault:
        raise fault.located(text, file) from None
