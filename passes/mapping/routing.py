"""Which core of a chip each group of crossbars is put on, so that messages pass few routers (DESIGN 4, problem 1).

Cores hang on routers in a square grid; a message passes the routers of a shortest way (`docs/timing.md`). With bytes
between groups and routers between cores given, that is the quadratic assignment problem, NP-hard and in practice out
of reach of exact solvers above some twenty cores. Here: linear assignment (OR-Tools) by the bound of Gilmore (1962)
and Lawler (1963), then exchanges of two groups while any lowers the sum: from that start, from the order of the layers,
and from some that are drawn at random (seeded); the best one counts. Groups stay on the chip that the order of layers
gave them: what crosses chips is little, and a message that does goes over a corner router in any case.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import networkx as nx


#: Random starts. Sixteen find about 3 % less than none does on MobileNet-v2 and ResNet-50.
_STARTS = 16


@dataclass(frozen=True)
class Grid:
    """cores, routers: cores of a chip, and how many of them share a router."""

    cores: int
    share: int

    @property
    def width(self) -> int:
        """Routers in a row."""
        return math.ceil(math.sqrt(math.ceil(self.cores / self.share)))

    def routers(self, source: int, target: int) -> int:
        """Routers that a message from one core to another passes; 0 within a core."""
        if source == target:
            return 0
        if source // self.cores != target // self.cores:
            return self.to_corner(source) + self.to_corner(target) + 2
        start, end = (core % self.cores // self.share for core in (source, target))
        return abs(start % self.width - end % self.width) + abs(start // self.width - end // self.width) + 1

    def to_corner(self, core: int) -> int:
        """Steps from a core's router to the corner router of its chip."""
        router = core % self.cores // self.share
        return router % self.width + router // self.width


@dataclass(frozen=True)
class Arrangement:
    """A solution.

    core: of each logical core. cost: bytes x routers of an image; bound: what it cannot go below with these chips;
    before: with cores in the order of the layers. bytes: between cores. exchanges: tried ones that helped.
    """

    core: np.ndarray
    cost: int
    bound: int
    before: int
    bytes: int
    exchanges: int


def arrange(traffic: nx.Graph, cores: int, grid: Grid) -> Arrangement:
    """Put logical cores 0 .. cores - 1 on the cores of their chips.

    Args:
        traffic: bytes between logical cores and "host", which is at core 0 (`traffic.core_traffic`).
        cores: how many; they take the first cores of each chip.
        grid: the network.
    """
    flow = np.zeros((cores, cores), np.int64)
    to_host = np.zeros(cores, np.int64)
    for a, b, size in traffic.edges(data="bytes"):
        if "host" in (a, b):
            to_host[b if a == "host" else a] += size
        else:
            flow[a, b] += size
            flow[b, a] += size
    routers = np.array([[grid.routers(a, b) for b in range(cores)] for a in range(cores)], np.int64).reshape(flow.shape)
    place = np.arange(cores)
    before = _cost(flow, to_host, routers, place)
    bound, exchanges = 0, 0
    chips = np.arange(cores) // grid.cores
    for chip in np.unique(chips).tolist():
        mine = np.flatnonzero(chips == chip)
        others = np.flatnonzero(chips != chip)
        # A message to another chip goes over the corners of both, so that each end's part depends on its core alone.
        out = flow[np.ix_(mine, others)].sum(axis=1)
        corner = np.array([grid.to_corner(core) for core in mine.tolist()], np.int64)
        fixed = np.outer(to_host[mine], routers[mine, 0]) + np.outer(out, corner)
        inner, between = flow[np.ix_(mine, mine)], routers[np.ix_(mine, mine)]
        low, start = _gilmore_lawler(inner, between, fixed)
        random = np.random.default_rng(0)
        starts = [np.arange(len(mine)), start, *(random.permutation(len(mine)) for _ in range(_STARTS))]
        tried = [_exchange(inner, between, fixed, p) for p in starts]
        best = min(tried, key=lambda found: found[1])
        exchanges += sum(found[2] for found in tried)
        place[mine] = mine[best[0]]
        bound += low
    bound += 2 * int(np.triu(flow * (chips[:, None] != chips[None, :])).sum())  # the corners themselves
    cost = _cost(flow, to_host, routers, place)
    sent = int(np.triu(flow).sum() + to_host.sum())
    return Arrangement(place, cost, min(bound, cost), before, sent, exchanges)


def _cost(flow: np.ndarray, to_host: np.ndarray, routers: np.ndarray, place: np.ndarray) -> int:
    if not len(place):
        return 0
    return int((np.triu(flow) * routers[np.ix_(place, place)]).sum() + (to_host * routers[place, 0]).sum())


def _gilmore_lawler(flow: np.ndarray, distance: np.ndarray, fixed: np.ndarray) -> tuple[int, np.ndarray]:
    """(lower bound of the cost, the assignment that it comes from).

    A group at a place costs at least its flows, the largest first, times the distances from there, the smallest first.
    """
    n = len(flow)
    if n == 1:
        return int(fixed[0, 0]), np.zeros(1, np.int64)
    from ortools.graph.python import linear_sum_assignment

    off = ~np.eye(n, dtype=np.bool_)
    flows = -np.sort(-flow[off].reshape(n, n - 1), axis=1)
    distances = np.sort(distance[off].reshape(n, n - 1), axis=1)
    costs = flows @ distances.T + 2 * fixed  # twice: every flow is seen from both ends
    solver = linear_sum_assignment.SimpleLinearSumAssignment()
    left, right = np.divmod(np.arange(n * n), n)
    # Flows are bytes: scaled down (and rounded down) where their sums would not fit the solver's integers.
    scale = max(1, int(costs.max()) * n >> 50)
    solver.add_arcs_with_cost(left, right, costs.reshape(-1) // scale)
    solver.solve()
    start = np.array([solver.right_mate(i) for i in range(n)], np.int64)
    return -(-solver.optimal_cost() * scale // 2), start


def _exchange(
    flow: np.ndarray, distance: np.ndarray, fixed: np.ndarray, place: np.ndarray
) -> tuple[np.ndarray, int, int]:
    """Exchange the places of two groups, the best pair each time, while that helps: (places, cost, exchanges)."""
    from smec.passes.mapping.exchange import exchange_places  # compiled code: only when it runs

    place = place.copy()
    done = exchange_places(flow, distance, fixed, place)
    cost = int((np.triu(flow) * distance[np.ix_(place, place)]).sum() + fixed[np.arange(len(place)), place].sum())
    return place, cost, done
