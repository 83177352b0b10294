"""Reads ONNX files: located diagnostics for what is no usable model, weights apart from the graph."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from smec.ir.dialects.nn_proto import element_of, subgraphs
from smec.ir.errors import SmecError
from smec.ir.onnx_session import LIGHT_LIMIT, mark_external
from smec.ir.types import ELEMENT_DTYPES, Location

if TYPE_CHECKING:
    import onnx

#: The oldest operator set that onnxruntime promises to run.
OLDEST_OPSET = 7

#: First bytes (at an offset) of files that people try instead of an ONNX model.
_FOREIGN = (
    (0, b"PK\x03\x04", "a zip archive (a PyTorch checkpoint, or NumPy's .npz)"),
    (0, b"\x89HDF", "an HDF5 file (a Keras model?)"),
    (4, b"TFL3", "a TensorFlow Lite model"),
    (0, b"\x80\x02", "a Python pickle (an old PyTorch checkpoint?)"),
    (0, b"\x93NUMPY", "a NumPy array"),
    (8, b'{"', "a safetensors file"),
    (0, b"<net", "an OpenVINO model"),
)

_QONNX_DOMAINS = ("onnx.brevitas", "qonnx.", "finn.")


@dataclass
class OnnxFile:
    """A light model (see `smec.ir.onnx_session`) with its weights.

    Attributes:
        proto: the model; large initializers have no data.
        weights: their arrays by name.
        file: what messages call the model: the path as given.
    """

    proto: onnx.ModelProto
    file: str
    weights: dict[str, np.ndarray] = field(default_factory=dict)

    def location(self, node: str = "") -> Location:
        return Location(self.file, node)

    @property
    def opset(self) -> int:
        """Version of ONNX's own operator set (0: the model names none)."""
        return max((o.version for o in self.proto.opset_import if o.domain in ("", "ai.onnx")), default=0)


def read(model: str | Path | onnx.ModelProto) -> OnnxFile:
    """Read a model from a file, or take one from memory (which is left as it is).

    Raises:
        SmecError: the file is missing, unreadable, no ONNX model, or refers to data that is missing or outside of its
            directory; its operator set is too old or too new; an operator is not known to onnxruntime.
    """
    if isinstance(model, (str, Path)):
        path = Path(model)
        file = OnnxFile(_parse(path), str(model))
        directory: Path | None = path.parent
    else:
        import onnx

        proto = onnx.ModelProto()
        proto.CopyFrom(model)
        file = OnnxFile(proto, "<model>")
        directory = None
    _check_is_model(file)
    _check_text(file)
    _check_opset(file)
    _check_operators(file)
    _move_weights(file, directory)
    return file


def _parse(path: Path) -> onnx.ModelProto:
    import onnx

    where = str(path)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise SmecError("no such file", location=where) from None
    except IsADirectoryError:
        raise SmecError("is a directory", location=where, expected="an ONNX file") from None
    except OSError as error:
        raise SmecError(f"cannot be read: {error.strerror or error}", location=where) from error
    if not data:
        raise SmecError("file is empty", location=where, expected="an ONNX model")
    for offset, magic, what in _FOREIGN:
        if data[offset : offset + len(magic)] == magic:
            raise SmecError("not an ONNX model", location=where, found=what)
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except Exception:  # noqa: BLE001  # protobuf's DecodeError, which onnx does not name
        message = "not an ONNX model, or a truncated one"
        raise SmecError(message, location=where, found=f"{len(data)} bytes that do not parse") from None
    return proto


def _check_is_model(file: OnnxFile) -> None:
    graph = file.proto.graph
    if not file.proto.HasField("graph") or not graph.output:
        raise SmecError("not an ONNX model", location=file.file, expected="a graph with outputs", found="none")
    for value in [*graph.input, *graph.output]:
        if not value.name:
            raise SmecError("not an ONNX model: an input or output of the graph has no name", location=file.file)


def _check_text(file: OnnxFile) -> None:
    """Protobuf lets strings be damaged, and hands those out as bytes."""
    graph = file.proto.graph
    texts: list[object] = [o.domain for o in file.proto.opset_import]
    for body in [graph.node, *(f.node for f in file.proto.functions)]:
        for node in _all_nodes(body):
            texts += [node.name, node.op_type, node.domain, *node.input, *node.output]
            texts += [a.name for a in node.attribute]
    for value in [*graph.input, *graph.output]:
        texts += [value.name, *(d.dim_param for d in value.type.tensor_type.shape.dim)]
    texts += [t.name for t in graph.initializer]
    for text in texts:
        if isinstance(text, bytes):
            raise SmecError("not an ONNX model: a name in it is no text", location=file.file, found=repr(text[:40]))


