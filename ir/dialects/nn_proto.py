"""ONNX protobuf messages <-> plain values of the IR: element types, attributes, tensors, subgraphs.

An attribute becomes a plain value from which its ONNX kind follows: int, float, str, a non-empty tuple of one of those,
or a `Handle` for a tensor. The kinds that do not follow from the value are written down in the operation's attribute
`_kinds`, a tuple of "name=kind":

1. `graph`: the value is a handle on the bytes (uint8) of a serialized GraphProto;
2. `ints`, `floats`, `strings`: the value is the empty tuple;
3. `proto`: anything else (tensors without a NumPy element type, sparse tensors, type descriptions, lists of graphs):
   a handle on the bytes of the whole serialized AttributeProto.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from smec.ir.core import AttrValue
from smec.ir.errors import SmecError
from smec.ir.types import ELEMENT_DTYPES, Handle, TensorType

if TYPE_CHECKING:
    import onnx

#: Element types by the number of ONNX's enumeration TensorProto.DataType; MLIR's names where it has them.
ELEMENT_NAMES: dict[int, str] = {
    1: "f32",
    2: "ui8",
    3: "i8",
    4: "ui16",
    5: "i16",
    6: "i32",
    7: "i64",
    8: "string",
    9: "i1",
    10: "f16",
    11: "f64",
    12: "ui32",
    13: "ui64",
    14: "complex64",
    15: "complex128",
    16: "bf16",
    17: "f8E4M3FN",
    18: "f8E4M3FNUZ",
    19: "f8E5M2",
    20: "f8E5M2FNUZ",
    21: "ui4",
    22: "i4",
    23: "f4E2M1FN",
    24: "f8E8M0FNU",
    25: "ui2",
    26: "i2",
}

ELEMENT_NUMBERS: dict[str, int] = {name: number for number, name in ELEMENT_NAMES.items()}

#: Element type of values that are no tensors (sequences, optionals): they stay inside one host region.
OPAQUE = "opaque"


def element_of(number: int) -> str:
    """The element type of ONNX's type number; `opaque` for one that is not known."""
    return ELEMENT_NAMES.get(number, OPAQUE)


def element_of_dtype(dtype: np.dtype[Any]) -> str:
    """The element type of a NumPy dtype."""
    import onnx

    try:
        return element_of(onnx.helper.np_dtype_to_tensor_dtype(dtype))
    except (KeyError, ValueError):
        return OPAQUE


def type_proto(type: TensorType, leading: str | None = None) -> onnx.TypeProto:
    """The ONNX type of a tensor; `leading` names its leading extent instead of stating it.

    Raises:
        SmecError: the element type is not one of ONNX's.
    """
    import onnx

    number = ELEMENT_NUMBERS.get(type.element) if isinstance(type.element, str) else None
    if number is None:
        raise SmecError("element type has no ONNX form", found=type.element)
    shape: list[int | str | None] = [d if d >= 0 else None for d in type.shape]
    if leading is not None and shape:
        shape[0] = leading
    return onnx.helper.make_tensor_type_proto(number, shape)


# -- tensors -----------------------------------------------------------------------------------------------------------


def tensor_to_handle(tensor: onnx.TensorProto) -> Handle:
    """The handle of a constant: its array, or (element types without a NumPy dtype) the bytes of `tensor`."""
    import onnx

    if element_of(tensor.data_type) in ELEMENT_DTYPES:
        return Handle(onnx.numpy_helper.to_array(tensor))
    return Handle(np.frombuffer(tensor.SerializeToString(deterministic=True), dtype=np.uint8))


def handle_to_tensor(handle: Handle, name: str, type: TensorType | None = None) -> onnx.TensorProto:
    """The inverse of `tensor_to_handle`; `type` is the constant's type."""
    import onnx

    if type is None or not isinstance(type.element, str) or type.element in ELEMENT_DTYPES:
        plain: onnx.TensorProto = onnx.numpy_helper.from_array(handle.array, name)
        return plain
    tensor: onnx.TensorProto = onnx.TensorProto.FromString(handle.array.tobytes())
    tensor.name = name
    return tensor


def handle_to_array(handle: Handle, type: TensorType) -> np.ndarray:
    """The array of a constant of type `type`, whatever its element type."""
    import onnx

    if not isinstance(type.element, str) or type.element in ELEMENT_DTYPES:
        return handle.array
    return onnx.numpy_helper.to_array(handle_to_tensor(handle, "", type))


# -- attributes --------------------------------------------------------------------------------------------------------


