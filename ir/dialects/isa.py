"""The `isa` dialect: instructions as operations, and everything public about the instruction set.

    isa.program {section_names = [...], section_data = [...]} ({   // data sections; `metadata` is a JSON text
      isa.core ({                                                   // one a core, in order
        isa.mvm {dst = 3, src = 1, tile = 0}
        isa.halt {}
      })
    })

The instruction operations are derived from the table in `smec.ir.isa_table`: attributes are named after operands.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from smec.ir.core import Block, Operation, Region, attr, region, tuple_attr
from smec.ir.errors import SmecError
from smec.ir.isa_machine import Machine, reference_run, run_machine
from smec.ir.isa_sections import (
    DTYPE_CODES,
    SECTIONS,
    SPACE_ACC,
    SPACE_ACT,
    SPACE_HOST,
    SPACE_NAMES,
    Hardware,
    Sizes,
    agu_addresses,
    agu_row,
    agu_view,
    dtype_code,
    dtype_of_code,
    empty_sections,
    merge_dims,
)
from smec.ir.isa_table import (
    INSTRUCTIONS,
    KINDS,
    TYPES,
    WORDS,
    Decoded,
    Instruction,
    Operand,
    Words,
    by_instruction,
    check_words,
    decode,
    encode,
    program_cycles,
)
from smec.ir.types import Handle, Location

__all__ = [
    "DTYPE_CODES",
    "INSTRUCTIONS",
    "KINDS",
    "SECTIONS",
    "SPACE_ACC",
    "SPACE_ACT",
    "SPACE_HOST",
    "SPACE_NAMES",
    "TYPES",
    "WORDS",
    "CoreOp",
    "Decoded",
    "Hardware",
    "Instruction",
    "InstructionOp",
    "Machine",
    "Operand",
    "ProgramOp",
    "Sizes",
    "Words",
    "agu_addresses",
    "agu_row",
    "agu_view",
    "by_instruction",
    "check_words",
    "decode",
    "dtype_code",
    "dtype_of_code",
    "empty_sections",
    "encode",
    "isa_markdown",
    "merge_dims",
    "program_cycles",
    "reference_run",
    "run_machine",
    "to_ir",
    "to_words",
]


class InstructionOp(Operation):
    """Base of the instruction operations `isa.<mnemonic>`."""

    instruction: Instruction

    def encode(self) -> list[int]:
        """The instruction's eight words; SmecError at this operation for a bad operand."""
        operands = self.numbers()
        try:
            return self.instruction.encode(**operands)
        except SmecError as error:
            raise self.error(error.message, expected=error.expected, found=error.found) from None

    def numbers(self) -> dict[str, int]:
        """The operands by name; SmecError at this operation for one that is missing or no integer."""
        numbers = {}
        for operand in self.instruction.operands:
            value = self.attributes.get(operand.name, 0 if operand.optional else None)
            if type(value) is not int:
                raise self.error(f"bad operand '{operand.name}'", expected="an integer", found=repr(value))
            numbers[operand.name] = value
        return numbers

    def verify(self) -> None:
        """Every operand fits its bits."""
        self.encode()

    def execute(self, machine: Machine) -> None:
        """The definition of the operation: its effect on a machine state."""
        self.instruction.semantics(machine, SimpleNamespace(**self.numbers()))


def _declare(instruction: Instruction) -> type[InstructionOp]:
    """The operation class of one row of the table."""
    members: dict[str, Any] = {
        operand.name: attr(int, default=0, doc=operand.doc) if operand.optional else attr(int, doc=operand.doc)
        for operand in instruction.operands
    }
    members |= {
        "name": f"isa.{instruction.mnemonic}",
        "instruction": instruction,
        "__doc__": instruction.doc,
        "__module__": __name__,
    }
    return type(f"{instruction.mnemonic.capitalize()}Op", (InstructionOp,), members)


#: Operation classes by mnemonic.
OPS: dict[str, type[InstructionOp]] = {instruction.mnemonic: _declare(instruction) for instruction in INSTRUCTIONS}


class CoreOp(Operation):
    """The instruction stream of one core."""

    name = "isa.core"
    body = region()

    def verify(self) -> None:
        """Instructions only, and a halt at the end."""
        ops = list(self.regions[0].block.ops)
        for op in ops:
            if not isinstance(op, InstructionOp):
                raise op.error("not an instruction", expected="isa.<mnemonic>", found=op.name)
        if not ops or ops[-1].name != "isa.halt":
            raise self.error("the stream does not end", expected="isa.halt", found=ops[-1].name if ops else "nothing")


