"""Training on constraint sets: ADMM's formulas, exact sets, resuming, and integers that reach the program unchanged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import smec
from smec.ir.errors import SmecError
from smec.passes.constraints import Geometry, layer_constraint
from smec.passes.mapping.tiling import conv_blocks

torch = pytest.importorskip("torch", reason="torch is not installed")
from torch import Tensor, nn  # noqa: E402  # only where torch is there

from smec import train  # noqa: E402
from smec.train.matrices import from_blocks, to_blocks  # noqa: E402

SIGNS = [("twos-complement", 6), ("differential", 7), ("differential", 5), ("offset", 0)]


class Small(nn.Module):
    """Convolution with batch normalisation, grouped and depthwise convolutions, linear."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.grouped = nn.Conv2d(8, 12, 3, padding=1, groups=2)
        self.depthwise = nn.Conv2d(12, 12, 3, padding=1, groups=12)
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = torch.relu(self.depthwise(torch.relu(self.grouped(x))))
        return self.head(x.mean((2, 3)))


class Wave(nn.Module):
    """One-dimensional convolutions, and a linear layer that is exported as a matrix product."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(4, 6, 3, padding=1)
        self.second = nn.Conv1d(6, 6, 3, padding=1, groups=3)
        self.mix = nn.Linear(6, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.second(torch.relu(self.first(x))))
        return self.mix(x.transpose(1, 2)).mean(1)


def small(seed: int = 0) -> tuple[Small, Tensor]:
    """A network whose batch normalisation has seen data, and images."""
    torch.manual_seed(seed)
    model, images = Small(), torch.randn(8, 3, 6, 6)
    with torch.no_grad():
        model(images)
        model.norm.weight.uniform_(0.5, 1.5)
    return model, images


def advance(model: nn.Module, admm: train.Admm, optimizer: Any, images: Tensor, steps: int = 3) -> None:
    """A few steps of a training loop; the images are noisy, so that random numbers count."""
    for _ in range(steps):
        loss = model(images + 0.1 * torch.randn_like(images)).square().mean() + admm.penalty()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def sgd(model: nn.Module) -> Any:
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)


@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.integers(1, 3))
def test_matrices_are_those_of_the_tiles(groups: int, outputs: int, depth: int, height: int, width: int) -> None:
    shape = (groups * outputs, depth, height, width)
    weight = np.arange(np.prod(shape), dtype=np.int16).reshape(shape)
    blocks = to_blocks(torch.from_numpy(weight), groups)
    np.testing.assert_array_equal(blocks.numpy(), conv_blocks(weight, groups)[0])
    np.testing.assert_array_equal(from_blocks(blocks, shape).numpy(), weight)
    linear = torch.from_numpy(weight).reshape(len(weight), -1)
    assert torch.equal(to_blocks(linear, 1), linear.T[None])
    assert torch.equal(from_blocks(to_blocks(linear, 1), tuple(linear.shape)), linear)


# -- ADMM --------------------------------------------------------------------------------------------------------------


def test_penalty_and_its_gradient() -> None:
    model, images = small()
    admm = train.Admm(model, squeeze=6, rho=(0.5, 2.0), intervals=1)
    advance(model, admm, sgd(model), images)
    admm.step()
    optimizer = sgd(model)
    optimizer.zero_grad()
    admm.penalty().backward()
    total = 0.0
    for name, scale in admm.scales().items():
        layer = model.get_submodule(name)
        along = (-1, *(1,) * (layer.weight.ndim - 1))
        z = torch.from_numpy(admm.integers()[name].astype(np.float32) * scale.reshape(along))
        distance = layer.weight.detach() - z + admm.state_dict()["layers"][name]["dual"]
        torch.testing.assert_close(layer.weight.grad, 2.0 * distance)
        total += float(distance.square().sum())
    assert float(admm.penalty().detach()) == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize(("sign", "squeeze"), SIGNS)
@pytest.mark.parametrize("scale", ["column", "tensor"])
def test_a_step_projects_onto_the_set(sign: str, squeeze: int, scale: str) -> None:
    """Z is the constraint's own nearest point to W + U at the fitted scales; U <- (U + W - Z) rho / rho'."""
    model, images = small()
    admm = train.Admm(model, sign=sign, squeeze=squeeze, scale=scale, rho=(0.1, 0.4), intervals=1)
    before = admm.state_dict()["layers"]
    advance(model, admm, sgd(model), images)
    told = admm.step()
    assert told.rho == 0.1 and admm.rho == 0.4 and told.primal > 0
    after = admm.state_dict()["layers"]
    for name in admm.layers:
        layer = model.get_submodule(name)
        groups = getattr(layer, "groups", 1)
        constraint = layer_constraint(Geometry(8, sign, dense=groups == 1), "uniform", squeeze)
        assert admm.constraint(name) == constraint
        wanted = layer.weight.detach() + before[name]["dual"]
        scales = after[name]["scales"].numpy()
        values = to_blocks(wanted, groups).numpy() / scales
        q = constraint.project(values, np.square(scales / scales.max()))
        np.testing.assert_array_equal(after[name]["integers"].numpy(), q)
        z = from_blocks(torch.from_numpy(scales * q.astype(np.float32)), tuple(wanted.shape))
        torch.testing.assert_close(after[name]["dual"], (wanted - z) * 0.25)
        assert scale == "column" or len(np.unique(scales)) == 1


@given(st.data())
@settings(max_examples=25)
def test_finish_puts_weights_on_the_set(data: st.DataObject) -> None:
    groups, outputs, depth = (data.draw(st.integers(1, 4)) for _ in range(3))
    kernel = data.draw(st.integers(1, 3))
    sign, squeeze = data.draw(st.sampled_from(SIGNS))
    torch.manual_seed(data.draw(st.integers(0, 1000)))
    model = nn.Sequential(nn.Conv2d(groups * depth, groups * outputs, kernel, groups=groups), nn.Flatten())
    model.append(nn.LazyLinear(data.draw(st.integers(1, 5))))
    model(torch.randn(2, groups * depth, 4, 4))
    admm = train.Admm(model, sign=sign, squeeze=squeeze)
    admm.finish()
    assert admm.held and float(admm.penalty()) == 0
    for name, integers in admm.integers().items():
        layer = model.get_submodule(name)
        blocks = to_blocks(torch.from_numpy(integers), getattr(layer, "groups", 1)).numpy()
        assert admm.constraint(name).contains(blocks)
        scale = admm.scales()[name].reshape(-1, *(1,) * (integers.ndim - 1))
        torch.testing.assert_close(layer.weight.detach(), torch.from_numpy(scale * integers.astype(np.float32)))


def test_fitting_never_raises_the_distance() -> None:
    from smec.passes.admm.problem import nearest_integers
    from smec.train.fitting import Fit, first_fit, improve

    values = np.random.default_rng(0).normal(size=(2, 9, 5)).astype(np.float32)
    constraint = layer_constraint(Geometry(8, "twos-complement"), "uniform", 6)
    scales = np.full((2, 1, 5), 0.01, np.float32)
    plain = Fit(nearest_integers(values, scales, constraint), scales).distance(values)
    improved = improve(values, constraint, True, scales, 10).distance(values)
    assert first_fit(values, constraint, True, 10).distance(values) < improved < plain


# -- on the set --------------------------------------------------------------------------------------------------------


def test_gradients_go_straight_through() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 4, bias=False))
    admm = train.Admm(model, squeeze=6)
    admm.finish()
    entry, free = model[0].parametrizations.weight[0], model[0].parametrizations.weight.original
    with torch.no_grad():
        entry.gain.uniform_(0.5, 1.5)
    with nn.utils.parametrize.cached():  # so that the layer computes with the very tensor that is asked for here
        held = model[0].weight
        held.retain_grad()
        (model(torch.randn(5, 6)) ** 3).sum().backward()
    gradient, gain = held.grad, entry.gain.detach().reshape(-1, 1)
    torch.testing.assert_close(free.grad, gain * gradient)
    torch.testing.assert_close(entry.gain.grad.reshape(-1), (gradient * held.detach() / gain).sum(1))


@pytest.mark.parametrize("held", [False, True])
def test_rates_go_by_the_size_of_weights(held: bool) -> None:
    model, _ = small()
    admm = train.Admm(model, squeeze=6, overrides={"head": None})
    if held:
        admm.finish()
    others, *weights = admm.groups(0.5, 0.1)
    assert others["lr"] == 0.5 and len(weights) == len(admm.layers)
    listed = [*others["params"], *(p for group in weights for p in group["params"])]
    assert sorted(map(id, listed)) == sorted(map(id, model.parameters()))
    for name, group in zip(admm.layers, weights, strict=True):
        module = model.get_submodule(name)
        assert group["params"][0] is (module.parametrizations.weight.original if held else module.weight)
        assert group["lr"] == pytest.approx(0.1 * float(module.weight.detach().square().mean().sqrt()))
    optimizer = torch.optim.Adam(admm.groups(1e-3, 0.1))
    before = admm.integers()
    advance(model, admm, optimizer, torch.randn(8, 3, 6, 6), steps=8)
    if held:
        assert all((before[name] != integers).any() for name, integers in admm.integers().items())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_gets_the_same_integers() -> None:
    """Moved before and after ADMM is prepared; every part of the loop runs."""
    plain = small()[0]
    reference = train.Admm(plain, sign="twos-complement", squeeze=6)
    for early in (True, False):
        model, images = small()
        if early:
            model.cuda()
        admm = train.Admm(model, sign="twos-complement", squeeze=6)
        model.cuda()
        # The projection runs on the CPU: a GPU gets the very integers, but for weights folded on another device.
        for name, integers in admm.integers().items():
            assert np.mean(integers == reference.integers()[name]) > 0.99
        advance(model, admm, sgd(model), images.cuda())
        admm.step()
        admm.finish()
        advance(model, admm, sgd(model), images.cuda())
        proto = train.export_onnx(model, images[:2].cuda())
        found = {t.name: onnx.numpy_helper.to_array(t) for t in proto.graph.initializer}
        for name, integers in admm.integers().items():
            np.testing.assert_array_equal(found[f"{name}.integers"], integers)


# -- checkpoints -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [1, 3])
def test_a_resumed_run_is_the_same(cut: int, tmp_path: Path) -> None:
    """Cut in the ADMM stage, and after `finish`."""

    def begin() -> tuple[Small, train.Admm, Tensor]:
        model, images = small()
        return model, train.Admm(model, sign="twos-complement", squeeze=6, rho=(0.1, 1.0), intervals=1), images

    def interval(model: nn.Module, admm: train.Admm, optimizer: Any, images: Tensor) -> Any:
        advance(model, admm, optimizer, images)
        if not admm.held:
            admm.step()
            if admm.done:
                admm.finish()
                return sgd(model)
        return optimizer

    model, admm, images = begin()
    optimizer = sgd(model)
    for count in range(4):
        if count == cut:
            parts = {"admm": admm, "model": model, "optimizer": optimizer}
            state = {name: part.state_dict() for name, part in parts.items()}
            torch.save(state | {"random": torch.get_rng_state()}, tmp_path / "state.pt")
        optimizer = interval(model, admm, optimizer, images)
    whole, wanted = model.state_dict(), admm.state_dict()

    model, admm, images = begin()
    state = torch.load(tmp_path / "state.pt")
    admm.load_state_dict(state["admm"])
    model.load_state_dict(state["model"])
    optimizer = sgd(model)
    optimizer.load_state_dict(state["optimizer"])
    torch.set_rng_state(state["random"])
    for _ in range(cut, 4):
        optimizer = interval(model, admm, optimizer, images)
    assert list(whole) == list(model.state_dict())
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in whole.items())
    again = admm.state_dict()
    assert wanted["steps"] == again["steps"] and wanted["held"] == again["held"]
    for name, layer in wanted["layers"].items():
        assert all(torch.equal(layer[k], again["layers"][name][k]) for k in ("integers", "scales", "dual"))


def test_states_must_fit() -> None:
    model, _ = small()
    state = train.Admm(model, squeeze=6).state_dict()
    with pytest.raises(SmecError, match="stem: state is of other options"):
        train.Admm(small()[0], squeeze=5).load_state_dict(state)
    with pytest.raises(SmecError, match="state is of other layers"):
        train.Admm(small()[0], squeeze=6, overrides={"head": None}).load_state_dict(state)
    with pytest.raises(SmecError, match="state of another version"):
        train.Admm(small()[0], squeeze=6).load_state_dict({})
    admm = train.Admm(small()[0], squeeze=6)
    admm.finish()
    with pytest.raises(SmecError, match="from before finish"):
        admm.load_state_dict(state)


# -- export ------------------------------------------------------------------------------------------------------------


def compiled(path: Path, images: Tensor, sign: str, squeeze: int) -> tuple[list[Any], dict[str, Any]]:
    """The crossbar layers of an exported model, after squeeze-out, and what the passes reported."""
    from smec.ir.dialects.xbar import MvmOp

    report: dict[str, Any] = {}
    level = "xbar.squeezed" if squeeze else "xbar.tiled"
    options = {"pattern": "external", "sign": sign, "sign_rows": 16, "squeeze": squeeze, "shift": "fit"}
    module = smec.lower(path, level, calib={"input": images.numpy()}, report=report, **options)
    return [op for op in module.graph.ops if isinstance(op, MvmOp)], report


@pytest.mark.parametrize(
    ("sign", "squeeze", "scale"),
    [*((*s, "column") for s in SIGNS), ("differential", 6, "tensor"), ("polarized", 5, "column")],
)
@pytest.mark.parametrize("network", [Small, Wave])
def test_programs_have_the_integers_of_training(
    network: type[nn.Module], sign: str, squeeze: int, scale: str, tmp_path: Path
) -> None:
    torch.manual_seed(1)
    model = network()
    images = torch.randn(8, 3, 6, 6) if network is Small else torch.randn(8, 4, 10)
    admm = train.Admm(model, sign=sign, squeeze=squeeze, scale=scale, sign_rows=16)
    advance(model, admm, sgd(model), images)
    admm.step()
    admm.finish()
    before = admm.integers()
    advance(model, admm, torch.optim.Adam(model.parameters(), lr=0.03), images, steps=8)
    assert any((before[name] != integers).any() for name, integers in admm.integers().items())
    train.export_onnx(model, images[:2], tmp_path / "model.onnx")
    layers, report = compiled(tmp_path / "model.onnx", images, sign, squeeze)
    assert report["quantize-nearest"]["not_carried"] == []
    assert not squeeze or report["squeeze-out"]["squared_error"] == 0
    for op, name in zip(layers, admm.layers, strict=True):
        np.testing.assert_array_equal(op.effective_weights().reshape(-1), admm.integers()[name].reshape(-1))
        np.testing.assert_array_equal(op.weight_scale.array, admm.scales()[name])


def test_the_exported_model_computes_what_the_trained_one_does(tmp_path: Path) -> None:
    import onnxruntime

    model, images = small()
    admm = train.Admm(model, squeeze=6, overrides={"stem": train.LayerOptions(squeeze=3), "head": None})
    admm.finish()
    proto = train.export_onnx(model, images[:2], tmp_path / "model.onnx", input_names=["x"], output_names=["y"])
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    with torch.no_grad():
        wanted = model.eval()(images).numpy()
    np.testing.assert_allclose(session.run(["y"], {"x": images.numpy()})[0], wanted, rtol=1e-4, atol=1e-5)
    carried = [node.name for node in proto.graph.node if node.op_type == "DequantizeLinear"]
    assert carried == ["stem.dequantize", "grouped.dequantize", "depthwise.dequantize"]
    kinds = {t.name: t.data_type for t in proto.graph.initializer}
    for name, integers in admm.integers().items():
        narrow = integers.min() >= -128 and integers.max() <= 127
        assert kinds[f"{name}.integers"] == (onnx.TensorProto.INT8 if narrow else onnx.TensorProto.INT16)
    assert model.stem.parametrizations.weight[0].fixed is None  # the model itself is as it was
    with pytest.raises(SmecError, match="no weight of the model is held"):
        train.export_onnx(small()[0], images[:2])
