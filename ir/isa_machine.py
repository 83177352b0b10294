"""The reference interpreter: runs a whole program on the definitions of `smec.ir.isa_semantics`.

It is the oracle of the fast engines, so it is small, obvious and slow: every crossbar read is made digit by digit, with
the ADC's clipping. It takes any object with `sections` and `metadata` (a `smec.runtime.container.Program`); the program
must have been validated.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from functools import lru_cache
from types import SimpleNamespace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from smec.ir.errors import SmecError
from smec.ir.isa_sections import Hardware, IntArray, agu_addresses, dtype_of_code
from smec.ir.isa_table import decode
from smec.ir.onnx_session import exact_session, session_options

Array = npt.NDArray[Any]


class ProgramLike(Protocol):
    """What the interpreter needs of a program."""

    @property
    def sections(self) -> Mapping[str, Array]: ...

    @property
    def metadata(self) -> Mapping[str, Any]: ...


class Machine:
    """State of a run on `images` images: buffers, messages under way, and what is recorded for reports and tests.

    memory: one array [images, size] a buffer, zeros at first.
    saturated: int64 [tiles], ADC reads that exceeded the ADC's range; one read for each image, pixel, crossbar, row
        group, input digit and used column.
    accumulators: what `requant` and `dequant` read, by layer: int [images, points] for each such instruction, in order
        of execution.
    core, halted: the core at work, and the cores that are done.
    """

    def __init__(self, program: ProgramLike, images: int) -> None:
        self.sections = program.sections
        self.metadata = program.metadata
        self.hardware = Hardware.from_dict(program.metadata["target"])
        self.act_bits = int(program.metadata["act_bits"])
        self.images = images
        self.memory = [
            np.zeros((images, size), dtype_of_code(code)) for _, _, _, size, code in self.sections["buffers"].tolist()
        ]
        self.saturated: IntArray = np.zeros(len(self.sections["tile_xbars"]), np.int64)
        self.accumulators: dict[int, list[Array]] = {}
        self.core = 0
        self.halted: set[int] = set()
        self._messages: dict[tuple[int, int, int], deque[Array]] = {}
        self._sessions: dict[int, Any] = {}
        self.addresses = lru_cache(4096)(lambda agu: agu_addresses(self.sections["agus"][agu]))

    # -- address generators

    def memory_of(self, agu: int) -> Array:
        """The buffer [images, size] that an address generator walks."""
        return self.memory[int(self.sections["agus"][agu, 0])]

    def read(self, agu: int) -> Array:
        """Elements in the generator's order, [images, points]."""
        return self.memory_of(agu)[:, self.addresses(agu)]

    def write(self, agu: int, values: Array) -> None:
        """Store [images, points] (or what broadcasts to it), converted to the buffer's dtype; integers wrap."""
        memory = self.memory_of(agu)
        memory[:, self.addresses(agu)] = values.astype(memory.dtype)

    def write_image(self, agu: int, image: int, values: Array) -> None:
        """Store one image's elements; SmecError if their number or dtype is not the buffer's."""
        memory, addresses = self.memory_of(agu), self.addresses(agu)
        if values.size != len(addresses) or values.dtype != memory.dtype:
            raise SmecError(
                "a host region returned another array than its program expects",
                expected=f"{len(addresses)} x {memory.dtype}",
                found=f"{values.size} x {values.dtype}",
            )
        memory[image, addresses] = values.reshape(-1)

    def channels(self, agu: int) -> int:
        """Count of the innermost dimension."""
        return int(self.sections["agus"][agu, -2])

    # -- tables

    def pool(self, name: str, start: int, count: int) -> Array:
        """`count` entries of a pool."""
        return self.sections[name][start : start + count]

    def per_channel(self, name: str, start: int, length: int, agu: int) -> Array:
        """A table of one entry a channel, repeated for every pixel of the generator: [points]."""
        return np.tile(self.pool(name, start, length), len(self.addresses(agu)) // length)

    def physical_cells(self, index: int) -> Array:
        """Contents of a physical crossbar, int64 [R, C], 0 .. 2^cell_bits - 1."""
        hw = self.hardware
        bits = np.unpackbits(self.sections["cells"][index], axis=1, bitorder="little")[:, : hw.columns * hw.cell_bits]
        return bits.reshape(hw.rows, hw.columns, hw.cell_bits).astype(np.int64) @ (1 << np.arange(hw.cell_bits))

    # -- the rest of the world

    def run_region(self, region: int, values: list[Array]) -> list[Array]:
        """Outputs of a host region for one image's inputs, given flat; SmecError if they do not fit or it fails."""
        try:
            session = self._sessions.get(region) or self._sessions.setdefault(region, self._session(region))
            ports = session.get_inputs()
            if len(ports) != len(values):
                raise self.region_error(region, "has another number of inputs", len(values), len(ports))
            # The batch axis is symbolic where the region can take many images at once: one here.
            shapes = [[n if isinstance(n, int) else 1 for n in port.shape] for port in ports]
            feed = {port.name: value.reshape(shape) for port, value, shape in zip(ports, values, shapes, strict=True)}
            return [np.asarray(result) for result in session.run(None, feed)]
        except SmecError:
            raise
        except Exception as error:  # onnxruntime's exceptions have no common base
            raise self.region_error(region, "fails", "a model that runs on its inputs", error) from error

    def _session(self, region: int) -> Any:
        model = np.ascontiguousarray(self.sections[f"host.{region}"]).tobytes()
        return exact_session(model, session_options())

    def region_error(self, region: int, what: str, expected: object, found: object) -> SmecError:
        """A diagnosed error of a host region."""
        name = self.metadata["host"][region]["name"]
        return SmecError(f"host region '{name}' (host.{region}) {what}", expected=expected, found=found)

    def post(self, receiver: int, token: int, values: Array) -> None:
        """Queue a message from the core at work."""
        self._messages.setdefault((self.core, receiver, token), deque()).append(values)

    def waits_for(self, sender: int, token: int) -> bool:
        """True while the core at work has no message of this sender and token."""
        return not self._messages.get((sender, self.core, token))

    def collect(self, sender: int, token: int) -> Array:
        """The oldest such message."""
        return self._messages[sender, self.core, token].popleft()

    def record(self, layer: int, accumulators: Array) -> None:
        """Keep a layer's integers for comparison."""
        self.accumulators.setdefault(layer, []).append(accumulators)

    # -- running

    def load_inputs(self, inputs: Mapping[str, Array]) -> None:
        """Write arrays with the image axis first to the program's inputs; SmecError for a wrong name, size or dtype."""
        entries = {entry["name"]: entry for entry in self.metadata["inputs"]}
        if set(inputs) != set(entries):
            raise SmecError("wrong inputs", expected=", ".join(entries), found=", ".join(inputs) or "none")
        for name, entry in entries.items():
            values = np.asarray(inputs[name])
            memory, addresses = self.memory_of(entry["agu"]), self.addresses(entry["agu"])
            if (
                values.size != self.images * len(addresses)
                or len(values) != self.images
                or values.dtype != memory.dtype
            ):
                raise SmecError(
                    f"input '{name}' does not fit",
                    expected=f"{memory.dtype} [{self.images}, {', '.join(map(str, entry['shape']))}]",
                    found=f"{values.dtype} {list(values.shape)}",
                )
            memory[:, addresses] = values.reshape(self.images, -1)

    def run(self) -> None:
        """Run the cores in turn, each as far as it comes, until all halt. SmecError if all that are left wait."""
        streams = [decode(self.sections["code"][first : first + count]) for first, count in self.sections["core_table"]]
        position = [0] * len(streams)
        while len(self.halted) < len(streams):
            before = list(position)
            for self.core, stream in enumerate(streams):
                while self.core not in self.halted:
                    step = stream[position[self.core]]
                    if step.mnemonic == "recv" and self.waits_for(step.operands["src_core"], step.operands["token"]):
                        break
                    step.instruction.semantics(self, SimpleNamespace(**step.operands))
                    position[self.core] += 1
            if position == before:
                waiting = [core for core in range(len(streams)) if core not in self.halted]
                raise SmecError(
                    "deadlock: every running core waits for a message",
                    expected="a send for each recv",
                    found=f"cores {waiting} at {[str(streams[core][position[core]]) for core in waiting]}",
                )

    def outputs(self) -> dict[str, Array]:
        """The program's outputs by name, [images, *shape]."""
        return {
            entry["name"]: self.read(entry["agu"]).reshape(self.images, *entry["shape"])
            for entry in self.metadata["outputs"]
        }


def run_machine(program: ProgramLike, inputs: Mapping[str, Array]) -> Machine:
    """Run a program on inputs with the image axis first and return the machine (outputs, saturation, accumulators)."""
    images = len(next(iter(inputs.values()))) if inputs else 1
    machine = Machine(program, images)
    machine.load_inputs(inputs)
    machine.run()
    return machine


def reference_run(program: ProgramLike, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Run a program on inputs with the image axis first; outputs by name, [images, *shape]."""
    return run_machine(program, inputs).outputs()
