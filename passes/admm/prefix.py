"""Runs two networks up to each layer in turn: the float one, and the quantized one as far as it is quantized.

Only arrays that are still needed are kept: memory is bounded by the values alive at one point of the graph, for all
calibration images.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from smec.ir.core import Operation, Value
from smec.ir.dialects.builtin import GraphOp, HostOp
from smec.ir.dialects.nn import Constant, graph_opsets
from smec.ir.dialects.quant import Add, Conv, WeightedOp
from smec.ir.onnx_session import SessionError
from smec.passes.admm.segments import Segment, run_convolution, steps
from smec.passes.quantization.units import Unit, graph_units

#: A value of the graph and its array.
Known = tuple[Value, np.ndarray]


class FloatPrefix:
    """The float network, run as far as the next layer asks for.

    Args:
        graph: partitioned, of `nn` operations.
        arrays: (B, *shape) for each graph input.
    """

    def __init__(self, graph: GraphOp, arrays: Mapping[str, np.ndarray]) -> None:
        self.graph = graph
        self.units: list[Unit] = list(graph_units(graph))
        self.place = {unit.name: index for index, unit in reversed(list(enumerate(self.units)))}
        self.images = max((len(a) for a in arrays.values()), default=1)
        self.live: dict[Value, np.ndarray] = {
            value: arrays[name] for name, value in zip(graph.input_names, graph.block.args, strict=True)
        }
        self.done = 0
        self._unit_of: dict[Operation, Unit] = {op: unit for unit in self.units for op in unit.ops}
        self._last: dict[Value, int] = {}
        for index, unit in enumerate(self.units):
            self._last.update(dict.fromkeys((v for op in unit.ops for v in op.operands), index))

    def input_of(self, name: str) -> np.ndarray | None:
        """The float values that the layer called `name` reads, (B, *shape); None if there is no such layer ahead.

        Raises:
            SmecError: onnxruntime fails on the network.
        """
        index = self.place.get(name, -1)
        if index < self.done or not self.units[index].inputs:
            return None
        self._advance(index)
        return self.live[self.units[index].inputs[0]]

    def addend_of(self, name: str) -> np.ndarray | None:
        """The float values that are added to the result of the layer called `name`; None if they are not at hand.

        To be asked for after `input_of`.
        """
        unit = self.units[self.place[name]]
        users = {self._unit_of.get(op) for op in unit.result.users}
        if len(users) != 1 or (user := users.pop()) is None or user.kind != "add":
            return None
        others = [v for v in user.inputs if v is not unit.result]
        return self.live.get(others[0]) if len(others) == 1 else None

    def _advance(self, index: int) -> None:
        ops: list[Operation] = [op for unit in self.units[self.done : index] for op in unit.ops]
        if ops:
            made = {r for op in ops for r in op.results}
            used = dict.fromkeys(v for op in ops for v in op.operands if v not in made and v in self.live)
            wanted = [r for op in ops for r in op.results if self._last.get(r, -1) >= index]
            segment = Segment(ops, list(used), wanted, graph_opsets(self.graph))
            try:
                self.live |= segment.run(self.live, self.images)
            except SessionError as error:
                raise ops[0].error(f"onnxruntime fails on the operations that begin here: {error}") from error
        self.done = index
        self.live = {v: a for v, a in self.live.items() if self._last.get(v, -1) >= index}


def walk(
    graph: GraphOp, arrays: Mapping[str, np.ndarray], outputs: list[np.ndarray] | None = None
) -> Iterator[tuple[WeightedOp, np.ndarray, Known | None]]:
    """Run a graph of `quant` operations and host regions; stop in front of every layer.

    Args:
        graph: layers need integer weights only once the walk goes on behind them.
        arrays: (B, *shape) for each graph input.
        outputs: receives the graph's outputs, (B, *shape) each; None: the walk ends at the last layer.

    Yields:
        each layer, the levels that it reads, (B, *shape), and the value that is added to its result with its levels;
        None if nothing is, or it is not known yet.
    """
    images = max((len(a) for a in arrays.values()), default=1)
    live: dict[Value, np.ndarray] = {}
    remaining: dict[Value, int] = {v: len(v.uses) for v in graph.block.args}
    for name, value in zip(graph.input_names, graph.block.args, strict=True):
        live[value] = arrays[name]
    layers = [op for op in graph.ops if isinstance(op, WeightedOp)]
    for op in graph.ops:
        if op.is_terminator or (not layers and outputs is None):
            break  # nothing behind the last layer matters
        inputs = [live[v] for v in op.operands]
        if isinstance(op, WeightedOp):
            other = _addend(op)
            yield op, inputs[0], (other, live[other]) if other in live else None
            layers.pop(0)
            if not layers and outputs is None:
                return
        results = _run(op, inputs, images)
        del inputs
        for used in op.operands:
            remaining[used] -= 1
            if not remaining[used]:
                del live[used]
        for result, array in zip(op.results, results, strict=True):
            if result.uses:
                live[result], remaining[result] = array, len(result.uses)
    if outputs is not None:
        outputs += [live[v] for v in graph.terminator.operands]


def _addend(op: WeightedOp) -> Value | None:
    """What is added to the result of a convolution, if it has no other use."""
    uses = list(op.out.uses)
    if len(uses) != 1 or not isinstance(uses[0][0], Add) or not isinstance(op, Conv):
        return None
    other: Value = uses[0][0].operands[1 - uses[0][1]]
    return other if other.type.shape == op.out.type.shape else None


def _run(op: Operation, inputs: list[np.ndarray], images: int) -> list[np.ndarray]:
    """One operation on all images."""
    if isinstance(op, HostOp):
        return _run_region(op, inputs, images)
    if isinstance(op, Conv):
        found = run_convolution(op, inputs[0])
        if found is not None:
            return [found]
    if not inputs:
        return [np.broadcast_to(a, (images, *a.shape[1:])) for a in op.interpret([])]
    size = sum(v.type.size for v in [*op.operands, *op.results])
    parts = [op.interpret([a[part] for a in inputs]) for part in steps(images, 2 * size)]
    return [np.concatenate(found) for found in zip(*parts, strict=True)]


def _run_region(op: HostOp, inputs: list[np.ndarray], images: int) -> list[np.ndarray]:
    block = op.body.block
    outputs = block.terminator.operands
    if not inputs or any(isinstance(v.defining_op(), Constant) or v in block.args for v in outputs):
        return [np.broadcast_to(a, (images, *a.shape[1:])) if len(a) == 1 else a for a in op.interpret(inputs)]
    ops = [inner for inner in block.ops if not inner.is_terminator]
    graph = op.parent_op()
    assert isinstance(graph, GraphOp)  # noqa: S101  # for the type checker: regions are operations of the graph
    segment = Segment(ops, block.args, list(dict.fromkeys(outputs)), graph_opsets(graph))
    try:
        found = segment.run(dict(zip(block.args, inputs, strict=True)), images)
    except SessionError as error:
        raise op.error(f"onnxruntime fails on the region: {error}") from error
    return [found[v] for v in outputs]
