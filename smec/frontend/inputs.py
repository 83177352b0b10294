"""Extents of model inputs, and the arrays that users give for them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from smec.frontend.model_file import OnnxFile
from smec.ir.dialects.nn_proto import OPAQUE, element_of
from smec.ir.errors import SmecError
from smec.ir.images import Arrays
from smec.ir.types import TensorType

if TYPE_CHECKING:
    import onnx

#: An input of more elements is a damaged shape, not a tensor.
_MAX_ELEMENTS = 1 << 28

Shapes = Mapping[str, Sequence[int]]


def real_inputs(file: OnnxFile) -> list[onnx.ValueInfoProto]:
    """The model's inputs without the initializers that old exporters list among them."""
    graph = file.proto.graph
    constants = {t.name for t in graph.initializer} | {t.values.name for t in graph.sparse_initializer}
    return [v for v in graph.input if v.name not in constants]


def fix_inputs(file: OnnxFile, input_shapes: Shapes | None = None, sample: Arrays | None = None) -> tuple[int, ...]:
    """Give every input of the model concrete extents (in place).

    1. An extent that the model states stays.
    2. `input_shapes` states a whole shape, the leading extent included.
    3. A leading extent that is symbolic (0 or negative) is the batch: it becomes 1.
    4. Other symbolic extents are those of the sample's arrays (any number of images, along their leading axis).
    5. One symbol is one extent throughout.

    Returns:
        for each input the leading extent if it is a fixed batch, and 0 where it is the image axis itself (1, or
        symbolic) or the input has no axis.

    Raises:
        SmecError: an extent remains unknown or is contradicted; an input is not a tensor.
    """
    inputs = real_inputs(file)
    names = [v.name for v in inputs]
    for given in (input_shapes or {}, sample or {}):
        for name in given:
            if name not in names:
                raise SmecError(
                    f"model has no input '{name}'", location=file.file, expected=f"one of {', '.join(names)}"
                )
    symbols: dict[str, int] = {}
    for value in inputs:
        _check_tensor(file, value)
        _bind(file, value, (input_shapes or {}).get(value.name), (sample or {}).get(value.name), symbols)
    for value in inputs:
        for index, dim in enumerate(value.type.tensor_type.shape.dim):
            if dim.dim_value > 0:
                continue
            if dim.dim_param not in symbols and index > 0:
                raise _unknown_extent(file, value, index)
            # An explicitly batch-sized dimension elsewhere follows the leading one: see 5.
            dim.dim_value = symbols.get(dim.dim_param, 1) if dim.dim_param else 1
    _forget_shapes(file, inputs)
    shapes = [[d.dim_value for d in v.type.tensor_type.shape.dim] for v in inputs]
    for value, shape in zip(inputs, shapes, strict=True):
        if math.prod(shape) > _MAX_ELEMENTS:
            raise SmecError(
                f"input '{value.name}' is too large",
                location=file.file,
                expected=f"{_MAX_ELEMENTS} elements",
                found=shape,
            )
    return tuple(shape[0] if shape and shape[0] > 1 else 0 for shape in shapes)


def _check_tensor(file: OnnxFile, value: onnx.ValueInfoProto) -> None:
    kind = value.type.WhichOneof("value")
    if kind != "tensor_type" or element_of(value.type.tensor_type.elem_type) == OPAQUE:
        raise SmecError(f"input '{value.name}' is no tensor", location=file.file, found=kind or "no type")


def _bind(
    file: OnnxFile,
    value: onnx.ValueInfoProto,
    given: Sequence[int] | None,
    array: np.ndarray | None,
    symbols: dict[str, int],
) -> None:
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        # No rank at all: it can only come from outside.
        rank = len(given) if given is not None else array.ndim if array is not None else None
        if rank is None:
            raise SmecError(
                f"input '{value.name}' has no shape", location=file.file, hint=_hint(value.name, "1x3x224x224")
            )
        for _ in range(rank):
            tensor.shape.dim.add()
    dims = tensor.shape.dim
    for source, what in ((given, "--input-shape"), (array.shape if array is not None else None, "sample")):
        if source is not None and len(source) != len(dims):
            raise SmecError(
                f"rank of {what} for input '{value.name}' is not the model's",
                location=file.file,
                expected=len(dims),
                found=list(source),
            )
    for index, dim in enumerate(dims):
        extent: int | None = None
        if given is not None:
            extent = int(given[index])
            if extent < 1:
                raise SmecError(f"shape for input '{value.name}' has an extent below 1", found=list(given))
        elif array is not None and index > 0:
            extent = int(array.shape[index])
        elif index == 0 and not dim.dim_value > 0:
            extent = 1
        if dim.dim_value > 0:
            if extent is not None and extent != dim.dim_value:
                raise SmecError(
                    f"input '{value.name}' has another extent at axis {index}",
                    location=file.file,
                    expected=dim.dim_value,
                    found=extent,
                )
            continue
        if extent is None:
            continue
        symbol = dim.dim_param
        if symbol and symbol != "?" and symbols.setdefault(symbol, extent) != extent:
            raise SmecError(
                f"symbol '{symbol}' of input '{value.name}' has two extents",
                location=file.file,
                expected=symbols[symbol],
                found=extent,
            )
        dim.dim_value = extent


def _unknown_extent(file: OnnxFile, value: onnx.ValueInfoProto, index: int) -> SmecError:
    dims = value.type.tensor_type.shape.dim
    shape = [str(d.dim_value) if d.dim_value > 0 else d.dim_param or "?" for d in dims]
    shape[0] = "1"
    return SmecError(
        f"extent {index} of input '{value.name}' is not known",
        location=file.file,
        found="x".join(shape),
        hint=_hint(value.name, "x".join(s if s.isdigit() else "224" for s in shape)),
    )


def _hint(name: str, shape: str) -> str:
    return f"give calibration data with --calib, or state the shape: --input-shape {name}={shape}"


def _forget_shapes(file: OnnxFile, inputs: Sequence[onnx.ValueInfoProto]) -> None:
    """Drop declared shapes that the new extents make stale, and initializers from the list of inputs."""
    graph = file.proto.graph
    kept = [type(v).FromString(v.SerializeToString()) for v in inputs]
    del graph.input[:]
    graph.input.extend(kept)
    del graph.value_info[:]
    for value in graph.output:
        if value.type.WhichOneof("value") == "tensor_type":
            value.type.tensor_type.ClearField("shape")
    # Up to IR version 3 initializers must be inputs, and onnxruntime does not fold inputs.
    file.proto.ir_version = max(file.proto.ir_version, 4)


# -- arrays ------------------------------------------------------------------------------------------------------------


def input_types(file: OnnxFile) -> dict[str, TensorType]:
    """Types of the inputs, after `fix_inputs`."""
    types = {}
    for value in real_inputs(file):
        tensor = value.type.tensor_type
        types[value.name] = TensorType(tuple(d.dim_value for d in tensor.shape.dim), element_of(tensor.elem_type))
    return types
