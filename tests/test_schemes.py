"""Schemes: their text, their programs bit for bit, their figures, and what is said of wrong ones."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

import shared
import smec
from smec import cli, schemes, targets
from smec.commands.compare import ALL_SCHEMES
from smec.comparison import compare
from smec.comparison_table import COLUMNS, markdown, rows
from smec.ir.errors import SmecError
from smec.passes.mapping.tiling import dense_tiles, grouped_tiles, widened
from smec.schemes import Scheme, parse_scheme, parse_schemes, register_scheme, scheme_names
from smec.targets import Target

MODEL = shared.EXAMPLES / "digits_resnet.onnx"
CALIB = shared.EXAMPLES / "digits_calib.npz"
TEST = shared.EXAMPLES / "digits_test.npz"


@pytest.fixture(autouse=True)
def _registry() -> Iterator[None]:
    with shared.restored(schemes.SCHEMES):
        yield


# -- programs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*scheme_names(), "dense-16{signs=split}", "sme{depth=3}", "sme{depth=0}"])
@pytest.mark.parametrize("target", ["sme", "sme-mlc2"])
def test_every_scheme_computes_what_it_says(name: str, target: str) -> None:
    """Both engines agree with the quantized network run by onnxruntime, which does not know of the mapping."""
    program = smec.compile(MODEL, calib=CALIB, scheme=name, target=target)
    with np.load(TEST) as data:
        few = {key: data[key][:24] for key in data.files}
    assert smec.verify(MODEL, program, few, engine="adc").equal
    exact, adc = (program.simulate(few, engine=engine) for engine in ("exact", "adc"))
    for key, array in exact.outputs.items():
        assert np.array_equal(array, adc.outputs[key])


@pytest.mark.parametrize("name", ["dense-16", "dense-8"])
def test_dense_schemes_need_what_the_formula_says(name: str) -> None:
    program = smec.compile(MODEL, calib=CALIB, scheme=name, pipeline=None)
    unshared = smec.compile(
        MODEL,
        calib=CALIB,
        pipeline=smec.parse_pipeline(_pipeline(name).replace("assign-cores", "assign-cores{share=false}")),
    )
    figure = f"crossbars_{name.replace('-', '_')}"
    assert unshared.metadata["crossbars"] == unshared.metadata[figure]  # type: ignore[literal-required]
    assert program.metadata["crossbars"] <= unshared.metadata["crossbars"]


def _pipeline(name: str) -> str:
    scheme = parse_scheme(name)
    return scheme.pipeline(scheme.machine(targets.load("sme"))).text()


def test_row_skip_reads_no_more_rows_than_a_unit_has() -> None:
    program = smec.compile(MODEL, calib=CALIB, scheme="row-skip{rows=5}")
    group = program.sections["xbar_group"]
    for crossbar in group:
        assert np.bincount(crossbar[crossbar >= 0]).max(initial=0) <= 5


def test_pruned_rows_take_no_crossbars() -> None:
    dense = smec.compile(MODEL, calib=CALIB, scheme="prune{percent=0}")
    pruned = smec.compile(MODEL, calib=CALIB, scheme="prune{percent=60}")
    used = [(p.sections["tile_rows"] >= 0).sum() for p in (dense, pruned)]
    assert used[1] < used[0] / 2
    assert pruned.metadata["blocks"] < dense.metadata["blocks"]


# -- tiles that are narrower than a crossbar, and 16 bits --------------------------------------------------------------


@given(
    st.integers(1, 40),
    st.integers(1, 40),
    st.integers(1, 16),
    st.sampled_from([0, 8, 1 << 15]),
    st.integers(0, 2**32 - 1),
)
def test_widened_tiles_hold_the_same_matrix(k: int, m: int, width: int, offset: int, seed: int) -> None:
    matrix = np.random.default_rng(seed).integers(-7, 8, (k, m)).astype(np.int16)
    tiles = widened(dense_tiles(matrix, 16, width, offset), 16)
    assert tiles.cols.shape[1] == tiles.codes.shape[2] == 16
    found = np.zeros((k, m), np.int64)
    t, r, c = np.nonzero((tiles.rows[:, :, None] >= 0) & (tiles.cols[:, None, :] >= 0))
    found[tiles.rows[t, r], tiles.cols[t, c]] = tiles.codes[t, r, c].astype(np.int64) - offset
    assert np.array_equal(found, matrix)
    assert (tiles.cols >= 0).sum(axis=1).max() <= width


def test_sixteen_bits_and_the_offset_need_more_than_int16() -> None:
    blocks = np.full((3, 2, 2), 32767, np.int16)
    tiles = grouped_tiles(blocks, np.arange(6, dtype=np.int32).reshape(3, 2), 8, 8, 1 << 15)
    assert tiles.codes.max() == 65535


def test_columns_of_a_tile_are_checked() -> None:
    with pytest.raises(SmecError, match="columns of a tile"):
        smec.compile(MODEL, calib=CALIB, pipeline=_pipeline("dense-8").replace("columns=16", "columns=129"))


# -- text --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["sme", "sme{depth=5}", "prune{percent=70}", "row-skip{rows=8 columns=32}", "dense-8{signs=split}"]
)
def test_text_and_schemes_are_inverse(text: str) -> None:
    assert parse_scheme(text).text() == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("smee", "did you mean 'sme'"),
        ("sme{dept=3}", "scheme 'sme' has no option 'dept'"),
        ("sme{depth=deep}", "wrong value for option 'depth' of scheme 'sme'"),
        ("sme{depth=9}", "squeeze depth"),
        ("prune{percent=101}", "share of zero blocks"),
        ("row-skip{rows=0}", "rows of an operation unit"),
        ("row-skip{columns=0}", "columns of a tile"),
        ("sme,dense-8", "not one scheme"),
        ("sme{", "syntax error"),
        ("", "not one scheme"),
    ],
)
def test_wrong_schemes_are_explained(text: str, message: str) -> None:
    with pytest.raises(SmecError, match=message):
        smec.compile(MODEL, calib=CALIB, scheme=text)


def test_a_list_has_no_scheme_twice() -> None:
    with pytest.raises(SmecError, match="'sme' is given twice"):
        parse_schemes("sme,dense-8,sme{depth=auto}")


def test_a_scheme_and_what_it_settles() -> None:
    with pytest.raises(SmecError, match="a scheme settles 'bits'"):
        smec.compile(MODEL, calib=CALIB, scheme="sme", bits=4)
    with pytest.raises(SmecError, match="a scheme and a pipeline"):
        smec.compile(MODEL, calib=CALIB, scheme="sme", pipeline="partition")
    with pytest.raises(SmecError, match="a scheme and a module"):
        smec.compile(smec.lower(MODEL, "nn", calib=CALIB), scheme="sme")


# -- registry ----------------------------------------------------------------------------------------------------------


def test_a_scheme_of_ones_own() -> None:
    @register_scheme
    @dataclass(frozen=True)
    class Binary(Scheme):
        """One bit."""

        name = "binary"

        def passes(self, target: Target) -> str:
            return "quantize-nearest{bits=1},tile"

    assert "binary" in scheme_names()
    assert smec.compile(MODEL, calib=CALIB, scheme="binary").metadata["layers"][0]["bits"] == 1
    assert smec.compile(MODEL, calib=CALIB, scheme=Binary()).metadata["layers"][0]["bits"] == 1


def test_a_scheme_that_fails_is_named() -> None:
    @register_scheme
    @dataclass(frozen=True)
    class Broken(Scheme):
        name = "broken"

        def passes(self, target: Target) -> str:
            return str(1 // 0)

    with pytest.raises(SmecError, match="scheme 'broken' fails: ZeroDivisionError"):
        smec.compile(MODEL, calib=CALIB, scheme="broken")
    listed = CliRunner().invoke(cli.main, ["schemes"])
    assert listed.exit_code == 0
    assert "broken" in listed.output


def test_classes_that_are_no_schemes() -> None:
    class Loose(Scheme):
        name = "loose"

    @dataclass(frozen=True)
    class Nameless(Scheme):
        pass

    @dataclass(frozen=True)
    class Taken(Scheme):
        name = "sme"

    for cls, message in ((Loose, "not a frozen dataclass"), (Nameless, "no valid name"), (Taken, "is taken by")):
        with pytest.raises(SmecError, match=message):
            register_scheme(cls)


# -- compare -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return compare(str(MODEL), "dense-8,bit-slice,sme{depth=5}", calib=CALIB, inputs=TEST, images=100)


def test_compare_measures_each_program(document: dict[str, Any]) -> None:
    assert document["schema"] == "smec.compare/1"
    assert document["images"] == 100
    for row in document["schemes"]:
        program = smec.compile(MODEL, calib=CALIB, scheme=row["scheme"])
        with np.load(TEST) as data:
            result = program.simulate({key: data[key][:100] for key in data.files})
        assert row["top1"] == result.top1
        assert row["crossbars"] == program.metadata["crossbars"]
        assert row["drop"] == document["float_top1"] - row["top1"]
        assert 0 < row["ones"] <= row["cells_in_use"] <= row["cells"]


def test_ratios_name_their_denominator(document: dict[str, Any]) -> None:
    base = document["schemes"][0]
    assert document["baseline"] == base["scheme"] == "dense-8"
    assert set(base["ratios"].values()) == {1.0}
    for row in document["schemes"]:
        assert row["ratios"]["crossbars_fewer"] == base["crossbars"] / row["crossbars"]
        assert row["ratios"]["throughput_higher"] == row["throughput_at_budget"] / base["throughput_at_budget"]
        assert row["ratios"]["latency_shorter"] == base["latency_ns"] / row["latency_ns"]
        assert row["ratios"]["energy_less"] == base["energy_pj"] / row["energy_pj"]


def test_copies_raise_throughput_within_the_budget(document: dict[str, Any]) -> None:
    assert all(row["throughput_at_budget"] >= row["throughput_images_per_s"] for row in document["schemes"])
    more = compare(str(MODEL), "dense-8", calib=CALIB, inputs=TEST, images=4, crossbars=200)
    assert more["budget_crossbars"] == 200
    assert more["schemes"][0]["throughput_at_budget"] > document["schemes"][0]["throughput_at_budget"]
    with pytest.raises(SmecError, match="scheme 'dense-8': the budget is too small"):
        compare(str(MODEL), "dense-8", calib=CALIB, inputs=TEST, images=4, crossbars=1)


def test_the_table_has_a_cell_for_every_column(document: dict[str, Any]) -> None:
    assert all(len(row) == len(COLUMNS) for row in rows(document))
    lines = markdown(document).splitlines()
    assert lines[2].count("|") == lines[3].count("|") == lines[4].count("|")
    assert any("times better than dense-8" in line for line in lines)


def test_compare_without_labels_or_inputs() -> None:
    found = compare(onnx.load(MODEL), "sme{depth=5}", calib=CALIB)
    assert found["float_top1"] is None
    assert found["schemes"][0]["top1"] is None
    with np.load(TEST) as data:
        image = {key: data[key][:3] for key in data.files if key != "labels"}
    assert compare(str(MODEL), "sme{depth=5}", calib=CALIB, inputs=image)["images"] == 3


def test_commands(tmp_path: Path) -> None:
    run = CliRunner().invoke
    json_file, table = tmp_path / "c.json", tmp_path / "c.md"
    words = ["--schemes", "dense-8,sme{depth=5}", "--calib", str(CALIB), "--input", str(TEST), "--images", "20"]
    result = run(cli.main, ["compare", str(MODEL), *words, "--json", str(json_file), "--markdown", str(table)])
    assert result.exit_code == 0, result.output
    assert "at budget" in result.output
    assert [s["scheme"] for s in json.loads(json_file.read_text())["schemes"]] == ["dense-8", "sme{depth=5}"]
    assert "| sme{depth=5} |" in table.read_text()
    assert run(cli.main, ["compare", str(MODEL), "--baseline", "dense-4", *words]).exit_code == 1
    listed = run(cli.main, ["schemes"])
    assert all(name in listed.output for name in ALL_SCHEMES.split(","))
    assert "percent" in run(cli.main, ["schemes", "prune"]).output
    assert run(cli.main, ["schemes", "prun"]).exit_code == 1


def test_the_default_of_compare_is_every_built_in_scheme() -> None:
    assert ",".join(schemes.BUILTIN_SCHEMES) == ALL_SCHEMES
