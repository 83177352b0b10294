"""Compiled loops and how they are run on several cores.

Kernels release the interpreter lock and take a range [start, stop) of independent items, so that plain threads share
the work. Numba's own `parallel=True` is not used: it compiles several times longer, and its fallback threading layer
aborts the process when two Python threads enter it at once.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar, cast

import numba
import numpy as np

Function = TypeVar("Function", bound=Callable[..., Any])

#: Conversions inside kernels, where the width of an integer matters; to a type checker all of them make an `int`.
I16 = cast("Callable[[Any], int]", np.int16)
I32 = cast("Callable[[Any], int]", np.int32)
I64 = cast("Callable[[Any], int]", np.int64)
U8 = cast("Callable[[Any], int]", np.uint8)
U16 = cast("Callable[[Any], int]", np.uint16)
U64 = cast("Callable[[Any], int]", np.uint64)


def compiled(function: Function) -> Function:
    """Compile with numba on first call; the result is cached beside the source file."""
    return cast("Function", numba.njit(nogil=True, cache=True)(function))


def in_chunks(count: int, work: Callable[[int, int], None], least: int = 8) -> None:
    """Call `work(start, stop)` for ranges that cover 0..count-1, of at least `least` items, on all cores.

    Each item must be independent of the others: ranges depend on the number of cores, results must not.
    """
    workers = max(1, int(getattr(numba.config, "NUMBA_NUM_THREADS", 1)))
    size = max(least, -(-count // (4 * workers)))
    if workers == 1 or count <= size:
        if count:
            work(0, count)
        return
    starts = range(0, count, size)
    with ThreadPoolExecutor(workers) as pool:
        for _ in pool.map(lambda start: work(start, min(start + size, count)), starts):
            pass
