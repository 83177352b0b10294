"""Full-size networks with random weights, to measure a compiler with: ResNet-50, MobileNet-v2, ResNet-20 as ONNX files.

    python benchmarks/topologies.py resnet50 -o resnet50.onnx

Weights are Gaussian (He et al. 2015: standard deviation sqrt(2 / fan-in)) and seeded: the same name and seed give the
same bytes. Batch norm stays a node of its own, so that folding it is part of what is measured. Its statistics are those
of activations whose pixels and channels are independent, disturbed by a random factor as training leaves them: standard
deviations stay between 0.3 and 7 at any depth, and the logits depend on the image.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 17
IR_VERSION = 8  # the one that belongs to opset 17


# Values drawn for each channel of an activation, to estimate its mean and variance from.
SAMPLES = 256


class Network:
    """Nodes and initializers of a graph that is written in order; methods take and return names of tensors."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        # What the channels of a tensor look like: [channels, SAMPLES]. Images are taken as normalised.
        self.samples = {"image": self.random.normal(size=(3, SAMPLES))}

    def node(self, op: str, *inputs: str, **attributes: object) -> str:
        output = f"{op.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [output], name=f"{op}_{len(self.nodes)}", **attributes))
        return output

    def weight(self, array: np.ndarray) -> str:
        name = f"w_{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(array.astype(np.float32), name))
        return name

    def integers(self, values: Sequence[int]) -> str:
        name = f"i_{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.array(values, dtype=np.int64), name))
        return name

    def conv(
        self, x: str, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, gain: float = 1.0
    ) -> str:
        """Convolution without bias, then batch norm whose output has a standard deviation of about `gain`."""
        depth = inputs // groups
        values = self.random.normal(0.0, np.sqrt(2.0 / (depth * kernel**2)), (outputs, depth, kernel, kernel))
        y = self.node(
            "Conv",
            x,
            self.weight(values),
            kernel_shape=[kernel] * 2,
            strides=[stride] * 2,
            pads=[kernel // 2] * 4,
            group=groups,
        )
        # Mean and variance of the inputs that each output channel sees: [outputs, depth].
        seen = (self.samples[x].mean(axis=1), self.samples[x].var(axis=1))
        mean, variance = (np.repeat(m.reshape(groups, depth), outputs // groups, axis=0) for m in seen)
        mean = np.einsum("okyx,ok->o", values, mean)
        variance = np.einsum("okyx,ok->o", values**2, variance)
        scale = gain * self.random.uniform(0.8, 1.2, outputs)
        offset = gain * self.random.normal(0.0, 0.2, outputs)
        statistics = (mean, variance * self.random.uniform(0.8, 1.25, outputs))
        parameters = [self.weight(values) for values in (scale, offset, *statistics)]
        normed = self.node("BatchNormalization", y, *parameters, epsilon=1e-5)
        self.samples[normed] = self.random.normal(offset, scale, (SAMPLES, outputs)).T
        return normed

    def relu(self, x: str) -> str:
        y = self.node("Relu", x)
        self.samples[y] = np.maximum(self.samples[x], 0)
        return y

    def relu6(self, x: str) -> str:
        y = self.node("Clip", x, self.weight(np.array(0.0)), self.weight(np.array(6.0)))
        self.samples[y] = np.clip(self.samples[x], 0, 6)
        return y

    def max_pool(self, x: str) -> str:
        """3x3 with stride 2."""
        y = self.node("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
        self.samples[y] = np.max([np.roll(self.samples[x], shift, axis=1) for shift in range(9)], axis=0)
        return y

    def add(self, x: str, y: str) -> str:
        z = self.node("Add", x, y)
        self.samples[z] = self.samples[x] + self.samples[y]
        return z

    def halve(self, x: str, extra: int) -> str:
        """Every second pixel of x, with `extra` channels of zeros, half of them in front."""
        last = np.iinfo(np.int64).max
        bounds = [self.integers(values) for values in ((0, 0), (last, last), (2, 3), (2, 2))]
        pads = self.integers((0, extra // 2, 0, 0, 0, extra // 2, 0, 0))
        y = self.node("Pad", self.node("Slice", x, *bounds), pads)
        self.samples[y] = np.pad(self.samples[x], ((extra // 2, extra // 2), (0, 0)))
        return y

    def classify(self, x: str, inputs: int, classes: int) -> None:
        """Global average pool, then a linear layer, which writes the graph's output `logits`."""
        flat = self.node("Flatten", self.node("GlobalAveragePool", x), axis=1)
        weight = self.weight(self.random.normal(0.0, np.sqrt(2.0 / inputs), (classes, inputs)))
        bias = self.weight(self.random.normal(0.0, 0.1, classes))
        self.nodes.append(helper.make_node("Gemm", [flat, weight, bias], ["logits"], name="Gemm_head", transB=1))

    def model(self, name: str, size: int, classes: int) -> onnx.ModelProto:
        """The finished model: `image` float32 [N, 3, size, size] to `logits` float32 [N, classes]."""
        image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, size, size])
        logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", classes])
        graph = helper.make_graph(self.nodes, name, [image], [logits], self.weights)
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="topologies"
        )
        onnx.checker.check_model(model, full_check=True)
        return model


def resnet50(seed: int = 0) -> onnx.ModelProto:
    """ResNet-50 (He et al. 2016; stride in the 3x3 convolution): 224 x 224, 1000 classes, 25.6 M parameters."""
    net = Network(seed)
    x = net.relu(net.conv("image", 3, 64, 7, stride=2))
    x = net.max_pool(x)
    channels = 64
    for stage, (width, blocks) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3))):
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            branch = net.relu(net.conv(x, channels, width, 1))
            branch = net.relu(net.conv(branch, width, width, 3, stride=stride))
            # A branch that adds little to the shortcut keeps the sum of many blocks in range.
            branch = net.conv(branch, width, 4 * width, 1, gain=0.3)
            shortcut = x if block else net.conv(x, channels, 4 * width, 1, stride=stride)
            x = net.relu(net.add(branch, shortcut))
            channels = 4 * width
    net.classify(x, channels, 1000)
    return net.model("resnet50", 224, 1000)


def mobilenet_v2(seed: int = 0) -> onnx.ModelProto:
    """MobileNet-v2 1.0 (Sandler et al. 2018, Table 2): 224 x 224, 1000 classes, 3.5 M parameters."""
    net = Network(seed)
    x = net.relu6(net.conv("image", 3, 32, 3, stride=2))
    channels = 32
    for expansion, width, blocks, first_stride in (
        (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
    ):  # fmt: skip
        for block in range(blocks):
            stride = 1 if block else first_stride
            hidden = channels * expansion
            branch = x if expansion == 1 else net.relu6(net.conv(x, channels, hidden, 1))
            branch = net.relu6(net.conv(branch, hidden, hidden, 3, stride=stride, groups=hidden))
            residual = stride == 1 and channels == width
            branch = net.conv(branch, hidden, width, 1, gain=0.3 if residual else 1.0)
            x = net.add(x, branch) if residual else branch
            channels = width
    x = net.relu6(net.conv(x, channels, 1280, 1))
    net.classify(x, 1280, 1000)
    return net.model("mobilenet_v2", 224, 1000)


def resnet20(seed: int = 0) -> onnx.ModelProto:
    """ResNet-20 for CIFAR-10 (He et al. 2016, 4.2): 32 x 32, 10 classes, 0.27 M parameters.

    The paper's shortcut without parameters: every second pixel, new channels filled with zeros.
    """
    net = Network(seed)
    x = net.relu(net.conv("image", 3, 16, 3))
    channels = 16
    for width in (16, 32, 64):
        for _ in range(3):
            stride = 2 if width != channels else 1
            branch = net.relu(net.conv(x, channels, width, 3, stride=stride))
            branch = net.conv(branch, width, width, 3, gain=0.5)
            shortcut = x if stride == 1 else net.halve(x, width - channels)
            x = net.relu(net.add(branch, shortcut))
            channels = width
    net.classify(x, channels, 10)
    return net.model("resnet20", 32, 10)


TOPOLOGIES: dict[str, Callable[[int], onnx.ModelProto]] = {
    "resnet50": resnet50,
    "mobilenet_v2": mobilenet_v2,
    "resnet20": resnet20,
}


def model_file(name: str, folder: Path) -> Path:
    """The ONNX file of a topology, written into `folder` unless it is there; any other name is that of a file."""
    if name not in TOPOLOGIES:
        return Path(name)
    path = folder / f"{name}.onnx"
    if not path.exists():
        onnx.save(TOPOLOGIES[name](0), path)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a network with random weights as an ONNX file.")
    parser.add_argument("name", choices=TOPOLOGIES)
    parser.add_argument("-o", "--output", type=Path, required=True, help="the ONNX file to write")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    model = TOPOLOGIES[arguments.name](arguments.seed)
    onnx.save(model, arguments.output)
    parameters = sum(int(np.prod(tensor.dims)) for tensor in model.graph.initializer)
    print(f"{arguments.output}: {len(model.graph.node)} nodes, {parameters / 1e6:.2f} M parameters")


if __name__ == "__main__":
    main()
