"""The integers that the compile-time ADMM finds without labels, for training to start from."""

from __future__ import annotations

import copy
import os
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from smec.ir.errors import SmecError
from smec.train.export import float_onnx
from smec.train.folding import fold_batch_norm
from smec.train.options import LAYERS, LayerOptions
from smec.train.start import Start

if TYPE_CHECKING:
    from smec.targets import Target


def label_free(
    model: nn.Module,
    images: Tensor | np.ndarray,
    options: LayerOptions,
    *,
    target: str | os.PathLike[str] | Target = "sme",
    shift: str = "fit",
) -> dict[str, Start]:
    """Run the pass `quantize-admm` on a model: integers, scales and corrected biases by name of the layer.

    Args:
        model: of one input; it is copied, and batch normalisations are folded in the copy.
        images: calibration inputs, [B, ...], 512 of them or so.
        options: of all layers.
        target: as for `smec.compile`.
        shift: rule of the row shifts that squeeze-out will use.

    Raises:
        SmecError: the model is refused by the compiler; none of its layers is one of the compiler's.
    """
    from smec.driver import lower
    from smec.ir.dialects.quant import WeightedOp
    from smec.passes.pipeline import Pipeline, parse_pipeline
    from smec.passes.quantize_admm import QuantizeAdmm

    plain = copy.deepcopy(model).cpu().eval()
    fold_batch_norm(plain)
    array = images.detach().cpu().float().numpy() if isinstance(images, Tensor) else np.asarray(images, np.float32)
    proto = float_onnx(plain, (torch.from_numpy(array[:2]),))
    solver = QuantizeAdmm(
        pattern=options.pattern,
        bits=options.bits,
        scale=options.scale,  # type: ignore[arg-type]  # the pass refuses other words
        sign=options.sign,  # type: ignore[arg-type]  # likewise
        squeeze=options.squeeze,
        shift=shift,  # type: ignore[arg-type]  # likewise
        constraints=options.constraints,
        sign_rows=options.sign_rows,
    )
    before = parse_pipeline("partition,calibrate,quantize-activations")
    real = lower(proto, "quant.float", pipeline=before, calib=array, target=target)
    done = lower(real, "quant", pipeline=Pipeline([solver]), calib=array)
    # The compiler has names of its own for layers: weights tell which is which.
    names = {}
    for name, module in plain.named_modules():
        if isinstance(module, LAYERS):
            names[module.weight.detach().numpy().tobytes()] = name, tuple(module.weight.shape)
    owners = {
        op.label: names.get(np.ascontiguousarray(op.float_weight.array).tobytes())
        for op in real.graph.ops
        if isinstance(op, WeightedOp)
    }
    found = {}
    for op in done.graph.ops:
        owner = owners.get(op.label) if isinstance(op, WeightedOp) else None
        if owner is not None and isinstance(op, WeightedOp):
            name, shape = owner
            found[name] = Start(op.integers().reshape(shape), op.weight_scale.array, op.bias.array)
    if not found:
        raise SmecError("the compiler puts no layer of the model on crossbars")
    return found
