"""The pass `quantize-admm`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from smec.passes.admm.layerwise import LayerwiseQuantizer
from smec.passes.base import register_pass

if TYPE_CHECKING:
    from smec.passes.admm.problem import Problem, Solution


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

    iterations: int = field(default=100, metadata={"doc": "of ADMM, a layer"})
    rho: float = field(default=0.03, metadata={"doc": "first penalty, as a share of H's mean diagonal"})
    growth: float = field(default=0.0, metadata={"doc": "factor of the penalty an iteration; 0: 300-fold in all"})
    sweeps: int = field(default=8, metadata={"doc": "most sweeps of coordinate descent afterwards"})

    def _solve(self, problem: Problem) -> tuple[Solution, dict[str, Any]]:
        from smec.passes.admm.layerwise import starting_scales
        from smec.passes.admm.polish import polish
        from smec.passes.admm.solver import Basis, Schedule, Trace, growth_over, solve

        trace = Trace()
        schedule = Schedule(self.iterations, self.rho, self.growth or growth_over(self.iterations))
        raw = solve(problem, starting_scales(problem), schedule, Basis.of(problem.hessian), trace)
        found = polish(problem, raw, self.sweeps)
        energy = problem.energy or 1.0
        figures: dict[str, Any] = {
            "iterations": self.iterations,
            "trace": [error / energy for error in trace.error],
            "primal": trace.primal[-1] / energy if trace.primal else 0.0,
            "dual": trace.dual[-1] / energy if trace.dual else 0.0,
            "polished": found.error / raw.error if raw.error > 0 else 1.0,
        }
        return found, figures
