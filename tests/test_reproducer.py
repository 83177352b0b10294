"""Passes that fail: they are named, and leave a file that repeats the failure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from opt_cases import BROKEN, CALIB, MODEL, run

import smec
from smec.ir.errors import SmecError
from smec.ir.printer import print_module
from smec.opt import Settings, optimize
from smec.passes.reproducer import read_reproducer


def test_a_pass_that_throws_leaves_a_reproducer(dumped: tuple[Path, bytes], broken: Path, tmp_path: Path) -> None:
    repro = tmp_path / "r.mlir"
    words = (dumped[0] / "04-quantize-nearest.mlir", "--plugin", broken, "--reproducer", repro)
    result = run(*words, "-p", "tile,throw,compact,slice-bits")
    assert result.exit_code == 1
    error, hint = result.output.splitlines()
    assert error.endswith(
        f"pass 'throw' (plug-in {broken.resolve()}) fails: ZeroDivisionError: integer division or modulo by zero"
    )
    assert hint == f"hint: `smec opt {repro}` repeats it"
    # The file alone has all that is needed: the module before the pass, its arrays, the passes, the plug-in's place.
    text = repro.read_text()
    assert text.splitlines()[0].startswith("// smec reproducer: pass 'throw'")
    assert text.splitlines()[1] == f"// run: smec opt {repro}"
    again = run(repro)
    assert again.exit_code == 1
    assert f"pass 'throw' (plug-in {broken.resolve()}) fails: ZeroDivisionError" in again.output
    found = read_reproducer(text, str(repro))
    assert found.pipeline == "throw,compact,slice-bits"
    assert print_module(found.module) == print_module(optimize_file(dumped[0] / "04-quantize-nearest.mlir", "tile"))
    # Without the pass the rest runs: the module is whole.
    assert run(repro, "-p", "compact,slice-bits,group-rows,assign-cores").exit_code == 0


def optimize_file(path: Path, pipeline: str) -> Any:
    return optimize(path.read_text(), str(path), Settings(pipeline=pipeline), print)[0]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "forget",
            r"invalid module after pass 'forget' .plug-in .*broken.py.: 'xbar.conv': lacks its attribute 'codes'",
        ),
        ("mute", r"pass 'mute' \(plug-in .*broken.py\) does not say whether it changed the module .*found None"),
        ("unquantize", r"invalid module after pass 'unquantize' .*has no integer weights at level quant"),
    ],
)
def test_a_pass_that_misbehaves_is_named(
    name: str, message: str, dumped: tuple[Path, bytes], broken: Path, tmp_path: Path
) -> None:
    repro = tmp_path / "r.mlir"
    with pytest.raises(SmecError, match=message) as caught:
        smec.compile(dumped[0] / "05-tile.mlir", pipeline=f"{name},compact", plugins=[broken], reproducer=repro)
    assert f"`smec opt {repro}` repeats it" in str(caught.value)
    again = run(repro)
    assert again.exit_code == 1
    assert f"pass '{name}'" in again.output


def test_a_reproducer_holds_calibration_data(tmp_path: Path, broken: Path) -> None:
    broken.write_text(
        BROKEN
        + """
@register_pass
@dataclass(frozen=True)
class OnData(Pass):
    name = "on-data"

    def run(self, module, context):
        raise ValueError(str(context.calibration["image"].shape))
"""
    )
    repro = tmp_path / "r.mlir"
    with pytest.raises(SmecError, match=r"ValueError: \(256, 1, 8, 8\)"):
        smec.compile(MODEL, calib=CALIB, pipeline="on-data", plugins=[broken], reproducer=repro)
    assert "ValueError: (256, 1, 8, 8)" in run(repro).output


def test_a_reproducer_by_default_is_a_temporary_file(
    tmp_path: Path, broken: Path, dumped: tuple[Path, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    result = run(dumped[0] / "05-tile.mlir", "-p", "throw", "--plugin", broken)
    (repro,) = tmp_path.glob("smec-reproducer-*.mlir")
    assert str(repro) in result.output
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "absent"))
    assert "no reproducer: " in run(dumped[0] / "05-tile.mlir", "-p", "throw", "--plugin", broken).output


def test_large_arrays_stand_beside_a_reproducer(
    tmp_path: Path, broken: Path, dumped: tuple[Path, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("smec.passes.reproducer.MAX_EMBEDDED", 1000)
    repro = tmp_path / "r.mlir"
    run(dumped[0] / "05-tile.mlir", "-p", "throw", "--plugin", broken, "--reproducer", repro)
    assert (tmp_path / "r.safetensors").is_file()
    assert "ZeroDivisionError" in run(repro).output


def test_a_damaged_reproducer(tmp_path: Path, broken: Path, dumped: tuple[Path, bytes]) -> None:
    repro = tmp_path / "r.mlir"
    run(dumped[0] / "05-tile.mlir", "-p", "throw", "--plugin", broken, "--reproducer", repro)
    text = repro.read_text()
    for old, new in (('{"pipeline"', "{"), ("//:", "// "), (text[-40:-1], "")):
        repro.write_text(text.replace(old, new))
        result = run(repro)
        assert result.exit_code == 1
        assert str(repro) in result.output
        assert "internal error" not in result.output
