"""Real models and images for tests: found beside the checkout, never copied into it.

Tests import this file by its own name (`import shared`), and mark what needs the data with one of the marks below: they
skip with a reason where the files are absent:

    @shared.needs("models/cifar10_resnet20.onnx", "cifar10/cifar10_subset.npz")
    def test_accuracy() -> None:
        images, labels = inputs.cifar10_test(2000)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest

import inputs

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"
DATA = inputs.DATA
SHARED = DATA.parent
ZOO = DATA / "onnx_zoo"

RESNET20 = DATA / "models" / "cifar10_resnet20.onnx"
RESNET8 = DATA / "models" / "mlperf_tiny_resnet8_cifar10.onnx"
MOBILENET_V2 = DATA / "models" / "mobilenet_v2_1.0_224.onnx"
CIFAR10 = DATA / inputs.CIFAR10
IMAGENET_EVAL = DATA / inputs.IMAGENET_EVAL
IMAGENET_CALIB = DATA / inputs.IMAGENET_CALIB

_Test = TypeVar("_Test", bound=Callable[..., Any])


@contextmanager
def restored(*registries: Any) -> Iterator[None]:
    """Leave registries of passes, patterns, schemes, ... as they were."""
    before = [dict(registry) for registry in registries]
    yield
    for registry, known in zip(registries, before, strict=True):
        registry.clear()
        registry.update(known)


def needs(*files: str | Path) -> Callable[[_Test], _Test]:
    """Mark a test as `data`, and skip it where one of `files` (relative to the data folder) is absent."""
    absent = [(DATA / f).relative_to(DATA).as_posix() for f in files if not (DATA / f).exists()]
    skip = pytest.mark.skipif(bool(absent), reason=f"not beside the checkout: shared/data/{{{','.join(absent)}}}")

    def mark(test: _Test) -> _Test:
        marked: _Test = pytest.mark.data(skip(test))
        return marked

    return mark


needs_resnet20 = needs(RESNET20, CIFAR10)
needs_resnet8 = needs(RESNET8, CIFAR10)
needs_mobilenet_v2 = needs(MOBILENET_V2, IMAGENET_EVAL, IMAGENET_CALIB)
needs_zoo = needs(ZOO)


def zoo() -> list[Path]:
    """The third-party ONNX files, sorted by name; empty where they are absent."""
    return sorted(ZOO.glob("*.onnx"))


def cifar10_raw(count: int = 2000, *, train: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """The first `count` CIFAR-10 images with values 0..255, as the MLPerf-tiny ResNet-8 wants them, and their labels.

    Float32 [n, 3, 32, 32] and int64 [n].
    """
    data, part = inputs.cifar10(), "train" if train else "test"
    images = np.ascontiguousarray(data[f"x_{part}"][:count].astype(np.float32).transpose(0, 3, 1, 2))
    return images, data[f"y_{part}"][:count].astype(np.int64).ravel()


def model_input(path: Path) -> tuple[str, list[int | str]]:
    """Name and shape of the first real input of an ONNX file (initializers that are listed as inputs do not count)."""
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    constants = {tensor.name for tensor in graph.initializer}
    first = next(value for value in graph.input if value.name not in constants)
    shape = first.type.tensor_type.shape
    return first.name, [dim.dim_value if dim.HasField("dim_value") else dim.dim_param for dim in shape.dim]
