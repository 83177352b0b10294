"""The documentation page of the IR, derived from the declarations of its operations."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence

from smec.ir import core
from smec.ir.core import OPERATIONS, AttrDef, Operation
from smec.ir.types import Handle, TensorType

_INTRO = """\
# IR

<!-- Generated from the declarations in `smec.ir.dialects` by `smec.ir.reference`; do not edit. -->

The text is MLIR's generic form. A module is one `builtin.module`; it holds one `smec.graph` (while weights
are not quantized yet also a copy of the float one, called `float`) and, after emission, one `isa.program`.
Every operation has a location: the model file and the node that it comes from. A value's name is its hint;
what MLIR does not allow in a name is written `$` and two hexadecimal digits.

Attribute values are `true`/`false`, integers, floats, strings, arrays, tensor types, `unit`, and handles:
`#smec.handle<"SHA-256", "int16", [16, 3, 3, 3]>` stands for an array in the module's side file,
`MODULE.safetensors`, or in memory. Long values stand in front of the module, under an alias: `#h0 = ...`.

Tensor types are MLIR's, and `tensor<1x8x!quant.u<8, 0.5, 128>>`: unsigned integers q of 8 bits that stand for
0.5 (q - 128). Shapes are the model's own for one image; arrays in memory have one more axis in front, the
images.

A module collects levels as passes establish them: `nn.partitioned`, `nn.calibrated`, `quant.float`, `quant`,
`xbar.tiled`, `xbar.squeezed`, `xbar.compacted`, `xbar.sliced`, `xbar.grouped`, `xbar.placed`, `isa`. `smec
passes` shows which pass requires and ensures which; `smec.passes.legality` says what may appear at each.
"""

_DIALECTS = {
    "builtin": "`builtin` and `smec`: what holds the rest",
    "smec": "",
    "nn": "`nn`: the float graph",
    "quant": "`quant`: integers and scales",
    "xbar": "`xbar`: layers on crossbars",
    "isa": "`isa`: instructions",
}

_NN = """\
ONNX's own operators under their own names, `nn.Conv`, `nn.Softmax`, ...: operands are the operator's inputs,
attributes have ONNX's names. What begins with an underscore is ours (`_present`, `_outputs`, `_captured`,
`_tensor`, `_unit`, `_kind`, `_types`; see `smec.ir.dialects.nn`). The meaning of such an operation is the
`onnx` reference implementation's or onnxruntime's.
"""

_ISA = """\
One operation for each instruction of the [instruction set](isa.md), with its operands as attributes:
`"isa.mvm"() {dst = 4 : i64, src = 5 : i64, tile = 0 : i64} : () -> ()`.
"""


def ir_markdown() -> str:
    """The page, derived from every declared operation of our dialects."""
    from smec.ir.dialects import builtin, isa, nn, quant, xbar

    del builtin, isa, nn, quant, xbar  # importing them declared their operations
    parts = [_INTRO]
    for dialect, title in _DIALECTS.items():
        if title:
            parts.append(f"## {title[0].upper()}{title[1:]}\n")
        parts += {"nn": [_NN], "isa": [_ISA]}.get(dialect, [])
        for name in sorted(OPERATIONS):
            cls = OPERATIONS[name]
            if name.partition(".")[0] == dialect and cls.__module__.startswith("smec.ir.") and _documented(cls):
                parts += _operation(cls)
    return "\n".join(parts)


def _documented(cls: type[Operation]) -> bool:
    from smec.ir.dialects.isa import InstructionOp

    return not issubclass(cls, InstructionOp)


def _operation(cls: type[Operation]) -> list[str]:
    doc = inspect.cleandoc(cls.__doc__ or "")
    text, _, example = doc.partition("\n\n`")
    parts = [f"### {cls.name}\n", " ".join(text.split("\n\n")[0].split()) + "\n"]
    if example:
        parts.append(f"```mlir\n{example.rstrip('`').strip()}\n```\n")
    values = [
        *((d.name, "operand" + ("s" if d.variadic else ""), d.doc) for d in cls.operand_defs),
        *((d.name, "result" + ("s" if d.variadic else ""), d.doc) for d in cls.result_defs),
        *((d.name, "region", d.doc) for d in cls.region_defs),
    ]
    if values:
        parts.append(_table(("name", "what", "meaning"), ((f"`{n}`", what, said) for n, what, said in values)))
    if cls.attribute_defs:
        rows = ((f"`{n}`", _kind(d), _default(d), d.doc) for n, d in cls.attribute_defs.items())
        parts.append(_table(("attribute", "type", "default", "meaning"), rows))
    return parts


def _kind(definition: AttrDef[object]) -> str:
    names = {Handle: "handle", TensorType: "type"}
    if definition.kind is tuple:
        of = definition.of
        return f"list of {names.get(of, of.__name__)}" if of is not None else "list"
    return names.get(definition.kind, str(definition.kind.__name__))


def _default(definition: AttrDef[object]) -> str:
    if definition.default is core._MISSING:
        return "required"
    if definition.default is None:
        return "absent"
    return f"`{definition.default}`" if definition.default != "" else '`""`'


def _table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [columns, ["---"] * len(columns), *([str(cell).replace("|", "\\|") for cell in row] for row in rows)]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)
