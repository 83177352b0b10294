"""Fine-tune ResNet-20 for CIFAR-10 onto two crossbars a tile, and measure it through the compiled program.

    python examples/finetune_resnet20.py                                     # two's complement, two planes
    python examples/finetune_resnet20.py --sign differential --squeeze 7     # one plane of each sign
    python examples/finetune_resnet20.py --epochs 0                          # the label-free start, to compare

Reads, below the data folder, `models/cifar10_resnet20.onnx` (batch normalisation folded) and
`cifar10/cifar10_subset.npz`: 5,000 images to train on, 2,000 to test on. Test images are used once, in the end.

The network starts at the integers that `--quantizer admm` finds without labels, which are on the set already; training
on the set, straight through, improves on them. The loss is distillation from the float network, in bfloat16; images are
flipped, shifted and mixed. Of the 5,000 images, 500 are held out: the weights that are kept are those whose outputs
on these are nearest to the float network's, those of the start included.

A run that was cut off goes on from `--checkpoint FILE`. Needs `pip install "smec[train]"`.
"""

from __future__ import annotations

import argparse
import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn
from torch.nn import functional

import smec
from smec import train

SEED = 3
BATCH = 125
#: Whether products are of bfloat16 numbers: without AVX-512 torch emulates them, at a twelfth of float32's speed.
SHORT_FLOATS = "AVX512" in torch.backends.cpu.get_cpu_capability()
#: Training images that only choose among epochs.
HELD_OUT = 500
DATA = Path(__file__).resolve().parents[2] / "shared" / "data"

#: Channel statistics of ImageNet (RGB, of values in 0..1), which the network was trained with.
MEAN = np.array([0.485, 0.456, 0.406], dtype=np.float32)
STD = np.array([0.229, 0.224, 0.225], dtype=np.float32)


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut without parameters (option A of He et al., 2016)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.stride = 1 if inputs == outputs else 2
        self.more = (outputs - inputs) // 2
        self.conv1 = nn.Conv2d(inputs, outputs, 3, self.stride, 1)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(functional.relu(self.conv1(x)))
        if self.stride == 2:
            x = functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.more, self.more))
        return functional.relu(y + x)


class ResNet20(nn.Module):
    """Stem, three stages of three blocks (16, 32, 64 channels), global average pool, linear."""

    def __init__(self) -> None:
        super().__init__()
        widths = [(16, 16)] * 3 + [(16, 32), (32, 32), (32, 32)] + [(32, 64), (64, 64), (64, 64)]
        self.stem = nn.Conv2d(3, 16, 3, 1, 1)
        self.blocks = nn.Sequential(*(Block(i, o) for i, o in widths))
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(functional.relu(self.stem(x))).mean((2, 3)))


def from_onnx(path: Path) -> ResNet20:
    """The network with the weights of an ONNX file, whose layers are in the same order."""
    graph = onnx.load(path).graph
    arrays = {t.name: torch.from_numpy(numpy_helper.to_array(t).copy()) for t in graph.initializer}
    nodes = [node for node in graph.node if node.op_type in ("Conv", "Gemm")]
    model = ResNet20()
    layers = [m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    with torch.no_grad():
        for layer, node in zip(layers, nodes, strict=True):
            layer.weight.copy_(arrays[node.input[1]])
            layer.bias.copy_(arrays[node.input[2]])
    return model


@dataclass(frozen=True)
class Images:
    """Normalised images, float32 [n, 3, 32, 32], and labels, int64 [n]."""

    images: Tensor
    labels: Tensor


def load_images(folder: Path, part: str) -> Images:
    with np.load(folder / "cifar10" / "cifar10_subset.npz") as file:
        pixels, labels = file[f"x_{part}"], file[f"y_{part}"].astype(np.int64).ravel()
    scaled = (pixels.astype(np.float32) / np.float32(255) - MEAN) / STD
    return Images(torch.from_numpy(np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))), torch.from_numpy(labels))


def augmented(images: Tensor) -> Tensor:
    """Every image mirrored or not, and moved by up to four pixels in each direction; black comes in at the edges."""
    black = torch.from_numpy(-MEAN / STD).reshape(1, 3, 1, 1)
    padded = functional.pad(images - black, (4, 4, 4, 4)) + black
    moves = torch.randint(0, 9, (len(images), 2)).tolist()
    moved = torch.stack([padded[i, :, y : y + 32, x : x + 32] for i, (y, x) in enumerate(moves)])
    mirror = torch.rand(len(images)) < 0.5
    return torch.where(mirror[:, None, None, None], moved.flip(3), moved)


def blended(images: Tensor) -> Tensor:
    """Every second image mixed with another (mixup, arXiv 1710.09412): 5,000 are few, and the teacher knows all."""
    share = torch.where(torch.rand(len(images)) < 0.5, torch.rand(len(images)), torch.ones(len(images)))
    share = share[:, None, None, None]
    return share * images + (1 - share) * images[torch.randperm(len(images))]


