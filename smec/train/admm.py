"""ADMM while training: weights are drawn onto a constraint set by a penalty, then held on it.

With the loss f(W) and the set S of a Q (integers Q in a constraint set, scales a), scaled-form ADMM alternates

    W <- some steps of SGD on f(W) + sum rho / 2 |W - Z + U|^2         (the user's loop, with `penalty`)
    Z <- nearest point of S to W + U,   U <- U + W - Z                 (`step`)

Sources: Boyd et al., 2011, doi 10.1561/2200000016, sections 3.1.1, 3.4.1 (rho that varies) and 9.1; Zhang et al., ECCV
2018, arXiv 1804.03294, and Leng et al., AAAI 2018, arXiv 1707.09870 (for weights of networks).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from smec.ir.errors import SmecError
from smec.passes.constraints import ConstraintSet
from smec.train.fitting import Fit, first_fit, improve
from smec.train.folding import fold_batch_norm
from smec.train.held import Held
from smec.train.label_free import label_free
from smec.train.matrices import as_numpy, finite_blocks, from_blocks, groups_of, to_blocks
from smec.train.options import LayerOptions, choose
from smec.train.start import Start

if TYPE_CHECKING:
    from smec.targets import Target

#: Of the dictionary that `Admm.state_dict` returns.
STATE_VERSION = 1


@dataclass(frozen=True)
class Interval:
    """What `Admm.step` has to say, over all layers.

    Attributes:
        stage: of rho, from 0.
        rho: the penalty of the interval that ended.
        primal: |W - Z| / |W|.
        dual: |Z - Z before| / |Z|.
    """

    stage: int
    rho: float
    primal: float
    dual: float


@dataclass
class _Layer:
    """One layer: its weight, its set, and the variables Z = a Q and U of ADMM."""

    name: str
    module: Any
    options: LayerOptions
    constraint: ConstraintSet
    groups: int
    fit: Fit
    dual: Tensor

    def __post_init__(self) -> None:
        self.anchor = self.target()

    @property
    def column(self) -> bool:
        return self.options.scale == "column"

    @property
    def weight(self) -> nn.Parameter:
        """The free parameter."""
        held = parametrize.is_parametrized(self.module, "weight")
        found: nn.Parameter = self.module.parametrizations.weight.original if held else self.module.weight
        return found

    @property
    def held(self) -> Held:
        found: Held = self.module.parametrizations.weight[0]
        return found

    def real(self) -> Tensor:
        """Z, of the weight's shape, on its device."""
        weight = self.weight
        return from_blocks(torch.from_numpy(self.fit.real), tuple(weight.shape)).to(weight.device)

    def target(self) -> Tensor:
        """Z - U: what the penalty draws the weight to."""
        return self.real() - self.dual.to(self.weight.device)

    def blocks(self, values: Tensor) -> np.ndarray:
        return finite_blocks(values, self.groups, self.name)


