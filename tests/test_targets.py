"""Targets: presets, inheritance, and one located message for everything that can be wrong in a file."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

import shared
import smec
from smec import cli, targets
from smec.ir.errors import SmecError
from smec.record import target_text
from smec.targets import plugins
from smec.targets.figures import read_ns
from smec.targets.scaling import adc_curve


@pytest.mark.parametrize("name", targets.names())
def test_presets_load_and_carry_their_name(name: str) -> None:
    assert targets.load(name).name == name


def test_default_target_is_lossless_with_all_rows() -> None:
    sme = targets.load("sme")
    assert sme.rows * (2**sme.cell_bits - 1) * (2**sme.dac_bits - 1) <= 2**sme.adc_bits - 1


def test_file_inherits_and_overrides(tmp_path: Path) -> None:
    (tmp_path / "base.toml").write_text('inherits = "isaac"\nname = "base"\nrows = 64\n')
    (tmp_path / "mine.toml").write_text('inherits = "base.toml"\nname = "mine"\nadc_bits = 6\n')
    mine = targets.load(tmp_path / "mine.toml")
    assert (mine.name, mine.rows, mine.adc_bits, mine.cell_bits) == ("mine", 64, 6, 2)
    assert targets.load(mine) is mine


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('inherits = "sme"\nadc_bit = 6\n', "unknown key 'adc_bit'\nhint: did you mean 'adc_bits'?"),
        ('inherits = "sme"\nadc_bits = 0\n', "bad value of 'adc_bits'"),
        ('inherits = "sme"\nadc_bits = "6"\n', "bad value of 'adc_bits'"),
        ('inherits = "sme"\nclock_ghz = nan\n', "bad value of 'clock_ghz'"),
        ('name = "x"\n', "key 'rows' is missing (wordlines of a crossbar (R))"),
        ('inherits = "mine.toml"\n', "targets inherit from one another in a circle"),
        ("inherits = 3\n", "'inherits' names no target"),
        ("rows = \n", "not valid TOML"),
        ('inherits = "sme"\n[adc]\nrate = 1.0\n', "unknown key 'adc.rate'"),
        ('inherits = "sme"\n[adc]\nrate_gs_per = 1.0\n', "hint: did you mean 'adc.rate_gs_per_s'?"),
        ('inherits = "sme"\n[adcs]\n', "unknown key 'adcs'\nhint: did you mean 'adc'?"),
        ('inherits = "sme"\nadc = 3\n', "bad value of 'adc'"),
        ('inherits = "sme"\n[router]\ncores = 0\n', "bad value of 'router.cores'"),
        ('inherits = "sme"\n[buffer]\nbytes_per_ns = inf\n', "bad value of 'buffer.bytes_per_ns'"),
        ('inherits = "sme"\n[links]\npower_w = "10"\n', "bad value of 'links.power_w'"),
        ('inherits = "isac"\n', "unknown target 'isac'"),
    ],
)
def test_bad_files_are_diagnosed(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(text)
    with pytest.raises(SmecError) as caught:
        targets.load(file)
    assert message in str(caught.value)


def test_missing_file_and_foreign_bytes(tmp_path: Path) -> None:
    with pytest.raises(SmecError, match="cannot read the target"):
        targets.load(tmp_path / "none.toml")
    (tmp_path / "x.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SmecError, match="not UTF-8"):
        targets.load(tmp_path / "x.toml")
    with pytest.raises(SmecError, match="did you mean 'isaac'"):
        targets.load("isac")


def test_tables_inherit_key_by_key(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('inherits = "isaac"\n[chip]\ncores = 4\n[buffer]\nkib = 128\n')
    mine, isaac = targets.load(tmp_path / "mine.toml"), targets.load("isaac")
    assert (mine.chip.cores, mine.buffer.kib) == (4, 128)
    assert mine.buffer.power_mw == isaac.buffer.power_mw


MISSING = {
    ("host",): "key 'host' is missing (processor that runs host regions)",
    ("adc", "energy_pj"): "key 'adc.energy_pj' is missing (energy of a conversion, pJ)",
}


@pytest.mark.parametrize("path", MISSING)
def test_missing_table_and_key_say_what_they_mean(tmp_path: Path, path: tuple[str, ...]) -> None:
    values = targets.load("sme").model_dump(exclude_none=True)
    table = values if len(path) == 1 else values[path[0]]
    del table[path[-1]]
    lines = [f"{key} = {value!r}" for key, value in values.items() if not isinstance(value, dict)]
    for key, value in values.items():
        if isinstance(value, dict):
            lines += [f"[{key}]", *(f"{inner} = {number!r}" for inner, number in value.items())]
    file = tmp_path / "mine.toml"
    file.write_text("\n".join(lines))
    with pytest.raises(SmecError) as caught:
        targets.load(file)
    assert MISSING[path] in str(caught.value)


# -- published totals


#: ISAAC-CE, ISCA 2016, table I and the abstract.
ISAAC = {
    "ima_power_mw": 24.08, "tile_power_mw": 330.0, "tile_area_mm2": 0.372, "chip_power_w": 65.8, "chip_area_mm2": 85.4,
    "gops_per_s_mm2": 478.95, "gops_per_w": 627.5,
}  # fmt: skip


@pytest.mark.parametrize("name", ISAAC)
def test_isaac_reproduces_published_totals(name: str) -> None:
    assert targets.load("isaac").figures()[name] == pytest.approx(ISAAC[name], rel=0.01)


def test_difference_in_isaacs_efficiency_is_in_its_own_table() -> None:
    """Peak rate over published power is the published 627.5; over published area it is 483.5, not 478.95."""
    gops = targets.load("isaac").figures()["gops"]
    # 128 x 128 cells of 2 bits are 128 x 16 weights of 16 bits; 16 cycles of 100 ns; 96 crossbars; 168 tiles
    assert gops == pytest.approx(2 * 128 * 16 / 1600 * 96 * 168)
    assert gops / 65.8 == pytest.approx(627.5, rel=1e-4)
    assert gops / 85.4 == pytest.approx(483.5, rel=1e-3)
    assert gops / 478.95 == pytest.approx(86.2, rel=1e-3)  # the area that the published figure implies


def test_pumas_node_is_near_its_published_totals() -> None:
    """ASPLOS 2019, table 3: 62.5 W and 90.6 mm2; the simulator's constants add up to slightly more."""
    figures = targets.load("puma").figures()
    assert figures["chip_power_w"] == pytest.approx(62.5, rel=0.02)
    assert figures["chip_area_mm2"] == pytest.approx(90.6, rel=0.02)


