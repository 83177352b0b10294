"""Checks that a program is well-formed, before anything uses it.

All indices, addresses and table extents are checked here, so that the engines can run a loaded program without checks
of their own. Rules 1 to 4 are those of `smec.runtime.validate_tables`:

 5. core_table covers the code in order; every stream ends with its only `halt`
 6. operands: indices exist, element types fit, tables lie within their pools, address generators that run in step have
    equal counts, destinations never visit an address twice, and a core touches only its own buffers and tiles (and the
    host space, which is everyone's)
 7. every `send` has one `recv`, of equal size and dtype
 8. metadata: inputs, outputs, samples, layers and host regions agree with the sections
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod

import numpy as np

from smec.ir.errors import SmecError
from smec.ir.isa_sections import DTYPE_CODES, F32, I32, I64, U8, U16, IntArray, Sizes, dtype_of_code, names_of
from smec.ir.isa_table import Instruction, Operand, by_instruction, check_words
from smec.runtime.metadata import Metadata, PortInfo
from smec.runtime.validate_tables import Array, Mask, Sections, TableValidator

_TYPE_CODES = {
    "act": (U8, U16),
    "acc": (I32, I64),
    "f32": (F32,),
    "word": (U8, U16, I32, I64, F32),
    "any": DTYPE_CODES,
}
_MAX_TABLE_ADDRESS = 1 << 40


@dataclass
class _Batch:
    """All instructions of one kind: their positions int64 [n] and operand columns int64 [n] each."""

    instruction: Instruction
    at: IntArray
    columns: Mapping[str, IntArray]

    def __getitem__(self, operand: str) -> IntArray:
        return self.columns[operand]


def validate(sections: Sections, metadata: Metadata, location: str | None = None) -> None:
    """Check sections and (type-checked) metadata against the rules; SmecError at the first that is broken."""
    Validator(sections, metadata, location).run()


class Validator(TableValidator):
    """Checks one program."""

    def run(self) -> None:
        act_bits = self.metadata["act_bits"]
        if not 1 <= act_bits <= 16:
            self.fail("metadata.act_bits is out of range", "1 to 16", act_bits)
        self.check_tables()
        self._check_streams()
        self.sizes = Sizes(self.s, act_bits, self.hardware)
        self._check_code()
        for kind, ports in (("input", self.metadata["inputs"]), ("output", self.metadata["outputs"])):
            names = [port["name"] for port in ports]
            if len(set(names)) != len(names):
                self.fail(f"{kind}s share a name", "distinct names", ", ".join(names))
        for port in self.metadata["inputs"]:
            self._check_port("input", port)
            if not self.distinct[port["agu"]]:
                found = self.s["agus"][port["agu"]]
                self.fail(f"input '{port['name']}' writes an address twice", "distinct addresses", found)
        for port in self.metadata["outputs"]:
            self._check_port("output", port)
        self._check_samples()
        self._check_layers()

    # -- rule 5

    def _check_streams(self) -> None:
        code, table = self.s["code"], self.s["core_table"]
        try:
            check_words(code)
        except SmecError as error:
            self.fail(error.message, error.expected, error.found)
        self.within(table[:, 1], 1, len(code) + 1, "core {}: bad instruction count")
        ends = np.cumsum(table[:, 1])
        order = "core {}: its instructions do not follow those of the core before"
        self.each(table[:, 0] == ends - table[:, 1], order, "ascending ranges without gaps", table[:, 0])
        if table[:, 1].sum() != len(code):
            self.fail("core_table does not cover the code", f"{len(code)} instructions", table[:, 1].sum())
        halts = np.flatnonzero(code[:, 0] == Instruction.by_mnemonic("halt").opcode)
        if not np.array_equal(halts, ends - 1):
            stray = np.setxor1d(halts, ends - 1)[0]
            self.fail("a core's instructions do not end with its only halt", "halt there, and there only", stray)
        self.core_of: IntArray = np.repeat(np.arange(len(table), dtype=np.int64), table[:, 1])

    # -- rules 6 and 7

    def _check_code(self) -> None:
        batches = {row.mnemonic: _Batch(row, at, columns) for row, at, columns in by_instruction(self.s["code"])}
        for batch in batches.values():
            # Indices first: what follows looks into the tables that they point to.
            for operand in batch.instruction.operands:
                self._check_index(batch, operand)
            for operand in batch.instruction.operands:
                self._check_operand(batch, operand)
            self._check_relations(batch)
            special = _SPECIAL.get(batch.instruction.mnemonic)
            if special is not None:
                special(self, batch)
        self._check_messages(batches.get("send"), batches.get("recv"))

    def require(self, batch: _Batch, good: Mask, what: str, expected: object, found: Array) -> None:
        """Fail at the first instruction of the batch for which `good` is False."""
        if not good.all():
            i = int(np.flatnonzero(~good)[0])
            self.fail(f"instruction {batch.at[i]} ({batch.instruction.mnemonic}): {what}", expected, found[i])

    def _check_index(self, batch: _Batch, operand: Operand) -> None:
        limit = {
            "agu": len(self.s["agus"]),
            "window": len(self.s["agus"]),
            "tile": len(self.s["tile_xbars"]),
            "core": self.cores,
            "layer": len(self.metadata["layers"]),
            "host": len(self.metadata["host"]),
        }.get(operand.kind)
        if limit is not None:
            values = batch[operand.name]
            self.require(batch, values < limit, f"'{operand.name}' is not in its table", f"0 to {limit - 1}", values)

    def _check_operand(self, batch: _Batch, operand: Operand) -> None:
        name, values, own = operand.name, batch[operand.name], self.core_of[batch.at]
        if operand.kind == "agu":
            codes = self.agu_code[values]
            fits = np.isin(codes, _TYPE_CODES[operand.types])
            self.require(batch, fits, f"'{name}' has a wrong dtype", _TYPE_CODES[operand.types], codes)
            core = self.agu_core[values]
            self.require(batch, (core < 0) | (core == own), f"'{name}' is in another core", "its own core", core)
            if "w" in operand.access:
                good, found = self.distinct[values], self.s["agus"][values, 2:]
                self.require(batch, good, f"'{name}' writes an address twice", "distinct addresses", found)
        elif operand.kind == "tile":
            core = self.tile_core[values]
            self.require(batch, (core < 0) | (core == own), "the tile is in another core", "its own core", core)
        elif operand.count is not None:
            end = values + operand.count(batch.columns, self.sizes)
            size = len(self.s[operand.kind])
            self.require(batch, end <= size, f"table '{name}' leaves {operand.kind}", f"at most {size} entries", end)

    def _check_relations(self, batch: _Batch) -> None:
        names, columns, counts = batch.instruction.same, batch.columns, self.sizes.counts
        for name in names:
            equal = (counts[columns["dst"]] == counts[columns[name]]).all(axis=1)
            self.require(batch, equal, f"'dst' and '{name}' do not run in step", "equal counts", counts[columns[name]])
        if batch.instruction.channels:
            channels, length = self.sizes.channels[columns["dst"]], columns["length"]
            self.require(batch, channels == length, "'length' is not the innermost count", "equal numbers", length)
        if "hi" in columns:
            top = np.where(self.agu_code[columns["dst"]] == U8, 255, 65535)
            self.require(batch, columns["hi"] <= top, "'hi' does not fit the destination", "its dtype", columns["hi"])
        if "lo" in columns:
            self.require(batch, columns["lo"] <= columns["hi"], "'lo' exceeds 'hi'", "lo <= hi", columns["lo"])
        if "window" in columns:
            self._check_window(batch)

    def _check_window(self, batch: _Batch) -> None:
        agus, window, src = self.s["agus"], batch["window"], batch["src"]
        local = (agus[window, 1] == 0) & (agus[window, 0] == agus[src, 0])
        self.require(batch, local, "bad window", "offset 0 in the buffer of 'src'", agus[window, :2])
        low, high = self.low[src] + self.low[window], self.high[src] + self.high[window]
        inside = (low >= 0) & (high < self.agu_size[src])
        self.require(batch, inside, "the window leaves the buffer of 'src'", "addresses within it", high)

    def _check_mvm(self, batch: _Batch) -> None:
        for name, reach in (("src", self.row_reach), ("dst", self.col_reach)):
            last = self.high[batch[name]] + np.maximum(reach[batch["tile"]], 0)
            inside = last < self.agu_size[batch[name]]
            self.require(batch, inside, f"the tile leaves the buffer of '{name}'", "addresses within it", last)
        first, digits = batch["first"], batch["digits"]
        self.require(batch, (digits > 0) | (first == 0), "'first' is set, but not 'digits'", "0", first)
        parts = np.flatnonzero(digits)
        if len(parts):  # counting the digits of all tiles takes a while
            some = _Batch(batch.instruction, batch.at[parts], {})
            end, most = (first + digits)[parts], self.sizes.digits[batch["tile"][parts]]
            over = np.flatnonzero(end > most)
            expected = f"at most {most[over[0]]} in all" if len(over) else ""
            self.require(some, end <= most, "'first' and 'digits' leave the tile's input digits", expected, end)

    def _check_copy(self, batch: _Batch) -> None:
        source = self.agu_code[batch["src"]]
        self.require(batch, self.agu_code[batch["dst"]] == source, "dtypes differ", "equal dtypes", source)

    def _check_gather(self, batch: _Batch) -> None:
        self._check_copy(batch)
        points = self.sizes.points[batch["dst"]]
        sources = batch["src"]
        starts = batch["table"]
        ranges = np.zeros((len(starts), 2), np.int64)
        for i, (start, count) in enumerate(zip(starts.tolist(), points.tolist(), strict=True)):
            table = self.s["pool_i64"][start : start + count]
            ranges[i] = table.min(), table.max()
        ranges = np.clip(ranges, -_MAX_TABLE_ADDRESS, _MAX_TABLE_ADDRESS) + self.s["agus"][sources, 1][:, None]
        inside = (ranges[:, 0] >= 0) & (ranges[:, 1] < self.agu_size[sources])
        self.require(batch, inside, "the table leaves the buffer of 'src'", "addresses within it", ranges)

    def _check_host(self, batch: _Batch) -> None:
        for first, count, output in (("first_in", "n_in", False), ("first_out", "n_out", True)):
            for i, (start, n) in enumerate(zip(batch[first].tolist(), batch[count].tolist(), strict=True)):
                one = _Batch(batch.instruction, np.repeat(batch.at[i], n), {})
                agus = self.s["pool_i64"][start : start + n]
                known = (agus >= 0) & (agus < len(self.s["agus"]))
                self.require(one, known, f"'{first}' lists no address generator", "an index into agus", agus)
                core = self.agu_core[agus]
                own = (core < 0) | (core == self.core_of[batch.at[i]])
                self.require(one, own, f"'{first}' lists a buffer of another core", "its own core", core)
                if output:
                    self.require(one, self.distinct[agus], "an output writes an address twice", "distinct", agus)

    def _check_messages(self, sends: _Batch | None, receives: _Batch | None) -> None:
        sent = self._messages(sends, "dst_core", "src")
        received = self._messages(receives, "src_core", "dst")[:, [1, 0, 2, 3, 4]]
        sent, received = (rows[np.lexsort(rows[:, 2::-1].T)] for rows in (sent, received))
        if len(sent) != len(received):
            self.fail("sends and receives do not pair", f"{len(sent)} receives", len(received))
        pair = "message {}: send and receive differ in (sender, receiver, token, elements, dtype)"
        self.each((sent == received).all(axis=1), pair, "equal", np.concatenate([sent, received], axis=1))

    def _messages(self, batch: _Batch | None, peer: str, agu: str) -> IntArray:
        """(own core, other core, token, elements, dtype code) of each transfer, int64 [n, 5], in order of the code."""
        if batch is None:
            return np.zeros((0, 5), np.int64)
        own, other, moved = self.core_of[batch.at], batch[peer], batch[agu]
        self.require(batch, own != other, "a core sends to itself", "another core", other)
        return np.stack([own, other, batch["token"], self.sizes.points[moved], self.agu_code[moved]], axis=1)

    # -- rule 8

    def _check_port(self, kind: str, port: PortInfo) -> None:
        name, agu, shape, batch = port["name"], port["agu"], port["shape"], port["batch"]
        if not 0 <= agu < len(self.s["agus"]):
            self.fail(f"{kind} '{name}': unknown address generator", f"0 to {len(self.s['agus']) - 1}", agu)
        if any(n < 1 for n in shape) or prod(shape) != self.sizes.points[agu]:
            self.fail(
                f"{kind} '{name}': shape and address generator differ", f"{self.sizes.points[agu]} elements", shape
            )
        dtype = str(dtype_of_code(int(self.agu_code[agu])))
        if dtype != port["dtype"]:
            self.fail(f"{kind} '{name}': wrong dtype", dtype, port["dtype"])
        if batch is not None and not (0 <= batch < len(shape) and shape[batch] == 1):
            self.fail(f"{kind} '{name}': bad batch axis", "an axis of extent 1, or null", batch)

    def _check_samples(self) -> None:
        ports = {f"sample.{port['name']}": port for port in self.metadata["inputs"]}
        for section in names_of("sample.", self.s):
            sample, port = self.s[section], ports.get(section)
            if port is None:
                self.fail(f"section '{section}' belongs to no input", ", ".join(ports) or "no samples", section)
            images = sample.shape[0] if sample.ndim else 0
            if images < 1 or str(sample.dtype) != port["dtype"] or sample.size != images * prod(port["shape"]):
                expected = f"{port['dtype']} [images, {', '.join(map(str, port['shape']))}]"
                self.fail(
                    f"section '{section}' does not fit its input", expected, f"{sample.dtype} {list(sample.shape)}"
                )

    def _check_layers(self) -> None:
        first = 0
        for layer in self.metadata["layers"]:
            if layer["tile_first"] != first or layer["tiles"] < 0:
                found = f"{layer['tiles']} from {layer['tile_first']} on"
                self.fail(
                    f"layer '{layer['name']}': its tiles do not follow the layer before", f"from {first} on", found
                )
            first += layer["tiles"]
        if first != len(self.s["tile_xbars"]):
            self.fail("metadata.layers do not cover the tiles", f"{len(self.s['tile_xbars'])} tiles", first)


_SPECIAL: dict[str, Callable[[Validator, _Batch], None]] = {
    "mvm": Validator._check_mvm,
    "copy": Validator._check_copy,
    "gather": Validator._check_gather,
    "host": Validator._check_host,
}
