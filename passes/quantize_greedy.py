"""The pass `quantize-greedy`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from smec.passes.admm.layerwise import LayerwiseQuantizer
from smec.passes.base import register_pass

if TYPE_CHECKING:
    from smec.passes.admm.problem import Problem, Solution


@register_pass
@dataclass(frozen=True)
class QuantizeGreedy(LayerwiseQuantizer):
    """Give every layer integer weights by rounding its rows one after the other, each making up for those before.

    The method of GPTQ on the sets and the calibration data of `quantize-admm`, to measure what ADMM gains.

    Reports: as `quantize-admm`, without what is about iterations.

    Raises:
        SmecError: as there, and for constraint sets that cannot be met row by row.
    """

    name = "quantize-greedy"

    def _solve(self, problem: Problem) -> tuple[Solution, dict[str, Any]]:
        from smec.passes.admm.greedy import greedy
        from smec.passes.admm.layerwise import starting_scales

        return greedy(problem, starting_scales(problem)), {}
