"""How long a program takes on its target, what limits it, and what it costs: `time_program(program)`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from smec.runtime.container import Program
    from smec.runtime.timing.report import TimingReport

__all__ = ["TimingReport", "is_timed", "time_program"]


def time_program(program: Program, images: int = 1) -> TimingReport:
    """Time a program on the target that it was compiled for; see `smec.runtime.timing.report.time_program`."""
    from smec.runtime.timing.report import time_program as run

    return run(program, images)


def is_timed(program: Program) -> bool:
    """Whether the program's target describes its parts; a hand-written one may give the bare geometry only."""
    return "stages" in program.metadata["target"]


def __getattr__(name: str) -> Any:
    if name == "TimingReport":
        from smec.runtime.timing.report import TimingReport

        return TimingReport
    raise AttributeError(name)
