"""Emission: the instructions of a graph compute what the graph's interpretation does, bit for bit.

The oracle on one side is the IR interpretation of the quantized graph, on the other the reference machine, which runs
the emitted program digit by digit.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphs import GraphMaker, sample
from programs import lower
from smec.ir.core import Value
from smec.ir.dialects import quant
from smec.ir.errors import SmecError
from smec.ir.interpreter import interpret
from smec.ir.isa_machine import run_machine
from smec.ir.isa_table import decode
from smec.passes.emission.layout import Layout, reshape_strides, row_major
from smec.passes.pipeline import parse_pipeline

MAPPING = "tile,slice-bits,group-rows,assign-cores,emit"


def check(maker: GraphMaker, *outputs: Value, pipeline: str = MAPPING, **target: Any) -> Any:
    """Lower the graph and compare the reference machine with the interpretation; returns the program."""
    module = maker.finish(*outputs)
    inputs = sample(module, maker.rng)
    expected = interpret(module, inputs)
    program = lower(module, pipeline, act_bits=maker.act_bits, **target)
    machine = run_machine(program, inputs)
    found = machine.outputs()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)
    return program


def maker(seed: int = 0, act_bits: int = 8) -> GraphMaker:
    return GraphMaker(np.random.default_rng(seed), act_bits)


CONVOLUTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "stride": {"strides": (2, 2)},
    "asymmetric": {"pads": (0, 1, 2, 3), "strides": (2, 1)},
    "dilated": {"dilations": (2, 1), "pads": (2, 1, 2, 1)},
    "pointwise": {"kernel": (1, 1), "pads": (0, 0, 0, 0)},
    "grouped": {"groups": 2, "outputs": 6},
    "depthwise": {"groups": 6, "outputs": 6, "strides": (2, 2)},
    "multiplier": {"groups": 6, "outputs": 12},
    "relu": {"clamp_min": 0.0},
    "relu6": {"clamp_min": 0.0, "clamp_max": 0.4},
    "whole": {"kernel": (5, 5), "pads": (0, 0, 0, 0)},
    "unused pad": {"kernel": (2, 2), "strides": (3, 3), "pads": (0, 0, 1, 1)},
}


@pytest.mark.parametrize("case", CONVOLUTIONS)
@pytest.mark.parametrize("sign", ["differential", "twos-complement", "offset"])
def test_convolution(case: str, sign: str) -> None:
    g = maker(1)
    x = g.quantize(g.input("x", (1, 6, 5, 5)))
    options = {"outputs": 7, "sign": sign, **CONVOLUTIONS[case]}
    if sign != "differential":
        options |= {"low": -128, "high": 127}
    y = g.conv(x, options.pop("outputs"), **options)
    check(g, g.dequantize(y), rows=16, columns=16)


@pytest.mark.parametrize("act_bits", [1, 4, 8, 12, 16])
def test_activation_widths(act_bits: int) -> None:
    g = maker(2, act_bits)
    x = g.quantize(g.input("x", (1, 3, 6, 6)))
    y = g.conv(x, 5)
    check(g, g.conv(y, 4, real=True), rows=16, columns=16)


def test_residual_network_over_many_cores() -> None:
    """Padding of two levels, pooling, a shortcut, and a layer whose tiles need several cores."""
    g = maker(3)
    x = g.quantize(g.input("x", (1, 4, 8, 8)))
    a = g.conv(x, 20, clamp_min=0.0)
    p = g.pool(quant.MaxPool, a, (3, 3), (2, 2), (1, 1, 0, 0))
    b = g.conv(p, 20)
    s = g.binary(quant.Add, p, b, clamp_min=0.0)
    m = g.pool(quant.AvgPool, s, (3, 3), (1, 1), (1, 1, 1, 1))
    n = g.pool(quant.AvgPool, m, (4, 4), (1, 1), count_include_pad=True)
    flat = g.view(quant.Reshape, n, (1, 20))
    program = check(g, g.gemm(flat, 10, real=True, clamp_max=0.5), rows=16, columns=16, crossbars_per_core=48)
    assert len(program.sections["core_table"]) > 2
    assert {d.mnemonic for d in decode(program.sections["code"])} >= {
        "send",
        "recv",
        "accadd",
        "fill",
        "maxpool",
        "avgpool",
    }


def test_flatten_is_an_address_list() -> None:
    """Channels-last activations reach a matrix product in ONNX's order through row addresses, without a gather."""
    g = maker(4)
    x = g.quantize(g.input("x", (1, 3, 6, 6)))
    y = g.conv(x, 5)
    flat = g.view(quant.Reshape, y, (1, 180))
    program = check(g, g.gemm(flat, 9, real=True), rows=32, columns=16)
    assert "gather" not in {d.mnemonic for d in decode(program.sections["code"])}


def test_scattered_value_is_gathered_for_others() -> None:
    g = maker(5)
    x = g.quantize(g.input("x", (1, 4, 3, 3)))
    y = g.conv(x, 4)
    flat = g.view(quant.Reshape, y, (2, 18))
    program = check(g, g.gemm(flat, 5, real=True), g.dequantize(g.lut(flat)), rows=16, columns=16)
    assert "gather" in {d.mnemonic for d in decode(program.sections["code"])}


