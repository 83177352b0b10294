"""What a program's numbers stand for, in words: the comments of a disassembly."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from smec.ir.isa_table import Decoded, Instruction, decode
from smec.runtime.container import Program

_LONGEST = 100


class Labels:
    """Words for the buffers, layers and instructions of one program."""

    def __init__(self, program: Program) -> None:
        self.sections = program.sections
        self.metadata: dict[str, Any] = dict(program.metadata)
        self.tile_layer = program.tile_layer.tolist()
        self.buffer_of = self.sections["agus"][:, 0].tolist()
        self.names: dict[int, str] = {}
        #: Layer whose accumulators a buffer holds.
        self.accumulators: dict[int, int] = {}
        steps = decode(self.sections["code"])
        for step in steps:
            if "tile" in step.operands:
                self.accumulators[self.buffer_of[step.operands["dst"]]] = self.tile_layer[step.operands["tile"]]
        self._name_buffers(steps)

    def _name_buffers(self, steps: list[Decoded]) -> None:
        for buffer, layer in self.accumulators.items():
            self.names[buffer] = f"accumulators of {self._layer_name(layer)}"
        for kind in ("input", "output"):
            for port in self.metadata[f"{kind}s"]:
                self.names.setdefault(self.buffer_of[port["agu"]], f"{kind} {port['name']}")
        for step in steps:
            if "dst" in step.operands:
                owner = self.layer_of(step)
                name = self._layer_name(owner) if owner is not None else f"of {step.mnemonic}"
                self.names.setdefault(self.buffer_of[step.operands["dst"]], name)

    def _layer_name(self, layer: int) -> str:
        return str(self.metadata["layers"][layer]["name"])

    def buffer(self, index: int) -> str:
        """What a buffer holds; empty if that is not known."""
        return comment(self.names.get(index, ""))

    def layer_of(self, step: Decoded) -> int | None:
        """The layer that an instruction works for."""
        operands = step.operands
        if "tile" in operands:
            return int(self.tile_layer[operands["tile"]])
        if "layer" in operands:
            return operands["layer"]
        for name in _generators(step.instruction):
            found = self.accumulators.get(self.buffer_of[operands[name]])
            if found is not None:
                return found
        return None

    def layer(self, index: int) -> str:
        """One line on a layer."""
        info = self.metadata["layers"][index]
        return comment(
            f"layer {index}, {info['name']}: {info['kind']}, K {info['K']} x M {info['M']}, "
            f"{counted(info['pixels'], 'pixel')}, {counted(info['tiles'], 'tile')}"
        )

    def instruction(self, step: Decoded) -> str:
        """What an instruction's numbers stand for; empty where they speak for themselves."""
        operands = step.operands
        if "tile" in operands:
            return self._tile(operands["tile"])
        if "region" in operands:
            region = self.metadata["host"][operands["region"]]
            return comment(f"{region['name']}: {', '.join(region['ops'])}")
        return ""

    def _tile(self, tile: int) -> str:
        info = self.metadata["layers"][self.tile_layer[tile]]
        rows, columns = (np.count_nonzero(self.sections[name][tile] >= 0) for name in ("tile_rows", "tile_cols"))
        crossbars = self.sections["tile_xbars"][tile, 1]
        place = f"tile {tile - info['tile_first'] + 1} of {info['tiles']}"
        return f"{place}: {rows} x {columns}, {counted(crossbars, 'block')}"


def _generators(instruction: Instruction) -> list[str]:
    return [operand.name for operand in instruction.operands if operand.kind == "agu"]


def counted(number: int, what: str) -> str:
    """`1 tile`, `2 tiles`."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def comment(text: str) -> str:
    """Text on one line, without characters that a line of text does not show, and not too long."""
    shown = json.dumps(text)[1:-1].replace('\\"', '"')
    return shown if len(shown) <= _LONGEST else shown[: _LONGEST - 3] + "..."
