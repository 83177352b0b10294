"""The inner loop of `routing`: exchanges of two groups' places, compiled."""

from __future__ import annotations

import numpy as np

from smec.passes.mapping.jit import I64, compiled


@compiled
def exchange_places(flow: np.ndarray, distance: np.ndarray, fixed: np.ndarray, place: np.ndarray) -> int:
    """Exchange the places of the two groups that lowers the cost most, while any pair does.

    Args:
        flow: int64 [n, n], symmetric, 0 on the diagonal; distance: int64 [n, n], likewise; fixed: int64 [n, n], cost of
            each group at each place. The cost is half of sum(flow x distance) plus fixed.
        place: int64 [n], of each group; changed in place.

    Returns:
        The number of exchanges.
    """
    n, done = len(place), 0
    at = np.zeros((n, n), np.int64)  # what a group would pay for its flows at the place of another
    for a in range(n):
        for k in range(n):
            if flow[a, k]:
                for b in range(n):
                    at[a, b] += flow[a, k] * distance[place[k], place[b]]
    while True:
        best, i, j = I64(0), -1, -1
        for a in range(n):
            here = at[a, a] + fixed[a, place[a]]
            for b in range(a + 1, n):
                change = at[a, b] + at[b, a] - here - at[b, b] + 2 * flow[a, b] * distance[place[a], place[b]]
                change += fixed[a, place[b]] + fixed[b, place[a]] - fixed[b, place[b]]
                if change < best:
                    best, i, j = change, a, b
        if i < 0:
            return done
        done += 1
        for a in range(n):
            at[a, i], at[a, j] = at[a, j], at[a, i]
        old, new = place[i], place[j]
        place[i], place[j] = new, old
        for a in range(n):
            difference = flow[a, i] - flow[a, j]
            if difference:
                for b in range(n):
                    at[a, b] += difference * (distance[new, place[b]] - distance[old, place[b]])
