"""From a folded ONNX model with known types to a module of `nn` operations."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import TYPE_CHECKING

from smec.frontend.inputs import real_inputs
from smec.frontend.model_file import OnnxFile
from smec.ir.core import AttrValue, Block, Region, Value
from smec.ir.dialects.builtin import GraphOp, ModuleOp, ReturnOp
from smec.ir.dialects.nn import Constant, NNOp
from smec.ir.dialects.nn_proto import (
    OPAQUE,
    attribute_to_value,
    captured_names,
    element_of,
    tensor_to_handle,
)
from smec.ir.errors import SmecError
from smec.ir.types import Handle, Location, TensorType

if TYPE_CHECKING:
    import onnx


def build_module(
    file: OnnxFile, types: Mapping[str, TensorType], batch: tuple[int, ...], tensors: set[str]
) -> ModuleOp:
    """The module of a model.

    Args:
        file: the folded model; its weights move into the module.
        types: of every tensor by name.
        batch: for each input a fixed batch, or 0.
        tensors: names of the original model's tensors; results that bear one get the attribute `_tensor`.

    Raises:
        SmecError: a node uses a tensor that nothing computes, or an output is no tensor.
    """
    return _Importer(file, types, tensors).run(batch)


class _Importer:
    def __init__(self, file: OnnxFile, types: Mapping[str, TensorType], tensors: set[str]) -> None:
        self.file, self.types, self.tensors = file, types, tensors
        # Without folders: a program holds locations, and is the same wherever its model lies.
        self.name = PurePath(file.file).name
        self.graph = file.proto.graph
        self.block = Block()
        self.values: dict[str, Value] = {}
        self.used = self._used_names()
        self.node_names: set[str] = set()

    def run(self, batch: tuple[int, ...]) -> ModuleOp:
        proto, inputs = self.file.proto, real_inputs(self.file)
        for value in inputs:
            self.values[value.name] = self.block.add_arg(self.types[value.name], value.name)
        for tensor in self.graph.initializer:
            if tensor.name in self.used:
                self._constant(tensor)
        for node in self.graph.node:
            self._node(node)
        where = Location(self.name)
        outputs = [self._lookup(v.name, where) for v in self.graph.output]
        for name, output in zip((v.name for v in self.graph.output), outputs, strict=True):
            if output.type.element == OPAQUE:
                raise SmecError(f"output '{name}' is no tensor", location=self.file.file)
        self.block.append(ReturnOp.create(outputs, location=where))
        attributes: dict[str, AttrValue] = {
            "sym_name": "main",
            "opset": self.file.opset or 1,
            "input_names": tuple(v.name for v in inputs),
            "output_names": tuple(v.name for v in self.graph.output),
            "batch": batch,
        }
        others = tuple(
            f"{o.domain}={o.version}"
            for o in sorted(proto.opset_import, key=lambda o: o.domain)
            if o.domain not in ("", "ai.onnx")
        )
        if others:
            attributes["opsets"] = others
        graph = GraphOp.create([], [], attributes, [Region([self.block])], location=where)
        return ModuleOp.create([], [], {}, [Region([Block([], [graph])])], location=where)

    def _used_names(self) -> set[str]:
        used = {v.name for v in self.graph.output}
        for node in self.graph.node:
            used.update(node.input)
            used.update(captured_names(node))
        return used

    def _lookup(self, name: str, location: Location) -> Value:
        try:
            return self.values[name]
        except KeyError:
            raise SmecError(f"nothing computes tensor '{name}'", location=location) from None

    def _constant(self, tensor: onnx.TensorProto) -> None:
        weights = self.file.weights
        handle = Handle(weights.pop(tensor.name)) if tensor.name in weights else tensor_to_handle(tensor)
        type = TensorType(tuple(tensor.dims), element_of(tensor.data_type))
        op = Constant.create([], [type], {"value": handle}, location=Location(self.name, tensor.name))
        op.results[0].name_hint = tensor.name
        self.values[tensor.name] = self.block.append(op).results[0]

    def _node(self, node: onnx.NodeProto) -> None:
        location = Location(self.name, self._unique_name(node))
        attributes: dict[str, AttrValue] = {}
        kinds = []
        for attribute in node.attribute:
            attributes[attribute.name], kind = attribute_to_value(attribute)
            if kind:
                kinds.append(f"{attribute.name}={kind}")
        inputs = _trim(list(node.input), {name for name in node.input if name})
        captured = captured_names(node)
        outputs = self._outputs(node)
        if "" in inputs:
            attributes["_present"] = tuple(bool(name) for name in inputs)
        if "" in outputs:
            attributes["_outputs"] = tuple(bool(name) for name in outputs)
        if captured:
            attributes["_captured"] = captured
        if kinds:
            attributes["_kinds"] = tuple(kinds)
        names = [name for name in outputs if name]
        if names and names[0] in self.tensors:
            attributes["_tensor"] = names[0]
        operands = [self._lookup(name, location) for name in [*filter(None, inputs), *captured]]
        op = NNOp.make(
            node.op_type,
            operands,
            [self.types[name] for name in names],
            attributes,
            location,
            "" if node.domain == "ai.onnx" else node.domain,
        )
        self.block.append(op)
        for name, value in zip(names, op.results, strict=True):
            value.name_hint = name
            self.values[name] = value

    def _outputs(self, node: onnx.NodeProto) -> list[str]:
        """Names of the outputs; "" for an optional one that nobody uses (mask of Dropout, indices of MaxPool)."""
        outputs = list(node.output)
        if node.domain in ("", "ai.onnx") and len(outputs) > 1:
            optional = _optional_outputs(node.op_type, self.file.opset)
            outputs = [n if n in self.used or i not in optional else "" for i, n in enumerate(outputs)]
        return _trim(outputs, {name for name in outputs if name})

    def _unique_name(self, node: onnx.NodeProto) -> str:
        first = next((name for name in node.output if name), "")
        name = node.name or f"{node.op_type}_{first}"
        if name in self.node_names:
            name = f"{name}_{first}"
        while name in self.node_names:
            name += "_"
        self.node_names.add(name)
        return name


def _trim(names: list[str], present: set[str]) -> list[str]:
    """`names` without omitted ones at the end."""
    while names and names[-1] not in present:
        names.pop()
    return names


def _optional_outputs(op_type: str, opset: int) -> set[int]:
    import onnx

    try:
        schema = onnx.defs.get_schema(op_type, opset, "")
    except onnx.defs.SchemaError:
        return set()
    optional = onnx.defs.OpSchema.FormalParameterOption.Optional
    return {i for i, output in enumerate(schema.outputs) if output.option == optional}
