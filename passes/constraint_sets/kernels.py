"""Compiled loops of the sets of rows."""

from __future__ import annotations

import numpy as np

from smec.passes.mapping.jit import compiled


@compiled
def nearest(value: float, middle: int, last: int) -> int:
    """Index into a level's table (see `project_rows`) of the integer nearest to `value`."""
    # Compared as real numbers: an infinity has no integer form.
    twice = 2.0 * value
    if twice >= last - middle:
        return last
    if twice <= -middle:
        return 0
    return middle + int(np.ceil(twice) if twice > 0 else np.floor(twice))


@compiled
def project_segment(
    values: np.ndarray, weights: np.ndarray, low: np.ndarray, high: np.ndarray, bounded: bool,
    table: np.ndarray, middle: int, span: np.ndarray, out: np.ndarray,
) -> float:  # fmt: skip
    """Nearest integers of one row segment; returns their weighted squared error. All arrays but `table` and `span` (the
    first level to try, and the one behind the last) are [n].
    """
    last = table.shape[1] - 1
    best, chosen = np.inf, span[0]
    place = np.empty(len(values), np.int32)
    for j in range(len(values)):
        place[j] = nearest(min(max(values[j], low[j]), high[j]) if bounded else values[j], middle, last)
    for level in range(span[0], span[1]):
        total = 0.0
        for j in range(len(values)):
            d = values[j] - table[level, place[j]]
            total += weights[j] * d * d
            if total >= best:
                break
        # A level whose error is infinite (so are some values) still has to be chosen from.
        if total < best or level == span[0]:
            best, chosen = total, level
    for j in range(len(values)):
        out[j] = table[chosen, place[j]]
    return best


@compiled
def project_rows(
    start: int, stop: int, values: np.ndarray, weights: np.ndarray, low: np.ndarray, high: np.ndarray,
    table: np.ndarray, middle: int, spans: np.ndarray, segment: int, out: np.ndarray,
) -> None:  # fmt: skip
    """Project rows `start` .. `stop` - 1.

    Args:
        start, stop: range of rows.
        values: float [rows, M].
        weights: of the same dtype, [rows, M] or [1, M].
        low, high: bounds, [rows, M], [1, M], or [0, 0] where there are none.
        table: int16 [levels, n]: for each level the integer nearest to (j - 1/2, j] / 2 at index `middle` + j, j > 0,
            and to [j, j + 1/2) / 2 for j < 0; the ends stand for all that lies beyond.
        middle: index of 0.
        spans: int64 [n, 2], see `RowSet.spans`.
        segment: entries of a row that share a level.
        out: int16 [rows, M].
    """
    width = values.shape[1]
    bounded = low.shape[0] > 0
    for r in range(start, stop):
        w = weights[r if weights.shape[0] > 1 else 0]
        below = low[r if low.shape[0] > 1 else 0] if bounded else values[r]
        above = high[r if high.shape[0] > 1 else 0] if bounded else values[r]
        for left in range(0, width, segment):
            right = min(left + segment, width)
            project_segment(
                values[r, left:right], w[left:right], below[left:right], above[left:right], bounded,
                table, middle, spans[r % len(spans)], out[r, left:right],
            )  # fmt: skip