class Admm:
    """Draws the weights of a model onto constraint sets while it is trained.

    The model is changed in place: batch normalisations are folded (see `fold_batch_norm`); with `start`, weights begin
    at the integers given. Make the optimizer afterwards, and again after `finish`, which adds trainable scales.

    Args:
        model: any module; its Conv1d, Conv2d and Linear layers, grouped and depthwise ones too, are constrained.
        pattern, bits, sign, squeeze, scale, constraints, sign_rows: see `LayerOptions`.
        target: hardware whose tiles count, as for `smec.compile`.
        overrides: options of single layers, by name or pattern of names; None leaves a layer out.
        rho: penalties, one a stage.
        intervals: `step` calls a stage.
        rounds: most alternations between scales and integers a projection.
        start: calibration images [B, ...]: begin at what the compile-time ADMM finds for them (`label_free`), for
            layers without an override; or integers by name of a layer.
        fold: fold batch normalisations.

    Raises:
        SmecError: an option, an override, a start or a layer is refused; a model with batch normalisations cannot be
            traced.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        pattern: str = "uniform",
        bits: int = 8,
        sign: str = "differential",
        squeeze: int = 0,
        scale: str = "column",
        constraints: str = "",
        sign_rows: int = 8,
        target: str | os.PathLike[str] | Target = "sme",
        overrides: Mapping[str, LayerOptions | None] | None = None,
        rho: Sequence[float] = (1e-3, 1e-2, 1e-1),
        intervals: int = 2,
        rounds: int = 10,
        start: Mapping[str, Start] | Tensor | np.ndarray | None = None,
        fold: bool = True,
    ) -> None:
        from smec import targets

        default = LayerOptions(pattern, bits, sign, squeeze, scale, constraints, sign_rows)
        hardware = targets.load(target)
        self.rho_stages = _checked_stages(rho, intervals)
        self.intervals = intervals
        self.rounds = rounds
        self.steps = 0
        self.model = model
        if fold:
            fold_batch_norm(model)
        options = choose(model, default, overrides or {})
        starts = _starts(model, start, default, options, hardware)
        self._layers = {name: self._layer(name, options[name], hardware, starts.get(name)) for name in options}
        self._held = False

    def _layer(self, name: str, options: LayerOptions, hardware: Target, start: Start | None) -> _Layer:
        module: Any = self.model.get_submodule(name)
        groups = groups_of(module)
        try:
            constraint = options.constraint(hardware, groups == 1)
        except SmecError as error:
            raise SmecError(error.message, location=name, expected=error.expected, found=error.found) from error
        weight = module.weight
        if start is None:
            fit = first_fit(as_numpy(to_blocks(weight, groups)), constraint, options.scale == "column", self.rounds)
        else:
            fit = _begin(name, module, groups, constraint, start)
        return _Layer(name, module, options, constraint, groups, fit, torch.zeros_like(weight.detach()))

    # -- the loop

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers, in the order of the model."""
        return tuple(self._layers)

    @property
    def held(self) -> bool:
        """Whether `finish` was called: the weights are on the set."""
        return self._held

    @property
    def stage(self) -> int:
        """The stage of rho, from 0."""
        return min(self.steps // self.intervals, len(self.rho_stages) - 1)

    @property
    def done(self) -> bool:
        """Whether all intervals of all stages are over."""
        return self.steps >= self.intervals * len(self.rho_stages)

    @property
    def rho(self) -> float:
        return self.rho_stages[self.stage]

    def groups(self, rate: float, relative: float) -> list[dict[str, Any]]:
        """Parameter groups for an optimizer that moves every parameter by about its rate a step, such as Adam.

        An integer changes when its weight has crossed half a level, and levels are as far apart as weights are large:
        a rate that suits biases hardly ever changes an integer, or scrambles the layers with the least weights.

        Args:
            rate: of biases, scales and whatever else the model has.
            relative: rate of a constrained weight, as a share of the root mean square of its layer's weights.
        """
        weights = [layer.weight for layer in self._layers.values()]
        known = {id(weight) for weight in weights}
        others = [p for p in self.model.parameters() if id(p) not in known]
        sizes = [float(weight.detach().square().mean().sqrt()) for weight in weights]
        found = [{"params": [w], "lr": relative * size} for w, size in zip(weights, sizes, strict=True)]
        return [{"params": others, "lr": rate}, *found]

    def penalty(self) -> Tensor:
        """The sum of rho / 2 |W - Z + U|^2, to be added to the loss; 0 after `finish`."""
        if self._held:
            return next(iter(self._layers.values())).weight.new_zeros(())
        total: Tensor | None = None
        for layer in self._layers.values():
            if layer.anchor.device != layer.weight.device:
                layer.anchor = layer.anchor.to(layer.weight.device)
            term = (layer.weight - layer.anchor).square().sum()
            total = term if total is None else total + term.to(total.device)
        assert total is not None  # noqa: S101  # for the type checker: there are layers
        return total * (self.rho / 2)

    def step(self) -> Interval:
        """End an interval: re-fit scales, move Z and U, and go on to the next rho when the stage is over.

        Raises:
            SmecError: weights hold NaN or infinities; `finish` was called already.
        """
        if self._held:
            raise SmecError("ADMM is over: the weights are held on the set", hint="no step after finish")
        before, stage = self.rho, self.stage
        self.steps += 1
        ratio = before / self.rho
        gap = moved = size = norm = 0.0
        with torch.no_grad():
            for layer in self._layers.values():
                weight, old = layer.weight, layer.real()
                dual = layer.dual.to(weight.device)
                values = layer.blocks(weight + dual)
                layer.fit = improve(values, layer.constraint, layer.column, layer.fit.scales, self.rounds)
                real = layer.real()
                # U is the multiplier over rho: where rho changes, so does U.
                layer.dual = (dual + weight - real) * ratio
                layer.anchor = layer.target()
                gap += float((weight - real).double().square().sum())
                moved += float((real - old).double().square().sum())
                norm += float(weight.double().square().sum())
                size += float(real.double().square().sum())
        return Interval(stage, before, (gap / max(norm, 1e-30)) ** 0.5, (moved / max(size, 1e-30)) ** 0.5)

    def finish(self) -> None:
        """Project the weights onto the set, and hold them there: from now on forward passes compute with a Q, gradients
        go straight through to the free parameters, and the scales are trainable (see `smec.train.held`).

        Raises:
            SmecError: weights hold NaN or infinities; `finish` was called already.
        """
        if self._held:
            raise SmecError("the weights are held on the set already", hint="finish only once")
        for layer in self._layers.values():
            values = layer.blocks(layer.weight)
            layer.fit = improve(values, layer.constraint, layer.column, layer.fit.scales, self.rounds)
            with torch.no_grad():
                layer.weight.copy_(layer.real())
        self._hold()

    def _hold(self) -> None:
        for layer in self._layers.values():
            scales = torch.from_numpy(layer.fit.scales).to(layer.weight.device)
            held = Held(layer.name, layer.constraint, layer.groups, scales, layer.column)
            parametrize.register_parametrization(layer.module, "weight", held)
        self._held = True

    # -- results

    def integers(self) -> dict[str, np.ndarray]:
        """Q of every layer, int16, of the shape of its weight: Z's, and after `finish` the layer's own."""
        found = {}
        for name, layer in self._layers.items():
            blocks = layer.held.integers(layer.weight) if self._held else layer.fit.integers
            found[name] = from_blocks(torch.from_numpy(blocks), tuple(layer.weight.shape)).numpy()
        return found

    def scales(self) -> dict[str, np.ndarray]:
        """Scales of every layer, float32 [M], or [1] where there is one a tensor."""
        found = {}
        for name, layer in self._layers.items():
            flat = layer.fit.scales.reshape(-1)
            found[name] = layer.held.scales() if self._held else flat if layer.column else flat[:1]
        return found

    def constraint(self, name: str) -> ConstraintSet:
        """The set of one layer; its points are [G, K, M].

        Raises:
            SmecError: no such layer.
        """
        if name not in self._layers:
            raise SmecError(f"no constrained layer is called '{name}'", expected=" | ".join(self._layers))
        return self._layers[name].constraint

    # -- checkpoints

    def state_dict(self) -> dict[str, Any]:
        """All of ADMM's own state, for `torch.save`, beside that of model, optimizer and random numbers."""
        layers = {
            name: {
                "options": asdict(layer.options),
                "integers": torch.from_numpy(layer.fit.integers.copy()),
                "scales": torch.from_numpy(layer.fit.scales.copy()),
                "dual": layer.dual.detach().cpu().clone(),
            }
            for name, layer in self._layers.items()
        }
        return {"version": STATE_VERSION, "steps": self.steps, "held": self._held, "layers": layers}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up the state of another `Admm`, made with the same options for the same model.

        Call it before the model's `load_state_dict`: where weights are held on the set, the model gets its additional
        parameters here.

        Raises:
            SmecError: the state is of other layers or options, or goes back behind `finish`.
        """
        if state.get("version") != STATE_VERSION:
            raise SmecError("state of another version", expected=STATE_VERSION, found=state.get("version"))
        saved = state["layers"]
        if list(saved) != list(self._layers):
            raise SmecError("state is of other layers", expected=", ".join(self._layers), found=", ".join(saved))
        for name, layer in self._layers.items():
            if saved[name]["options"] != asdict(layer.options):
                raise SmecError(
                    "state is of other options", location=name, expected=layer.options, found=saved[name]["options"]
                )
            if saved[name]["dual"].shape != layer.weight.shape:
                raise SmecError(
                    "state is of another shape",
                    location=name,
                    expected=tuple(layer.weight.shape),
                    found=tuple(saved[name]["dual"].shape),
                )
        if self._held and not state["held"]:
            raise SmecError("state is from before finish, and the weights are held already", hint="make a new Admm")
        self.steps = int(state["steps"])
        for name, layer in self._layers.items():
            layer.fit = Fit(saved[name]["integers"].numpy().copy(), saved[name]["scales"].numpy().copy())
            layer.dual = saved[name]["dual"].to(layer.weight.device).clone()
            layer.anchor = layer.target()
        if state["held"] and not self._held:
            self._hold()


def _checked_stages(rho: Sequence[float], intervals: int) -> tuple[float, ...]:
    stages = tuple(float(r) for r in rho)
    if not stages or not all(np.isfinite(r) and r > 0 for r in stages):
        raise SmecError("penalties rho", expected="one positive number a stage", found=stages)
    if intervals < 1:
        raise SmecError("intervals a stage", expected="1 or more", found=intervals)
    return stages


def _starts(
    model: nn.Module,
    start: Mapping[str, Start] | Tensor | np.ndarray | None,
    default: LayerOptions,
    options: Mapping[str, LayerOptions],
    hardware: Target,
) -> Mapping[str, Start]:
    if start is None:
        return {}
    if isinstance(start, (Tensor, np.ndarray)):
        found = label_free(model, start, default, target=hardware)
        return {name: s for name, s in found.items() if options.get(name) == default}
    unknown = [name for name in start if name not in options]
    if unknown:
        raise SmecError(f"start for '{unknown[0]}', which is no constrained layer", expected=" | ".join(options))
    return start


def _begin(name: str, module: Any, groups: int, constraint: ConstraintSet, start: Start) -> Fit:
    """Set a layer's weight and bias to a start."""
    weight, outputs = module.weight, module.weight.shape[0]
    integers, scales = np.asarray(start.integers), np.asarray(start.scales, np.float32).reshape(-1)
    if integers.shape != tuple(weight.shape):
        raise SmecError("start has another shape", location=name, expected=tuple(weight.shape), found=integers.shape)
    if scales.size not in (1, outputs) or not (np.isfinite(scales).all() and (scales > 0).all()):
        raise SmecError("scales of a start", location=name, expected=f"1 or {outputs} positive numbers", found=scales)
    blocks = as_numpy(to_blocks(torch.from_numpy(integers.astype(np.float32)), groups)).astype(np.int16)
    if not np.array_equal(blocks, as_numpy(to_blocks(torch.from_numpy(integers.astype(np.float32)), groups))):
        raise SmecError("start holds no 16-bit integers", location=name)
    if not constraint.contains(blocks):
        raise SmecError("start is not in the constraint set", location=name, expected=constraint.text())
    fit = Fit(blocks, np.broadcast_to(scales.reshape(-1), (outputs,)).reshape(groups, 1, -1).copy())
    with torch.no_grad():
        weight.copy_(from_blocks(torch.from_numpy(fit.real), tuple(weight.shape)))
        if start.bias is not None and module.bias is not None:
            module.bias.copy_(torch.tensor(np.asarray(start.bias, np.float32)))
    return fit
