"""Training: label-free starts, folding, options and their checks, distillation, the example."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shared
from smec.ir.errors import SmecError

torch = pytest.importorskip("torch", reason="torch is not installed")
from test_train import Small, small  # noqa: E402
from torch import Tensor, nn  # noqa: E402  # only where torch is there

from smec import train  # noqa: E402


@pytest.mark.parametrize(("sign", "squeeze"), [("twos-complement", 6), ("differential", 7)])
def test_training_starts_at_the_label_free_integers(sign: str, squeeze: int) -> None:
    model, images = small()
    plain = copy.deepcopy(model)
    admm = train.Admm(model, sign=sign, squeeze=squeeze, start=images)
    found = train.label_free(plain, images, train.LayerOptions(sign=sign, squeeze=squeeze))
    assert sorted(found) == sorted(admm.layers)
    with torch.no_grad():
        far = (train_output(plain, images) - model.eval()(images)).square().mean()
        assert far < 0.5 * train_output(plain, images).var()
    assert float(admm.penalty().detach()) == pytest.approx(0, abs=1e-12)
    admm.finish()
    for name, start in found.items():
        np.testing.assert_array_equal(admm.integers()[name], start.integers)
        np.testing.assert_allclose(admm.scales()[name], start.scales, rtol=1e-5)
        np.testing.assert_array_equal(model.get_submodule(name).bias.detach().numpy(), start.bias)


def train_output(model: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        return model.eval()(images)


def test_starts_are_checked() -> None:
    integers = np.zeros((5, 12), np.int16)
    one = np.ones(1, np.float32)
    cases = {
        "start for 'body', which is no": {"body": train.Start(integers, one)},
        "head: start has another shape": {"head": train.Start(integers.T, one)},
        "head: scales of a start": {"head": train.Start(integers, -one)},
        "head: start is not in the constraint set": {"head": train.Start(integers + 255, one)},
        "head: start holds no 16-bit integers": {"head": train.Start(integers + 0.5, one)},
    }
    for message, start in cases.items():
        with pytest.raises(SmecError, match=message):
            train.Admm(small()[0], squeeze=6, sign="twos-complement", start=start)


def test_folding_changes_nothing_but_the_form() -> None:
    model, images = small()
    wanted = train_output(model, images)
    assert train.fold_batch_norm(model) == [("stem", "norm")]
    torch.testing.assert_close(train_output(model, images), wanted, rtol=1e-4, atol=1e-5)
    assert isinstance(model.norm, nn.Identity) and model.stem.bias is not None
    assert train.fold_batch_norm(model) == []


class Branching(Small):
    """Cannot be traced."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if x.sum() > 0 else -x)


def test_models_that_cannot_be_traced_need_pairs() -> None:
    model = Branching()
    with pytest.raises(SmecError, match="cannot be traced") as caught:
        train.Admm(model)
    assert "fold_batch_norm" in str(caught.value.hint)
    with pytest.raises(SmecError, match="norm: batch normalisation does not follow layer 'head'"):
        train.fold_batch_norm(model, [("head", "norm")])
    with pytest.raises(SmecError, match="no batch normalisation is called 'head'"):
        train.fold_batch_norm(model, [("stem", "head")])
    assert train.fold_batch_norm(model, [("stem", "norm")]) == [("stem", "norm")]
    train.Admm(model).finish()


def test_options_are_checked() -> None:
    cases: dict[str, dict[str, Any]] = {
        "no layer is called 'hea'": {"overrides": {"hea": None}},
        "the model has no layer to constrain": {"overrides": {"*": None}},
        "stem: squeeze depth": {"squeeze": 8},
        "stem: unknown granularity of scales": {"scale": "row"},
        "unknown sign scheme": {"sign": "ternary"},
        "penalties rho": {"rho": ()},
        "intervals a stage": {"intervals": 0},
        "unknown target": {"target": "nowhere"},
    }
    for message, options in cases.items():
        with pytest.raises(SmecError, match=message):
            train.Admm(small()[0], **options)


