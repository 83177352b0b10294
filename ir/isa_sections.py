"""The data sections of a program: their names, dtypes and shapes, and what follows from them.

A program is a set of named arrays. `SECTIONS` lists the fixed ones (the rest are `host.<i>`, `sample.<input>`, `model`
and `weights.<digest>`, see `section_spec`). R and C are the rows and columns of the target's crossbars, c the bits of a
cell.

Address generators (AGUs). An AGU is one row of `agus`: buffer, offset, then six (count, stride) pairs, outermost first.
Dimensions that are not needed come first, with count 1 and stride 0, so that the sixth pair is always the innermost
one: where an instruction speaks of channels, they are the sixth pair. `agu_row` builds such rows. An AGU visits its
addresses in row-major order.

Buffers. The run time holds one array [B, size] for each row of `buffers` (B images), filled with zeros at the start of
a run. Two buffers never share memory, even where their address ranges of one core overlap: base addresses serve
capacity and timing only. Buffers of the host space are visible to every core; tokens order the accesses to them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from smec.ir.errors import SmecError

IntArray = npt.NDArray[np.int64]

AGU_DIMS = 6
AGU_WIDTH = 2 + 2 * AGU_DIMS

SPACE_ACT, SPACE_ACC, SPACE_HOST = 0, 1, 2
SPACE_NAMES = ("act", "acc", "host")

U8, U16, I32, I64, F32 = 0, 1, 2, 3, 4
ONNX_DTYPE_BASE = 16
_DTYPES: dict[int, np.dtype[Any]] = {
    U8: np.dtype(np.uint8),
    U16: np.dtype(np.uint16),
    I32: np.dtype(np.int32),
    I64: np.dtype(np.int64),
    F32: np.dtype(np.float32),
    # 16 + TensorProto.DataType, for what only host regions use.
    ONNX_DTYPE_BASE + 3: np.dtype(np.int8),
    ONNX_DTYPE_BASE + 5: np.dtype(np.int16),
    ONNX_DTYPE_BASE + 9: np.dtype(np.bool_),
    ONNX_DTYPE_BASE + 10: np.dtype(np.float16),
    ONNX_DTYPE_BASE + 11: np.dtype(np.float64),
    ONNX_DTYPE_BASE + 12: np.dtype(np.uint32),
    ONNX_DTYPE_BASE + 13: np.dtype(np.uint64),
}
_CODES = {dtype: code for code, dtype in _DTYPES.items()}
DTYPE_CODES = tuple(_DTYPES)


def dtype_of_code(code: int) -> np.dtype[Any]:
    """The NumPy dtype of a dtype code of `buffers`; SmecError for an unknown code."""
    if code not in _DTYPES:
        raise SmecError("unknown dtype code", expected=f"one of {sorted(_DTYPES)}", found=str(code))
    return _DTYPES[code]


def dtype_code(dtype: npt.DTypeLike) -> int:
    """The dtype code of a NumPy dtype; SmecError for a dtype that no buffer can hold."""
    key = np.dtype(dtype)
    if key not in _CODES:
        raise SmecError(
            "no buffer can hold this dtype", expected=", ".join(sorted(str(d) for d in _CODES)), found=str(key)
        )
    return _CODES[key]


@dataclass(frozen=True)
class SectionSpec:
    """One section: its dtype and shape. Shape entries are numbers, or names of sizes: equal names, equal sizes."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    doc: str


