"""Has `onnx` and `onnxruntime` simplify a model: newer operator set, constant folding, batch-norm folding."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from smec.frontend.inputs import input_types
from smec.frontend.model_file import OnnxFile
from smec.ir.errors import SmecError
from smec.ir.images import Arrays, random_arrays
from smec.ir.onnx_session import Session, SessionError, mark_external

if TYPE_CHECKING:
    import onnx

#: Models with an older operator set than the first are raised to the second, so that passes meet one form of operators
#: whose attributes became inputs (Clip, Pad, Slice, Squeeze, ReduceSum, ...).
_RAISE_BELOW, _RAISE_TO = 13, 17


def without_weights(file: OnnxFile) -> onnx.ModelProto:
    """The model with its large initializers turned into inputs: for tools that copy what they are given."""
    import onnx

    model = onnx.ModelProto()
    model.CopyFrom(file.proto)
    graph = model.graph
    kept = [t for t in graph.initializer if t.name not in file.weights]
    moved = [t for t in graph.initializer if t.name in file.weights]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    for tensor in moved:
        graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    return model


def raise_opset(file: OnnxFile, feed: Arrays | None) -> OnnxFile:
    """A model of an old operator set, raised; the same model if it is new enough or the result would differ.

    `onnx.version_converter` is not free of errors: its result is taken only if it computes what the model computed.

    Args:
        file: the model, inputs fixed.
        feed: one array (*shape) for each input to compare on; seeded random ones if None.
    """
    if file.opset >= _RAISE_BELOW or file.proto.functions or file.opset == 0:
        return file
    import onnx
    from onnx import version_converter

    try:
        model = version_converter.convert_version(without_weights(file), _RAISE_TO)
    except Exception:  # noqa: BLE001  # its C++ part raises whatever it likes; the old operators will do
        return file
    inputs = [v for v in model.graph.input if v.name not in file.weights]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    for name, array in file.weights.items():
        number = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
        tensor = onnx.TensorProto(name=name, data_type=number, dims=array.shape)
        mark_external(tensor)
        model.graph.initializer.append(tensor)
    raised = OnnxFile(model, file.file, file.weights)
    return raised if _same_outputs(file, raised, feed) else file


def _same_outputs(old: OnnxFile, new: OnnxFile, feed: Arrays | None) -> bool:
    if feed is None:
        feed = {name: array[0] for name, array in random_arrays(input_types(old)).items()}
    try:
        before = Session(old.proto, old.weights, level="none", threads=2).run(feed)
        after = Session(new.proto, new.weights, level="none", threads=2).run(feed)
    except SessionError:
        return False
    return len(before) == len(after) and all(_close(a, b) for a, b in zip(before, after, strict=True))


def _close(a: object, b: object) -> bool:
    if not isinstance(a, np.ndarray) or not isinstance(b, np.ndarray) or a.shape != b.shape or a.dtype != b.dtype:
        return False
    if a.dtype.kind != "f":
        return bool(np.array_equal(a, b))
    return bool(np.allclose(a, b, rtol=1e-5, atol=1e-6, equal_nan=True))


def fold(file: OnnxFile) -> OnnxFile:
    """The model after onnxruntime's own optimizations at its basic level, which keep to ONNX's operators.

    Raises:
        SmecError: onnxruntime refuses the model.
    """
    folded = _fold_once(file)
    # What onnxruntime adds after its folding is folded in a second round: shape arithmetic of operators that it expands
    # to functions, and casts of weights to a precision that it computes in.
    constants = {t.name for t in folded.proto.graph.initializer} | {""}
    if any(_can_fold(node, constants) for node in folded.proto.graph.node):
        folded = _fold_once(folded)
    return folded


def _can_fold(node: onnx.NodeProto, constants: set[str]) -> bool:
    if node.op_type in ("Shape", "Size"):
        return True
    # Integers that a model carries for its weights stay as they are.
    return node.op_type != "DequantizeLinear" and bool(node.input) and constants.issuperset(node.input)


def _fold_once(file: OnnxFile) -> OnnxFile:
    import onnx

    with tempfile.TemporaryDirectory(prefix="smec-") as directory:
        path = Path(directory) / "model.onnx"
        try:
            session = Session(file.proto, file.weights, level="basic", save_to=path)
        except SessionError as error:
            raise _refusal(file, error) from error
        del session
        folded = OnnxFile(onnx.load(path, load_external_data=False), file.file)
        for tensor in folded.proto.graph.initializer:
            if tensor.data_location == onnx.TensorProto.EXTERNAL:
                folded.weights[tensor.name] = _read_data(Path(directory), tensor)
                mark_external(tensor)
    used = {n.domain for n in folded.proto.graph.node} | {""}
    for opset in list(folded.proto.opset_import):
        if opset.domain not in used and not _uses_graphs(folded.proto):
            folded.proto.opset_import.remove(opset)
    return folded


def _uses_graphs(model: onnx.ModelProto) -> bool:
    return any(a.HasField("g") or a.graphs for n in model.graph.node for a in n.attribute)


def _read_data(directory: Path, tensor: onnx.TensorProto) -> np.ndarray:
    """Read by hand into an array of its own: one copy, which can be freed when its layer is done with it."""
    import onnx

    entries = {e.key: e.value for e in tensor.external_data}
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    count = int(np.prod(tuple(tensor.dims), dtype=np.int64))
    with (directory / entries["location"]).open("rb") as data:
        data.seek(int(entries.get("offset", 0)))
        return np.fromfile(data, dtype=dtype, count=count).reshape(tuple(tensor.dims))


#: How onnxruntime names the node at fault in its messages.
_NODE_IN_MESSAGE = re.compile(r"""Node,? ?\("?([^",)]*)|[Nn]ode ?:? ?'([^']*)'|node with name:? ?'?([^', ]*)""")


def _refusal(file: OnnxFile, error: SessionError) -> SmecError:
    nodes = {n.name for n in file.proto.graph.node if n.name}
    found = [name for match in _NODE_IN_MESSAGE.finditer(str(error)) for name in match.groups() if name in nodes]
    return SmecError(f"onnxruntime refuses the model: {error}", location=file.location(found[0] if found else ""))
