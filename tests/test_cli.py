"""The command line: what it prints and writes, how it fails, and how quickly it answers."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

import shared
from smec import cli
from smec.options import ENGINES

MODEL = str(shared.EXAMPLES / "digits_resnet.onnx")
CALIB = str(shared.EXAMPLES / "digits_calib.npz")
TEST = str(shared.EXAMPLES / "digits_test.npz")


def smec(*arguments: str, status: int = 0) -> Result:
    """Run a command in this process and check its exit status."""
    result = CliRunner().invoke(cli.main, list(arguments))
    assert result.exit_code == status, result.output
    return result


def document(*arguments: str) -> dict[str, Any]:
    """Run a command with `--json -`: standard output must be one JSON document and nothing else."""
    found = json.loads(smec(*arguments, "--json", "-").stdout)
    assert isinstance(found, dict)
    return found


def fails(*arguments: str) -> str:
    """Run a command that must fail with one message on standard error; returns the message."""
    result = smec(*arguments, status=1)
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert "Traceback" not in result.stderr
    return result.stderr


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The digits network, compiled once."""
    path = str(tmp_path_factory.mktemp("cli") / "digits.smebin")
    smec("compile", MODEL, "--calib", CALIB, "-o", path)
    return path


# -- start-up ----------------------------------------------------------------------------------------------------------


def test_nothing_heavy_is_imported_for_help() -> None:
    heavy = (
        "numpy",
        "onnx",
        "onnxruntime",
        "numba",
        "scipy",
        "ortools",
        "rich",
        "lark",
        "torch",
        "pydantic",
        "networkx",
    )
    code = f"import sys, smec, smec.cli; print([m for m in {heavy!r} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize("command", ["", "compile", "simulate", "verify", "export", "inspect", "passes", "targets"])
def test_every_command_explains_itself(command: str) -> None:
    assert "Usage" in smec(*([command] if command else []), "--help").stdout


def test_version() -> None:
    import smec as package

    assert smec("--version").stdout == f"smec {package.__version__}\n"


# -- compile -----------------------------------------------------------------------------------------------------------


def test_compile_reports_what_it_made(tmp_path: Path) -> None:
    path = tmp_path / "p.smebin"
    made = document("compile", MODEL, "--calib", CALIB, "-o", str(path))
    assert made["schema"] == "smec.compile/1"
    assert path.stat().st_size == made["program_bytes"]
    assert made["blocks"] == sum(layer["blocks"] for layer in made["layers"]) >= made["crossbars"]
    assert made["crossbars_dense_16"] > made["crossbars_dense_8"] > 0
    assert made["calibration"] == "256 images"
    assert made["crossbar_mac_share"] == 1.0
    assert made["passes"]["pipeline"][0]["pass"].startswith("partition")


def test_two_compiles_give_the_same_bytes(program: str, tmp_path: Path) -> None:
    other = tmp_path / "elsewhere.smebin"
    smec("compile", MODEL, "--calib", CALIB, "-o", str(other))
    assert other.read_bytes() == Path(program).read_bytes()


def test_compile_without_data_says_so(tmp_path: Path) -> None:
    made = document("compile", MODEL, "-o", str(tmp_path / "p.smebin"))
    assert made["calibration"] == "seeded synthetic inputs"


def test_squeeze_takes_fewer_crossbars(program: str, tmp_path: Path) -> None:
    path = str(tmp_path / "p.smebin")
    whole = document("inspect", program)["crossbars"]
    made = document("compile", MODEL, "--calib", CALIB, "--pattern", "window", "--squeeze", "3", "-o", path)
    assert made["crossbars"] < whole
    assert any(layer["squeeze_error"] > 0 for layer in made["layers"])


def test_compile_stops_at_a_level(tmp_path: Path) -> None:
    from smec.ir.store import load_module

    path = tmp_path / "digits.mlir"
    made = document("compile", MODEL, "--calib", CALIB, "--compile-to", "quant", "-o", str(path))
    assert made["schema"] == "smec.lower/1"
    module = load_module(path)
    assert any(op.name == "quant.conv" for op in module.graph.ops)
    message = fails("compile", MODEL, "--compile-to", "nowhere", "-o", str(path))
    assert "no pass of the pipeline reaches this level" in message
    assert "quant" in message


def test_dump_ir_writes_a_module_a_pass(tmp_path: Path) -> None:
    folder = tmp_path / "dump"
    smec("compile", MODEL, "--calib", CALIB, "--dump-ir", str(folder), "-o", str(tmp_path / "p.smebin"))
    names = sorted(p.name for p in folder.glob("*.mlir"))
    assert names[0] == "00-import.mlir"
    assert names[1] == "01-partition.mlir"
    assert names[-1].endswith("-emit.mlir")


