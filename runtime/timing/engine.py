"""The event loop: when each chunk starts, given what it waits for and who holds its resources.

1. A chunk is *ready* when all chunks that it waits for are done, and its task's previous chunk has left its resources.
2. `lead` later (counted from when what it waits for is done) it *asks* for its resources, but not before its task has
   been issued: units take up instructions in order, one a clock cycle.
3. Whenever something changes, the chunks that have asked start, in the order of (image, time of asking, task): each one
   for which every resource has room. It holds them for its duration; its results are there after its latency.

Only what changed is looked at: a chunk that does not fit is kept with one resource that is too full for it, and looked
at again when somebody leaves that resource.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

from smec.runtime.timing.tasks import TaskGraph

_LEAVES, _ASKS = 0, 1

#: A chunk that asks for its resources: image, time of asking, task.
_Asking = tuple[int, int, int]


@dataclass(frozen=True)
class Schedule:
    """When everything happens, fs, from the moment at which all inputs are offered.

    starts: for each image and task (image * tasks + task) its chunks' starts. done: when their results are there.
    end: when the last result of each image is there.
    """

    images: int
    starts: list[list[int]]
    done: list[list[int]]
    end: list[int]


def schedule(graph: TaskGraph, images: int = 1) -> Schedule:
    """Run `images` images through the machine, all of them offered at once, each with buffers of its own."""
    loop = _Loop(graph, images)
    loop.run()
    count = len(graph.tasks)
    end = [max((done[-1] for done in loop.done[i * count : (i + 1) * count] if done), default=0) for i in range(images)]
    return Schedule(images, loop.starts, loop.done, end)


class _Loop:
    def __init__(self, graph: TaskGraph, images: int) -> None:
        self.tasks = graph.tasks
        self.count = len(graph.tasks)
        total = self.count * images
        self.free = [resource.capacity for resource in graph.resources]
        self.parked: list[list[_Asking]] = [[] for _ in graph.resources]
        self.starts: list[list[int]] = [[] for _ in range(total)]
        self.done: list[list[int]] = [[] for _ in range(total)]
        self.left = [0] * total  # when the task's last chunk left its resources
        self.waiters: list[list[tuple[int, int]]] = [[] for _ in range(total)]  # (chunk needed, who waits)
        self.events: list[tuple[int, int, int]] = []
        self.now = 0

    def run(self) -> None:
        """Process events until none is left."""
        for index in range(len(self.starts)):
            self.prepare(index)
        events = self.events
        while events:
            self.now = events[0][0]
            self.instant()

    def prepare(self, index: int) -> None:
        """Let the task's next chunk ask as soon as it may; or remember what it waits for."""
        task = self.tasks[index % self.count]
        chunk = len(self.starts[index])
        if chunk == task.chunks:
            return
        base = index - index % self.count
        ready = 0
        for other, needs in task.waits:
            need = needs[chunk]
            if need >= 0:
                done = self.done[base + other]
                if len(done) <= need:
                    self.waiters[base + other].append((need, index))
                    return
                ready = max(ready, done[need])
        asks = max(ready + task.lead, self.left[index], task.issued)
        heapq.heappush(self.events, (asks, _ASKS, index))

    def instant(self) -> None:
        """All that happens at `now`."""
        now, events = self.now, self.events
        asking: list[tuple[_Asking, int]] = []  # with the resource where it was parked, or -1
        refused: list[tuple[int, _Asking]] = []
        while True:
            while events and events[0][0] == now:
                _, kind, index = heapq.heappop(events)
                if kind == _ASKS:
                    heapq.heappush(asking, ((index // self.count, now, index), -1))
                    continue
                for resource, demand in self.tasks[index % self.count].resources:
                    self.free[resource] += demand
                    if self.parked[resource]:
                        heapq.heappush(asking, (heapq.heappop(self.parked[resource]), resource))
                self.prepare(index)
            if not asking:
                break
            who, came = heapq.heappop(asking)
            full = self.start(who[2])
            if full >= 0:
                refused.append((full, who))
            if came >= 0 and self.free[came] > 0 and self.parked[came]:
                heapq.heappush(asking, (heapq.heappop(self.parked[came]), came))
        for full, who in refused:
            heapq.heappush(self.parked[full], who)

    def start(self, index: int) -> int:
        """Start the task's next chunk; or the resource that is too full for it."""
        task, free = self.tasks[index % self.count], self.free
        for resource, demand in task.resources:
            if free[resource] < demand:
                return resource
        for resource, demand in task.resources:
            free[resource] -= demand
        starts, done = self.starts[index], self.done[index]
        chunk, now = len(starts), self.now
        starts.append(now)
        done.append(now + task.latencies[chunk])
        end = self.left[index] = now + task.durations[chunk]
        heapq.heappush(self.events, (end, _LEAVES, index))
        waiting = self.waiters[index]
        if waiting:
            self.waiters[index] = [w for w in waiting if w[0] > chunk]
            for need, other in waiting:
                if need <= chunk:
                    self.prepare(other)
        return -1
