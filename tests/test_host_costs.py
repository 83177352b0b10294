"""What host operators cost: the built-in counts, cost models of plug-ins, and what is said of those that misbehave."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx_models import normal, parse

import shared
import smec
from smec.ir.errors import SmecError
from smec.passes import host_costs
from smec.runtime.timing import time_program

HEAD = (
    "from dataclasses import dataclass\nfrom smec.ir.errors import SmecError\n"
    "from smec.passes.host_costs import HostCost, register_host_cost\n"
)
MODEL = """
@register_host_cost
@dataclass(frozen=True)
class C(HostCost):
    name = "{name}"

    def flops(self, op):
        {body}
"""


@pytest.fixture(autouse=True)
def _registry() -> Iterator[None]:
    """Leave the registry as it was."""
    with shared.restored(host_costs.HOST_COSTS):
        yield


def plugin(folder: Path, name: str, body: str, file: str = "costs.py") -> Path:
    path = folder / file
    path.write_text(HEAD + MODEL.format(name=name, body=body))
    return path


def region(model: onnx.ModelProto, **options: Any) -> dict[str, Any]:
    """The metadata of the only host region."""
    (info,) = smec.compile(model, **options).metadata["host"]
    return dict(info)


SOFTMAX = "m (float[1,3,8] x) => (float[1,3,8] y) { y = Softmax<axis=2>(x) }"


@pytest.mark.parametrize(
    ("text", "weights", "macs", "flops"),
    [
        (SOFTMAX, {}, 0, 24),
        ("m (float[1,6,8] x) => (float[1,6,6] y) { t = Transpose<perm=[0,2,1]>(x) y = MatMul(x, t) }", {}, 288, 576),
        ("m (float[1,4,8] x) => (float[1,4,1] y) { y = ReduceLogSumExp<axes=[2]>(x) }", {}, 0, 32),
        ("m (float[1,4] x) => (float[1,8] y) { z = Concat<axis=1>(x, x) y = Erf(z) }", {}, 0, 8),
        (
            "m (float[5,1,4] x) => (float[5,1,1,3] y) { y = RNN<hidden_size=3>(x, w, r) }",
            {"w": normal(0, 1, 3, 4), "r": normal(1, 1, 3, 3)},
            105,
            210,
        ),
    ],
)
def test_built_in_counts(text: str, weights: dict[str, np.ndarray], macs: int, flops: int) -> None:
    found = region(parse(text, **weights))
    assert (found["macs"], found["flops"]) == (macs, flops)


def test_a_plugin_counts_and_the_roofline_follows(tmp_path: Path) -> None:
    plain = smec.compile(parse(SOFTMAX))
    path = plugin(tmp_path, "Softmax", "return 1000000 * op.results[0].type.size")
    program = smec.compile(parse(SOFTMAX), plugins=[path])
    assert program.metadata["host"][0]["flops"] == 24_000_000
    host = program.metadata["target"]["host"]
    busy = time_program(program).as_document()["host"]["busy_ns"]
    assert busy == pytest.approx(host["launch_us"] * 1e3 + 24e6 / host["gflop_per_s"], rel=1e-9)
    assert busy > time_program(plain).as_document()["host"]["busy_ns"]


def test_operators_of_another_domain_have_models_of_their_own(tmp_path: Path) -> None:
    text = "m (float[1,8] x) => (float[1,8] y) { y = com.microsoft.Gelu(x) }"
    model = parse(text)
    model.opset_import.add(domain="com.microsoft", version=1)
    assert region(model)["flops"] == 8
    assert region(model, plugins=[plugin(tmp_path, "Gelu", "return 5")])["flops"] == 8
    assert region(model, plugins=[plugin(tmp_path, "com.microsoft.Gelu", "return 5", "own.py")])["flops"] == 5


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return 1 // 0", r"host cost model 'Softmax' \(plug-in .*costs.py\) fails: ZeroDivisionError"),
        ("return -1", r"host cost model 'Softmax' \(plug-in .*costs.py\) returns no count .expected an int .*found -1"),
        ("return 0.5", r"returns no count .*found 0.5"),
        ("return True", r"returns no count .*found True"),
        ("return 10**30", r"returns no count .*found 10+"),
        ("raise SmecError('not on this host')", "not on this host"),
    ],
)
def test_a_model_that_misbehaves_is_named(body: str, message: str, tmp_path: Path) -> None:
    path = plugin(tmp_path, "Softmax", body)
    with pytest.raises(SmecError, match=message):
        smec.compile(parse(SOFTMAX), plugins=[path])


def test_names(tmp_path: Path) -> None:
    smec.load_plugin(plugin(tmp_path, "Softmax", "return 1"))
    with pytest.raises(SmecError, match="host cost model name 'Softmax' is taken by smec_plugin_costs_"):
        smec.load_plugin(plugin(tmp_path, "Softmax", "return 1", "second.py"))
    with pytest.raises(SmecError, match="has no valid name"):
        smec.load_plugin(plugin(tmp_path, "Soft max", "return 1", "third.py"))


def test_installed_packages_offer_models(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    smec.load_plugin(plugin(tmp_path, "Softmax", "return 7"))
    cls = host_costs.HOST_COSTS.pop("Softmax")
    point = SimpleNamespace(name="Softmax", value="costs:C", load=lambda: cls, dist=SimpleNamespace(name="costs"))
    monkeypatch.setattr(host_costs.REGISTRY, "offered", lambda: {"Softmax": point})
    assert region(parse(SOFTMAX))["flops"] == 7
