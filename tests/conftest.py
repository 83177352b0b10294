"""Settings of the whole test run. Property tests draw the same examples every time, except in the profile `dev`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
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


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--renew-goldens", action="store_true", help="write tests/golden/ anew instead of comparing with it"
    )


@pytest.fixture(scope="module")
def dumped(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    """A folder with the digits network after each pass, and the program's bytes."""
    from opt_cases import CALIB, MODEL

    import smec

    folder = tmp_path_factory.mktemp("dump")
    program = smec.compile(MODEL, calib=CALIB, squeeze=5, shift="fit", dump_ir=folder)
    return folder, program.to_bytes()


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A plug-in file of passes that misbehave; what it registers is forgotten afterwards."""
    from opt_cases import BROKEN

    from smec.passes import base

    monkeypatch.setattr(base.REGISTRY, "known", dict(base.PASSES))
    path = tmp_path / "broken.py"
    path.write_text(BROKEN)
    return path
