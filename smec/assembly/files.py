"""Assembly on disk: the text in one file, long sections in a safetensors file beside it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from smec.assembly.assembler import assemble_items, read
from smec.assembly.disassembler import disassemble
from smec.files import write_whole
from smec.ir.errors import SmecError
from smec.program import Program
from smec.runtime import container

#: Value of the side file's metadata key `format`.
FORMAT = "smec-sections"


def save_assembly(program: container.Program, path: str | os.PathLike[str]) -> list[Path]:
    """Write a program as text, and its long sections to a side file of the same name; returns the files.

    Raises:
        SmecError: a file cannot be written.
    """
    from safetensors.numpy import save

    target = Path(path)
    side = target.with_suffix(".safetensors")
    if side == target:
        raise SmecError("text and side file would have the same name", location=str(path), expected="FILE.smeasm")
    text, arrays = disassemble(program, side.name)
    written = [target]
    if arrays:
        contiguous = {name: np.ascontiguousarray(array) for name, array in sorted(arrays.items())}
        write_whole(str(side), save(contiguous, metadata={"format": FORMAT}))
        written.append(side)
    write_whole(str(target), text)
    return written


def load_assembly(path: str | os.PathLike[str]) -> Program:
    """Read a text (and its side file, if it names one) and assemble it.

    Raises:
        SmecError: a file is missing or damaged, or the text is wrong, at line and column.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise SmecError("not a text in UTF-8", location=str(path)) from None
    except OSError as error:
        raise SmecError(f"cannot read the assembly: {error.strerror}", location=str(path)) from error
    items, side = read(text, str(path))
    arrays = None if side is None else _load_side(Path(path).parent / side)
    return assemble_items(items, text, str(path), arrays)


def _load_side(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise SmecError("side file not found", location=str(path))
    try:
        with safe_open(path, framework="np") as file:
            if (file.metadata() or {}).get("format") != FORMAT:
                raise SmecError("not a side file of an assembly text", location=str(path), expected=f"format {FORMAT}")
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # a file handle, no dictionary
    except (SafetensorError, OSError, TypeError, ValueError) as error:
        raise SmecError(f"side file cannot be read: {error}", location=str(path)) from error
