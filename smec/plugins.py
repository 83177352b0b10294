"""Plug-in files: Python that registers passes, patterns, constraint sets, schemes, targets or host cost models."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
from pathlib import Path

from smec.ir.errors import SmecError


def load_plugin(path: str | os.PathLike[str]) -> None:
    """Run a Python file that registers passes, patterns, constraint sets, schemes, targets or host cost models.

    Every file is a module of its own, whatever its name; a file that was loaded runs anew.

    Raises:
        SmecError: the file is missing or fails.
    """
    file = Path(path)
    if not file.is_file():
        raise SmecError("plug-in not found", location=str(path), expected="a Python file")
    place = hashlib.sha256(str(file.resolve()).encode()).hexdigest()[:12]
    spec = importlib.util.spec_from_file_location(f"smec_plugin_{file.stem}_{place}", file)
    if spec is None or spec.loader is None:
        raise SmecError("plug-in is not a Python file", location=str(path), expected="a name that ends in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look up the annotations of their module there
    try:
        spec.loader.exec_module(module)
    except SmecError as error:
        error.location = error.location or str(path)
        raise
    except Exception as error:
        # Whatever a user's file raises is the user's to see, with its place.
        raise SmecError(f"plug-in fails: {type(error).__name__}: {error}", location=str(path)) from error