def test_weights_are_checked() -> None:
    def refused(message: str, change: Any) -> None:
        model, _ = small()
        change(model)
        with pytest.raises(SmecError, match=message):
            train.Admm(model)

    refused("head: weights hold NaN", lambda m: m.head.weight.data.fill_(float("nan")))
    refused("head: weight is not float32", lambda m: m.head.double())
    refused("head: weight is parametrized already", lambda m: nn.utils.parametrizations.weight_norm(m.head))
    tied = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    tied[1].weight = tied[0].weight
    with pytest.raises(SmecError, match="1: weight is shared with layer '0'"):
        train.Admm(tied)
    model, _ = small()
    admm = train.Admm(model)
    model.head.weight.data.fill_(float("inf"))
    with pytest.raises(SmecError, match="head: weights hold NaN"):
        admm.step()
    model.head.weight.data.zero_()
    admm.finish()
    model.head.parametrizations.weight.original.data.fill_(float("inf"))
    with pytest.raises(SmecError, match="head: weights hold NaN"):
        admm.integers()


def test_the_order_of_calls_is_checked() -> None:
    admm = train.Admm(small()[0])
    with pytest.raises(SmecError, match="no constrained layer is called 'x'"):
        admm.constraint("x")
    admm.finish()
    with pytest.raises(SmecError, match="ADMM is over"):
        admm.step()
    with pytest.raises(SmecError, match="held on the set already"):
        admm.finish()


def test_distillation() -> None:
    model, images = small()
    teacher = train.Teacher(model, temperature=2.0)
    model.eval()
    assert float(teacher.loss(model(images).detach(), images)) == pytest.approx(0, abs=1e-6)
    logits = torch.randn(8, 5, requires_grad=True)
    loss = teacher.loss(logits, images)
    loss.backward()
    wanted, found = torch.softmax(teacher(images) / 2, 1), torch.softmax(logits.detach() / 2, 1)
    torch.testing.assert_close(logits.grad, 2 * (found - wanted) / 8)
    model.stem.weight.data.zero_()
    assert not teacher.train().model.training and float(teacher.model.stem.weight.abs().sum()) > 0


def test_fake_activations() -> None:
    model, images = small()
    admm = train.Admm(model)
    wanted = train_output(model, images)
    fake = train.FakeActivations(model, admm.layers, bits=8)
    model.train()
    model(images)
    eight = (train_output(model, images) - wanted).abs().max()
    again = train.FakeActivations(model, admm.layers, bits=2)
    two = (train_output(model, images) - wanted).abs().max()
    assert 0 < eight < two
    state = fake.state_dict()
    assert sorted(state["ranges"]) == sorted(admm.layers)
    fake.remove()
    again.remove()
    torch.testing.assert_close(train_output(model, images), wanted)
    resumed = train.FakeActivations(model, admm.layers, bits=8)
    resumed.load_state_dict(state)
    assert (train_output(model, images) - wanted).abs().max() == eight
    images.requires_grad_()
    model(images).sum().backward()
    assert float(images.grad.abs().sum()) > 0
    with pytest.raises(SmecError, match="activation bits"):
        train.FakeActivations(model, admm.layers, bits=17)


def test_nothing_else_needs_torch() -> None:
    code = "import sys, smec, smec.cli; smec.compile; sys.exit('torch' in sys.modules or 'smec.train' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.slow
def test_digits_example(tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    # Fewer epochs than the example has, which takes half a minute and gets 98.9 %.
    code = "import sys, train_digits, finetune_digits; train_digits.EPOCHS = 8; finetune_digits.main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "--epochs", "6", "--output", tmp_path / "digits.onnx"],
        check=True, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(shared.EXAMPLES)},
    )  # fmt: skip
    top1 = float(done.stdout.split("top-1 ")[1].split()[0])
    assert top1 >= 88 and "squeeze error 0" in done.stdout
