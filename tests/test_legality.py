"""What may appear at each level (`smec.passes.legality`), rule by rule."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from graphs import GraphMaker
from smec import targets
from smec.ir.dialects import quant
from smec.ir.dialects.builtin import ModuleOp
from smec.ir.dialects.nn import NNOp
from smec.ir.errors import SmecError
from smec.ir.types import Handle, TensorType
from smec.passes.base import PassContext, levels
from smec.passes.legality import check_legal
from smec.passes.pipeline import Pipeline, parse_pipeline


def network() -> ModuleOp:
    """One integer layer between conversions, at level `quant`."""
    g = GraphMaker(np.random.default_rng(0))
    x = g.quantize(g.input("x", (1, 4)))
    return g.finish(g.gemm(x, 3, real=True))


def mapped(pipeline: str) -> tuple[ModuleOp, Any]:
    module = network()
    parse_pipeline(pipeline).run(module, PassContext(target=targets.load("sme")))
    check_legal(module)
    return module, next(op for op in module.graph.ops if op.name.endswith("gemm"))


def at(module: ModuleOp, *names: str) -> ModuleOp:
    module.attributes["levels"] = names
    return module


def test_no_levels_no_rules() -> None:
    check_legal(at(network()))


def test_the_float_graph_holds_float_operations() -> None:
    with pytest.raises(
        SmecError, match=r"'quant.quantize': stands in a graph that is not quantized .expected nn operations"
    ):
        check_legal(at(network(), "nn.partitioned"))


def test_the_quantized_graph_holds_no_float_operations() -> None:
    module, layer = mapped("tile")
    relu = NNOp.make("Relu", [layer.out], [layer.out.type], location=layer.location)
    layer.parent.insert_after(layer, relu)
    with pytest.raises(SmecError, match=r"'nn.Relu': stands in a quantized graph"):
        check_legal(module)


def test_layers_have_integers() -> None:
    module = network()
    layer: Any = next(op for op in module.graph.ops if op.name == "quant.gemm")
    layer.attributes["float_weight"] = Handle(np.zeros((3, 4), np.float32))
    check_legal(at(module, "quant.float"))
    with pytest.raises(SmecError, match="has no integer weights at level quant"):
        check_legal(at(module, "quant.float", "quant"))


def test_layers_are_on_crossbars() -> None:
    module = network()
    with pytest.raises(SmecError, match=r"is not on crossbars at level xbar.tiled"):
        check_legal(at(module, *levels(module), "xbar.tiled"))


@pytest.mark.parametrize(
    ("name", "level"), [("cells", "xbar.sliced"), ("row_group", "xbar.grouped"), ("xbar_slot", "xbar.placed")]
)
def test_layers_have_what_a_level_promises(name: str, level: str) -> None:
    module, layer = mapped("tile,compact,slice-bits,group-rows,assign-cores")
    del layer.attributes[name]
    with pytest.raises(SmecError, match=f"lacks its attribute '{name}' at level {level}"):
        check_legal(module)


def test_emission_leaves_a_program() -> None:
    module, _ = mapped("tile,compact,slice-bits,group-rows,assign-cores")
    with pytest.raises(SmecError, match="module holds no program"):
        check_legal(at(module, *levels(module), "isa"))


def test_operations_of_others_are_theirs_to_account_for() -> None:
    from ir_cases import Leaf

    module, layer = mapped("tile")
    leaf = Leaf.create([layer.out], [TensorType((1,))], location=layer.location)
    layer.parent.insert_after(layer, leaf)
    check_legal(module)


def test_a_module_is_checked_before_the_first_pass() -> None:
    with pytest.raises(SmecError, match="stands in a graph that is not quantized"):
        Pipeline().run(at(network(), "nn.partitioned"), PassContext())
    assert isinstance(next(iter(network().graph.ops)), quant.Quantize)
