"""Train the demo network: a small residual CNN on scikit-learn's bundled digits, exported to ONNX.

Writes, beside this file (or into the folder given as the first argument):

    digits_resnet.onnx   the float network: `image`, float32 [N, 1, 8, 8], values 0..1, to `logits`, float32 [N, 10]
    digits_calib.npz     `image`: 256 training images, for calibration
    digits_test.npz      `image` and `labels` (int64): 360 images that training has not seen

Needs `pip install "smec[train]"`; well under a minute on one core. Seeded: the same torch release on the same machine
gives the same network.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

SEED = 7
TEST_IMAGES = 360
CALIB_IMAGES = 256
EPOCHS = 40
BATCH = 64
CLASSES = 10


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut, which is a strided 1x1 projection where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        branch = functional.relu(self.norm1(self.conv1(x)))
        return functional.relu(self.norm2(self.conv2(branch)) + self.shortcut(x))


class DigitsResNet(nn.Module):
    """Stem, three residual stages (two of them with stride 2), global average pool, linear: 77,000 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.stages = nn.Sequential(Block(16, 16, 1), Block(16, 32, 2), Block(32, 64, 2))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(64, CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(torch.flatten(self.pool(self.stages(self.stem(image))), 1))


def load_split() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Training images (float32 [n, 1, 8, 8], 0..1) and labels (int64 [n]), then the test ones."""
    digits = load_digits()
    order = np.random.default_rng(SEED).permutation(len(digits.target))
    images = (digits.images[order, None] / 16).astype(np.float32)
    labels = digits.target[order].astype(np.int64)
    return images[TEST_IMAGES:], labels[TEST_IMAGES:], images[:TEST_IMAGES], labels[:TEST_IMAGES]


def shifted(images: Tensor, generator: torch.Generator) -> Tensor:
    """Every image moved by up to one pixel in each direction: the only augmentation, for 1,437 images are few."""
    padded = functional.pad(images, (1, 1, 1, 1))
    moves = torch.randint(0, 3, (len(images), 2), generator=generator).tolist()
    return torch.stack([padded[i, :, y : y + 8, x : x + 8] for i, (y, x) in enumerate(moves)])


def train(model: nn.Module, images: Tensor, labels: Tensor) -> None:
    generator = torch.Generator().manual_seed(SEED)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    steps = EPOCHS * (len(images) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=steps)
    model.train()
    for epoch in range(EPOCHS):
        order = torch.randperm(len(images), generator=generator)
        total = 0.0
        for index in order[: len(images) // BATCH * BATCH].split(BATCH):
            optimizer.zero_grad()
            loss = functional.cross_entropy(model(shifted(images[index], generator)), labels[index])
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item() * len(index)
        if (epoch + 1) % 10 == 0:
            print(f"epoch {epoch + 1}: loss {total / len(images):.4f}")
    model.eval()


def export(model: nn.Module, image: Tensor, path: Path) -> None:
    """Write the network with a symbolic batch dimension, without the exporter's notes on where each node came from."""
    batch = torch.export.Dim("N")
    torch.onnx.export(
        model,
        (image,),
        path,
        input_names=["image"],
        output_names=["logits"],
        dynamic_shapes=({0: batch},),
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    proto = onnx.load(path)
    # Stack traces name files of the machine that trained the network.
    for entry in (
        proto,
        proto.graph,
        *proto.graph.node,
        *proto.graph.value_info,
        *proto.graph.input,
        *proto.graph.output,
    ):
        del entry.metadata_props[:]
    onnx.checker.check_model(proto, full_check=True)
    onnx.save(proto, path)


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    train_images, train_labels, test_images, test_labels = load_split()
    model = DigitsResNet()
    train(model, torch.from_numpy(train_images), torch.from_numpy(train_labels))
    with torch.no_grad():
        predicted = model(torch.from_numpy(test_images)).argmax(1).numpy()
    print(f"test accuracy {100 * np.mean(predicted == test_labels):.2f} % of {TEST_IMAGES} images")
    export(model, torch.from_numpy(test_images[:2]), folder / "digits_resnet.onnx")
    np.savez_compressed(folder / "digits_calib.npz", image=train_images[:CALIB_IMAGES])
    np.savez_compressed(folder / "digits_test.npz", image=test_images, labels=test_labels)


if __name__ == "__main__":
    main()
