"""Small quantized graphs for tests, built by hand rather than through the front end."""

from __future__ import annotations

from typing import Any

import numpy as np

from smec.ir.core import Block, Operation, Region, Value
from smec.ir.dialects import quant
from smec.ir.dialects.builtin import GraphOp, ModuleOp, ReturnOp
from smec.ir.types import Handle, Location, Quantized, TensorType

LEVELS = ("nn", "nn.partitioned", "nn.calibrated", "quant.float", "quant")


class GraphMaker:
    """Builds a graph operation by operation: `g = GraphMaker(rng); x = g.input("x", (1, 3, 8, 8)); ...; g.finish(y)`.

    Scales are chosen so that results neither vanish nor saturate everywhere; zero points are random.
    """

    def __init__(self, rng: np.random.Generator, act_bits: int = 8) -> None:
        self.rng, self.act_bits = rng, act_bits
        self.block = Block()
        self.names: list[str] = []
        self.count = 0

    def where(self, name: str) -> Location:
        return Location("test.onnx", name)

    def levels(self, scale: float | None = None) -> Quantized:
        top = (1 << self.act_bits) - 1
        scale = float(self.rng.uniform(0.5, 2.0)) / top if scale is None else scale
        return Quantized(self.act_bits, scale, int(self.rng.integers(0, top + 1)))

    def input(self, name: str, shape: tuple[int, ...]) -> Value:
        self.names.append(name)
        return self.block.add_arg(TensorType(shape, "f32"), name)

    def emit(self, cls: type[Operation], operands: list[Value], type: TensorType, **attributes: Any) -> Value:
        self.count += 1
        op = cls.create(operands, [type], attributes, location=self.where(f"{cls.name}_{self.count}"))
        op.verify()
        self.block.append(op)
        return op.results[0]

    def quantize(self, x: Value) -> Value:
        return self.emit(quant.Quantize, [x], TensorType(x.type.shape, self.levels(2.0 / (1 << self.act_bits))))

    def _weights(self, shape: tuple[int, ...], low: int, high: int) -> dict[str, Any]:
        w = self.rng.integers(low, high + 1, shape).astype(np.int16)
        m, k = shape[0], int(np.prod(shape[1:]))
        return {
            "name": f"layer{self.count}",
            "weight": Handle(w),
            "weight_scale": Handle(
                (self.rng.uniform(0.5, 1.0, m) * 2 / (max(abs(low), high, 1) * k**0.5)).astype(np.float32)
            ),
            "bias": Handle(self.rng.normal(0, 0.2, m).astype(np.float32)),
        }

    def conv(
        self,
        x: Value,
        outputs: int,
        kernel: tuple[int, int] = (3, 3),
        *,
        strides: tuple[int, int] = (1, 1),
        pads: tuple[int, int, int, int] = (1, 1, 1, 1),
        dilations: tuple[int, int] = (1, 1),
        groups: int = 1,
        low: int = -255,
        high: int = 255,
        real: bool = False,
        **attributes: Any,
    ) -> Value:
        n, c, h, w = x.type.shape
        oh, ow = (
            (e + p + q - (k - 1) * d - 1) // s + 1
            for e, p, q, k, d, s in zip((h, w), pads[:2], pads[2:], kernel, dilations, strides, strict=True)
        )
        element: Any = "f32" if real else self.levels()
        return self.emit(
            quant.Conv,
            [x],
            TensorType((n, outputs, oh, ow), element),
            strides=strides,
            pads=pads,
            dilations=dilations,
            groups=groups,
            **self._weights((outputs, c // groups, *kernel), low, high),
            **attributes,
        )

    def gemm(
        self, x: Value, outputs: int, *, low: int = -255, high: int = 255, real: bool = False, **attributes: Any
    ) -> Value:
        element: Any = "f32" if real else self.levels()
        shape = (*x.type.shape[:-1], outputs)
        return self.emit(
            quant.Gemm,
            [x],
            TensorType(shape, element),
            **self._weights((outputs, x.type.shape[-1]), low, high),
            **attributes,
        )

    def pool(self, cls: type[Operation], x: Value, kernel: tuple[int, int], strides: tuple[int, int],
             pads: tuple[int, int, int, int] = (0, 0, 0, 0), **attributes: Any) -> Value:  # fmt: skip
        n, c, h, w = x.type.shape
        oh = (h + pads[0] + pads[2] - kernel[0]) // strides[0] + 1
        ow = (w + pads[1] + pads[3] - kernel[1]) // strides[1] + 1
        element = x.type.element if cls is quant.MaxPool else self.levels()
        return self.emit(
            cls, [x], TensorType((n, c, oh, ow), element), kernel=kernel, strides=strides, pads=pads, **attributes
        )

    def binary(self, cls: type[Operation], a: Value, b: Value, **attributes: Any) -> Value:
        shape = np.broadcast_shapes(a.type.shape, b.type.shape)
        return self.emit(cls, [a, b], TensorType(shape, self.levels()), **attributes)

    def lut(self, x: Value) -> Value:
        table = self.rng.integers(0, 1 << self.act_bits, 1 << self.act_bits).astype(np.uint16)
        return self.emit(quant.Lut, [x], TensorType(x.type.shape, self.levels()), table=Handle(table))

    def concat(self, values: list[Value], axis: int) -> Value:
        shape = list(values[0].type.shape)
        shape[axis] = sum(v.type.shape[axis] for v in values)
        kind = self.levels()
        same = [
            v if v.type.element == kind else self.emit(quant.Rescale, [v], TensorType(v.type.shape, kind))
            for v in values
        ]
        return self.emit(quant.Concat, same, TensorType(tuple(shape), kind), axis=axis)

    def view(self, cls: type[Operation], x: Value, shape: tuple[int, ...], **attributes: Any) -> Value:
        return self.emit(cls, [x], TensorType(shape, x.type.element), **attributes)

    def dequantize(self, x: Value) -> Value:
        return self.emit(quant.Dequantize, [x], TensorType(x.type.shape, "f32"))

    def finish(self, *outputs: Value) -> ModuleOp:
        self.block.append(ReturnOp.create(list(outputs), location=self.where("return")))
        names = tuple(f"y{i}" for i in range(len(outputs)))
        graph = GraphOp.create(
            attributes={
                "opset": 17,
                "input_names": tuple(self.names),
                "output_names": names,
                "batch": (0,) * len(self.names),
            },
            regions=[Region([self.block])],
            location=self.where("graph"),
        )
        attributes: dict[str, Any] = {"levels": LEVELS}
        return ModuleOp.create(
            attributes=attributes, regions=[Region([Block(ops=[graph])])], location=self.where("module")
        )


def sample(module: ModuleOp, rng: np.random.Generator, images: int = 2) -> dict[str, np.ndarray]:
    """Random inputs with the image axis, float32 in [-1, 1], one array for each graph input."""
    graph = module.graph
    return {
        name: rng.uniform(-1, 1, (images, *arg.type.shape)).astype(np.float32)
        for name, arg in zip(graph.input_names, graph.block.args, strict=True)
    }
