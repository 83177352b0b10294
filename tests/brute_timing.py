"""The timing model once more, small, obvious and slow: every address is listed, and time advances tick by tick.

Written from `docs/timing.md`, it shares nothing with `smec.runtime.timing` but the program and its target. A tick is
the greatest common divisor of all times, so pick targets with round numbers.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter, defaultdict, deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from smec.ir.isa_machine import Machine as Memory
from smec.ir.isa_sections import SPACE_ACC, agu_addresses
from smec.ir.isa_table import decode
from smec.runtime.container import Program

MOST = 128
SHARED = 1 << 20
FS = 1_000_000

READ, WRITE, ACCUMULATE = "read", "write", "accumulate"


@dataclass(eq=False)
class Job:
    """One instruction or port. touches: (buffer, mode, for each chunk the lowest and highest address)."""

    name: str
    core: int
    unit: str
    sizes: list[int] = field(default_factory=list)
    durations: list[int] = field(default_factory=list)
    latencies: list[int] = field(default_factory=list)
    lead: int = 0
    demands: dict[Any, int] = field(default_factory=dict)
    touches: list[tuple[int, str, list[tuple[int, int]]]] = field(default_factory=list)
    waits: list[set[tuple[int, int]]] = field(default_factory=list)
    issued: int = 0
    starts: list[int] = field(default_factory=list)
    done: list[int] = field(default_factory=list)


class Brute:
    """All jobs of one image; `run` gives the time at which each of `images` images is finished."""

    def __init__(self, program: Program) -> None:
        self.program, self.target, self.s = program, program.metadata["target"], program.sections
        self.memory = Memory(program, 0)
        self.capacity: dict[Any, int] = defaultdict(lambda: 1)
        self.events: Counter[str] = Counter()
        self.jobs: list[Job] = []
        self.t = {name: round(self.target["stages"][name + "_ns"] * FS) for name in
                  ("buffer_read", "adc", "shift_add", "output", "vector", "buffer_write")}  # fmt: skip
        self.clock = round(FS / self.target["clock_ghz"])
        self.fetched: set[Any] = set()
        self.order = self.in_order()
        self.pitch = self.pitches()
        issued: Counter[Any] = Counter()
        for core, at, step in [("in", p, None) for p in program.metadata["inputs"]] + self.order + [
            ("out", p, None) for p in program.metadata["outputs"]
        ]:  # fmt: skip
            job = self.port(core, at) if step is None else self.job(core, at, step)
            job.issued = issued[job.core, job.unit] * self.clock
            issued[job.core, job.unit] += 1
            job.waits = [set() for _ in job.durations]
            if job.name == "recv":
                self.follow_sender(job, at)
            self.follow_conflicts(job)
            self.jobs.append(job)

    # -- the program

    def in_order(self) -> list[Any]:
        """Instructions in an order in which they can run; also finds the send of each recv."""
        streams = [
            list(enumerate(decode(self.s["code"])))[first : first + n] for first, n in self.s["core_table"].tolist()
        ]
        mail: dict[Any, deque[int]] = defaultdict(deque)
        out: list[Any] = []
        self.sender: dict[int, int] = {}
        self.index_of: dict[int, int] = {}
        while any(streams):
            for core, stream in enumerate(streams):
                while stream:
                    at, step = stream[0]
                    o = step.operands
                    if step.mnemonic == "recv":
                        if not mail[o["src_core"], core, o["token"]]:
                            break
                        self.sender[at] = mail[o["src_core"], core, o["token"]].popleft()
                    if step.mnemonic == "send":
                        mail[core, o["dst_core"], o["token"]].append(at)
                    stream.pop(0)
                    if step.mnemonic != "halt":
                        self.index_of[at] = len(self.program.metadata["inputs"]) + len(out)
                        out.append((core, at, step))
        return out

    def agu(self, index: int) -> tuple[int, list[int], list[int]]:
        row = self.s["agus"][index].tolist()
        return row[0], row[2::2], row[3::2]

    def flat(self, index: int) -> bool:
        _, counts, strides = self.agu(index)
        return counts[:-1] == [1] * 5 and strides[-1] == 1

    def cut(self, index: int, pixels_only: bool, pitches: dict[int, int]) -> list[list[int]]:
        """Chunks as lists of positions in the generator's order."""
        buffer, counts, _ = self.agu(index)
        loops = [i for i, n in enumerate(counts[: 6 if pixels_only else 5]) if n > 1]
        taken: list[int] = []
        for loop in loops[:-1]:
            if math.prod(counts[i] for i in [*taken, loop]) > MOST:
                break
            taken.append(loop)
        addresses = agu_addresses(self.s["agus"][index]).tolist()
        chunks: dict[Any, list[int]] = defaultdict(list)
        for n, at in enumerate(itertools.product(*(range(c) for c in counts))):
            key: Any = tuple(at[i] for i in taken)
            if not pixels_only and self.flat(index) and buffer in pitches:
                pitch = pitches[buffer]
                rows = addresses[-1] // pitch - addresses[0] // pitch + 1
                key = addresses[n] // (pitch * math.ceil(rows / MOST))
            elif loops and not taken:
                key = at[loops[0]] // math.ceil(counts[loops[0]] / MOST)
            chunks[key].append(n)
        return list(chunks.values())

    def pitches(self) -> dict[int, int]:
        """Smallest distance between the rows that instructions make of each buffer."""
        found: dict[int, int] = {}
        for _, _, step in self.order:
            for operand in step.instruction.operands:
                mvm = step.mnemonic == "mvm"
                if operand.kind != "agu" or operand.access == "base":
                    continue
                index = step.operands[operand.name]
                chunks = self.cut(index, mvm, {})
                if (mvm or not self.flat(index)) and len(chunks) > 1:
                    addresses = agu_addresses(self.s["agus"][index])
                    pitch = abs(int(addresses[chunks[1][0]] - addresses[chunks[0][0]]))
                    buffer = int(self.s["agus"][index][0])
                    if pitch:
                        found[buffer] = min(pitch, found.get(buffer, pitch))
        return found

    def item(self, index: int) -> int:
        return int(self.memory.memory_of(index).itemsize)

    def space(self, index: int) -> int:
        return int(self.s["buffers"][self.s["agus"][index][0], 1])

    # -- jobs

    def port(self, kind: str, port: Any) -> Job:
        chunks = self.cut(port["agu"], False, self.pitch)
        core = int(self.s["buffers"][self.s["agus"][port["agu"]][0], 0])
        job = Job({"in": "input", "out": "output"}[kind], core, "links")
        job.sizes = [len(chunk) for chunk in chunks]
        size = [n * self.item(port["agu"]) for n in job.sizes]
        job.durations = [self.over_links(n) for n in size]
        job.lead = 0 if kind == "in" else self.t["buffer_read"]
        job.latencies = [d + (self.t["buffer_write"] if kind == "in" else 0) for d in job.durations]
        job.demands["links", core // self.target["chip"]["cores"]] = 1
        self.touch(job, port["agu"], WRITE if kind == "in" else READ, chunks, [0])
        self.events["links"] += sum(size)
        self.events["buffer"] += sum(size)
        return job

    def over_links(self, size: int) -> int:
        links = self.target["links"]
        return max(self.clock, math.ceil(size * FS / (links["count"] * links["gb_per_s"])))

    def job(self, core: int, at: int, step: Any) -> Job:
        name, o = step.mnemonic, step.operands
        units = {"mvm": "crossbars", "send": "send", "recv": "receive", "host": "host"}
        job = Job(name, core, units.get(name, "vector"))
        if name == "host":
            return self.host(job, o)
        agus = [x for x in step.instruction.operands if x.kind == "agu"]
        first = next(o[x.name] for x in agus if x.access != "base")
        chunks = self.cut(first, name == "mvm", self.pitch)
        job.sizes = [len(chunk) for chunk in chunks]
        window = agu_addresses(self.s["agus"][o["window"]]).tolist() if "window" in o else [0]
        if any(x.access in ("r", "base") and self.space(o[x.name]) != SPACE_ACC for x in agus):
            job.lead = self.t["buffer_read"]
        if name == "mvm":
            self.product(job, o)
        elif name in ("send", "recv"):
            cycles = [math.ceil(n * self.item(first) / self.target["link_bytes_per_cycle"]) for n in job.sizes]
            job.durations = [max(1, n) * self.clock for n in cycles]
            if name == "send":
                self.send(job, o["dst_core"], [n * self.item(first) for n in job.sizes])
            else:
                job.demands["receive", core] = 1
                job.latencies = [d + self.write_time(o["dst"]) for d in job.durations]
        else:
            lanes = self.target["vector_lanes"]
            job.durations = [max(1, math.ceil(n * len(window) / lanes)) * self.clock for n in job.sizes]
            job.latencies = [max(d, self.t["vector"]) + self.write_time(o["dst"]) for d in job.durations]
            job.demands["vector", core] = 1
        for x in agus:
            self.operand(job, name, x, o, chunks, window)
        kinds = {"requant": "sigmoid", "dequant": "sigmoid", "quantize": "sigmoid", "dequantize": "sigmoid",
                 "rescale": "sigmoid", "lut": "sigmoid", "mul": "sigmoid", "add": "pool", "maxpool": "pool",
                 "avgpool": "pool", "accadd": "accumulate"}  # fmt: skip
        if name in kinds:
            self.events[kinds[name]] += sum(job.sizes) * len(window)
        return job

    def operand(self, job: Job, name: str, x: Any, o: Any, chunks: list[list[int]], window: list[int]) -> None:
        index = o[x.name]
        if x.access == "base":
            table = self.s["pool_i64"][o["table"] :].tolist()
            ranges = []
            for chunk in chunks:
                addresses = [int(self.s["agus"][index, 1]) + table[n] for n in chunk]
                ranges.append((min(addresses), max(addresses)))
            job.touches.append((int(self.s["agus"][index, 0]), READ, ranges))
        else:
            extra = [0]
            if name == "mvm":
                table = self.s["tile_rows" if x.access == "r" else "tile_cols"][o["tile"]]
                extra = table[table >= 0].tolist() or [0]
            elif x.access == "r":
                extra = window
            mode = {"w": WRITE, "rw": ACCUMULATE, "r": READ}[x.access]
            self.touch(job, index, mode, chunks, extra)
        if name != "mvm":
            elements = sum(job.sizes) * (len(window) if x.access == "r" else 1)
            if self.space(index) == SPACE_ACC:
                self.events["core_register"] += elements
            else:
                self.events["buffer"] += elements * self.item(index)

    def touch(self, job: Job, index: int, mode: str, chunks: list[list[int]], extra: list[int]) -> None:
        addresses = agu_addresses(self.s["agus"][index])
        ranges = [
            (int(addresses[chunk].min()) + min(extra), int(addresses[chunk].max()) + max(extra)) for chunk in chunks
        ]
        job.touches.append((int(self.s["agus"][index, 0]), mode, ranges))

    def write_time(self, index: int) -> int:
        return 0 if self.space(index) == SPACE_ACC else self.t["buffer_write"]

    def product(self, job: Job, o: Any) -> None:
        target, tile, adc = self.target, o["tile"], self.target["adc"]
        read, conversion = round(target["read_cycle_ns"] * FS), round(FS / adc["rate_gs_per_s"])
        reads: Counter[Any] = Counter()
        converts: Counter[Any] = Counter()
        pixel: Counter[str] = Counter()
        rows = [r for r in range(target["rows"]) if self.s["tile_rows"][tile, r] >= 0]
        columns = int((self.s["tile_cols"][tile] >= 0).sum())
        for array, bank, schedule in self.schedules(tile):
            groups = {group for _, driven in schedule for group in driven.values()}
            for group in groups:
                on = {row for _, driven in schedule for row, g in driven.items() if g == group}
                shifts = [int(self.s["tile_shift"][tile, row]) for row in on]
                digits = range(math.ceil((self.program.act_bits + max(shifts) - min(shifts)) / target["dac_bits"]))
                for digit in digits:
                    if o["digits"] and not o["first"] <= digit < o["first"] + o["digits"]:
                        continue
                    reads[array] += 1
                    pixel["dac"] += len(on)
                    for _, driven in schedule:
                        mine = [row for row, g in driven.items() if g == group]
                        if mine:
                            converts[bank] += columns
                            pixel["adc"] += columns
                            pixel["crossbar"] += len(mine) * columns
        key = job.core, o["src"], tuple(self.s["tile_rows"][tile].tolist())
        size = 0 if key in self.fetched else len(rows) * self.item(o["src"])
        self.fetched.add(key)
        fetch = math.ceil(size * FS / target["buffer"]["bytes_per_ns"])
        busy = {bank: math.ceil(n / adc["per_bank"]) * conversion for bank, n in converts.items()}
        time = max(max(reads.values(), default=0) * read, *busy.values(), fetch, 1)
        job.durations = [max(n * time, self.clock) for n in job.sizes]
        job.latencies = [d + self.t["adc"] + self.t["shift_add"] + self.t["output"] for d in job.durations]
        arrays = {array for array, _, _ in self.schedules(tile)}
        for array in arrays:
            job.demands["crossbar", array] = 1
        if not arrays:
            job.demands["nothing", tile] = 1
        if adc["crossbars"] > 1:
            for bank, need in busy.items():
                job.demands["adc", bank] = max(1, need * SHARED // time)
                self.capacity["adc", bank] = SHARED
        if fetch:
            job.demands["buffer", job.core] = max(1, fetch * SHARED // time)
            self.capacity["buffer", job.core] = SHARED
        for _ in range(sum(job.sizes)):
            self.events.update(pixel)
            self.events["input_register"] += pixel["dac"]
            for name in ("sample_hold", "shift_add", "output_register"):
                self.events[name] += pixel["adc"]
            self.events["core_register"] += columns
            self.events["buffer"] += size
            self.events["bus"] += size

    def schedules(self, tile: int) -> list[Any]:
        """(physical crossbar, bank, blocks read together as (block, {row: group}))."""
        first, count = self.s["tile_xbars"][tile].tolist()
        out: list[Any] = []
        for block in range(first, first + count):
            core, slot, row0, column0 = self.s["xbar_place"][block].tolist()
            array = int(self.s["xbar_phys"][block])
            group = self.s["xbar_group"][block].tolist()
            mine = {row: g for row, g in enumerate(group) if g >= 0}
            cells = self.memory.physical_cells(array)
            used = [n + column0 for n in np.flatnonzero(self.s["tile_cols"][tile] >= 0).tolist()]
            full = {r for r in range(len(group)) if r + row0 < len(cells) and cells[r + row0, used].any()}
            bank = core * self.target["crossbars_per_core"] + slot // self.target["adc"]["crossbars"]
            for other, _, schedule in out:
                if other == array and all(self.agree(mine, full, driven, f) for _, driven, f in schedule):
                    schedule.append((block, mine, full))
                    break
            else:
                out.append((array, bank, [(block, mine, full)]))
        return [(array, bank, [(b, driven) for b, driven, _ in schedule]) for array, bank, schedule in out]

    @staticmethod
    def agree(a: dict[int, int], a_full: set[int], b: dict[int, int], b_full: set[int]) -> bool:
        """Equal groups for rows that both drive; what only one drives is empty in the other."""
        return (
            all(a[row] == b[row] for row in a.keys() & b.keys())
            and not (a.keys() - b.keys()) & b_full
            and not (b.keys() - a.keys()) & a_full
        )

    def send(self, job: Job, other: int, sizes: list[int]) -> None:
        chip, router, hop = self.target["chip"]["cores"], self.target["router"], 0
        width = math.ceil(math.sqrt(math.ceil(chip / router["cores"])))
        ends = [(core // chip, core % chip // router["cores"]) for core in (job.core, other)]
        legs = [ends] if ends[0][0] == ends[1][0] else [[ends[0], (ends[0][0], 0)], [(ends[1][0], 0), ends[1]]]
        job.demands["send", job.core] = 1
        routers = 0
        for (on, start), (_, stop) in legs:
            x, y = start % width, start // width
            routers += 1
            while (x, y) != (stop % width, stop // width):
                old = x, y
                if x != stop % width:
                    x += 1 if stop % width > x else -1
                else:
                    y += 1 if stop // width > y else -1
                job.demands["mesh", on, old, (x, y)] = 1
                routers += 1
        if len(legs) == 2:
            for on, _ in ends:
                job.demands["links", on] = 1
            job.durations = [max(d, self.over_links(n)) for d, n in zip(job.durations, sizes, strict=True)]
            self.events["links"] += 2 * sum(sizes)
        hop = round(router["hop_ns"] * FS)
        job.latencies = [d + routers * hop for d in job.durations]
        self.events["network"] += routers * sum(sizes)

    def host(self, job: Job, o: Any) -> Job:
        pool = self.s["pool_i64"].tolist()
        ports = [(agu, READ) for agu in pool[o["first_in"] : o["first_in"] + o["n_in"]]]
        ports += [(agu, WRITE) for agu in pool[o["first_out"] : o["first_out"] + o["n_out"]]]
        moved = sum(len(agu_addresses(self.s["agus"][agu])) * self.item(agu) for agu, _ in ports)
        host, links = self.target["host"], self.target["links"]
        compute = math.ceil(self.program.metadata["host"][o["region"]]["flops"] * FS / host["gflop_per_s"])
        transfer = math.ceil(moved * FS / (links["count"] * links["gb_per_s"]))
        job.sizes = [1]
        job.durations = job.latencies = [max(self.clock, round(host["launch_us"] * 1000 * FS) + max(compute, transfer))]
        job.demands["host"] = 1
        for agu, mode in ports:
            self.touch(job, agu, mode, [list(range(len(agu_addresses(self.s["agus"][agu]))))], [0])
        self.events["links"] += moved
        self.events["buffer"] += moved
        return job

    # -- order

    def follow_sender(self, job: Job, at: int) -> None:
        """A chunk waits for all chunks of the send up to that with its last element."""
        sender = self.index_of[self.sender[at]]
        for chunk, end in enumerate(np.cumsum(job.sizes).tolist()):
            for other, stop in enumerate(np.cumsum(self.jobs[sender].sizes).tolist()):
                if stop - self.jobs[sender].sizes[other] < end:
                    job.waits[chunk].add((sender, other))

    def follow_conflicts(self, job: Job) -> None:
        for buffer, mode, ranges in job.touches:
            for earlier, other in enumerate(self.jobs):
                for other_buffer, other_mode, other_ranges in other.touches:
                    order = WRITE in (mode, other_mode) or mode != other_mode
                    if buffer != other_buffer or not order:
                        continue
                    for (chunk, (low, high)), (n, (low2, high2)) in itertools.product(
                        enumerate(ranges), enumerate(other_ranges)
                    ):
                        if low <= high2 and low2 <= high:
                            job.waits[chunk].add((earlier, n))

    # -- time

    def tick(self) -> int:
        """The greatest common divisor of all times."""
        return math.gcd(*(t for job in self.jobs for t in (*job.durations, *job.latencies, job.lead, job.issued) if t))

    def run(self, images: int = 1) -> list[int]:
        """Advance tick by tick. Returns when each image is finished; `jobs` keep the first image's times."""
        copies = [
            Job(j.name, j.core, j.unit, j.sizes, j.durations, j.latencies, j.lead, j.demands, [], j.waits, j.issued)
            for _ in range(images)
            for j in self.jobs
        ]
        n, tick, now = len(self.jobs), self.tick(), 0
        active: list[tuple[int, int]] = []
        asked: dict[int, int] = {}
        while any(len(c.starts) < len(c.durations) for c in copies) or active:
            active = [(i, end) for i, end in active if end > now]
            while True:
                for i in range(len(copies)):
                    if i not in asked and self.may_ask(copies, i, n, now, active):
                        asked[i] = now
                used: Counter[Any] = Counter()
                for i, _ in active:
                    used.update(copies[i].demands)
                assert all(used[r] <= self.capacity[r] for r in used), "occupancy over capacity"
                fits = [i for i in asked if all(used[r] + d <= self.capacity[r] for r, d in copies[i].demands.items())]
                if not fits:
                    break
                i = min(fits, key=lambda i: (i // n, asked[i], i))
                c = copies[i]
                active.append((i, now + c.durations[len(c.starts)]))
                c.done.append(now + c.latencies[len(c.starts)])
                c.starts.append(now)
                del asked[i]
            now += tick
        for job, copy in zip(self.jobs, copies, strict=False):
            job.starts, job.done = copy.starts, copy.done
        self.copies = copies
        return [max(max(c.done) for c in copies[k * n : (k + 1) * n]) for k in range(images)]

    def may_ask(self, copies: list[Job], i: int, n: int, now: int, active: list[tuple[int, int]]) -> bool:
        c, base = copies[i], i - i % n
        chunk = len(c.starts)
        if chunk == len(c.durations) or any(i == other for other, _ in active):
            return False
        for other, k in c.waits[chunk]:
            done = copies[base + other].done
            if len(done) <= k or done[k] + c.lead > now:
                return False
        return now >= max(c.lead, c.issued)  # inputs are there at 0
