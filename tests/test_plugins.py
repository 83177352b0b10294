"""Plug-ins: passes and patterns from files and from Python, and what is said of those that misbehave."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import shared
import smec
from smec import cli
from smec.ir.dialects.builtin import ModuleOp
from smec.ir.errors import SmecError
from smec.passes import base, patterns
from smec.passes.base import Pass, PassContext

MODEL = shared.EXAMPLES / "digits_resnet.onnx"
TEST = shared.EXAMPLES / "digits_test.npz"
PLUGIN = shared.EXAMPLES / "plugin_package" / "smec_example.py"


@pytest.fixture(autouse=True)
def _registries() -> Iterator[None]:
    """Leave the registries as they were."""
    with shared.restored(base.PASSES, patterns.PATTERNS):
        yield


def write(folder: Path, text: str, name: str = "plugin.py") -> Path:
    path = folder / name
    path.write_text(
        "from dataclasses import dataclass\nfrom smec.passes.base import *\nfrom smec.passes.patterns import *\n" + text
    )
    return path


# -- the example -------------------------------------------------------------------------------------------------------


def test_the_example_is_short() -> None:
    assert len(PLUGIN.read_text(encoding="utf-8").splitlines()) < 60


def test_the_example_by_file_and_by_python(tmp_path: Path) -> None:
    """By `--plugin` and by a pipeline object: one program, equal to its quantized network bit for bit."""
    path = str(tmp_path / "p.smebin")
    run = CliRunner().invoke
    text = "quantize-nearest{pattern=coarse:2},drop-small{below=5}"
    whole = f"partition,calibrate,quantize-activations,{text},tile,compact,slice-bits,group-rows,assign-cores,emit"
    result = run(cli.main, ["compile", str(MODEL), "-o", path, "--plugin", str(PLUGIN), "--pipeline", whole])
    assert result.exit_code == 0, result.output
    result = run(cli.main, ["verify", str(MODEL), path, "--input", str(TEST)])
    assert result.exit_code == 0, result.output

    smec.load_plugin(PLUGIN)
    drop = base.pass_class("drop-small")(below=5)  # type: ignore[call-arg]  # the plug-in's own option
    nearest = smec.parse_pipeline("quantize-nearest{pattern=coarse:2}").passes[0]
    pipeline = smec.default_pipeline(squeeze=4).replace("quantize-nearest", nearest)
    pipeline.insert_before("tile", drop).remove("squeeze-out")
    assert smec.compile(MODEL, pipeline=pipeline).to_bytes() == Path(path).read_bytes()


def test_the_example_on_the_command_line(tmp_path: Path) -> None:
    path, words = tmp_path / "p.smebin", ["--plugin", str(PLUGIN)]
    run = CliRunner().invoke
    assert "magnitudes below this become 0" in run(cli.main, ["passes", "drop-small", *words]).output
    result = run(cli.main, ["compile", str(MODEL), "-o", str(path), "--pattern", "coarse:3", *words])
    assert result.exit_code == 0, result.output
    program = smec.Program.load(path)
    assert min(np.abs(program.sections["xbar_weight"])) == 8
    refused = run(cli.main, ["compile", str(MODEL), "-o", str(path), "--pattern", "coarze", *words])
    assert refused.exit_code == 1
    assert "unknown pattern 'coarze'" in refused.output
    assert "did you mean 'coarse'" in refused.output


def test_the_example_changes_the_result_as_it_says() -> None:
    """`exact` is not just a word: the example pass rounds, and a pass that claims not to would be found out."""
    smec.load_plugin(PLUGIN)
    assert not base.pass_class("drop-small").exact


# -- pipelines in Python -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CountLayers(Pass):
    """Reports how many layers there are; it is not registered, and need not be."""

    name = "count-layers"

    def run(self, module: ModuleOp, context: PassContext) -> bool:
        context.report[self.name] = sum(op.name == "xbar.conv" for op in module.graph.ops)
        return False


def test_a_pipeline_object_runs_unregistered_passes() -> None:
    report: dict[str, Any] = {}
    pipeline = smec.default_pipeline().insert_after("tile", CountLayers())
    program = smec.compile(MODEL, pipeline=pipeline, report=report)
    assert report["count-layers"] == 9
    assert "count-layers" in program.metadata["options"]["pipeline"]
    plain = smec.compile(MODEL)
    assert all(np.array_equal(a, plain.sections[n]) for n, a in program.sections.items())


# -- misbehaviour ------------------------------------------------------------------------------------------------------


def test_files_that_cannot_be_loaded(tmp_path: Path) -> None:
    for path, message in (
        (tmp_path / "absent.py", "plug-in not found"),
        (write(tmp_path, "", "plugin.txt"), "plug-in is not a Python file"),
        (write(tmp_path, "1 / 0", "zero.py"), "zero.py: plug-in fails: ZeroDivisionError: division by zero"),
        (write(tmp_path, "def", "syntax.py"), "syntax.py: plug-in fails: SyntaxError"),
        (
            write(tmp_path, "@register_pass\n@dataclass(frozen=True)\nclass T(Pass):\n    name = 'tile'\n", "taken.py"),
            "taken.py: pass name 'tile' is taken by smec.passes.tile.Tile",
        ),
        (
            write(tmp_path, "@register_pass\nclass T(Pass):\n    name = 't'\n", "thawed.py"),
            "thawed.py: pass class smec_plugin_thawed_[0-9a-f]{12}.T is not a frozen dataclass",
        ),
        (
            write(
                tmp_path, "@register_pattern\n@dataclass(frozen=True)\nclass T(Pattern):\n    name = 'pot'\n", "pot.py"
            ),
            "pot.py: pattern name 'pot' is taken by smec.passes.patterns.Pot",
        ),
    ):
        base.pass_class("tile")
        with pytest.raises(SmecError, match=message):
            smec.compile(MODEL, plugins=[path])


PATTERN = """
@register_pattern
@dataclass(frozen=True)
class Odd(Pattern):
    name = "odd"

    def magnitudes(self, bits):
        {body}