def test_converter_banks_of_forms() -> None:
    """32 converters for 8 crossbars take 15.2 mW and 0.0091 mm2, and read 128 columns in a read cycle."""
    forms = targets.load("forms")
    assert 8 * forms.adc.per_bank * forms.adc.power_mw == pytest.approx(15.2)
    assert 8 * forms.adc.per_bank * forms.adc.area_mm2 == pytest.approx(0.0091)
    assert read_ns(forms) == pytest.approx(forms.read_cycle_ns, rel=1e-4)


def test_converter_follows_its_bits(tmp_path: Path) -> None:
    (tmp_path / "six.toml").write_text('inherits = "isaac"\nadc_bits = 6\n')
    six, isaac = targets.load(tmp_path / "six.toml"), targets.load("isaac")
    assert six.adc.bits == 6
    assert six.adc.energy_pj == pytest.approx(isaac.adc.energy_pj * 1.20 / 1.67)
    assert six.adc.area_mm2 == pytest.approx(isaac.adc.area_mm2 * 626.91 / 1200)
    # numbers that say for how many bits they are stay as they are
    (tmp_path / "own.toml").write_text('inherits = "isaac"\nadc_bits = 6\n[adc]\nbits = 6\nenergy_pj = 0.5\n')
    assert targets.load(tmp_path / "own.toml").adc.energy_pj == 0.5
    assert targets.load("sme-mlc2").adc.bits == 9
    # beyond the survey each bit changes as the last one did
    assert adc_curve(12)[0] == pytest.approx(2.379022742**3 / 1.969078145**2)
    assert adc_curve(2)[1] == pytest.approx(361.04**3 / 476.91**2)


