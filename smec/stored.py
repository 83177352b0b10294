"""Do the crossbars of a program hold the weights of its layers? A check of the cells alone, without any input."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from smec.ir.isa_sections import tile_of_crossbar

if TYPE_CHECKING:
    from smec.ir.dialects.quant import WeightedOp
    from smec.runtime.container import Program
    from smec.runtime.crossbars import Tile


def stored_faults(program: Program, layers: Sequence[WeightedOp]) -> dict[str, str]:
    """What is wrong with the cells of each layer, in words; layers without a fault are left out.

    1. Each layer's crossbars, decoded through splice multipliers, signs and row shifts, hold its non-zero integer
       weights, each as often as the layer has it, in each of its copies. Where a weight sits is for the comparison on
       inputs to say. Of a layer with doubled rows, what its crossbars hold for an input is compared: the sum over its
       rows of tiles and their columns, since a weight may be spread over two tiles.
    2. A cell that no row group and no used column reads is 0.
    """
    faults: dict[str, str] = {}
    by_name = {op.label: op for op in layers}
    for index, layer in enumerate(program.metadata["layers"]):
        op = by_name.get(layer["name"])
        if op is None:
            faults[layer["name"]] = "the layer is not in the quantized network"
            continue
        tiles = np.flatnonzero(program.tile_layer == index)
        copies: Any = layer.get("copies", 1)
        if type(copies) is not int or copies < 1 or len(tiles) % copies:
            faults[layer["name"]] = f"{len(tiles)} tiles are not {copies!r} copies of the same tiles"
            continue
        for mine in tiles.reshape(copies, -1):
            if op.attributes.get("doubled") is None:
                wrong = _disagreement(op.integers(), _stored_weights(program, mine), "weight")
            else:
                sums = op.integers().sum(axis=0, dtype=np.int64)
                wrong = _disagreement(sums, _sums_of_inputs(program, mine), "sum of an input's weights")
            if wrong:
                faults[layer["name"]] = wrong
                break
    for name, words in _stray_cells(program).items():
        faults.setdefault(name, words)
    return faults


def _stored_weights(program: Program, tiles: np.ndarray) -> np.ndarray:
    """Every effective weight that these tiles hold, int64, flat, zeros included."""
    held = [(weights - tile.offset).reshape(-1) for tile, weights in _decoded(program, tiles)]
    return np.concatenate([np.zeros(0, np.int64), *held])


def _sums_of_inputs(program: Program, tiles: np.ndarray) -> np.ndarray:
    """For each input of a pixel that these tiles read, the sum of its effective weights, int64."""
    address, sums = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for tile, weights in _decoded(program, tiles):
        address.append(tile.row_from)
        sums.append((weights - tile.offset).sum(axis=1))
    known, at = np.unique(np.concatenate(address), return_inverse=True)
    out = np.zeros(len(known), np.int64)
    np.add.at(out, at, np.concatenate(sums))
    return out


def _decoded(program: Program, tiles: np.ndarray) -> Iterator[tuple[Tile, np.ndarray]]:
    """Tiles and what their crossbars hold, int64 [used rows, used columns]."""
    from smec.runtime.crossbars import Crossbars

    crossbars = Crossbars(program.sections, program.hardware, program.act_bits)
    for index in tiles.tolist():
        tile = crossbars.tile(index)
        held = np.zeros((len(tile.rows), len(tile.columns)), np.int64)
        crossbars.add_weights(tile, held, np.arange(len(tile.rows)), np.arange(len(tile.columns)), everything=True)
        yield tile, held


def _disagreement(expected: np.ndarray, found: np.ndarray, what: str) -> str:
    """Compare the non-zero values as multisets; `what` they are."""
    low = int(min(expected.min(initial=0), found.min(initial=0)))
    high = int(max(expected.max(initial=0), found.max(initial=0)))
    if high - low > 1 << 24:
        largest = max(int(expected.max(initial=0)), -int(expected.min(initial=0)))
        return f"crossbars hold the {what} {low if -low > high else high}, the layer's are up to {largest}"
    want, have = (
        np.bincount(a.reshape(-1).astype(np.int64) - low, minlength=high - low + 1) for a in (expected, found)
    )
    want[-low] = have[-low] = 0  # tiles are padded with zeros
    different = np.flatnonzero(want != have)
    if not different.size:
        return ""
    at = int(different[0])
    return f"crossbars hold the {what} {at + low} {have[at]} times, the layer has it {want[at]} times"


def _stray_cells(program: Program) -> dict[str, str]:
    """Layers whose physical crossbars hold something in cells that nothing reads."""
    s, hardware = program.sections, program.hardware
    cells, place = s["cells"], s["xbar_place"].astype(np.int64)
    read = np.zeros(cells.shape, np.uint8)
    tiles = tile_of_crossbar(s["tile_xbars"], len(place))
    for tile in range(len(s["tile_xbars"])):
        first, count = s["tile_xbars"][tile].tolist()
        columns = np.flatnonzero(s["tile_cols"][tile] >= 0)
        rows = np.flatnonzero(s["tile_rows"][tile] >= 0)
        for crossbar in range(first, first + count):
            _, _, row0, column0 = place[crossbar].tolist()
            driven = rows[s["xbar_group"][crossbar, rows] >= 0] + row0
            read[s["xbar_phys"][crossbar], driven] |= _column_mask(
                columns + column0, hardware.cell_bits, hardware.row_bytes
            )
    stray = (cells & ~read).any(axis=(1, 2))
    names = [layer["name"] for layer in program.metadata["layers"]]
    faults: dict[str, str] = {}
    for physical in np.flatnonzero(stray).tolist():
        tenants = np.flatnonzero(s["xbar_phys"] == physical)
        if not len(tenants):
            faults.setdefault(names[0], f"physical crossbar {physical} holds something and belongs to no layer")
            continue
        core, slot = place[tenants[0]].tolist()[:2]
        words = f"crossbar {slot} of core {core} holds something in a cell that is never read"
        faults.setdefault(names[int(program.tile_layer[tiles[tenants[0]]])], words)
    return faults


def _column_mask(columns: np.ndarray, cell_bits: int, row_bytes: int) -> np.ndarray:
    """uint8 [bytes of a row]: ones in the bits of these columns' cells."""
    bits = np.zeros(row_bytes * 8, np.uint8)
    for bit in range(cell_bits):
        bits[columns * cell_bits + bit] = 1
    return np.packbits(bits, bitorder="little")
