"""Linear algebra whose results do not depend on how many processors there are.

A library that shares a matrix product among its threads adds terms up in another order for another number of threads:
last bits differ, and integers that are rounded from them may. So libraries are held to one thread, and a large product
is cut into parts by its shape alone, which threads of ours compute.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

_LOCK = threading.Lock()
_held = 0
_limits = ExitStack()


@contextmanager
def single_threaded_blas() -> Iterator[None]:
    """Hold the process's linear algebra libraries to one thread each; may be nested, and entered by several threads.

    Libraries that are loaded meanwhile are not held.
    """
    from threadpoolctl import threadpool_limits

    global _held
    with _LOCK:
        if not _held:
            _limits.enter_context(threadpool_limits(1, user_api="blas"))
        _held += 1
    try:
        yield
    finally:
        with _LOCK:
            _held -= 1
            if not _held:
                _limits.close()
