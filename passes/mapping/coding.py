"""How integers become cells: the ranges of stored integers and the planes of each sign scheme (DESIGN 2).

A stored integer ("code") is the signed magnitude (`differential`, `polarized`), the integer itself
(`twos-complement`), or the integer plus 2^(N-1) (`offset`). With `polarized` cells hold the magnitude alone, and the
splice applies the sign (`smec.passes.mapping.polarity`).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

#: Sign schemes that the mapping passes implement.
SIGNS = ("differential", "offset", "polarized", "twos-complement")

#: Those whose integers are plus or minus a magnitude of N bits.
SIGNED_MAGNITUDES = ("differential", "polarized")


def code_range(sign: str, width: int) -> tuple[int, int]:
    """Least and largest code of `width` bits.

    >>> code_range("differential", 8), code_range("twos-complement", 8), code_range("offset", 8)
    ((-255, 255), (-128, 127), (0, 255))
    """
    if sign in SIGNED_MAGNITUDES:
        return -(2**width - 1), 2**width - 1
    if sign == "offset":
        return 0, 2**width - 1
    return -(2 ** (width - 1)), 2 ** (width - 1) - 1


def weight_range(sign: str, bits: int) -> tuple[int, int]:
    """Least and largest integer weight of N = `bits`.

    >>> weight_range("offset", 8)
    (-128, 127)
    """
    return code_range(sign if sign in SIGNED_MAGNITUDES else "twos-complement", bits)


def largest_bits(sign: str) -> int:
    """The largest N whose integers fit the int16 arrays that hold them."""
    return 15 if sign in SIGNED_MAGNITUDES else 16


def shift_choices(depth: int, bits: int, cell_bits: int) -> list[int]:
    """The row shifts that squeeze-out chooses from: multiples of c, the largest at most N - 1 (DESIGN 2)."""
    largest = (-(-depth // cell_bits) + 1) * cell_bits
    return sorted({min(k, bits - 1) for k in range(0, largest + 1, cell_bits)})


class Plane(NamedTuple):
    """One crossbar of a tile: cells hold bits `first` .. `first + width - 1` of the positive or negative part.

    side: 0 for the positive part (or the code as an unsigned number), 1 for the negative part.
    weight: splice multiplier of the cell values.
    """

    side: int
    first: int
    width: int
    weight: int


def planes(sign: str, width: int, cell_bits: int) -> list[Plane]:
    """The crossbars of a tile whose codes have `width` bits (N - x), lowest digit first.

    * differential: ceil(width / c) planes, each a positive crossbar and a negative one.
    * offset: ceil(width / c) planes of the unsigned code.
    * polarized: ceil(width / c) planes of the magnitude.
    * twos-complement: the lower width - 1 bits in ceil((width - 1) / c) planes, and the sign bit in a plane of one-bit
      cells that is spliced with -2^(width - 1). For c = 1 that is one plane a bit.
    """
    if sign == "twos-complement":
        low = [Plane(0, b, min(cell_bits, width - 1 - b), 1 << b) for b in range(0, width - 1, cell_bits)]
        return [*low, Plane(0, width - 1, 1, -(1 << (width - 1)))]
    digits = [(b, min(cell_bits, width - b)) for b in range(0, width, cell_bits)]
    if sign in ("offset", "polarized"):
        return [Plane(0, b, w, 1 << b) for b, w in digits]
    return [Plane(side, b, w, (-1 if side else 1) << b) for b, w in digits for side in (0, 1)]


def used_planes(masks: np.ndarray, table: list[Plane]) -> np.ndarray:
    """Which crossbars hold a non-zero cell.

    Args:
        masks: uint32 [...], the bitwise or of all codes: positive part in bits 0..15, negative part in bits 16..31.
        table: the planes.

    Returns:
        bool [..., P].
    """
    digit = np.array([((1 << p.width) - 1) << (16 * p.side + p.first) for p in table], np.uint32)
    used: np.ndarray = (masks[..., None] & digit) != 0
    return used
