"""The pass `allocate`."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from smec.ir.dialects.arithmetic import round_clip
from smec.ir.dialects.builtin import ModuleOp
from smec.ir.dialects.quant import WeightedOp
from smec.ir.errors import SmecError
from smec.passes.base import Pass, PassContext, register_pass
from smec.passes.mapping.layers import groups_of, hardware
from smec.passes.mapping.solver import gap

if TYPE_CHECKING:
    from collections.abc import Sequence

    from smec.ir.core import AttrValue
    from smec.passes.admm.choice import Choice
    from smec.passes.admm.curves import Candidate, Point, Space
    from smec.passes.admm.prefix import FloatPrefix
    from smec.passes.admm.probe import Reference

#: Least damping of H, as in `quantize-admm`.
_DAMPING = 0.01

#: One image of so many is not fitted to, but tells how large errors are.
_JUDGES = 4


@dataclass(frozen=True)
class Measured:
    """What is known of layers before there is a bound.

    Attributes:
        curves: points of each layer.
        activation_error: the network's error if only activations are rounded.
        probes: images on which the network's outputs were compared.
    """

    curves: list[list[Point]]
    activation_error: float
    probes: int


@register_pass
@dataclass(frozen=True)
class Allocate(Pass):
    """Choose pattern, sign scheme, squeeze depth and scales of every layer: the fewest crossbars within an error of the
    network's output, or the least error within a number of crossbars.

    For each layer and each candidate, integers are found in a short run of ADMM on three quarters of the calibration
    images, and judged on the others. The layer alone is then given such weights, the rest of the network left as it
    is, and the error of the network's outputs read.
    Errors of layers, so referred to the outputs, add up. See `docs/budget.md`. `quantize-admm{squeeze=auto}` follows
    the choice; tiles and crossbars are those of the target.

    Reports: `weight_error` (what the bound is about: squared error of the network's outputs over their power),
    `activation_error` (the same for rounded activations alone), `predicted_error` (the sum), `crossbars` (physical
    ones, if no weight plane turns out empty), `at_least`, `objective`, `bound`, `gap` (of the choice), and under
    `layers` what was chosen, each with its `curve`.

    Raises:
        SmecError: the bound cannot be met (the message has the best that can); not one bound is given; there is no
            calibration data, or less than eight images.
    """

    name = "allocate"
    requires = ("quant.float",)
    forbids = ("quant",)
    ensures = ("quant.allocated",)

    max_error: float | None = field(
        default=None,
        metadata={"doc": "E: squared error of the network's outputs over their power that rounded weights may cause"},
    )
    max_crossbars: int | None = field(default=None, metadata={"doc": "N: physical crossbars of one copy of each layer"})
    patterns: tuple[str, ...] = field(default=("uniform",), metadata={"doc": "patterns to choose from"})
    signs: tuple[Literal["differential", "offset", "twos-complement"], ...] = field(
        default=("twos-complement", "differential"), metadata={"doc": "sign schemes to choose from"}
    )
    scales: tuple[Literal["tensor", "column"], ...] = field(
        default=("column",), metadata={"doc": "granularities of the scales to choose from"}
    )
    depths: tuple[int, ...] = field(default=(), metadata={"doc": "squeeze depths x to choose from; none: all"})
    bits: int = field(default=8, metadata={"doc": "N, as in quantize-admm"})
    shift: Literal["leading-one", "fit"] = field(default="fit", metadata={"doc": "rule of the row shifts"})
    drop: float = field(
        default=0.2, metadata={"doc": "largest share of rows that may be left out where the rest fills fewer tiles"}
    )
    double: bool = field(
        default=True, metadata={"doc": "whether rows that tiles leave idle may become second rows of inputs"}
    )
    images: int = field(default=512, metadata={"doc": "most calibration images that are used; 0: all that are given"})
    probes: int = field(default=32, metadata={"doc": "most images on which the network's outputs are compared"})
    iterations: int = field(default=20, metadata={"doc": "of ADMM, a candidate"})
    sweeps: int = field(default=2, metadata={"doc": "of coordinate descent, a candidate"})

    def run(self, module: ModuleOp, context: PassContext) -> bool:
        from smec.passes.admm.choice import choose

        self._check()
        layers = [op for op in module.graph.ops if isinstance(op, WeightedOp)]
        if not layers:
            return False
        measured = self.measure(module, context)
        machine = hardware(context, self.name)
        choice = choose(measured.curves, pixels_of(layers), machine, self.max_error, self.max_crossbars)
        for op, curve, picked in zip(layers, measured.curves, choice.picked, strict=True):
            op.attributes |= self._attributes(curve[picked].candidate)
        context.report[self.name] = self._report(layers, measured, choice)
        return True

    def measure(self, module: ModuleOp, context: PassContext) -> Measured:
        """The curve of every layer; the bounds have no part in it.

        Raises:
            SmecError: there is no float network, no calibration data, or a layer without candidates.
        """
        from smec.passes.admm.curves import Space
        from smec.passes.admm.layerwise import used_images
        from smec.passes.admm.prefix import FloatPrefix
        from smec.passes.admm.probe import Reference
        from smec.passes.mapping.footprint import busy_all_the_time

        floats = module.float_graph
        if floats is None:
            raise SmecError("the module does not hold its float network", hint="run quantize-activations first")
        layers = [op for op in module.graph.ops if isinstance(op, WeightedOp)]
        choices = (self.patterns, self.signs, self.scales, self.depths, self.bits, self.drop, self.double)
        spaces = [Space(*choices, alone) for alone in busy_all_the_time(pixels_of(layers))]
        arrays = used_images(module, context, self.images)
        # The first images judge, the others are fitted to. A layer with one sample an image has no variance on one.
        images = max(map(len, arrays.values()))
        if images < 2 * _JUDGES:
            raise SmecError(
                "too few calibration images to choose by: a quarter of them judges",
                expected=f"{2 * _JUDGES} or more",
                found=images,
                hint="give more, or one --squeeze depth for all layers",
            )
        judges = images // _JUDGES
        reference = Reference(floats, {name: a[: min(self.probes, judges)] for name, a in arrays.items()})
        prefix = FloatPrefix(floats, arrays)
        random = np.random.default_rng(context.seed)
        curves, floor = [], 0.0
        for done, (op, space) in enumerate(zip(layers, spaces, strict=True)):
            context.progress("measuring layers", done, len(layers))
            curve, rounding = self._curve(op, prefix, reference, judges, space, context, random)
            curves.append(curve)
            floor += rounding
        context.progress("measuring layers", len(layers), len(layers))
        return Measured(curves, floor, reference.images)

    def _check(self) -> None:
        if (self.max_error is None) == (self.max_crossbars is None):
            raise SmecError(
                "budget", expected="one of max-error and max-crossbars", found="both" if self.max_error else "none"
            )
        if self.max_error is not None and not self.max_error > 0:
            raise SmecError("bound on the network's error", expected="above 0", found=self.max_error)
        if self.max_crossbars is not None and self.max_crossbars < 1:
            raise SmecError("bound on the crossbars", expected="1 or more", found=self.max_crossbars)
        for name in ("images", "iterations", "sweeps"):
            if getattr(self, name) < 0:
                raise SmecError(f"option '{name}' is negative", found=getattr(self, name))
        if self.probes < 1:
            raise SmecError("number of probes", expected="1 or more", found=self.probes)
        for depth in self.depths:
            if not 0 <= depth < self.bits:
                raise SmecError("squeeze depth", expected=f"0 to {self.bits - 1}", found=depth)

    def _curve(
        self, op: WeightedOp, prefix: FloatPrefix, reference: Reference, judges: int, space: Space,
        context: PassContext, random: np.random.Generator,
    ) -> tuple[list[Point], float]:  # fmt: skip
        """A layer's points, and the network's error if only the layer's inputs are rounded."""
        from smec.passes.admm.curves import Effort, Judge, Point, solutions
        from smec.passes.admm.estimate import estimate_of
        from smec.passes.admm.hessian import blocks_to_weight, measure, weight_blocks
        from smec.passes.admm.probe import Probe
        from smec.passes.admm.segments import steps
        from smec.passes.quantize_nearest import float_weights

        weight, bias, target = float_weights(op), op.bias.array, hardware(context, self.name)
        real = prefix.input_of(op.label)
        if real is None:
            raise op.error(f"layer '{op.label}' is not in the float network")
        q = op.x.type.quantized
        levels = np.empty(real.shape, q.dtype)
        for part in steps(len(real), op.x.type.size):
            levels[part] = round_clip(real[part] / np.float32(q.scale) + np.float32(q.zero_point), 0, q.qmax, q)
        blocks = weight_blocks(op, weight)
        unseen = measure(op, levels[:judges], None, blocks, random)
        folds = measure(op, levels[judges:] if len(levels) > judges else levels, None, blocks, random)
        estimate = estimate_of(folds, blocks, _DAMPING)
        fitted = folds[0] + folds[1]
        judge = Judge.of(unseen[0] + unseen[1], fitted, blocks)
        effort = Effort(self.iterations, self.sweeps)
        found = list(solutions(estimate.hessian, estimate.target, space, groups_of(op) == 1, target, effort, judge))
        if not found:
            hint = "allow more sign schemes, depths or patterns"
            raise op.error(f"layer '{op.label}' has no candidate that its constraints allow", hint=hint)
        probe = Probe(op, prefix, reference)
        rounding = probe.error(
            weight, bias, (levels[: reference.images] - np.float32(q.zero_point)) * np.float32(q.scale)
        )
        seen: list[tuple[float, float]] = []
        for i in sorted({0, len(found) // 2}):
            _, solution, error = found[i]
            if error > 0:
                changed = solution.integers * solution.scales
                shift = fitted.bias_shift(changed)
                caused = probe.error(blocks_to_weight(op, changed, weight.shape), bias + shift.reshape(-1))
                seen.append((error, caused / error))
        return [Point(c, error, error * sensitivity(seen, error)) for c, _, error in found], rounding

    def _attributes(self, candidate: Candidate) -> dict[str, AttrValue]:
        """What `quantize-admm{squeeze=auto}` reads."""
        return {"bits": self.bits, "shift": self.shift, **_words(candidate)}

    def _report(self, layers: list[WeightedOp], measured: Measured, choice: Choice) -> dict[str, Any]:
        chosen = [curve[i] for curve, i in zip(measured.curves, choice.picked, strict=True)]
        return {
            "max_error": self.max_error,
            "max_crossbars": self.max_crossbars,
            "weight_error": choice.error,
            "predicted_error": measured.activation_error + choice.error,
            "activation_error": measured.activation_error,
            "crossbars": choice.crossbars,
            "at_least": choice.at_least,
            "objective": choice.objective,
            "bound": choice.bound,
            "gap": gap(choice.objective, choice.bound),
            "optimal": choice.optimal,
            "probes": measured.probes,
            "layers": {
                op.label: {**_figures(point), "curve": [_figures(p) for p in curve]}
                for op, point, curve in zip(layers, chosen, measured.curves, strict=True)
            },
        }


def pixels_of(layers: Sequence[WeightedOp]) -> list[int]:
    """Pixels of each layer, of one input."""
    return [prod(op.out.type.shape) // len(op.bias.array) for op in layers]


def _words(candidate: Candidate) -> dict[str, Any]:
    names = ("pattern", "sign", "squeeze", "scale", "constraints", "double")
    return {name: getattr(candidate, name) for name in names}


def _figures(point: Point) -> dict[str, Any]:
    errors = {"error": point.error, "network_error": point.network_error}
    return {**_words(point.candidate), "crossbars_a_tile": point.candidate.crossbars, **errors}


def sensitivity(seen: Sequence[tuple[float, float]], error: float) -> float:
    """The network's error over a layer's, at a layer's error, from where it was seen: (error, quotient) each.

    Linear in the logarithm of the error, constant beyond.
    """
    if not seen or error <= 0:
        return 0.0
    at, quotients = zip(*sorted(seen), strict=True)
    return float(np.interp(np.log(error), np.log(at), quotients))
