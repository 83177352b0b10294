"""Targets: presets, inheritance, and one located message for everything that can be wrong in a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from smec import targets
from smec.ir.errors import SmecError


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
