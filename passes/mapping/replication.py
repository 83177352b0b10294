"""How many copies of each layer (DESIGN 4, problem 5): the least bottleneck that a budget of crossbars allows.

The pixels of a layer are shared out so evenly that no copy computes more than ceil(pixels / copies) of them. Each copy
takes neighbouring columns of all rows, so that together they finish one row after the other: the next layer can begin
with the first rows, whatever the number of copies (`shares`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import prod


@dataclass(frozen=True)
class Layer:
    """A layer to copy: its pixels, crossbar reads of one pixel, and crossbars of one copy."""

    pixels: int
    reads: int
    cost: int

    @property
    def cycles(self) -> int:
        """Crossbar reads of an image with one copy."""
        return self.pixels * self.reads

    def copies_for(self, limit: int) -> int:
        """The fewest copies of which none takes more than `limit` reads; `limit` allows one pixel at least."""
        return -(-self.pixels // (limit // self.reads)) if self.reads else 1


@dataclass(frozen=True)
class Replication:
    """A solution.

    copies: of each layer. cycles: reads of the busiest copy of any layer. crossbars: of all copies.
    bound: what no real numbers of copies (at least one of each layer) go below where each pixel is one copy's;
    continuous: where pixels may be cut up, too.
    """

    copies: list[int]
    cycles: int
    bound: int
    continuous: float
    crossbars: int


def replicate(layers: Sequence[Layer], budget: int) -> Replication:
    """Minimise the reads of the busiest copy within `budget` crossbars, exactly.

    With a limit on the reads, each layer's fewest copies follow on their own, and a higher limit never takes more: the
    least limit that fits is found by bisection.

    Args:
        layers: with at least one pixel each.
        budget: crossbars, at least those of one copy of each layer.
    """
    if not layers:
        return Replication([], 0, 0, 0.0, 0)

    def cost(limit: int) -> int:
        return sum(layer.copies_for(limit) * layer.cost for layer in layers)

    limit = _least_limit(layers, budget, cost)
    copies = [layer.copies_for(limit) for layer in layers]
    busiest = max(-(-layer.pixels // n) * layer.reads for layer, n in zip(layers, copies, strict=True))
    return Replication(copies, busiest, lower_bound(layers, budget), continuous_bound(layers, budget), cost(limit))


def _least_limit(layers: Sequence[Layer], budget: int, cost: Callable[[int], Fraction | int]) -> int:
    """The least limit on the reads that the budget pays for; by bisection, as a higher limit never costs more."""
    low, high = max(layer.reads for layer in layers), max(layer.cycles for layer in layers)
    while low < high:
        middle = (low + high) // 2
        if cost(middle) <= budget:
            high = middle
        else:
            low = middle + 1
    return high


def lower_bound(layers: Sequence[Layer], budget: int) -> int:
    """The least bottleneck if copies could be any real numbers, at least one of each layer, that take whole pixels.

    A copy takes floor(limit / reads) pixels within a limit, so that pixels / floor(limit / reads) copies are needed.
    With copies of few pixels that is well above the continuous bound: a pixel's reads belong together.
    """

    def cost(limit: int) -> Fraction:
        needed = (Fraction(layer.pixels, limit // layer.reads) if layer.reads else Fraction(1) for layer in layers)
        return sum((max(n, Fraction(1)) * layer.cost for n, layer in zip(needed, layers, strict=True)), Fraction(0))

    return _least_limit(layers, budget, cost)


def continuous_bound(layers: Sequence[Layer], budget: int) -> float:
    """The least bottleneck if copies could be any real numbers, from one to the number of pixels.

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
    return max(min(best, float(order[0].cycles)), *(float(layer.reads) for layer in layers))


@dataclass(frozen=True)
class Box:
    """Pixels of a copy: for each axis the first one, how many, and the step between them."""

    first: tuple[int, ...]
    shape: tuple[int, ...]
    step: tuple[int, ...]

    @property
    def pixels(self) -> int:
        """How many."""
        return prod(self.shape)


def shares(shape: tuple[int, ...], copies: int) -> list[list[Box]]:
    """The pixels of each copy, in up to three boxes; together they are all pixels, each once.

    The last two axes, rows and columns, are shared out: copy after copy takes the next pixels, column by column. A
    single axis is dealt out in turn. Leading axes stay whole.

    Args:
        shape: extents of the pixels' axes; () is one pixel.
        copies: at most the pixels of the last two axes.
    """
    if copies == 1:
        return [[Box((0,) * len(shape), shape, (1,) * len(shape))]]
    if len(shape) == 1:
        return [[Box((i,), (-(-(shape[0] - i) // copies),), (copies,))] for i in range(copies)]
    *outer, rows, columns = shape
    lead = (0,) * len(outer)
    out = []
    for i in range(copies):
        boxes = []
        at, end = rows * columns * i // copies, rows * columns * (i + 1) // copies
        while at < end:
            column, row = divmod(at, rows)
            whole = (end - at) // rows if row == 0 else 0
            height, width = (rows, whole) if whole else (min(rows - row, end - at), 1)
            boxes.append(Box((*lead, row, column), (*outer, height, width), (1,) * len(shape)))
            at += height * width
        out.append(boxes)
    return out


def row_by_row(boxes: list[Box]) -> tuple[tuple[int, ...], list[tuple[int, ...]]]:
    """Where a copy's pixels lie in an array of their own, such that rows follow one another as they do in the layer.

    Sums travel in the order of the array; with the boxes one after the other, the first rows of one would wait for the
    last rows of another. The columns of a box keep their distances; the last box, if it is a column that ends above the
    rows in which the first one begins, takes the same column.

    Returns:
        (shape of the array, first element of each box in it).
    """
    if len(boxes[0].shape) < 2:
        return boxes[0].shape, [(0,) * len(boxes[0].shape) for _ in boxes]
    *outer, _, _ = boxes[0].shape
    top, left = (min(box.first[axis] for box in boxes) for axis in (-2, -1))
    starts = [[*(0,) * len(outer), box.first[-2] - top, box.first[-1] - left] for box in boxes]
    last = boxes[-1]
    if len(boxes) > 1 and last.shape[-1] == 1 and last.first[-2] + last.shape[-2] <= boxes[0].first[-2]:
        starts[-1][-1] = 0
    height = max(start[-2] + box.shape[-2] for start, box in zip(starts, boxes, strict=True))
    width = max(start[-1] + box.shape[-1] for start, box in zip(starts, boxes, strict=True))
    return (*outer, height, width), [tuple(start) for start in starts]
