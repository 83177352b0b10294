"""Small programs written by hand, and the pieces to write them with."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import onnx
from onnx import TensorProto, helper

from smec.ir.dialects.isa import Hardware, Machine, agu_row, empty_sections, encode
from smec.ir.isa_sections import F32, I32, I64, SPACE_ACC, SPACE_ACT, SPACE_HOST, U8, U16
from smec.runtime.container import Program
from smec.runtime.metadata import Metadata

SPACES = {U8: SPACE_ACT, U16: SPACE_ACT, I32: SPACE_ACC, I64: SPACE_ACC, F32: SPACE_HOST}

#: A machine of 4 x 6 crossbars.
TARGET: dict[str, Any] = {
    "name": "tiny", "rows": 4, "columns": 6, "cell_bits": 1, "dac_bits": 1, "adc_bits": 3, "concurrent_rows": 4,
    "crossbars_per_core": 4, "vector_lanes": 4, "link_bytes_per_cycle": 2, "clock_ghz": 1.0, "read_cycle_ns": 100.0,
}  # fmt: skip

LAYER: dict[str, Any] = {
    "name": "l0", "kind": "gemm", "node": "n0", "tensor": "t0", "K": 4, "M": 6, "pixels": 1, "macs": 24, "bits": 2,
    "planes": 2, "sign": "differential", "pattern": "uniform", "squeeze": 0, "tile_first": 0, "tiles": 1,
    "crossbars": 1, "blocks": 1, "blocks_empty": 0, "squeeze_error": 0.0,
}  # fmt: skip


def metadata(**changes: Any) -> Metadata:
    """A document without ports, layers and regions."""
    document = {
        "smec_version": "0", "target": TARGET, "act_bits": 8, "options": {}, "inputs": [], "outputs": [], "layers": [],
        "host": [], "macs_crossbar": 0, "macs_host": 0, "crossbars": 0, "blocks": 0, "crossbars_dense_16": 0,
        "crossbars_dense_8": 0, "source": {"file": "m.onnx", "sha256": ""}, **changes,
    }  # fmt: skip
    return cast("Metadata", document)


class Pieces:
    """Collects buffers, address generators, tables, tiles and instructions."""

    def __init__(self, target: dict[str, Any] = TARGET) -> None:
        self.target = target
        self.hardware = Hardware.from_dict(target)
        self.sections = empty_sections(self.hardware)
        self.streams: list[list[np.ndarray]] = [[]]

    def _append(self, name: str, rows: Any) -> int:
        old = self.sections[name]
        self.sections[name] = np.concatenate([old, np.asarray(rows, old.dtype).reshape(-1, *old.shape[1:])])
        return len(old)

    def buffer(self, size: int, dtype: int, core: int = 0) -> int:
        return self._append("buffers", [core, SPACES[dtype], 0, size, dtype])

    def agu(self, buffer: int, *dims: tuple[int, int], offset: int = 0) -> int:
        return self._append("agus", agu_row(buffer, offset, dims))

    def array(self, count: int, dtype: int, core: int = 0) -> int:
        """A buffer of `count` elements and the generator over it."""
        return self.agu(self.buffer(count, dtype, core), (count, 1))

    def f32(self, *values: float) -> int:
        return self._append("pool_f32", values)

    def i64(self, *values: int) -> int:
        return self._append("pool_i64", values)

    def u16(self, *values: int) -> int:
        return self._append("pool_u16", values)

    def tile(
        self,
        rows: Any,
        cols: Any,
        crossbars: list[tuple[int, Any, Any]],
        shift: Any = 0,
        offset: int = 0,
        place: tuple[int, int, int] = (0, 0, 0),
    ) -> int:
        """A tile; crossbars: (splice weight, groups [R], cells [R, C]); place: core, first row, first column."""
        core, row0, col0 = place
        count = len(self.sections["xbar_phys"])
        for i, (weight, group, cells) in enumerate(crossbars):
            slot = int((self.sections["xbar_place"][:, 0] == core).sum())
            self._append("xbar_place", [core, slot, row0, col0])
            self._append("xbar_phys", count + i)
            self._append("xbar_weight", weight)
            self._append("xbar_group", group)
            self._append("cells", self.packed(cells, row0, col0))
        self._append("tile_rows", rows)
        self._append("tile_cols", cols)
        self._append("tile_shift", np.broadcast_to(shift, self.hardware.rows))
        self._append("tile_offset", offset)
        self._append("tile_sign", [0, 0])
        return self._append("tile_xbars", [count, len(crossbars)])

    def packed(self, cells: Any, row0: int = 0, col0: int = 0) -> np.ndarray:
        """Cells [R, C] moved down and right and packed, uint8 [R, row bytes]."""
        hw = self.hardware
        moved = np.zeros((hw.rows, hw.columns), np.int64)
        cells = np.asarray(cells)
        moved[row0:, col0:] = cells[: hw.rows - row0, : hw.columns - col0]
        bits = (moved[:, :, None] >> np.arange(hw.cell_bits)) & 1
        return np.packbits(bits.reshape(hw.rows, -1).astype(np.uint8), axis=1, bitorder="little")

    def emit(self, mnemonic: str, core: int = 0, **operands: int) -> None:
        while len(self.streams) <= core:
            self.streams.append([])
        self.streams[core].append(encode(mnemonic, **operands))

    def program(self, **changes: Any) -> Program:
        """The program; every stream gets its halt."""
        streams = [[*stream, encode("halt")] for stream in self.streams]
        counts = np.array([len(stream) for stream in streams], np.int64)
        sections = dict(self.sections)
        sections["code"] = np.concatenate(streams).reshape(-1, 8)
        sections["core_table"] = np.stack([np.cumsum(counts) - counts, counts], axis=1)
        return Program(sections, metadata(**{"target": self.target, **changes}))

    def machine(self, images: int, act_bits: int = 8) -> Machine:
        """A machine state on the pieces, for single instructions."""
        document = {"target": self.target, "act_bits": act_bits}
        return Machine(SimpleNamespace(sections=self.sections, metadata=document), images)


def softmax_model(count: int) -> bytes:
    """An ONNX model: softmax over float32 [N, count]."""
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", count]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Softmax", ["x"], ["y"])], "g", ports[:1], ports[1:])
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return model.SerializeToString()


def demo() -> Program:
    """A 2 x 2 convolution on core 0, pooling, a send, a fully connected layer on core 1, and a softmax on the host.

    Input x float32 [1, 1, 4, 4] of levels 0..15; output y float32 [1, 3].
    """
    p = Pieces()
    x = p.agu(p.buffer(16, F32), (1, 16), (1, 16), (4, 4), (4, 1))
    q, acc, act = p.buffer(25, U8), p.buffer(32, I32), p.buffer(32, U8)
    # x is stored with a halo of one row and column, filled with the zero point 2
    p.emit("fill", dst=p.agu(q, (25, 1)), value=2)
    inner = p.agu(q, (1, 25), (1, 25), (4, 5), (4, 1), offset=6)
    p.emit("quantize", dst=inner, src=x, params=p.f32(0.5), zero_point=2, hi=255)
    cells = [[1, 0, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0], [0, 1, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0]]
    conv = p.tile([0, 1, 5, 6], [0, 1, -1, -1, -1, -1], [(1, [0] * 4, cells), (-2, [0, 0, 1, 1], np.roll(cells, 1, 0))])
    channels = p.agu(acc, (16, 2), (2, 1))
    p.emit("init", dst=channels, table=p.i64(3, -4), length=2)
    p.emit("mvm", dst=p.agu(acc, (4, 8), (4, 2)), src=p.agu(q, (4, 5), (4, 1)), tile=conv)
    p.emit(
        "requant", dst=p.agu(act, (16, 2), (2, 1)), src=channels, mult=p.f32(0.25, 0.125), off=p.f32(20.0, 30.0),
        length=2, lo=0, hi=255, layer=0,
    )  # fmt: skip
    small = p.buffer(8, U8)
    pooled = p.agu(small, (2, 4), (2, 2), (2, 1))
    p.emit("maxpool", dst=pooled, src=p.agu(act, (2, 16), (2, 4), (2, 1)), window=p.agu(act, (2, 8), (2, 2)))
    p.emit("send", dst_core=1, src=p.agu(small, (8, 1)), token=7, kind=0)
    there = p.buffer(8, U8, core=1)
    p.emit("recv", core=1, dst=p.agu(there, (8, 1)), src_core=0, token=7)
    total = p.buffer(3, I64, core=1)
    sums, logits = p.agu(total, (3, 1)), p.array(3, F32, core=1)
    p.emit("init", core=1, dst=sums, table=p.i64(1, 2, 3), length=3)
    block = [[1, 1, 0, 0, 0, 0], [0, 1, 1, 0, 0, 0], [1, 0, 1, 0, 0, 0], [0] * 6]
    for part, shift in ((0, [0, 1, 0, 0]), (3, [2, 2, 0, 0])):
        rows = [part, part + 1, part + 2, -1]
        tile = p.tile(rows, [0, 1, 2, -1, -1, -1], [(1, [0, 0, 0, -1], block)], shift, 1, (1, 0, 2))
        p.emit("mvm", core=1, dst=p.agu(total, (1, 0)), src=p.agu(there, (1, 0)), tile=tile)
    p.emit(
        "dequant", core=1, dst=logits, src=sums, mult=p.f32(0.01, 0.01, 0.01), bias=p.f32(0, 0.1, 0.2), length=3,
        clamp=p.f32(-np.inf, np.inf), layer=1,
    )  # fmt: skip
    y = p.array(3, F32, core=1)
    p.emit("host", core=1, region=0, first_in=p.i64(logits), n_in=1, first_out=p.i64(y), n_out=1)
    p.sections["host.0"] = np.frombuffer(softmax_model(3), np.uint8)
    p.sections["sample.x"] = np.arange(32, dtype=np.float32).reshape(2, 1, 1, 4, 4) % 16
    return p.program(
        inputs=[{"name": "x", "agu": x, "shape": [1, 1, 4, 4], "dtype": "float32", "batch": 0}],
        outputs=[{"name": "y", "agu": y, "shape": [1, 3], "dtype": "float32", "batch": 0}],
        layers=[
            {**LAYER, "name": "conv", "kind": "conv", "tiles": 1, "crossbars": 2},
            {**LAYER, "name": "fc", "tile_first": 1, "tiles": 2, "crossbars": 2},
        ],
        host=[{"name": "softmax", "batchable": True, "macs": 0, "flops": 0, "ops": {"Softmax": 1}}],
        crossbars=4,
    )


def demo_images(count: int = 3) -> dict[str, np.ndarray]:
    """Inputs of `demo`, float32 [count, 1, 1, 4, 4]."""
    values = np.random.default_rng(5).integers(0, 16, (count, 1, 1, 4, 4))
    return {"x": values.astype(np.float32)}
