"""The `nn` dialect: ONNX's own operators, under ONNX's own names, on float tensors.

One class, `NNOp`, stands for every operator: `nn.Conv`, `nn.Softmax`, ... ONNX attributes are attributes of the same
name. Attributes that begin with an underscore are ours:

- `_present`: which of ONNX's inputs are given, when an optional one before the last is omitted (tuple of bool); the
  operands are the given ones, in order;
- `_outputs`: the same for outputs;
- `_captured`: names by which the operator's subgraphs (bodies of If, Loop, Scan) call values from outside; those values
  are the last operands, in the same order;
- `_kinds`: see `smec.ir.dialects.nn_proto`;
- `_tensor`: name of the original model's tensor that the first result equals;
- `_unit`, `_kind`, `_types`: what `partition` and `calibrate` decide (see `smec.passes.quantization.units`).

`domain` names the operator's domain when it is not ONNX's own.

    %2 = "nn.Conv"(%x, %w) {strides = [1, 1], ...} : (tensor<1x3x8x8xf32>, tensor<4x3x3x3xf32>) -> tensor<1x4x8x8xf32>
    %3 = "nn.Constant"() {value = ...} : () -> tensor<4xf32>
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from smec.ir.core import OPEN_DIALECTS, AttrValue, Operation, Value, attr, operand, result
from smec.ir.dialects.builtin import GraphOp
from smec.ir.dialects.nn_proto import handle_to_array, rename_graph, subgraphs, value_to_attribute
from smec.ir.types import Handle, Location, TensorType

if TYPE_CHECKING:
    import onnx

#: Domain and version pairs of an ONNX model.
Opsets = dict[str, int]


class Constant(Operation):
    """A constant tensor. Element types without a NumPy dtype hold the bytes of a TensorProto.

    `%0 = "nn.Constant"() {value = ...} : () -> tensor<4xf32>`
    """

    name = "nn.Constant"
    out = result()
    value = attr(Handle)

    @property
    def array(self) -> np.ndarray:
        """The constant, without an image axis."""
        return handle_to_array(self.value, self.results[0].type)

    def interpret(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
        return [self.array[None]]

    @classmethod
    def of(cls, array: np.ndarray, location: Location, name_hint: str | None = None) -> Constant:
        """A constant of a NumPy array."""
        from smec.ir.dialects.nn_proto import element_of_dtype

        array = np.asarray(array)
        op = cls.create([], [TensorType(array.shape, element_of_dtype(array.dtype))], location=location)
        op.attributes["value"] = Handle(array)
        op.results[0].name_hint = name_hint
        return op


class NNOp(Operation):
    """An ONNX operator: `nn.<operator>`.

    `%1 = "nn.Relu"(%0) : (tensor<1x4x8x8xf32>) -> tensor<1x4x8x8xf32>`
    """

    # Instances carry their own name: the class stands for the whole dialect.
    name: str = ""
    args = operand("the given inputs, then captured values", variadic=True)
    outs = result("the given outputs", variadic=True)
    #: Attributes that are neither ONNX's nor written to a node.
    PRIVATE: ClassVar[frozenset[str]] = frozenset(
        {"domain", "_present", "_outputs", "_captured", "_kinds", "_tensor", "_unit", "_kind", "_types"}
    )

    @classmethod
    def make(
        cls,
        op_type: str,
        operands: Sequence[Value],
        result_types: Sequence[TensorType],
        attributes: dict[str, AttrValue] | None = None,
        location: Location | None = None,
        domain: str = "",
    ) -> NNOp:
        """An operator that is in no block yet.

        Args:
            op_type: ONNX's operator name.
            operands: the given inputs, then captured values.
            result_types: one for each given output.
            attributes: ONNX's and ours.
            location: where it comes from.
            domain: operator domain, "" for ONNX's own.
        """
        op = cls.create(operands, result_types, attributes, location=location or Location("", op_type))
        op.name = f"nn.{op_type}"
        if domain:
            op.attributes["domain"] = domain
        return op

    @property
    def op_type(self) -> str:
        """ONNX's operator name."""
        return self.name[3:]

    @property
    def domain(self) -> str:
        return str(self.attributes.get("domain", ""))

    @property
    def tensor(self) -> str:
        """Name of the original model's tensor that the first result equals; "" if there is none."""
        return str(self.attributes.get("_tensor", ""))

    @property
    def captured(self) -> dict[str, Value]:
        """The values that subgraphs take from outside, by the names they have there."""
        names = self._tuple("_captured")
        return dict(zip(names, self.operands[len(self.operands) - len(names) :], strict=True))

    @property
    def inputs(self) -> list[Value | None]:
        """The operands at ONNX's input positions; None where an optional input is omitted."""
        given = self.operands[: len(self.operands) - len(self._tuple("_captured"))]
        present = self._tuple("_present")
        if not present:
            return list(given)
        rest = iter(given)
        return [next(rest) if there else None for there in present]

    def input(self, index: int) -> Value | None:
        """ONNX's input at `index`; None if it is omitted."""
        inputs = self.inputs
        return inputs[index] if index < len(inputs) else None

    def constant_input(self, index: int) -> np.ndarray | None:
        """The array of ONNX's input at `index`; None if it is omitted or not constant."""
        value = self.input(index)
        op = value.defining_op() if value is not None else None
        return op.array if isinstance(op, Constant) else None

    def _tuple(self, name: str) -> tuple[str, ...]:
        value = self.attributes.get(name, ())
        return value if isinstance(value, tuple) else ()

    @property
    def kinds(self) -> dict[str, str]:
        """Attribute kinds that do not follow from the value (see `nn_proto`)."""
        return dict(kind.rsplit("=", 1) for kind in self._tuple("_kinds"))

    def verify(self) -> None:
        captured, present, outputs = self._tuple("_captured"), self._tuple("_present"), self._tuple("_outputs")
        if not self.op_type:
            raise self.error("operator has no name")
        given = len(self.operands) - len(captured)
        if given < 0 or (present and sum(map(bool, present)) != given):
            raise self.error("operands and omitted inputs disagree", expected=f"{given} present", found=present)
        if outputs and sum(map(bool, outputs)) != len(self.results):
            raise self.error("results and omitted outputs disagree", expected=len(self.results), found=outputs)

    def opsets(self) -> Opsets:
        """The operator sets that hold here: those of the graph around, else the newest that this onnx knows."""
        op: Operation | None = self
        while op is not None:
            if isinstance(op, GraphOp):
                return graph_opsets(op)
            op = op.parent_op()
        import onnx

        return {"": onnx.defs.onnx_opset_version()}

    def interpret(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
        from smec.ir.dialects.nn_eval import NodeEvaluator

        evaluator = NodeEvaluator(self, inputs)
        images = max((len(x) for x in inputs), default=1)
        rows = [evaluator.run([_image(x, i if len(x) > 1 else 0) for x in inputs]) for i in range(images)]
        return [self._stack([row[k] for row in rows]) for k in range(len(self.results))]

    def _stack(self, arrays: list[Any]) -> np.ndarray:
        """The results of all images as one array; sequences and optionals become an array of objects."""
        if all(isinstance(a, np.ndarray) for a in arrays):
            shapes = {a.shape for a in arrays}
            if len(shapes) > 1:
                raise self.error("results of different images have different shapes", found=sorted(shapes))
            return np.stack(arrays)
        objects = np.empty(len(arrays), dtype=object)
        for i, value in enumerate(arrays):
            objects[i] = value
        return objects


def _image(array: np.ndarray, index: int) -> Any:
    value = array[index]
    return value if array.dtype == object else np.asarray(value)


def graph_opsets(graph: GraphOp) -> Opsets:
    """The operator sets of a graph by domain."""
    opsets = {"": graph.opset}
    for entry in graph.opsets:
        domain, _, version = entry.rpartition("=")
        opsets[domain] = int(version)
    return opsets


def to_node(op: NNOp, input_names: Sequence[str], output_names: Sequence[str]) -> onnx.NodeProto:
    """The ONNX node of an operator.

    Args:
        op: the operator.
        input_names: a name for each operand, captured values included.
        output_names: a name for each result.

    Names that subgraphs define are put under the first output's name (`<output>::<name>`), so that they are unique as
    long as no name outside holds two colons.
    """
    import onnx

    captured = op._tuple("_captured")
    given = list(input_names[: len(input_names) - len(captured)])
    node = onnx.NodeProto(op_type=op.op_type, domain=op.domain, name=op.location.node)
    node.input.extend(_spread(given, op._tuple("_present")))
    node.output.extend(_spread(list(output_names), op._tuple("_outputs")))
    kinds = op.kinds
    for name, value in op.attributes.items():
        if name not in NNOp.PRIVATE:
            node.attribute.append(value_to_attribute(name, value, kinds.get(name, "")))
    outer = dict(zip(captured, input_names[len(given) :], strict=True))
    prefix = f"{output_names[0]}::" if output_names else f"{op.location.node}::"
    for graph in subgraphs(node):
        rename_graph(graph, outer, prefix)
    return node


def _spread(names: list[str], present: tuple[object, ...]) -> list[str]:
    if not present:
        return names
    rest = iter(names)
    return [next(rest) if there else "" for there in present]


OPEN_DIALECTS["nn"] = NNOp
