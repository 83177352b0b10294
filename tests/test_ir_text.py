"""Printer and parser: inverse to each other, readable by another MLIR parser, and safe on any text."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings

from ir_cases import F32, HERE, Leaf, add, assert_same, finish, make_module, modules, read_with_xdsl
from smec.ir.dialects.builtin import ModuleOp
from smec.ir.errors import SmecError, SourceSpan
from smec.ir.parser import parse_module
from smec.ir.printer import format_attribute, format_location, print_module
from smec.ir.store import handles, load_module, load_weights, save_module, side_file
from smec.ir.types import Handle, Location, Quantized, TensorType
from smec.ir.verifier import verify


@given(modules())
def test_round_trip(module: ModuleOp) -> None:
    verify(module)
    text = print_module(module)
    again = parse_module(text, weights=handles(module))
    verify(again)
    assert_same(module, again)
    assert print_module(again) == text


@given(modules())
@settings(max_examples=40)
def test_xdsl_reads_it(module: ModuleOp) -> None:
    pytest.importorskip("xdsl")
    read_with_xdsl(print_module(module))


def small() -> ModuleOp:
    """A module whose text shows the forms once."""
    module, block = make_module([TensorType((1, 4), Quantized(8, 0.5, 128))])
    x = block.args[0]
    x.name_hint = "x"
    table = Handle(np.arange(6, dtype=np.float32).reshape(2, 3))
    y = add(block, x, x, "y", factor=0.1, pads=(1, -2), label='a "b"\n', table=table)
    leaf = Leaf.create(
        [y.out],
        [F32, F32],
        {
            "none": None,
            "mixed": (1, 2.0, True, "what is longer than a line wants to be is written once, in front"),
            "empty": (),
            "halves": (0.5, 1e16),
            "big": 1 << 64,
            "inf": float("inf"),
        },
        location=Location("model.onnx", "/a/Leaf", 7),
    )
    block.append(leaf)
    finish(block, [leaf.results[1]])
    return module


GOLDEN = """\
#h0 = #smec.handle<"DIGEST", "float32", [2, 3]>
#a0 = [1 : i64, 2.0 : f64, true, "what is longer than a line wants to be is written once, in front"]
"builtin.module"() ({
  "smec.graph"() ({
  ^bb0(%x: tensor<1x4x!quant.u<8, 0.5, 128>>):
    %y = "test.add"(%x, %x) {bits = 8 : i64, factor = 0.1 : f64, pads = array<i64: 1, -2>, label = "a \\"b\\"\\n", \
table = #h0} : (tensor<1x4x!quant.u<8, 0.5, 128>>, \
tensor<1x4x!quant.u<8, 0.5, 128>>) -> tensor<1x4x!quant.u<8, 0.5, 128>> loc("node"("model.onnx":0:0))
    %0, %1 = "test.leaf"(%y) {none = unit, mixed = #a0, empty = [], \
halves = array<f64: 0.5, 1.0e+16>, big = 18446744073709551616 : i128, inf = 0x7FF0000000000000 : f64} : \
(tensor<1x4x!quant.u<8, 0.5, 128>>) -> (tensor<1x4xf32>, tensor<1x4xf32>) loc("/a/Leaf"("model.onnx":7:0))
    "smec.return"(%1) : (tensor<1x4xf32>) -> () loc("model.onnx":0:0)
  }) {opset = 17 : i64, input_names = ["x0"], output_names = ["y0"]} : () -> () loc("model.onnx":0:0)
}) : () -> () loc("model.onnx":0:0)
"""


def test_golden() -> None:
    module = small()
    digest = next(iter(handles(module)))
    assert print_module(module) == GOLDEN.replace("DIGEST", digest)
    pytest.importorskip("xdsl")
    read_with_xdsl(print_module(module))


def test_names() -> None:
    module, block = make_module([F32] * 6)
    hints = ["a", "a", "/not/valid", "12", "ü$", None]
    for arg, hint in zip(block.args, hints, strict=True):
        arg.name_hint = hint
    finish(block, list(block.args))
    text = print_module(module)
    assert '"smec.return"(%a, %a$$1, %$2Fnot$2Fvalid, %$312, %$C3$BC$24, %0)' in text
    assert [arg.name_hint for arg in parse_module(text).graph.block.args] == hints
    named = text.replace("%$312", "%$x")  # nothing that the printer writes
    assert parse_module(named).graph.block.args[3].name_hint == "$x"


def test_other_spellings() -> None:
    text = """
    // a comment
    "builtin.module"() ({
      %a = "test.leaf"() {b = 1, c = 1.5, flag, d = array<i64>, "odd key" = 2 : i8, h = 0x10 : i64, t = 1 : i1,
                          f = 0.1 : f32, g = 2 : f64, u = []} : () -> (tensor<4xf32>)
      "test.leaf"(%a) : (tensor<4xf32>) -> () loc(unknown)
      "test.leaf"() : () -> () loc("conv")
    }) : () -> ()
    """
    module = parse_module(text, "file.mlir")
    first, second, third = module.body.block.ops
    assert first.location == Location("file.mlir", "", 4)
    assert second.location == Location("file.mlir", "", 6)
    assert third.location == Location("file.mlir", "conv", 7)
    expected = {"b": 1, "c": 1.5, "flag": None, "d": (), "odd key": 2, "h": 16, "t": True}
    assert {k: first.attributes[k] for k in expected} == expected
    assert first.attributes["f"] == float(np.float32(0.1))
    assert isinstance(first.attributes["g"], float)
    assert first.attributes["u"] == ()


@pytest.mark.parametrize(
    "location",
    [
        Location("", ""),
        Location("", "node", 3),
        Location("C:\\modèle.onnx", '"%41'),
        Location("%41.onnx", "a\nb", 1),
        Location("bad\udcff.onnx", "é\x00"),
    ],
)
def test_odd_locations(location: Location) -> None:
    pytest.importorskip("xdsl")
    text = f'"builtin.module"() ({{ ^bb0: }}) : () -> () {format_location(location)}'
    assert parse_module(text).location == location
    read_with_xdsl(text)


def test_values_without_text() -> None:
    module, block = make_module([])
    block.append(Leaf.create(attributes={"x": np.float32(1)}, location=HERE))  # type: ignore[dict-item]
    with pytest.raises(SmecError, match=r"model.onnx: node 'node': attribute 'x' of 'test.leaf'.*found float32"):
        print_module(module)
    with pytest.raises(SmecError, match="not valid Unicode"):
        format_attribute("\udcff")
    with pytest.raises(SmecError, match="element type cannot be written"):
        format_attribute(Handle(np.zeros(2, np.complex64)))


# -- errors: text, expected message ------------------------------------------------------------------------------------

BODY = '"builtin.module"() ({{\n  {}\n}}) : () -> ()'
FAULTS = {
    "": "1:1: syntax error.*found the end of the text",
    '"builtin.module"() ({': "1:22: syntax error.*found the end of the text",
    '"test.leaf"() : () -> ()': "outermost operation is not a module",
    BODY.format('"test.nope"() : () -> ()'): r"2:3: unknown operation 'test.nope'",
    BODY.format('"quant.ad"() : () -> ()'): r"unknown operation 'quant.ad'(.|\n)*did you mean .*'quant.add'",
    BODY.format('"test.leaf"(%x) : (tensor<f32>) -> ()'): "2:15: value %x is not defined before its use",
    BODY.format('"test.leaf"() : (tensor<f32>) -> ()'): "number of operands differs.*expected 1, found 0",
    BODY.format('"test.leaf"() : () -> tensor<f32>'): "number of results differs.*expected 1, found 0",
    BODY.format('%a = "test.leaf"() : () -> tensor<f33>'): "2:37: unknown element type.*'f33'",
    BODY.format('%a = "test.leaf"() : () -> tensor<2x!quant.u<0, 1.0, 0>>'): "bit width is out of range",
    BODY.format('%a = "test.leaf"() : () -> tensor<2x!quant.u<8, 0.0, 0>>'): "scale is out of range",
    BODY.format('%a = "test.leaf"() : () -> tensor<2x!quant.u<8, 1.0, 256>>'): "zero point is out of range",
    BODY.format('%a = "test.leaf"() : () -> tensor<' + "1x" * 65 + "f32>"): "too many dimensions",
    BODY.format('%a = "test.leaf"() : () -> tensor<f32> %a = "test.leaf"() : () -> tensor<f32>'): "%a is defined twice",
    BODY.format('%a = "test.leaf"() : () -> tensor<f32> "test.leaf"(%a) : (tensor<1xf32>) -> ()'): "has another type",
    BODY.format('"test.leaf"() {a = 1, a = 2} : () -> ()'): "2:25: attribute 'a' is given twice",
    BODY.format('"test.leaf"() {a = 1.5 : i64} : () -> ()'): "fraction cannot have an integer type",
    BODY.format('"test.leaf"() {a = 1 : q7} : () -> ()'): "2:26: unknown number type",
    BODY.format('"test.leaf"() {a = 2 : i1} : () -> ()'): "does not fit its type",
    BODY.format('"test.leaf"() {a = "\\q"} : () -> ()'): "2:23: unknown escape",
    BODY.format('"test.leaf"() {a = "\\FF"} : () -> ()'): "not valid UTF-8",
    BODY.format('"test.leaf"() {a = array<i64: 1, 2.5>} : () -> ()'): "expected an integer",
    BODY.format('"test.leaf"() {a = array<i64: 1,>} : () -> ()'): "malformed array element",
    BODY.format('"test.leaf"() {a = array<i7: 1>} : () -> ()'): "malformed array",
    BODY.format('"test.leaf"() {a = #smec.handle<"12", "float32", []>} : () -> ()'): "malformed handle",
    BODY.format('"test.leaf"() {a = 0x1FFFFFFFFFFFFFFFF : f64} : () -> ()'): "bits do not fit",
    BODY.format('"test.leaf"() {a = ' + "[" * 20 + "]" * 20 + "} : () -> ()"): "arrays are nested more than 16 deep",
    "#a = 1 #a = 2 " + BODY.format(""): "1:8: alias #a is defined twice",
    "#abc = 1 "
    + BODY.format('"test.leaf"() {a = #abd} : () -> ()'): r"2:22: alias #abd is not defined(.|\n)*mean '#abc'",
    "#a = 1 " + BODY.format('"test.leaf"() {a = [#a]} : () -> ()'): "2:23: syntax error",
    "#a = #b": "syntax error",
    "#smec.handle = 1": "syntax error",
    BODY.format('"test.wrap"() ({ ' * 40 + "}) : () -> ()" * 40): "regions are nested more than 32 deep",
    BODY.format('"test.wrap"() ({ ^bb0: ^bb0: }) : () -> ()'): r"block \^bb0 is defined twice",
    BODY.format('"test.wrap"() ({ ^bb0(%a): }) : () -> ()'): "malformed block argument",
    BODY.format('"test.wrap"() ({ ^bb0(%a: tensor<q>): }) : () -> ()'): "unknown element type",
}


@pytest.mark.parametrize("text", FAULTS, ids=range(len(FAULTS)))
def test_faults(text: str) -> None:
    with pytest.raises(SmecError, match=FAULTS[text]) as caught:
        parse_module(text, "f.mlir")
    _assert_located(caught.value, text)


def _assert_located(error: SmecError, text: str) -> None:
    """The error has a place in the text and shows the line with a caret."""
    span = error.location
    assert isinstance(span, SourceSpan)
    lines = text.split("\n")
    assert 1 <= span.line <= len(lines)
    assert 1 <= span.column <= len(lines[span.line - 1]) + 1
    assert str(error).startswith(f"f.mlir:{span.line}:{span.column}: ")
    if span.text.strip():
        assert "^" in str(error)


def test_a_message_in_full() -> None:
    text = BODY.format('%first = "test.leaf"() : () -> tensor<f32>\n  "test.leaf"(%frst) : (tensor<f32>) -> ()')
    with pytest.raises(SmecError) as caught:
        parse_module(text, "net.mlir")
    assert str(caught.value) == (
        "net.mlir:3:15: value %frst is not defined before its use\n"
        '    "test.leaf"(%frst) : (tensor<f32>) -> ()\n'
        "                ^^^^^\n"
        "hint: did you mean '%first'?"
    )


def test_long_lines_are_cut_in_messages() -> None:
    text = BODY.format('"test.leaf"() {a = [' + "1, " * 3000 + "?" + ", 1" * 3000 + "]} : () -> ()")
    with pytest.raises(SmecError) as caught:
        parse_module(text)
    shown = str(caught.value).splitlines()
    assert max(map(len, shown)) < 200
    assert shown[1][shown[2].index("^")] == "?"


def test_corrupted_text_is_diagnosed() -> None:
    text = print_module(small())
    rng = random.Random(7)
    refused = 0
    for _ in range(500):
        corrupted = _corrupt(text, rng)
        try:
            verify(parse_module(corrupted, "f.mlir"))
        except SmecError as error:
            refused += 1
            if isinstance(error.location, SourceSpan):
                _assert_located(error, corrupted)
            else:
                assert isinstance(error.location, Location)  # the text is well formed, the module is not
    assert refused > 300


def _corrupt(text: str, rng: random.Random) -> str:
    for _ in range(rng.randint(1, 3)):
        start = rng.randrange(len(text))
        end = min(len(text), start + rng.choice([1, 1, 2, 5, 40]))
        kind = rng.randrange(5)
        if kind == 0:
            text = text[:start] + text[end:]
        elif kind == 1:
            text = text[:start] + rng.choice('"%^(){}[]<>,:=#!-.0x9é\\\n\x00/') + text[start:]
        elif kind == 2:
            text = (
                text[:start] + chr(rng.choice([rng.randrange(32, 127), rng.randrange(1, 0xD800)])) + text[start + 1 :]
            )
        elif kind == 3:
            text = text[:end] + text[start:end] + text[end:]
        else:
            text = text[: max(1, start)] if rng.random() < 0.2 else text[:start] + text[end:] + text[start:end]
    return text


N = 100_000
HOSTILE = {
    "arrays": '"smec.return"() {a = ' + "[" * N,
    "closed arrays": '"smec.return"() {a = ' + "[" * N + "]" * N + "} : () -> ()",
    "regions": '"test.wrap"() ({' * 20_000,
    "closed regions": '"test.wrap"() ({' * 20_000 + "}) : () -> ()" * 20_000,
    "values": "%a" + ", %a" * N,
    "spaces": "%a" + " " * N + "x",
    "label": "^a" + " " * N + "(",
    "types": '"test.leaf"() : (' + "tensor<f32>, " * N + "tensor<f32>) -> ()",
    "dims": '"test.leaf"() {a = tensor<' + "1x" * N + "<a><b>>}",
    "blank dims": '"test.leaf"() {a = tensor<' + " " * N + "<a><b>>}",
    "string": '"' + "a" * N,
    "location": '"test.leaf"() : () -> () loc(' + " " * N + '"a' + '\\"' * N,
    "digits": '"test.leaf"() {a = ' + "1" * N,
    "dense": '"test.leaf"() {a = array<i64: ' + "1" * N + ">} : () -> ()",
    "handle": '"test.leaf"() {a = #smec.handle<"' + "a" * N + ">} : () -> ()",
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_text_is_refused_in_linear_time(case: str) -> None:
    """Patterns that backtrack more than linearly would take minutes here."""
    with pytest.raises(SmecError) as caught:
        parse_module('"builtin.module"() ({\n' + HOSTILE[case] + "}) : () -> ()", "f.mlir")
    assert isinstance(caught.value.location, SourceSpan)
    assert len(str(caught.value)) < 1500


# -- side file ---------------------------------------------------------------------------------------------------------


def test_save_and_load(tmp_path: Path) -> None:
    module = small()
    path = tmp_path / "module.mlir"
    save_module(module, path)
    first = (path.read_bytes(), side_file(path).read_bytes())
    again = load_module(path)
    assert_same(module, again)
    save_module(again, path)
    assert (path.read_bytes(), side_file(path).read_bytes()) == first


def test_without_side_file(tmp_path: Path) -> None:
    module = small()
    path = tmp_path / "module.mlir"
    save_module(module, path)
    side_file(path).unlink()
    again = load_module(path)
    verify(again)
    assert print_module(again) == print_module(module)
    table = next(op for op in again.graph.ops if op.name == "test.add").attributes["table"]
    assert isinstance(table, Handle)
    assert (table.shape, table.dtype) == ((2, 3), np.float32)
    assert table == next(iter(handles(module).values()))
    with pytest.raises(SmecError, match=r"node 'node': array [0-9a-f]{12} of 'test.add' is not loaded"):
        _ = table.array


def test_wrong_arrays(tmp_path: Path) -> None:
    module = small()
    text = print_module(module)
    digest = next(iter(handles(module)))
    with pytest.raises(SmecError, match=r"array \w{12} of 'test.add' is not in the side file"):
        parse_module(text, weights={})
    with pytest.raises(SmecError, match="has other contents than its digest says"):
        parse_module(text, weights={digest: np.zeros((2, 3), np.float32)})
    with pytest.raises(SmecError, match=r"array is not what the handle says.*expected float32 \[3, 2\]"):
        parse_module(text.replace("[2, 3]", "[3, 2]"), weights=handles(module))
    path = tmp_path / "module.mlir"
    save_module(module, path)
    side = side_file(path)
    damaged = bytearray(side.read_bytes())
    damaged[-1] ^= 1
    side.write_bytes(damaged)
    with pytest.raises(SmecError, match="is damaged"):
        load_weights(side)
    side.write_bytes(b"nonsense")
    with pytest.raises(SmecError, match="side file cannot be read"):
        load_module(path)
    with pytest.raises(SmecError, match="side file not found"):
        load_weights(tmp_path / "absent.safetensors")
    with pytest.raises(SmecError, match="module cannot be read"):
        load_module(tmp_path / "absent.mlir")
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(SmecError, match="not a text in UTF-8"):
        load_module(path)


def test_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smec.ir.parser.MAX_TEXT", 10)
    with pytest.raises(SmecError, match="text is too long"):
        parse_module(print_module(small()))
