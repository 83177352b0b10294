"""Turns placed crossbars and digital operations into instructions and data sections."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from smec.ir.dialects.builtin import GraphOp, ModuleOp
from smec.ir.dialects.isa import to_ir
from smec.ir.onnx_model import region_to_model
from smec.passes.base import Pass, PassContext, register_pass
from smec.passes.emission.accounting import host_info, layer_info
from smec.passes.emission.crossbars import CrossbarTables
from smec.passes.emission.lowering import Lowering


@register_pass
@dataclass(frozen=True)
class Emit(Pass):
    """Emit the instruction streams and data sections of every core.

    The program joins the graph in the module as one `isa.program`; its metadata has the parts of the document that
    follow from the graph and the target (`smec.runtime.metadata`), and whoever writes the file adds the rest.
    """

    name = "emit"
    requires = ("xbar.grouped", "xbar.placed")
    ensures = ("isa",)

    def run(self, module: ModuleOp, context: PassContext) -> bool:
        graph, target = module.graph, context.target
        tables = CrossbarTables(target.rows, target.columns, target.cell_bits)
        lowering = Lowering(graph, tables, context.act_bits, target.dac_bits)
        lowering.run()
        sections = {**lowering.builder.sections(), **tables.sections()}
        host = []
        for i, region in enumerate(lowering.regions):
            sections[f"host.{i}"] = np.frombuffer(
                region_to_model(region, graph, batchable=region.batchable, check=False), np.uint8
            )
            host.append(host_info(region))
        layers, first = [], 0
        for op in lowering.layers:
            layers.append(layer_info(op, first))
            first += layers[-1]["tiles"]
        metadata = {
            "target": target.model_dump(),
            "act_bits": context.act_bits,
            "inputs": _ports(graph, graph.block.args, graph.input_names, lowering.inputs),
            "outputs": _ports(graph, graph.terminator.operands, graph.output_names, lowering.outputs),
            "layers": layers,
            "host": host,
            "macs_crossbar": sum(layer["macs"] for layer in layers),
            "macs_host": sum(region["macs"] for region in host),
            "crossbars": len(sections["cells"]),
            "blocks": tables.crossbars,
        }
        module.body.block.append(to_ir(sections, metadata, graph.location.file))
        context.report[self.name] = {
            "instructions": len(sections["code"]),
            "cores": len(sections["core_table"]),
            "crossbars": len(sections["cells"]),
            "blocks": tables.crossbars,
        }
        return True


def _ports(graph: GraphOp, values: Any, names: tuple[str, ...], agus: list[int]) -> list[dict[str, Any]]:
    """Metadata entries of graph inputs or outputs (`smec.runtime.metadata.PortInfo`).

    A leading axis of extent 1 is where users stack images. A model's own batch of N > 1 is part of one run: engines put
    runs in front of it, users stack them along it.
    """
    fixed = {n for n in graph.batch if n}
    ports = []
    for value, name, agu in zip(values, names, agus, strict=True):
        shape = list(value.type.shape)
        port = {"name": name, "agu": agu, "shape": shape, "dtype": np.dtype(value.type.dtype).name}
        port["batch"] = 0 if shape and shape[0] == 1 else None
        if shape and shape[0] != 1 and shape[0] in fixed:
            port["fixed_batch"] = True
        ports.append(port)
    return ports
