"""The operations that hold others: module, graph, host region, and their terminator."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from smec.ir.core import Block, Operation, Value, attr, operand, region, result, tuple_attr
from smec.ir.types import Handle

if TYPE_CHECKING:
    from collections.abc import Iterator

    from smec.ir.dialects.isa import ProgramOp


#: Name (`sym_name`) of the copy of the float network in a module.
FLOAT_GRAPH = "float"


class ModuleOp(Operation):
    """The root: one region with one block that holds the graph (and, after emission, the instructions).

    `"builtin.module"() ({ ... }) : () -> ()`
    """

    name = "builtin.module"
    is_isolated = True
    body = region()
    levels = tuple_attr(str, default=(), doc="levels reached so far, in order")
    passes = tuple_attr(str, default=(), doc="passes that ran so far, as pipeline text each")
    pipeline = attr(str, default="", doc="the whole pipeline that the compilation began with")
    target = attr(str, default="", doc="name of the hardware preset, or a target's numbers as JSON")
    act_bits = attr(int, default=8, doc="A: bits of an activation")
    seed = attr(int, default=0, doc="of every random choice")
    source = tuple_attr(str, default=(), doc="name and SHA-256 of the model file")
    calibration_images = attr(int, default=0, doc="calibration images that were given; 0: synthetic ones")
    calibration_digest = attr(str, default="", doc="SHA-256 of the calibration data")
    sample_names = tuple_attr(str, default=(), doc="graph inputs that there are samples of")
    samples = tuple_attr(Handle, default=(), doc="a few calibration images for each")

    def verify(self) -> None:
        if len(self.body.blocks) != 1:
            raise self.error("module is not one block", found=f"{len(self.body.blocks)} blocks")

    @property
    def graph(self) -> GraphOp:
        """The network.

        Raises:
            SmecError: the module holds none.
        """
        for op in self.body.block.ops:
            if isinstance(op, GraphOp):
                return op
        raise self.error("module holds no graph")

    @property
    def float_graph(self) -> GraphOp | None:
        """The float network as it was before quantization; there until weights are quantized, for whoever compares."""
        for op in self.body.block.ops:
            if isinstance(op, GraphOp) and op.sym_name == FLOAT_GRAPH:
                return op
        return None

    def keep_float_graph(self) -> None:
        """Put a copy of the graph beside it: `float_graph`."""
        copy = self.graph.clone()
        copy.attributes["sym_name"] = FLOAT_GRAPH
        self.body.block.append(copy)

    def drop_float_graph(self) -> None:
        """Erase `float_graph`, if it is there."""
        graph = self.float_graph
        if graph is not None:
            graph.erase()

    @property
    def program(self) -> ProgramOp:
        """The instructions, after emission.

        Raises:
            SmecError: the module holds none.
        """
        for op in self.body.block.ops:
            if op.name == "isa.program":
                program: ProgramOp = op
                return program
        raise self.error("module holds no program", hint="run the pass 'emit' first")


class GraphOp(Operation):
    """The network: its block's arguments are the model's inputs, its terminator returns the model's outputs.

    `"smec.graph"() ({ ^bb0(%x: tensor<1x3x8x8xf32>): ... }) {sym_name = "main", opset = 17 : i64, ...} : () -> ()`
    """

    name = "smec.graph"
    is_isolated = True
    body = region()
    sym_name = attr(str, default="main")
    opset = attr(int, doc="ONNX operator set of the `nn` operations")
    opsets = tuple_attr(str, default=(), doc="other domains, each as 'domain=version'")
    input_names = tuple_attr(str)
    output_names = tuple_attr(str)
    batch = tuple_attr(int, default=(), doc="extent of the leading axis of each input; 0: the image axis itself")

    @property
    def block(self) -> Block:
        block: Block = self.body.block
        return block

    @property
    def ops(self) -> Iterator[Operation]:
        """The graph's operations in order, the terminator excluded."""
        return (op for op in self.block.ops if not op.is_terminator)

    @property
    def terminator(self) -> Operation:
        return self.block.terminator

    def verify(self) -> None:
        returned = _returned(self)
        for what, names, values in (
            ("input", self.input_names, self.block.args),
            ("output", self.output_names, returned),
        ):
            if len(names) != len(values):
                raise self.error(
                    f"number of {what} names differs from the {what}s", expected=len(values), found=len(names)
                )
            if len(set(names)) != len(names):
                raise self.error(f"{what} names are not distinct")


class ReturnOp(Operation):
    """Ends a graph or a host region; its operands are the results.

    `"smec.return"(%0) : (tensor<1x10xf32>) -> ()`
    """

    name = "smec.return"
    is_terminator = True
    values = operand(variadic=True)

    def interpret(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
        return inputs


class HostOp(Operation):
    """A region of `nn` operations that the host processor computes in floating point.

    `"smec.host"(%0) ({ ^bb0(%a: tensor<1x10xf32>): ... }) {name = "host0", batchable = true} : (...) -> (...)`
    """

    name = "smec.host"
    is_isolated = True
    inputs = operand(variadic=True)
    outputs = result(variadic=True)
    body = region()
    label = attr(str, doc="unique name of the region")
    batchable = attr(bool, default=False, doc="images may be stacked along the leading axis in one call")

    def verify(self) -> None:
        returned = _returned(self)
        for what, outer, inner in (
            ("inputs", self.operands, self.body.block.args),
            ("outputs", self.results, returned),
        ):
            outer_types, inner_types = [v.type for v in outer], [v.type for v in inner]
            if outer_types != inner_types:
                expected, found = (", ".join(map(str, t)) or "none" for t in (outer_types, inner_types))
                raise self.error(
                    f"types of the region's {what} differ from the operation's", expected=expected, found=found
                )

    def interpret(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
        from smec.ir.interpreter import interpret_block  # the interpreter imports the dialects

        return interpret_block(self.body.block, inputs)


def _returned(op: GraphOp | HostOp) -> list[Value]:
    """The values that the region of `op` returns.

    Raises:
        SmecError: the region has not exactly one block that ends in `smec.return`.
    """
    blocks = op.body.blocks
    if len(blocks) != 1 or not isinstance(blocks[0].last, ReturnOp):
        raise op.error("region is not one block that ends in 'smec.return'")
    return blocks[0].last.operands
