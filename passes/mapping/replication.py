"""How many copies of each layer (DESIGN 4, problem 5): the least bottleneck that a budget of crossbars allows.

The reads of a layer are a stretch: pixel after pixel, and of each pixel one input digit after the other. Copies take
consecutive parts of it; where one ends within a pixel, the next reads the other digits of that pixel's input, since
the sums of digits add up (`smec.passes.mapping.shares`). So a copy stops at any read, not only at whole pixels.

With a limit T on the reads of a copy, each copy takes what fits, from where the one before ended, and no layer can do
with fewer copies; a higher limit never takes more. If no two tiles shared a physical crossbar, bisection would find the
least limit whose copies the budget pays for. Then pixels are shared only in layers in which copies of whole pixels
would exceed it, and there as few as can be.

Tiles do share crossbars, in turn, as far as their reads allow. What a limit then costs, placement tells; and it costs
least if all copies of a layer but the last take what they can: the last one's crossbars have time for others. So lower
limits are tried in the same way, until none is found that the budget pays for.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import accumulate


@dataclass(frozen=True)
class Layer:
    """A layer to copy.

    pixels: of an image. digits: reads that each input digit of a pixel takes, from the lowest on, D numbers for each
    unit of crossbars that read at the same time; none for a layer without crossbars. cost: crossbars of one copy, were
    none shared. share: of these, the part that its cells fill. work: reads of an image, the sum over these crossbars.
    whole: all reads of a pixel belong to one copy.
    """

    pixels: int
    digits: tuple[tuple[int, ...], ...]
    cost: int
    share: Fraction = Fraction(1)
    work: int = 0
    whole: bool = False

    @cached_property
    def _sums(self) -> list[list[int]]:
        """For each unit that is not read less than another at all digits: reads of the first 0, 1 .. D digits."""
        known = set(self.digits)
        rarer = {a for a in known for b in known if a != b and all(x <= y for x, y in zip(a, b, strict=True))}
        return [[0, *accumulate(unit)] for unit in sorted(known - rarer) if any(unit)]

    @cached_property
    def pixel_digits(self) -> int:
        """D; 0 for a layer that reads nothing."""
        return len(self._sums[0]) - 1 if self._sums else 0

    @property
    def length(self) -> int:
        """Pairs (pixel, digit)."""
        return self.pixels * self.pixel_digits

    @property
    def reads(self) -> int:
        """Of a pixel."""
        return max((sums[-1] for sums in self._sums), default=0)

    @property
    def least(self) -> int:
        """Reads of the digit that takes most, or of a pixel where that is whole: no copy can have fewer."""
        return self.reads if self.whole else max((max(unit) for unit in self.digits if unit), default=0)

    @property
    def cycles(self) -> int:
        """Crossbar reads of an image with one copy."""
        return self.pixels * self.reads

    def reach(self, start: int, limit: int) -> int:
        """How far a copy gets from `start` within `limit` reads, were there no end: the first pair that is not its."""
        stops = []
        for sums in self._sums:
            pixel, rest = divmod(_at(sums, start) + limit, sums[-1])
            stops.append(pixel * self.pixel_digits + bisect_right(sums, rest) - 1)
        stop = min(stops)
        return stop - stop % self.pixel_digits if self.whole else stop

    def start(self, stop: int, limit: int) -> int:
        """The first pair that a copy can begin with, to be through with what is before `stop` within `limit` reads."""
        starts = [0]
        for sums in self._sums:
            done = _at(sums, stop) - limit
            if done > 0:
                pixel, rest = divmod(done - 1, sums[-1])
                starts.append(pixel * self.pixel_digits + bisect_left(sums, rest + 1))
        return max(starts)

    def filled(self, copies: int, limit: int) -> list[int]:
        """Where to cut the stretch such that all copies but the last take as much as `limit` reads allow."""
        cuts = [0]
        step = self.pixel_digits if self.whole else 1
        for i in range(1, copies):
            cuts.append(min(self.reach(cuts[-1], limit), self.length - (copies - i) * step))
        return cuts[1:]

    def copies_for(self, limit: int) -> int:
        """The fewest copies of which none takes more than `limit` reads; `limit` allows any digit at least."""
        if not self.pixel_digits:
            return 1
        at, copies, seen = 0, 0, dict[int, tuple[int, int]]()
        while at < self.length:
            # how far a copy gets depends only on the digit that it begins with: where that returns, so does the rest
            before, count = seen.setdefault(at % self.pixel_digits, (at, copies))
            if before < at:
                times = (self.length - at) // (at - before)
                at, copies = at + times * (at - before), copies + times * (copies - count)
                seen.clear()
            if at < self.length:
                at, copies = self.reach(at, limit), copies + 1
        return copies

    def cuts(self, copies: int, limit: int) -> list[int]:
        """Where to cut the stretch such that no copy takes more than `limit` reads; none if whole pixels will do.

        As evenly as can be, but between pixels where that is possible.
        """
        if copies == 1 or (copies <= self.pixels and -(-self.pixels // copies) * self.reads <= limit):
            return []
        digits, length = self.pixel_digits, self.length
        # the earliest pair at which each copy may begin, so that it and those behind it get through
        begin = [length]
        for _ in range(copies - 1):
            begin.append(self.start(begin[-1], limit))
        cuts = [0]
        for i in range(1, copies):
            low = max(begin[copies - i], cuts[-1] + 1)
            high = min(self.reach(cuts[-1], limit), length - (copies - i))
            first, last = -(-low // digits), high // digits
            if first <= last:
                cuts.append(min(max(round(self.pixels * i / copies), first), last) * digits)
            else:
                cuts.append(min(max(length * i // copies, low), high))
        return cuts[1:]


def _at(sums: list[int], position: int) -> int:
    """Reads of all pairs before a position."""
    pixel, digit = divmod(position, len(sums) - 1)
    return pixel * sums[-1] + sums[digit]


@dataclass(frozen=True)
class Replication:
    """A solution.

    copies, cuts: of each layer; see `Layer.cuts` and `Layer.filled`. cycles: reads of the busiest copy of any layer.
    crossbars: of all copies. bound: see `lower_bound`; continuous: see `continuous_bound`.
    """

    copies: list[int]
    cuts: list[list[int]]
    cycles: int
    bound: int
    continuous: float
    crossbars: int


def replicate(layers: Sequence[Layer], budget: int) -> Replication:
    """Minimise the reads of the busiest copy within `budget` crossbars, exactly, if tiles share none.

    Args:
        layers: with at least one pixel each.
        budget: crossbars, at least those of one copy of each layer.
    """
    if not layers:
        return Replication([], [], 0, 0, 0.0, 0)

    def cost(limit: int) -> int:
        return sum(layer.copies_for(limit) * layer.cost for layer in layers)

    limit = _least_limit(layers, budget, cost)
    copies = [layer.copies_for(limit) for layer in layers]
    return Replication(
        copies,
        [layer.cuts(n, limit) for layer, n in zip(layers, copies, strict=True)],
        limit,
        lower_bound(layers, budget),
        continuous_bound(layers, budget),
        cost(limit),
    )


#: From copies, cuts and how many are enough: (physical crossbars that these take, reads of the busiest copy).
Placed = Callable[[list[int], list[list[int]], int], tuple[int, int]]


def replicate_sharing(layers: Sequence[Layer], budget: int, placed: Placed) -> Replication:
    """Minimise the reads of the busiest copy within `budget` crossbars, which tiles may share.

    Args:
        layers: with at least one pixel each.
        budget: crossbars; at least those of one copy of each layer that share none, or that `placed` finds for it.
        placed: what it takes.
    """
    found: Replication | None = None
    costs = sum(layer.cost for layer in layers)
    if costs <= budget:
        found = replicate(layers, budget)
    if not layers or (found is not None and found.cycles <= max(found.bound, 1)):
        assert found is not None  # noqa: S101  # for the type checker: without layers the budget is enough
        return found

    def attempt(limit: int) -> Replication | None:
        copies = [layer.copies_for(limit) for layer in layers]
        cuts = [layer.filled(n, limit) for layer, n in zip(layers, copies, strict=True)]
        crossbars, cycles = placed(copies, cuts, budget)
        if crossbars > budget:
            return None
        return Replication(copies, cuts, cycles, bound, continuous_bound(layers, max(budget, costs)), crossbars)

    bound = lower_bound(layers, budget)
    low = max(bound, *(layer.least for layer in layers))
    # with one copy of each layer
    high = found.cycles if found is not None else max(layer.cycles for layer in layers) + 1
    while low < high:
        middle = (low + high) // 2
        better = attempt(middle)
        if better is None:
            low = middle + 1
        else:
            found, high = better, min(middle, better.cycles)
    if found is None:
        raise ValueError("the budget does not pay for one copy")
    return found


def _least_limit(layers: Sequence[Layer], budget: int, cost: Callable[[int], Fraction | int]) -> int:
    """The least limit on the reads that the budget pays for; by bisection, as a higher limit never costs more."""
    low, high = max(layer.least for layer in layers), max(layer.cycles for layer in layers)
    while low < high:
        middle = (low + high) // 2
        if cost(middle) <= budget:
            high = middle
        else:
            low = middle + 1
    return high


def lower_bound(layers: Sequence[Layer], budget: int) -> int:
    """What the bottleneck does not go below, however tiles share crossbars.

    1. Copies could be any real numbers, at least one of each layer, that take whole reads: within a limit a copy takes
       n of the stretch's pairs at most, so that length / n copies are needed; and of crossbars as many as these fill.
    2. All reads of all crossbars are shared out evenly.
    """

    def copies(layer: Layer, limit: int) -> Fraction:
        if not layer.pixel_digits:
            return Fraction(1)
        most = max(layer.reach(digit, limit) - digit for digit in range(1 if layer.whole else layer.pixel_digits))
        return max(Fraction(layer.length, most), Fraction(1))

    def cost(limit: int) -> Fraction:
        return sum((copies(layer, limit) * layer.cost * layer.share for layer in layers), Fraction(0))

    work = sum(layer.work for layer in layers)
    return max(_least_limit(layers, budget, cost), -(-work // max(budget, 1)))


def continuous_bound(layers: Sequence[Layer], budget: int) -> float:
    """The least bottleneck if copies could be any real numbers of at least one, of crossbars that they do not share; a
    copy has one read at least.

    Layers slower than the bottleneck T get cycles / T copies, the others one: with k slower layers,
    T = sum(cost cycles of these) / (budget - sum(cost of the others)).
    """
    order = sorted(layers, key=lambda layer: -layer.cycles)
    slower = 0
    rest = sum(layer.cost for layer in order)
    best = float(order[0].cycles)
    for k, layer in enumerate(order):
        slower += layer.cost * layer.cycles
        rest -= layer.cost
        if budget <= rest:
            break
        best = slower / (budget - rest)
        if k + 1 == len(order) or best >= order[k + 1].cycles:
            break
    return max(min(best, float(order[0].cycles)), *(float(layer.least) for layer in layers))
