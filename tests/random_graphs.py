"""Random small networks of rank 4: layers, vector operations, data movement and host operations in any order."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import helper
from onnx_models import model

Shape = tuple[int, int, int, int]

#: What `RandomGraph.step` chooses from; layers are as frequent as in real networks.
KINDS = (
    *("conv",) * 5, *("join",) * 3, *("concat",) * 2, "relu", "clip", "function", "gate", "scalar", "channels",
    "max_pool", "avg_pool", "squeeze", "transpose", "softmax", "split", "pad", "slice", "prelu", "normalise",
)  # fmt: skip
FUNCTIONS = ("Sigmoid", "Tanh", "HardSwish", "LeakyRelu", "Elu", "Softplus")


class RandomGraph:
    """Grows a graph from one input x, [1, 4, 8, 8]; operations prefer recent values, and any value may be reused."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, np.ndarray] = {}
        self.values: list[tuple[str, Shape]] = [("x", (1, 4, 8, 8))]

    def model(self) -> onnx.ModelProto:
        """A model with the last value and some others as outputs."""
        for _ in range(int(self.rng.integers(3, 16))):
            recent = self.values[-5:]
            source, shape = recent[int(self.rng.integers(len(recent)))]
            self.step(str(self.rng.choice(KINDS)), source, shape)
        made = [name for name, _ in self.values[1:]]
        if not made:
            made = [self.add("Relu", ["x"], self.values[0][1])]
        outputs = [name for name in made[:-1] if self.rng.random() < 0.15] + made[-1:]
        return model(self.nodes, {"x": (1, 4, 8, 8)}, outputs, self.weights)

    def add(self, op_type: str, inputs: list[str], shape: Shape, **attributes: Any) -> str:
        name = f"t{len(self.values)}"
        self.nodes.append(helper.make_node(op_type, inputs, [name], **attributes))
        self.values.append((name, shape))
        return name

    def constant(self, array: Any) -> str:
        name = f"c{len(self.weights)}"
        array = np.asarray(array)
        self.weights[name] = array.astype(np.float32) if array.dtype.kind == "f" else array.astype(np.int64)
        return name

    def step(self, kind: str, x: str, shape: Shape) -> None:
        """Add one operation of a kind, unless it does not fit the shape."""
        n, c, h, w = shape
        normal = self.rng.standard_normal
        if kind == "conv":
            self.conv(x, shape)
        elif kind == "join":
            others = [name for name, s in self.values if s == shape]
            self.add(str(self.rng.choice(["Add", "Mul"])), [x, str(self.rng.choice(others))], shape)
        elif kind == "concat":
            other, (_, more, *_) = self.pick(lambda s: s[2:] == shape[2:])
            if c + more <= 16:
                self.add("Concat", [x, other], (n, c + more, h, w), axis=1)
        elif kind == "relu":
            self.add("Relu", [x], shape)
        elif kind == "clip":
            self.add("Clip", [x, self.constant(-0.5), self.constant(1.5)], shape)
        elif kind == "function":
            self.add(str(self.rng.choice(FUNCTIONS)), [x], shape)
        elif kind == "gate":
            self.add("Mul", [x, self.add("Sigmoid", [x], shape)], shape)
        elif kind == "scalar":
            self.add(str(self.rng.choice(["Add", "Mul"])), [x, self.constant(2.0 + normal())], shape)
        elif kind == "channels":
            self.add(str(self.rng.choice(["Add", "Mul", "Sub"])), [x, self.constant(normal((c, 1, 1)))], shape)
        elif kind == "max_pool" and min(h, w) >= 2:
            self.add("MaxPool", [x], (n, c, h // 2, w // 2), kernel_shape=[2, 2], strides=[2, 2])
        elif kind == "avg_pool":
            self.add("AveragePool", [x], shape, kernel_shape=[3, 3], pads=[1] * 4)
        elif kind == "squeeze":
            self.add("Mul", [x, self.add("GlobalAveragePool", [x], (n, c, 1, 1))], shape)
        elif kind == "transpose":
            self.add("Transpose", [x], (n, c, w, h), perm=[0, 1, 3, 2])
        elif kind == "softmax":
            self.add("Softmax", [x], shape, axis=1)
        elif kind == "split" and c % 2 == 0:
            names = [f"t{len(self.values)}", f"t{len(self.values) + 1}"]
            self.nodes.append(helper.make_node("Split", [x], names, axis=1))
            self.values += [(name, (n, c // 2, h, w)) for name in names]
        elif kind == "pad":
            pads = self.constant([0, 0, 1, 0, 0, 0, 0, 1])
            self.add("Pad", [x, pads, self.constant(float(self.rng.choice([0, 0.7])))], (n, c, h + 1, w + 1))
        elif kind == "slice" and h > 2:
            limits = [self.constant(v) for v in ([1, 0], [h, w], [2, 3], [1, 2])]
            self.add("Slice", [x, *limits], (n, c, h - 1, (w + 1) // 2))
        elif kind == "prelu":
            self.add("PRelu", [x, self.constant(normal((c, 1, 1)) * 0.3)], shape)
        elif kind == "normalise":
            statistics = [self.constant(np.abs(normal(c)) + 0.3) for _ in range(4)]
            self.add("BatchNormalization", [x, *statistics], shape)

    def pick(self, fits: Any) -> tuple[str, Shape]:
        found = [v for v in self.values if fits(v[1])]
        return found[int(self.rng.integers(len(found)))]

    def conv(self, x: str, shape: Shape) -> None:
        n, c, h, w = shape
        groups, kernel = int(self.rng.choice([1, c])), int(self.rng.choice([1, 3]))
        outputs = c if groups > 1 else int(self.rng.integers(2, 7))
        stride = int(self.rng.choice([1, 2])) if min(h, w) > 2 else 1
        fan_in = c // groups * kernel**2
        inputs = [x, self.constant(self.rng.standard_normal((outputs, c // groups, kernel, kernel)) / fan_in**0.5)]
        if self.rng.random() < 0.5:
            inputs.append(self.constant(self.rng.standard_normal(outputs) * 0.3))
        size = [(extent + kernel // 2 * 2 - kernel) // stride + 1 for extent in (h, w)]
        attributes = {"group": groups, "pads": [kernel // 2] * 4, "strides": [stride] * 2}
        self.add("Conv", inputs, (n, outputs, size[0], size[1]), **attributes)
