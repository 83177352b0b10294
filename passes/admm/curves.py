"""What a layer costs and how wrong it is for each way to quantize it: the curves between which `allocate` chooses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from smec.ir.errors import SmecError
from smec.passes.admm.doubling import rows_to_double
from smec.passes.admm.hessian import Moments
from smec.passes.admm.layerwise import starting_scales
from smec.passes.admm.polish import polish
from smec.passes.admm.problem import Problem, Solution
from smec.passes.admm.products import matmul
from smec.passes.admm.solver import Basis, Schedule, growth_over, solve
from smec.passes.constraint_sets.rows import RowSet
from smec.passes.constraints import ConstraintSet, Geometry, layer_constraint
from smec.passes.mapping.coding import planes
from smec.passes.mapping.doubling import DOUBLED_SIGNS, spare_rows
from smec.passes.mapping.footprint import Extents, Footprint, footprint, tile_extents
from smec.passes.mapping.layers import Hardware


@dataclass(frozen=True)
class Candidate:
    """One way to quantize a layer, and what it takes.

    Attributes:
        pattern, sign, squeeze, scale, constraints, double: options of `quantize-admm`.
        crossbars: planes of a tile, those of both signs.
        extents: the tiles.
        footprint: of all of it.
    """

    pattern: str
    sign: str
    squeeze: int
    scale: str
    constraints: str
    double: bool
    crossbars: int
    extents: Extents
    footprint: Footprint


@dataclass(frozen=True)
class Point:
    """A candidate, the error of the layer's output, and of the network's: squared, over the power."""

    candidate: Candidate
    error: float
    network_error: float


@dataclass(frozen=True)
class Space:
    """Which candidates there are.

    Attributes:
        patterns, signs, scales: words of the options.
        depths: of squeeze-out; none: all.
        bits: N.
        drop: largest share of rows that may be made zero so that the others fill fewer tiles.
        double: whether rows may be doubled.
        alone: whether the layer's tiles are read all the time (`smec.passes.mapping.footprint`).
    """

    patterns: tuple[str, ...]
    signs: tuple[str, ...]
    scales: tuple[str, ...]
    depths: tuple[int, ...]
    bits: int
    drop: float
    double: bool
    alone: bool

    def candidates(self, shape: tuple[int, int, int], dense: bool, target: Hardware) -> list[Candidate]:
        """The candidates of a layer with each of its rows once, those with the fewest planes first.

        Left out are, since others are as good or better by what they are:

        1. one plane of two's complement: it is the sign bit, the integers 0 and -1;
        2. split signs with two or more planes where two's complement with one plane more (or all N) is there: it has
           their codes and takes fewer crossbars;
        3. candidates of which another takes no more of the target and allows all their integers.

        Args:
            shape: (G, K, M).
            dense: the layer has no groups.
            target: the hardware.
        """
        depths = self.depths or tuple(range(self.bits))
        found: list[tuple[Candidate, RowSet | None]] = []
        for sign, depth in product(self.signs, depths):
            twos = sign == "twos-complement"
            if twos and depth == self.bits - 1 > 0:
                continue  # case 1
            finer = "twos-complement" in self.signs and max(depth - 1, 0) in depths
            if sign == "differential" and depth < self.bits - 1 and finer:
                continue  # case 2
            crossbars = len(planes(sign, self.bits - depth, target.cell_bits))
            extents = tile_extents(*shape, target.rows, target.columns)
            taken = footprint(extents, crossbars, target, self.alone)
            for pattern, scale in product(self.patterns, self.scales):
                candidate = Candidate(pattern, sign, depth, scale, "", False, crossbars, extents, taken)
                try:
                    rows = layer_constraint(self.geometry(candidate, dense, target), pattern, depth)
                except SmecError:
                    continue  # no integer but 0 is in the pattern and representable
                found.append((candidate, rows if isinstance(rows, RowSet) else None))
        kept = [c for i, (c, rows) in enumerate(found) if not _dominated(i, found)]
        return sorted(kept, key=lambda c: c.crossbars)

    def geometry(self, candidate: Candidate, dense: bool, target: Hardware) -> Geometry:
        """What a candidate's constraints are about."""
        return Geometry(self.bits, candidate.sign, target.rows, target.columns, target.cell_bits, dense)

    def doubled(
        self, candidate: Candidate, shape: tuple[int, int, int], dense: bool, target: Hardware
    ) -> list[Candidate]:
        """The candidate, and the same with doubled rows where its tiles have rows to spare; only the latter where that
        takes no more of the target.
        """
        _, k, m = shape
        spare = spare_rows(k, target.rows)
        if not (self.double and dense and spare and candidate.squeeze and candidate.sign in DOUBLED_SIGNS):
            return [candidate]
        extents = tile_extents(1, k + spare, m, target.rows, target.columns)
        taken = footprint(extents, candidate.crossbars, target, self.alone)
        double = replace(candidate, double=True, extents=extents, footprint=taken)
        return [double] if taken.no_more_than(candidate.footprint) else [candidate, double]

    def dropped(self, candidate: Candidate, shape: tuple[int, int, int], target: Hardware) -> Candidate | None:
        """The candidate without the rows that fill no tile; None where there are none, or too many.

        Its rows are not doubled: the tiles that are left have none to spare.
        """
        groups, k, m = shape
        rest = k % target.rows
        if groups > 1 or k < target.rows or not 0 < rest <= self.drop * k:
            return None
        extents = tile_extents(1, k - rest, m, target.rows, target.columns)
        taken = footprint(extents, candidate.crossbars, target, self.alone)
        return replace(candidate, constraints=f"zero-rows:{rest}", double=False, extents=extents, footprint=taken)


