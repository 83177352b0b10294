"""Layers, targets and strategies that the tests of the mapping passes share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st

from smec.ir.core import Block, Region, Value
from smec.ir.dialects.builtin import GraphOp, ModuleOp, ReturnOp
from smec.ir.dialects.quant import Conv, Gemm, WeightedOp
from smec.ir.dialects.xbar import MvmOp
from smec.ir.types import Handle, Location, Quantized, TensorType
from smec.passes.base import Pass, PassContext
from smec.passes.mapping.coding import weight_range
from smec.passes.mapping.layers import crossbar_layers

HERE = Location("test.onnx", "layer")
LEVELS = Quantized(8, 0.5, 3)
SIGNS = ("differential", "offset", "twos-complement")


@dataclass
class Target:
    """The fields of a hardware description that mapping reads."""

    rows: int = 128
    columns: int = 128
    cell_bits: int = 1
    dac_bits: int = 1
    adc_bits: int = 8
    concurrent_rows: int = 128
    crossbars_per_core: int = 96


@dataclass
class Layer:
    """A layer before mapping: integers [M, C_in / g, kh, kw] or [M, K], and how they are coded."""

    weight: np.ndarray
    sign: str = "differential"
    bits: int = 8
    groups: int = 1
    scale: np.ndarray | None = None
    squeeze: int = 0
    sign_rows: int = 8


def module_of(*layers: Layer) -> ModuleOp:
    """A module whose graph has these layers, each on an input of its own."""
    block = Block()
    results: list[Value] = []
    for i, layer in enumerate(layers):
        op = _layer_op(layer, block, f"layer{i}")
        block.append(op)
        results.append(op.results[0])
    block.append(ReturnOp.create(results, location=HERE))
    names = tuple(f"x{i}" for i in range(len(layers)))
    attributes = {"opset": 17, "input_names": names, "output_names": names}
    graph = GraphOp.create([], [], attributes, [_region(block)], location=HERE)
    return ModuleOp.create([], [], {}, [_region(Block([], [graph]))], location=HERE)


def _region(block: Block) -> Region:
    region = Region()
    region.append(block)
    return region


def _layer_op(layer: Layer, block: Block, name: str) -> WeightedOp:
    w = layer.weight.astype(np.int16)
    m = w.shape[0]
    scale = np.ones(1, np.float32) if layer.scale is None else layer.scale.astype(np.float32)
    attributes = {
        "name": name,
        "weight": Handle(w),
        "weight_scale": Handle(scale),
        "bias": Handle(np.zeros(m, np.float32)),
        "bits": layer.bits,
        "sign": layer.sign,
        "squeeze": layer.squeeze,
        "sign_rows": layer.sign_rows,
    }
    if w.ndim == 2:
        x = block.add_arg(TensorType((1, w.shape[1]), LEVELS))
        return Gemm.create([x], [TensorType((1, m))], attributes, location=HERE)
    x = block.add_arg(TensorType((1, w.shape[1] * layer.groups, *w.shape[2:]), LEVELS))
    result = TensorType((1, m, 1, 1))
    return Conv.create([x], [result], {**attributes, "groups": layer.groups}, location=HERE)


def run(module: ModuleOp, target: Target, *passes: Pass, act_bits: int = 8) -> PassContext:
    """Run the passes; returns their context."""
    context = PassContext(target=target, act_bits=act_bits)
    for p in passes:
        p.run(module, context)
    return context


def only_layer(module: ModuleOp) -> MvmOp:
    """The module's one crossbar layer."""
    (op,) = crossbar_layers(module)
    return op


def assert_maps(op: MvmOp) -> None:
    """The tiles hold exactly the oracle's weights, each once, and nothing where rows or columns are unused."""
    assert np.array_equal(op.mapped_matrix(), op.matrix())
    rows, cols, codes = op.rows.array, op.cols.array, op.codes.array
    assert rows.dtype == cols.dtype == np.int32
    assert codes.dtype == np.int16
    assert op.shifts.array.dtype == np.uint8
    height, width = op.geometry
    assert rows.shape == op.shifts.shape == (len(codes), height)
    assert cols.shape == (len(codes), width)
    unused = (rows < 0)[:, :, None] | (cols < 0)[:, None, :]
    assert not codes[np.broadcast_to(unused, codes.shape)].any()
    assert not op.shifts.array[rows < 0].any()
    for index in (rows, cols):
        for tile in index:
            assert len(np.unique(tile[tile >= 0])) == (tile >= 0).sum()


@st.composite
def layers(draw: st.DrawFn, sign: str | None = None) -> Layer:
    """Layers of all kinds, small but of sizes on both sides of a tile's edge (see `targets`)."""
    sign = draw(st.sampled_from(SIGNS)) if sign is None else sign
    bits = draw(st.integers(2 if sign == "differential" else 3, 10))
    groups = 1
    if draw(st.booleans()):
        shape: tuple[int, ...] = (draw(st.integers(1, 19)), draw(st.integers(1, 35)))
    else:
        groups = draw(st.sampled_from([1, 1, 2, 3, 9]))
        kernel = draw(st.sampled_from([(1, 1), (3, 3), (1, 5), (2, 1)]))
        depth, outputs = draw(st.integers(1, 4 if groups > 1 else 7)), draw(st.integers(1, 4 if groups > 1 else 19))
        shape = (groups * outputs, depth, *kernel)
    low, high = weight_range(sign, bits)
    kind = draw(st.sampled_from(["any", "gauss", "sparse", "zero", "most", "least", "holes"]))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    w = random.integers(low, high + 1, shape)
    if kind == "gauss":
        w = np.clip(np.rint(random.normal(0, high / 4, shape)), low, high)
    elif kind == "sparse":
        w = np.where(random.random(shape) < 0.1, w, 0)
    elif kind == "holes":
        w = w * (random.random(shape[0]) < 0.5).reshape(-1, *[1] * (len(shape) - 1)) * (random.random(shape[1:]) < 0.5)
    elif kind != "any":
        w = np.full(shape, {"zero": 0, "most": high, "least": low}[kind])
    scale = random.uniform(0.5, 2, shape[0]) if draw(st.booleans()) else None
    return Layer(w.astype(np.int16), sign, bits, groups, scale)


@st.composite
def targets(draw: st.DrawFn) -> Target:
    """Targets with small crossbars and every kind of cell and converter."""
    rows, columns = draw(st.sampled_from([(8, 8), (16, 8), (9, 5), (6, 17), (32, 16)]))
    return Target(
        rows=rows,
        columns=columns,
        cell_bits=draw(st.sampled_from([1, 1, 2, 3, 4])),
        dac_bits=draw(st.sampled_from([1, 1, 2, 4])),
        adc_bits=draw(st.integers(8, 10)),
        concurrent_rows=draw(st.integers(1, rows)),
        crossbars_per_core=draw(st.integers(20, 50)),
    )
