"""`smec opt`, and compilations that go on from files (what a failing pass leaves behind: `test_reproducer`)."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from opt_cases import CALIB, MODEL, run

import shared
import smec
from ir_cases import read_with_xdsl
from smec import cli, targets
from smec.ir.errors import SmecError
from smec.ir.printer import print_module
from smec.ir.store import load_module, save_module
from smec.ir.types import Handle
from smec.opt import Settings, optimize, split
from smec.passes.base import PassContext
from smec.passes.pipeline import Pipeline, parse_pipeline

# -- going on ----------------------------------------------------------------------------------------------------------


def test_every_level_goes_on_to_the_same_program(dumped: tuple[Path, bytes]) -> None:
    folder, program = dumped
    files = sorted(folder.glob("*.mlir"))
    assert [f.stem.partition("-")[2] for f in files] == ["import", *_names(load_module(files[-1]))]
    for file in files:
        calib = CALIB if file.name < "03" else None
        assert smec.compile(file, calib=calib).to_bytes() == program, file.name


def _names(module: Any) -> list[str]:
    return [text.partition("{")[0] for text in module.passes]


def test_opt_goes_on_to_the_same_program(dumped: tuple[Path, bytes], tmp_path: Path) -> None:
    """Pass by pass through files, by `opt`; then `compile` makes the program of the last."""
    folder, program = dumped
    module = load_module(folder / "00-import.mlir")
    current = tmp_path / "a.mlir"
    save_module(module, current)
    for item in parse_pipeline(module.pipeline):
        after = tmp_path / f"{item.name}.mlir"
        assert run(current, "-p", item.text(), "-o", after, "--calib", CALIB).exit_code == 0
        current = after
    result = CliRunner().invoke(cli.main, ["compile", str(current), "-o", str(tmp_path / "p.smebin")])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "p.smebin").read_bytes() == program


def test_compile_to_a_level_and_on(tmp_path: Path, dumped: tuple[Path, bytes]) -> None:
    options = ["--calib", str(CALIB), "--squeeze", "5", "--shift", "fit"]
    middle, end = tmp_path / "m.mlir", tmp_path / "p.smebin"
    invoke = CliRunner().invoke
    result = invoke(cli.main, ["compile", str(MODEL), *options, "--compile-to", "xbar.squeezed", "-o", str(middle)])
    assert result.exit_code == 0, result.output
    folder = tmp_path / "rest"
    result = invoke(cli.main, ["compile", str(middle), "-o", str(end), "--dump-ir", str(folder)])
    assert result.exit_code == 0, result.output
    assert end.read_bytes() == dumped[1]
    # The numbers go on where the first compilation stopped.
    assert [f.name for f in sorted(folder.glob("*.mlir"))] == [f.name for f in sorted(dumped[0].glob("*.mlir"))][7:]


def test_a_quantizer_that_needs_the_float_network_goes_on(tmp_path: Path) -> None:
    options: dict[str, Any] = {"quantizer": "greedy", "squeeze": 5, "sign": "twos-complement"}
    program = smec.compile(MODEL, calib=CALIB, dump_ir=tmp_path, **options)
    file = tmp_path / "03-quantize-activations.mlir"
    assert load_module(file).float_graph is not None
    assert smec.compile(file, calib=CALIB).to_bytes() == program.to_bytes()
    with pytest.raises(SmecError, match="compiled with 256 calibration images, which the next pass needs"):
        smec.compile(file)
    assert load_module(tmp_path / "04-quantize-greedy.mlir").float_graph is None


def test_a_module_in_memory_goes_on(dumped: tuple[Path, bytes]) -> None:
    module = smec.lower(MODEL, "quant", calib=CALIB, squeeze=5, shift="fit")
    text = print_module(module)
    assert smec.compile(module).to_bytes() == dumped[1]
    assert print_module(module) == text  # it is left as it is


def test_options_belong_to_the_module(dumped: tuple[Path, bytes], tmp_path: Path) -> None:
    file = str(dumped[0] / "05-tile.mlir")
    for option in (["--bits", "4"], ["--target", "isaac"], ["--seed", "1"], ["--input-shape", "x=1"]):
        result = CliRunner().invoke(cli.main, ["compile", file, "-o", str(tmp_path / "p.smebin"), *option])
        assert result.exit_code == 2
        assert f"{option[0]} has no effect on a module" in result.output


def test_wrong_data(dumped: tuple[Path, bytes], tmp_path: Path) -> None:
    folder, program = dumped
    other = np.load(shared.EXAMPLES / "digits_test.npz")["image"]
    for name in ("03-quantize-activations.mlir", "05-tile.mlir"):
        with pytest.raises(SmecError, match="the module was calibrated on other data"):
            smec.compile(folder / name, calib=other)
    # In front of `calibrate` other data are welcome.
    assert smec.compile(folder / "01-partition.mlir", calib=other).to_bytes() != program
    with pytest.raises(SmecError, match="compiled with 256 calibration images, which the next pass needs"):
        smec.compile(folder / "01-partition.mlir")
    module = smec.lower(MODEL, "nn.calibrated")
    with pytest.raises(SmecError, match=r"other data .expected synthetic inputs, found 360 images"):
        smec.compile(module, calib=other)


def test_own_pipeline_for_the_rest(dumped: tuple[Path, bytes]) -> None:
    rest = "compact,slice-bits,group-rows,assign-cores,emit"
    program = smec.compile(dumped[0] / "05-tile.mlir", pipeline=rest)
    ran = program.metadata["options"]["pipeline"]
    assert ran.endswith(f"tile,{rest}")
    assert "squeeze" not in ran.partition("tile")[2]
    module = load_module(dumped[0] / "05-tile.mlir")
    Pipeline([parse_pipeline("compact").passes[0]]).run(module, PassContext(target=targets.load("sme")))
    with pytest.raises(SmecError, match="are not the beginning of the module's pipeline"):
        smec.compile(module)
    del module.attributes["pipeline"]
    with pytest.raises(SmecError, match="the module names no pipeline"):
        smec.compile(module)


def test_a_target_of_one_s_own_travels(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('inherits = "sme"\nname = "mine"\nadc_bits = 6\n')
    program = smec.compile(MODEL, target=file, dump_ir=tmp_path / "ir")
    file.unlink()
    for name in ("00-import.mlir", "08-group-rows.mlir"):
        assert smec.compile(tmp_path / "ir" / name).to_bytes() == program.to_bytes()
    module = load_module(tmp_path / "ir" / "05-tile.mlir")
    for wrong in ('{"name": 1}', "{", "mine"):
        module.attributes["target"] = wrong
        with pytest.raises(SmecError, match="target"):
            smec.compile(module)


@pytest.mark.slow
@pytest.mark.parametrize(
    "model",
    [shared.RESNET20, shared.MOBILENET_V2, shared.ZOO / "mtcnn_onet.onnx", shared.ZOO / "light_shufflenet.onnx"],
    ids=lambda path: path.stem,
)
@shared.needs(shared.RESNET20, shared.MOBILENET_V2, shared.ZOO)
def test_real_networks_go_on(model: Path, tmp_path: Path) -> None:
    """At every level: text is read back as it was, and leads to the same program; xDSL reads it, where there is one."""
    program = smec.compile(model, dump_ir=tmp_path).to_bytes()
    files = sorted(tmp_path.glob("*.mlir"))
    assert len(files) == 11
    for file in files:
        module = load_module(file)
        text = file.read_text(encoding="utf-8")
        assert print_module(module) == text
        if find_spec("xdsl") is not None:
            read_with_xdsl(text)
        assert smec.compile(module).to_bytes() == program, file.name


# -- the command -------------------------------------------------------------------------------------------------------


def test_text_in_text_out(dumped: tuple[Path, bytes], tmp_path: Path) -> None:
    file = dumped[0] / "04-quantize-nearest.mlir"
    out = tmp_path / "out.mlir"
    result = run(file, "-p", "tile", "-o", out)
    assert result.exit_code == 0
    assert not result.output
    assert out.read_text() == (dumped[0] / "05-tile.mlir").read_text()
    assert out.with_suffix(".safetensors").is_file()
    # Standard output carries the text alone; so does standard input.
    assert run(file, "-p", "tile").stdout == out.read_text()
    echoed = CliRunner().invoke(cli.main, ["opt", "-"], input=file.read_text())
    assert echoed.exit_code == 0, echoed.output
    assert echoed.stdout == file.read_text()


def test_what_stands_in_the_way(tmp_path: Path, dumped: tuple[Path, bytes]) -> None:
    file = dumped[0] / "05-tile.mlir"
    for words, message in (
        ((tmp_path / "absent.mlir",), "module cannot be read"),
        ((file, "-p", "compactt"), "unknown pass 'compactt'"),
        ((file, "-o", file), "the output would replace an input"),
        ((file, "--print-ir-after", "tile"), "no pass 'tile' in the pipeline"),
        ((file, "--plugin", tmp_path / "absent.py"), "plug-in not found"),
    ):
        result = run(*words)
        assert result.exit_code == 1
        assert message in result.output
    (tmp_path / "x.mlir").write_bytes(b"\xff")
    assert "not a text in UTF-8" in run(tmp_path / "x.mlir").output


def test_printing_on_the_way(dumped: tuple[Path, bytes]) -> None:
    file = dumped[0] / "04-quantize-nearest.mlir"
    pipeline = "tile,compact,compact,slice-bits"

    def shown(*words: str) -> list[str]:
        lines = run(file, "-p", pipeline, *words).stderr.splitlines()
        return [line.removeprefix("// ---- module ") for line in lines if line.startswith("// ----")]

    assert shown() == []
    assert shown("--print-ir-before", "tile", "--print-ir-after", "slice-bits") == ["before tile", "after slice-bits"]
    assert shown("--print-ir-after-all") == ["after tile", "after compact", "after compact", "after slice-bits"]
    assert shown("--print-ir-after-change")[-1] == "after slice-bits"
    assert len(shown("--print-ir-after-change")) < 4  # the second compaction changes nothing
    assert '"xbar.conv"' in run(file, "-p", pipeline, "--print-ir-after", "tile").stderr


def test_times(dumped: tuple[Path, bytes]) -> None:
    result = run(dumped[0] / "04-quantize-nearest.mlir", "-p", "tile,compact", "--time-passes")
    lines = result.stderr.splitlines()
    assert lines[0].startswith("// ---- passes: seconds, share, MiB")
    assert [line.split()[-1] for line in lines[1:]] == ["tile", "compact", "total"]
    total = float(lines[-1].split()[0])
    assert abs(sum(float(line.split()[0]) for line in lines[1:-1]) - total) < 1e-3
    assert all(float(line.split()[3]) > 10 for line in lines[1:])


# -- results -----------------------------------------------------------------------------------------------------------


def test_verify_each(dumped: tuple[Path, bytes]) -> None:
    module = load_module(dumped[0] / "00-import.mlir")
    result = run(dumped[0] / "00-import.mlir", "-p", module.pipeline, "--calib", CALIB, "--verify-each")
    assert result.exit_code == 0, result.output
    lines = [line.removeprefix("// ---- ") for line in result.stderr.splitlines()]
    assert lines[:3] == [
        "'partition': same result on 4 images",
        "'calibrate': same result on 4 images",
        "quantize-activations: not computable yet",
    ]
    assert lines[3].startswith(
        "'quantize-activations' and 'quantize-nearest': output 'logits' differs in 40 of 40 values"
    )
    assert lines[4] == "'tile': same result on 4 images"
    assert lines[5].startswith("'squeeze-out': output 'logits' differs")
    assert [line.split(":")[1] for line in lines[6:]] == [" same result on 4 images"] * 5


def test_verify_each_names_a_broken_pass(dumped: tuple[Path, bytes], broken: Path) -> None:
    pipeline = "tile,compact,flip,slice-bits,group-rows,assign-cores,emit"
    words = (dumped[0] / "04-quantize-nearest.mlir", "-p", pipeline, "--plugin", broken)
    result = run(*words, "--verify-each", "--images", "2")
    assert result.exit_code == 1
    message = result.stderr.splitlines()[-2]
    assert f"pass 'flip' (plug-in {broken.resolve()}) changes the result: output 'logits' differs in " in message
    assert " of 20 values by up to " in message
    assert "'compact': same result on 2 images" in result.stderr
    assert run(*words).exit_code == 0  # nobody looked


def test_verify_each_sees_cells_and_groups(dumped: tuple[Path, bytes]) -> None:
    """The meaning of a layer on crossbars is what the crossbars hold, at each step."""
    for name, key in (
        ("08-slice-bits", "cells"),
        ("09-group-rows", "row_group"),
        ("05-tile", "codes"),
        ("06-squeeze-out", "shifts"),
    ):
        module = load_module(dumped[0] / f"{name}.mlir")
        op: Any = next(op for op in module.graph.ops if op.name == "xbar.conv")
        array = op.attributes[key].array.copy()
        array.flat[:200] = -1 if key == "row_group" else array.flat[:200] ^ 1
        op.attributes[key] = Handle(array)
        assert not np.array_equal(op.effective_weights(), op.integers()), name


# -- several modules, and their errors ---------------------------------------------------------------------------------

GOOD = """\
"builtin.module"() ({
  "smec.graph"() ({
  ^bb0(%x: tensor<1x4xf32>):
    %q = "quant.quantize"(%x) : (tensor<1x4xf32>) -> tensor<1x4x!quant.u<8, 0.5, 0>> loc("m.onnx":0:0)
    %y = "quant.dequantize"(%q) : (tensor<1x4x!quant.u<8, 0.5, 0>>) -> tensor<1x4xf32> loc("m.onnx":0:0)
    "smec.return"(%y) : (tensor<1x4xf32>) -> () loc("m.onnx":0:0)
  }) {opset = 17 : i64, input_names = ["x"], output_names = ["y"]} : () -> () loc("m.onnx":0:0)
}) : () -> () loc("m.onnx":0:0)
"""

SEVERAL = (
    GOOD
    + "// -----\n"
    + GOOD.replace(
        '"quant.dequantize"(%q) : (tensor<1x4x!quant.u<8, 0.5, 0>>) -> tensor<1x4xf32>',
        '"quant.reshape"(%q) : (tensor<1x4x!quant.u<8, 0.5, 0>>) -> tensor<1x5xf32>',
    ).replace("(%y) : (tensor<1x4xf32>)", "(%y) : (tensor<1x5xf32>)").replace(
        '    %y = ', "    // expected-error@+1 {{number of elements changes}}\n    %y = "
    )
    + "// -----\n"
    + GOOD.replace('opset = 17 : i64, ', "").replace(
        '  "smec.graph"', "  // expected-error@below {{lacks its attribute 'opset'}}\n  \"smec.graph\""
    )
    + "// -----\n"
    + GOOD.replace('"quant.quantize"(%x)', '"quant.quantize"(%z)').replace(
        "    %q =", "    // expected-error@+1 {{value %z is not defined}}\n    %q ="
    )
)  # fmt: skip


def test_split_input() -> None:
    parts = split(SEVERAL)
    assert len(parts) == 4
    lines = SEVERAL.split("\n")
    for part in parts:
        for number, line in enumerate(part.split("\n")):
            assert not line or lines[number] == line
    shown: list[str] = []
    two = optimize(GOOD + "// -----\n" + GOOD, "f.mlir", Settings(split_input_file=True), shown.append)
    assert len(two) == 2


def test_split_output(tmp_path: Path) -> None:
    file = tmp_path / "two.mlir"
    file.write_text(GOOD + "// -----\n" + GOOD)
    result = run(file, "--split-input-file")
    assert result.stdout.count("// -----\n") == 1
    file.write_text(result.stdout)
    assert run(file, "--split-input-file").stdout == result.stdout
    assert (
        "several modules have no place in one file" in run(file, "--split-input-file", "-o", tmp_path / "o.mlir").output
    )
    assert "syntax error" in run(file).output


def test_expected_diagnostics(tmp_path: Path) -> None:
    file = tmp_path / "several.mlir"
    file.write_text(SEVERAL)
    result = run(file, "--split-input-file", "--verify-diagnostics")
    assert result.exit_code == 0, result.output
    assert not result.output

    def faults(old: str, new: str) -> str:
        file.write_text(SEVERAL.replace(old, new, 1))
        result = run(file, "--split-input-file", "--verify-diagnostics")
        assert result.exit_code == 1
        return result.output

    assert "unexpected error \"'quant.reshape': number of elements changes\", expected 'depth'" in faults(
        "{{number of elements changes}}", "{{depth}}"
    )
    assert "unexpected error" in faults("error@+1", "error@-1")
    assert ":4: no error, expected 'nothing'" in faults("    %q", "    // expected-error {{nothing}}\n    %q")
    assert "unexpected error 'value %z is not defined before its use', expected none" in faults(
        "// expected-error@+1 {{value", "// {{value"
    )


def test_errors_show_the_line_of_the_text(tmp_path: Path) -> None:
    """Of an operation that was read from a text both places are shown: the model's node and the line."""
    file = tmp_path / "f.mlir"
    file.write_text(split(SEVERAL)[1].lstrip("\n"))
    assert run(file).output.splitlines() == [
        "error: m.onnx: 'quant.reshape': number of elements changes (expected 4, found 5)",
        f"  at {file}:6:10",
        "  " + file.read_text().splitlines()[5],
        "           " + "^" * len('"quant.reshape"'),
    ]