"""


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return [1, 1 // 0]", r"pattern 'odd' \(plug-in .*plugin.py\) fails: ZeroDivisionError"),
        ("return ['a']", r"pattern 'odd' \(plug-in .*plugin.py\) fails: ValueError"),
        ("return None", r"pattern 'odd' \(plug-in .*plugin.py\) fails: TypeError"),
        ("return [1 << bits]", r"pattern 'odd' has magnitudes out of range .expected 0..255"),
    ],
)
def test_a_pattern_that_misbehaves_is_named(body: str, message: str, tmp_path: Path) -> None:
    path = write(tmp_path, PATTERN.format(body=body))
    with pytest.raises(SmecError, match=message):
        smec.compile(MODEL, plugins=[path], pattern="odd")


def test_files_of_one_name_do_not_meet(tmp_path: Path) -> None:
    head = "@register_pass\n@dataclass(frozen=True)\nclass T(Pass):\n    name = '{}'\n"
    text = head + "    def run(self, module, context):\n        return False\n"
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        smec.load_plugin(write(tmp_path / folder, text.format(folder)))
    assert {"one", "two"} <= set(base.pass_names())
    assert base.origin(base.pass_class("two")) == str(tmp_path / "two" / "plugin.py")
    smec.load_plugin(tmp_path / "two" / "plugin.py")  # again


def test_packages_that_cannot_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise RuntimeError("boom")

    point = SimpleNamespace(name="odd", value="odd.package:Odd", load=fail, dist=SimpleNamespace(name="odd-package"))
    monkeypatch.setattr(base.REGISTRY, "offered", lambda: {"odd": point})
    monkeypatch.setattr(patterns.REGISTRY, "offered", lambda: {"odd": point})
    with pytest.raises(
        SmecError, match=r"pass 'odd' cannot be loaded from odd.package:Odd of package odd-package: Runtime"
    ):
        smec.parse_pipeline("odd")
    with pytest.raises(SmecError, match=r"pattern 'odd' cannot be loaded from odd.package:Odd.*: RuntimeError: boom"):
        smec.compile(MODEL, pattern="odd")
