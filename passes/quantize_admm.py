"""The pass `quantize-admm`."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from smec.passes.admm.layerwise import LayerwiseQuantizer
from smec.passes.base import register_pass

if TYPE_CHECKING:
    from smec.passes.admm.problem import Problem, Solution

#: Share of the iterations that a layer waits for better integers; see `Schedule`.
_PATIENCE = 0.12


@register_pass
@dataclass(frozen=True)
class QuantizeAdmm(LayerwiseQuantizer):
    """Give every layer integer weights from a constraint set, chosen by ADMM for the least error of the layer's output.

    The set is the pattern AND what squeeze-out at the given depth represents without error on the target's tiles AND
    any further `constraints`: squeeze-out after this pass loses nothing. See `docs/admm.md`.

    Reports, by layer under `layers`: `output_error` (squared error of the output over its power, on calibration data,
    the mean taken out), `weights_zero` (share), `samples`, `iterations`, `trace` (output error of each iteration),
    `primal` and `dual` (relative residuals of the last), `polished` (what the descent after it left, over what ADMM
    did); `target`, `images`, `carried` (layers whose integers the model carries, with the pattern `external`).

    Raises:
        SmecError: there is no calibration data; weights are not finite; the constraints allow only zeros.
    """

    name = "quantize-admm"

    iterations: int = field(default=100, metadata={"doc": "of ADMM, a layer, at most"})
    rho: float = field(default=0.03, metadata={"doc": "first penalty, as a share of H's mean diagonal"})
    growth: float = field(default=0.0, metadata={"doc": "factor of the penalty an iteration; 0: 300-fold in all"})
    sweeps: int = field(default=8, metadata={"doc": "most sweeps of coordinate descent afterwards"})

    def _solve(self, problem: Problem) -> tuple[Solution, dict[str, Any]]:
        from smec.passes.admm.layerwise import starting_scales
        from smec.passes.admm.polish import polish
        from smec.passes.admm.solver import Basis, Schedule, Trace, growth_over, solve

        trace = Trace()
        growth = self.growth or growth_over(self.iterations)
        schedule = Schedule(self.iterations, self.rho, growth, math.ceil(_PATIENCE * self.iterations))
        with ThreadPoolExecutor(1) as pool:  # what takes one core for long, and meanwhile what it does not need
            basis = pool.submit(Basis.of, problem.hessian)
            scales = starting_scales(problem)
        raw = solve(problem, scales, schedule, basis.result(), trace)
        found = polish(problem, raw, self.sweeps)
        energy = problem.energy or 1.0
        figures: dict[str, Any] = {
            "iterations": len(trace.error),
            "trace": [error / energy for error in trace.error],
            "primal": trace.primal[-1] / energy if trace.primal else 0.0,
            "dual": trace.dual[-1] / energy if trace.dual else 0.0,
            "polished": found.error / raw.error if raw.error > 0 else 1.0,
        }
        return found, figures