def test_movement_and_elementwise() -> None:
    """Channel shuffle, slices with steps, explicit padding, broadcasting products, tables, joins."""
    g = maker(6)
    x = g.quantize(g.input("x", (1, 6, 4, 4)))
    y = g.conv(x, 6)
    parts = g.view(quant.Reshape, y, (1, 2, 3, 4, 4))
    mixed = g.view(quant.Transpose, parts, (1, 3, 2, 4, 4), perm=(0, 2, 1, 3, 4))
    shuffled = g.view(quant.Reshape, mixed, (1, 6, 4, 4))
    cut = g.view(quant.Slice, shuffled, (1, 3, 2, 4), starts=(0, 5, 1, 0), steps=(1, -2, 2, 1))
    wide = g.view(quant.Pad, cut, (1, 3, 4, 4), pads=(0, 0, 1, 0, 0, 0, 1, 0), value=9)
    gate = g.pool(quant.AvgPool, shuffled, (4, 4), (1, 1))
    scaled = g.binary(quant.Mul, shuffled, gate)
    joined = g.concat([scaled, wide, g.lut(x)], axis=1)
    z = g.conv(joined, 5, (3, 3))
    check(g, g.dequantize(z), g.dequantize(joined), g.dequantize(cut), rows=32, columns=16)


def test_sequence_product() -> None:
    """A matrix product over the last axis of a rank-3 value, and a 1-D convolution seen as 2-D."""
    g = maker(7)
    x = g.quantize(g.input("x", (1, 5, 20)))
    y = g.gemm(x, 12)
    turned = g.view(quant.Transpose, y, (1, 12, 5), perm=(0, 2, 1))
    image = g.view(quant.Reshape, turned, (1, 12, 1, 5))
    z = g.conv(image, 6, (1, 3), pads=(0, 1, 0, 1))
    line = g.view(quant.Reshape, z, (1, 6, 5))
    check(g, g.dequantize(line), rows=16, columns=16)


def test_layer_of_zeros_needs_no_crossbar() -> None:
    g = maker(8)
    x = g.quantize(g.input("x", (1, 3, 4, 4)))
    y = g.conv(x, 4, low=0, high=0)
    program = check(g, g.conv(y, 3, real=True), rows=16, columns=16)
    assert program.metadata["layers"][0]["blocks"] == 0


def test_batch_of_fixed_extent() -> None:
    g = maker(9)
    x = g.quantize(g.input("x", (2, 3, 5, 5)))
    y = g.pool(quant.AvgPool, g.conv(x, 4), (2, 2), (2, 2))
    module_inputs = g.dequantize(y)
    check(g, module_inputs, rows=16, columns=16)


@given(st.integers(0, 10_000), st.sampled_from([1, 2, 4]), st.sampled_from([1, 2]))
def test_random_layers(seed: int, cell_bits: int, dac_bits: int) -> None:
    """Random geometry, cell and DAC bits; the ADC is wide enough for every group."""
    rng = np.random.default_rng(seed)
    g = GraphMaker(rng)
    groups = int(rng.choice([1, 1, 2, 3]))
    x = g.quantize(
        g.input("x", (1, groups * int(rng.integers(1, 5)), int(rng.integers(3, 7)), int(rng.integers(3, 7))))
    )
    kernel = (int(rng.integers(1, 4)), int(rng.integers(1, 4)))
    y = g.conv(
        x, groups * int(rng.integers(1, 6)), kernel, strides=(int(rng.integers(1, 3)), int(rng.integers(1, 3))),
        pads=tuple(int(p) for p in rng.integers(0, 3, 4)), groups=groups,
    )  # fmt: skip
    check(g, g.dequantize(y), rows=16, columns=8, cell_bits=cell_bits, dac_bits=dac_bits, adc_bits=12)


def test_row_groups_are_required() -> None:
    g = GraphMaker(np.random.default_rng(0))
    module = g.finish(g.dequantize(g.conv(g.quantize(g.input("x", (1, 3, 4, 4))), 4)))
    with pytest.raises(SmecError, match=r"requires level xbar\.grouped"):
        lower(module, "tile,slice-bits,assign-cores,emit")


def test_pipeline_text_names_the_pass() -> None:
    assert parse_pipeline("emit").passes[0].name == "emit"


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.randoms())
def test_reshape_strides_match_numpy(shape: list[int], random: Any) -> None:
    """Whenever strides are returned they address the right elements; where NumPy needs no copy, strides are found."""
    perm = list(range(len(shape)))
    random.shuffle(perm)
    base = np.arange(math.prod(shape)).reshape(shape).transpose(perm)
    new = list(base.shape)
    if len(new) > 1 and random.random() < 0.7:
        new[0:2] = [new[0] * new[1]]
    random.shuffle(new)
    strides = tuple(s // base.itemsize for s in base.strides)
    found = reshape_strides(base.shape, strides, tuple(new))
    view = base.reshape(new)
    assert (found is None) != np.shares_memory(view, base) or base.size == 1
    if found is not None:
        np.testing.assert_array_equal(Layout(0, tuple(new), found).addresses(), view)


def test_row_major() -> None:
    assert row_major((2, 3, 4)) == (12, 4, 1)
