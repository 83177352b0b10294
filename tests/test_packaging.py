"""What the distribution declares agrees with what the checkout holds."""

from __future__ import annotations

import tomllib
from importlib.metadata import packages_distributions

import shared

PROJECT = tomllib.loads((shared.ROOT / "pyproject.toml").read_text())
FOLDERS: dict[str, str] = PROJECT["tool"]["setuptools"]["package-dir"]


def test_every_package_is_declared() -> None:
    found = set()
    for package, folder in FOLDERS.items():
        for init in (shared.ROOT / folder).rglob("__init__.py"):
            parts = init.parent.relative_to(shared.ROOT / folder).parts
            found.add(".".join((package, *parts)))
    assert sorted(PROJECT["tool"]["setuptools"]["packages"]) == sorted(found)


def test_every_folder_of_code_is_a_package() -> None:
    """A folder without `__init__.py` imports in a checkout, but is not in the wheel."""
    folders = {path.parent for folder in FOLDERS.values() for path in (shared.ROOT / folder).rglob("*.py")}
    assert [str(folder) for folder in sorted(folders) if not (folder / "__init__.py").exists()] == []


def test_only_smec_is_importable() -> None:
    """The checkout's folders `ir`, `passes` and `runtime` are no top-level packages of anyone's environment."""
    assert [name for name, owners in packages_distributions().items() if "smec" in owners and name[0] != "_"] == [
        "smec"
    ]


def test_constraints_meet_the_lower_bounds() -> None:
    pins = dict(line.split("==") for line in (shared.ROOT / "constraints.txt").read_text().split() if "==" in line)
    bounds = list(PROJECT["project"]["dependencies"])
    for extra in PROJECT["project"]["optional-dependencies"].values():
        bounds += extra
    for name, least in (bound.split(">=") for bound in bounds):
        assert tuple(map(int, pins[name].split("."))) >= tuple(map(int, least.split("."))), name
