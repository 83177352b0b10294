"""Chooses the levels of every activation that the device holds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from smec.ir.core import AttrValue, BlockArgument, Value
from smec.ir.dialects.builtin import GraphOp, ModuleOp
from smec.ir.dialects.nn import NNOp
from smec.ir.errors import SmecError
from smec.ir.types import Quantized, TensorType
from smec.passes.base import Pass, PassContext, register_pass
from smec.passes.quantization.levels import LevelGroups, assign_levels
from smec.passes.quantization.ranges import Method, Statistics, choose_range, input_levels, levels_for
from smec.passes.quantization.units import TYPES

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Key of `PassContext.cache` under which later passes find the arrays that were used, by graph input.
CALIBRATION_INPUTS = "calibration-inputs"

#: Images of synthetic data.
SYNTHETIC_IMAGES = 8


@register_pass
@dataclass(frozen=True)
class Calibrate(Pass):
    """Run the float network on calibration data and choose a scale and a zero point for each activation.

    Every range includes 0; activations that are never negative get zero point 0. Without data the inputs are seeded
    synthetic ones (standard normal; 0 or 1 for integers), and the report says so.

    Reports: `source` ("given" or "synthetic"), `images`, `method`, `tensors` (how many statistics), `values` (how many
    values have levels), `not_finite` (tensors that held NaN or infinities, which do not count).
    """

    name = "calibrate"
    requires = ("nn.partitioned",)
    forbids = ("quant.float",)
    ensures = ("nn.calibrated",)

    method: Method = field(default="mse", metadata={"doc": "how ranges are chosen"})
    percentile: float = field(default=99.99, metadata={"doc": "percent of values that the range covers on each side"})
    images: int = field(default=512, metadata={"doc": "most images that are run; 0: all that are given"})
    batch: int = field(default=0, metadata={"doc": "images run at once; 0: as many as 64 MB of activations hold"})

    def run(self, module: ModuleOp, context: PassContext) -> bool:
        if not 50 < self.percentile <= 100:
            raise SmecError("percentile is out of range", expected="above 50, at most 100", found=self.percentile)
        if self.images < 0 or self.batch < 0:
            raise SmecError("number of images is negative", found=min(self.images, self.batch))
        graph = module.graph
        groups = LevelGroups(graph).groups
        sources = list(dict.fromkeys(v for g in groups for v in g.sources if g.stated is None))
        statistics, images = self._collect(module, context, sources)
        bits = context.act_bits
        levels = assign_levels(
            groups,
            lambda v: choose_range(statistics[v], self.method, 1 << bits, self.percentile),
            lambda v: self._input_levels(v, statistics[v], bits),
            lambda low, high: levels_for(low, high, bits),
        )
        _write(graph, levels)
        context.report[self.name] = {
            "source": "synthetic" if context.calibration is None else "given",
            "images": images,
            "method": self.method,
            "tensors": len(sources),
            "values": len(levels),
            "not_finite": sorted(v.name_hint or "" for v, found in statistics.items() if not found.finite),
        }
        return True

    def _input_levels(self, value: Value, found: Statistics, bits: int) -> Quantized | None:
        if not isinstance(value, BlockArgument):
            return None
        return input_levels(found, self.method, bits, self.percentile)

    def _collect(
        self, module: ModuleOp, context: PassContext, sources: Sequence[Value]
    ) -> tuple[dict[Value, Statistics], int]:
        """Statistics of `sources`, and the number of images that they come from."""
        arrays = calibration_inputs(module, context)
        context.cache[CALIBRATION_INPUTS] = arrays
        # Graph inputs are few and may be discrete (pixels): see `input_levels`.
        statistics = {v: Statistics(support={} if isinstance(v, BlockArgument) else None) for v in sources}
        if not sources:
            return statistics, 0
        from smec.ir.float_runner import FloatRunner
        from smec.ir.images import image_arrays

        given = max((len(a) for a in image_arrays(arrays, module.graph).values()), default=1)
        total = min(given, self.images) if self.images else given
        done = 0
        for found in FloatRunner(module).run(arrays, list(sources), self.batch or None):
            _add([(statistics[value], array[: total - done]) for value, array in found.items()], total)
            done += len(next(iter(found.values())))
            context.progress("calibrating", min(done, total), total)
            if done >= total:
                break
        return statistics, total


def _add(found: Sequence[tuple[Statistics, np.ndarray]], images: int) -> None:
    """Take in values of several tensors, of `images` images altogether."""
    from smec.passes.mapping.jit import in_chunks

    def work(start: int, stop: int) -> None:
        for statistics, values in found[start:stop]:
            statistics.add(values, images)

    in_chunks(len(found), work, least=1)


def calibration_inputs(module: ModuleOp, context: PassContext) -> dict[str, np.ndarray]:
    """User arrays by graph input: those given, else synthetic ones (the same for each pass of one compilation).

    Raises:
        SmecError: those given hold NaN.
    """
    if context.calibration is not None:
        for name, array in context.calibration.items():
            wrong = np.isnan(array) if array.dtype.kind == "f" else np.zeros(0, np.bool_)
            if wrong.any():
                at = ", ".join(map(str, np.argwhere(wrong)[0]))
                raise SmecError(
                    f"calibration data of input '{name}' hold NaN",
                    expected="numbers",
                    found=f"{np.count_nonzero(wrong)} NaN, the first at [{at}]",
                )
        return context.calibration
    from smec.ir.images import random_arrays

    graph = module.graph
    types = {name: arg.type for name, arg in zip(graph.input_names, graph.block.args, strict=True)}
    arrays = random_arrays(types, context.seed, SYNTHETIC_IMAGES)
    # Users stack images along the leading axis where there is one.
    return {n: a.reshape(-1, *types[n].shape[1:]) if types[n].shape else a for n, a in arrays.items()}


def _write(graph: GraphOp, levels: dict[Value, Quantized]) -> None:
    def types(values: Sequence[Value]) -> tuple[AttrValue, ...] | None:
        if not any(v in levels for v in values):
            return None
        return tuple(TensorType(v.type.shape, levels[v]) if v in levels else v.type for v in values)

    found = types(graph.block.args)
    if found is not None:
        graph.attributes[TYPES] = found
    for op in graph.ops:
        found = types(op.results) if isinstance(op, NNOp) else None
        if found is not None:
            op.attributes[TYPES] = found
