"""What quantizers have in common that go from layer to layer and minimise the error of each one's output."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

import numpy as np

from smec.ir.core import Value
from smec.ir.dialects.builtin import GraphOp, ModuleOp
from smec.ir.dialects.quant import WeightedOp
from smec.ir.errors import SmecError
from smec.ir.types import Handle
from smec.passes.admm.doubling import rows_to_double
from smec.passes.admm.estimate import estimate_of
from smec.passes.admm.hessian import Addend, blocks_to_weight, measure, weight_blocks
from smec.passes.admm.prefix import FloatPrefix, walk
from smec.passes.admm.probe import Reference
from smec.passes.admm.problem import Problem, Solution, refit, scales_to_try
from smec.passes.base import Pass, PassContext
from smec.passes.base import levels as levels_of
from smec.passes.calibrate import CALIBRATION_INPUTS, Calibrate, calibration_inputs
from smec.passes.constraints import ConstraintSet, Geometry, layer_constraint
from smec.passes.mapping.doubling import DOUBLED_SIGNS
from smec.passes.mapping.layers import groups_of, hardware
from smec.passes.mapping.polarity import check_sign_rows
from smec.passes.patterns import External, Pattern, parse
from smec.passes.quantize_nearest import float_weights, set_integers, zero_share

#: Level of a module whose layers say how they are to be quantized, by these attributes.
ALLOCATED = "quant.allocated"
CHOSEN = ("pattern", "bits", "scale", "sign", "squeeze", "shift", "constraints", "double")


@dataclass(frozen=True)
class LayerwiseQuantizer(Pass):
    """Base of `quantize-admm` and `quantize-greedy`.

    Layers are visited in order. A layer's inputs X are those of the network as far as it is quantized, on the
    calibration images; the output that its integers are to reproduce is that of the float layer on the float
    network's inputs, so that a layer also corrects errors made before it (GPTAQ, arXiv 2504.02692, has the same
    target). The mean error is left to the bias. Without the float network in the module the target is the float layer
    on X.
    """

    requires = ("quant.float",)
    forbids = ("quant",)
    ensures = ("quant",)
    exact = False

    pattern: str = field(default="uniform", metadata={"doc": "set of magnitudes, see `smec.passes.patterns`"})
    bits: int = field(
        default=8, metadata={"doc": "N: bits of a magnitude, or of the whole integer if not differential"}
    )
    scale: Literal["tensor", "column"] = field(
        default="column", metadata={"doc": "one scale a layer, or one an output"}
    )
    sign: Literal["differential", "offset", "polarized", "twos-complement"] = field(
        default="differential", metadata={"doc": "how crossbars hold signs"}
    )
    sign_rows: int = field(
        default=8, metadata={"doc": "g: rows of a tile that share a sign in each column, with sign=polarized"}
    )
    squeeze: int | Literal["auto"] = field(
        default=0,
        metadata={
            "doc": "x: bit positions that squeeze-out is to free without error; auto: it and whatever says what a "
            "layer's integers are, as the pass allocate chose them"
        },
    )
    shift: Literal["leading-one", "fit"] = field(
        default="leading-one", metadata={"doc": "rule of the row shifts that squeeze-out is to use"}
    )
    double: bool = field(
        default=False,
        metadata={
            "doc": "rows that the tiles of a layer without groups leave idle become second rows of inputs, for which "
            "that counts most; with a squeeze depth, and sign=differential or twos-complement"
        },
    )
    constraints: str = field(
        default="", metadata={"doc": "further constraint sets, parted by '+', see `smec.passes.constraints`"}
    )
    window: int = field(default=3, metadata={"doc": "S of the window pattern"})
    terms: int = field(default=2, metadata={"doc": "n of the apot pattern"})
    images: int = field(default=512, metadata={"doc": "most calibration images that are used; 0: all that are given"})
    damping: float = field(default=0.01, metadata={"doc": "added to H's diagonal, as a share of its mean"})

    def run(self, module: ModuleOp, context: PassContext) -> bool:
        self._check(module)
        graph = module.graph
        layers = [op for op in graph.ops if isinstance(op, WeightedOp)]
        arrays = used_images(module, context, self.images)
        floats = module.float_graph
        prefix = FloatPrefix(floats, arrays) if floats is not None else None
        outputs: list[np.ndarray] | None = [] if floats is not None and layers and self.squeeze == "auto" else None
        random = np.random.default_rng(context.seed)
        report: dict[str, Any] = {}
        kept: list[str] = []
        for done, (op, inputs, added) in enumerate(walk(graph, arrays, outputs)):
            context.progress("quantizing weights", done, len(layers))
            own = self._of(op)
            pattern = own._pattern()
            if op.weight is not None and pattern.name == External.name:
                kept.append(op.label)
                set_integers(op, op.weight.array, op.weight_scale.array, pattern, self.sign_rows)
                continue
            real = prefix.input_of(op.label) if prefix is not None else None
            addend = _addend(op.label, prefix, added) if prefix is not None and added is not None else None
            report[op.label] = own._layer(op, inputs, real, addend, pattern, context, random)
        context.progress("quantizing weights", len(layers), len(layers))
        error = _network_error(floats, arrays, outputs) if floats is not None and outputs is not None else None
        module.drop_float_graph()
        context.report[self.name] = {
            "target": "float network" if prefix is not None else "float layers on the quantized network's inputs",
            "images": max((len(a) for a in arrays.values()), default=0),
            "layers": report,
            "carried": kept,
            **({} if error is None else {"network_error": error}),
        }
        return bool(layers)

    def _check(self, module: ModuleOp) -> None:
        if self.double and self.squeeze == "auto":
            raise SmecError(
                "doubled rows with squeeze=auto", hint="allocate chooses them, too: see its option 'double'"
            )
        if self.squeeze == "auto" and ALLOCATED not in levels_of(module):
            raise SmecError(
                f"pass '{self.name}' with squeeze=auto: no choice has been made for the layers",
                hint="run the pass 'allocate' first",
            )
        self._pattern()  # raises where its options are wrong
        if self.images < 0:
            raise SmecError("number of images is negative", found=self.images)
        if self.double and self.sign not in DOUBLED_SIGNS:
            raise SmecError("sign scheme with doubled rows", expected=" or ".join(DOUBLED_SIGNS), found=self.sign)
        if not self.damping > 0:
            raise SmecError("damping", expected="above 0", found=self.damping)

    def _of(self, op: WeightedOp) -> Self:
        """This pass with the options that were chosen for one layer."""
        if self.squeeze != "auto":
            return self
        chosen = {name: getattr(op, name) for name in CHOSEN}
        return replace(self, **chosen)

    def _pattern(self) -> Pattern:
        return parse(self.pattern, self.bits, self.sign, {"window": self.window, "terms": self.terms})

    def _constraint(
        self, op: WeightedOp, pattern: Pattern, context: PassContext, doubled: tuple[bool, ...] = ()
    ) -> ConstraintSet:
        dense = groups_of(op) == 1
        if self.squeeze or self.constraints or self.sign == "polarized":
            target = hardware(context, self.name)
            geometry = Geometry(self.bits, self.sign, target.rows, target.columns, target.cell_bits, dense)
            if self.sign == "polarized":
                check_sign_rows(self.sign_rows, target.rows)
        else:
            geometry = Geometry(self.bits, self.sign, dense=dense)
        return layer_constraint(geometry, pattern.text(), self._depth, self.constraints, self.sign_rows, doubled)

    @property
    def _depth(self) -> int:
        assert self.squeeze != "auto"  # noqa: S101  # for the type checker: `_of` put the layer's own depth here
        return self.squeeze

    def _doubled(
        self, op: WeightedOp, problem: Problem, pattern: Pattern, context: PassContext
    ) -> tuple[Problem, np.ndarray]:
        """The problem when idle rows of the layer's tiles are put to use, and the rows, int32, that have two then."""
        if not (self.double and self.squeeze and problem.constraint.geometry.dense):
            return problem, np.zeros(0, np.int32)
        doubled = rows_to_double(
            problem, starting_scales(problem), lambda rows: self._constraint(op, pattern, context, rows)
        )
        if any(doubled):
            problem = replace(problem, constraint=self._constraint(op, pattern, context, doubled))
        return problem, np.flatnonzero(doubled).astype(np.int32)

    def _layer(
        self,
        op: WeightedOp,
        levels: np.ndarray,
        real: np.ndarray | None,
        addend: Addend | None,
        pattern: Pattern,
        context: PassContext,
        random: np.random.Generator,
    ) -> dict[str, Any]:
        weight = float_weights(op)
        blocks = weight_blocks(op, weight)
        folds = measure(op, levels, real, blocks, random, addend)
        estimate = estimate_of(folds, blocks, self.damping)
        constraint = self._constraint(op, pattern, context)
        problem = Problem(estimate.hessian, estimate.target, constraint, self.scale == "column")
        problem, doubled = self._doubled(op, problem, pattern, context)
        solution, figures = self._solve(problem)
        moments = folds[0] + folds[1]
        real_weights = solution.integers * solution.scales
        shift = moments.bias_shift(real_weights)
        scales = solution.scales.reshape(-1) if self.scale == "column" else solution.scales.reshape(-1)[:1]
        set_integers(op, blocks_to_weight(op, solution.integers, weight.shape), scales, pattern, self.sign_rows)
        op.attributes |= {
            "squeeze": self._depth,
            "shift": self.shift,
            "bias": Handle((op.bias.array + shift.reshape(-1)).astype(np.float32)),
        }
        if len(doubled):
            op.attributes["doubled"] = Handle(doubled)
        energy = problem.energy
        return {
            "output_error": solution.error / energy if energy > 0 else 0.0,
            "weights_zero": zero_share(solution.integers),
            **({"rows_doubled": len(doubled)} if self.double else {}),
            "samples": moments.samples,
            "damping": estimate.damping,
            "ridge": estimate.ridge,
            **figures,
        }

    def _solve(self, problem: Problem) -> tuple[Solution, dict[str, Any]]:
        """Integers and scales for one layer, and what the report says about them."""
        raise NotImplementedError  # each quantizer defines it


