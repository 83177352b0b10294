"""Which operations could become one device operation together, whatever surrounds them.

1. A layer with constant weights, and behind it, as long as its result has no other use:
   a. an addition of a constant along its outputs (it joins the bias),
   b. one Relu or Clip (it becomes the layer's clamp).
2. A sum or product of two values, or of one with a constant tensor; a batch normalisation; each with 1b. A PRelu.
3. A chain (see `chains`): one table.
4. Pooling and data movement, each on its own.
5. A pair that states levels (see `carried`) joins what computes its input, if that has no other use and is not mere
   movement; else it is a unit of its own.
6. Everything else is for the host, with the reason why.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from smec.ir.core import Value
from smec.ir.dialects.builtin import GraphOp
from smec.ir.dialects.nn import Constant, NNOp
from smec.passes.quantization import specs
from smec.passes.quantization.carried import pair_of
from smec.passes.quantization.chains import chain_ops, find_roots
from smec.passes.quantization.specs import Unsupported
from smec.passes.quantization.units import CROSSBAR_KINDS, HOST, Unit, fits_device

#: Kinds whose result may be clamped at no cost (case 1b).
CLAMPED_KINDS = (*CROSSBAR_KINDS, "add", "mul", "affine")
#: Kinds whose result may have levels that the model states (case 5).
STATED_KINDS = (*CLAMPED_KINDS, "prelu", "lut", "avg_pool", "concat")


def find_candidates(graph: GraphOp) -> tuple[list[Unit], dict[NNOp, str]]:
    """The units that the device could take, and one unit a host operation.

    Returns:
        units, ordered by their last operation; the reason of each operation that is for the host.
    """
    ops = [op for op in graph.ops if isinstance(op, NNOp)]
    order = {op: i for i, op in enumerate(ops)}
    units: dict[NNOp, Unit] = {}
    _fuse(ops, units, _layer_or_affine)
    # A product such as x * sigmoid(x) is a chain's: sums and products are what chains leave over.
    roots = find_roots(ops, set(units))
    _fuse(ops, units, lambda op: None if op.results[0] in roots else _sum_or_product(op))
    roots = find_roots(ops, set(units))
    for op in ops:
        value = op.results[0] if op.results else None
        if op not in units and value in roots and _ends_chain(value, roots):
            members = sorted(chain_ops(value, roots), key=order.__getitem__)
            units.update(dict.fromkeys(members, Unit("", "lut", members)))
    reasons: dict[NNOp, str] = {}
    pairs = {op: pair[0] for op in ops if (pair := pair_of(op)) is not None and op not in units}
    readers = set(pairs.values())
    for op in ops:
        if op in pairs:
            _place_pair(op, pairs[op], units)
        elif op not in units and op not in readers:
            units[op] = Unit("", _single_kind(op, reasons), [op])
    return sorted(dict.fromkeys(units.values()), key=lambda u: order[u.ops[-1]]), reasons


def _fuse(ops: list[NNOp], units: dict[NNOp, Unit], core_kind: Callable[[NNOp], str | None]) -> None:
    """Start a unit at each operation of a kind, and let units absorb what follows (cases 1a and 1b)."""
    for op in ops:
        if op in units or op.domain or not op.results:
            continue
        unit = _absorbing(op, units)
        if unit is None:
            kind = core_kind(op)
            if kind is None:
                continue
            unit = Unit("", kind)
        unit.ops.append(op)
        units[op] = unit


def _place_pair(op: NNOp, reader: NNOp, units: dict[NNOp, Unit]) -> None:
    """Case 5."""
    source = op.operands[0].defining_op()
    unit = units.get(source) if isinstance(source, NNOp) else None
    joins = unit is not None and unit.kind in STATED_KINDS and unit.result is op.operands[0]
    if unit is None or not joins or len(op.operands[0].uses) != 1:
        unit = Unit("", "levels" if fits_device(reader.results[0].type) else HOST)
    for member in (op, reader):
        unit.ops.append(member)
        units[member] = unit


def _layer_or_affine(op: NNOp) -> str | None:
    layer = _read(specs.read_layer, op)
    if layer is not None:
        return str(layer.kind)
    if _read(specs.read_affine, op) is not None:
        return "affine"
    slope = _read(specs.read_prelu, op)
    return "prelu" if slope is not None and slope.size > 1 else None


def _sum_or_product(op: NNOp) -> str | None:
    """The first two of case 2; a constant with one element is a chain's."""
    operand = _read(specs.read_tensor_operand, op)
    if operand is not None:
        kind, _, array = operand
        return str(kind) if array.size > 1 else None
    kinds = {"Add": "add", "Sum": "add", "Mul": "mul"}
    if op.op_type not in kinds or len(op.inputs) != 2:
        return None
    pair = _read(lambda o: (specs.data(o, 0), specs.data(o, 1), specs.single_result(o)), op)
    return None if pair is None else kinds[op.op_type]