def _dominated(index: int, found: Sequence[tuple[Candidate, RowSet | None]]) -> bool:
    """Case 3; of equals the first stays."""
    mine, rows = found[index]
    for other, (candidate, others) in enumerate(found):
        if other == index or rows is None or others is None or candidate.sign != mine.sign:
            continue
        if candidate.scale != mine.scale or not candidate.footprint.no_more_than(mine.footprint):
            continue
        same = _includes(rows, others) and mine.footprint.no_more_than(candidate.footprint)
        if _includes(others, rows) and not same:
            return True
        if other < index and _includes(others, rows):
            return True
    return False


def _includes(a: RowSet, b: RowSet) -> bool:
    """Whether every level of b is part of one of a's."""
    return all(any(np.isin(level, other).all() for other in a.pruned()) for level in b.pruned())


@dataclass(frozen=True)
class Effort:
    """Iterations of ADMM and sweeps of coordinate descent for each point of a curve."""

    iterations: int
    sweeps: int


@dataclass(frozen=True)
class Judge:
    """Says how wrong a layer's output is on inputs that its integers were not fitted to.

    Attributes:
        hessian: covariance of these inputs, [G, K, K].
        offset: their mean less that of the inputs that the bias is fitted to, [G, K].
        weight: float weights, [G, K, M].
        energy: tr(W^T H W) of these.
    """

    hessian: np.ndarray
    offset: np.ndarray
    weight: np.ndarray
    energy: float

    @staticmethod
    def of(unseen: Moments, fitted: Moments, weight: np.ndarray) -> Judge:
        h = unseen.hessian.astype(np.float32)
        energy = float(np.einsum("gkm,gkm->", weight, matmul(h, weight), dtype=np.float64))
        return Judge(h, unseen.mean_x - fitted.mean_x, weight, energy)

    def error(self, solution: Solution) -> float:
        """Squared error of the output, with the bias that the fit gives it, over the output's power."""
        d = solution.integers * solution.scales - self.weight
        varying = float(np.einsum("gkm,gkm->", d, matmul(self.hessian, d), dtype=np.float64))
        constant = float(np.square(np.einsum("gk,gkm->gm", self.offset, d)).sum())
        return (varying + constant) / self.energy if self.energy > 0 else 0.0


def solutions(
    hessian: np.ndarray, target: np.ndarray, space: Space, dense: bool, machine: Hardware, effort: Effort, judge: Judge
) -> Iterator[tuple[Candidate, Solution, float]]:
    """Solve a layer for each candidate that may be of use.

    A candidate with rows left out is tried as long as its error is below those of candidates that take no more of the
    target: at some number of planes the rows that are missing make the error, and more planes help no more.

    Args:
        hessian: float32 [G, K, K].
        target: float32 [G, K, M].
        space: of the candidates.
        dense: the layer has no groups.
        machine: the target.
        effort: a point.
        judge: of the solutions.

    Yields:
        the candidate, the integers and scales, and the squared error of the output over its power.
    """
    basis = Basis.of(hessian)
    schedule = Schedule(effort.iterations, growth=growth_over(effort.iterations))
    shape = (target.shape[0], target.shape[1], target.shape[2])

    def solved(candidate: Candidate) -> tuple[Candidate, Solution, float]:
        geometry = space.geometry(candidate, dense, machine)

        def constraint(rows: tuple[bool, ...] = ()) -> ConstraintSet:
            return layer_constraint(geometry, candidate.pattern, candidate.squeeze, candidate.constraints, doubled=rows)

        problem = Problem(hessian, target, constraint(), candidate.scale == "column")
        if candidate.double:
            problem = replace(
                problem, constraint=constraint(rows_to_double(problem, starting_scales(problem), constraint))
            )
        found = polish(problem, solve(problem, starting_scales(problem), schedule, basis), effort.sweeps)
        return candidate, found, judge.error(found)

    seen: list[tuple[Candidate, float]] = []
    done: set[tuple[str, str, str]] = set()
    for candidate in space.candidates(shape, dense, machine):
        ways = [solved(way) for way in space.doubled(candidate, shape, dense, machine)]
        yield from ways
        seen += [(way, error) for way, _, error in ways]
        kind = (candidate.pattern, candidate.sign, candidate.scale)
        fewer = space.dropped(candidate, shape, machine)
        if fewer is None or kind in done:
            continue
        short = solved(fewer)
        if short[2] < min((e for c, e in seen if c.footprint.no_more_than(fewer.footprint)), default=np.inf):
            yield short
        else:
            done.add(kind)
