"""Random networks through the mapping passes, one by one: the result stays, the text reads back, levels are legal."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from graphs import GraphMaker
from ir_cases import assert_same
from smec import targets
from smec.equivalence import ResultCheck, differences
from smec.ir.core import Value
from smec.ir.dialects import quant
from smec.ir.dialects.builtin import ModuleOp
from smec.ir.dialects.xbar import MvmOp
from smec.ir.parser import parse_module
from smec.ir.printer import print_module
from smec.ir.store import handles
from smec.ir.verifier import verify
from smec.passes.base import Pass, PassContext
from smec.passes.mapping.coding import weight_range
from smec.passes.pipeline import parse_pipeline

KINDS = ["conv", "conv", "depthwise", "pointwise", "pool", "mean", "add", "mul", "lut", "concat", "slice", "transpose"]


@st.composite
def networks(draw: st.DrawFn) -> ModuleOp:
    """A quantized network of a few layers and operations of every kind, at level `quant`."""
    act_bits = draw(st.sampled_from([4, 8, 8]))
    g = GraphMaker(np.random.default_rng(draw(st.integers(0, 2**32 - 1))), act_bits)
    sign = draw(st.sampled_from(["differential", "offset", "twos-complement"]))
    bits = draw(st.integers(3, 8))
    low, high = weight_range(sign, bits)
    layer: dict[str, Any] = {"low": low, "high": high, "sign": sign, "bits": bits}
    channels, extent = draw(st.integers(1, 5)), draw(st.integers(3, 6))
    x = g.quantize(g.input("x", (1, channels, extent, extent)))
    seen: list[Value] = [x]
    for kind in draw(st.lists(st.sampled_from(KINDS), min_size=1, max_size=5)):
        x = _grow(draw, g, kind, x, [v for v in seen if v.type.shape == x.type.shape], layer)
        seen.append(x)
    _, c, h, w = x.type.shape
    flat = g.view(quant.Reshape, x, (1, c * h * w))
    return g.finish(g.gemm(flat, draw(st.integers(1, 9)), real=True, **layer), g.dequantize(x))


def _grow(draw: st.DrawFn, g: GraphMaker, kind: str, x: Value, same: list[Value], layer: dict[str, Any]) -> Value:
    _, c, h, w = x.type.shape
    other = draw(st.sampled_from(same))
    if kind == "conv":
        stride = draw(st.integers(1, 2))
        return g.conv(x, draw(st.integers(1, 9)), strides=(stride, stride), clamp_min=0.0, **layer)
    if kind == "depthwise":
        return g.conv(x, c, groups=c, **layer)
    if kind == "pointwise":
        return g.conv(x, draw(st.integers(1, 20)), (1, 1), pads=(0, 0, 0, 0), **layer)
    if kind in ("pool", "mean") and min(h, w) >= 2:
        return g.pool(quant.MaxPool if kind == "pool" else quant.AvgPool, x, (2, 2), (2, 2))
    if kind in ("add", "mul"):
        return g.binary(quant.Add if kind == "add" else quant.Mul, x, other)
    if kind == "concat" and c < 12:
        return g.concat([x, other], 1)
    if kind == "slice" and h > 1:
        return g.view(quant.Slice, x, (1, c, h - 1, w), starts=(0, 0, 1, 0), steps=(1, 1, 1, 1))
    if kind == "transpose":
        return g.view(quant.Transpose, x, (1, c, w, h), perm=(0, 1, 3, 2))
    return g.lut(x)


@st.composite
def machines(draw: st.DrawFn) -> Any:
    """Targets with crossbars of a few rows and columns."""
    rows, columns = draw(st.sampled_from([(8, 8), (16, 8), (9, 5), (32, 16)]))
    return targets.from_values(
        {
            "inherits": "sme",
            "rows": rows,
            "columns": columns,
            "concurrent_rows": draw(st.integers(1, rows)),
            "cell_bits": draw(st.sampled_from([1, 1, 2])),
            "adc_bits": draw(st.integers(6, 9)),
        }
    )


@settings(max_examples=max(40, settings.default.max_examples))
@given(networks(), machines(), st.integers(0, 3), st.booleans())
def test_every_mapping_pass_keeps_the_result(module: ModuleOp, target: Any, depth: int, copies: bool) -> None:
    squeeze = f"squeeze-out{{depth={min(depth, 2)} shift=fit}}," if depth else ""
    replicate = "replicate{crossbars=2000}," if copies else ""
    pipeline = parse_pipeline(f"tile,{squeeze}compact,slice-bits,group-rows,{replicate}assign-cores,emit")
    act_bits = next(op for op in module.graph.ops if op.name == "quant.quantize").results[0].type.quantized.bits
    context = PassContext(target=target, act_bits=act_bits)
    module.attributes["act_bits"] = act_bits
    shown: list[str] = []
    check = ResultCheck(context, 2, shown.append)
    check.start(module)

    def after(item: Pass, current: ModuleOp, changed: bool) -> None:
        check.after(item, current, changed)  # raises where an exact pass changes the result
        for op in current.graph.ops:
            if isinstance(op, MvmOp):
                assert np.array_equal(op.effective_weights(), op.integers())
        _assert_round_trip(current)

    pipeline.run(module, context, after=after)
    assert sum("same result" in line for line in shown) >= len(pipeline) - bool(depth)


def _assert_round_trip(module: ModuleOp) -> None:
    text = print_module(module)
    again = parse_module(text, weights=handles(module))
    verify(again)
    assert_same(module, again)
    assert print_module(again) == text


def test_differences_say_by_how_much() -> None:
    before = {"y": np.array([[1.0, 2.0, np.nan]], np.float32), "k": np.array([[1, 2]], np.int64)}
    assert not differences(before, before, 0.0)
    after = {"y": np.array([[1.0, 2.5, 0.0]], np.float32), "k": np.array([[1, 7]], np.int64)}
    first, second = differences(before, after, 0.0)
    assert str(first) == "output 'y' differs in 2 of 3 values by up to 0.5 (2.0 became 2.5 at [0, 1])"
    assert str(second) == "output 'k' differs in 1 of 2 values by up to 5 (2 became 7 at [0, 1])"
    near = {**before, "y": before["y"] + np.float32(1e-6)}
    assert differences(before, near, 0.0)
    assert not differences(before, near, 1e-5)
