"""The mesh between the cores of a chip, and the links between chips.

Routers stand in a square grid, each shared by some consecutive cores; messages go along x, then along y. A message to
another chip goes to its own chip's corner router, over the links, and on from the corner of the other chip.
"""

from __future__ import annotations

from dataclasses import dataclass

from smec.runtime.timing.machine import Machine

#: A directed link between neighbouring routers: (chip, from, to).
MeshLink = tuple[int, int, int]


@dataclass(frozen=True)
class Route:
    """The way of a message: mesh links, chips whose outside links it takes, and routers that it passes."""

    mesh: tuple[MeshLink, ...]
    chips: tuple[int, ...]
    routers: int


def route(machine: Machine, source: int, target: int) -> Route:
    """The way from one core to another."""
    first, last = machine.chip_of(source), machine.chip_of(target)
    start, end = (core % machine.cores_per_chip // machine.cores_per_router for core in (source, target))
    if first == last:
        mesh = _steps(machine, first, start, end)
        return Route(mesh, (), len(mesh) + 1)
    mesh = _steps(machine, first, start, 0) + _steps(machine, last, 0, end)
    return Route(mesh, (first, last), len(mesh) + 2)


def _steps(machine: Machine, chip: int, start: int, end: int) -> tuple[MeshLink, ...]:
    links = []
    at = start
    while at != end:
        dx, dy = end % machine.grid - at % machine.grid, end // machine.grid - at // machine.grid
        step = (1 if dx > 0 else -1) if dx else (machine.grid if dy > 0 else -machine.grid)
        links.append((chip, at, at + step))
        at += step
    return tuple(links)
