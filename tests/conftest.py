"""Settings of the whole test run. Property tests draw the same examples every time, except in the profile `dev`."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

# `ci` (the default): derandomized and without deadlines, so that a slow machine or an unlucky draw never fails a run.
# `dev`: random draws, more of them: `pytest --hypothesis-profile=dev`. `thorough`: ten thousand, for the parsers.
settings.register_profile(
    "ci", derandomize=True, deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("dev", deadline=None, max_examples=500)
settings.register_profile("thorough", deadline=None, max_examples=10_000, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("ci")

# pytest-xdist already uses every core: one thread a worker in the numeric libraries keeps workers from contending. Set
# before anything imports them; a value from outside wins.
if "PYTEST_XDIST_WORKER" in os.environ:
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ.setdefault(variable, "1")
