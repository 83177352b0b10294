"""User data: `.npz` files and arrays for a model's inputs, checked against what the model takes.

A port is one graph input. A user's array stacks images along the port's batch axis (N, 3, 32, 32 for a model input of
shape 1, 3, 32, 32); where a port has none, along a further axis in front.
"""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from smec.ir.errors import SmecError

if TYPE_CHECKING:
    from smec.ir.dialects.builtin import ModuleOp
    from smec.runtime.container import Program

#: Where a caller may take arrays from: a file, arrays by input name, or the one array of a one-input model.
DataSource = str | os.PathLike[str] | Mapping[str, Any] | np.ndarray

#: Name of the array of class numbers in a data file.
LABELS = "labels"


@dataclass(frozen=True)
class Port:
    """A graph input: `shape` is the model's own for one image, `batch` the axis that stacks images, or None."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    batch: int | None

    @property
    def array_shape(self) -> tuple[int | str, ...]:
        """Shape of a user's array, with "N" for the axis of images."""
        if self.batch is None:
            return ("N", *self.shape)
        step = self.shape[self.batch]
        return tuple(("N" if step == 1 else f"N*{step}") if a == self.batch else d for a, d in enumerate(self.shape))

    def images_of(self, shape: Sequence[int]) -> int | None:
        """How many images an array of this shape holds; None if it does not fit."""
        if self.batch is None:
            return shape[0] if tuple(shape[1:]) == self.shape and shape else None
        rest = [d for a, d in enumerate(self.shape) if a != self.batch]
        step = self.shape[self.batch]
        fits = len(shape) == len(self.shape) and [d for a, d in enumerate(shape) if a != self.batch] == rest
        return shape[self.batch] // step if fits and step and shape[self.batch] % step == 0 else None

    @property
    def samples(self) -> int:
        """How many samples one image, that is one run of the model, holds: its fixed batch, or 1."""
        return 1 if self.batch is None else self.shape[self.batch]

    def with_image_axis(self, array: np.ndarray) -> np.ndarray:
        """A user's array as (B, *shape), the form that the IR's interpretation takes."""
        return array if self.batch is None else array.reshape(-1, *self.shape)

    def for_engine(self, array: np.ndarray) -> np.ndarray:
        """A user's array with runs in front of a fixed batch; unchanged where the model has none."""
        return array if self.samples == 1 else array.reshape(-1, *self.shape)


@dataclass(frozen=True)
class Data:
    """Checked arrays for all inputs of a model, as the user stacks them.

    inputs: by input name, of each port's dtype. labels: int64 [images * samples], if given. images: how many runs of
    the model. source: where the arrays come from, in words. samples: in each run, see `Port.samples`.
    """

    inputs: dict[str, np.ndarray]
    labels: np.ndarray | None
    images: int
    source: str
    samples: int = 1

    def first(self, images: int, ports: Sequence[Port]) -> Data:
        """The first `images` images (or all, if there are fewer)."""
        n = min(images, self.images)
        by_name = {p.name: p for p in ports}
        inputs = {name: take(by_name[name], a, 0, n) for name, a in self.inputs.items()}
        labels = None if self.labels is None else self.labels[: n * self.samples]
        return Data(inputs, labels, n, self.source, self.samples)


def take(port: Port, array: np.ndarray, start: int, stop: int) -> np.ndarray:
    """Images start..stop-1 of a user's array."""
    if port.batch is None:
        return array[start:stop]
    step = port.shape[port.batch]
    return array[(slice(None),) * port.batch + (slice(start * step, stop * step),)]


def ports_of_program(program: Program) -> list[Port]:
    """The inputs of a compiled program."""
    return [
        Port(p["name"], tuple(p["shape"]), np.dtype(p["dtype"]), 0 if p.get("fixed_batch") else p["batch"])
        for p in program.metadata["inputs"]
    ]


def ports_of_module(module: ModuleOp) -> list[Port]:
    """The inputs of a module's graph: the leading axis stacks images, be its own extent 1 or a fixed batch."""
    graph = module.graph
    return [
        Port(name, arg.type.shape, np.dtype(arg.type.dtype), 0 if arg.type.shape else None)
        for name, arg in zip(graph.input_names, graph.block.args, strict=True)
    ]


@dataclass(frozen=True)
class Arrays:
    """Arrays as the user gave them, before anything is known of the model. location: where they come from, in words."""

    arrays: dict[str, np.ndarray]
    location: str

    def named(self, inputs: Sequence[str]) -> dict[str, np.ndarray]:
        """The arrays by the names of a model's inputs: one array under any name will do for a one-input model.

        Raises:
            SmecError: an input has no array.
        """
        data = {name: a for name, a in self.arrays.items() if name != LABELS or name in inputs}
        if len(inputs) == 1 and len(data) == 1:
            return {inputs[0]: next(iter(data.values()))}
        missing = [name for name in inputs if name not in data]
        if missing:
            raise SmecError(
                f"no array for input '{missing[0]}'",
                location=self.location,
                expected="arrays " + ", ".join(f"'{name}'" for name in inputs),
                found=", ".join(f"'{name}'" for name in data) or "none",
            )
        return {name: data[name] for name in inputs}


