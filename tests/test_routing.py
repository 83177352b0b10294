"""Placement on the core grid: routers as the timing model counts them, bounds, and the traffic of programs."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import networkx as nx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphs import GraphMaker, sample
from programs import lower
from smec import targets
from smec.ir.dialects.isa import by_instruction
from smec.ir.interpreter import interpret
from smec.passes.mapping.layers import crossbar_layers
from smec.passes.mapping.routing import Grid, arrange
from smec.passes.mapping.traffic import core_traffic
from smec.runtime.container import Program
from smec.runtime.simulator import Simulator
from smec.runtime.timing.machine import Machine
from smec.runtime.timing.network import route

PIPELINE = "tile,slice-bits,group-rows,{}assign-cores{},emit"


@pytest.mark.parametrize(("cores", "share"), [(168, 4), (10, 1), (7, 3)])
def test_routers_are_those_of_the_timing_model(cores: int, share: int) -> None:
    numbers = targets.load("sme").model_dump()
    numbers["chip"]["cores"], numbers["router"]["cores"] = cores, share
    machine, grid = Machine.from_target(numbers), Grid(cores, share)
    for a, b in itertools.product(range(0, 2 * cores, 3), repeat=2):
        assert grid.routers(a, b) == (route(machine, a, b).routers if a != b else 0)


@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(1, 7), st.integers(1, 2))
def test_arrangements_are_near_the_best(seed: int, cores: int, chip: int, share: int) -> None:
    """Against every arrangement that keeps each core on its chip."""
    random = np.random.default_rng(seed)
    traffic, grid = nx.Graph(), Grid(chip, share)
    traffic.add_nodes_from(["host", *range(cores)])
    for a, b in itertools.combinations(["host", *range(cores)], 2):
        if random.random() < 0.6:
            traffic.add_edge(a, b, bytes=int(random.integers(1, 100)))
    found = arrange(traffic, cores, grid)

    def cost(place: tuple[int, ...]) -> int:
        where = {"host": 0, **dict(enumerate(place))}
        return sum(size * grid.routers(where[a], where[b]) for a, b, size in traffic.edges(data="bytes"))

    possible = [p for p in itertools.permutations(range(cores)) if all(a // chip == b // chip for a, b in enumerate(p))]
    best = min(map(cost, possible))
    assert tuple(found.core.tolist()) in possible
    assert found.cost == cost(tuple(found.core.tolist()))
    assert found.before == cost(tuple(range(cores)))
    assert found.bound <= best <= found.cost <= found.before
    assert found.cost == best  # so many starts find it, where cores are this few
    assert np.array_equal(arrange(traffic, cores, grid).core, found.core)


def sent(program: Program) -> Counter[tuple[int, int]]:
    """Bytes that the program's instructions send between each pair of cores."""
    s = program.sections
    core_of = np.zeros(len(s["code"]), np.int64)
    for core, (first, count) in enumerate(s["core_table"].tolist()):
        core_of[first : first + count] = core
    found: Counter[tuple[int, int]] = Counter()
    for instruction, at, operands in by_instruction(s["code"]):
        if instruction.mnemonic == "send":
            for source, target, agu in zip(core_of[at], operands["dst_core"], operands["src"], strict=True):
                size = int(program.sizes.points[agu] * program.sizes.item_bytes[agu])
                found[min(source, target), max(source, target)] += size
    return found


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("copies", ["", "replicate{crossbars=260},"])
def test_traffic_is_what_the_program_sends(seed: int, copies: str) -> None:
    rng = np.random.default_rng(seed)
    g = GraphMaker(rng)
    flat = {"kernel": (1, 1), "pads": (0, 0, 0, 0)}
    x = g.quantize(g.input("x", (1, 20, 4, 3)))
    y = g.conv(x, int(rng.integers(10, 40)), **flat)
    z = g.conv(y, int(rng.integers(10, 40)), **flat)
    module = g.finish(g.dequantize(g.conv(z, 4, **flat)), g.dequantize(y))
    numbers: dict[str, Any] = {"rows": 16, "columns": 16, "crossbars_per_core": 16, "adc_bits": 6}
    numbers["chip"] = {"cores": int(rng.integers(3, 12))}
    plain_module, report = module.clone(), dict[str, Any]()
    plain = lower(plain_module, PIPELINE.format(copies, "{route=false}"), **numbers)
    program = lower(module.clone(), PIPELINE.format(copies, ""), report=report, **numbers)
    # in the order of the layers, logical cores are those of the program, and the host is core 0
    cores = [op.xbar_core.array for op in crossbar_layers(plain_module)]
    traffic = core_traffic(plain_module.graph, cores)
    expected: Counter[tuple[int, int]] = Counter()
    for a, b, size in traffic.edges(data="bytes"):
        first, second = (0 if end == "host" else end for end in (a, b))
        if first != second:
            expected[min(first, second), max(first, second)] += size
    assert sent(plain) == expected
    figures = report["assign-cores"]["network"]
    grid = Grid(numbers["chip"]["cores"], targets.load("sme").router.cores)
    assert sum(size * grid.routers(*ends) for ends, size in sent(program).items()) == figures["objective"]
    assert figures["bound"] <= figures["objective"] <= figures["in_layer_order"]
    inputs = sample(module, rng)
    for engine in ("exact", "adc"):
        outputs = Simulator(program).run(inputs, engine=engine).outputs
        for name, array in interpret(module, inputs).items():
            np.testing.assert_array_equal(outputs[name].reshape(array.shape), array)
