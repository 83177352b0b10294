"""Modules on disk: the text in one file, the arrays of its handles in a safetensors file beside it, by digest."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from smec.ir.core import Operation
from smec.ir.dialects.builtin import ModuleOp
from smec.ir.errors import SmecError
from smec.ir.types import Handle, Location

#: Value of the side file's metadata key `format`.
FORMAT = "smec-weights"


class UnloadedHandle(Handle):
    """A handle read from a text without its side file: shape and dtype are known, the array is not.

    Reading `.array` raises SmecError and names the operation.
    """

    def __init__(self, digest: str, dtype: str, shape: tuple[int, ...], owner: str, location: Location) -> None:
        self.__dict__["digest"] = digest
        self._dtype, self._shape, self._owner, self._location = np.dtype(dtype), shape, owner, location

    def __getattr__(self, name: str) -> Any:
        # Reached for `array` only, which the constructor leaves out.
        if name != "array":
            raise AttributeError(name)
        message = f"array {self.digest[:12]} of {self._owner} is not loaded"
        raise SmecError(message, location=self._location, hint="read the module together with its side file")

    @property
    def shape(self) -> tuple[int, ...]:
        return self._shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self._dtype

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Handle):
            return NotImplemented
        return self.shape == other.shape and self.dtype == other.dtype and self.digest == other.digest

    def __hash__(self) -> int:
        return hash((self.shape, self.dtype))


def handles(root: Operation) -> dict[str, Handle]:
    """All handles in the attributes of `root` and what it holds, by digest, in order of first appearance."""
    found: dict[str, Handle] = {}
    for op in root.walk():
        for value in op.attributes.values():
            for handle in _in_value(value):
                found.setdefault(handle.digest, handle)
    return found


def _in_value(value: Any) -> Iterator[Handle]:
    if isinstance(value, Handle):
        yield value
    elif isinstance(value, tuple):
        for item in value:
            yield from _in_value(item)


def save_weights(root: Operation, path: str | Path) -> int:
    """Write the arrays of all handles to a safetensors file; the same arrays give the same bytes. Returns their number.

    Raises:
        SmecError: an array is not loaded, or the file cannot be written.
    """
    from safetensors.numpy import save

    arrays = {digest: handle.array for digest, handle in sorted(handles(root).items())}
    try:
        Path(path).write_bytes(save(arrays, metadata={"format": FORMAT}))
    except OSError as error:
        raise SmecError(f"side file cannot be written: {error.strerror}", location=str(path)) from error
    return len(arrays)


def load_weights(path: str | Path) -> dict[str, Handle]:
    """The handles of a side file by digest, each array checked against its digest.

    Raises:
        SmecError: the file is missing, malformed, or an array is not what its digest says.
    """
    from safetensors import SafetensorError, safe_open

    if not Path(path).is_file():
        raise SmecError("side file not found", location=str(path))
    loaded: dict[str, Handle] = {}
    try:
        with safe_open(path, framework="np") as file:
            if (file.metadata() or {}).get("format") != FORMAT:
                raise SmecError("not a side file of a module", location=str(path), expected=f"format {FORMAT}")
            for digest in file.keys():  # noqa: SIM118  # no dictionary: a file handle with a method of that name
                handle = Handle(file.get_tensor(digest))
                if handle.digest != digest:
                    raise SmecError(f"array {digest[:12]} is damaged", location=str(path))
                loaded[digest] = handle
    except (SafetensorError, OSError, TypeError, ValueError) as error:
        raise SmecError(f"side file cannot be read: {error}", location=str(path)) from error
    return loaded


def side_file(path: str | Path) -> Path:
    """The side file of the module text `path`."""
    return Path(path).with_suffix(".safetensors")


def save_module(module: Operation, path: str | Path) -> None:
    """Write the text to `path` and, if there are handles, the arrays to `side_file(path)`.

    Raises:
        SmecError: an array is not loaded, an attribute has no textual form, or a file cannot be written.
    """
    from smec.ir.printer import print_module

    text = print_module(module)
    if handles(module):
        save_weights(module, side_file(path))
    try:
        Path(path).write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        raise SmecError(f"module cannot be written: {error.strerror}", location=str(path)) from error


def load_module(path: str | Path) -> ModuleOp:
    """Read a module and, where it is there, its side file; without it, arrays are errors when they are first needed.

    Raises:
        SmecError: a file is missing, malformed or damaged.
    """
    from smec.ir.parser import parse_module  # the parser makes UnloadedHandles

    try:
        text = Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise SmecError("not a text in UTF-8", location=str(path)) from None
    except OSError as error:
        raise SmecError(f"module cannot be read: {error.strerror}", location=str(path)) from error
    side = side_file(path)
    return parse_module(text, str(path), load_weights(side) if side.is_file() else None)