@pytest.fixture
def registry() -> Iterator[None]:
    """Forget afterwards which passes a test registered."""
    from smec.passes.base import PASSES

    known = dict(PASSES)
    yield
    PASSES.clear()
    PASSES.update(known)


def test_pipelines_and_plugins(tmp_path: Path, registry: None) -> None:
    plugin = tmp_path / "mine.py"
    plugin.write_text(
        "from __future__ import annotations\n"
        "from dataclasses import dataclass\n"
        "from smec.passes.base import Pass, register_pass\n\n"
        "@register_pass\n@dataclass(frozen=True)\nclass Mine(Pass):\n"
        '    """Note that it ran."""\n\n    name = "mine"\n    times: int = 1\n\n'
        "    def run(self, module, context):\n"
        '        context.report[self.name] = {"times": self.times, "infinite": float("inf")}\n'
        "        return False\n"
    )
    text = "partition,calibrate,quantize-activations,quantize-nearest,tile,mine{times=3},"
    text += "slice-bits,group-rows,assign-cores,emit"
    path = str(tmp_path / "p.smebin")
    made = document("compile", MODEL, "--calib", CALIB, "--plugin", str(plugin), "--pipeline", text, "-o", path)
    assert made["passes"]["mine"] == {"times": 3, "infinite": None}
    assert "Note that it ran." in smec("passes", "--plugin", str(plugin)).stdout
    assert "plug-in fails" in fails("passes", "--plugin", _file(tmp_path / "bad.py", "1 / 0"))
    assert "plug-in not found" in fails("passes", "--plugin", str(tmp_path / "none.py"))


def _file(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothere.onnx"], "nothere.onnx: no such file"),
        ([MODEL, "--calib", "nothere.npz"], "nothere.npz: cannot read the data"),
        ([MODEL, "--calib", MODEL], "not an archive of arrays"),
        ([MODEL, "--target", "nothere"], "nothere"),
        ([MODEL, "--pipeline", "partition,squeze-out"], "did you mean 'squeeze-out'"),
        ([MODEL, "--pipeline", "partition,"], "syntax error"),
        ([MODEL, "--pipeline", "tile"], "requires level"),
        ([MODEL, "--quantizer", "nonsense"], "unknown quantizer"),
        ([MODEL, "--squeeze", "8"], "squeeze depth out of range"),
        ([CALIB], "not an ONNX model"),
    ],
)
def test_compile_diagnoses(arguments: list[str], message: str, tmp_path: Path) -> None:
    path = tmp_path / "p.smebin"
    assert message in fails("compile", *arguments, "-o", str(path))
    assert list(tmp_path.iterdir()) == []


def test_output_is_checked_before_the_work(tmp_path: Path) -> None:
    assert "cannot write the output" in fails("compile", MODEL, "-o", str(tmp_path / "no" / "p.smebin"))
    assert "cannot write the output" in fails("compile", MODEL, "-o", str(tmp_path))
    copy = tmp_path / "m.onnx"
    copy.write_bytes(Path(MODEL).read_bytes())
    assert "would replace an input" in fails("compile", str(copy), "-o", str(copy))
    both = str(tmp_path / "both")
    assert "two outputs are the same file" in fails("compile", MODEL, "-o", both, "--json", both)
    assert not Path(both).exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["compile", MODEL],
        ["compile", MODEL, "-o", "x.smebin", "--sign", "polarised"],
        ["compile", MODEL, "-o", "x.smebin", "--act-bits", "17"],
        ["compile", MODEL, "-o", "x.smebin", "--input-shape", "image"],
        ["simulate"],
        ["simulate", "x.smebin", "--engine", "quantum"],
        ["nonsense"],
    ],
)
def test_wrong_usage_exits_2(arguments: list[str]) -> None:
    assert "Usage" in smec(*arguments, status=2).stderr


