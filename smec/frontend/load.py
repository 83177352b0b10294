"""Imports ONNX models: the first step of every compilation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from smec.ir.errors import SmecError

if TYPE_CHECKING:
    import onnx

    from smec.frontend.inputs import Shapes
    from smec.frontend.model_file import OnnxFile
    from smec.ir.dialects.builtin import ModuleOp
    from smec.ir.images import Arrays


def import_model(
    model: str | Path | onnx.ModelProto | OnnxFile, *, input_shapes: Shapes | None = None, sample: Arrays | None = None
) -> ModuleOp:
    """Read an ONNX model into a module of `nn` operations with known shapes.

    The model is fixed to one image (a symbolic leading extent becomes 1), raised to a current operator set, folded by
    onnxruntime, and brought to the normal form that `smec.frontend.normalize` describes.

    Args:
        model: path of the file, a model in memory (left as it is), or what `model_file.read` returned (used up).
        input_shapes: whole shapes for inputs with symbolic extents beyond the batch.
        sample: user arrays (B, ...) for inputs (calibration data): they settle symbolic extents, and serve where shapes
            can be found by a run only.

    Raises:
        SmecError: the model cannot be read, is refused by onnxruntime, or leaves an extent unknown.
    """
    from smec.frontend import fold, importer, inputs, model_file, normalize, shapes

    file = model if isinstance(model, model_file.OnnxFile) else model_file.read(model)
    tensors = {name for node in file.proto.graph.node for name in node.output if name}
    batch = inputs.fix_inputs(file, input_shapes, sample)
    feed = _first_image(file, sample)
    file = fold.fold(fold.raise_opset(file, feed))
    types = shapes.infer_types(file, feed)
    module = importer.build_module(file, types, batch, tensors)
    normalize.normalize(module)
    return module


def _first_image(file: OnnxFile, sample: Arrays | None) -> dict[str, np.ndarray] | None:
    """The sample's first image for every input; None unless every input has one."""
    from smec.frontend.inputs import input_types

    types = input_types(file)
    if not sample or any(name not in sample for name in types):
        return None
    feed = {}
    for name, type in types.items():
        array = np.asarray(sample[name]).astype(type.dtype)
        count = type.shape[0] if type.shape else 1
        if array.ndim and len(array) < count:
            raise SmecError(
                f"sample of input '{name}' is too small", location=file.file, expected=count, found=len(array)
            )
        feed[name] = array[:count] if type.shape else array.reshape(-1)[0]
    return feed
