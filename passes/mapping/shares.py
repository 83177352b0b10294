"""Which pixels, and which input digits of them, each copy of a layer's crossbars reads.

A layer's reads are a stretch of pairs (pixel, input digit): pixel after pixel, column by column of the last two axes,
the digits of each from the lowest on. Copies share it out:

1. Without cuts in it copies have whole pixels, as many each as can be. A single axis is dealt out in turn.
2. Cuts say where one copy ends and the next begins. A pixel within which a cut lies is shared: each of its copies reads
   some of the digits of its input, and the sums of all of them add up to its product.

Copies take neighbouring columns of all rows, so that together they finish one row after the other: the next layer can
begin with the first rows, whatever the number of copies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod

from smec.ir.dialects.xbar import MvmOp


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


@dataclass(frozen=True)
class Piece:
    """Pixels of which a copy reads the same digits: from `first` to before `stop`, None for the last one."""

    box: Box
    first: int = 0
    stop: int | None = None

    @property
    def whole(self) -> bool:
        """Whether all digits are read."""
        return self.first == 0 and self.stop is None


#: What one copy reads, in the order in which it does: up to five pieces.
Share = list[Piece]


def shares_of(op: MvmOp) -> list[Share]:
    """The share of each copy of a layer; together they read each digit of each pixel once.

    Raises:
        SmecError: at the operation, if its cuts do not share out its reads.
    """
    shape, cuts, digits, copies = tuple(op.pixel_shape()), op.cuts, op.pixel_digits, op.copies
    if not cuts:
        pixels = prod(shape[-2:])
        if not 1 <= copies <= pixels:
            raise op.error(f"bad number of copies of layer '{op.label}'", expected=f"1 to {pixels}", found=copies)
        return shares(shape, copies)
    if len(cuts) != copies - 1:
        raise op.error(f"layer '{op.label}' has {copies} copies", expected=f"{copies - 1} cuts", found=len(cuts))
    if digits < 1:
        raise op.error(f"bad 'pixel_digits' of layer '{op.label}'", expected="1 or more", found=digits)
    length = prod(shape[-2:]) * digits
    for before, cut in pairwise((0, *cuts)):
        if not before < cut < length:
            expected = f"ascending numbers from 1 to {length - 1}"
            raise op.error(f"bad cut between copies of layer '{op.label}'", expected=expected, found=cut)
    return shares(shape, copies, cuts, digits)


def shares(shape: tuple[int, ...], copies: int, cuts: Sequence[int] = (), digits: int = 1) -> list[Share]:
    """The pixels and digits of each copy.

    The last two axes, rows and columns, are shared out. Leading axes stay whole.

    Args:
        shape: extents of the pixels' axes; () is one pixel.
        copies: how many; without cuts at most the pixels of the last two axes.
        cuts: ascending positions in the stretch of (pixel, digit) pairs, one less than copies; none: case 1.
        digits: of a pixel, where there are cuts.
    """
    if copies == 1:
        return [[Piece(Box((0,) * len(shape), shape, (1,) * len(shape)))]]
    pixels = prod(shape[-2:])
    if not cuts:
        if len(shape) == 1:
            return [[Piece(Box((i,), (-(-(shape[0] - i) // copies),), (copies,)))] for i in range(copies)]
        ends = [pixels * i // copies for i in range(copies + 1)]
        return [[Piece(box) for box in _boxes(shape, at, end)] for at, end in pairwise(ends)]
    ends = [0, *cuts, pixels * digits]
    return [_share(shape, at, end, digits) for at, end in pairwise(ends)]


def _share(shape: tuple[int, ...], start: int, stop: int, digits: int) -> Share:
    """Pairs start .. stop - 1 of the stretch: the rest of a pixel, whole ones, the beginning of one."""
    (pixel, first), (last, over) = divmod(start, digits), divmod(stop, digits)
    share = []
    if first:
        end = over if pixel == last else None
        share.append(Piece(_boxes(shape, pixel, pixel + 1)[0], first, end))
        pixel += 1
    share += [Piece(box) for box in _boxes(shape, pixel, last)]
    if over and pixel <= last:
        share.append(Piece(_boxes(shape, last, last + 1)[0], 0, over))
    return share


def _boxes(shape: tuple[int, ...], at: int, end: int) -> list[Box]:
    """Pixels at .. end - 1, column by column, in up to three boxes."""
    if len(shape) < 2:
        return [Box((at,), (end - at,), (1,)) if shape else Box((), (), ())] if at < end else []
    *outer, rows, _ = shape
    lead = (0,) * len(outer)
    boxes = []
    while at < end:
        column, row = divmod(at, rows)
        whole = (end - at) // rows if row == 0 else 0
        height, width = (rows, whole) if whole else (min(rows - row, end - at), 1)
        boxes.append(Box((*lead, row, column), (*outer, height, width), (1,) * len(shape)))
        at += height * width
    return boxes


def row_by_row(boxes: Sequence[Box]) -> tuple[tuple[int, ...], list[tuple[int, ...]]]:
    """Where a copy's pixels lie in an array of their own, such that rows follow one another as they do in the layer.

    Sums travel in the order of the array; with the boxes one after the other, the first rows of one would wait for the
    last rows of another. The columns of a box keep their distances; the boxes of the last column, if they end above the
    rows in which the first box begins, take the first one's column.

    Args:
        boxes: of a share, in its order.

    Returns:
        (shape of the array, first element of each box in it).
    """
    if len(boxes[0].shape) < 2:  # one box, or neighbours on the only axis
        shape = tuple(map(sum, zip(*(box.shape for box in boxes), strict=True)))
        return shape, [tuple(a - b for a, b in zip(box.first, boxes[0].first, strict=True)) for box in boxes]
    *outer, _, _ = boxes[0].shape
    top, left = (min(box.first[axis] for box in boxes) for axis in (-2, -1))
    starts = [[*(0,) * len(outer), box.first[-2] - top, box.first[-1] - left] for box in boxes]
    last = [i for i, box in enumerate(boxes) if box.first[-1] == boxes[-1].first[-1] and box.shape[-1] == 1]
    if last and max(boxes[i].first[-2] + boxes[i].shape[-2] for i in last) <= boxes[0].first[-2]:
        for i in last:
            starts[i][-1] = 0
    height = max(start[-2] + box.shape[-2] for start, box in zip(starts, boxes, strict=True))
    width = max(start[-1] + box.shape[-1] for start, box in zip(starts, boxes, strict=True))
    return (*outer, height, width), [tuple(start) for start in starts]
