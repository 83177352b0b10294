"""Train the digits network and fine-tune it onto two crossbars a tile; under a minute on one core.

    python examples/finetune_digits.py                                       # two's complement, two planes
    python examples/finetune_digits.py --sign differential --squeeze 7       # one plane of each sign

The network, its data and its float training are those of `train_digits.py`. Then, as in any training loop, five lines
bring it onto the set: `Admm(...)`, the penalty in the loss, `step`, `finish`, `export_onnx`. The exported model carries
the integers, and the compiled program has the very same. Needs `pip install "smec[train]"`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from train_digits import BATCH, CALIB_IMAGES, SEED, DigitsResNet, load_split, shifted
from train_digits import train as train_float

import smec
from smec import train


class Loop:
    """What an epoch needs: the loss is that of the labels, of the float network's outputs, and ADMM's penalty."""

    def __init__(
        self, model: nn.Module, admm: train.Admm, teacher: train.Teacher, images: Tensor, labels: Tensor
    ) -> None:
        self.model, self.admm, self.teacher = model, admm, teacher
        self.images, self.labels = images, labels
        self.generator = torch.Generator().manual_seed(SEED)

    def epoch(self, optimizer: torch.optim.Optimizer) -> None:
        for index in torch.randperm(len(self.images), generator=self.generator).split(BATCH):
            batch = shifted(self.images[index], self.generator)
            logits = self.model(batch)
            loss = functional.cross_entropy(logits, self.labels[index]) + self.teacher.loss(logits, batch)
            loss = loss + self.admm.penalty()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sign", default="twos-complement")
    parser.add_argument("--squeeze", type=int, default=6)
    parser.add_argument("--epochs", type=int, default=20, help="of ADMM and then on the set, half each")
    parser.add_argument("--output", type=Path, default=Path("digits_tuned.onnx"))
    arguments = parser.parse_args()
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    train_images, train_labels, test_images, test_labels = load_split()
    images, labels = torch.from_numpy(train_images), torch.from_numpy(train_labels)
    model = DigitsResNet()
    train_float(model, images, labels)

    model.eval()
    teacher = train.Teacher(model)
    admm = train.Admm(model, sign=arguments.sign, squeeze=arguments.squeeze, rho=(0.1, 1.0, 10.0), intervals=1)
    loop = Loop(model, admm, teacher, images, labels)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    while not admm.done:
        for _ in range(max(1, arguments.epochs // 6)):
            loop.epoch(optimizer)
        told = admm.step()
        print(f"rho {told.rho:g}: |W - Z| / |W| {told.primal:.3f}")
    admm.finish()
    optimizer = torch.optim.Adam(admm.groups(1e-3, 0.01))  # anew: there are scales to train now
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.7)
    for _ in range(max(1, arguments.epochs // 2)):
        loop.epoch(optimizer)
        schedule.step()
    train.export_onnx(model, images[:2], arguments.output, input_names=["image"], output_names=["logits"])

    report: dict[str, dict[str, float]] = {}
    program = smec.compile(
        arguments.output,
        calib=train_images[:CALIB_IMAGES],
        pattern="external",
        sign=arguments.sign,
        squeeze=arguments.squeeze,
        shift="fit",
        report=report,
    )
    result = program.simulate({"image": test_images, "labels": np.asarray(test_labels)})
    crossbars, lost = program.metadata["crossbars"], report["squeeze-out"]["squared_error"]
    print(f"top-1 {result.top1:.2f} % of {len(test_labels)} test images, {crossbars} crossbars, squeeze error {lost:g}")


if __name__ == "__main__":
    main()
