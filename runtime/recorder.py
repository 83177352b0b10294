"""Interprets a program's streams once, on values instead of arrays: which operations run, on what.

Cores run in turn, each until it must wait for a message that has not been sent. Sends, receives, copies, fills and the
accumulator instructions only make values (`smec.runtime.values`); everything else becomes an `Operation`.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np

from smec.ir.errors import SmecError
from smec.ir.isa_sections import SPACE_ACT, dtype_of_code
from smec.ir.isa_table import Decoded, decode
from smec.runtime.container import Program
from smec.runtime.geometry import Geometry
from smec.runtime.values import Level, Operation, Region, Result, Source, Table, Target, Use, Values

#: Source operands of the instructions that become operations (`host` lists its own).
_SOURCES = {
    "requant": ("src",),
    "dequant": ("src",),
    "quantize": ("src",),
    "dequantize": ("src",),
    "add": ("a", "b"),
    "mul": ("a", "b"),
    "rescale": ("src",),
    "lut": ("src",),
    "maxpool": ("src",),
    "avgpool": ("src",),
    "gather": ("src",),
}


class Recorder:
    """The symbolic run of one validated program.

    After `run`: `operations` in an order in which they can run, `inputs` (an operation for each program input),
    `outputs` (what each program output reads at the end).
    """

    def __init__(self, program: Program) -> None:
        s = program.sections
        self.program = program
        self.geometries = [Geometry.of_row(row) for row in s["agus"].tolist()]
        self.values = Values()
        self.dtypes: list[np.dtype[Any]] = [dtype_of_code(code) for code in s["buffers"][:, 4].tolist()]
        self.contents = [
            self.values.fill(size, dtype, 0)
            for size, dtype in zip(s["buffers"][:, 3].tolist(), self.dtypes, strict=True)
        ]
        self.operations: list[Operation] = []
        self.inputs: list[Operation] = []
        self.outputs: list[Region] = []
        self._messages: dict[tuple[int, int, int], deque[Source]] = {}
        self._limit = (1 << program.act_bits) - 1

    def run(self) -> None:
        """Raises SmecError for a deadlock, or for inputs of a crossbar that may exceed the activation's bits."""
        for port in self.program.metadata["inputs"]:
            operation = Operation("input", -1, -1, {}, [])
            self.store(operation, 0, port["agu"], self.input_limit(port["agu"]))
            self.inputs.append(operation)
        code, table = self.program.sections["code"], self.program.sections["core_table"].tolist()
        decoded = decode(code)
        position = [first for first, _ in table]
        running = list(range(len(table)))
        while running:
            moved = False
            for core in list(running):
                while True:
                    at = position[core]
                    step = decoded[at]
                    if step.mnemonic == "halt":
                        running.remove(core)
                        moved = True
                        break
                    if step.mnemonic == "recv" and not self._messages.get(
                        (step.operands["src_core"], core, step.operands["token"])
                    ):
                        break
                    self.execute(core, at, step)
                    position[core] += 1
                    moved = True
            if not moved:
                raise SmecError(
                    "deadlock: every running core waits for a message",
                    location=self.program.path,
                    expected="a send for each recv",
                    found="; ".join(
                        f"core {c}, instruction {position[c]}: {decoded[position[c]]}" for c in running[:4]
                    ),
                )
        self.outputs = [
            Region(self.contents[g.buffer], g)
            for g in (self.geometries[port["agu"]] for port in self.program.metadata["outputs"])
        ]

    # -- buffers

    def read(self, agu: int) -> Source:
        """The elements that an address generator visits now."""
        geometry = self.geometries[agu]
        return Values.read(self.contents[geometry.buffer], geometry)

    def region(self, agu: int) -> Region:
        """The same as a place in a value."""
        geometry = self.geometries[agu]
        return Region(self.contents[geometry.buffer], geometry)

    def write(self, agu: int, source: Source, top: int) -> None:
        """Replace the elements that an address generator visits."""
        geometry = self.geometries[agu]
        self.contents[geometry.buffer] = self.values.write(self.contents[geometry.buffer], geometry, source, top)

    def store(self, operation: Operation, index: int, agu: int, top: int) -> None:
        """Let an operation's result `index` replace the elements."""
        geometry = self.geometries[agu]
        before = self.contents[geometry.buffer]
        self.write(agu, Result(operation, index), top)
        after = self.contents[geometry.buffer]
        base = None if geometry.covers(before.size) else before
        operation.targets.append(Target(after, base, geometry))

    def input_limit(self, agu: int) -> int:
        """Largest number that a program input may hold, for unsigned integers: A-bit levels where it is an activation
        buffer.
        """
        geometry = self.geometries[agu]
        space = int(self.program.sections["buffers"][geometry.buffer, 1])
        top = self.top_of(geometry)
        return min(top, self._limit) if space == SPACE_ACT else top

    def top_of(self, geometry: Geometry) -> int:
        """Largest number that the buffer's dtype holds, for unsigned integers."""
        dtype = self.dtypes[geometry.buffer]
        return int(np.iinfo(dtype).max) if dtype.kind == "u" else 0

    def top_of_source(self, source: Source, geometry: Geometry) -> int:
        """A bound on a source's elements, where they are unsigned."""
        dtype = self.dtypes[geometry.buffer]
        if dtype.kind != "u":
            return 0
        if isinstance(source, Region):
            return source.value.top
        if isinstance(source, Result):
            return source.operation.targets[source.index].value.top
        return source.word if isinstance(source, Level) else 0

    # -- instructions

    def execute(self, core: int, at: int, step: Decoded) -> None:
        """Run one instruction on values."""
        o = step.operands
        mnemonic = step.mnemonic
        if mnemonic == "mvm":
            self.product(core, at, o)
        elif mnemonic == "init":
            self.write(o["dst"], Table(o["table"], o["length"]), 0)
        elif mnemonic == "accadd":
            self.accumulate(o)
        elif mnemonic == "copy":
            source = self.read(o["src"])
            self.write(o["dst"], source, self.top_of_source(source, self.geometries[o["src"]]))
        elif mnemonic == "fill":
            dtype = self.dtypes[self.geometries[o["dst"]].buffer]
            word = o["value"] & ((1 << 8 * min(dtype.itemsize, 4)) - 1)
            self.write(o["dst"], Level(word), word)
        elif mnemonic == "send":
            self._messages.setdefault((core, o["dst_core"], o["token"]), deque()).append(self.read(o["src"]))
        elif mnemonic == "recv":
            source = self._messages[o["src_core"], core, o["token"]].popleft()
            self.write(o["dst"], source, self.top_of_source(source, self.geometries[o["dst"]]))
        elif mnemonic == "host":
            self.host(core, at, o)
        else:
            inputs = [self.region(o[name]) for name in _SOURCES[mnemonic]]
            operation = Operation(mnemonic, at, core, o, inputs)
            self.store(operation, 0, o["dst"], self.result_top(mnemonic, o, inputs))
            self.operations.append(operation)

    def result_top(self, mnemonic: str, o: dict[str, int], inputs: list[Region]) -> int:
        """A bound on an operation's results, where they are unsigned."""
        if "hi" in o:
            return o["hi"]
        if mnemonic == "lut":
            table = self.program.sections["pool_u16"][o["table"] : o["table"] + self._limit + 1]
            return min(int(table.max()), self.top_of(self.geometries[o["dst"]]))
        return inputs[0].value.top if mnemonic in ("maxpool", "gather") else 0

    def host(self, core: int, at: int, o: dict[str, int]) -> None:
        pool = self.program.sections["pool_i64"]
        sources = pool[o["first_in"] : o["first_in"] + o["n_in"]].tolist()
        targets = pool[o["first_out"] : o["first_out"] + o["n_out"]].tolist()
        operation = Operation("host", at, core, o, [self.region(agu) for agu in sources])
        for index, agu in enumerate(targets):
            self.store(operation, index, agu, self.top_of(self.geometries[agu]))
        self.operations.append(operation)

    def product(self, core: int, at: int, o: dict[str, int]) -> None:
        src, dst = self.geometries[o["src"]], self.geometries[o["dst"]]
        source = self.contents[src.buffer]
        if source.top > self._limit:
            raise SmecError(
                f"instruction {at} (mvm), core {core}: inputs may exceed the activation's bits",
                location=self.program.path,
                expected=f"at most {self._limit}",
                found=f"up to {source.top}",
            )
        before = self.contents[dst.buffer]
        use = Use(at, core, o["tile"], source, src, dst, (o["first"], o["digits"]))
        self.contents[dst.buffer] = self.values.product(before, use)

    def accumulate(self, o: dict[str, int]) -> None:
        dst = self.geometries[o["dst"]]
        before = self.contents[dst.buffer]
        self.contents[dst.buffer] = self.values.sum(before, dst, self.region(o["src"]))
