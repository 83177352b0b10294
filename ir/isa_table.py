"""The instruction set: one table, from which encoder, decoder, checks, timing, IR ops and documentation are derived.

An instruction is eight 32-bit words: the opcode, then up to seven operand words; words that an instruction does not use
are 0. An operand fills one word, or (`half`) the lower or upper 16 bits of one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

from smec.ir import isa_cycles as formula
from smec.ir import isa_semantics as meaning
from smec.ir.errors import SmecError
from smec.ir.isa_cycles import SizeOf
from smec.ir.isa_sections import IntArray, Sizes

Words = npt.NDArray[np.uint32]

WORDS = 8
_NO_OPERANDS = (0,) * (WORDS - 1)

#: What an operand stands for.
KINDS = {
    "agu": "an address generator: index into `agus`",
    "window": "an address generator of offset 0 on the source's buffer; its addresses are added to each of src's",
    "tile": "a tile: index into the `tile_*` sections",
    "pool_f32": "first entry of a table in `pool_f32`",
    "pool_i64": "first entry of a table in `pool_i64`",
    "pool_u16": "first entry of a table in `pool_u16`",
    "layer": "index into the metadata's `layers`: where saturation is counted and integers are compared",
    "core": "a core",
    "token": "a number that pairs a send with its receive",
    "host": "a host region: the section `host.<i>`",
    "imm": "an unsigned number",
    "imm16": "an unsigned 16-bit number, half a word",
}

#: Element types that an address generator's buffer may have.
TYPES = {"act": "u8 or u16", "acc": "i32 or i64", "f32": "f32", "word": "u8, u16, i32, i64 or f32", "any": "any"}


@dataclass(frozen=True)
class Operand:
    """One operand: its name (also that of the IR attribute), kind and encoding.

    agu: `types` (a key of TYPES) and `access` ("r", "w" or "rw"). pool_*: `count`, how many entries are read. optional:
    0 where it is not given, and not written out where it is 0.
    """

    name: str
    kind: str
    doc: str = ""
    types: str = ""
    access: str = ""
    count: SizeOf | None = None
    half: str = ""
    optional: bool = False


@dataclass(frozen=True)
class Place:
    """Where an operand sits: bits `shift`.. of `word`, `bits` of them."""

    operand: Operand
    word: int
    shift: int
    bits: int


@dataclass(frozen=True)
class Instruction:
    """One row of the table.

    semantics: NumPy definition on a machine state.
    cycles: from operand columns int64 [n] and `Sizes` to cycles int64 [n].
    unit: of the cycles: "read" (the target's crossbar read cycle) or "clock".
    same: operands whose six counts must be those of the first operand.
    channels: whether `length` must be the sixth count of the first operand.
    """

    mnemonic: str
    opcode: int
    operands: tuple[Operand, ...]
    doc: str
    semantics: Callable[[Any, SimpleNamespace], None] = field(repr=False)
    cycles: SizeOf = field(repr=False)
    unit: str = "clock"
    same: tuple[str, ...] = ()
    channels: bool = False

    @cached_property
    def places(self) -> tuple[Place, ...]:
        """The encoding of the operands."""
        places, word = [], 0
        for operand in self.operands:
            word += operand.half != "hi"
            places.append(Place(operand, word, 16 if operand.half == "hi" else 0, 16 if operand.half else 32))
        return tuple(places)

    @staticmethod
    def by_opcode(opcode: int) -> Instruction:
        """The instruction with this opcode; SmecError if there is none."""
        if opcode not in _BY_OPCODE:
            raise SmecError("unknown opcode", expected=f"1 to {len(INSTRUCTIONS)}", found=str(opcode))
        return _BY_OPCODE[opcode]

    @staticmethod
    def by_mnemonic(mnemonic: str) -> Instruction:
        """The instruction of this name; SmecError if there is none."""
        if mnemonic not in _BY_MNEMONIC:
            raise SmecError("unknown instruction", expected=", ".join(_BY_MNEMONIC), found=mnemonic)
        return _BY_MNEMONIC[mnemonic]

    def encode(self, **operands: int) -> list[int]:
        """One instruction's eight words; SmecError for a missing, unknown or too large operand."""
        words = [self.opcode, *_NO_OPERANDS]
        try:
            for name, word, shift, size, optional in self._fields:
                value = operands.get(name, 0) if optional else operands[name]
                if not 0 <= value < size:
                    raise self._misfit(name, size, value)
                words[word] |= value << shift
        except KeyError:
            raise self._wrong_operands(operands) from None
        if not operands.keys() <= self._names:
            raise self._wrong_operands(operands)
        return words

    @cached_property
    def _fields(self) -> tuple[tuple[str, int, int, int, bool], ...]:
        """Name, word, shift and number of values of each operand, and whether it is optional."""
        return tuple((p.operand.name, p.word, p.shift, 1 << p.bits, p.operand.optional) for p in self.places)

    @cached_property
    def _names(self) -> frozenset[str]:
        return frozenset(operand.name for operand in self.operands)

    def _misfit(self, name: str, size: int, found: object) -> SmecError:
        message = f"{self.mnemonic}: operand '{name}' does not fit"
        return SmecError(message, expected=f"0 to {size - 1}", found=found)

    def _wrong_operands(self, found: Iterable[str]) -> SmecError:
        wanted = ", ".join(operand.name for operand in self.operands)
        given = ", ".join(found)
        return SmecError(f"{self.mnemonic}: wrong operands", expected=wanted or "none", found=given or "none")

    def encode_columns(self, n: int, /, **columns: npt.ArrayLike) -> Words:
        """Many instructions as uint32 [n, 8], each operand a number or an array of n."""
        required = {operand.name for operand in self.operands if not operand.optional}
        if not required <= columns.keys() <= self._names:
            raise self._wrong_operands(columns)
        words = np.zeros((n, WORDS), np.uint32)
        words[:, 0] = self.opcode
        for name, word, shift, size, _ in self._fields:
            values = np.asarray(columns.get(name, 0)).astype(np.int64)
            if values.size and (values.min() < 0 or values.max() >= size):
                raise self._misfit(name, size, f"{values.min()} to {values.max()}")
            words[:, word] |= (values << shift).astype(np.uint32)
        return words

    def decode_columns(self, words: Words) -> dict[str, IntArray]:
        """Operand columns, int64 [n] each, of words uint32 [n, 8] that all have this opcode."""
        wide = words.astype(np.int64)
        return {p.operand.name: (wide[:, p.word] >> p.shift) & ((1 << p.bits) - 1) for p in self.places}


@dataclass(frozen=True)
class Decoded:
    """One decoded instruction."""

    instruction: Instruction
    operands: dict[str, int]

    @property
    def mnemonic(self) -> str:
        return self.instruction.mnemonic

    @property
    def written(self) -> dict[str, int]:
        """The operands that texts show: without optional ones that are 0."""
        return {
            o.name: self.operands[o.name] for o in self.instruction.operands if not o.optional or self.operands[o.name]
        }

    def __str__(self) -> str:
        return " ".join([self.mnemonic, *(f"{name}={value}" for name, value in self.written.items())])


def _out(types: str, access: str = "w", name: str = "dst") -> Operand:
    return Operand(name, "agu", "destination", types, access)


def _in(types: str, name: str = "src") -> Operand:
    return Operand(name, "agu", "source", types, "r")


def _table(name: str, pool: str, count: SizeOf, doc: str) -> Operand:
    return Operand(name, pool, doc, count=count)


def _params(n: int, doc: str) -> Operand:
    return _table("params", "pool_f32", lambda _c, _s: n, doc)


_LENGTH = Operand("length", "imm", "channels: the sixth count of the address generators")
_LOHI = (Operand("lo", "imm16", "smallest result", half="lo"), Operand("hi", "imm16", "largest result", half="hi"))
_HI = Operand("hi", "imm", "largest result")
_LAYER = Operand("layer", "layer", "the layer whose accumulators these are")
_ZERO = Operand("zero_point", "imm", "zero point")


def _build() -> tuple[Instruction, ...]:
    rows: list[Instruction] = []

    def op(mnemonic: str, operands: Iterable[Operand], doc: str, cycles: SizeOf = formula.vector, **more: Any) -> None:
        rows.append(
            Instruction(mnemonic, len(rows) + 1, tuple(operands), doc, getattr(meaning, mnemonic), cycles, **more)
        )

    op(
        "mvm",
        [
            _out("acc", "rw"),
            _in("act"),
            Operand("tile", "tile", "the tile to multiply by"),
            Operand("first", "imm16", "first input digit that is read", half="lo", optional=True),
            Operand("digits", "imm16", "input digits that are read, 0: all of them", half="hi", optional=True),
        ],
        "For each pixel p: acc[dst_p + tile_cols[n]] += sum_r (q[src_p + tile_rows[r]] << shift_r) * sign[r, n]"
        " * code[r, n] - tile_offset * sum_r q[src_p + tile_rows[r]]; sign is 1 in tiles without sign blocks. With"
        " `digits`: only reads first .. first + digits - 1 of each row group, and of the last sum only these digits"
        " of q.",
        formula.reads,
        unit="read",
        same=("src",),
    )
    op(
        "init",
        [_out("acc"), _table("table", "pool_i64", formula.length, "one value a channel"), _LENGTH],
        "acc = table[channel].",
        channels=True,
    )
    op("accadd", [_out("acc", "rw"), _in("acc")], "acc += src.", same=("src",))
    op(
        "requant",
        [
            _out("act"),
            _in("acc"),
            _table("mult", "pool_f32", formula.length, "one factor a channel"),
            _table("off", "pool_f32", formula.length, "one offset a channel"),
            _LENGTH,
            *_LOHI,
            _LAYER,
        ],
        "q = clip(rint(f32(acc) * mult[channel] + off[channel]), lo, hi).",
        same=("src",),
        channels=True,
    )
    op(
        "dequant",
        [
            _out("f32"),
            _in("acc"),
            _table("mult", "pool_f32", formula.length, "one factor a channel"),
            _table("bias", "pool_f32", formula.length, "one bias a channel"),
            _LENGTH,
            _table("clamp", "pool_f32", lambda _c, _s: 2, "minimum, maximum"),
            _LAYER,
        ],
        "x = clip(f32(acc) * mult[channel] + bias[channel], minimum, maximum).",
        same=("src",),
        channels=True,
    )
    op(
        "quantize",
        [_out("act"), _in("f32"), _params(1, "scale"), _ZERO, _HI],
        "q = clip(rint(x / scale) + zero_point, 0, hi); zero_point for NaN.",
        same=("src",),
    )
    op(
        "dequantize",
        [_out("f32"), _in("act"), _params(1, "scale"), _ZERO],
        "x = f32(q - zero_point) * scale.",
        same=("src",),
    )
    op(
        "add",
        [_out("act"), _in("act", "a"), _in("act", "b"), _params(3, "ma, mb, off"), *_LOHI],
        "q = clip(rint((f32(a) * ma + f32(b) * mb) + off), lo, hi).",
        same=("a", "b"),
    )
    op(
        "mul",
        [
            _out("act"),
            _in("act", "a"),
            _in("act", "b"),
            _params(2, "m, z"),
            Operand("za", "imm16", "zero point of a", half="lo"),
            Operand("zb", "imm16", "zero point of b", half="hi"),
            *_LOHI,
        ],
        "q = clip(rint(f32((a - za) * (b - zb)) * m + z), lo, hi).",
        same=("a", "b"),
    )
    op(
        "rescale",
        [_out("act"), _in("act"), _params(2, "m, off"), *_LOHI],
        "q = clip(rint(f32(src) * m + off), lo, hi).",
        same=("src",),
    )
    op(
        "lut",
        [_out("act"), _in("act"), _table("table", "pool_u16", lambda _c, s: 1 << s.act_bits, "2^A values")],
        "q = table[min(src, 2^A - 1)].",
        same=("src",),
    )
    op(
        "maxpool",
        [_out("act"), _in("act"), Operand("window", "window", "addresses of the window")],
        "q = max over the window at src.",
        formula.pool,
        same=("src",),
    )
    op(
        "avgpool",
        [
            _out("act"),
            _in("act"),
            Operand("window", "window", "addresses of the window"),
            _table(
                "params",
                "pool_f32",
                lambda c, s: s.points[c["dst"]] // s.channels[c["dst"]] + 1,
                "a factor for each output pixel, then the result's zero point",
            ),
            _ZERO,
            _HI,
        ],
        "q = clip(rint(f32(sum over the window (src - zero_point)) * factor[pixel] + z), 0, hi).",
        formula.pool,
        same=("src",),
    )
    op("copy", [_out("any"), _in("any")], "dst = src, element by element; both have the same dtype.", same=("src",))
    op(
        "gather",
        [
            _out("any"),
            Operand("src", "agu", "its offset is the base; its counts are not used", "any", "base"),
            _table(
                "table",
                "pool_i64",
                lambda c, s: s.points[c["dst"]],
                "an address, relative to src's offset, for each destination element",
            ),
        ],
        "dst[i] = buffer of src[offset of src + table[i]]; both have the same dtype.",
    )
    op(
        "fill",
        [_out("word"), Operand("value", "imm", "bit pattern of the element (i64: sign-extended)")],
        "dst = value.",
    )
    op(
        "host",
        [
            Operand("region", "host", "the region"),
            _table("first_in", "pool_i64", lambda c, _s: c["n_in"], "AGU index of each input"),
            Operand("n_in", "imm", "number of inputs"),
            _table("first_out", "pool_i64", lambda c, _s: c["n_out"], "AGU index of each output"),
            Operand("n_out", "imm", "number of outputs"),
        ],
        "Run an embedded ONNX model; address generators read its inputs and write its outputs in row-major order.",
        formula.host_time,
    )
    op(
        "send",
        [
            Operand("dst_core", "core", "the receiving core"),
            _in("any"),
            Operand("token", "token", "pairs with a recv"),
            Operand("kind", "imm", "0 activations, 1 accumulators, 2 host data; for reports"),
        ],
        "Post the elements of src to a core; never waits.",
        formula.link("src"),
    )
    op(
        "recv",
        [_out("any"), Operand("src_core", "core", "the sending core"), Operand("token", "token", "pairs with a send")],
        "Wait for the core's next message with this token and write it to dst.",
        formula.link("dst"),
    )
    op("halt", [], "End of the core's stream.", formula.one)
    return tuple(rows)


#: The instruction set, in order of opcode (1, 2, ...; 0 is never valid).
INSTRUCTIONS: tuple[Instruction, ...] = _build()
_BY_OPCODE = {instruction.opcode: instruction for instruction in INSTRUCTIONS}
_BY_MNEMONIC = {instruction.mnemonic: instruction for instruction in INSTRUCTIONS}


def encode(mnemonic: str, /, **operands: int) -> Words:
    """One instruction as uint32 [8]. SmecError for an unknown instruction or a wrong operand."""
    return np.array(Instruction.by_mnemonic(mnemonic).encode(**operands), np.uint32)


def decode(words: Words) -> list[Decoded]:
    """Decode uint32 [n, 8]. SmecError for an unknown opcode or a word that should be 0."""
    check_words(words)
    out: list[Decoded | None] = [None] * len(words)
    for instruction, at, columns in by_instruction(words):
        lists = {name: column.tolist() for name, column in columns.items()}
        for j, i in enumerate(at.tolist()):
            out[i] = Decoded(instruction, {name: values[j] for name, values in lists.items()})
    return [decoded for decoded in out if decoded is not None]


def check_words(words: Words) -> None:
    """Check shape, dtype, opcodes and unused words of uint32 [n, 8]; SmecError names the first bad instruction."""
    if words.ndim != 2 or words.shape[1] != WORDS or words.dtype != np.uint32:
        raise SmecError(
            "bad instruction words", expected=f"uint32 [n, {WORDS}]", found=f"{words.dtype} {list(words.shape)}"
        )
    opcodes = words[:, 0]
    bad = np.flatnonzero((opcodes == 0) | (opcodes > len(INSTRUCTIONS)))
    if len(bad):
        raise SmecError(
            f"instruction {bad[0]}: unknown opcode", expected=f"1 to {len(INSTRUCTIONS)}", found=str(opcodes[bad[0]])
        )
    used = np.zeros((len(INSTRUCTIONS) + 1, WORDS), np.uint32)
    used[:, 0] = 0xFFFFFFFF
    for instruction in INSTRUCTIONS:
        for place in instruction.places:
            used[instruction.opcode, place.word] |= ((1 << place.bits) - 1) << place.shift
    bad = np.flatnonzero((words & ~used[opcodes]).any(axis=1))
    if len(bad):
        raise SmecError(
            f"instruction {bad[0]}: unused bits are set",
            expected="0",
            found=" ".join(f"{w:08x}" for w in words[bad[0]]),
        )


def by_instruction(words: Words) -> Iterable[tuple[Instruction, IntArray, dict[str, IntArray]]]:
    """For each instruction that occurs: (it, its positions int64 [n], its operand columns int64 [n] each)."""
    for opcode in np.unique(words[:, 0]).tolist():
        instruction = Instruction.by_opcode(opcode)
        at = np.flatnonzero(words[:, 0] == opcode)
        yield instruction, at, instruction.decode_columns(words[at])


def program_cycles(words: Words, sizes: Sizes) -> IntArray:
    """Cycles of every instruction, int64 [n], each in its own unit (`Instruction.unit`)."""
    cycles = np.zeros(len(words), np.int64)
    for instruction, at, columns in by_instruction(words):
        cycles[at] = instruction.cycles(columns, sizes)
    return cycles
