"""Cycles of the instructions, as formulas of their operands: the docstring of each is what the documentation shows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from smec.ir.isa_sections import IntArray, Sizes

#: Operands by name, int64 [n] each, of n instructions.
Columns = Mapping[str, IntArray]
SizeOf = Callable[[Columns, Sizes], Any]


def length(c: Columns, _s: Sizes) -> IntArray:
    """Entries of a table of one number a channel."""
    return c["length"]


def vector(c: Columns, s: Sizes) -> IntArray:
    """ceil(elements / lanes)"""
    return -(-s.points[c["dst"]] // s.hardware.vector_lanes)


def pool(c: Columns, s: Sizes) -> IntArray:
    """ceil(elements * window / lanes)"""
    return -(-s.points[c["dst"]] * s.points[c["window"]] // s.hardware.vector_lanes)


def reads(c: Columns, s: Sizes) -> IntArray:
    """Pixels * max over the tile's crossbars of sum over row groups of reads made, of ceil((A + kmax - kmin) / d)"""
    return s.points[c["dst"]] * s.reads(c["tile"], c["first"], c["digits"])


def link(name: str) -> SizeOf:
    def cycles(c: Columns, s: Sizes) -> IntArray:
        return -(-s.points[c[name]] * s.item_bytes[c[name]] // s.hardware.link_bytes_per_cycle)

    cycles.__doc__ = "ceil(bytes / link width)"
    return cycles


def host_time(c: Columns, _s: Sizes) -> IntArray:
    """0: timed by the host's roofline"""
    return np.zeros(len(c["region"]), np.int64)


def one(_c: Columns, _s: Sizes) -> int:
    """1"""
    return 1
