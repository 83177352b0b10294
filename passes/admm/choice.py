"""One point of every layer's curve: a multiple-choice knapsack, solved exactly (DESIGN 3, "Budget").

Minimise B over y_lc in {0, 1}, sum_c y_lc = 1 for each layer l, with

    R C B >= sum cells_lc y_lc,   and likewise for the other parts of a footprint,   sum error_lc y_lc <= E

B are physical crossbars, at least (`smec.passes.mapping.footprint`): placement may need more, since tiles are
rectangles, and since those that share a crossbar use it in turn, which is to cost no time. Among choices of as few the
one is taken that placement needs the fewest for, then the one of least error; with a bound on the crossbars, the one of
least error that is placed within it. Errors are integers to the solver, multiples of E / 2^24 (without E, of the
largest sum / 2^40), rounded up: a choice that it takes keeps the bound.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from smec.ir.errors import SmecError
from smec.passes.admm.curves import Point
from smec.passes.mapping.footprint import Footprint, capacity, crossbars_at_least, crossbars_placed
from smec.passes.mapping.layers import Hardware
from smec.passes.mapping.solver import cp_solver

#: Effort of the solver in its own deterministic units (about seconds).
_EFFORT = 20.0

#: Steps of an error within its bound, and within the largest sum.
_STEPS, _MOST_STEPS = 1 << 24, 1 << 40

Curves = Sequence[Sequence[Point]]


@dataclass(frozen=True)
class Choice:
    """The chosen points, and how good the choice is.

    Attributes:
        picked: index into each curve.
        error: sum of the network errors of the points.
        crossbars: physical crossbars that these layers fill.
        at_least: of which the model knows (see `crossbars_at_least`).
        objective, bound: of the solver: physical crossbars at least, or the error where crossbars are bounded.
        optimal: they are equal, as far as the solver goes.
    """

    picked: tuple[int, ...]
    error: float
    crossbars: int
    at_least: int
    objective: float
    bound: float
    optimal: bool


@dataclass(frozen=True)
class _Solved:
    picked: tuple[int, ...]
    objective: float
    bound: float
    optimal: bool


def choose(
    curves: Curves, pixels: Sequence[int], target: Hardware, max_error: float | None, max_crossbars: int | None
) -> Choice:
    """Choose a point of each curve.

    Args:
        curves: points of each layer, none empty.
        pixels: of each layer, an image.
        target: the hardware.
        max_error: E; the fewest crossbars within it are sought.
        max_crossbars: N; else the least error within it.

    Raises:
        SmecError: the bound cannot be met.
    """
    if max_error is not None:
        return _fewest(curves, pixels, target, max_error)
    assert max_crossbars is not None  # noqa: S101  # for the type checker: the pass sees to it that there is one
    return _most_exact(curves, pixels, target, max_crossbars)


def _fewest(curves: Curves, pixels: Sequence[int], target: Hardware, max_error: float) -> Choice:
    least = sum(min(p.network_error for p in curve) for curve in curves)
    first = _solve(curves, target, "crossbars", room=max_error) if least <= max_error else None
    if first is None:
        finest = tuple(min(range(len(c)), key=lambda i, c=c: c[i].network_error) for c in curves)  # type: ignore[misc]
        needed = _choice(curves, pixels, target, _Solved(finest, 0, 0, True)).crossbars
        raise SmecError(
            "no choice keeps the network's error within --max-error",
            expected=f"{least:.3g} or more, which takes {needed} crossbars",
            found=max_error,
        )
    ways = [_choice(curves, pixels, target, first)]
    for what in ("space", "error"):
        found = _solve(curves, target, what, room=max_error, crossbars=ways[0].at_least)
        if found is not None:
            ways.append(_choice(curves, pixels, target, replace(first, picked=found.picked)))
    return min(ways, key=lambda way: (way.crossbars, way.error))


def _most_exact(curves: Curves, pixels: Sequence[int], target: Hardware, max_crossbars: int) -> Choice:
    # Rectangles leave gaps: placement may need more than the model's bound.
    allowed = max_crossbars
    while (found := _solve(curves, target, "error", crossbars=allowed)) is not None:
        choice = _choice(curves, pixels, target, found)
        if choice.crossbars <= max_crossbars:
            return choice
        allowed -= max(1, (choice.crossbars - max_crossbars) // 2)
    fewest = _solve(curves, target, "crossbars")
    assert fewest is not None  # noqa: S101  # for the type checker: without a bound every choice will do
    at_least = _choice(curves, pixels, target, fewest).at_least
    smallest = _solve(curves, target, "space", crossbars=at_least) or fewest
    choice = _choice(curves, pixels, target, smallest)
    if choice.crossbars <= max_crossbars:
        return replace(choice, objective=choice.error, bound=0.0, optimal=False)
    raise SmecError(
        "no choice was found that keeps the crossbars within --max-crossbars at no cost of time",
        expected=f"{choice.crossbars} or more, with a network error of {choice.error:.3g}",
        found=max_crossbars,
        hint="one --squeeze depth for all layers, and tiles that share more crossbars: assign-cores{crossbars=N}",
    )


def _choice(curves: Curves, pixels: Sequence[int], target: Hardware, solved: _Solved) -> Choice:
    points = [curve[i] for curve, i in zip(curves, solved.picked, strict=True)]
    chosen = [p.candidate for p in points]
    return Choice(
        solved.picked,
        sum(p.network_error for p in points),
        crossbars_placed([c.extents for c in chosen], [c.crossbars for c in chosen], pixels, target),
        crossbars_at_least([c.footprint for c in chosen], target),
        solved.objective,
        solved.bound,
        solved.optimal,
    )


def _part(name: str) -> Callable[[Point], float]:
    """That part of a point's footprint."""
    return lambda point: float(getattr(point.candidate.footprint, name))


