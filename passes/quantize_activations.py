"""Replaces the float graph by operations on levels, conversions, and host regions."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import Any

from smec.ir.core import AttrValue, Block, Region, Value
from smec.ir.dialects.builtin import GraphOp, HostOp, ModuleOp, ReturnOp
from smec.ir.dialects.nn import Constant, NNOp
from smec.ir.errors import SmecError
from smec.ir.types import TensorType
from smec.passes.base import Pass, PassContext, register_pass
from smec.passes.quantization.build import UnitBuilder, Values, constant_operands
from smec.passes.quantization.units import HOST, KIND, TYPES, UNIT, Unit, graph_units, is_constant

#: Name of the host region that yields constant operands.
CONSTANTS = "constants"


@register_pass
@dataclass(frozen=True)
class QuantizeActivations(Pass):
    """Build the quantized graph: device units as `quant` operations, host regions as `smec.host`.

    Layers keep their float weights, and the module a copy of the float graph, until weights are quantized. Values cross
    between host and device as float32, through `quant.quantize` and `quant.dequantize`; the result of a layer that only
    the host reads is float32 at once.

    Reports: `layers`, `operations` (by name), `batchable` (by host region).
    """

    name = "quantize-activations"
    requires = ("nn.calibrated",)
    forbids = ("quant.float",)
    ensures = ("quant.float",)
    exact = False

    def run(self, module: ModuleOp, context: PassContext) -> bool:
        graph = module.graph
        units = list(graph_units(graph))
        old = list(graph.ops)
        module.keep_float_graph()
        values = Values(graph, graph.terminator)
        values.real.update((arg, arg) for arg in graph.block.args)
        constants = _constants_region(values, units)
        builder = UnitBuilder(values, constants)
        for _, members in groupby(units, key=lambda u: u.name if u.kind == HOST else id(u)):
            found = list(members)
            if found[0].on_device:
                builder.build(found[0])
            else:
                _host_region(values, found[0].name, [op for u in found for op in u.ops])
        for index, value in enumerate(graph.terminator.operands):
            graph.terminator.set_operand(index, values.get_real(value))
        for op in reversed(old):
            op.erase()
        graph.attributes.pop(TYPES, None)
        context.report[self.name] = _report(graph)
        return True


def _constants_region(values: Values, units: list[Unit]) -> dict[NNOp, list[Value]]:
    """One host region that yields every constant operand, and every constant that the graph returns.

    A region without inputs computes the same for every image: nothing else in the program has to hold constants.
    """
    graph = values.graph
    wanted: list[tuple[NNOp | Value, Constant]] = []
    for unit in units:
        if unit.on_device:
            core = unit.ops[0]
            wanted += [(core, Constant.of(array, core.location)) for array in constant_operands(unit)]
    for value in dict.fromkeys(graph.terminator.operands):
        source = value.defining_op()
        if isinstance(source, Constant):
            wanted.append((value, Constant.of(source.array, source.location)))
    found: dict[NNOp, list[Value]] = {}
    if not wanted:
        return found
    results = [constant.results[0] for _, constant in wanted]
    block = Block([], [constant for _, constant in wanted])
    block.append(ReturnOp.create(results, location=graph.location))
    region = HostOp.create(
        [],
        [r.type for r in results],
        {"name": CONSTANTS, "batchable": False},
        [Region([block])],
        location=graph.location,
    )
    values.block.insert_before(values.anchor, region)
    for (key, _), result in zip(wanted, region.results):
        if isinstance(key, Value):
            values.real[key] = result
        else:
            found.setdefault(key, []).append(result)
    return found


def _host_region(values: Values, name: str, ops: list[NNOp]) -> None:
    """Move copies of `ops` into a region."""
    inside = {r for op in ops for r in op.results}
    inputs = dict.fromkeys(v for op in ops for v in op.operands if v not in inside and not is_constant(v))
    members = set(ops)
    outputs = [r for op in ops for r in op.results if any(user not in members for user in r.users)]
    batchable = _batchable(values.graph, ops)
    operands = [values.get_real(v) for v in inputs]
    block = Block([v.type for v in inputs])
    mapping: dict[Value, Value] = {}
    for value, arg in zip(inputs, block.args):
        arg.name_hint = value.name_hint
        mapping[value] = arg
    for op in ops:
        for value in op.operands:
            source = value.defining_op()
            if value not in mapping and isinstance(source, Constant):
                block.append(source.clone(mapping))
        copy = block.append(op.clone(mapping))
        for key in (UNIT, KIND, TYPES):
            copy.attributes.pop(key, None)
    block.append(ReturnOp.create([mapping[v] for v in outputs], location=ops[-1].location))
    types: list[TensorType] = [v.type for v in outputs]
    attributes: dict[str, AttrValue] = {"name": name, "batchable": batchable}
    region = HostOp.create(operands, types, attributes, [Region([block])], location=ops[0].location)
    values.block.insert_before(values.anchor, region)
    for value, result in zip(outputs, region.results):
        result.name_hint = value.name_hint
        values.real[value] = result


def _batchable(graph: GraphOp, ops: list[NNOp]) -> bool:
    """Whether images may be stacked along the leading axis in one call of the region."""
    from smec.ir.onnx_model import probe_batchable, region_to_model

    try:
        return probe_batchable(region_to_model(ops, graph, check=False))
    except SmecError:
        return False  # one image at a time is always right


def _report(graph: GraphOp) -> dict[str, Any]:
    counts: dict[str, int] = {}
    for op in graph.ops:
        counts[op.name] = counts.get(op.name, 0) + 1
    regions: list[HostOp] = [op for op in graph.ops if isinstance(op, HostOp)]
    return {
        "layers": counts.get("quant.conv", 0) + counts.get("quant.gemm", 0),
        "operations": dict(sorted(counts.items())),
        "batchable": {op.label: op.batchable for op in regions},
    }
