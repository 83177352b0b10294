"""The files that the examples and benchmarks stand on are what their pages say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

import inputs
import shared


def test_digits_network_classifies_its_test_images() -> None:
    with np.load(shared.EXAMPLES / "digits_test.npz") as file:
        image, labels = file["image"], file["labels"]
    session = onnxruntime.InferenceSession(shared.EXAMPLES / "digits_resnet.onnx")
    logits = session.run(None, {"image": image})[0]
    assert np.sum(logits.argmax(axis=1) == labels) == 358
    assert len(labels) == 360


def test_digits_files_are_small_and_disjoint() -> None:
    with np.load(shared.EXAMPLES / "digits_calib.npz") as file:
        calib = file["image"]
    with np.load(shared.EXAMPLES / "digits_test.npz") as file:
        test = file["image"]
    assert calib.dtype == test.dtype == np.float32
    assert not {image.tobytes() for image in calib} & {image.tobytes() for image in test}
    assert (shared.EXAMPLES / "digits_resnet.onnx").stat().st_size < 400_000


@shared.needs_resnet20
def test_images_of_the_measurements(tmp_path: Path) -> None:
    script = shared.ROOT / "benchmarks" / "inputs.py"
    subprocess.run([sys.executable, script, "resnet20", "-o", tmp_path], check=True, stdout=subprocess.DEVNULL)
    name, _ = shared.model_input(shared.RESNET20)
    images, labels = inputs.cifar10_test()
    with np.load(tmp_path / "calib.npz") as calib, np.load(tmp_path / "test.npz") as test:
        assert calib.files == [name]
        assert np.array_equal(calib[name], inputs.cifar10_calib(512))
        assert np.array_equal(test[name], images)
        assert np.array_equal(test["labels"], labels)


@pytest.mark.parametrize("topology", ["resnet50", "mobilenet_v2", "resnet20"])
def test_topology_has_the_published_size(topology: str, tmp_path: Path) -> None:
    """Parameters of the papers, in millions: He et al. 2016 (25.6, 0.27), Sandler et al. 2018 (3.5)."""
    model = tmp_path / "model.onnx"
    script = shared.ROOT / "benchmarks" / "topologies.py"
    subprocess.run([sys.executable, script, topology, "-o", model], check=True, stdout=subprocess.DEVNULL)
    weights = sum(len(tensor.raw_data) // 4 for tensor in onnx.load(model).graph.initializer if tensor.data_type == 1)
    published = {"resnet50": 25.6e6, "mobilenet_v2": 3.5e6, "resnet20": 0.27e6}[topology]
    assert abs(weights - published) < 0.02 * published
