"""Small programs with crossbars of random contents, built section by section, for tests of the engines.

`Network` collects buffers, address generators, tables, tiles and instructions. Nothing here uses the compiler's passes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from isa_programs import LAYER, metadata

from smec.ir.isa_machine import run_machine
from smec.ir.isa_sections import (
    F32,
    I32,
    I64,
    SPACE_ACC,
    SPACE_ACT,
    SPACE_HOST,
    U8,
    U16,
    Hardware,
    agu_row,
    empty_sections,
)
from smec.ir.isa_table import encode
from smec.runtime.container import Program
from smec.runtime.plan import Plan
from smec.runtime.simulator import Simulator

TARGET: dict[str, Any] = {
    "name": "test", "rows": 16, "columns": 8, "cell_bits": 1, "dac_bits": 1, "adc_bits": 8, "concurrent_rows": 1024,
    "crossbars_per_core": 64, "vector_lanes": 4, "link_bytes_per_cycle": 8, "clock_ghz": 1.0, "read_cycle_ns": 100.0,
}  # fmt: skip


class Network:
    """A program under construction. Buffers live on the core that is named, layers are numbered in order."""

    def __init__(self, act_bits: int = 8, **target: Any) -> None:
        self.target = {**TARGET, **target}
        self.hardware = Hardware.from_dict(self.target)
        self.act_bits = act_bits
        self.streams: dict[int, list[np.ndarray]] = {0: []}
        self.buffers: list[list[int]] = []
        self.agus: list[list[int]] = []
        self.pools: dict[str, list[Any]] = {"pool_f32": [], "pool_i64": [], "pool_u16": []}
        self.tiles: dict[str, list[Any]] = {
            name: [] for name in ("tile_rows", "tile_cols", "tile_shift", "tile_offset", "tile_sign")
        }
        self.counts: list[int] = []
        self.crossbars: dict[str, list[Any]] = {name: [] for name in ("place", "phys", "weight", "group", "cells")}
        self.layer_tiles: list[int] = []
        self.inputs: list[dict[str, Any]] = []
        self.outputs: list[dict[str, Any]] = []
        self.hosts: list[tuple[bytes, bool]] = []

    # -- parts

    def buffer(self, size: int, dtype: int = U8, space: int = SPACE_ACT, core: int = 0) -> int:
        self.streams.setdefault(core, [])
        self.buffers.append([core, space, 0, size, dtype])
        return len(self.buffers) - 1

    def acc(self, size: int, wide: bool = False, core: int = 0) -> int:
        return self.buffer(size, I64 if wide else I32, SPACE_ACC, core)

    def agu(self, buffer: int, offset: int = 0, *dims: tuple[int, int]) -> int:
        """Loops outermost first; without any: all of the buffer."""
        dims = dims or ((self.buffers[buffer][3], 1),)
        self.agus.append(agu_row(buffer, offset, [(n, s if n > 1 else 0) for n, s in dims]))
        return len(self.agus) - 1

    def table(self, pool: str, values: Any) -> int:
        values = np.asarray(values).reshape(-1).tolist()
        self.pools[pool] += values
        return len(self.pools[pool]) - len(values)

    def emit(self, mnemonic: str, core: int = 0, **operands: int) -> None:
        self.streams.setdefault(core, []).append(encode(mnemonic, **operands))

    def port(self, name: str, agu: int, shape: tuple[int, ...], dtype: str, output: bool = False) -> None:
        entry = {"name": name, "agu": agu, "shape": [1, *shape], "dtype": dtype, "batch": 0}
        (self.outputs if output else self.inputs).append(entry)

    def layer(self) -> int:
        self.layer_tiles.append(0)
        return len(self.layer_tiles) - 1

    def tile(
        self,
        rows: np.ndarray,
        cols: np.ndarray,
        shift: np.ndarray,
        offset: int,
        planes: list[tuple[int, np.ndarray, np.ndarray]],
        core: int = 0,
        corner: tuple[int, int] = (0, 0),
    ) -> int:
        """A tile from addresses of its rows and columns (-1 unused); planes: (weight, cells [R, C], group [R])."""
        hw = self.hardware
        for name, values, size, empty in (
            ("tile_rows", rows, hw.rows, -1), ("tile_cols", cols, hw.columns, -1), ("tile_shift", shift, hw.rows, 0),
        ):  # fmt: skip
            padded = np.full(size, empty, np.int64)
            padded[: len(values)] = values
            self.tiles[name].append(padded)
        self.tiles["tile_offset"].append(offset)
        self.tiles["tile_sign"].append([0, 0])
        self.counts.append(len(planes))
        self.layer_tiles[-1] += 1
        for weight, cells, group in planes:
            physical = np.zeros((hw.rows, hw.columns), np.int64)
            row0, col0 = corner
            physical[row0 : row0 + cells.shape[0], col0 : col0 + cells.shape[1]] = cells
            bits = (physical[:, :, None] >> np.arange(hw.cell_bits)) & 1
            packed = np.packbits(bits.reshape(hw.rows, -1).astype(np.uint8), axis=1, bitorder="little")
            full = np.full(hw.rows, -1, np.int64)
            full[: len(group)] = group
            index = len(self.crossbars["phys"])
            self.crossbars["place"].append([core, index, row0, col0])
            self.crossbars["phys"].append(index)
            self.crossbars["weight"].append(weight)
            self.crossbars["group"].append(full)
            self.crossbars["cells"].append(packed)
        return len(self.counts) - 1

    def program(self) -> Program:
        """The finished, validated program."""
        s = empty_sections(self.hardware)
        for core in range(max(self.streams) + 1):
            self.emit("halt", core=core)
        streams = [self.streams[core] for core in sorted(self.streams)]
        lengths = [len(stream) for stream in streams]
        s["code"] = np.stack([words for stream in streams for words in stream])
        s["core_table"] = np.stack([np.cumsum([0, *lengths[:-1]]), lengths], axis=1).astype(np.int64)
        s["buffers"] = np.array(self.buffers, np.int64).reshape(-1, 5)
        s["agus"] = np.array(self.agus, np.int64).reshape(-1, 14)
        for name, values in self.pools.items():
            s[name] = np.array(values, s[name].dtype)
        if self.counts:
            for name, values in self.tiles.items():
                s[name] = np.array(values).astype(s[name].dtype)
            ends = np.cumsum(self.counts)
            s["tile_xbars"] = np.stack([ends - self.counts, self.counts], axis=1).astype(np.int64)
        if self.crossbars["phys"]:
            for key, values in self.crossbars.items():
                name = key if key == "cells" else f"xbar_{key}"
                s[name] = np.array(values).astype(s[name].dtype)
        for i, (model, _) in enumerate(self.hosts):
            s[f"host.{i}"] = np.frombuffer(model, np.uint8).copy()
        layers, first = [], 0
        for i, tiles in enumerate(self.layer_tiles):
            layers.append({**LAYER, "name": f"layer{i}", "tile_first": first, "tiles": tiles})
            first += tiles
        hosts = [
            {"name": f"region{i}", "batchable": b, "macs": 0, "flops": 0, "ops": {}}
            for i, (_, b) in enumerate(self.hosts)
        ]
        document = metadata(
            target=self.target,
            act_bits=self.act_bits,
            inputs=self.inputs,
            outputs=self.outputs,
            layers=layers,
            host=hosts,
        )
        program = Program(s, document)
        program.validate()
        return program

    # -- ready-made pieces

    def requant(self, acc: int, dims: tuple[tuple[int, int], ...], layer: int, channels: int, **port: Any) -> None:
        """Requantize an accumulator region (channels innermost) to an output `y<layer>`; factors chosen to use the
        range.
        """
        pixels = int(np.prod([n for n, _ in dims[:-1]]))
        core = self.buffers[acc][0]
        dst = self.buffer(pixels * channels, U16, core=core)
        mult = self.table("pool_f32", np.linspace(0.001, 0.01, channels))
        off = self.table("pool_f32", np.linspace(-3, 300, channels))
        shaped = [(n, 0) for n, _ in dims]
        stride = 1
        for i in range(len(shaped) - 1, -1, -1):
            shaped[i] = (shaped[i][0], stride)
            stride *= shaped[i][0]
        agus = {"dst": self.agu(dst, 0, *shaped), "src": self.agu(acc, 0, *dims)}
        self.emit("requant", core, **agus, mult=mult, off=off, length=channels, lo=0, hi=60000, layer=layer)
        self.port(f"y{layer}", self.agu(dst), (pixels, channels), "uint16", output=True)


def check(program: Program, inputs: dict[str, np.ndarray], engines: tuple[str, ...] = ("auto", "adc")) -> Plan:
    """All outputs, accumulators and saturated reads equal the reference machine's, in batches too."""
    images = len(next(iter(inputs.values())))
    machine = run_machine(program, inputs)
    simulator = Simulator(program)
    for engine in engines:
        for batch in (images, 2):
            result = simulator.run(inputs, engine, batch=batch, trace_accumulators=True)
            for name, expected in machine.outputs().items():
                np.testing.assert_array_equal(result.outputs[name], expected.reshape(result.outputs[name].shape), name)
            assert result.accumulators is not None
            for layer, parts in machine.accumulators.items():
                found = result.accumulators[f"layer{layer}"]
                np.testing.assert_array_equal(found.reshape(images, -1), np.concatenate(parts, axis=1))
            assert sum(result.saturated.values()) == machine.saturated.sum()
    return simulator.plan


__all__ = ["F32", "I32", "I64", "SPACE_ACC", "SPACE_ACT", "SPACE_HOST", "TARGET", "U8", "U16", "Network", "check"]