def attribute_to_value(attribute: onnx.AttributeProto) -> tuple[AttrValue, str]:
    """The plain value of an ONNX attribute, and its kind where that does not follow from the value, else ""."""
    import onnx

    kind = onnx.AttributeProto
    if attribute.type == kind.INT:
        return int(attribute.i), ""
    if attribute.type == kind.FLOAT:
        return float(attribute.f), ""
    if attribute.type == kind.INTS:
        return tuple(int(i) for i in attribute.ints), "" if attribute.ints else "ints"
    if attribute.type == kind.FLOATS:
        return tuple(float(f) for f in attribute.floats), "" if attribute.floats else "floats"
    if attribute.type == kind.GRAPH:
        return bytes_handle(attribute.g), "graph"
    if attribute.type == kind.TENSOR and element_of(attribute.t.data_type) in ELEMENT_DTYPES:
        return tensor_to_handle(attribute.t), ""
    try:
        if attribute.type == kind.STRING:
            return attribute.s.decode(), ""
        if attribute.type == kind.STRINGS:
            return tuple(s.decode() for s in attribute.strings), "" if attribute.strings else "strings"
    except UnicodeDecodeError:
        pass  # bytes that are no text: case 3
    return bytes_handle(attribute), "proto"


def value_to_attribute(name: str, value: AttrValue, kind: str) -> onnx.AttributeProto:
    """The inverse of `attribute_to_value`.

    Raises:
        SmecError: no ONNX attribute holds such a value.
    """
    import onnx

    a = onnx.AttributeProto
    if kind == "graph" and isinstance(value, Handle):
        return onnx.helper.make_attribute(name, onnx.GraphProto.FromString(value.array.tobytes()))
    if kind == "proto" and isinstance(value, Handle):
        whole: onnx.AttributeProto = onnx.AttributeProto.FromString(value.array.tobytes())
        return whole
    if isinstance(value, Handle):
        return onnx.helper.make_attribute(name, onnx.numpy_helper.from_array(value.array))
    if isinstance(value, bool):
        return onnx.helper.make_attribute(name, int(value), attr_type=a.INT)
    if isinstance(value, int):
        return onnx.helper.make_attribute(name, value, attr_type=a.INT)
    if isinstance(value, float):
        return onnx.helper.make_attribute(name, value, attr_type=a.FLOAT)
    if isinstance(value, str):
        return onnx.helper.make_attribute(name, value, attr_type=a.STRING)
    if isinstance(value, tuple):
        return onnx.helper.make_attribute(name, list(value), attr_type=_list_type(value, kind))
    raise SmecError(f"attribute '{name}' has no ONNX form", found=repr(value))


def _list_type(value: tuple[Any, ...], kind: str) -> int:
    import onnx

    a = onnx.AttributeProto
    if not value:
        return {"floats": a.FLOATS, "strings": a.STRINGS}.get(kind, a.INTS)
    if isinstance(value[0], str):
        return a.STRINGS
    return a.FLOATS if any(isinstance(v, float) for v in value) else a.INTS


def bytes_handle(message: Any) -> Handle:
    """A handle on the bytes (uint8) of a protobuf message."""
    return Handle(np.frombuffer(message.SerializeToString(deterministic=True), dtype=np.uint8))


# -- subgraphs ---------------------------------------------------------------------------------------------------------


def subgraphs(node: onnx.NodeProto) -> Iterable[onnx.GraphProto]:
    """The graphs among a node's attributes."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def captured_names(node: onnx.NodeProto) -> tuple[str, ...]:
    """Names that the subgraphs of `node` take from outside, sorted."""
    names: set[str] = set()
    for graph in subgraphs(node):
        names |= _free_names(graph)
    return tuple(sorted(names))


def _defined_names(graph: onnx.GraphProto) -> set[str]:
    names = {v.name for v in graph.input}
    names |= {t.name for t in graph.initializer} | {t.values.name for t in graph.sparse_initializer}
    return names | {name for node in graph.node for name in node.output}


def _free_names(graph: onnx.GraphProto) -> set[str]:
    used = {name for node in graph.node for name in node.input}
    used |= {v.name for v in graph.output}
    for node in graph.node:
        used |= set(captured_names(node))
    return used - _defined_names(graph) - {""}


def rename_graph(graph: onnx.GraphProto, captured: dict[str, str], prefix: str) -> None:
    """Rename in place: what `graph` takes from outside by `captured`, what it defines by putting `prefix` in front."""
    inner = {name: prefix + name for name in _defined_names(graph) if name}
    names = {**captured, **inner}

    def rename(name: str) -> str:
        return names.get(name, name)

    _rename(graph, rename)
    for node in graph.node:
        for nested in subgraphs(node):
            rename_graph(nested, names, prefix)


def _rename(graph: onnx.GraphProto, rename: Callable[[str], str]) -> None:
    for value in [*graph.input, *graph.output, *graph.value_info]:
        value.name = rename(value.name)
    for tensor in graph.initializer:
        tensor.name = rename(tensor.name)
    for sparse in graph.sparse_initializer:
        sparse.values.name = rename(sparse.values.name)
    for node in graph.node:
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                names[i] = rename(name)