def _absorbing(op: NNOp, units: dict[NNOp, Unit]) -> Unit | None:
    """The unit that takes `op` in: cases 1a and 1b."""
    variables = [v for v in op.operands if not isinstance(v.defining_op(), Constant)]
    if len(variables) != 1:
        return None
    source = variables[0].defining_op()
    unit = units.get(source) if isinstance(source, NNOp) else None
    if unit is None or len(variables[0].uses) != 1 or unit.kind not in CLAMPED_KINDS:
        return None
    if any(clamp_of(member) is not None for member in unit.ops):
        return None
    if clamp_of(op) is not None:
        return unit
    return unit if unit.on_crossbars and bias_of(op, unit.ops[0]) is not None else None


def clamp_of(op: NNOp) -> tuple[float, float] | None:
    """(minimum, maximum) if `op` is a clamp."""
    found: tuple[float, float] | None = _read(specs.read_clamp, op)
    return found


def bias_of(op: NNOp, layer: NNOp) -> Any:
    """f32 [M]: what `op` adds to each output of `layer`; None if it does anything else."""
    operand = _read(specs.read_tensor_operand, op)
    if operand is None or operand[0] != "add" or op.results[0].type != layer.results[0].type:
        return None
    shape = op.results[0].type.shape
    axis = specs.layer_channel_axis(layer)
    return _read(lambda _: specs.channel_vector(operand[2], axis, shape[axis], len(shape)), op)


def _ends_chain(value: Value, roots: dict[Value, Value]) -> bool:
    """Whether nothing of the same chain follows `value`."""
    following = [r for user in value.users for r in user.results]
    return not any(roots.get(r) is roots[value] for r in following)


#: Readers of case 4, and the kind each stands for.
_SINGLE: tuple[tuple[Callable[[NNOp], Any], str], ...] = (
    (specs.read_pool, "pool"),
    (specs.read_reshape, "reshape"),
    (specs.read_transpose, "transpose"),
    (specs.read_concat, "concat"),
    (specs.read_pad, "pad"),
    (specs.read_slice, "slice"),
)

#: Which reader's reason is worth telling, by operator.
_EXPLAIN: dict[str, Callable[[NNOp], Any]] = {
    **dict.fromkeys(("Conv", "Gemm", "MatMul"), specs.read_layer),
    **dict.fromkeys(("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "ReduceMean"), specs.read_pool),
    **dict.fromkeys(specs.RESHAPES, specs.read_reshape),
    "Transpose": specs.read_transpose,
    "Concat": specs.read_concat,
    "Pad": specs.read_pad,
    "Slice": specs.read_slice,
    "BatchNormalization": specs.read_affine,
    "PRelu": specs.read_prelu,
}


def _single_kind(op: NNOp, reasons: dict[NNOp, str]) -> str:
    if not op.domain:
        for reader, kind in _SINGLE:
            try:
                found = reader(op)
            except Unsupported:
                continue
            return f"{found.kind}_pool" if kind == "pool" else kind
    reasons[op] = _reason(op)
    return HOST


def _reason(op: NNOp) -> str:
    try:
        if op.domain:
            return "operator of another domain"
        if op.op_type in _EXPLAIN:
            _EXPLAIN[op.op_type](op)
    except Unsupported as why:
        return str(why)
    return "no device operation computes it"


def _read(reader: Callable[[NNOp], Any], op: NNOp) -> Any:
    """What a reader finds; None where it finds the operation unsupported, or the operator is not ONNX's own."""
    if op.domain:
        return None
    try:
        return reader(op)
    except Unsupported:
        return None
