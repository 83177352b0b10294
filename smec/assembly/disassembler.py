"""From a program to assembly text: the inverse of `smec.assembly.assembler`.

What is written out: metadata, buffers, the table of address generators, instructions, and short tables. Long sections
go to a side file; the text has their digests. Comments say what a number does not: layers, tiles, regions.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from smec.assembly.affine import format_generator
from smec.assembly.arrays import can_spell, digest, fold, spell
from smec.assembly.assembler import SPELLED, VERSION
from smec.assembly.labels import Labels, comment, counted
from smec.ir.isa_sections import (
    SECTION_BY_NAME,
    SPACE_NAMES,
    dtype_of_code,
    empty_sections,
)
from smec.ir.isa_table import Decoded, decode
from smec.runtime.container import Program


def disassemble(program: Program, side: str = "program.safetensors") -> tuple[str, dict[str, np.ndarray]]:
    """The text of a valid program, and the sections that the side file called `side` has to hold (maybe none)."""
    return _Disassembler(program).run(side)


class _Disassembler:
    def __init__(self, program: Program) -> None:
        self.program = program
        self.sections = program.sections
        # As a reader of the program's file sees it: plain JSON, keys in order.
        self.metadata: dict[str, Any] = json.loads(json.dumps(program.metadata, sort_keys=True, default=_python))
        self.names = [f"{SPACE_NAMES[row[1]]}{i}" for i, row in enumerate(self.sections["buffers"].tolist())]
        self.generators = self._generators()
        self.labels = Labels(program)
        self.out: list[str] = []

    def _generators(self) -> list[str]:
        """The expression of each row of `agus`; equal rows, but the first of them, name their number."""
        known: dict[tuple[int, ...], int] = {}
        texts = []
        for index, row in enumerate(self.sections["agus"].tolist()):
            first = known.setdefault(tuple(row), index)
            text = format_generator(row, self.names[row[0]])
            texts.append(text if first == index else f"{text}#{index}")
        return texts

    def run(self, side: str) -> tuple[str, dict[str, np.ndarray]]:
        arrays: dict[str, np.ndarray] = {}
        tables = self._tables(arrays)
        self.out.append(f".smeasm {VERSION}")
        self.out.append(f"// {comment(self._summary())}")
        if arrays:
            self.out.append(f".side {json.dumps(side)}")
        self._metadata()
        self._buffers()
        self._agus()
        self.out += tables
        self._cores()
        return "\n".join([*self.out, ""]), arrays

    def _summary(self) -> str:
        source = self.metadata["source"]["file"]
        counts = {"instruction": "code", "core": "core_table", "tile": "tile_xbars", "block": "xbar_phys"}
        return f"{source}: " + ", ".join(counted(len(self.sections[name]), what) for what, name in counts.items())

    # -- parts

    def _metadata(self) -> None:
        self.out.append("")
        for key, value in self.metadata.items():
            name = key if key.isidentifier() and key.isascii() else json.dumps(key)
            ports = key in ("inputs", "outputs")
            self.out.append(f".meta {name} = {self._value(value, '  ', ports)}")

    def _value(self, value: Any, indent: str, ports: bool) -> str:
        """A JSON value, folded; the key `agu` of a port is an address generator."""
        if isinstance(value, dict):
            parts = []
            for key, item in value.items():
                text = self.generators[item] if ports and key == "agu" else self._value(item, indent + "  ", ports)
                parts.append(f"{json.dumps(key)}: {text}")
            return fold(parts, "{", "}", indent)
        if isinstance(value, list):
            parts = [self._value(v, indent + "  ", ports) for v in value]
            if any("\n" in part for part in parts):
                return "[\n" + ",\n".join(indent + part for part in parts) + f"\n{indent[:-2]}]"
            return fold(parts, "[", "]", indent)
        return json.dumps(value)

    def _buffers(self) -> None:
        self.out.append("")
        rows = self.sections["buffers"].tolist()
        for index, (name, (core, space, base, size, code)) in enumerate(zip(self.names, rows, strict=True)):
            line = f".buffer {name}: {dtype_of_code(code).name}[{size}] {SPACE_NAMES[space]} core {core} at {base}"
            self._line(line, self.labels.buffer(index))

    def _agus(self) -> None:
        self.out += ["", ".agus"]
        self.out += [f"  {text}  // {index}" for index, text in enumerate(self.generators)]

    def _tables(self, arrays: dict[str, np.ndarray]) -> list[str]:
        lines = [""]
        empty = empty_sections(self.program.hardware)
        rest = sorted(name for name in self.sections if name not in SECTION_BY_NAME)
        for name in [*SECTION_BY_NAME, *rest]:
            array = self.sections[name]
            if name in SPELLED or (name in empty and not array.size and array.shape == empty[name].shape):
                continue
            label = name if name.replace(".", "_").isidentifier() and name.isascii() else json.dumps(name)
            head = f".section {label}: {array.dtype.name}[{', '.join(map(str, array.shape))}]"
            if name in SECTION_BY_NAME and can_spell(array):
                lines.append(f"{head} = {spell(array)}")
            else:
                arrays[name] = array
                lines.append(f"{head} {digest(array)}")
        return lines

    # -- instructions

    def _cores(self) -> None:
        for core, (first, count) in enumerate(self.sections["core_table"].tolist()):
            self.out += ["", f".core {core}"]
            shown: int | None = None
            for step in decode(self.sections["code"][first : first + count]):
                layer = self.labels.layer_of(step)
                if layer is not None and layer != shown:
                    self.out += ["", f"  // {self.labels.layer(layer)}"]
                    shown = layer
                self._line(f"  {self._instruction(step)}", self.labels.instruction(step))

    def _instruction(self, step: Decoded) -> str:
        parts = []
        kinds = {operand.name: operand.kind for operand in step.instruction.operands}
        for name, value in step.written.items():
            parts.append(f"{name}={self.generators[value] if kinds[name] in ('agu', 'window') else value}")
        return f"{step.mnemonic} {', '.join(parts)}".rstrip()

    def _line(self, text: str, note: str) -> None:
        self.out.append(f"{text}  // {note}" if note else text)


def _python(value: object) -> object:
    """NumPy numbers and arrays as JSON knows them."""
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    raise TypeError(type(value).__name__)
