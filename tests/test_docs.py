"""The README and the pages in docs/ say what is true: their Python blocks run, and so does every `smec` command."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

import shared
from smec import cli
from smec.ir.dialects.isa import isa_markdown
from smec.ir.reference import ir_markdown
from smec.passes.base import PASSES
from smec.passes.host_costs import HOST_COSTS
from smec.passes.patterns import PATTERNS
from smec.schemes import SCHEMES
from smec.targets.plugins import KNOWN

PAGES = [shared.ROOT / "README.md", *sorted((shared.ROOT / "docs").glob("*.md"))]

#: Files that the pages speak of as the reader's own.
STAND_INS = {
    "model.onnx": "digits_resnet.onnx",
    "MODEL.onnx": "digits_resnet.onnx",
    "calib.npz": "digits_calib.npz",
    "CALIB.npz": "digits_calib.npz",
    "test.npz": "digits_test.npz",
    "DATA.npz": "digits_test.npz",
}


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a page in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder as a reader of the pages has it: the examples, and a model and data of one's own."""
    for name, original in STAND_INS.items():
        shutil.copy(shared.EXAMPLES / original, tmp_path / name)
    (tmp_path / "examples").symlink_to(shared.EXAMPLES)
    monkeypatch.chdir(tmp_path)
    # Pages register passes, patterns, ... of their own.
    with shared.restored(PASSES, PATTERNS, SCHEMES, HOST_COSTS, KNOWN):
        yield tmp_path


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_python_blocks_run(page: Path, reader: Path) -> None:
    scope: dict[str, object] = {"__name__": "page"}
    found = blocks(page, "python")
    if any(re.search(r"^import torch$", block, re.MULTILINE) for block in found):
        pytest.importorskip("torch", reason="torch is not installed")
    for block in found:
        exec(compile(block, str(page), "exec", dont_inherit=True), scope)  # noqa: S102  # the repository's own pages


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_commands_run(page: Path, reader: Path) -> None:
    for block in blocks(page, "sh"):
        for line in block.splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["smec"]:
                result = CliRunner().invoke(cli.main, words[1:])
                assert result.exit_code == 0, f"{line}\n{result.output}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize(("name", "made"), [("isa.md", isa_markdown), ("ir.md", ir_markdown)], ids=["isa", "ir"])
def test_generated_pages(name: str, made: Callable[[], str], request: pytest.FixtureRequest) -> None:
    """Pages that follow from declarations; `pytest --renew-goldens tests/test_docs.py` writes them anew."""
    page = shared.ROOT / "docs" / name
    if request.config.getoption("--renew-goldens"):
        page.write_text(made(), encoding="utf-8")
    assert page.read_text(encoding="utf-8") == made()


def test_every_option_is_documented() -> None:
    text = (shared.ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    for command in cli.main.commands.values():
        assert f"smec {command.name}" in text
        for parameter in command.params:
            for option in parameter.opts:
                if option.startswith("--"):
                    assert option in text, f"{command.name} {option}"
