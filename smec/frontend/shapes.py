"""Types of every tensor in a model whose inputs have concrete extents."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from smec.frontend.fold import without_weights
from smec.frontend.inputs import input_types
from smec.frontend.model_file import OnnxFile
from smec.ir.dialects.nn_proto import OPAQUE, element_of, element_of_dtype
from smec.ir.errors import SmecError
from smec.ir.images import Arrays, random_arrays
from smec.ir.onnx_session import Session, SessionError
from smec.ir.types import TensorType

if TYPE_CHECKING:
    import onnx

#: Operators whose result's extents depend on values, whatever their operands.
_VALUE_DEPENDENT = frozenset({"NonZero", "Unique", "Compress", "NonMaxSuppression", "If", "StringSplit"})

#: Operators whose result's extents are spelled by the values of operands from this position on.
_SHAPE_OPERANDS = {
    "Reshape": 1,
    "Expand": 1,
    "ConstantOfShape": 0,
    "Range": 0,
    "Slice": 1,
    "Tile": 1,
    "Pad": 1,
    "Resize": 1,
    "Upsample": 1,
    "TopK": 1,
    "OneHot": 1,
    "Split": 1,
    "CenterCropPad": 1,
    "AffineGrid": 1,
    "HannWindow": 0,
    "HammingWindow": 0,
    "BlackmanWindow": 0,
    "DFT": 1,
    "STFT": 1,
    "MelWeightMatrix": 0,
    "Col2Im": 1,
    "MaxUnpool": 2,
}


def infer_types(file: OnnxFile, feed: Arrays | None) -> dict[str, TensorType]:
    """The type of every tensor of the main graph by name; -1 for extents that depend on values.

    ONNX's shape inference first; what it leaves open is read off a run of the model, on `feed` (one array (*shape) for
    each input) or seeded random arrays. Extents that a run shows although they depend on the data stay -1.

    Raises:
        SmecError: extents are open and the model does not run.
    """
    types = _static_types(file)
    wanted = [name for node in file.proto.graph.node for name in node.output if name]
    open_names = [name for name in wanted if name not in types or not types[name].is_static]
    if not open_names:
        return types
    dependent = _value_dependent(file, open_names)
    first, second = _observe(file, open_names, feed)
    for name in open_names:
        known = types.get(name)
        a, b = first[name], second[name]
        if not isinstance(a, np.ndarray) or not isinstance(b, np.ndarray):
            types[name] = TensorType((), OPAQUE)
            continue
        element = known.element if known is not None and known.element != OPAQUE else element_of_dtype(a.dtype)
        shape = list(known.shape) if known is not None and len(known.shape) == a.ndim else [-1] * a.ndim
        for axis, extent in enumerate(shape):
            settled = name not in dependent and a.ndim == b.ndim and a.shape[axis] == b.shape[axis]
            if extent < 0 and settled:
                shape[axis] = a.shape[axis]
        types[name] = TensorType(tuple(shape), element)
    return types


def _static_types(file: OnnxFile) -> dict[str, TensorType]:
    import onnx

    model = without_weights(file)
    # It raises on some graphs that onnxruntime accepts: then the run will tell the extents.
    with contextlib.suppress(Exception):
        model = onnx.shape_inference.infer_shapes(model, data_prop=True)
    types: dict[str, TensorType] = {}
    for value in [*model.graph.input, *model.graph.output, *model.graph.value_info]:
        found = _type(value)
        if found is not None:
            types[value.name] = found
    for tensor in file.proto.graph.initializer:
        types[tensor.name] = TensorType(tuple(tensor.dims), element_of(tensor.data_type))
    return types


def _type(value: onnx.ValueInfoProto) -> TensorType | None:
    kind = value.type.WhichOneof("value")
    if kind != "tensor_type":
        return None
    tensor = value.type.tensor_type
    if not tensor.HasField("shape") or not tensor.elem_type:
        return None
    shape = tuple(d.dim_value if d.HasField("dim_value") else -1 for d in tensor.shape.dim)
    return TensorType(shape, element_of(tensor.elem_type))


def _value_dependent(file: OnnxFile, open_names: Iterable[str]) -> set[str]:
    """Tensors whose open extents depend on values: made so by their operator, or by such an operand."""
    constants = {t.name for t in file.proto.graph.initializer} | {""}
    unsettled, dependent = set(open_names), set()
    for node in file.proto.graph.node:
        start = _SHAPE_OPERANDS.get(node.op_type)
        spelled = start is not None and any(name not in constants for name in node.input[start:])
        inherited = any(name in dependent for name in node.input)
        if node.op_type in _VALUE_DEPENDENT or spelled or inherited:
            dependent |= {name for name in node.output if name in unsettled}
        if node.op_type == "Loop":
            # Carried values keep their extents as a rule; what is collected has one element for each iteration.
            dependent |= {name for name in node.output[len(node.input) - 2 :] if name in unsettled}
    return dependent


def _observe(file: OnnxFile, names: list[str], feed: Arrays | None) -> tuple[dict[str, object], dict[str, object]]:
    """Two runs of the model (on different arrays where they are random) with `names` as outputs."""
    import onnx

    model = onnx.ModelProto()
    model.CopyFrom(file.proto)
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    feeds = [feed] if feed is not None else []
    seed = 0
    while len(feeds) < 2:
        feeds.append({name: array[0] for name, array in random_arrays(input_types(file), seed).items()})
        seed += 1
    try:
        session = Session(model, file.weights, level="none", threads=2)
        runs = [session.run(f) for f in feeds]
    except SessionError as error:
        hint = None if feed is not None else "give calibration data with --calib: random inputs may not suit the model"
        raise SmecError(f"shapes cannot be found by a run: {error}", location=file.file, hint=hint) from error
    first, second = (dict(zip(names, run, strict=True)) for run in runs)
    return first, second
