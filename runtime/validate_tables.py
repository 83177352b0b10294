"""Checks of a program's tables, before anything uses them (the code is checked in `smec.runtime.validate`).

Everything is checked with array operations. The numbered rules:

 1. every fixed section is there, with the dtype and shape of `smec.ir.isa_sections.SECTIONS`; no unknown ones
 2. buffers name an existing core, space and dtype; sizes and bases are not negative
 3. every address generator stays within its buffer
 4. tiles and crossbars: ranges cover their tables in order; places lie within the target and do not contradict each
    other; a driven row is a used row; row groups are numbered 0..G-1 and drive at most the target's concurrent rows
 5. sign blocks: they cover their table in order and divide the rows of a tile; columns that a tile does not use count
    as positive; a row group is of one sign block
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from smec.ir.errors import SmecError
from smec.ir.isa_sections import (
    DTYPE_CODES,
    SECTION_BY_NAME,
    SECTIONS,
    SPACE_HOST,
    Hardware,
    IntArray,
    names_of,
    section_known,
    section_spec,
    tile_of_crossbar,
)
from smec.runtime.metadata import Metadata

Array = npt.NDArray[Any]
Sections = Mapping[str, Array]
Mask = npt.NDArray[np.bool_]

_LIMIT = 1 << 30  # of counts and strides: a product of two, and a sum of six of those, stay within int64
_MAX_POINTS = 1 << 40
_MAX_SIZE = 1 << 34
_MAX_BASE = 1 << 48
_MAX_ADDRESS = 1 << 31
_MAX_SHIFT = 32


class TableValidator:
    """Checks the tables of one program; `check_tables` raises SmecError at the first rule that is broken.

    Leaves behind, for the checks of the code: `low`, `high` (smallest and largest address of each address generator),
    `agu_size`, `agu_code`, `agu_core` (size, dtype code and core of its buffer; core -1 for the host space), `distinct`
    (it visits no address twice), `row_reach`, `col_reach` (largest relative address of each tile) and `tile_core`.
    """

    def __init__(self, sections: Sections, metadata: Metadata, location: str | None = None) -> None:
        self.s = sections
        self.metadata = metadata
        self.location = location

    def check_tables(self) -> None:
        try:
            self.hardware = Hardware.from_dict(self.metadata["target"])
        except SmecError as error:
            self.fail(f"metadata.target: {error.message}", error.expected, error.found)
        self._check_layout()
        self._check_buffers()
        self._check_agus()
        self._check_tiles()
        self._check_places()
        self._check_groups()
        self._check_signs()

    # -- reporting

    def fail(self, message: str, expected: object, found: object) -> NoReturn:
        raise SmecError(message, location=self.location, expected=expected, found=found)

    def each(self, good: Mask, what: str, expected: object, found: Array) -> None:
        """Fail at the first False of `good`; `what` is formatted with its index."""
        if not good.all():
            i = int(np.flatnonzero(~good)[0])
            self.fail(what.format(i), expected, found[i])

    def within(self, values: Array, low: int, high: int, what: str) -> None:
        """Fail at the first value outside low..high-1."""
        if len(values) and (values.min() < low or values.max() >= high):
            self.each((values >= low) & (values < high), what, f"{low} to {high - 1}", values)

    # -- rule 1

    def _check_layout(self) -> None:
        for name in SECTION_BY_NAME:
            if name not in self.s:
                there = ", ".join(other for other in SECTION_BY_NAME if other in self.s)
                self.fail("a section is missing", name, there or "none of the sections of a program")
        fixed = self.hardware.sizes
        # The fixed sections first, in their order: the first to use a size's name sets it.
        for name in [*SECTION_BY_NAME, *(name for name in self.s if name not in SECTION_BY_NAME)]:
            if not section_known(name):
                self.fail("unknown section", ", ".join(spec.name for spec in SECTIONS), name)
            self._check_shape(name, self.s[name], fixed if name in SECTION_BY_NAME else {})
        regions = [f"host.{i}" for i in range(len(self.metadata["host"]))]
        hosts = names_of("host.", self.s)
        if hosts != regions:
            self.fail(
                "host sections do not match metadata.host", ", ".join(regions) or "none", ", ".join(hosts) or "none"
            )
        for i, region in enumerate(self.metadata["host"]):
            if not 0 <= region["flops"] < 1 << 63:
                self.fail(f"metadata.host[{i}].flops", "0 to 2^63 - 1", str(region["flops"])[:40])

    def _check_shape(self, name: str, array: Array, sizes: dict[str, int]) -> None:
        spec = section_spec(name)
        if spec is None:
            return
        wanted = [size if isinstance(size, int) else sizes.get(size, size) for size in spec.shape]
        fits = len(wanted) == array.ndim and all(
            isinstance(want, str) or want == have for want, have in zip(wanted, array.shape, strict=False)
        )
        if not fits or array.dtype != np.dtype(spec.dtype):
            expected = f"{spec.dtype} [{', '.join(map(str, wanted))}]"
            self.fail(f"section '{name}' has the wrong layout", expected, f"{array.dtype} {list(array.shape)}")
        sizes.update({size: n for size, n in zip(spec.shape, array.shape, strict=True) if isinstance(size, str)})

    # -- rules 2 and 3

    def _check_buffers(self) -> None:
        buffers = self.s["buffers"]
        self.cores = len(self.s["core_table"])
        self.within(buffers[:, 0], 0, self.cores, "buffer {}: unknown core")
        self.within(buffers[:, 1], 0, SPACE_HOST + 1, "buffer {}: unknown space")
        self.within(buffers[:, 2], 0, _MAX_BASE, "buffer {}: bad base address")
        self.within(buffers[:, 3], 0, _MAX_SIZE, "buffer {}: bad size")
        self.each(
            np.isin(buffers[:, 4], DTYPE_CODES), "buffer {}: unknown dtype code", list(DTYPE_CODES), buffers[:, 4]
        )

    def _check_agus(self) -> None:
        agus, buffers = self.s["agus"], self.s["buffers"]
        counts, strides = agus[:, 2::2], agus[:, 3::2]
        self.within(agus[:, 0], 0, len(buffers), "address generator {}: unknown buffer")
        self.within(agus[:, 1], 0, _MAX_SIZE, "address generator {}: bad offset")
        self.within(counts.min(axis=1, initial=_LIMIT - 1), 1, _LIMIT, "address generator {}: bad count")
        self.within(counts.max(axis=1, initial=1), 1, _LIMIT, "address generator {}: bad count")
        self.within(strides.min(axis=1, initial=0), -_LIMIT, _LIMIT, "address generator {}: bad stride")
        self.within(strides.max(axis=1, initial=0), -_LIMIT, _LIMIT, "address generator {}: bad stride")
        points = counts.astype(np.float64).prod(axis=1)  # cannot overflow
        self.within(points, 1, _MAX_POINTS, "address generator {}: too many points")
        reach = (counts - 1) * strides
        self.low: IntArray = agus[:, 1] + np.minimum(reach, 0).sum(axis=1)
        self.high: IntArray = agus[:, 1] + np.maximum(reach, 0).sum(axis=1)
        self.agu_size: IntArray = buffers[agus[:, 0], 3]
        self.agu_code: IntArray = buffers[agus[:, 0], 4]
        self.agu_core: IntArray = np.where(buffers[agus[:, 0], 1] == SPACE_HOST, -1, buffers[agus[:, 0], 0])
        spans = np.stack([self.low, self.high, self.agu_size], axis=1)
        inside = (self.low >= 0) & (self.high < self.agu_size)
        self.each(inside, "address generator {} leaves its buffer", "0 <= lowest <= highest < size", spans)
        self.distinct = _distinct(counts, strides)

    # -- rule 4

    def _check_tiles(self) -> None:
        s = self.s
        crossbars, tiles = len(s["xbar_phys"]), s["tile_xbars"]
        self.within(tiles[:, 1], 0, crossbars + 1, "tile {}: bad crossbar count")
        starts = np.cumsum(tiles[:, 1]) - tiles[:, 1]
        order = "tile {}: its crossbars do not follow those of the tile before"
        self.each(tiles[:, 0] == starts, order, "ascending ranges without gaps", tiles[:, 0])
        self.tile_of = tile_of_crossbar(tiles, crossbars)
        self.row_reach: IntArray = s["tile_rows"].max(axis=1, initial=-1).astype(np.int64)
        self.col_reach: IntArray = s["tile_cols"].max(axis=1, initial=-1).astype(np.int64)
        self.within(s["tile_rows"].min(axis=1, initial=-1), -1, _MAX_ADDRESS, "tile {}: bad row address")
        self.within(s["tile_cols"].min(axis=1, initial=-1), -1, _MAX_ADDRESS, "tile {}: bad column address")
        self.within(s["tile_shift"].max(axis=1, initial=0), 0, _MAX_SHIFT + 1, "tile {}: bad row shift")
        self.within(s["tile_offset"], 0, 1 << 32, "tile {}: bad offset")

    def _check_places(self) -> None:
        s, hw, tile = self.s, self.hardware, self.tile_of
        place, phys = s["xbar_place"].astype(np.int64), s["xbar_phys"].astype(np.int64)
        self.within(place[:, 0], 0, self.cores, "crossbar {}: unknown core")
        self.within(place[:, 1], 0, hw.crossbars_per_core, "crossbar {}: slot outside its core")
        self.within(phys, 0, len(s["cells"]), "crossbar {}: unknown physical crossbar")
        self.within(place[:, 2], 0, hw.rows, "crossbar {}: first row outside the physical crossbar")
        self.within(place[:, 3], 0, hw.columns, "crossbar {}: first column outside the physical crossbar")
        last_row = place[:, 2] + _extent(s["tile_rows"])[tile]
        last_col = place[:, 3] + _extent(s["tile_cols"])[tile]
        self.within(last_row, 0, hw.rows + 1, "crossbar {}: its rows leave the physical crossbar")
        self.within(last_col, 0, hw.columns + 1, "crossbar {}: its columns leave the physical crossbar")
        slot = place[:, 0] * hw.crossbars_per_core + place[:, 1]
        pairs = len(np.unique(np.stack([slot, phys], axis=1), axis=0))
        if not pairs == len(np.unique(slot)) == len(np.unique(phys)):
            self.fail(
                "places and physical crossbars contradict each other", "one (core, slot) for each", f"{pairs} pairs"
            )
        self.tile_core: IntArray = np.full(len(s["tile_xbars"]), -1, np.int64)
        self.tile_core[tile] = place[:, 0]
        home = self.tile_core[tile]
        self.each(place[:, 0] == home, "crossbar {}: not in the core of its tile", "one core", place[:, 0])

    def _check_groups(self) -> None:
        group, unused = self.s["xbar_group"], self.s["tile_rows"] < 0
        top = group.max(axis=1, initial=-1).astype(np.int64)
        self.within(top, -1, self.hardware.rows, "crossbar {}: bad row group")
        self.within(group.min(axis=1, initial=0), -1, self.hardware.rows, "crossbar {}: bad row group")
        stray = np.count_nonzero((group >= 0) & unused[self.tile_of], axis=1)
        self.within(stray, 0, 1, "crossbar {}: drives unused rows")
        width = int(top.max(initial=-1)) + 2
        key = np.arange(len(group), dtype=np.int64)[:, None] * width + group + 1
        members = np.bincount(key.reshape(-1), minlength=len(group) * width).reshape(len(group), width)[:, 1:]
        numbered = (members > 0).sum(axis=1) == top + 1
        self.each(numbered, "crossbar {}: row groups are not numbered 0, 1, 2, ...", "every number in use", top)
        rows = self.hardware.concurrent_rows
        self.within(members.max(axis=1, initial=0), 0, rows + 1, "crossbar {}: a row group drives too many rows")

    # -- rule 5

    def _check_signs(self) -> None:
        s, rows = self.s, self.hardware.rows
        first, height = s["tile_sign"][:, 0], s["tile_sign"][:, 1]
        self.within(height, 0, rows + 1, "tile {}: bad rows of a sign block")
        signed = height > 0
        size = np.maximum(height, 1)
        self.each(rows % size == 0, "tile {}: sign blocks do not divide its rows", f"a divisor of {rows}", height)
        blocks = np.where(signed, rows // size, 0)
        starts = np.cumsum(blocks) - blocks
        order = "tile {}: its sign blocks do not follow those of the tile before"
        self.each(first == starts, order, "ascending ranges without gaps", first)
        if blocks.sum() != len(s["sign_blocks"]):
            self.fail("tile_sign does not cover the sign blocks", len(s["sign_blocks"]), int(blocks.sum()))
        if not signed.any():
            return
        tile = np.repeat(np.arange(len(blocks)), blocks)
        used = np.packbits(s["tile_cols"] >= 0, axis=1, bitorder="little")
        stray = (s["sign_blocks"] & ~used[tile]).max(axis=1)
        self.within(stray, 0, 1, "sign block {}: negative columns that its tile does not use")
        # The lowest and the highest block of each group's rows, by crossbar and group.
        group = s["xbar_group"].astype(np.int64)
        width = int(group.max(initial=-1)) + 1
        xbar, row = np.nonzero((group >= 0) & signed[self.tile_of][:, None])
        key = xbar * width + group[xbar, row]
        block = row // height[self.tile_of[xbar]]
        low, high = np.full(len(group) * width, rows), np.zeros(len(group) * width, np.int64)
        np.minimum.at(low, key, block)
        np.maximum.at(high, key, block)
        crossing = (high > low).reshape(len(group), width).sum(axis=1)
        self.within(crossing, 0, 1, "crossbar {}: row groups reach across sign blocks")


def _distinct(counts: IntArray, strides: IntArray) -> Mask:
    """Whether each address generator surely visits no address twice, bool [n].

    Sufficient, and true of every row-major walk in any order of its axes: sorted by size, each stride exceeds what the
    dimensions of smaller strides reach together. Dimensions of one point do not count.
    """
    step = np.where(counts > 1, np.abs(strides), 0)
    order = np.argsort(step, axis=1, kind="stable")
    step = np.take_along_axis(step, order, 1)
    count = np.take_along_axis(counts, order, 1)
    reach = (count - 1) * step
    inner = np.cumsum(reach, axis=1) - reach
    good: Mask = ((count == 1) | (step > inner)).all(axis=1)
    return good


def _extent(addresses: Array) -> IntArray:
    """One past the last used row (or column) of each tile, int64 [tiles]; 0 if none is used."""
    positions = np.arange(1, addresses.shape[1] + 1, dtype=np.int64)
    extent: IntArray = np.where(addresses >= 0, positions, 0).max(axis=1, initial=0)
    return extent
