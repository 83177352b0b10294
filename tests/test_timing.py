"""Timing, energy and occupancy: the event-driven model against a brute-force one, and figures that papers state."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from brute_timing import Brute
from hypothesis import given, settings
from hypothesis import strategies as st
from isa_programs import TARGET, demo

from graphs import GraphMaker
from programs import lower
from smec import targets
from smec.ir.core import Value
from smec.ir.dialects import quant
from smec.ir.errors import SmecError
from smec.ir.isa_table import INSTRUCTIONS
from smec.runtime.container import Program
from smec.runtime.timing import TimingReport, time_program
from smec.runtime.timing.energy import MOVES, VECTOR_UNITS
from smec.runtime.timing.machine import Machine
from smec.runtime.timing.network import route

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
    copies = f"replicate{{crossbars={int(rng.integers(200, 400))}}}," if rng.random() < 0.3 else ""
    pipeline = MAPPING.replace("assign-cores", f"{copies}assign-cores")
    return lower(g.finish(g.dequantize(x)), pipeline, act_bits=g.act_bits, **target)


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


def test_host_regions_agree_with_brute_force() -> None:
    check(host_program(), 2)


def host_program() -> Program:
    """The hand-written program with a pool, a message and a host region, on the small machine."""
    program = demo()
    program.metadata["target"] = machine(**TARGET)
    program.metadata["host"][0]["flops"] = 1000
    return program


def test_every_instruction_has_its_energy() -> None:
    known = {"mvm", "host", "halt", *VECTOR_UNITS, *MOVES}
    assert known == {instruction.mnemonic for instruction in INSTRUCTIONS}


# -- ISAAC's pipeline


def isaac_layer(images: int = 1, **changes: Any) -> TimingReport:
    """One layer of 64 inputs and 8 outputs with 16-bit activations on the preset `isaac`."""
    g = GraphMaker(np.random.default_rng(0), 16)
    y = g.gemm(g.quantize(g.input("x", (1, 64))), 8)
    # ISAAC drives all rows at once; it stores columns inverted where that keeps its 8 bits from saturating.
    pipeline = MAPPING.replace("group-rows", "group-rows{rows=128}")
    target = {**targets.load("isaac").model_dump(), **changes}
    return time_program(lower(g.finish(g.dequantize(y)), pipeline, act_bits=16, **target), images)


def test_22_cycle_pipeline_of_isaac(tmp_path: Path) -> None:
    isaac_layer().write_trace(tmp_path / "trace.json")
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    pid = next(e["pid"] for e in events if e["ph"] == "M" and e["args"].get("name") == "pipeline of layer1")
    stages = [e for e in events if e["ph"] == "X" and e["pid"] == pid]
    begin = min(e["ts"] for e in stages)
    # Figure 4 of the paper: cycles 1 to 22, of 100 ns each (ts and dur are microseconds)
    cycles = {e["name"]: (round(e["ts"] / 0.1 - begin / 0.1) + 1, round(e["dur"] / 0.1)) for e in stages}
    reads = {f"read {n}": (n + 1, 1) for n in range(1, 17)}
    assert cycles == reads | {
        "buffer read": (1, 1),
        "crossbar reads": (2, 16),
        "ADC": (3, 16),
        "shift-and-add": (4, 16),
        "output register": (20, 1),
        "vector unit": (21, 1),
        "buffer write": (22, 1),
    }
    assert max(e["ts"] + e["dur"] for e in stages) - begin == pytest.approx(2.2)


def test_slow_or_shared_converters_stretch_the_reads() -> None:
    isaac = targets.load("isaac").model_dump()
    halved = isaac_layer(adc={**isaac["adc"], "rate_gs_per_s": 0.04})
    fast = isaac_layer()
    duration = [sum(sum(t.durations) for t in r.graph.tasks if t.mnemonic == "mvm") for r in (fast, halved)]
    tiles = fast.graph.tiles
    per_read = -(-int(tiles.conversions[0]) // (16 * len(tiles.banks[0])))
    assert duration == [1_600_000_000, 16 * per_read * 25_000_000]
    # two crossbars that share one converter of twice the rate take as long as before
    shared = isaac_layer(adc={**isaac["adc"], "rate_gs_per_s": 2.56, "crossbars": 2})
    assert shared.latency_ns == fast.latency_ns


# -- reads of blocks side by side


def test_blocks_side_by_side_share_their_reads() -> None:
    g = GraphMaker(np.random.default_rng(0))
    module = g.finish(g.dequantize(g.gemm(g.quantize(g.input("x", (1, 32))), 4)))
    for beside, arrays in (("true", 1), ("false", 16)):
        pipeline = MAPPING.replace("assign-cores", f"assign-cores{{beside={beside}}}")
        tiles = time_program(lower(module.clone(), pipeline)).graph.tiles
        assert tiles.reads.tolist() == [8]
        assert len(tiles.arrays[0]) == arrays
        assert tiles.conversions.tolist() == [8 * 16 * 4]
        # in crossbars of their own, blocks drive only the rows in which they have a one
        assert 8 * 32 <= tiles.drives[0] <= 8 * 32 * arrays


def test_blocks_with_other_groups_are_read_one_after_the_other() -> None:
    g = GraphMaker(np.random.default_rng(0))
    module = g.finish(g.dequantize(g.gemm(g.quantize(g.input("x", (1, 32))), 4)))
    program = lower(module, MAPPING, **machine(rows=32, columns=64, adc_bits=8, concurrent_rows=32))
    group = program.sections["xbar_group"].copy()
    group[0][group[0] >= 0] = np.arange((group[0] >= 0).sum()) % 2  # block 0: two groups instead of one
    changed = program.replace_section("xbar_group", group)
    changed.validate()
    tiles = time_program(changed).graph.tiles
    assert tiles.reads.tolist() == [8 + 16]
    check(changed, 1)


# -- throughput


def test_images_back_to_back_reach_the_bound() -> None:
    g = GraphMaker(np.random.default_rng(5))
    x = g.quantize(g.input("x", (1, 3, 12, 12)))
    y = g.conv(g.conv(x, 16), 8, strides=(2, 2))
    program = lower(g.finish(g.dequantize(y)), MAPPING)
    report = time_program(program, images=6)
    assert report.bottleneck.kind == "crossbar" and report.bottleneck.layer == "layer1"
    # 144 pixels x 8 input bits x 100 ns
    assert report.interval == 144 * 8 * 100_000_000
    assert np.diff(report.schedule.end).tolist() == [report.interval] * 5
    assert report.throughput_images_per_s == pytest.approx(1e9 / (144 * 800))
    # the second layer begins with the first rows of the first: latency is far below the sum of the two
    busy = [sum(t.durations) for t in report.graph.tasks if t.mnemonic == "mvm"]
    assert report.interval < report.schedule.end[0] < 1.2 * report.interval < sum(busy)


def test_a_tile_at_work_draws_its_published_power() -> None:
    """Energies are powers over rates: full reads of eight crossbars draw what the table says of an IMA."""
    isaac = targets.load("isaac")
    energy = Machine.from_target(isaac.model_dump()).energy
    per_read = (
        128 * 128 * energy["crossbar"]
        + 128 * (energy["dac"] + energy["input_register"])
        + 128 * (energy["sample_hold"] + energy["adc"] + energy["shift_add"] + energy["output_register"])
    )
    assert 8 * per_read / isaac.read_cycle_ns == pytest.approx(isaac.figures()["ima_power_mw"], rel=1e-6)


def test_leakage_is_charged_for_the_interval() -> None:
    g = GraphMaker(np.random.default_rng(5))
    module = g.finish(g.dequantize(g.gemm(g.quantize(g.input("x", (1, 16))), 4)))
    report = time_program(lower(module, MAPPING, **targets.load("puma").model_dump()))
    leak = report.graph.machine.leakage_mw
    assert leak["adc"] == pytest.approx(128 * 0.2)
    assert sum(report.bill.leakage.values()) == pytest.approx(sum(leak.values()) * report.interval / 1e6)
    assert report.energy_pj > sum(report.bill.leakage.values()) > 0


# -- network


def test_routes_go_along_x_then_y() -> None:
    m = Machine.from_target(targets.load("isaac").model_dump())
    assert m.grid == 7
    same = route(m, 0, 3)
    assert (same.mesh, same.routers, same.chips) == ((), 1, ())
    far = route(m, 4, 4 * 16)  # router 1 = (1, 0) to router 16 = (2, 2)
    assert [(a, b) for _, a, b in far.mesh] == [(1, 2), (2, 9), (9, 16)]
    assert far.routers == 4
    back = route(m, 4 * 16, 4)
    assert [(a, b) for _, a, b in back.mesh] == [(16, 15), (15, 8), (8, 1)]
    out = route(m, 4, 168 + 4)  # to the next chip: over both corners
    assert [(c, a, b) for c, a, b in out.mesh] == [(0, 1, 0), (1, 0, 1)]
    assert (out.chips, out.routers) == ((0, 1), 4)


# -- reports


def test_document_is_json_and_adds_up() -> None:
    report = time_program(random_program(11))
    document = json.loads(json.dumps(report.as_document(), allow_nan=False))
    assert document["latency_ns"] * 1e6 == pytest.approx(report.schedule.end[0])
    assert document["energy_pj"] == pytest.approx(sum(document["energy_by_component_pj"].values()))
    layers = document["timing_layers"]
    assert layers[-1]["name"] is None
    assert sum(layer["energy_pj"] for layer in layers) == pytest.approx(document["energy_pj"])
    assert document["area_mm2"] == pytest.approx(sum(document["area_by_component_mm2"].values()))
    assert sum(layer["area_mm2"] for layer in layers) == pytest.approx(document["area_mm2"])
    assert sum(layer["crossbars"] for layer in layers) == pytest.approx(len(report.graph.program.sections["cells"]))
    assert max(layer["interval_ns"] for layer in layers) <= document["interval_ns"]
    for shares in document["utilisation"].values():
        assert all(0 <= share <= 1 for share in shares.values())
    assert document["power_w"] == pytest.approx(document["energy_pj"] / document["interval_ns"] / 1e3)


def test_targets_without_parts_are_diagnosed() -> None:
    program = demo()
    with pytest.raises(SmecError, match="has no table 'stages', which timing needs"):
        time_program(program)
    program.metadata["target"] = machine(**TARGET, adc={"rate_gs_per_s": "fast"})
    with pytest.raises(SmecError, match=r"bad value of 'adc\.rate_gs_per_s'"):
        time_program(program)


# -- timeline


@pytest.mark.parametrize("seed", [1, 7])
def test_trace_follows_the_schema(seed: int, tmp_path: Path) -> None:
    report = time_program(random_program(seed), images=2)
    report.write_trace(tmp_path / "trace.json")
    document = json.loads((tmp_path / "trace.json").read_text("utf-8"))
    assert document["displayTimeUnit"] == "ns"
    slices: dict[tuple[int, int], list[tuple[float, float]]] = {}
    names: dict[tuple[str, int, int], str] = {}
    for event in document["traceEvents"]:
        assert {"name", "ph", "pid", "tid", "args"} <= event.keys()
        assert isinstance(event["name"], str) and event["name"]
        assert all(type(event[key]) is int and event[key] >= 0 for key in ("pid", "tid"))
        if event["ph"] == "M":
            assert event["name"] in ("process_name", "process_sort_index", "thread_name")
            key = event["name"], event["pid"], event["tid"]
            assert key not in names
            names[key] = str(event["args"])
            continue
        assert event["ph"] == "X"
        assert all(isinstance(event[key], (int, float)) and math.isfinite(event[key]) for key in ("ts", "dur"))
        assert event["ts"] >= 0 and event["dur"] > 0
        slices.setdefault((event["pid"], event["tid"]), []).append((event["ts"], event["ts"] + event["dur"]))
    for (pid, tid), spans in slices.items():
        assert ("process_name", pid, 0) in names and ("thread_name", pid, tid) in names
        # on one track slices nest or follow one another
        open_ends: list[float] = []
        for start, end in sorted(spans, key=lambda span: (span[0], -span[1])):
            while open_ends and open_ends[-1] <= start + 1e-9:
                open_ends.pop()
            assert not open_ends or end <= open_ends[-1] + 1e-9
            open_ends.append(end)
    chunks = sum(len(starts) for starts in report.schedule.starts)
    assert chunks == sum("image" in e["args"] for e in document["traceEvents"])


def test_trace_that_cannot_be_written_is_diagnosed(tmp_path: Path) -> None:
    with pytest.raises(SmecError, match="cannot write the trace"):
        isaac_layer().write_trace(tmp_path / "no" / "trace.json")
