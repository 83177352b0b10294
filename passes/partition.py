"""Divides the graph into layers on crossbars, operations of the vector unit, and host regions."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from smec.ir.dialects.builtin import GraphOp, ModuleOp
from smec.ir.dialects.nn import Constant, NNOp
from smec.passes.base import Pass, PassContext, register_pass
from smec.passes.host_costs import macs_of
from smec.passes.quantization import specs
from smec.passes.quantization.candidates import find_candidates
from smec.passes.quantization.carried import collect_carried
from smec.passes.quantization.expand import expand
from smec.passes.quantization.placement import Placement, run_order
from smec.passes.quantization.units import HOST, KIND, UNIT, Unit


@register_pass
@dataclass(frozen=True)
class Partition(Pass):
    """Decide for every operation where it runs, and which operations become one.

    Marks each operation with its unit and what that becomes (`smec.passes.quantization.units`), and sorts the block:
    the operations of a unit stand together, constants first. Host operations are gathered in as few regions as there
    must be: one for each change of side along the longest dependence.

    Reports: numbers of units by kind (`units`), multiply-accumulates an image (`macs_crossbar`, `macs_host`, and
    `crossbar_share` of their sum), host operators with the reasons (`host`).
    """

    name = "partition"
    forbids = ("nn.partitioned",)
    ensures = ("nn.partitioned",)

    def run(self, module: ModuleOp, context: PassContext) -> bool:
        graph = module.graph
        collect_carried(graph)
        expand(graph)
        candidates, reasons = find_candidates(graph)
        placement = Placement(graph, candidates)
        placement.run()
        ordered = list(run_order(placement))
        _name(ordered)
        _write(graph, [unit for _, unit in ordered])
        context.report[self.name] = _report([u for _, u in ordered], {**reasons, **placement.reasons})
        return True


def _name(ordered: list[tuple[int, Unit]]) -> None:
    """Device units are called after their first node, host regions host0, host1, ... in the order of running."""
    taken: set[str] = set()
    regions: dict[int, str] = {}
    for stage, unit in ordered:
        if not unit.on_device and stage not in regions:
            regions[stage] = f"host{len(regions)}"
            taken.add(regions[stage])
    for stage, unit in ordered:
        if not unit.on_device:
            unit.name = regions[stage]
            continue
        core = unit.ops[0]
        unit.name = wanted = core.location.node or core.op_type
        suffix = 1
        while unit.name in taken:
            unit.name, suffix = f"{wanted}_{suffix}", suffix + 1
        taken.add(unit.name)


def _write(graph: GraphOp, units: list[Unit]) -> None:
    block, end = graph.block, graph.terminator
    constants = [op for op in graph.ops if isinstance(op, Constant)]
    members = [op for unit in units for op in unit.ops]
    for op in [*constants, *members]:
        op.detach()
        block.insert_before(end, op)
    for unit in units:
        for op in unit.ops:
            op.attributes[UNIT], op.attributes[KIND] = unit.name, unit.kind


def _report(units: list[Unit], reasons: dict[NNOp, str]) -> dict[str, Any]:
    crossbar = sum(layer_macs(unit.ops[0]) for unit in units if unit.on_crossbars)
    on_host = [op for unit in units if not unit.on_device for op in unit.ops]
    host = sum(map(macs_of, on_host))
    why: dict[str, Counter[str]] = {}
    for op in on_host:
        why.setdefault(op.op_type, Counter())[reasons.get(op, "")] += 1
    return {
        "units": dict(sorted(Counter(u.kind for u in units if u.on_device).items())),
        "regions": len({u.name for u in units if u.kind == HOST}),
        "macs_crossbar": crossbar,
        "macs_host": host,
        "crossbar_share": crossbar / (crossbar + host) if crossbar + host else 0.0,
        "host": {op_type: dict(sorted(found.items())) for op_type, found in sorted(why.items())},
    }


def layer_macs(op: NNOp) -> int:
    """Multiply-accumulates an image of a layer with constant weights."""
    weight = specs.read_layer(op).weight
    pixels = op.results[0].type.size // int(weight.shape[0])
    return int(weight.size) * pixels