def read_arrays(source: DataSource | Arrays) -> Arrays:
    """The arrays of a data source; those that were read before are returned as they are.

    Raises:
        SmecError: a file cannot be read or is no archive of plain arrays.
    """
    if isinstance(source, Arrays):
        return source
    if isinstance(source, np.ndarray):
        return Arrays({"array": source}, "the given array")
    if isinstance(source, Mapping):
        return Arrays({str(k): np.asarray(v) for k, v in source.items()}, "the given arrays")
    path = os.fspath(source)
    return Arrays(_read_npz(path), path)


def load_data(source: DataSource | Arrays, ports: Sequence[Port]) -> Data:
    """Read and check arrays for every port.

    Args:
        source: an `.npz` file with an array under each input's name (one array under any name for a one-input model)
            and optionally `labels`; or a mapping with the same contents; or the array of a one-input model.
        ports: the inputs. An input that is given for one image only serves all images.

    Raises:
        SmecError: a file that cannot be read; an array that is missing or has the wrong shape, dtype or length.
    """
    given = read_arrays(source)
    chosen = given.named([p.name for p in ports])
    fitted = {p.name: _fit(chosen[p.name], p, given.location) for p in ports}
    counts = {p.name: p.images_of(fitted[p.name].shape) or 0 for p in ports}
    images = max(counts.values(), default=1)
    if 0 in counts.values():
        raise SmecError("there are no images", location=given.location, expected="at least one")
    if set(counts.values()) - {1, images}:
        found = ", ".join(f"{name}: {n}" for name, n in counts.items())
        raise SmecError("inputs hold different numbers of images", location=given.location, found=found)
    inputs = {p.name: _repeat(p, fitted[p.name], images // counts[p.name]) for p in ports}
    labels = given.arrays.get(LABELS) if LABELS not in inputs else None
    samples = max((p.samples for p in ports), default=1)
    known = None if labels is None else _labels(labels, images * samples, given.location)
    return Data(inputs, known, images, given.location, samples)


def _repeat(port: Port, array: np.ndarray, times: int) -> np.ndarray:
    return array if times == 1 else np.concatenate([array] * times, axis=port.batch or 0)


def random_data(ports: Sequence[Port], images: int, seed: int = 0) -> Data:
    """Seeded random arrays: standard normal for real inputs, 0 or 1 for integers and truth values."""
    rng = np.random.default_rng(seed)
    inputs = {}
    for port in ports:
        shape = list(port.shape)
        if port.batch is None:
            shape.insert(0, images)
        else:
            shape[port.batch] *= images
        if np.issubdtype(port.dtype, np.floating):
            inputs[port.name] = rng.standard_normal(shape).astype(port.dtype)
        else:
            inputs[port.name] = rng.integers(0, 2, shape).astype(port.dtype)
    return Data(inputs, None, images, f"seeded random inputs (seed {seed})")


def _read_npz(path: str) -> dict[str, np.ndarray]:
    try:
        with Path(path).open("rb") as file:
            # NumPy takes what is no archive for a pickle and says so; users have never heard of pickles.
            if file.read(4) != b"PK\x03\x04":
                raise SmecError("not an archive of arrays", location=path, expected="an .npz file")
        with np.load(path, allow_pickle=False) as loaded:
            return {name: loaded[name] for name in loaded.files}
    except OSError as error:
        found = error.strerror or str(error)
        raise SmecError("cannot read the data", location=path, expected="an .npz file", found=found) from error
    except (ValueError, EOFError, zipfile.BadZipFile, KeyError, zlib.error) as error:
        raise SmecError(f"damaged, or not plain arrays: {error}", location=path, expected="an .npz file") from error


def _fit(array: np.ndarray, port: Port, location: str) -> np.ndarray:
    """The array in the port's dtype, its shape checked."""
    if port.images_of(array.shape) is None:
        raise SmecError(
            f"array for input '{port.name}' has the wrong shape",
            location=location,
            expected=f"({', '.join(map(str, port.array_shape))})",
            found=f"({', '.join(map(str, array.shape))})",
        )
    if array.dtype == port.dtype:
        return array
    converted = _convert(array, port.dtype)
    if converted is None:
        raise SmecError(
            f"array for input '{port.name}' has the wrong dtype",
            location=location,
            expected=port.dtype,
            found=array.dtype,
        )
    return converted


def _convert(array: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray | None:
    """Numbers of another dtype: any real number for a float, integers that fit for an integer; else None."""
    if array.dtype.kind not in "biuf":
        return None
    if dtype.kind == "f":
        return array.astype(dtype)
    if array.dtype.kind == "f" or dtype.kind not in "iu" or not array.size:
        return None
    info = np.iinfo(dtype)
    if int(array.min()) < info.min or int(array.max()) > info.max:
        return None
    return array.astype(dtype)


def _labels(labels: np.ndarray, images: int, location: str) -> np.ndarray:
    if labels.dtype.kind not in "iu" or labels.size != images:
        raise SmecError(
            "array 'labels' does not fit",
            location=location,
            expected=f"integers ({images},)",
            found=f"{labels.dtype} ({', '.join(map(str, labels.shape))})",
        )
    return labels.reshape(-1).astype(np.int64)


def top1(scores: np.ndarray, labels: np.ndarray) -> float:
    """Percent of images whose largest score is their label's.

    Args:
        scores: [images, ...], classes along whatever axes follow, flattened.
        labels: int64 [images].
    """
    best = scores.reshape(len(labels), -1).argmax(axis=1)
    return 100.0 * float((best == labels).mean())
