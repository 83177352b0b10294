"""The program file, `.smebin`: a safetensors file of data sections with one metadata document.

Layout (safetensors): 8 bytes little-endian header length, a JSON header, the sections' bytes. The header's
`__metadata__` holds strings:

    format         "smebin"
    version        "2"
    smec           the document as JSON: {"metadata": <smec.runtime.metadata.Metadata>,
                   "sha256": {section: hex digest of its bytes}}
    header_sha256  SHA-256 of the header itself with these 64 digits replaced by zeros

so that every bit of a file is covered by a checksum. Sections lie in order of falling element size, then name, hence
aligned; the header is padded with spaces to a multiple of 64 bytes. The document's keys are sorted: equal programs give
equal bytes. safetensors' own writer is not used because it orders metadata keys by a hash map, which differs between
runs.

Loading maps the file, verifies every checksum, then the metadata's schema and the program's structure
(`smec.runtime.validate`). It executes nothing from the file. Sections are read-only views of the map.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import mmap
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from smec.ir.errors import SmecError
from smec.ir.isa_sections import Hardware, IntArray, Sizes
from smec.ir.isa_table import program_cycles
from smec.runtime.metadata import Metadata, check_metadata
from smec.runtime.validate import validate

Array = npt.NDArray[Any]

FORMAT = "smebin"
VERSION = "2"

#: safetensors' dtype names.
_DTYPES = {
    "BOOL": "?",
    "U8": "u1",
    "I8": "i1",
    "U16": "<u2",
    "I16": "<i2",
    "F16": "<f2",
    "U32": "<u4",
    "I32": "<i4",
    "F32": "<f4",
    "U64": "<u8",
    "I64": "<i8",
    "F64": "<f8",
}
_NAMES = {np.dtype(code): name for name, code in _DTYPES.items()}
_ALIGN = 64
_MAX_EXTENT = 1 << 48
_MAX_RANK = 8
_MAX_HEADER = 100_000_000  # safetensors' own limit
_DIGEST_KEY = b'"header_sha256":"'  # cannot occur inside a JSON string, where quotes are escaped
_ZEROS = b"0" * 64


class Program:
    """A compiled program: named arrays and the metadata document.

    sections: see `smec.ir.isa_sections`; contiguous little-endian arrays. metadata: see
    `smec.runtime.metadata.Metadata`. Treat both as read-only: `replace_section` makes a changed copy.
    path: the file that it was loaded from, if any.
    """

    def __init__(self, sections: Mapping[str, Array], metadata: Metadata, path: str | None = None) -> None:
        self.sections: dict[str, Array] = {name: _plain(name, array) for name, array in sections.items()}
        self.metadata = metadata
        self.path = path

    # -- what follows from the document

    @cached_property
    def hardware(self) -> Hardware:
        """The target's numbers."""
        return Hardware.from_dict(self.metadata["target"])

    @property
    def act_bits(self) -> int:
        """Bits A of an activation."""
        return self.metadata["act_bits"]

    @cached_property
    def sizes(self) -> Sizes:
        """Sizes behind the operands, for cycle counts."""
        return Sizes(self.sections, self.act_bits, self.hardware)

    @cached_property
    def cycles(self) -> IntArray:
        """Cycles of each instruction for one image, int64 [instructions], in the instruction's own unit."""
        return program_cycles(self.sections["code"], self.sizes)

    @cached_property
    def tile_layer(self) -> IntArray:
        """Layer of each tile, int64 [tiles]."""
        layers = self.metadata["layers"]
        return np.repeat(np.arange(len(layers), dtype=np.int64), [layer["tiles"] for layer in layers])

    def validate(self) -> None:
        """Check metadata and structure as `load` does; SmecError at the first fault."""
        validate(self.sections, check_metadata(_normal(self.metadata), self.path), self.path)

    def replace_section(self, name: str, array: Array) -> Program:
        """A new program with one section replaced (or added); it is not validated."""
        return Program({**self.sections, name: array}, self.metadata)

    # -- files

    def to_bytes(self) -> bytes:
        """The file's contents; the same program gives the same bytes."""
        header, order = self._header()
        return b"".join([header, *(bytes(_bytes(self.sections[name])) for name in order)])

    def save(self, path: str | os.PathLike[str]) -> None:
        """Validate, then write the file: beside its place, synced, and renamed into it.

        A reader sees the old file or the whole new one. SmecError for a malformed program or a file that cannot be
        written.
        """
        self.validate()
        header, order = self._header()
        target = Path(path)
        beside = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        try:
            try:
                with beside.open("wb") as file:
                    file.write(header)
                    for name in order:
                        file.write(_bytes(self.sections[name]))
                    file.flush()
                    os.fsync(file.fileno())
                beside.replace(target)
            finally:
                beside.unlink(missing_ok=True)
            _sync_folder(target.parent)
        except OSError as error:
            raise SmecError(
                "cannot write the program",
                location=str(path),
                expected="a writable file",
                found=error.strerror or error,
            ) from error

    def _header(self) -> tuple[bytes, list[str]]:
        """Length and header bytes, and the order of the sections."""
        order = sorted(self.sections, key=lambda name: (-self.sections[name].itemsize, name))
        document = {
            "metadata": _normal(self.metadata),
            "sha256": _digests({name: self.sections[name] for name in order}),
        }
        entries: dict[str, Any] = {
            "__metadata__": {
                "format": FORMAT,
                "version": VERSION,
                "smec": _json(document),
                "header_sha256": _ZEROS.decode(),
            }
        }
        position = 0
        for name in order:
            array = self.sections[name]
            entries[name] = {
                "dtype": _NAMES[array.dtype],
                "shape": list(array.shape),
                "data_offsets": [position, position + array.nbytes],
            }
            position += array.nbytes
        # The reader expects the entries in the order of the data, so their keys are not sorted.
        header = json.dumps(entries, separators=(",", ":")).encode()
        header += b" " * (-(8 + len(header)) % _ALIGN)
        digest = hashlib.sha256(header).hexdigest().encode()
        at = header.index(_DIGEST_KEY) + len(_DIGEST_KEY)
        return len(header).to_bytes(8, "little") + header[:at] + digest + header[at + 64 :], order

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Program:
        """Map and check a program file. Raises one SmecError that says what is wrong with it."""
        location = str(path)
        try:
            with Path(path).open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                data: mmap.mmap | bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b""
        except (OSError, ValueError) as error:
            raise SmecError(
                "cannot read the program",
                location=location,
                expected="a readable file",
                found=getattr(error, "strerror", None) or error,
            ) from error
        return _Reader(data, location).program()

    @staticmethod
    def from_bytes(data: bytes, location: str = "<bytes>") -> Program:
        """Check a program file's contents, as `load` does."""
        return _Reader(data, location).program()


