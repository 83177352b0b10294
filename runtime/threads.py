"""Spreads ranges of rows over threads.

The kernels and NumPy's matrix products release the interpreter lock, so plain threads do. Linear algebra libraries
are held to one thread each meanwhile (`smec.ir.linear_algebra`): their own threads would contend with ours.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from smec.runtime.arrays import Array


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Workers:
    """A pool of threads, each with scratch arrays of its own."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._pool = ThreadPoolExecutor(self.count, thread_name_prefix="smec") if self.count > 1 else None
        self._local = threading.local()
        #: For what threads write to together.
        self.lock = threading.Lock()

    def blocks(self, total: int, size: int, task: Callable[[int, int], None]) -> None:
        """Call task(start, stop) for consecutive ranges of at most `size` that cover 0 .. total - 1, in any order.

        The first exception that a call raises is raised here, after all threads have stopped.
        """
        if total <= 0:
            return
        # even shares: the last block should not keep one thread busy while the others wait
        pieces = -(-total // max(1, size))
        if self._pool is not None and pieces > 1:
            pieces = -(-pieces // self.count) * self.count
        size = -(-total // min(pieces, total))
        starts = range(0, total, size)
        if self._pool is None or len(starts) == 1:
            for start in starts:
                task(start, min(start + size, total))
            return
        counter = itertools.count()

        def work() -> None:
            # next() on a count is atomic under the interpreter lock
            while (i := next(counter)) < len(starts):
                task(starts[i], min(starts[i] + size, total))

        futures = [self._pool.submit(work) for _ in range(min(self.count, len(starts)))]
        errors = [error for future in futures if (error := future.exception()) is not None]
        if errors:
            raise errors[0]

    def scratch(self, name: str, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Array:
        """An uninitialised array of this thread; the next call with the same name reuses its memory."""
        arrays: dict[Any, Array] = self._local.__dict__
        size = int(np.prod(shape, dtype=np.int64))
        key = f"{name}/{np.dtype(dtype)}"
        held = arrays.get(key)
        if held is None or held.size < size:
            held = arrays[key] = np.empty(max(size, 1), dtype)
        return held[:size].reshape(shape)


@cache
def shared_workers(count: int) -> Workers:
    """The process's pool of so many threads; several runs may use it at a time."""
    return Workers(count)
