"""What is in a program: layers, crossbars, planes, row shifts, row groups, and what sits in which crossbar."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import numpy as np

from smec.ir.errors import SmecError
from smec.ir.isa_table import INSTRUCTIONS

if TYPE_CHECKING:
    from smec.runtime.container import Program


def inspect(program: Program, *, layer: str | None = None, crossbar_map: bool = False) -> dict[str, Any]:
    """Describe a program.

    Args:
        program: the program.
        layer: name of a layer to describe tile by tile, under the key `tile_list` of its entry.
        crossbar_map: list, under the key `map`, every physical crossbar and the blocks that share it.

    Returns:
        The document that `smec inspect --json` writes (schema "smec.inspect/1").

    Raises:
        SmecError: there is no such layer.
    """
    from smec.runtime.simulator import cycles  # it loads the engines

    meta = program.metadata
    names = [info["name"] for info in meta["layers"]]
    if layer is not None and layer not in names:
        close = get_close_matches(layer, names, n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(repr(n) for n in close)}?" if close else "`smec inspect` lists them"
        raise SmecError(f"the program has no layer '{layer}'", location=program.path, hint=hint)
    reads = cycles(program).read_per_layer
    mnemonics = {row.opcode: row.mnemonic for row in INSTRUCTIONS}
    opcodes, counts = np.unique(program.sections["code"][:, 0], return_counts=True)
    total_macs = meta["macs_crossbar"] + meta["macs_host"]
    document: dict[str, Any] = {
        "schema": "smec.inspect/1",
        "program": program.path,
        "smec_version": meta["smec_version"],
        "source": dict(meta["source"]),
        "target": dict(meta["target"]),
        "options": dict(meta["options"]),
        "act_bits": meta["act_bits"],
        **crossbar_figures(program),
        "macs_crossbar": meta["macs_crossbar"],
        "macs_host": meta["macs_host"],
        "crossbar_mac_share": meta["macs_crossbar"] / total_macs if total_macs else 0.0,
        "inputs": [_port(p) for p in meta["inputs"]],
        "outputs": [_port(p) for p in meta["outputs"]],
        "instructions": len(program.sections["code"]),
        "instructions_by_kind": {mnemonics[int(o)]: int(n) for o, n in zip(opcodes, counts, strict=True)},
        "sections": {name: int(array.nbytes) for name, array in sorted(program.sections.items())},
        "layers": [_layer(program, i, reads[name], detail=name == layer) for i, name in enumerate(names)],
        "host": [dict(region) for region in meta["host"]],
    }
    if crossbar_map:
        document["map"] = _map(program)
    return document


def crossbar_figures(program: Program) -> dict[str, int]:
    """Crossbar counts of a program, under the names that all documents use."""
    meta = program.metadata
    place = program.sections["xbar_place"]
    return {
        "crossbars": meta["crossbars"],
        "blocks": meta["blocks"],
        "crossbars_dense_16": meta["crossbars_dense_16"],
        "crossbars_dense_8": meta["crossbars_dense_8"],
        "cores": len(np.unique(place[:, 0])) if len(place) else 0,
    }


def total_cycles(program: Program) -> dict[str, int]:
    """Cycles of one image on the busiest core, by unit: crossbar "read" cycles and "clock" cycles of the target."""
    from smec.runtime.simulator import cycles

    per_core = cycles(program).per_core
    return {unit: max((core[i] for core in per_core), default=0) for i, unit in enumerate(("read", "clock"))}


def _port(port: Any) -> dict[str, Any]:
    return {key: port[key] for key in ("name", "shape", "dtype")}


def _tiles_of(program: Program, layer: int) -> range:
    info = program.metadata["layers"][layer]
    return range(info["tile_first"], info["tile_first"] + info["tiles"])


def _crossbars_of(program: Program, layer: int) -> np.ndarray:
    """Indices of a layer's crossbars, int64."""
    spans = program.sections["tile_xbars"][_tiles_of(program, layer)]
    return np.concatenate([np.zeros(0, np.int64), *(np.arange(first, first + n) for first, n in spans.tolist())])


def _layer(program: Program, layer: int, read_cycles: int, *, detail: bool) -> dict[str, Any]:
    s = program.sections
    tiles, crossbars = _tiles_of(program, layer), _crossbars_of(program, layer)
    used = s["tile_rows"][tiles] >= 0
    shifts, rows = np.unique(s["tile_shift"][tiles][used], return_counts=True)
    groups = s["xbar_group"][crossbars].max(axis=1, initial=-1).astype(np.int64) + 1
    entry: dict[str, Any] = dict(program.metadata["layers"][layer])
    entry |= {
        "row_shifts": {str(k): int(n) for k, n in zip(shifts, rows, strict=True)},
        "sign_rows": int(s["tile_sign"][tiles, 1].max(initial=0)),
        "row_groups": int(groups.sum()),
        "row_groups_max": int(groups.max(initial=0)),
        "cores": sorted({int(c) for c in s["xbar_place"][crossbars, 0]}),
        "read_cycles": read_cycles,
    }
    if detail:
        entry["tile_list"] = [_tile(program, tile) for tile in tiles]
    return entry


def _tile(program: Program, tile: int) -> dict[str, Any]:
    s = program.sections
    used = s["tile_rows"][tile] >= 0
    shifts = s["tile_shift"][tile][used]
    first, count = s["tile_xbars"][tile].tolist()
    return {
        "tile": tile,
        "rows": int(used.sum()),
        "columns": int((s["tile_cols"][tile] >= 0).sum()),
        "shift_min": int(shifts.min(initial=255)) if used.any() else 0,
        "shift_max": int(shifts.max(initial=0)),
        "blocks": [_crossbar(program, x) for x in range(first, first + count)],
    }


def _crossbar(program: Program, index: int) -> dict[str, Any]:
    s = program.sections
    core, slot, row0, column0 = (int(v) for v in s["xbar_place"][index])
    group = s["xbar_group"][index]
    return {
        "core": core,
        "slot": slot,
        "row": row0,
        "column": column0,
        "weight": int(s["xbar_weight"][index]),
        "rows_driven": int((group >= 0).sum()),
        "row_groups": int(group.max(initial=-1)) + 1,
    }


def _map(program: Program) -> list[dict[str, Any]]:
    """Physical crossbars in the order of core and slot, each with the blocks that it holds."""
    s = program.sections
    place = s["xbar_place"].astype(np.int64)
    spans = s["tile_xbars"]
    tile_of = np.repeat(np.arange(len(spans)), spans[:, 1])
    names = [info["name"] for info in program.metadata["layers"]]
    rows = (s["tile_rows"] >= 0).sum(axis=1)
    columns = (s["tile_cols"] >= 0).sum(axis=1)
    found: dict[tuple[int, int], list[dict[str, Any]]] = {}
    for x in np.lexsort((place[:, 3], place[:, 2], place[:, 1], place[:, 0])).tolist():
        core, slot, row0, column0 = place[x].tolist()
        tile = int(tile_of[x])
        block = {
            "layer": names[int(program.tile_layer[tile])],
            "tile": tile,
            "weight": int(s["xbar_weight"][x]),
            "row": row0,
            "column": column0,
            "rows": int(rows[tile]),
            "columns": int(columns[tile]),
        }
        found.setdefault((core, slot), []).append(block)
    return [{"core": core, "slot": slot, "blocks": blocks} for (core, slot), blocks in found.items()]
