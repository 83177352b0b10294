"""Golden files: what each pass makes of one small network. `pytest --renew-goldens tests/test_golden.py` writes them.

A file holds the module before the pass and after it; arrays stand below as comments, rounded to four digits, and
digests are numbered, so that the files say the same on every machine.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import shared
from ir_cases import read_with_xdsl
from smec import targets
from smec.frontend.load import import_model
from smec.ir.dialects.builtin import ModuleOp
from smec.ir.printer import print_module
from smec.ir.store import handles
from smec.passes.base import BUILTIN_PASSES, PassContext
from smec.passes.pipeline import parse_pipeline

GOLDEN = shared.ROOT / "tests" / "golden"

#: Crossbars of 4 x 4 cells: six inputs take two tiles.
TARGET = {"inherits": "sme", "rows": 4, "columns": 4, "concurrent_rows": 4, "adc_bits": 2}

#: Weights by input: a row of zeros for `compact`, rows of small ones for `squeeze-out` to shift less.
WEIGHTS = np.array([[15, 0, -15], [4, 8, 2], [0, 0, 0], [1, -1, 2], [3, 15, 0], [0, 0, 1]], np.float32)

#: The passes in the order of a pipeline, with options that show something on a network this small.
PASSES = [
    "partition",
    "calibrate{method=min-max}",
    "quantize-activations",
    "quantize-nearest{bits=4}",
    "tile",
    "squeeze-out{depth=1}",
    "compact",
    "slice-bits",
    "group-rows",
    "assign-cores",
    "emit",
]

#: Passes that stand beside one of those: what they follow, and their text.
BESIDE = {
    "allocate": ("quantize-activations", "allocate{bits=4 max-crossbars=6}"),
    "quantize-admm": ("quantize-activations", "quantize-admm{bits=4 squeeze=1 iterations=20}"),
    "quantize-greedy": ("quantize-activations", "quantize-greedy{bits=4 squeeze=1}"),
    "replicate": ("group-rows", "replicate{crossbars=24}"),
}


def model() -> onnx.ModelProto:
    """A 1 x 1 convolution of six channels to three and a clamp on the device, a softmax on the host."""
    weight = numpy_helper.from_array(np.ascontiguousarray(WEIGHTS.T)[:, :, None, None], "w")
    bias = numpy_helper.from_array(np.array([0, 8, -8], np.float32), "b")
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["conv"], name="conv"),
        helper.make_node("Relu", ["conv"], ["relu"], name="relu"),
        helper.make_node("Softmax", ["relu"], ["y"], name="softmax", axis=1),
    ]
    ports = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", c, 1, 2]) for n, c in (("x", 6), ("y", 3))]
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:], [weight, bias])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def calibration() -> dict[str, np.ndarray]:
    """Whole numbers from 0 to 255: the scales that follow are powers of two."""
    values = np.random.default_rng(0).integers(0, 256, (16, 6, 1, 2)).astype(np.float32)
    values[0, 0] = 0
    values[1] = 255
    return {"x": values}


def lowered(*passes: str) -> ModuleOp:
    module = import_model(model())
    module.location = module.graph.location  # the model has no file
    context = PassContext(target=targets.from_values(TARGET), calibration=calibration())
    parse_pipeline(",".join(passes)).run(module, context)
    return module


@cache
def golden(name: str) -> str:
    """What the golden file of a pass has to hold."""
    if name in BESIDE:
        behind, text = BESIDE[name]
        names = [p.partition("{")[0] for p in PASSES]
        prefix = PASSES[: names.index(behind) + 1]
    else:
        at = next(i for i, p in enumerate(PASSES) if p.partition("{")[0] == name)
        prefix, text = PASSES[:at], PASSES[at]
    numbers: dict[str, str] = {}
    before, after = (_shown(lowered(*passes), numbers) for passes in (prefix, [*prefix, text]))
    return f"// before {text}\n{before}// -----\n// after {text}\n{after}"


def _shown(module: ModuleOp, numbers: dict[str, str]) -> str:
    """A module's text with numbers for digests, and its arrays below."""
    for op in module.body.block.ops:
        if op.name == "isa.program":
            op.attributes["metadata"] = "..."  # the document repeats the target's numbers
    text = print_module(module)
    lines = []
    for digest, handle in handles(module).items():
        fresh = digest not in numbers
        number = numbers.setdefault(digest, f"{len(numbers) + 1:064d}")
        text = text.replace(digest, number)
        if fresh and handle.array.size <= 128:
            lines.append(f"// {int(number)}: {handle.dtype} {list(handle.shape)} = {_values(handle.array)}\n")
    return text + "".join(lines)


def _values(array: np.ndarray) -> str:
    shown = [f"{v:.4g}" if array.dtype.kind == "f" else str(v) for v in array.reshape(-1).tolist()]
    return " ".join(shown)


NAMES = [p.partition("{")[0] for p in PASSES] + list(BESIDE)


@pytest.mark.parametrize("name", NAMES)
def test_golden(name: str, request: pytest.FixtureRequest) -> None:
    path = GOLDEN / f"{name}.mlir"
    if request.config.getoption("--renew-goldens"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(golden(name), encoding="utf-8")
    assert golden(name) == path.read_text(encoding="utf-8")


def test_every_pass_has_a_golden_file() -> None:
    assert set(NAMES) == set(BUILTIN_PASSES) == {path.stem for path in GOLDEN.glob("*.mlir")}


@pytest.mark.skipif(find_spec("xdsl") is None, reason="xDSL is not installed")
@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.mlir")), ids=lambda p: p.stem)
def test_xdsl_reads_golden_files(path: Path) -> None:
    for text in path.read_text(encoding="utf-8").split("// -----\n"):
        read_with_xdsl(text)
