"""The quantized network that a program carries: sections `model` and `weights.<digest>`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from smec.ir.errors import SmecError

if TYPE_CHECKING:
    from smec.ir.dialects.builtin import ModuleOp
    from smec.program import Program


def quantized_view(module: ModuleOp) -> ModuleOp:
    """The network at the level `quant`, from a module at that level or a later one: what the crossbars must compute.

    Layers on crossbars become plain integer layers again, with the weights that the last pass left in them.
    """
    from smec.ir.core import Block, Region
    from smec.ir.dialects.builtin import ModuleOp as Module
    from smec.ir.dialects.quant import Conv, Gemm
    from smec.ir.dialects.xbar import MvmConv, MvmOp
    from smec.passes.base import add_levels

    graph = module.graph.clone()
    for op in graph.walk():
        if isinstance(op, MvmOp):
            cls = Conv if isinstance(op, MvmConv) else Gemm
            attributes = {k: v for k, v in op.attributes.items() if k in cls.attribute_defs and k != "float_weight"}
            plain = cls.create(op.operands, [op.out.type], attributes, location=op.location)
            plain.out.name_hint = op.out.name_hint
            if op.parent is not None:
                op.parent.insert_before(op, plain)
            op.replace_with(plain.results)
    view = Module.create(regions=[Region([Block(ops=[graph])])], location=module.location)
    add_levels(view, ("quant",))
    return view


def oracle_sections(module: ModuleOp) -> dict[str, np.ndarray]:
    """Sections `model` (text of the quantized network) and `weights.<digest>` (its arrays)."""
    from smec.ir.printer import print_module
    from smec.ir.store import handles

    view = quantized_view(module)
    text = np.frombuffer(print_module(view).encode(), np.uint8)
    return {"model": text} | {f"weights.{digest}": handle.array for digest, handle in handles(view).items()}


def oracle_module(program: Program) -> ModuleOp:
    """The quantized network that a program carries: the inverse of `oracle_sections`.

    Raises:
        SmecError: the program carries none, or a damaged one.
    """
    from smec.ir.parser import parse_module

    location = program.path or "<program>"
    if "model" not in program.sections:
        raise SmecError("the program does not carry its quantized network", location=location)
    prefix = "weights."
    arrays = {n.removeprefix(prefix): a for n, a in program.sections.items() if n.startswith(prefix)}
    text = bytes(program.sections["model"]).decode(errors="replace")
    return parse_module(text, f"{location}: section 'model'", arrays)