class _Reader:
    """Reads one file; every check in the order in which the bytes can be trusted."""

    def __init__(self, data: mmap.mmap | bytes, location: str) -> None:
        self.data = data
        self.location = location

    def fail(self, message: str, expected: object, found: object) -> SmecError:
        return SmecError(message, location=self.location, expected=expected, found=found)

    def program(self) -> Program:
        raw = self.raw_header()
        entries, strings = self.header(raw)
        self.check_header_digest(raw, strings)
        sections = self.sections(entries, 8 + len(raw))
        document = self.document(strings)
        self.check_digests(sections, document)
        metadata = check_metadata(document.get("metadata"), self.location)
        validate(sections, metadata, self.location)
        return Program(sections, metadata, self.location)

    def raw_header(self) -> bytes:
        size = len(self.data)
        if size < 8:
            raise self.fail("not a program file", "at least 8 bytes", f"{size} bytes")
        length = int.from_bytes(self.data[:8], "little")
        if not 2 <= length <= min(size - 8, _MAX_HEADER):
            raise self.fail(
                "not a program file, or truncated",
                f"a header of 2 to {min(size - 8, _MAX_HEADER)} bytes",
                f"{length} bytes",
            )
        return self.data[8 : 8 + length]

    def header(self, raw: bytes) -> tuple[dict[str, Any], dict[str, str]]:
        try:
            entries = json.loads(raw.decode())
        except (ValueError, RecursionError) as error:
            raise self.fail("not a program file, or damaged", "a JSON header", error) from None
        strings = entries.pop("__metadata__", {}) if isinstance(entries, dict) else {}
        found = strings.get("format") if isinstance(strings, dict) else None
        if found != FORMAT:
            raise self.fail("not a program file", f"format '{FORMAT}'", f"format {found!r}")
        if strings.get("version") != VERSION:
            raise self.fail("unknown version of the program format", VERSION, repr(strings.get("version")))
        if set(strings) != {"format", "version", "smec", "header_sha256"} or not all(
            isinstance(v, str) for v in strings.values()
        ):
            raise self.fail("bad file metadata", "format, version, smec, header_sha256", ", ".join(map(str, strings)))
        return entries, strings

    def check_header_digest(self, raw: bytes, strings: dict[str, str]) -> None:
        at = raw.find(_DIGEST_KEY) + len(_DIGEST_KEY)
        found = hashlib.sha256(raw[:at] + _ZEROS + raw[at + 64 :]).hexdigest()
        if strings["header_sha256"] != found or raw[at : at + 64] != found.encode():
            raise self.fail("the header is damaged", f"SHA-256 {strings['header_sha256'][:16]}...", f"{found[:16]}...")

    def sections(self, entries: dict[str, Any], start: int) -> dict[str, Array]:
        sections: dict[str, Array] = {}
        position = 0
        for name, entry in entries.items():
            dtype, shape, begin, end = self.entry(name, entry)
            count = math.prod(shape)
            size = count * dtype.itemsize
            if begin != position or end != position + size:
                found = f"{begin} to {end}"
                raise self.fail(f"section '{name}' has a wrong extent", f"{size} bytes at {position}", found)
            if start + end > len(self.data):
                raise self.fail("the file is truncated", f"{start + end} bytes or more", f"{len(self.data)} bytes")
            flat = np.frombuffer(self.data, dtype, count, start + begin) if count else np.zeros(0, dtype)
            flat.flags.writeable = False
            sections[name] = flat.reshape(shape)
            position = end
        if start + position != len(self.data):
            raise self.fail(
                "the file has bytes after its last section", f"{start + position} bytes", f"{len(self.data)} bytes"
            )
        return sections

    def entry(self, name: str, entry: Any) -> tuple[np.dtype[Any], list[int], int, int]:
        """Dtype, shape, and first and last byte of a section."""
        try:
            dtype, shape, (begin, end) = np.dtype(_DTYPES[entry["dtype"]]), entry["shape"], entry["data_offsets"]
            numbers = [*shape, begin, end]
        except (KeyError, TypeError, ValueError) as error:
            raise self.fail(f"bad header entry '{name}'", "dtype, shape, data_offsets", repr(error)) from None
        if not all(type(n) is int and 0 <= n < _MAX_EXTENT for n in numbers) or len(shape) > _MAX_RANK:
            raise self.fail(f"bad header entry '{name}'", "sizes and offsets that are natural numbers", numbers)
        return dtype, shape, begin, end

    def document(self, strings: dict[str, str]) -> dict[str, Any]:
        try:
            document = json.loads(strings["smec"], parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            raise self.fail("bad metadata document", "JSON", error) from None
        if not isinstance(document, dict) or not isinstance(document.get("sha256"), dict):
            raise self.fail("bad metadata document", "an object with 'metadata' and 'sha256'", type(document).__name__)
        return document

    def check_digests(self, sections: dict[str, Array], document: dict[str, Any]) -> None:
        recorded = document["sha256"]
        if set(recorded) != set(sections):
            raise self.fail("checksums and sections differ", ", ".join(sorted(recorded)), ", ".join(sorted(sections)))
        for name, digest in _digests(sections).items():
            if digest != recorded[name]:
                raise self.fail(
                    f"section '{name}' is damaged", f"SHA-256 {str(recorded[name])[:16]}...", f"{digest[:16]}..."
                )


def _plain(name: str, array: Array) -> Array:
    """Contiguous, little-endian, of a dtype that safetensors knows."""
    array = np.asarray(array)
    dtype = array.dtype.newbyteorder("<")
    if dtype not in _NAMES:
        raise SmecError(
            f"section '{name}' cannot be stored", expected=", ".join(_NAMES.values()), found=str(array.dtype)
        )
    return array.astype(dtype, order="C", copy=False)


def _bytes(array: Array) -> memoryview:
    """The array's bytes without a copy."""
    return array.reshape(-1).view(np.uint8).data if array.size else memoryview(b"")


def _digests(sections: Mapping[str, Array]) -> dict[str, str]:
    """SHA-256 of each section's bytes; hashing releases the interpreter lock, so threads help."""
    with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
        return dict(zip(sections, pool.map(lambda array: hashlib.sha256(_bytes(array)).hexdigest(), sections.values())))


def _json(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, default=_python)


def _python(value: object) -> object:
    """NumPy numbers and arrays as JSON knows them."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    raise SmecError(
        "metadata cannot be stored", expected="numbers, strings, lists, objects", found=type(value).__name__
    )


def _no_constant(name: str) -> NoReturn:
    """Python's JSON reader takes NaN and Infinity for numbers; JSON does not."""
    raise ValueError(f"'{name}' is not JSON")


def _normal(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The document as a reader of the file will see it (NumPy numbers and tuples become plain ones)."""
    try:
        return dict(json.loads(_json(metadata)))
    except (TypeError, ValueError) as error:
        raise SmecError(
            "metadata cannot be stored", expected="finite numbers, strings, lists, objects", found=error
        ) from error


def _sync_folder(folder: Path) -> None:
    """Make the rename durable, where the system lets a folder be synced."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