class ProgramOp(Operation):
    """A whole program: cores, data sections (all but `code` and `core_table`) and the metadata document as JSON."""

    name = "isa.program"
    section_names = tuple_attr(str)
    section_data = tuple_attr(Handle)
    metadata = attr(str)
    body = region()

    def verify(self) -> None:
        """Cores only; a name for each section."""
        if len(self.section_names) != len(self.section_data):
            raise self.error(
                "sections and names differ in number", expected=len(self.section_names), found=len(self.section_data)
            )
        for op in self.regions[0].block.ops:
            if not isinstance(op, CoreOp):
                raise op.error("not a core", expected="isa.core", found=op.name)

    def interpret(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
        """Run the program on its inputs in the order of the metadata; outputs likewise."""
        sections, metadata = to_words(self)
        names = [entry["name"] for entry in metadata["inputs"]]
        program = SimpleNamespace(sections=sections, metadata=metadata)
        return list(reference_run(program, dict(zip(names, inputs, strict=True))).values())


def to_ir(sections: Mapping[str, np.ndarray], metadata: Mapping[str, Any], file: str = "<program>") -> ProgramOp:
    """Sections and metadata of a program as IR. Each instruction's location is its index in the code."""
    cores = []
    for core, (first, count) in enumerate(sections["core_table"].tolist()):
        ops = [
            OPS[step.mnemonic].create(
                attributes=dict(step.written), location=Location(file, f"instruction {first + i}")
            )
            for i, step in enumerate(decode(sections["code"][first : first + count]))
        ]
        cores.append(CoreOp.create(regions=[Region([Block(ops=ops)])], location=Location(file, f"core {core}")))
    data = {name: array for name, array in sections.items() if name not in ("code", "core_table")}
    attributes: dict[str, Any] = {
        "section_names": tuple(data),
        "section_data": tuple(Handle(array) for array in data.values()),
        "metadata": json.dumps(metadata, sort_keys=True),
    }
    return ProgramOp.create(attributes=attributes, regions=[Region([Block(ops=cores)])], location=Location(file))


def to_words(program: ProgramOp) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Sections and metadata of IR: the inverse of `to_ir`. SmecError, at the operation, for a bad instruction."""
    words: list[list[int]] = []
    table: list[tuple[int, int]] = []
    for core in program.regions[0].block.ops:
        core.verify()
        stream = [op.encode() for op in core.regions[0].block.ops if isinstance(op, InstructionOp)]
        table.append((len(words), len(stream)))
        words += stream
    sections: dict[str, np.ndarray] = {
        "code": np.array(words, np.uint32).reshape(-1, WORDS),
        "core_table": np.array(table, np.int64).reshape(-1, 2),
    }
    sections |= {name: handle.array for name, handle in zip(program.section_names, program.section_data, strict=True)}
    return sections, dict(json.loads(program.metadata))


_INTRO = f"""\
# Instruction set

<!-- Generated from the table in `smec.ir.isa_table`; do not edit. -->

An instruction is {WORDS} 32-bit words: the opcode, then the operands; words that are not used are 0. `A` is the number
of bits of an activation, `d` that of the DAC. Float arithmetic is float32, one rounded operation at a time; `rint`
rounds half to even. Cycles of unit `read` are the target's crossbar read cycles, those of unit `clock` its clock
cycles; both are for one image.
"""

_FURTHER_SECTIONS = """\
R and C are the rows and columns of the target's crossbars. Further sections: `host.<i>` (uint8, serialized ONNX
models), `sample.<input>` (calibration inputs, images first), `model` (uint8, text of the quant-level IR),
`weights.<digest>` (its arrays).
"""


def _table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)


def isa_markdown() -> str:
    """The documentation page of the instruction set, derived from the table."""
    summary = _table(
        ["opcode", "instruction", "meaning", "cycles", "unit"],
        (
            [row.opcode, f"`{row.mnemonic}`", row.doc, (row.cycles.__doc__ or "").strip(), row.unit]
            for row in INSTRUCTIONS
        ),
    )
    parts = [_INTRO, summary, "## Operands\n"]
    for row in INSTRUCTIONS:
        if row.operands:
            parts += [
                f"### {row.mnemonic}\n",
                row.doc + "\n",
                _table(["operand", "word", "bits", "kind", "what it is"], _places(row)),
            ]
    parts += [
        "## Operand kinds\n",
        _table(["kind", "meaning"], KINDS.items()),
        "## Data sections\n",
        _table(
            ["section", "dtype", "shape", "contents"],
            ([f"`{spec.name}`", spec.dtype, ", ".join(map(str, spec.shape)), spec.doc] for spec in SECTIONS),
        ),
        _FURTHER_SECTIONS,
    ]
    return "\n".join(parts)


def _places(instruction: Instruction) -> Iterable[Sequence[object]]:
    """Rows of an instruction's operand table."""
    for place in instruction.places:
        operand = place.operand
        kind = f"{operand.kind} ({TYPES[operand.types]})" if operand.types else operand.kind
        yield operand.name, place.word, f"{place.shift}..{place.shift + place.bits - 1}", kind, operand.doc
