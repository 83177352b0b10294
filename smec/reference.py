"""The two references of `smec verify`, both run by onnxruntime: the quantized network and the float model."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from smec.data import Port, take
from smec.export import export_onnx
from smec.ir.core import Block, Operation, Region, Value
from smec.ir.dialects.builtin import GraphOp, HostOp, ModuleOp, ReturnOp
from smec.ir.dialects.quant import WeightedOp
from smec.ir.errors import SmecError
from smec.ir.onnx_model import region_to_model
from smec.ir.onnx_session import Session, SessionError

if TYPE_CHECKING:
    import onnx

Arrays = dict[Value, np.ndarray]


class QuantizedNetwork:
    """The quantized network, run by onnxruntime, with every layer's accumulators.

    The integer operations between two host regions are exported (`smec.export`) and run without graph optimisation,
    which would join operators to ones that round otherwise. Each host region is a model of its own that is run as an
    engine runs it: with optimisation, since floating point on the host has no other definition.
    """

    def __init__(self, module: ModuleOp) -> None:
        self.graph = module.graph
        self.parts: list[_Part] = []
        for ops in _runs(self.graph):
            first = ops[0]
            self.parts.append(_Host(first, self.graph) if isinstance(first, HostOp) else _Piece(ops, self.graph))

    def run(self, feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name, and accumulators as `<layer>.acc`; arrays here are (B, *shape of one image)."""
        arrays: Arrays = {
            arg: feed[name] for name, arg in zip(self.graph.input_names, self.graph.block.args, strict=True)
        }
        found: dict[str, np.ndarray] = {}
        for part in self.parts:
            found |= part.run(arrays)
        outputs = self.graph.terminator.operands
        return found | {name: arrays[value] for name, value in zip(self.graph.output_names, outputs, strict=True)}


class _Part(Protocol):
    def run(self, arrays: Arrays) -> dict[str, np.ndarray]:
        """Add the results to `arrays`; return accumulators by tensor name."""


def _runs(graph: GraphOp) -> Iterable[list[Operation]]:
    """The graph's operations in order: each host region alone, what lies between two of them together."""
    run: list[Operation] = []
    for op in graph.ops:
        if isinstance(op, HostOp):
            if run:
                yield run
            yield [op]
            run = []
        else:
            run.append(op)
    if run:
        yield run


class _Piece:
    """Consecutive integer operations as an ONNX model."""

    def __init__(self, ops: list[Operation], graph: GraphOp) -> None:
        inside = set(ops)
        self.inputs = list(dict.fromkeys(v for op in ops for v in op.operands if v.defining_op() not in inside))
        self.outputs = [r for op in ops for r in op.results if any(user not in inside for user in r.users)]
        self.layers = [op.label for op in ops if isinstance(op, WeightedOp)]
        model = export_onnx(_module(ops, self.inputs, self.outputs, graph), accumulators=True)
        dims = [list(v.type.tensor_type.shape.dim) for v in model.graph.input]
        self.stacks = bool(dims) and all(d and d[0].dim_param for d in dims)
        try:
            self.session = Session(model, level="none", threads=os.cpu_count() or 1)
        except SessionError as error:
            raise ops[0].error(f"onnxruntime refuses the exported network: {error}") from error
        self.names = [f"x{i}" for i in range(len(self.inputs))]

    def run(self, arrays: Arrays) -> dict[str, np.ndarray]:
        # Levels of more than 8 bits are int32 in exported models.
        feed = {name: _widened(arrays[v]) for name, v in zip(self.names, self.inputs, strict=True)}
        results = _call(self.session, feed, self.stacks)
        for value, array in zip(self.outputs, results, strict=False):
            arrays[value] = array
        return dict(zip((f"{name}.acc" for name in self.layers), results[len(self.outputs) :], strict=True))


def _widened(array: np.ndarray) -> np.ndarray:
    return array.astype(np.int32) if array.dtype == np.uint16 else array


