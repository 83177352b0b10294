"""Arrays that users give for model inputs, and the image axis that every array here carries first."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from smec.ir.dialects.builtin import GraphOp
from smec.ir.errors import SmecError
from smec.ir.types import TensorType

Arrays = Mapping[str, np.ndarray]


def random_arrays(types: Mapping[str, TensorType], seed: int = 0, images: int = 1) -> dict[str, np.ndarray]:
    """Seeded arrays (images, *shape): standard normal floats; 0 or 1 for integers, which is safe for indices."""
    rng = np.random.default_rng(seed)
    arrays = {}
    for name, type in types.items():
        shape = (images, *(max(d, 1) for d in type.shape))
        if np.dtype(type.dtype).kind in "iub":
            arrays[name] = rng.integers(0, 2, shape).astype(type.dtype)
        else:
            arrays[name] = rng.standard_normal(shape, dtype=np.float32).astype(type.dtype)
    return arrays


def image_arrays(arrays: Arrays, graph: GraphOp) -> dict[str, np.ndarray]:
    """A user's arrays with the image axis that everything past the front end has.

    For an input of shape (1, 3, 32, 32) a user gives (B, 3, 32, 32) and gets (B, 1, 3, 32, 32). For a model with a
    fixed batch of N, (B * N, ...) becomes (B, N, ...). An input without a leading axis, or one that is given once only,
    is repeated for every image (as a view). dtypes are converted where no value can change its kind.

    Raises:
        SmecError: an array is missing, unknown, or of the wrong rank, extents or kind; image counts disagree.
    """
    types = {n: a.type for n, a in zip(graph.input_names, graph.block.args, strict=True)}
    for name in arrays:
        if name not in types:
            raise SmecError(f"model has no input '{name}'", expected=f"one of {', '.join(types)}")
    split = {}
    for name, type in types.items():
        if name not in arrays:
            raise SmecError(f"no array for input '{name}'", expected=f"{type}")
        split[name] = _split_images(name, np.asarray(arrays[name]), type)
    counts = {len(a) for a in split.values() if len(a) != 1} or {1}
    if len(counts) > 1:
        raise SmecError("inputs have different numbers of images", found=sorted(counts))
    images = counts.pop()
    return {n: a if len(a) == images else np.broadcast_to(a, (images, *a.shape[1:])) for n, a in split.items()}


def _split_images(name: str, array: np.ndarray, type: TensorType) -> np.ndarray:
    dtype, shape = np.dtype(type.dtype), type.shape
    if array.dtype != dtype:
        if dtype.kind != "f" and not np.can_cast(array.dtype, dtype, "same_kind"):
            raise SmecError(f"array for input '{name}' has the wrong dtype", expected=dtype, found=array.dtype)
        array = array.astype(dtype)
    if not shape:
        if array.ndim > 1:
            raise SmecError(f"array for input '{name}' has the wrong shape", expected="(B,)", found=array.shape)
        return array.reshape(-1)
    if array.ndim != len(shape) or array.shape[1:] != shape[1:] or len(array) % shape[0] or not len(array):
        expected = f"(B{f' * {shape[0]}' if shape[0] > 1 else ''}{''.join(f', {d}' for d in shape[1:])})"
        raise SmecError(f"array for input '{name}' has the wrong shape", expected=expected, found=array.shape)
    return array.reshape(-1, *shape)
