"""What the cores of a placed network send one another for an image, as `emit` will have it.

A layer's home is the core of its first tile. Every other core that has tiles of it is sent the part of the input that
they read (`smec.passes.mapping.regions`), and sends back the sums of the channels that they produce; the result stays
at home. Digital operations run where their (first) operand is, host regions and the graph's inputs at core 0. Borders
for padding are counted in parts only.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from smec.ir.core import Value
from smec.ir.dialects import arithmetic, quant
from smec.ir.dialects.builtin import GraphOp, HostOp
from smec.ir.dialects.xbar import MvmOp
from smec.ir.types import Quantized
from smec.passes.mapping.regions import Region, regions_read, tile_cores
from smec.passes.mapping.shares import row_by_row, shares_of

if TYPE_CHECKING:
    import networkx as nx

#: The core beside the host.
HOST_CORE = 0

#: Operations whose result is another view of their operand.
_VIEWS = (quant.Slice, quant.Transpose, quant.Reshape)


def core_traffic(graph: GraphOp, cores: list[np.ndarray]) -> nx.Graph:
    """Bytes of an image between each pair of cores: an undirected graph, weight `bytes`.

    Cores are logical, numbered in the order of their tiles. The host and the graph's inputs are the vertex "host": it
    will be core 0 whichever logical core is put there.

    Args:
        graph: sliced layers and digital operations.
        cores: for each crossbar layer, in order, int [n X]: the core of every crossbar, copy after copy.
    """
    import networkx as nx

    traffic = nx.Graph()
    traffic.add_node("host")
    for some in cores:
        traffic.add_nodes_from(np.unique(some).tolist())
    for source, target, size in _messages(graph, cores):
        if source != target:
            known = traffic.get_edge_data(source, target, {"bytes": 0})["bytes"]
            traffic.add_edge(source, target, bytes=known + size)
    return traffic


def _messages(graph: GraphOp, cores: list[np.ndarray]) -> Iterator[tuple[int | str, int | str, int]]:
    """(from, to, bytes) of every message."""
    home: dict[Value, int | str] = dict.fromkeys(graph.block.args, "host")
    root: dict[Value, Value] = {}  # the value whose buffer a view shows
    sent: set[tuple[Value, int | str]] = set()
    parts: dict[tuple[Value, int], list[Region]] = {}
    layers = iter(cores)

    def read_on(value: Value, core: int | str) -> Iterator[tuple[int | str, int | str, int]]:
        whole = root.get(value, value)
        if home[whole] != core and (whole, core) not in sent:
            sent.add((whole, core))
            yield home[whole], core, _bytes(whole)

    def inputs_of(op: MvmOp, own: np.ndarray) -> Iterator[tuple[int | str, int | str, int]]:
        whole = root.get(op.x, op.x)
        for by_core in regions_read(op, tile_cores(op, own), shares_of(op)):
            for core, region in by_core.items():
                known = parts.setdefault((op.x, core), [])
                if region is None:
                    yield from read_on(op.x, core)
                elif home[whole] != core and (whole, core) not in sent and not any(r.holds(region) for r in known):
                    known.append(region)
                    yield home[whole], core, region.size * _item_bytes(op.x)

    for op in graph.ops:
        if isinstance(op, MvmOp):
            own = next(layers)
            here: int | str = int(own[0]) if len(own) else home[root.get(op.x, op.x)]
            yield from inputs_of(op, own)
            yield from _sums(op, own, here)
        elif isinstance(op, HostOp):
            here = "host"
            for value in op.operands:
                yield from read_on(value, here)
        else:
            first = root.get(op.operands[0], op.operands[0])
            here = home[first]
            if isinstance(op, _VIEWS):
                root.update((result, first) for result in op.results)
            for value in op.operands[1:]:
                yield from read_on(value, here)
        home.update((result, here) for result in op.results)
    for value in graph.terminator.operands:
        yield from read_on(value, home[root.get(value, value)])


def _sums(op: MvmOp, cores: np.ndarray, home: int | str) -> Iterator[tuple[int | str, int | str, int]]:
    """Sums that the cores of a layer send to its home."""
    q = op.x.type.quantized
    wide = arithmetic.accumulator_bound(op.integers().reshape(op.weight.shape[0], -1), q) >= 2**31
    cols = op.cols.array[op.xbar_tile.array]
    shares = shares_of(op)
    for copy, mine in enumerate(cores.reshape(op.copies, -1)):
        for core in np.unique(mine).tolist():
            if core != home:
                used = cols[mine == core]
                used = used[used >= 0]
                shape, _ = row_by_row([piece.box for piece in shares[copy]])
                channels = int(used.max() - used.min()) + 1
                yield core, home, int(np.prod(shape, dtype=np.int64)) * channels * (8 if wide else 4)


def _bytes(value: Value) -> int:
    """Size of a value."""
    return int(np.prod(value.type.shape, dtype=np.int64)) * _item_bytes(value)


def _item_bytes(value: Value) -> int:
    element = value.type.element
    return (1 if element.bits <= 8 else 2) if isinstance(element, Quantized) else np.dtype(value.type.dtype).itemsize