def _module(ops: Sequence[Operation], inputs: Sequence[Value], outputs: Sequence[Value], graph: GraphOp) -> ModuleOp:
    """The operations as a module of their own, with inputs x0, x1, ... and outputs y0, y1, ..."""
    block = Block([v.type for v in inputs])
    mapping: dict[Value, Value] = dict(zip(inputs, block.args, strict=True))
    for op in ops:
        block.append(op.clone(mapping))
    block.append(ReturnOp.create([mapping[v] for v in outputs], location=graph.location))
    piece = GraphOp.create(
        attributes={
            **graph.attributes,
            "input_names": tuple(f"x{i}" for i in range(len(inputs))),
            "output_names": tuple(f"y{i}" for i in range(len(outputs))),
            "batch": (),
        },
        regions=[Region([block])],
        location=graph.location,
    )
    return ModuleOp.create(regions=[Region([Block(ops=[piece])])], location=graph.location)


class _Host:
    """A host region as its own model, image by image."""

    def __init__(self, region: HostOp, graph: GraphOp) -> None:
        self.region = region
        model = region_to_model(region, graph, batchable=region.batchable, check=False)
        try:
            self.session = Session(model, level="all", threads=os.cpu_count() or 1)
        except SessionError as error:
            raise region.error(f"onnxruntime refuses the host region: {error}") from error

    def run(self, arrays: Arrays) -> dict[str, np.ndarray]:
        feed = {f"arg{i}": arrays[v] for i, v in enumerate(self.region.operands)}
        arrays.update(zip(self.region.results, _call(self.session, feed, stacks=False), strict=True))
        return {}


def _call(session: Session, feed: dict[str, np.ndarray], stacks: bool) -> list[np.ndarray]:
    """Results (B, *shape) for inputs (B, *shape): all images at once, or one by one."""
    images = max((len(a) for a in feed.values()), default=1)
    try:
        if stacks:
            found = session.run({n: a.reshape(-1, *a.shape[2:]) for n, a in feed.items()})
            return [a.reshape(images, 1, *a.shape[1:]) for a in found]
        rows = [session.run({n: a[i if len(a) > 1 else 0] for n, a in feed.items()}) for i in range(images)]
    except SessionError as error:
        raise SmecError(f"onnxruntime cannot run the quantized network: {error}") from error
    return [np.stack([row[k] for row in rows]) for k in range(len(rows[0]))]


class FloatNetwork:
    """The original model with further tensors as outputs, run image by image."""

    def __init__(
        self,
        model: str | os.PathLike[str] | onnx.ModelProto,
        ports: Sequence[Port],
        tensors: Sequence[str],
        outputs: Sequence[str],
    ) -> None:
        import onnx

        self.ports = ports
        proto = onnx.ModelProto()
        if isinstance(model, onnx.ModelProto):
            proto.CopyFrom(model)
            self.location = "<model>"
        else:
            self.location = os.fspath(model)
            proto = onnx.load(Path(model))
        computed = {name for node in proto.graph.node for name in node.output}
        declared = {v.name for v in proto.graph.output}
        known = [t for t in dict.fromkeys(tensors) if t in computed and t not in declared]
        proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in known)
        self.wanted = list(dict.fromkeys([*known, *(n for n in [*outputs, *tensors] if n in declared)]))
        try:
            self.session = Session(proto, threads=os.cpu_count() or 1)
        except SessionError as error:
            raise SmecError(f"onnxruntime refuses the model: {error}", location=self.location) from error

    def run(self, feed: dict[str, np.ndarray], images: int) -> dict[str, np.ndarray]:
        """Tensors by name, (B, *shape of one image); `feed` holds `images` images as the user stacks them."""
        rows = [self._call(_one_image(self.ports, feed, i)) for i in range(images)]
        return {n: np.stack([row[k] for row in rows]) for k, n in enumerate(self.wanted)}

    def _call(self, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        try:
            return self.session.run(feed, self.wanted)
        except SessionError as error:
            raise SmecError(f"onnxruntime cannot run the model: {error}", location=self.location) from error


def _one_image(ports: Sequence[Port], feed: dict[str, np.ndarray], image: int) -> dict[str, np.ndarray]:
    """One image in the model's own shape."""
    arrays = {}
    for port in ports:
        part = take(port, feed[port.name], image, image + 1)
        arrays[port.name] = part[0] if port.batch is None else part
    return arrays
