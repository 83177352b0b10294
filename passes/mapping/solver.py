"""What passes that solve optimisation problems share: CP-SAT's settings, and the gap between a result and its bound."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ortools.sat.python import cp_model


def cp_solver(limit: float) -> cp_model.CpSolver:
    """CP-SAT with one worker, a fixed seed and a limit in deterministic time (OR-Tools' count of work, about seconds),
    so that the same model has the same solution everywhere.
    """
    from ortools.sat.python import cp_model

    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.random_seed = 0
    solver.parameters.max_deterministic_time = limit
    return solver


def gap(value: float, bound: float) -> float:
    """How far a minimised value is above its lower bound, as a fraction; 0 where the bound is 0."""
    return value / bound - 1 if bound > 0 else 0.0
