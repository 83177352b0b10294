"""Timing, energy and occupancy: the event-driven model against a brute-force one, and figures that papers state."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from brute_timing import Brute
from hypothesis import given, settings
from hypothesis import strategies as st

from graphs import GraphMaker
from programs import lower
from smec import targets
from smec.ir.core import Value
from smec.ir.dialects import quant
from smec.runtime.container import Program
from smec.runtime.timing import time_program

MAPPING = "tile,slice-bits,group-rows,assign-cores,emit"


def machine(**changes: Any) -> dict[str, Any]:
    """A small machine whose times are all multiples of half a nanosecond; tables are merged into the default ones."""
    base = targets.load("sme").model_dump()
    small: dict[str, Any] = {
        "rows": 16, "columns": 16, "concurrent_rows": 16, "adc_bits": 4, "crossbars_per_core": 16, "vector_lanes": 4,
        "link_bytes_per_cycle": 4, "clock_ghz": 1.0, "read_cycle_ns": 3.0,
        "adc": {"rate_gs_per_s": 8.0, "bits": 4}, "buffer": {"bytes_per_ns": 2.0},
        "router": {"cores": 1, "hop_ns": 1.0}, "chip": {"cores": 4}, "links": {"count": 1, "gb_per_s": 2.0},
        "host": {"gflop_per_s": 2.0, "launch_us": 0.01},
        "stages": {"buffer_read_ns": 2.0, "adc_ns": 3.0, "shift_add_ns": 1.0, "output_ns": 1.0, "vector_ns": 2.0,
                   "buffer_write_ns": 1.0},
    }  # fmt: skip
    for values in (small, changes):
        for key, value in values.items():
            base[key] = {**base[key], **value} if isinstance(value, dict) else value
    return base


def grow(seed: int) -> tuple[GraphMaker, Value]:
    """A random graph of a few operations."""
    rng = np.random.default_rng(seed)
    g = GraphMaker(rng, int(rng.choice([2, 4, 8])))
    size = int(rng.integers(3, 7))
    x = g.quantize(g.input("x", (1, int(rng.integers(1, 4)), size, size)))
    for _ in range(int(rng.integers(1, 5))):
        height = x.type.shape[2]
        kind = rng.choice(["conv", "conv", "point", "stride", "depthwise", "add", "pool", "average", "lut", "concat"])
        if kind == "conv":
            x = g.conv(x, int(rng.integers(1, 12)))
        elif kind == "point":
            x = g.conv(x, int(rng.integers(1, 20)), (1, 1), pads=(0, 0, 0, 0))
        elif kind == "stride" and height > 2:
            x = g.conv(x, int(rng.integers(1, 6)), strides=(2, 2))
        elif kind == "depthwise":
            x = g.conv(x, x.type.shape[1], groups=x.type.shape[1])
        elif kind == "add":
            x = g.binary(quant.Add, x, g.conv(x, x.type.shape[1], (1, 1), pads=(0, 0, 0, 0)))
        elif kind == "pool" and height > 1:
            x = g.pool(quant.MaxPool, x, (2, 2), (1, 1))
        elif kind == "average" and height > 1:
            x = g.pool(quant.AvgPool, x, (2, 2), (2, 2))
        elif kind == "lut":
            x = g.lut(x)
        elif kind == "concat":
            x = g.concat([x, g.conv(x, 2)], 1)
    return g, x


def random_program(seed: int) -> Program:
    """A random graph on a random small machine."""
    g, x = grow(seed)
    rng = np.random.default_rng(seed + 1)
    flat = int(np.prod(x.type.shape[1:]))
    if rng.random() < 0.5 and flat <= 200:
        x = g.gemm(g.view(quant.Reshape, x, (1, flat)), int(rng.integers(1, 12)))
    target = machine(
        rows=int(rng.choice([8, 16])),
        adc={"crossbars": int(rng.choice([1, 2, 4])), "per_bank": int(rng.choice([1, 2]))},
        buffer={"bytes_per_ns": float(rng.choice([0.5, 4.0]))},
        crossbars_per_core=int(rng.choice([16, 32])),
        router={"cores": int(rng.choice([1, 2]))},
        chip={"cores": int(rng.choice([2, 6]))},
    )
    return lower(g.finish(g.dequantize(x)), MAPPING, act_bits=g.act_bits, **target)


def check(program: Program, images: int) -> None:
    report = time_program(program, images)
    brute = Brute(program)
    assert report.schedule.end == brute.run(images)
    assert report.schedule.starts == [job.starts for job in brute.copies]
    assert report.schedule.done == [job.done for job in brute.copies]
    counts: dict[str, int] = {}
    for (component, _), number in report.counts.items():
        counts[component] = counts.get(component, 0) + number
    assert counts == {name: number for name, number in brute.events.items() if number}
    energies = report.graph.machine.energy
    assert report.energy_pj == pytest.approx(sum(energies[name] * n for name, n in brute.events.items()), rel=1e-12)


@settings(max_examples=25)
@given(st.integers(0, 10**6), st.integers(1, 2))
def test_agrees_with_brute_force(seed: int, images: int) -> None:
    check(random_program(seed), images)
