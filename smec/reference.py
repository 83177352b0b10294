"""The two references of `smec verify`, both run by onnxruntime: the exported integer network and the float model."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from smec.data import Port, take
from smec.export import export_onnx
from smec.ir.errors import SmecError
from smec.ir.onnx_session import Session, SessionError

if TYPE_CHECKING:
    import onnx

    from smec.ir.dialects.builtin import ModuleOp


class ExportedNetwork:
    """The quantized network as ONNX, every layer's accumulators among its outputs, without graph optimisation."""

    def __init__(self, module: ModuleOp, ports: Sequence[Port]) -> None:
        model = export_onnx(module, accumulators=True)
        shape = model.graph.input[0].type.tensor_type.shape if model.graph.input else None
        self.stacks = bool(shape and shape.dim and shape.dim[0].dim_param)
        self.ports = ports
        try:
            self.session = Session(model, level="none")
        except SessionError as error:
            raise SmecError(f"onnxruntime refuses the exported network: {error}", location="export") from error

    def run(self, feed: dict[str, np.ndarray], images: int) -> dict[str, np.ndarray]:
        """Results by tensor name, (B, *shape of one image); `feed` holds `images` images as the user stacks them."""
        names = self.session.output_names
        if self.stacks:
            arrays = self._call(feed)
            return {n: a.reshape(images, 1, *a.shape[1:]) for n, a in zip(names, arrays, strict=True)}
        rows = [self._call(_one_image(self.ports, feed, i)) for i in range(images)]
        return {n: np.stack([row[k] for row in rows]) for k, n in enumerate(names)}

    def _call(self, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        try:
            return self.session.run(feed)
        except SessionError as error:
            raise SmecError(f"onnxruntime cannot run the exported network: {error}", location="export") from error


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
            self.session = Session(proto)
        except SessionError as error:
            raise SmecError(f"onnxruntime refuses the model: {error}", location=self.location) from error

    def run(self, feed: dict[str, np.ndarray], images: int) -> dict[str, np.ndarray]:
        """Tensors by name, (B, *shape of one image)."""
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