def _solve(
    curves: Curves, target: Hardware, what: str, room: float | None = None, crossbars: int | None = None
) -> _Solved | None:
    """The choice of least `what`: "crossbars", "error", or "space" (cells).

    Args:
        curves, target: see `choose`.
        what: to minimise.
        room: bound on the error.
        crossbars: bound on the crossbars.

    Returns:
        None if there is no choice within the bounds.
    """
    from ortools.sat.python import cp_model

    worst = sum(max(p.network_error for p in curve) for curve in curves)
    unit = (worst / _MOST_STEPS if room is None else room / _STEPS) or 1.0
    model = cp_model.CpModel()
    taken = [[model.new_bool_var(f"{n}.{i}") for i in range(len(curve))] for n, curve in enumerate(curves)]
    for row in taken:
        model.add_exactly_one(row)

    def total(of: Callable[[Point], float]) -> Any:
        pairs = [(v, of(p)) for row, curve in zip(taken, curves, strict=True) for v, p in zip(row, curve, strict=True)]
        return cp_model.LinearExpr.weighted_sum([v for v, _ in pairs], [int(n) for _, n in pairs])

    # More than each crossbar its own will never be needed; it has a cell at least.
    most = sum(max(p.candidate.footprint.cells for p in curve) for curve in curves)
    used, each = model.new_int_var(0, most, "crossbars"), capacity(target)
    for of in fields(Footprint):
        model.add(getattr(each, of.name) * used >= total(_part(of.name)))
    # What is beyond the bound alone need not be told apart: small numbers.
    largest = _MOST_STEPS if room is None else _STEPS + 1
    error = total(lambda p: min(-(-p.network_error // unit), largest))
    if room is not None:
        model.add(error <= _STEPS)
    if crossbars is not None:
        model.add(used <= crossbars)
    space = total(_part("cells"))
    model.minimize({"crossbars": used, "error": error, "space": space}[what])
    solver = cp_solver(_EFFORT)
    status = solver.solve(model)
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return None
    scale = unit if what == "error" else 1.0
    picked = tuple(next(i for i, v in enumerate(row) if solver.boolean_value(v)) for row in taken)
    return _Solved(
        picked,
        solver.objective_value * scale,
        solver.best_objective_bound * scale,
        status == cp_model.OPTIMAL,
    )
