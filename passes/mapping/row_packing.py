"""Row grouping: constructive heuristics and the check of given groups, compiled.

`grouping` says what a group is and costs. For every crossbar, g being the number of groups that the fullest column and
the concurrent rows call for:

1. g <= 1, the usual case with eight ADC bits: rows of all shifts in one group, or parted by shift where that is
   cheaper (few input bits): the cheapest partition of the shifts into intervals, which is optimal.
2. Otherwise first-fit by falling row sums, (a) within the intervals of shifts that are cheapest for g groups,
   (b) over all rows, (c) over all rows ordered by shift first, (d) within each shift.
3. While that leaves a gap to the bound: for g, g + 1, ... groups, each row goes to the group with room whose
   columns it meets least (the smallest product of row and column sums), which keeps columns level.

The cheapest wins, the earlier one of equals.

Bound: any grouping has g groups or more, and at its cheapest parts the shifts into j <= g intervals, the other groups
costing ceil(A / d) at least.
"""

from __future__ import annotations

import numpy as np

from smec.passes.mapping.jit import I32, I64, U8, U16, compiled

#: Row shifts are below this (codes and weights have at most 16 bits).
LEVELS = 16


@compiled
def unpack(packed: np.ndarray, columns: int, cell_bits: int, out: np.ndarray) -> None:
    """Packed cells of a crossbar -> uint8 [R, C]."""
    mask = U8((1 << cell_bits) - 1)
    for r in range(packed.shape[0]):
        if cell_bits == 1:
            for b in range(columns // 8):
                byte = packed[r, b]
                for j in range(8):
                    out[r, 8 * b + j] = (byte >> U8(j)) & U8(1)
            for n in range(columns // 8 * 8, columns):
                out[r, n] = (packed[r, n >> 3] >> U8(n & 7)) & U8(1)
            continue
        for n in range(columns):
            at = n * cell_bits
            byte = U16(packed[r, at >> 3])
            if (at & 7) + cell_bits > 8:
                byte |= U16(packed[r, (at >> 3) + 1]) << U16(8)
            out[r, n] = U8(byte >> U16(at & 7)) & mask


@compiled
def _reads(spread: int, act_bits: int, dac_bits: int) -> int:
    return (act_bits + spread + dac_bits - 1) // dac_bits


@compiled
def _intervals(levels: np.ndarray, count: int, act_bits: int, dac_bits: int, cost: np.ndarray, cut: np.ndarray) -> None:
    """Cheapest partitions of `count` ascending shifts into j intervals.

    cost[j, i]: of the first i shifts in j intervals; cut[j, i]: where the last of these intervals begins.
    """
    cost.fill(1 << 30)
    cost[0, 0] = 0
    for j in range(1, count + 1):
        for i in range(j, count + 1):
            for b in range(j - 1, i):
                c = cost[j - 1, b] + _reads(levels[i - 1] - levels[b], act_bits, dac_bits)
                if c < cost[j, i]:
                    cost[j, i], cut[j, i] = c, b


@compiled
def _first_fit(
    cell: np.ndarray, order: np.ndarray, count: int, part: np.ndarray, capacity: int, most: int,
    load: np.ndarray, rows_in: np.ndarray, peak: np.ndarray, owner: np.ndarray, group: np.ndarray,
) -> int:  # fmt: skip
    """First-fit of the rows order[:count] into groups of their own part; returns the number of groups.

    load int32 [R, C], rows_in, peak, owner int64 [R]: scratch. group: out, int16 [R].
    """
    columns = cell.shape[1]
    used = 0
    for i in range(count):
        r = order[i]
        g = 0
        while g < used:
            if owner[g] == part[r] and rows_in[g] < most and peak[g] < capacity:
                top = I32(0)
                for n in range(columns):
                    top = max(top, load[g, n] + I32(cell[r, n]))
                if top <= capacity:
                    break
            g += 1
        if g == used:
            load[g].fill(0)
            rows_in[g], owner[g] = 0, part[r]
            used += 1
        top = I32(0)
        for n in range(columns):
            load[g, n] += I32(cell[r, n])
            top = max(top, load[g, n])
        peak[g] = top
        rows_in[g] += 1
        group[r] = g
    return used


@compiled
def _level_fit(
    cell: np.ndarray, order: np.ndarray, count: int, groups: int, capacity: int, most: int,
    load: np.ndarray, rows_in: np.ndarray, group: np.ndarray,
) -> bool:  # fmt: skip
    """Put the rows into exactly so many groups, each where its columns are least loaded; False if one has no room."""
    columns = cell.shape[1]
    load[:groups].fill(0)
    rows_in.fill(0)
    for i in range(count):
        r = order[i]
        best, least = -1, I64(1) << 60
        for g in range(groups):
            if rows_in[g] >= most:
                continue
            top, meets = I32(0), I32(0)
            for n in range(columns):
                c = I32(cell[r, n])
                meets += c * load[g, n]
                top = max(top, load[g, n] + c)
            if top <= capacity and meets < least:
                best, least = g, I64(meets)
        if best < 0:
            return False
        for n in range(columns):
            load[best, n] += I32(cell[r, n])
        rows_in[best] += 1
        group[r] = best
    return True


@compiled
def cost_of(
    group: np.ndarray, groups: int, shifts: np.ndarray, act_bits: int, dac_bits: int, low: np.ndarray, high: np.ndarray
) -> int:
    """Reads of a grouping. low, high int64 [R]: scratch."""
    low.fill(255)
    high.fill(0)
    for r in range(len(group)):
        g = group[r]
        if g >= 0:
            k = I64(shifts[r])
            low[g], high[g] = min(low[g], k), max(high[g], k)
    total = 0
    for g in range(groups):
        if high[g] >= low[g]:
            total += _reads(high[g] - low[g], act_bits, dac_bits)
    return total


@compiled
def _copy(source: np.ndarray, target: np.ndarray) -> None:
    # A loop: slice assignment checks shapes and formats messages, which takes seconds to compile.
    for i in range(len(source)):
        target[i] = source[i]


@compiled
def sort(order: np.ndarray, count: int, key: np.ndarray) -> None:
    """Stable insertion sort of order[:count] by ascending key."""
    for i in range(1, count):
        r = order[i]
        j = i - 1
        while j >= 0 and key[order[j]] > key[r]:
            order[j + 1] = order[j]
            j -= 1
        order[j + 1] = r


@compiled
def survey(
    cell: np.ndarray, shifts: np.ndarray, order: np.ndarray, row_sum: np.ndarray, total: np.ndarray, levels: np.ndarray
) -> tuple[int, int, int, int]:
    """What a crossbar holds.

    Returns the number of rows with a one (out: order, row_sum), the number of distinct shifts among them (out: levels,
    ascending), the sum of the fullest column, and the largest cell.
    """
    total.fill(0)
    present, count, largest, fullest = I64(0), 0, I32(0), I32(0)
    for r in range(cell.shape[0]):
        s = I32(0)
        for n in range(cell.shape[1]):
            c = I32(cell[r, n])
            s += c
            total[n] += c
            largest = max(largest, c)
        row_sum[r] = s
        if s:
            order[count] = r
            count += 1
            present |= I64(1) << I64(shifts[r])
    for n in range(cell.shape[1]):
        fullest = max(fullest, total[n])
    distinct = 0
    for k in range(LEVELS):
        if (present >> k) & 1:
            levels[distinct] = k
            distinct += 1
    return count, distinct, I64(fullest), I64(largest)


@compiled
def _divide(
    shifts: np.ndarray, levels: np.ndarray, distinct: int, need: int, base: int, cost: np.ndarray, cut: np.ndarray,
    part: np.ndarray,
) -> tuple[int, int]:  # fmt: skip
    """The number of intervals of shifts that are cheapest for `need` groups, and the reads of these groups at least.

    part: out, the interval of each row.
    """
    pieces, bound = 1, I64(1) << 40
    for j in range(1, distinct + 1):
        c = cost[j, distinct] + max(0, need - j) * base
        if c < bound:
            pieces, bound = j, c
    i = distinct
    for j in range(pieces, 0, -1):
        b = cut[j, i]
        for r in range(len(shifts)):
            if levels[b] <= shifts[r] <= levels[i - 1]:
                part[r] = j - 1
        i = b
    return pieces, bound


@compiled
def _order(
    attempt: int, shifts: np.ndarray, row_sum: np.ndarray, order: np.ndarray, count: int, key: np.ndarray,
    part: np.ndarray,
) -> None:  # fmt: skip
    """Order and parts for variant `attempt` of first-fit: 0 (a), whose parts are there already, to 3 (d)."""
    for i in range(count):
        r = order[i]
        key[r] = -row_sum[r]
        if attempt >= 2:
            key[r] += I64(shifts[r]) << 40
        if attempt >= 1:
            part[r] = I64(shifts[r]) if attempt == 3 else 0
    sort(order, count, key)


@compiled
def construct(
    start: int, stop: int, cells: np.ndarray, shifts: np.ndarray, columns: int, cell_bits: int, limits: np.ndarray,
    groups: np.ndarray, stats: np.ndarray,
) -> None:  # fmt: skip
    capacity, most, act_bits, dac_bits = limits[0], limits[1], limits[2], limits[3]
    height = cells.shape[1]
    base = _reads(0, act_bits, dac_bits)
    cell = np.zeros((height, columns), np.uint8)
    load, total = np.zeros((height, columns), np.int32), np.zeros(columns, np.int32)
    order, part, key = np.zeros(height, np.int64), np.zeros(height, np.int64), np.zeros(height, np.int64)
    rows_in, peak, owner = np.zeros(height, np.int64), np.zeros(height, np.int64), np.zeros(height, np.int64)
    row_sum, levels = np.zeros(height, np.int64), np.zeros(LEVELS, np.int64)
    trial, best = np.zeros(height, np.int16), np.zeros(height, np.int16)
    cost = np.zeros((LEVELS + 1, LEVELS + 1), np.int64)
    cut = np.zeros((LEVELS + 1, LEVELS + 1), np.int64)
    for x in range(start, stop):
        unpack(cells[x], columns, cell_bits, cell)
        count, distinct, fullest, largest = survey(cell, shifts[x], order, row_sum, total, levels)
        if count == 0:
            continue
        need = max((fullest + capacity - 1) // capacity, (count + most - 1) // most)
        _intervals(levels, distinct, act_bits, dac_bits, cost, cut)
        pieces, bound = _divide(shifts[x], levels, distinct, need, base, cost, cut, part)
        best.fill(-1)
        found, reads = 0, I64(1) << 40
        if need <= 1:
            for i in range(count):
                best[order[i]] = part[order[i]]
            found, reads = pieces, bound
        for attempt in range(4):
            # Reached the bound, or the same as an attempt before.
            if reads == bound or (attempt == 1 and pieces == 1) or (attempt >= 2 and distinct == 1):
                continue
            _order(attempt, shifts[x], row_sum, order, count, key, part)
            trial.fill(-1)
            tried = _first_fit(cell, order, count, part, capacity, most, load, rows_in, peak, owner, trial)
            c = cost_of(trial, tried, shifts[x], act_bits, dac_bits, rows_in, peak)
            if c < reads:
                found, reads = tried, c
                _copy(trial, best)
        if reads > bound:
            _order(1, shifts[x], row_sum, order, count, key, part)
            tried = need
            while tried * base < reads:
                trial.fill(-1)
                if _level_fit(cell, order, count, tried, capacity, most, load, rows_in, trial):
                    c = cost_of(trial, tried, shifts[x], act_bits, dac_bits, rows_in, peak)
                    if c < reads:
                        found, reads = tried, c
                        _copy(trial, best)
                    break
                tried += 1
        _copy(best, groups[x])
        stats[x, 0], stats[x, 1], stats[x, 2], stats[x, 3] = found, reads, bound, largest > capacity


@compiled
def price(
    start: int, stop: int, cells: np.ndarray, shifts: np.ndarray, columns: int, cell_bits: int, limits: np.ndarray,
    groups: np.ndarray, stats: np.ndarray,
) -> None:  # fmt: skip
    capacity, act_bits, dac_bits = limits[0], limits[2], limits[3]
    height = cells.shape[1]
    cell = np.zeros((height, columns), np.uint8)
    load = np.zeros((height, columns), np.int32)
    low, high = np.zeros(height, np.int64), np.zeros(height, np.int64)
    for x in range(start, stop):
        unpack(cells[x], columns, cell_bits, cell)
        count = 0
        for r in range(height):
            count = max(count, groups[x, r] + 1)
        load[:count].fill(0)
        for r in range(height):
            g = groups[x, r]
            if g >= 0:
                for n in range(columns):
                    load[g, n] += I32(cell[r, n])
        over = 0
        for g in range(count):
            top = I32(0)
            for n in range(columns):
                top = max(top, load[g, n])
            over += top > capacity
        stats[x, 0], stats[x, 3] = count, over
        stats[x, 1] = cost_of(groups[x], count, shifts[x], act_bits, dac_bits, low, high)