SECTIONS: tuple[SectionSpec, ...] = (
    SectionSpec("code", "uint32", ("instructions", 8), "instruction words: opcode, then the operands"),
    SectionSpec("core_table", "int64", ("cores", 2), "each core's first instruction and their count"),
    SectionSpec(
        "buffers",
        "int64",
        ("buffers", 5),
        "core, space (0 act, 1 acc, 2 host), base address, elements an image, dtype code",
    ),
    SectionSpec(
        "agus", "int64", ("agus", AGU_WIDTH), "buffer, offset, 6 x (count, stride), outermost first, unused ones first"
    ),
    SectionSpec(
        "tile_rows", "int32", ("tiles", "R"), "input address of each row, relative to the source AGU's point; -1 unused"
    ),
    SectionSpec(
        "tile_cols",
        "int32",
        ("tiles", "C"),
        "output address of each column, relative to the destination AGU's point; -1 unused",
    ),
    SectionSpec("tile_shift", "uint8", ("tiles", "R"), "row shift k_r"),
    SectionSpec("tile_offset", "int64", ("tiles",), "2^(N-1) for offset coding, else 0"),
    SectionSpec(
        "tile_sign",
        "int64",
        ("tiles", 2),
        "first of its sign blocks in sign_blocks, and the rows g of one, R / g blocks a tile; g = 0: none",
    ),
    SectionSpec(
        "sign_blocks",
        "uint8",
        ("sign_blocks", "sign_bytes"),
        "bit n: 1 where what column n reads of the block's rows counts as negative; little bit order",
    ),
    SectionSpec("tile_xbars", "int64", ("tiles", 2), "first crossbar and their count"),
    SectionSpec(
        "xbar_place",
        "int32",
        ("crossbars", 4),
        "core, slot, first row, first column of the block in its physical crossbar",
    ),
    SectionSpec("xbar_phys", "int32", ("crossbars",), "the physical crossbar: index into cells"),
    SectionSpec("xbar_weight", "int64", ("crossbars",), "splice multiplier of the crossbar's reads, +-2^(c p)"),
    SectionSpec("xbar_group", "int16", ("crossbars", "R"), "row group of each row of the tile, 0..G-1; -1 not driven"),
    SectionSpec(
        "cells",
        "uint8",
        ("physical", "R", "row_bytes"),
        "cells; column n holds bits n c .. n c + c - 1 of its row, little bit order",
    ),
    SectionSpec("pool_f32", "float32", ("pool_f32",), "tables of float32"),
    SectionSpec("pool_i64", "int64", ("pool_i64",), "tables of int64"),
    SectionSpec("pool_u16", "uint16", ("pool_u16",), "tables of uint16"),
)
SECTION_BY_NAME = {spec.name: spec for spec in SECTIONS}


def section_spec(name: str) -> SectionSpec | None:
    """The layout that a section of this name must have.

    None where any is allowed (`sample.*`, `weights.*`) or the name is unknown.
    """
    if name in SECTION_BY_NAME:
        return SECTION_BY_NAME[name]
    if name == "model" or name.startswith("host."):
        return SectionSpec(
            name,
            "uint8",
            ("bytes",),
            "utf-8 text of the quant-level IR" if name == "model" else "a serialized ONNX ModelProto",
        )
    return None


def section_known(name: str) -> bool:
    """True for every name that a program may carry."""
    return section_spec(name) is not None or name.startswith(("sample.", "weights."))


#: Bounds that keep every count of a read far within 64 bits; other numbers are bounded by 2^20.
_LARGEST = {"rows": 4096, "columns": 4096, "cell_bits": 8, "dac_bits": 16, "adc_bits": 32, "read_cycle_ns": 1 << 30}


