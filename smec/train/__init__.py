"""ADMM fine-tuning for any torch module; see `docs/train.md`. Needs `pip install "smec[train]"`.

    from smec import train

    admm = train.Admm(model, sign="twos-complement", squeeze=6)
    loss = criterion(model(images), labels) + admm.penalty()    # every step
    admm.step()                                                 # every interval
    admm.finish()                                               # weights are on the set; train on, straight through
    train.export_onnx(model, images, "model.onnx")

Nothing else of `smec` imports torch or this package.
"""

from __future__ import annotations

try:
    import torch  # noqa: F401  # for the message below
except ImportError as error:
    raise ImportError('smec.train needs torch: pip install "smec[train]"') from error

from smec.train.activations import FakeActivations
from smec.train.admm import Admm
from smec.train.export import export_onnx
from smec.train.folding import fold_batch_norm
from smec.train.label_free import label_free
from smec.train.options import LayerOptions
from smec.train.start import Start
from smec.train.teacher import Teacher, divergence

__all__ = [
    "Admm",
    "FakeActivations",
    "LayerOptions",
    "Start",
    "Teacher",
    "divergence",
    "export_onnx",
    "fold_batch_norm",
    "label_free",
]
