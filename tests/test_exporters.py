"""Files of both of torch's exporters, operator set 13 to the newest; such layers built by hand, without torch."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout
from typing import Any

import numpy as np
import onnx
import onnx_models as models
import pytest
from onnx import helper
from test_frontend import check_same

# -- without torch -----------------------------------------------------------------------------------------------------


def chain(*nodes: onnx.NodeProto, shape: tuple[int, ...], opset: int, **weights: np.ndarray) -> onnx.ModelProto:
    return models.model(nodes, {"x": ["N", *shape]}, [nodes[-1].output[0]], weights, opset=opset)


def conv1d(opset: int) -> onnx.ModelProto:
    return chain(
        helper.make_node("Conv", ["x", "a", "b"], ["c"], pads=[1, 1]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Conv", ["r", "w"], ["y"], strides=[2], dilations=[2]),
        shape=(3, 32),
        opset=opset,
        a=models.normal(0, 6, 3, 3),
        b=models.normal(1, 6),
        w=models.normal(2, 4, 6, 5),
    )


def grouped(opset: int) -> onnx.ModelProto:
    return chain(
        helper.make_node("Conv", ["x", "a"], ["c"], pads=[0, 1, 2, 1], group=2),
        helper.make_node("Conv", ["c", "w"], ["y"], dilations=[2, 1], strides=[1, 2], group=8),
        shape=(4, 12, 12),
        opset=opset,
        a=models.normal(0, 8, 2, 3, 3),
        w=models.normal(1, 8, 1, 3, 3),
    )


def linear3d(opset: int) -> onnx.ModelProto:
    return chain(
        helper.make_node("MatMul", ["x", "a"], ["m"]),
        helper.make_node("Add", ["m", "b"], ["h"]),
        helper.make_node("Softmax", ["h"], ["y"], axis=-1),
        shape=(5, 10),
        opset=opset,
        a=models.normal(0, 10, 7),
        b=models.normal(1, 7),
    )


def hard_swish(opset: int) -> onnx.ModelProto:
    sigmoid = helper.make_node("HardSigmoid", ["g"], ["s"], alpha=1 / 6)
    return chain(
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("GlobalAveragePool", ["c"], ["g"]),
        sigmoid,
        helper.make_node("Mul", ["c", "s"], ["y"]),
        shape=(3, 8, 8),
        opset=opset,
        w=models.normal(0, 4, 3, 3, 3),
    )


def upsample(opset: int) -> onnx.ModelProto:
    return chain(
        helper.make_node("ConvTranspose", ["x", "w"], ["c"], strides=[2, 2], pads=[1, 1, 1, 1], output_padding=[1, 1]),
        helper.make_node("Resize", ["c", "", "scales"], ["y"], mode="nearest"),
        shape=(3, 6, 6),
        opset=opset,
        w=models.normal(0, 3, 4, 3, 3),
        scales=np.array([1, 1, 2, 2], np.float32),
    )


@pytest.mark.parametrize("opset", [13, 17, 18, 21, onnx.defs.onnx_opset_version()])
@pytest.mark.parametrize("build", [conv1d, grouped, linear3d, hard_swish, upsample])
def test_layers_built_by_hand(build: Callable[[int], onnx.ModelProto], opset: int) -> None:
    proto = build(opset)
    shape = [d.dim_value for d in proto.graph.input[0].type.tensor_type.shape.dim[1:]]
    check_same(proto, {"x": models.normal(9, 3, 1, *shape)})


# -- with torch --------------------------------------------------------------------------------------------------------


def torch_models() -> dict[str, Callable[[Any], tuple[Any, tuple[int, ...]]]]:
    """Small networks by name, each a function of the torch module: the network and the shape of an image."""

    def residual(torch: Any) -> tuple[Any, tuple[int, ...]]:
        nn, f = torch.nn, torch.nn.functional

        class Residual(nn.Module):  # type: ignore[misc]  # torch has no types here
            def __init__(self) -> None:
                super().__init__()
                self.a, self.na = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
                self.b, self.nb = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
                self.out = nn.Linear(8, 5)

            def forward(self, x: Any) -> Any:
                x = f.relu(self.na(self.a(x)))
                x = f.max_pool2d(f.relu(x + self.nb(self.b(x))), 2)
                return self.out(f.adaptive_avg_pool2d(x, 1).flatten(1))

        return Residual(), (3, 12, 12)

    def attention(torch: Any) -> tuple[Any, tuple[int, ...]]:
        nn = torch.nn

        class Attention(nn.Module):  # type: ignore[misc]  # see above
            def __init__(self) -> None:
                super().__init__()
                self.norm, self.qkv, self.out = nn.LayerNorm(16), nn.Linear(16, 48), nn.Linear(16, 16)

            def forward(self, x: Any) -> Any:
                b, t, d = x.shape
                q, k, v = self.qkv(self.norm(x)).reshape(b, t, 3, 4, d // 4).permute(2, 0, 3, 1, 4)
                weights = (q @ k.transpose(-1, -2) * 0.5).softmax(-1)
                return x + self.out((weights @ v).transpose(1, 2).reshape(b, t, d))

        return Attention(), (6, 16)

    def squeeze_excite(torch: Any) -> tuple[Any, tuple[int, ...]]:
        nn, f = torch.nn, torch.nn.functional

        class SqueezeExcite(nn.Module):  # type: ignore[misc]  # see above
            def __init__(self) -> None:
                super().__init__()
                self.conv, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
                self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
                self.down, self.up = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)

            def forward(self, x: Any) -> Any:
                x = self.depthwise(f.hardswish(self.norm(self.conv(x))))
                return x * f.hardsigmoid(self.up(f.relu(self.down(f.adaptive_avg_pool2d(x, 1)))))

        return SqueezeExcite(), (3, 10, 10)

    def sequential(layers: Callable[[Any], list[Any]], *shape: int) -> Callable[[Any], tuple[Any, tuple[int, ...]]]:
        return lambda torch: (torch.nn.Sequential(*layers(torch.nn)), shape)

    return {
        "residual": residual,
        "attention": attention,
        "squeeze-excite": squeeze_excite,
        "conv1d": sequential(
            lambda nn: [nn.Conv1d(3, 6, 3, padding=1), nn.BatchNorm1d(6), nn.Conv1d(6, 4, 5, stride=2, dilation=2)],
            3,
            32,
        ),
        "grouped": sequential(
            lambda nn: [nn.Conv2d(4, 8, 3, groups=2), nn.ReLU6(), nn.Conv2d(8, 8, 3, dilation=2, groups=8)], 4, 12, 12
        ),
        "asymmetric": sequential(lambda nn: [nn.ZeroPad2d((0, 1, 2, 3)), nn.Conv2d(3, 4, 4, padding="same")], 3, 9, 9),
        "linear2d": sequential(lambda nn: [nn.Linear(10, 7), nn.GELU(), nn.Linear(7, 3)], 10),
        "linear3d": sequential(lambda nn: [nn.Linear(10, 7), nn.SiLU(), nn.Linear(7, 3, bias=False)], 5, 10),
        "upsample": sequential(
            lambda nn: [
                nn.ConvTranspose2d(3, 4, 3, stride=2, padding=1, output_padding=1),
                nn.Upsample(scale_factor=2),
                nn.Conv2d(4, 2, 3),
                nn.Upsample(size=(21, 21), mode="bilinear"),
            ],
            *(3, 4, 4),
        ),
        "norms": sequential(
            lambda nn: [nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.PReLU(8), nn.InstanceNorm2d(8)], 3, 9, 9
        ),
    }


def export(torch: Any, network: Any, x: Any, opset: int, *, dynamo: bool, symbolic: bool) -> onnx.ModelProto:
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        if not dynamo:
            axes = {"x": {0: "batch"}} if symbolic else None
            file = io.BytesIO()
            torch.onnx.export(
                network, (x[:1],), file, dynamo=False, opset_version=opset, input_names=["x"], dynamic_axes=axes
            )
            return onnx.load_model_from_string(file.getvalue())
        # Two images: an extent of 1 would be taken for a constant.
        shapes = ({0: torch.export.Dim("batch")},) if symbolic else None
        sample = (x[:2],) if symbolic else (x[:1],)
        program = torch.onnx.export(
            network, sample, dynamo=True, opset_version=opset, input_names=["x"], dynamic_shapes=shapes, verbose=False
        )
        proto: onnx.ModelProto = program.model_proto
        return proto


@pytest.mark.parametrize(
    ("dynamo", "opset", "symbolic"),
    [(False, 13, True), (False, 20, False), (True, 18, True), (True, 21, False), (True, 24, True)],
    ids=["script-13", "script-20-fixed", "dynamo-18", "dynamo-21-fixed", "dynamo-24"],
)
@pytest.mark.parametrize("name", torch_models())
def test_torch_exports(name: str, dynamo: bool, opset: int, symbolic: bool) -> None:
    torch = pytest.importorskip("torch")
    if dynamo:
        pytest.importorskip("onnxscript")
    logging.disable(logging.CRITICAL)
    try:
        torch.manual_seed(0)
        network, shape = torch_models()[name](torch)
        network.eval()
        for module in network.modules():
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
                torch.nn.init.normal_(module.running_mean)
                torch.nn.init.uniform_(module.running_var, 0.5, 2)
                torch.nn.init.normal_(module.weight)
        x = models.normal(5, 3, 1, *shape)
        proto = export(torch, network, torch.from_numpy(x[:, 0]), opset, dynamo=dynamo, symbolic=symbolic)
    finally:
        logging.disable(logging.NOTSET)
    module = check_same(proto, {"x": x})
    assert all(r.type.is_static for op in module.graph.ops for r in op.results)
    assert not any(op.name == "nn.BatchNormalization" for op in module.graph.ops)
