"""Accuracy on real models and images, through compiled programs: the figures that the documentation states.

Bounds are acceptance lines, below what is measured; a change that loses accuracy or bits fails here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import inputs
import shared
import smec
from smec.ir.errors import SmecError

ADC4 = """inherits = "sme"
name = "sme-adc4"
adc_bits = 4
"""


def resnet20(images: int = 500, **options: Any) -> smec.Program:
    return smec.compile(shared.RESNET20, calib=inputs.cifar10_calib(images), **options)


def top1(program: smec.Program, images: int = 2000, engine: str = "exact") -> float:
    x, labels = inputs.cifar10_test(images)
    result = program.simulate({"input": x}, engine=engine)
    return 100 * float((next(iter(result.outputs.values())).argmax(-1) == labels).mean())


@shared.needs_resnet20
def test_resnet20_uniform() -> None:
    assert top1(resnet20(pattern="uniform", squeeze=0)) >= 91.3


@shared.needs_resnet20
def test_resnet20_window_on_five_planes_and_both_engines() -> None:
    program = resnet20(pattern="window", scale="column", squeeze=3)
    assert top1(program) >= 90.8
    x, _ = inputs.cifar10_test(64)
    exact, adc = (program.simulate({"input": x}, engine=e).outputs["logits"] for e in ("exact", "adc"))
    np.testing.assert_array_equal(exact, adc)


@shared.needs_resnet20
def test_forced_groups_saturate_a_narrow_adc(tmp_path: Path) -> None:
    (tmp_path / "adc4.toml").write_text(ADC4)
    stages = "partition,calibrate,quantize-activations,quantize-nearest,tile,compact,slice-bits"
    forced = resnet20(target=tmp_path / "adc4.toml", pipeline=f"{stages},group-rows{{rows=128}},assign-cores,emit")
    lossless = resnet20(target=tmp_path / "adc4.toml")
    x, _ = inputs.cifar10_test(16)
    clipped, whole = (p.simulate({"input": x}, engine="adc") for p in (forced, lossless))
    assert sum(clipped.saturated.values()) > 0
    assert sum(whole.saturated.values()) == 0
    assert not np.array_equal(clipped.outputs["logits"], whole.outputs["logits"])
    with pytest.raises(SmecError, match="engine 'exact' cannot compute reads that the ADC may clip"):
        forced.simulate({"input": x}, engine="exact")


#: (sign, squeeze depth, pattern, scale, least accuracy): planes or crossbars a tile that remain are 8 - depth.
#: Processors add up in different orders, and ADMM's integers follow: by a tenth or two of accuracy, polarized by 0.75.
ADMM = [
    ("differential", 4, "uniform", "column", 91.5),
    ("differential", 5, "uniform", "column", 91.4),
    ("differential", 6, "uniform", "column", 91.3),
    ("differential", 5, "window", "column", 91.2),
    ("twos-complement", 4, "uniform", "tensor", 91.5),
    ("twos-complement", 5, "uniform", "column", 91.4),
    ("twos-complement", 6, "uniform", "column", 89.0),
    ("polarized", 5, "uniform", "column", 89.5),
]


@shared.needs_resnet20
@pytest.mark.slow
@pytest.mark.parametrize(("sign", "squeeze", "pattern", "scale", "least"), ADMM)
def test_resnet20_by_admm(sign: str, squeeze: int, pattern: str, scale: str, least: float) -> None:
    """Label-free, 512 calibration images, 8-bit activations; squeeze-out loses nothing."""
    report: dict[str, Any] = {}
    options: dict[str, Any] = {"sign": sign, "squeeze": squeeze, "pattern": pattern, "scale": scale, "shift": "fit"}
    program = resnet20(images=512, quantizer="admm", report=report, **options)
    assert {layer["squared_error"] for layer in report["squeeze-out"]["layers"]} == {0}
    assert top1(program) >= least


@shared.needs_mobilenet_v2
@pytest.mark.slow
def test_mobilenet_v2() -> None:
    """Uniform pattern, scales per column, differential 8 planes; float has 83.4 % on these photographs."""
    calib, _ = inputs.photographs(shared.IMAGENET_CALIB)
    program = smec.compile(shared.MOBILENET_V2, calib=calib)
    photographs, labels = inputs.photographs(shared.IMAGENET_EVAL)
    result = program.simulate({"input": photographs}, engine="exact")
    logits = next(iter(result.outputs.values()))
    assert np.isfinite(logits).all()
    assert 100 * float((logits.argmax(-1) == labels).mean()) >= 82.4


@shared.needs_resnet20
def test_depths_by_layer_take_fewer_crossbars_than_any_one_depth() -> None:
    """Two planes a layer take 42 crossbars and leave 90.95 % (docs/budget.md)."""
    report: dict[str, Any] = {}
    program = resnet20(256, squeeze="auto", max_crossbars=40, report=report)
    assert program.metadata["crossbars"] <= report["allocate"]["crossbars"] <= 40
    assert report["squeeze-out"]["squared_error"] == 0
    assert report["quantize-admm"]["network_error"] < report["allocate"]["predicted_error"] < 0.1
    assert top1(program) > 90