#: What a checkpoint holds, besides the state of random numbers: parts in the order in which they are loaded.
PARTS = ("admm", "model", "optimizer", "schedule")
VALUES = ("epochs", "least", "best")


class Run:
    """One fine-tuning: the model, the teacher, and the best so far."""

    def __init__(self, arguments: argparse.Namespace, data: Images) -> None:
        self.arguments = arguments
        self.images = data.images[:-HELD_OUT]
        self.model = from_onnx(arguments.data / "models" / "cifar10_resnet20.onnx")
        self.teacher = train.Teacher(self.model, temperature=arguments.temperature)
        # As they are and as training sees them: the teacher was trained on these images, and is too sure of them.
        plain = data.images[-HELD_OUT:]
        self.held_out = torch.cat([plain, augmented(plain)])
        self.wanted = self.teacher(self.held_out)
        calib = self.images[: arguments.calibration]
        self.admm = train.Admm(self.model, sign=arguments.sign, squeeze=arguments.squeeze, start=calib)
        self.admm.finish()  # the start is on the set: there is nothing to draw onto it
        self.optimizer = torch.optim.Adam(self.admm.groups(arguments.rate, arguments.relative))
        steps = max(1, arguments.epochs * -(-len(self.images) // BATCH))
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, steps)
        self.epochs = 0
        self.least = self.distance()
        self.best = copy.deepcopy(self.model.state_dict())
        if arguments.checkpoint is not None and arguments.checkpoint.exists():
            self._resume(torch.load(arguments.checkpoint))

    def distance(self) -> float:
        """KL(teacher || student) at temperature 1, the mean over the images held out."""
        with torch.no_grad():
            found = torch.cat([self.model(part) for part in self.held_out.split(BATCH)])
        return float(train.divergence(found, self.wanted))

    def epoch(self) -> float:
        """Once through the images; returns the mean loss."""
        total = 0.0
        for index in torch.randperm(len(self.images)).split(BATCH):
            images = blended(augmented(self.images[index]))
            with torch.autocast("cpu", torch.bfloat16, enabled=SHORT_FLOATS):
                logits = self.model(images).float()
                loss = self.teacher.loss(logits, images)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.schedule.step()
            total += loss.item() * len(index)
        return total / len(self.images)

    def train(self) -> None:
        """Train, and go back to the best."""
        print(f"start: KL {self.least:.4f} on images held out", flush=True)
        while self.epochs < self.arguments.epochs:
            loss = self.epoch()
            self.epochs += 1
            found = self.distance()
            if found < self.least:
                self.least, self.best = found, copy.deepcopy(self.model.state_dict())
            print(f"epoch {self.epochs}: loss {loss:.4f}, KL {found:.4f}, best {self.least:.4f}", flush=True)
            if self.arguments.checkpoint is not None:
                self._save()
        self.model.load_state_dict(self.best)

    def _save(self) -> None:
        state = {name: getattr(self, name).state_dict() for name in PARTS}
        values = {name: getattr(self, name) for name in VALUES}
        torch.save(state | values | {"random": torch.get_rng_state()}, self.arguments.checkpoint)

    def _resume(self, state: dict[str, Any]) -> None:
        for name in PARTS:
            getattr(self, name).load_state_dict(state[name])
        for name in VALUES:
            setattr(self, name, state[name])
        torch.set_rng_state(state["random"])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--sign", default="twos-complement")
    parser.add_argument("--squeeze", type=int, default=6)
    parser.add_argument("--epochs", type=int, default=20, help="0: the label-free start as it is")
    parser.add_argument("--output", type=Path, default=Path("resnet20_tuned.onnx"))
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rate", type=float, default=1e-3, help="of scales and biases")
    parser.add_argument("--relative", type=float, default=0.02, help="rate of weights, as a share of their size")
    parser.add_argument("--temperature", type=float, default=4.0)
    parser.add_argument("--calibration", type=int, default=512, help="images for the label-free start")
    arguments = parser.parse_args()
    torch.manual_seed(SEED)
    torch.set_num_threads(arguments.threads)
    data = load_images(arguments.data, "train")
    run = Run(arguments, data)
    run.train()
    train.export_onnx(run.model, data.images[:2], arguments.output, input_names=["input"], output_names=["logits"])
    calib = run.images[: arguments.calibration].numpy()
    report: dict[str, dict[str, float]] = {}
    program = smec.compile(
        arguments.output,
        calib=calib,
        pattern="external",
        sign=arguments.sign,
        squeeze=arguments.squeeze,
        shift="fit",
        report=report,
    )
    test = load_images(arguments.data, "test")
    result = program.simulate({"input": test.images.numpy(), "labels": test.labels.numpy()})
    crossbars, lost = program.metadata["crossbars"], report["squeeze-out"]["squared_error"]
    print(f"top-1 {result.top1:.2f} % of {len(test.labels)} test images, {crossbars} crossbars, squeeze error {lost:g}")


if __name__ == "__main__":
    main()
