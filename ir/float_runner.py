"""Runs the float graph with onnxruntime and hands out any of its tensors: for calibration and for error reports."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from smec.ir.batching import stacking
from smec.ir.core import BlockArgument, Value
from smec.ir.dialects.builtin import GraphOp, ModuleOp
from smec.ir.dialects.nn import Constant, NNOp, graph_opsets
from smec.ir.dialects.nn_proto import captured_names
from smec.ir.errors import SmecError
from smec.ir.images import Arrays, image_arrays
from smec.ir.onnx_model import Serialized, agree, serialize
from smec.ir.onnx_session import Session, SessionError

#: Names of tensors, and the axis along which images are stacked in each (None: they cannot be).
Axes = dict[str, "int | None"]

#: What the tensors handed out for one batch may take together, in bytes, and the most images of a batch.
_BATCH_BYTES, _MAX_BATCH = 64 << 20, 64


class FloatRunner:
    """The float network, ready to run.

    The graph is written down at construction: the module may be rewritten afterwards, and values are known by identity.

    Args:
        module: one whose graph holds `nn` operations only.
        threads: of onnxruntime.

    Attributes:
        module: the module.
        tensors: values by the name of the original model's tensor that they equal, inputs and outputs among them.
    """

    def __init__(self, module: ModuleOp, *, threads: int = 2) -> None:
        self.module = module
        self.threads = threads
        self.graph: GraphOp = self.module.graph
        block = self.graph.block
        self._inputs = list(block.args)
        self._outputs = list(block.terminator.operands)
        self._written = {batchable: self._write(self.graph, batchable) for batchable in (False, True)}
        self._axes = stacking(self.graph.ops, self._inputs).axes
        self._sessions: dict[tuple[tuple[str, ...], bool], Session] = {}
        self._stacking: dict[tuple[str, ...], bool] = {}
        self.tensors: dict[str, Value] = dict(zip(self.graph.input_names, self._inputs, strict=True))
        self.tensors |= zip(self.graph.output_names, self._outputs, strict=True)
        self.tensors |= {op.tensor: op.results[0] for op in self.graph.ops if isinstance(op, NNOp) and op.tensor}

    def _write(self, graph: GraphOp, batchable: bool) -> Serialized:
        return serialize(
            graph.ops,
            self._inputs,
            self._outputs,
            graph_opsets(graph),
            input_names=graph.input_names,
            output_names=graph.output_names,
            batchable=batchable,
        )

    # -- running

    def run(
        self, inputs: Arrays, values: Sequence[Value], batch_size: int | None = None
    ) -> Iterator[dict[Value, np.ndarray]]:
        """Stream over the images.

        Args:
            inputs: user arrays (B, ...) by input name.
            values: of the graph: operation results, arguments, constants.
            batch_size: images a step; by default as many as keep the handed-out arrays within 64 MB.

        Yields:
            for each step of b images an array (b, *shape) for each value.

        Raises:
            SmecError: the inputs do not fit the model, a value is none of the graph's, or onnxruntime fails.
        """
        arrays = image_arrays(inputs, self.graph)
        images = len(next(iter(arrays.values()))) if arrays else 1
        computed = {v: self._name(v) for v in values if not self._is_given(v)}
        names = {name: self._axes.get(v) for v, name in computed.items()}
        step = batch_size if batch_size is not None else self._batch_size(values)
        if step < 1:
            raise SmecError("batch size is below 1", found=step)
        stack = bool(names) and images > 1 and step > 1 and None not in names.values()
        stack = stack and self._tried(names, arrays)
        for start in range(0, images, step):
            part = {name: a[start : start + step] for name, a in arrays.items()}
            found = self._run_images(names, part, stack)
            yield {v: found[computed[v]] if v in computed else self._given(v, part) for v in values}

    def outputs(self, inputs: Arrays, batch_size: int | None = None) -> dict[str, np.ndarray]:
        """The model's outputs for all images, (B, *shape) each, by name. Arguments and errors are those of `run`."""
        parts = list(self.run(inputs, self._outputs, batch_size))
        joined = {v: np.concatenate([p[v] for p in parts]) for v in self._outputs}
        return {name: joined[v] for name, v in zip(self.graph.output_names, self._outputs, strict=True)}

    def value(self, tensor: str) -> Value:
        """The value that equals the original model's tensor of this name.

        Raises:
            SmecError: there is none (it was folded away, or never existed).
        """
        try:
            return self.tensors[tensor]
        except KeyError:
            raise self.graph.error(f"float graph has no tensor '{tensor}'") from None

    def _name(self, value: Value) -> str:
        # Names are the same in both forms: they come from the values alone.
        names = self._written[False].names
        if value not in names:
            raise self.graph.error("value is not computed by the float graph", found=value.name_hint)
        return names[value]

    def _is_given(self, value: Value) -> bool:
        return isinstance(value, BlockArgument) or isinstance(value.defining_op(), Constant)

    def _given(self, value: Value, part: Arrays) -> np.ndarray:
        images = len(next(iter(part.values()))) if part else 1
        source = value.defining_op()
        if isinstance(source, Constant):
            return np.broadcast_to(source.array, (images, *value.type.shape))
        for name, argument in zip(self.graph.input_names, self._inputs, strict=True):
            if argument is value:
                return part[name]
        raise self.graph.error("value is no argument of the float graph", found=value.name_hint)

    def _batch_size(self, values: Sequence[Value]) -> int:
        size = sum(max(v.type.size, 1) * 4 for v in [*values, *self._inputs])
        return int(min(max(_BATCH_BYTES // max(size, 1), 1), _MAX_BATCH))

    def _tried(self, names: Axes, arrays: Arrays) -> bool:
        """Whether two images stacked give what each gives on its own (tried once)."""
        key = tuple(names)
        if key not in self._stacking:
            pair = {n: a[:2] for n, a in arrays.items()}
            alone = self._run_images(names, pair, stack=False)
            try:
                both = self._run_images(names, pair, stack=True)
            except (SmecError, ValueError):  # refused, or an extent that is none of two images
                both = {}
            self._stacking[key] = bool(both) and all(agree(np.concatenate(both[n]), list(alone[n])) for n in key)
        return self._stacking[key]

    def _run_images(self, names: Axes, part: Arrays, stack: bool) -> dict[str, np.ndarray]:
        """The named tensors of all images of `part`, (b, *shape) each."""
        if not names:
            return {}
        images = len(next(iter(part.values()))) if part else 1
        try:
            session = self._session(tuple(names), stack)
            if stack:
                found = session.run({n: a.reshape(-1, *a.shape[2:]) for n, a in part.items()}, list(names))
                return {n: _unstack(a, names[n] or 0, images) for n, a in zip(names, found, strict=True)}
            rows = [session.run({n: a[i] for n, a in part.items()}, list(names)) for i in range(images)]
        except SessionError as error:
            raise self.graph.error(f"onnxruntime fails on the float graph: {error}") from error
        together = {}
        for k, name in enumerate(names):
            shapes = {np.shape(row[k]) for row in rows}
            if len(shapes) > 1:
                raise self.graph.error(f"tensor '{name}' has another shape for another image", found=sorted(shapes))
            together[name] = np.stack([row[k] for row in rows])
        return together

    def _session(self, names: tuple[str, ...], batchable: bool) -> Session:
        """A session that returns `names`; the last two (one a form) are kept."""
        key = (names, batchable)
        if key not in self._sessions:
            self._sessions = {k: s for k, s in self._sessions.items() if k[0] == names}
            self._sessions[key] = self._open(names, batchable)
        return self._sessions[key]

    def _open(self, names: tuple[str, ...], batchable: bool) -> Session:
        import onnx

        written = self._written[batchable]
        model = onnx.ModelProto()
        model.CopyFrom(written.model)
        del model.graph.output[:]
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
        # onnxruntime computes every node of a model: leave those that are asked for.
        needed, kept = set(names), []
        for node in reversed(written.model.graph.node):
            if needed.intersection(node.output):
                kept.append(node)
                needed.update(node.input, captured_names(node))
        del model.graph.node[:]
        model.graph.node.extend(reversed(kept))
        initializers = [t for t in written.model.graph.initializer if t.name in needed]
        del model.graph.initializer[:]
        model.graph.initializer.extend(initializers)
        weights = {name: array for name, array in written.weights.items() if name in needed}
        try:
            return Session(model, weights, threads=self.threads)
        except SessionError as error:
            raise self.graph.error(f"onnxruntime refuses the float graph: {error}") from error


def _unstack(array: np.ndarray, axis: int, images: int) -> np.ndarray:
    """(..., b * s, ...) with the images along `axis` as (b, ..., s, ...)."""
    shape = array.shape
    return np.moveaxis(array.reshape(*shape[:axis], images, -1, *shape[axis + 1 :]), axis, 0)
