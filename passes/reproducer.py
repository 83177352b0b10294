"""A pass that fails leaves a file behind: the module that it was given and the passes that were left to run.

`smec opt FILE` runs it. The file is IR text; lines that begin with `//:` hold a JSON document (pipeline, context,
error) and, behind the module, the arrays of its handles and the calibration data, as base64 of a safetensors file.
Arrays of more than `MAX_EMBEDDED` bytes go to the module's side file, and calibration data of that size is left out.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from smec.ir.dialects.builtin import ModuleOp
from smec.ir.errors import SmecError
from smec.ir.parser import parse_module
from smec.ir.printer import print_module
from smec.ir.store import handles, load_weights, save_weights, side_file
from smec.ir.types import Handle

#: What a reproducer begins with.
FIRST_LINE = "// smec reproducer"

#: Bytes of arrays that a file holds itself.
MAX_EMBEDDED = 64 << 20

_MARK = "//:"
_COLUMNS = 116
_CALIBRATION = "calibration/"


@dataclass(frozen=True)
class Reproducer:
    """What a file holds.

    Attributes:
        module: the module before the pass that failed.
        pipeline: text of that pass and those after it.
        context: the fields `act_bits`, `seed`, `target` (a dictionary or None) and `plugins` of the pass context.
        calibration: user arrays by input, or None.
    """

    module: ModuleOp
    pipeline: str
    context: dict[str, Any]
    calibration: dict[str, np.ndarray] | None


def write_reproducer(
    path: Path | None,
    module: ModuleOp,
    pipeline: str,
    context: dict[str, Any],
    calibration: dict[str, np.ndarray] | None,
    error: str,
) -> Path:
    """Write a file, by default a new one in the folder for temporary files; returns its path.

    Raises:
        SmecError: it cannot be written.
    """
    from safetensors.numpy import save

    text = print_module(module)
    arrays = {digest: handle.array for digest, handle in sorted(handles(module).items())}
    embedded = dict(arrays) if sum(a.nbytes for a in arrays.values()) <= MAX_EMBEDDED else {}
    if calibration and sum(a.nbytes for a in calibration.values()) <= MAX_EMBEDDED:
        embedded |= {f"{_CALIBRATION}{name}": np.ascontiguousarray(a) for name, a in calibration.items()}
    document = {"pipeline": pipeline, "context": context, "error": error}
    try:
        if path is None:
            handle, name = tempfile.mkstemp(prefix="smec-reproducer-", suffix=".mlir")
            os.close(handle)
            path = Path(name)
        if len(embedded) < len(arrays):
            save_weights(module, side_file(path))
        lines = [f"{FIRST_LINE}: {_one_line(error)}", f"// run: smec opt {path}"]
        lines += [f"{_MARK}{json.dumps(document)}", text.rstrip("\n")]
        data = base64.b64encode(save(embedded)).decode() if embedded else ""
        lines += [_MARK + data[i : i + _COLUMNS] for i in range(0, len(data), _COLUMNS)]
        path.write_text("\n".join([*lines, ""]), encoding="utf-8")
    except OSError as problem:
        raise SmecError(f"reproducer cannot be written: {problem.strerror}", location=str(path)) from problem
    return path


def _one_line(text: str) -> str:
    return " ".join(text.split())[:200]


def is_reproducer(text: str) -> bool:
    """Whether a text is one that `write_reproducer` wrote."""
    return text.startswith(FIRST_LINE)


def read_reproducer(text: str, file: str) -> Reproducer:
    """The contents of a file.

    Raises:
        SmecError: the text is malformed.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    marked = [line.removeprefix(_MARK) for line in text.split("\n") if line.startswith(_MARK)]
    try:
        document = json.loads(marked[0])
        pipeline, context = document["pipeline"], document["context"]
        arrays = load(base64.b64decode("".join(marked[1:]), validate=True)) if len(marked) > 1 else {}
    except (IndexError, KeyError, TypeError, ValueError, binascii.Error, SafetensorError) as error:
        raise SmecError(f"damaged reproducer: {error}", location=file) from None
    if not isinstance(pipeline, str) or not isinstance(context, dict):
        raise SmecError("damaged reproducer", location=file, expected="a pipeline and a context")
    calibration = {n.removeprefix(_CALIBRATION): a for n, a in arrays.items() if n.startswith(_CALIBRATION)}
    weights = {name: Handle(array) for name, array in arrays.items() if not name.startswith(_CALIBRATION)}
    side = side_file(file)
    if not weights and side.is_file():
        weights = load_weights(side)
    # Blank lines in the place of the data keep the numbers of the module's lines.
    module = parse_module("\n".join("" if line.startswith(_MARK) else line for line in text.split("\n")), file, weights)
    return Reproducer(module, pipeline, context, calibration or None)