def _check_opset(file: OnnxFile) -> None:
    import onnx

    opset, newest = file.opset, onnx.defs.onnx_opset_version()
    standard = [n for n in file.proto.graph.node if n.domain in ("", "ai.onnx")]
    if opset == 0 and not standard and file.proto.opset_import:
        return
    if opset < OLDEST_OPSET:
        raise SmecError(
            "operator set is too old",
            location=file.file,
            expected=f"at least {OLDEST_OPSET}",
            found=opset or "none stated",
            hint="export the model anew, or raise its operator set with onnx.version_converter",
        )
    if opset > newest:
        raise SmecError(
            "operator set is newer than the installed onnx knows",
            location=file.file,
            expected=f"at most {newest}",
            found=opset,
            hint="export with a lower opset_version, or install newer onnx and onnxruntime packages",
        )


def _check_operators(file: OnnxFile) -> None:
    known = _known_operators()
    functions = {(_plain(f.domain), f.name) for f in file.proto.functions}
    bodies = [file.proto.graph.node, *(f.node for f in file.proto.functions)]
    for node in (n for body in bodies for n in _all_nodes(body)):
        operator = (_plain(node.domain), node.op_type)
        if operator in functions or (not known or operator in known):
            continue
        name = node.name or (node.output[0] if node.output else "")
        domain = f" of domain '{node.domain}'" if node.domain else ""
        raise SmecError(
            f"onnxruntime has no operator '{node.op_type}'{domain}",
            location=file.location(name),
            hint=_hint(node.domain),
        )


def _hint(domain: str) -> str:
    if domain.startswith(_QONNX_DOMAINS):
        return (
            "quantizers of QONNX and Brevitas are no ONNX operators: export with QuantizeLinear and DequantizeLinear"
            " nodes, or convert the file with `qonnx-convert --output-style qcdq`"
        )
    return "export the model with ONNX's own operators"


def _known_operators() -> set[tuple[str, str]]:
    """Domain and name of what onnxruntime has a schema for; empty if it does not say."""
    try:
        from onnxruntime.capi.onnxruntime_pybind11_state import get_all_operator_schema
    except ImportError:
        return set()
    return {(_plain(schema.domain), schema.name) for schema in get_all_operator_schema()}


def _plain(domain: str) -> str:
    return "" if domain == "ai.onnx" else domain


def _all_nodes(nodes: object) -> Iterator[onnx.NodeProto]:
    for node in nodes:  # type: ignore[attr-defined]  # a repeated field has no name in the type stubs
        yield node
        for graph in subgraphs(node):
            yield from _all_nodes(graph.node)


# -- weights -----------------------------------------------------------------------------------------------------------


def _move_weights(file: OnnxFile, directory: Path | None) -> None:
    """Bring external data into memory, and large initializers of the main graph out of the message."""
    import onnx

    main = {id(t): t for t in file.proto.graph.initializer}
    for tensor in _all_tensors(file.proto.graph, set()):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            _load_external(file, tensor, directory)
        if id(tensor) not in main:
            continue
        if len(tensor.raw_data) < LIGHT_LIMIT and _typed_length(tensor) < LIGHT_LIMIT // 4:
            continue
        if element_of(tensor.data_type) not in ELEMENT_DTYPES:
            continue
        move_out(file, tensor)


def move_out(file: OnnxFile, tensor: onnx.TensorProto) -> None:
    """Move an initializer's data to `file.weights`."""
    import onnx

    try:
        file.weights[tensor.name] = onnx.numpy_helper.to_array(tensor)
    except (ValueError, TypeError) as error:
        raise SmecError(f"initializer '{tensor.name}' is damaged: {error}", location=file.file) from error
    mark_external(tensor)


def _typed_length(tensor: onnx.TensorProto) -> int:
    fields = (tensor.float_data, tensor.int32_data, tensor.int64_data, tensor.double_data, tensor.uint64_data)
    return sum(len(f) for f in fields)


def _all_tensors(graph: onnx.GraphProto, seen: set[int]) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
        for nested in subgraphs(node):
            yield from _all_tensors(nested, seen)


def _load_external(file: OnnxFile, tensor: onnx.TensorProto, directory: Path | None) -> None:
    from onnx.external_data_helper import load_external_data_for_tensor

    entries = {e.key: e.value for e in tensor.external_data}
    name = entries.get("location", "")
    if directory is None:
        raise SmecError(
            f"initializer '{tensor.name}' has its data in '{name}', which a model in memory cannot name",
            location=file.file,
            hint="give the path of the file, or load it with its external data",
        )
    root = directory.resolve()
    if not name or not (root / name).resolve().is_relative_to(root):
        raise SmecError(
            f"initializer '{tensor.name}' refers to data outside of the model's directory",
            location=file.file,
            found=repr(name),
        )
    if not (root / name).is_file():
        raise SmecError(f"data file '{name}' of initializer '{tensor.name}' is missing", location=file.file)
    try:
        load_external_data_for_tensor(tensor, str(root))
    except Exception as error:
        # onnx raises ValidationError, ValueError and OSError here, and its set of checks grows.
        message = f"data of initializer '{tensor.name}' cannot be read from '{name}': {error}"
        raise SmecError(message, location=file.file) from error