def test_every_number_of_a_preset_says_where_it_is_from() -> None:
    """Beside it, in the line above it, or beside or above its table's name."""
    folder = resources.files(targets)
    for name in targets.names():
        above = table = False
        for line in (folder / f"{name}.toml").read_text("utf-8").splitlines():
            text, _, comment = (part.strip() for part in line.partition("#"))
            if text.startswith("["):
                table = above or bool(comment)
            elif re.match(r"\w+ *= *[-\d.]", text):
                assert table or above or comment, f"{name}.toml: {line}"
            above = bool(comment) and not text


# -- targets of plug-ins -----------------------------------------------------------------------------------------------


@pytest.fixture
def _plugins() -> Iterator[None]:
    """Leave no targets behind."""
    with shared.restored(plugins.KNOWN):
        yield


@pytest.mark.usefixtures("_plugins")
def test_plugins_name_targets(tmp_path: Path) -> None:
    """By numbers and by file, listed and used on the command line; others inherit from them."""
    (tmp_path / "two.toml").write_text('inherits = "one"\nname = "two"\nrows = 64\n')
    path = tmp_path / "plugin.py"
    path.write_text(
        "from pathlib import Path\nfrom smec.targets.plugins import register_target\n"
        "register_target('one', {'inherits': 'sme', 'name': 'one', 'adc_bits': 6})\n"
        "register_target('two', Path(__file__).with_name('two.toml'))\n"
    )
    run = CliRunner().invoke
    result = run(cli.main, ["targets", "--plugin", str(path), "--json", "-"])
    assert result.exit_code == 0, result.output
    listed = {target["name"]: target for target in json.loads(result.output)["targets"]}
    assert [*targets.presets(), "one", "two"] == list(listed)
    assert (listed["two"]["rows"], listed["two"]["adc_bits"], listed["two"]["cell_bits"]) == (64, 6, 1)
    program = smec.compile(shared.EXAMPLES / "digits_resnet.onnx", target="two", plugins=[path])
    assert program.metadata["target"]["rows"] == 64


@pytest.mark.usefixtures("_plugins")
def test_modules_hold_the_numbers_of_plugin_targets() -> None:
    """So that a compilation goes on without the plug-in."""
    plugins.register_target("one", {"inherits": "sme", "name": "one", "adc_bits": 6})
    text = target_text(targets.load("one"))
    plugins.KNOWN.clear()
    assert json.loads(text)["adc_bits"] == 6
    assert target_text(targets.load("sme")) == "sme"


@pytest.mark.usefixtures("_plugins")
def test_plugin_targets_that_are_wrong(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(SmecError, match=r"not a target's name .expected letters.*found 'a b'"):
        plugins.register_target("a b", {})
    with pytest.raises(SmecError, match="target name 'sme' is taken"):
        plugins.register_target("sme", {})
    plugins.register_target("one", {"inherits": "one"})
    plugins.register_target("one", {"inherits": "one"})  # a file that is loaded again
    with pytest.raises(SmecError, match="target name 'one' is taken"):
        plugins.register_target("one", {"inherits": "sme"})
    with pytest.raises(SmecError, match="targets inherit from one another in a circle"):
        targets.load("one")
    plugins.register_target("two", {"inherits": "sme", "row": 3})
    with pytest.raises(SmecError, match="target 'two': unknown key 'row'"):
        targets.load("two")
    plugins.register_target("three", tmp_path / "none.toml")
    with pytest.raises(SmecError, match=r"none.toml: cannot read the target"):
        targets.load("three")
    for load, message in (
        (lambda: 3, "what is registered as target 'four' is none .expected a mapping.*found 3"),
        (lambda: 1 // 0, "target 'four' cannot be loaded from a:b of package c: ZeroDivisionError"),
    ):
        point = SimpleNamespace(name="four", value="a:b", load=load, dist=SimpleNamespace(name="c"))
        monkeypatch.setattr(plugins, "points_of", lambda _, point=point: {"four": point})
        with pytest.raises(SmecError, match=message):
            targets.load("four")
