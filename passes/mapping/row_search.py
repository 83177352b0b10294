"""Row grouping by local search: rows into given groups such that no column of any exceeds what the ADC can read.

The groups are given by the row shifts that each may hold, so that their cost is fixed before the search begins
(`row_exact.spans_of_groups`), and only whether the rows fit is sought. The search may overfill groups; it moves a row
to another group, or exchanges two rows, where that lowers the summed excess of all columns most (or raises it least),
and does not touch the same rows again for some steps (tabu search: Glover 1989). It is seeded and counts its steps, so
that it finds the same on every machine.
"""

from __future__ import annotations

import numpy as np

from smec.passes.mapping.jit import I16, I64, U64, compiled

#: Steps for which a moved row stays where it is: at least so many, and at most so many more.
_TABU, _TABU_MORE = 4, 8


@compiled
def interval_needs(
    cell: np.ndarray, shifts: np.ndarray, rows: np.ndarray, levels: np.ndarray, capacity: int, most: int,
    needs: np.ndarray,
) -> None:  # fmt: skip
    """How many groups the rows of each interval of shifts call for, if they were alone.

    The largest over columns of what bin packing of the column's cells needs at least (L2: Martello and Toth 1990, which
    is ceil(sum / capacity) where cells are small), and rows / most.

    Args:
        cell: uint8 [R, C]; shifts: uint8 [R]; rows: int64 [n], those with a one; levels: int64 [L], shifts, ascending.
        capacity, most: largest sum of a column, most rows, of a group.
        needs: out, int64 [L, L]: from the first to the last shift, both included.
    """
    sizes = np.zeros((len(levels), 256, cell.shape[1]), np.int16)  # cells of each level, value and column
    count = np.zeros(len(levels), np.int64)
    largest = 0
    level = np.searchsorted(levels, shifts)
    for i in range(len(rows)):
        r = rows[i]
        count[level[r]] += 1
        for n in range(cell.shape[1]):
            sizes[level[r], cell[r, n], n] += I16(1)
            largest = max(largest, I64(cell[r, n]))
    kind = np.zeros(largest + 1, np.int64)
    for a in range(len(levels)):
        for b in range(a, len(levels)):
            number = 0
            for i in range(a, b + 1):
                number += count[i]
            need = (number + most - 1) // most
            for n in range(cell.shape[1]):
                for v in range(1, largest + 1):
                    kind[v] = 0
                    for i in range(a, b + 1):
                        kind[v] += sizes[i, v, n]
                need = max(need, _packing_bound(kind, capacity))
            needs[a, b] = need


