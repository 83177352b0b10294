"""Output files that appear whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from smec.ir.errors import SmecError


def write_whole(path: str | os.PathLike[str], data: bytes | str) -> None:
    """Write a file beside its place and rename it, so that a reader sees the old file or the whole new one.

    Raises:
        SmecError: it cannot be written.
    """
    target = Path(path)
    beside = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        try:
            beside.write_bytes(data.encode() if isinstance(data, str) else data)
            beside.replace(target)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        found = error.strerror or error
        raise SmecError("cannot write the file", location=str(path), expected="a writable file", found=found) from error