def _network_error(floats: GraphOp, arrays: dict[str, np.ndarray], outputs: list[np.ndarray]) -> float | None:
    """How far the quantized network's outputs are from the float one's; None if none holds real numbers."""
    found = dict(zip(floats.terminator.operands, outputs, strict=True))
    reference = Reference(floats, arrays)
    return reference.error(found) if any(v in found for v in reference.values) else None


def _addend(name: str, prefix: FloatPrefix, added: tuple[Value, np.ndarray]) -> Addend | None:
    value, levels = added
    real = prefix.addend_of(name)
    return None if real is None or real.shape != levels.shape else Addend(levels, value.type.quantized, real)


def used_images(module: ModuleOp, context: PassContext, most: int) -> dict[str, np.ndarray]:
    """Calibration arrays (B, *shape) by graph input, at most `most` images (0: all)."""
    from smec.ir.images import image_arrays

    arrays = context.cache.get(CALIBRATION_INPUTS)
    if arrays is None:
        # A module from a file: the data are those that it was calibrated on.
        if context.calibration is None and not any(text.startswith(Calibrate.name) for text in module.passes):
            raise SmecError("no calibration data", hint="give calibration inputs, or run the pass 'calibrate' first")
        arrays = calibration_inputs(module, context)
    found = image_arrays(arrays, module.graph)
    return {name: a[:most] if most else a for name, a in found.items()}


def starting_scales(problem: Problem) -> np.ndarray:
    """Scales to begin with, float32 [G, 1, M]: the share of the largest weight at which rounding to the nearest point
    (and fitting the scales to that) leaves the least output error.
    """
    best: tuple[float, np.ndarray] | None = None
    for scales in scales_to_try(problem.target, problem.constraint, problem.column):
        integers = problem.project(problem.target, scales)
        error = problem.error(integers, refit(problem, integers, scales))
        if best is None or error < best[0]:
            best = error, scales
    assert best is not None  # noqa: S101  # for the type checker: there are shares
    return best[1]