@compiled
def _packing_bound(kind: np.ndarray, capacity: int) -> int:
    """The bound L2 for kind[v] items of each size v."""
    best = 0
    for least in range(1, min(capacity // 2, len(kind) - 1) + 1):
        alone, wide, room, small = I64(0), I64(0), I64(0), I64(0)
        for v in range(least, len(kind)):
            if v > capacity - least:
                alone += kind[v]
            elif 2 * v > capacity:
                wide += kind[v]
                room += (capacity - v) * kind[v]
            else:
                small += v * kind[v]
        best = max(best, alone + wide + max(0, (small - room + capacity - 1) // capacity))
        if 2 * (len(kind) - 1) <= capacity:
            return best  # all are small, and the smallest threshold counts them all
    if capacity // 2 < 1:
        total = I64(0)
        for v in range(1, len(kind)):
            total += kind[v]
        best = total
    return best


@compiled
def search(
    cell: np.ndarray, shifts: np.ndarray, rows: np.ndarray, low: np.ndarray, high: np.ndarray, capacity: int,
    most: int, steps: int, seed: int, group: np.ndarray,
) -> int:  # fmt: skip
    """Put the rows into groups of which each takes shifts from low to high only.

    Args:
        cell: uint8 [R, C]; shifts: uint8 [R]; rows: int64 [n], in the order in which they are first put.
        low, high: int64 [G], shifts that a group takes.
        capacity, most: largest sum of a column, most rows, of a group.
        steps: most moves and exchanges.
        seed: of the choice among equals.
        group: out, int16 [R]: of each row, if all fit.

    Returns:
        Steps taken; -1 if the rows did not fit.
    """
    groups, columns = len(low), cell.shape[1]
    load = np.zeros((groups, columns), np.int16)
    over, inside = np.zeros(groups, np.int64), np.zeros(groups, np.int64)
    where, until = np.full(len(rows), -1, np.int64), np.zeros(len(rows), np.int64)
    cap = I16(min(capacity, 32000))
    state = U64(seed * 2 + 1)
    for i in range(len(rows)):
        r = rows[i]
        g = _emptiest(cell[r], shifts[r], load, inside, low, high, cap, most)
        if g < 0:
            return -1
        where[i] = g
        _add(cell[r], load[g], I16(1))
        inside[g] += 1
    total = I64(0)
    for g in range(groups):
        over[g] = _excess(load[g], cap)
        total += over[g]
    least = total
    for step in range(steps):
        if total == 0:
            break
        state ^= state << U64(13)
        state ^= state >> U64(7)
        state ^= state << U64(17)
        g = _overfull(over, I64(state % U64(total)))
        best, which, other, target, ties = I64(1) << 60, -1, -1, -1, U64(0)
        for i in range(len(rows)):
            if where[i] != g:
                continue
            mine = cell[rows[i]]
            k = shifts[rows[i]]
            gain = _without(load[g], mine, cap) - over[g]
            for h in range(groups):
                if h == g or not low[h] <= k <= high[h] or inside[h] >= most:
                    continue
                change = gain + _with(load[h], mine, cap) - over[h]
                if until[i] > step and total + change >= least:
                    continue
                ties = ties + U64(1) if change == best else U64(1)
                if change < best or (change == best and (state >> U64(20)) % ties == 0):
                    best, which, other, target = change, i, -1, h
            for j in range(len(rows)):
                h = where[j]
                if h == g or not (low[h] <= k <= high[h] and low[g] <= shifts[rows[j]] <= high[g]):
                    continue
                if best + over[h] < gain:  # even an empty exchange is worse
                    continue
                change = _exchanged(load[g], load[h], mine, cell[rows[j]], cap) - over[g] - over[h]
                if (until[i] > step or until[j] > step) and total + change >= least:
                    continue
                ties = ties + U64(1) if change == best else U64(1)
                if change < best or (change == best and (state >> U64(20)) % ties == 0):
                    best, which, other, target = change, i, j, h
        if which < 0:
            continue
        _move(cell[rows[which]], load, g, target)
        where[which] = target
        until[which] = step + _TABU + I64((state >> U64(40)) % U64(_TABU_MORE))
        if other >= 0:
            _move(cell[rows[other]], load, target, g)
            where[other] = g
            until[other] = until[which]
        else:
            inside[g] -= 1
            inside[target] += 1
        for h in (g, target):
            total -= over[h]
            over[h] = _excess(load[h], cap)
            total += over[h]
        least = min(least, total)
    else:
        step = steps
    if total:
        return -1
    for i in range(len(rows)):
        group[rows[i]] = where[i]
    return step


@compiled
def _overfull(over: np.ndarray, at: int) -> int:
    """A group by chance, as likely as it is overfull."""
    for g in range(len(over)):
        if at < over[g]:
            return g
        at -= over[g]
    return len(over) - 1


@compiled
def _emptiest(
    row: np.ndarray, shift: int, load: np.ndarray, inside: np.ndarray, low: np.ndarray, high: np.ndarray, cap: int,
    most: int,
) -> int:  # fmt: skip
    """The group whose columns the row meets least, those that it overfills last; -1 if none may take it."""
    best, least = -1, I64(1) << 60
    for g in range(len(low)):
        if inside[g] < most and low[g] <= shift <= high[g]:
            meets = (_with(load[g], row, cap) - _excess(load[g], cap)) << 24
            for n in range(len(row)):
                meets += I64(row[n]) * load[g, n]
            if meets < least:
                best, least = g, meets
    return best


@compiled
def _add(row: np.ndarray, load: np.ndarray, sign: int) -> None:
    for n in range(len(row)):
        load[n] += sign * I16(row[n])


@compiled
def _move(row: np.ndarray, load: np.ndarray, source: int, target: int) -> None:
    _add(row, load[source], I16(-1))
    _add(row, load[target], I16(1))


@compiled
def _excess(load: np.ndarray, cap: int) -> int:
    total = I16(0)
    for n in range(len(load)):
        total += max(I16(0), I16(load[n] - cap))
    return I64(total)


@compiled
def _without(load: np.ndarray, row: np.ndarray, cap: int) -> int:
    total = I16(0)
    for n in range(len(load)):
        total += max(I16(0), I16(load[n] - I16(row[n]) - cap))
    return I64(total)


@compiled
def _with(load: np.ndarray, row: np.ndarray, cap: int) -> int:
    total = I16(0)
    for n in range(len(load)):
        total += max(I16(0), I16(load[n] + I16(row[n]) - cap))
    return I64(total)


@compiled
def _exchanged(first: np.ndarray, second: np.ndarray, mine: np.ndarray, theirs: np.ndarray, cap: int) -> int:
    """The excess of two groups after an exchange of two rows."""
    total = I16(0)
    for n in range(len(first)):
        difference = I16(theirs[n]) - I16(mine[n])
        total += max(I16(0), I16(first[n] + difference - cap)) + max(I16(0), I16(second[n] - difference - cap))
    return I64(total)
