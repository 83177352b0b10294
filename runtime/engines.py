"""Chooses what computes each crossbar, and prepares it.

`exact`: everything by matrix products; refused where a read can be clipped. `adc`: everything digit by digit. `auto`:
the groups that are proven lossless by matrix products, the others digit by digit, which may mix within a crossbar;
equal to `adc` bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from smec.ir.errors import SmecError
from smec.runtime import engine_adc, engine_exact
from smec.runtime.container import Program
from smec.runtime.crossbars import Crossbars
from smec.runtime.threads import Workers
from smec.runtime.units import Part, TileUse, Unit

Engine = Literal["auto", "exact", "adc"]
ENGINES: tuple[Engine, ...] = ("auto", "exact", "adc")


def check_engine(engine: str) -> Engine:
    """The engine of this name; SmecError if there is none."""
    for known in ENGINES:
        if engine == known:
            return known
    raise SmecError("unknown engine", expected=", ".join(ENGINES), found=engine)


def prepare_units(
    units: Sequence[Unit], engine: Engine, program: Program, crossbars: Crossbars, workers: Workers
) -> None:
    """Prepare `parts[engine]` of each unit. SmecError names the layer that the engine `exact` cannot compute."""
    missing = [unit for unit in units if engine not in unit.parts]
    if missing:
        crossbars.clips  # noqa: B018  # proved once, before threads ask

    def task(start: int, stop: int) -> None:
        for unit in missing[start:stop]:
            unit.parts[engine] = _prepare(unit, engine, program, crossbars)

    workers.blocks(len(missing), 1, task)


def _prepare(unit: Unit, engine: Engine, program: Program, crossbars: Crossbars) -> list[Part]:
    if engine == "adc":
        return engine_adc.prepare(unit, crossbars, unit.tiles, lossless=True)
    lossy = [use for use in unit.tiles if _can_saturate(use, crossbars)]
    if engine == "exact" and lossy:
        raise _refusal(lossy, program, crossbars)
    clipped = set(lossy)
    safe = [use for use in unit.tiles if use not in clipped]
    # the offset of a tile with reads of both kinds is applied once, by the engine `adc`
    parts = engine_exact.prepare(unit, crossbars, safe, everything=not lossy)
    if lossy:
        parts += engine_adc.prepare(unit, crossbars, lossy, lossless=False)
    return parts


def _can_saturate(use: TileUse, crossbars: Crossbars) -> bool:
    tile = crossbars.tile(use.tile)
    return bool(crossbars.clips[tile.first : tile.first + tile.count].any())


def _refusal(lossy: list[TileUse], program: Program, crossbars: Crossbars) -> SmecError:
    tile = crossbars.tile(lossy[0].tile)
    layer = program.metadata["layers"][int(program.tile_layer[tile.index])]["name"]
    groups = sum(
        len(np.unique(crossbars.group[x, tile.rows][crossbars.kept(tile, x, False)]))
        for x in range(tile.first, tile.first + tile.count)
    )
    return SmecError(
        f"layer '{layer}': engine 'exact' cannot compute reads that the ADC may clip",
        location=program.path,
        expected=f"row groups whose currents stay within {crossbars.top}",
        found=f"{groups} that may exceed it in tile {tile.index}",
        hint="use engine 'adc' or 'auto'",
    )
