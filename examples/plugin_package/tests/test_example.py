"""Tests of the example plug-in: `pytest examples/plugin_package/tests`, with the package installed or without."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

import smec

HERE = Path(__file__).resolve().parent
PLUGIN = HERE.parent / "smec_example.py"
MODEL = HERE.parents[1] / "digits_resnet.onnx"
CALIB = HERE.parents[1] / "digits_calib.npz"
TEST = HERE.parents[1] / "digits_test.npz"

try:
    version("smec-example")
except PackageNotFoundError:
    smec.load_plugin(PLUGIN)  # what the option --plugin does


def compiled(**options: Any) -> smec.Program:
    return smec.compile(MODEL, calib=CALIB, **options)


def verified(program: smec.Program) -> float:
    """Percent of test images classified correctly, by a program that equals its quantized network bit for bit."""
    assert smec.verify(MODEL, program, TEST).equal
    top1 = program.simulate(TEST, engine="adc").top1
    assert top1 is not None
    return top1


def test_pattern() -> None:
    plain, coarse = compiled(), compiled(pattern="coarse:2")
    assert verified(coarse) > 98
    # Of eight planes two hold nothing, whatever the layer.
    assert coarse.metadata["blocks"] <= plain.metadata["blocks"] * 6 // 8
    assert set(np.abs(coarse.sections["xbar_weight"])) == {1 << bit for bit in range(2, 8)}


def test_pass() -> None:
    pipeline = smec.default_pipeline(pattern="coarse")
    below = smec.parse_pipeline("drop-small{below=5}").passes[0]
    report: dict[str, Any] = {}
    program = compiled(pipeline=pipeline.insert_before("tile", below), report=report)
    assert report["drop-small"]["dropped"] > 1000
    assert verified(program) > 98
    kept = [a for n, a in program.sections.items() if n.startswith("weights.") and a.dtype == np.int16]
    assert min(int(np.abs(a[a != 0]).min()) for a in kept) == 6  # even magnitudes, none below 5


def test_scheme() -> None:
    below = smec.parse_pipeline("drop-small{below=5}").passes[0]
    pipeline = smec.default_pipeline(pattern="coarse:2").insert_before("tile", below)
    by_hand, scheme = compiled(pipeline=pipeline), compiled(scheme="coarse-slices")
    assert verified(scheme) > 98
    # The same passes under one name: the same cells.
    assert np.array_equal(scheme.sections["cells"], by_hand.sections["cells"])
    finer = compiled(scheme="coarse-slices{zeros=1}")
    assert finer.metadata["blocks"] > scheme.metadata["blocks"]