@dataclass(frozen=True)
class Hardware:
    """The numbers of a target that the meaning and the cycles of a program depend on.

    `from_dict` takes them out of a target's full dictionary (the `target` entry of a program's metadata).
    """

    rows: int
    columns: int
    cell_bits: int
    dac_bits: int
    adc_bits: int
    concurrent_rows: int
    crossbars_per_core: int
    vector_lanes: int
    link_bytes_per_cycle: int
    clock_ghz: float
    read_cycle_ns: float

    @staticmethod
    def from_dict(target: Mapping[str, Any]) -> Hardware:
        """Raises SmecError where a number is missing, of the wrong kind, not positive or beyond `_LARGEST`."""
        values: dict[str, Any] = {}
        for field in fields(Hardware):
            value: Any = target.get(field.name)
            kinds = int if field.type == "int" else (int, float)
            top = _LARGEST.get(field.name, 1 << 20)
            if isinstance(value, bool) or not isinstance(value, kinds) or not 0 < value <= top:
                expected = f"a positive {field.type} up to {top}"
                raise SmecError(f"bad value of '{field.name}'", expected=expected, found=repr(value))
            values[field.name] = value
        return Hardware(**values)

    @property
    def row_bytes(self) -> int:
        """Bytes of one row of packed cells."""
        return (self.columns * self.cell_bits + 7) // 8

    @property
    def sizes(self) -> dict[str, int]:
        """Sizes in the shapes of sections that follow from the target, by name."""
        return {"R": self.rows, "C": self.columns, "row_bytes": self.row_bytes, "sign_bytes": (self.columns + 7) // 8}


def agu_row(buffer: int, offset: int, dims: Sequence[tuple[int, int]]) -> list[int]:
    """One row of `agus`: (count, stride) pairs, outermost first; missing outer dimensions become (1, 0).

    More than six pairs are accepted as long as unit and mergeable ones can be folded; SmecError otherwise.
    """
    dims = list(dims)
    if len(dims) > AGU_DIMS:
        dims = merge_dims(dims)
    if len(dims) > AGU_DIMS:
        raise SmecError("an address generator has too many dimensions", expected=f"at most {AGU_DIMS}", found=str(dims))
    padded = [(1, 0)] * (AGU_DIMS - len(dims)) + dims
    return [buffer, offset, *(number for pair in padded for number in pair)]


def merge_dims(dims: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The same address sequence in the fewest (count, stride) pairs: unit ones dropped, neighbours merged."""
    merged: list[tuple[int, int]] = []
    for count, stride in dims:
        if count == 1:
            continue
        if merged and merged[-1][1] == count * stride:
            merged[-1] = (merged[-1][0] * count, stride)
        else:
            merged.append((count, stride))
    return merged


def agu_addresses(agu: npt.NDArray[np.int64]) -> IntArray:
    """Addresses (elements within the buffer) that one row of `agus` visits, int64 [points], in its order."""
    addresses = np.array([agu[1]], np.int64)
    for count, stride in zip(agu[2::2], agu[3::2], strict=True):
        addresses = (addresses[:, None] + np.arange(count, dtype=np.int64) * stride).reshape(-1)
    return addresses


def agu_view(memory: npt.NDArray[Any], agu: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
    """A strided view of a buffer [B, size]: shape (B, c0..c5), the AGU's six counts. The AGU must be valid."""
    item = memory.strides[1]
    strides = (memory.strides[0], *(int(stride) * item for stride in agu[3::2]))
    shape = (memory.shape[0], *(int(count) for count in agu[2::2]))
    start = memory[:, int(agu[1]) :] if memory.shape[1] else memory
    return np.lib.stride_tricks.as_strided(start, shape=shape, strides=strides)


def group_reads(sections: Mapping[str, npt.NDArray[Any]], act_bits: int, dac_bits: int) -> IntArray:
    """Reads of each row group, ceil((A + kmax - kmin) / d), int64 [crossbars, groups]; 0 where there is no such group.

    Read number t of a group drives digit t of its rows' inputs, each shifted by its row shift - kmin.
    """
    group = np.asarray(sections["xbar_group"]).astype(np.int64)
    width = int(group.max(initial=-1)) + 1
    if not width:
        return np.zeros((len(group), 0), np.int64)
    tile = tile_of_crossbar(np.asarray(sections["tile_xbars"]), len(group))
    xbar, row = np.nonzero(group >= 0)
    key = xbar * width + group[xbar, row]
    shift = np.asarray(sections["tile_shift"]).astype(np.int64)[tile[xbar], row]
    low = np.full(len(group) * width, 255, np.int64)
    high = np.full(len(group) * width, -1, np.int64)
    np.minimum.at(low, key, shift)
    np.maximum.at(high, key, shift)
    reads: IntArray = np.where(high >= 0, -(-(act_bits + high - low) // dac_bits), 0).reshape(len(group), width)
    return reads


def tile_of_crossbar(tile_xbars: npt.NDArray[np.int64], crossbars: int) -> IntArray:
    """The tile of each crossbar, int64 [crossbars]; `tile_xbars` must cover them exactly and in order."""
    tile = np.repeat(np.arange(len(tile_xbars), dtype=np.int64), tile_xbars[:, 1])
    if len(tile) != crossbars:
        raise SmecError("tile_xbars does not cover the crossbars", expected=str(crossbars), found=str(len(tile)))
    return tile


def row_signs(
    sections: Mapping[str, npt.NDArray[Any]], tile: int, rows: IntArray, columns: IntArray
) -> npt.NDArray[np.int64] | None:
    """What the splice multiplies the reads of each row and column of a tile by.

    Args:
        rows, columns: int64, positions in the tile.

    Returns:
        int64 [rows, columns] of 1 and -1, the same in all rows of a sign block; None for a tile without sign blocks.
    """
    first, height = sections["tile_sign"][tile].tolist()
    if not height:
        return None
    packed = sections["sign_blocks"][first + rows // height]
    negative = (packed[:, columns >> 3] >> (columns & 7)) & 1
    signs: IntArray = 1 - 2 * negative.astype(np.int64)
    return signs


def reads_within(reads: IntArray, first: npt.ArrayLike, digits: npt.ArrayLike) -> IntArray:
    """Of `reads` of row groups those of `digits` digits from number `first` on; all where `digits` is 0.

    The arrays broadcast.
    """
    within: IntArray = np.where(np.greater(digits, 0), np.clip(np.subtract(reads, first), 0, digits), reads)
    return within


class Sizes:
    """Sizes that an instruction's operands stand for, as arrays over the tables that the operands index.

    points: int64 [agus], visited addresses. counts: int64 [agus, 6]. channels: int64 [agus], the sixth count.
    item_bytes: int64 [agus], bytes of an element.
    """

    def __init__(self, sections: Mapping[str, npt.NDArray[Any]], act_bits: int, hardware: Hardware) -> None:
        agus = np.asarray(sections["agus"])
        self.counts: IntArray = agus[:, 2::2].copy()
        self.points: IntArray = self.counts.prod(axis=1, dtype=np.int64)
        self.channels: IntArray = self.counts[:, -1]
        codes = np.asarray(sections["buffers"])[:, 4]
        width = np.zeros(max(DTYPE_CODES) + 1, np.int64)
        width[list(DTYPE_CODES)] = [dtype.itemsize for dtype in _DTYPES.values()]
        self.item_bytes: IntArray = width[codes[agus[:, 0]]]
        self.act_bits = act_bits
        self.hardware = hardware
        self._sections = sections

    @cached_property
    def _group_reads(self) -> tuple[IntArray, IntArray]:
        """`group_reads`, and the tile of each crossbar."""
        reads = group_reads(self._sections, self.act_bits, self.hardware.dac_bits)
        return reads, tile_of_crossbar(np.asarray(self._sections["tile_xbars"]), len(reads))

    def reads(self, tile: IntArray, first: IntArray, digits: IntArray) -> IntArray:
        """Read cycles that one pixel takes, int64 [n], of tiles int64 [n].

        first, digits: int64 [n], the digits that are read of each row group; `digits` 0: all.
        """
        groups, owner = self._group_reads
        reads = np.zeros(len(tile), np.int64)
        for start, count in np.unique(np.stack([first, digits], axis=1), axis=0).tolist():
            own = (first == start) & (digits == count)
            each = np.zeros(len(self._sections["tile_xbars"]), np.int64)
            # the crossbars of a tile read at the same time
            np.maximum.at(each, owner, reads_within(groups, start, count).sum(axis=1))
            reads[own] = each[tile[own]]
        return reads

    @cached_property
    def digits(self) -> IntArray:
        """Input digits of each tile, int64 [tiles]: the most reads of any of its row groups, ceil(A / d) at least."""
        groups, owner = self._group_reads
        digits = np.full(len(self._sections["tile_xbars"]), -(-self.act_bits // self.hardware.dac_bits), np.int64)
        np.maximum.at(digits, owner, groups.max(axis=1, initial=0))
        return digits


def empty_sections(hardware: Hardware) -> dict[str, npt.NDArray[Any]]:
    """Every fixed section with no entries: the start of a program that is built piece by piece."""
    known = hardware.sizes
    return {
        spec.name: np.zeros(tuple(n if isinstance(n, int) else known.get(n, 0) for n in spec.shape), spec.dtype)
        for spec in SECTIONS
    }


def names_of(prefix: str, sections: Iterable[str]) -> list[str]:
    """Section names with this prefix, sorted; `host.<i>` in numeric order."""
    found = [name for name in sections if name.startswith(prefix)]
    return sorted(found, key=lambda name: (len(name), name) if prefix == "host." else (0, name))