# -- data --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"image": np.zeros((4, 3, 8, 8), np.float32)}, "expected (N, 1, 8, 8), found (4, 3, 8, 8)"),
        ({"image": np.zeros((4, 1, 8, 8), np.complex64)}, "wrong dtype"),
        ({"a": np.zeros((4, 1, 8, 8)), "b": np.zeros(4)}, "no array for input 'image'"),
        ({"image": np.zeros((4, 1, 8, 8)), "labels": np.zeros(3, np.int64)}, "array 'labels' does not fit"),
        ({"image": np.zeros((4, 1, 8, 8)), "labels": np.zeros(4)}, "array 'labels' does not fit"),
        ({"image": np.zeros((0, 1, 8, 8))}, "there are no images"),
        ({"image": np.array([{}], object)}, "damaged, or not plain arrays"),
    ],
)
def test_data_is_diagnosed(arrays: dict[str, np.ndarray], message: str, program: str, tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    np.savez(path, **arrays)
    found = fails("simulate", program, "--input", str(path))
    assert message in found
    assert str(path) in found


def test_data_of_other_names_and_dtypes_will_do(program: str, tmp_path: Path) -> None:
    """One array under any name for one input; integers are converted."""
    with np.load(TEST) as file:
        images = file["image"][:5]
    path = tmp_path / "data.npz"
    np.savez(path, anything=np.rint(images).astype(np.uint8))
    assert document("simulate", program, "--input", str(path))["images"] == 5


# -- simulate ----------------------------------------------------------------------------------------------------------


def test_simulate_reports_accuracy(program: str, tmp_path: Path) -> None:
    out = tmp_path / "out.npz"
    run = document("simulate", program, "--input", TEST, "--output", str(out))
    assert run["schema"] == "smec.simulate/1"
    assert run["images"] == 360
    assert run["top1"] >= 98.0
    assert run["saturated_reads"] == 0
    assert run["wall_s"] > 0
    with np.load(out) as arrays, np.load(TEST) as data:
        (name,) = arrays.files
        assert arrays[name].shape == (360, 10)
        assert 100 * (arrays[name].argmax(1) == data["labels"]).mean() == pytest.approx(run["top1"])


def test_simulate_times_the_program(program: str, tmp_path: Path) -> None:
    trace = tmp_path / "trace.json"
    found = document("simulate", program, "--trace", str(trace))
    assert found["latency_ns"] > 0
    assert found["throughput_images_per_s"] > 0
    assert found["energy_pj"] > 0
    assert found["area_mm2"] > 0
    assert found["bottleneck"]["layer"] in {layer["name"] for layer in found["layers"]}
    events = json.loads(trace.read_text())["traceEvents"]
    assert any(event["ph"] == "X" for event in events)
    assert [path.name for path in tmp_path.iterdir()] == ["trace.json"]
    assert "latency" in smec("simulate", program).stdout


def test_engines_agree(program: str, tmp_path: Path) -> None:
    with np.load(TEST) as file:
        np.savez(tmp_path / "few.npz", image=file["image"][:3])
    arrays = {}
    for engine in ENGINES:
        out = tmp_path / f"{engine}.npz"
        run = document(
            "simulate", program, "--input", str(tmp_path / "few.npz"), "--engine", engine, "--output", str(out)
        )
        assert run["engine"] == engine
        arrays[engine] = out.read_bytes()
    assert arrays["adc"] == arrays["exact"] == arrays["auto"]


def test_batches_do_not_matter(program: str, tmp_path: Path) -> None:
    for batch in ("1", "7"):
        smec("simulate", program, "--batch", batch, "--output", str(tmp_path / f"{batch}.npz"))
    assert (tmp_path / "1.npz").read_bytes() == (tmp_path / "7.npz").read_bytes()


def test_simulate_says_which_inputs_it_used(program: str, tmp_path: Path) -> None:
    assert document("simulate", program)["inputs"] == "the sample in the program"
    path = str(tmp_path / "p.smebin")
    smec("compile", MODEL, "-o", path)
    run = document("simulate", path)
    assert run["inputs"] == "seeded random inputs (seed 0)"
    assert run["top1"] is None


def test_tables_are_printed(program: str) -> None:
    text = smec("simulate", program, "--input", TEST).stdout
    assert "top-1" in text
    assert "images/s" in text


def test_json_goes_to_a_file_beside_the_table(program: str, tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    assert "images/s" in smec("simulate", program, "--json", str(path)).stdout
    assert json.loads(path.read_text())["schema"] == "smec.simulate/1"


@pytest.mark.parametrize("damage", ["truncated", "flipped", "foreign", "empty"])
def test_damaged_programs_are_refused(damage: str, program: str, tmp_path: Path) -> None:
    data = bytearray(Path(program).read_bytes())
    if damage == "flipped":
        data[len(data) // 2] ^= 1
    contents = {"truncated": data[:-100], "flipped": data, "foreign": Path(MODEL).read_bytes(), "empty": b""}[damage]
    path = tmp_path / "bad.smebin"
    path.write_bytes(bytes(contents))
    for command in (["simulate"], ["inspect"], ["verify", MODEL]):
        message = fails(*command, str(path))
        assert str(path) in message
        assert message.count("\n") == 1


# -- inspect, export, verify -------------------------------------------------------------------------------------------


def test_inspect_accounts_for_every_crossbar(program: str) -> None:
    found = document("inspect", program, "--map")
    blocks = [block for crossbar in found["map"] for block in crossbar["blocks"]]
    assert len(blocks) == found["blocks"]
    assert len(found["map"]) == found["crossbars"]
    assert {block["layer"] for block in blocks} == {layer["name"] for layer in found["layers"]}
    for layer in found["layers"]:
        assert sum(layer["row_shifts"].values()) > 0
        assert layer["row_groups"] >= layer["blocks"] >= layer["crossbars"]
        assert layer["read_cycles"] > 0
    text = smec("inspect", program, "--map").stdout
    assert "crossbar map" in text
    assert "row shifts" in text


def test_inspect_shows_a_layer(program: str) -> None:
    name = document("inspect", program)["layers"][0]["name"]
    found = document("inspect", program, "--layer", name)["layers"][0]
    assert sum(len(tile["blocks"]) for tile in found["tile_list"]) == found["blocks"]
    assert f"tiles of {name}" in smec("inspect", program, "--layer", name).stdout
    assert "did you mean" in fails("inspect", program, "--layer", name + "x")


def test_export_runs_in_onnxruntime(program: str, tmp_path: Path) -> None:
    import onnxruntime

    path = tmp_path / "quant.onnx"
    made = document("export", program, "-o", str(path))
    assert made["schema"] == "smec.export/1"
    assert made["operators"]["ConvInteger"] >= 9
    assert "ConvInteger" in smec("export", program, "-o", str(path)).stdout
    out = tmp_path / "out.npz"
    smec("simulate", program, "--input", TEST, "--output", str(out))
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    with np.load(TEST) as data, np.load(out) as arrays:
        (scores,) = session.run(None, {"image": data["image"]})
        np.testing.assert_array_equal(scores, arrays[arrays.files[0]])


def test_verify_passes(program: str) -> None:
    found = document("verify", MODEL, program, "--input", TEST, "--images", "5")
    assert found["schema"] == "smec.verify/1"
    assert found["equal"]
    assert found["images"] == 5
    assert all(layer["snr_db"] > 10 for layer in found["layers"])
    assert "are equal" in smec("verify", MODEL, program).stdout


def test_verify_names_the_layer_that_differs(program: str, tmp_path: Path) -> None:
    from smec.runtime.container import Program

    loaded = Program.load(program)
    cells = loaded.sections["cells"].copy()
    cells[len(cells) // 2, 0, 0] ^= 1
    path = str(tmp_path / "flipped.smebin")
    loaded.replace_section("cells", cells).save(path)
    result = smec("verify", MODEL, path, status=1)
    assert "DIFFER" in result.stdout
    names = [layer["name"] for layer in loaded.metadata["layers"]]
    assert any(f"layer '{name}' differs" in result.stderr for name in names)


def test_verify_wants_the_model_of_the_program(program: str, tmp_path: Path) -> None:
    other = tmp_path / "other.onnx"
    other.write_bytes(Path(MODEL).read_bytes() + b"\x0a\x00")
    assert "compiled from another model" in fails("verify", str(other), program)


# -- passes and targets ------------------------------------------------------------------------------------------------


def test_passes_lists_options() -> None:
    found = document("passes")["passes"]
    assert {"tile", "squeeze-out", "emit"} <= {item["name"] for item in found}
    assert all(item["doc"] for item in found)
    (squeeze,) = document("passes", "squeeze-out")["passes"]
    assert "depth" in {option["name"] for option in squeeze["options"]}
    assert "depth" in smec("passes", "squeeze-out").stdout
    assert "unknown pass" in fails("passes", "squeeze-in")


def test_targets_lists_presets() -> None:
    found = document("targets")["targets"]
    assert "sme" in {item["name"] for item in found}
    one = document("targets", "sme")
    assert one["rows"] == 128
    assert "rows" in smec("targets", "sme").stdout
    fails("targets", "nothere")


# -- faults of ours ----------------------------------------------------------------------------------------------------


def test_an_internal_error_is_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str | None) -> dict[str, Any]:
        raise RuntimeError("out of cheese")

    monkeypatch.setattr("smec.documents.passes_document", broken)
    message = fails("passes")
    assert message == "error: internal error: RuntimeError: out of cheese\nhint: `smec --debug ...` shows where\n"
    result = CliRunner().invoke(cli.main, ["--debug", "passes"])
    assert isinstance(result.exception, RuntimeError)
