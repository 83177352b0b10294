"""What a module says of the compilation that made it, so that another process can go on with it.

The attributes are declared in `smec.ir.dialects.builtin.ModuleOp`: the target, act_bits and seed, the model's name and
digest, the planned passes and those that ran, the digest of the calibration data and a few images of it. The data
themselves are not part of the module: who goes on in front of a pass that needs them gives them again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from smec.data import Data, ports_of_module
from smec.ir.errors import SmecError
from smec.ir.types import Handle

if TYPE_CHECKING:
    import onnx

    from smec.ir.dialects.builtin import ModuleOp
    from smec.targets import Target

#: Calibration images that a program carries as its sample, and the bytes that they may take.
SAMPLE_IMAGES = 8
SAMPLE_BYTES = 16 << 20

#: Ending of the name of a file that holds a module.
SUFFIX = ".mlir"

#: The level from which on the calibration data have left their mark.
CALIBRATED = "nn.calibrated"


def is_module(model: object) -> bool:
    """Whether a `model` argument is a module (in memory or in a file) and not an ONNX model."""
    if isinstance(model, (str, os.PathLike)):
        return os.fspath(model).endswith(SUFFIX)
    from smec.ir.core import Operation

    return isinstance(model, Operation)


def write(
    module: ModuleOp,
    *,
    target: Target,
    act_bits: int,
    seed: int,
    pipeline: str,
    source: Mapping[str, str],
    data: Data | None,
) -> None:
    """Set the attributes of a module that was just imported."""
    module.attributes |= {
        "act_bits": act_bits,
        "seed": seed,
        "target": target_text(target),
        "source": (source["file"], source["sha256"]),
        "pipeline": pipeline,
    }
    write_data(module, data)


def write_data(module: ModuleOp, data: Data | None) -> None:
    """Set the attributes that tell of the calibration data."""
    if data is None:
        return
    ports = ports_of_module(module)
    size = max(1, sum(a.nbytes for a in data.inputs.values()) // data.images)
    few = data.first(max(1, min(SAMPLE_IMAGES, SAMPLE_BYTES // size)), ports)
    module.attributes |= {
        "calibration_images": data.images,
        "calibration_digest": data_digest(data.inputs),
        "sample_names": tuple(p.name for p in ports),
        "samples": tuple(Handle(p.for_engine(few.inputs[p.name])) for p in ports),
    }


def target_text(target: Target) -> str:
    """A target as an attribute: the preset's name, or all its numbers as JSON."""
    from smec import targets

    if target.name in targets.presets() and targets.load(target.name) == target:
        return target.name
    return json.dumps(target.model_dump(), sort_keys=True)


def target_of(module: ModuleOp) -> Target | None:
    """The target that a module was compiled for; None if it does not say.

    Raises:
        SmecError: the attribute holds no target.
    """
    from smec import targets

    text = module.target
    if not text:
        return None
    if not text.startswith("{"):
        return targets.load(text)
    where = f"{module.location}: attribute 'target'"
    try:
        values = json.loads(text)
    except ValueError as error:
        raise SmecError(f"not a target: {error}", location=where) from None
    return targets.from_values(values, where)


def data_digest(inputs: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of calibration data."""
    parts = "".join(f"{name}={Handle(array).digest}\n" for name, array in sorted(inputs.items()))
    return hashlib.sha256(parts.encode()).hexdigest()


class MissingData(Mapping[str, np.ndarray]):
    """Stands for calibration data that a module was compiled with and that nobody gave again: any use is an error."""

    def __init__(self, module: ModuleOp) -> None:
        self.images, self.location = module.calibration_images, module.location

    def _error(self) -> SmecError:
        message = f"the module was compiled with {self.images} calibration images, which the next pass needs"
        return SmecError(message, location=self.location, hint="give the same data with --calib")

    def __getitem__(self, name: str) -> np.ndarray:
        raise self._error()

    def __iter__(self) -> Iterator[str]:
        raise self._error()

    def __len__(self) -> int:
        raise self._error()


def calibration(module: ModuleOp, data: Data | None) -> Any:
    """Calibration arrays for the passes that are left, given `data` (None: no one gave any).

    Data that no pass has used yet are recorded in the module.

    Raises:
        SmecError: the module was calibrated on other data.
    """
    from smec.passes.base import levels

    if CALIBRATED not in levels(module) and data is not None:
        write_data(module, data)
    if data is None:
        return MissingData(module) if module.calibration_images else None
    found = data_digest(data.inputs)
    if found != module.calibration_digest:
        expected = f"{module.calibration_images} images" if module.calibration_images else "synthetic inputs"
        message = "the module was calibrated on other data"
        raise SmecError(message, location=data.source, expected=expected, found=f"{data.images} images")
    return data.inputs


def remaining(module: ModuleOp) -> str:
    """Text of the passes that the module's own pipeline has left.

    Raises:
        SmecError: the passes that ran are not the beginning of the pipeline, or the module names none.
    """
    from smec.passes.pipeline import parse_pipeline

    if not module.pipeline:
        raise SmecError("the module names no pipeline", location=module.location, hint="give one with --pipeline")
    planned = list(parse_pipeline(module.pipeline, f"{module.location}: attribute 'pipeline'"))
    texts = [item.text() for item in planned]
    ran = module.passes
    if tuple(texts[: len(ran)]) != ran:
        expected = ",".join(texts[: len(ran)])
        message = "the passes that ran are not the beginning of the module's pipeline"
        hint = "give the passes that are left with --pipeline"
        raise SmecError(message, location=module.location, expected=expected, found=",".join(ran), hint=hint)
    return ",".join(texts[len(ran) :])


def sample_sections(module: ModuleOp) -> dict[str, np.ndarray]:
    """Sections `sample.<input>`: the first calibration images, so that a program can be tried without data."""
    return {f"sample.{n}": handle.array for n, handle in zip(module.sample_names, module.samples, strict=True)}


def options_entry(module: ModuleOp) -> dict[str, Any]:
    """The entry `options` of a program's metadata."""
    images = module.calibration_images
    return {
        "pipeline": ",".join(module.passes),
        "calibration": {"images": images} if images else "synthetic",
        "seed": module.seed,
    }


def source_entry(module: ModuleOp) -> dict[str, str]:
    """The entry `source` of a program's metadata."""
    file, digest = module.source or (Path(module.location.file).name, "")
    return {"file": file, "sha256": digest}


def model_source(model: str | os.PathLike[str] | onnx.ModelProto) -> dict[str, str]:
    """File name (without folders) and SHA-256 of a model."""
    if isinstance(model, (str, os.PathLike)):
        try:
            data = Path(model).read_bytes()
        except OSError:
            data = b""  # the front end diagnoses what cannot be read
        return {"file": Path(model).name, "sha256": hashlib.sha256(data).hexdigest()}
    data = model.SerializeToString(deterministic=True)
    return {"file": "<model>", "sha256": hashlib.sha256(data).hexdigest()}
