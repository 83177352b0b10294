"""Which candidate units go on the device, and in which order units and host regions run.

Layers always go on the device. What the vector unit could do goes there when the device has its input already:

1. it reads the result of a device unit, or
2. it reads a graph input and a layer follows: the input then enters the device at once, and no host region stands
   before the first layer. Sums and products with constant tensors do not count: they are exact on real inputs. Levels
   that the model states go to the device wherever their values come from.

Some go to the host all the same:

3. sums and products with constant tensors that no layer follows (box decoding at the end of a detector),
4. data movement between a layer's result and the host, where no other device unit reads that result: the accumulator is
   then converted to float32 directly, without rounding to activation levels,
5. what stands between two host operations that exchange a value which no buffer can hold (a shape that depends on the
   data, strings): they must share a region.
"""

from __future__ import annotations

from collections.abc import Iterable

from smec.ir.core import BlockArgument, Value
from smec.ir.dialects.builtin import GraphOp
from smec.ir.dialects.nn import NNOp
from smec.ir.types import ELEMENT_DTYPES
from smec.passes.quantization.units import HOST, Unit, is_constant

#: Kinds that case 4 sends to the host.
_RELOCATED = ("concat", "pad", "slice", "transpose", "reshape")


class Placement:
    """Decides on the units of one graph.

    Args:
        graph: the graph, for its outputs.
        units: candidates in order.

    Attributes:
        reasons: why a unit that the device could take went to the host.
    """

    def __init__(self, graph: GraphOp, units: list[Unit]) -> None:
        self.units = units
        self.outputs = set(graph.terminator.operands)
        self.producer: dict[Value, Unit] = {r: u for u in units for op in u.ops for r in op.results}
        self.inputs: dict[Unit, list[Value]] = {u: u.inputs for u in units}
        self.users: dict[Unit, list[Unit]] = {u: self._users(u) for u in units}
        self.device: set[Unit] = set()
        self.reasons: dict[NNOp, str] = {}

    def _users(self, unit: Unit) -> list[Unit]:
        by_op = [user for v in unit.outputs for user in v.users]
        found = [self.producer[op.results[0]] for op in by_op if op.results and op.results[0] in self.producer]
        return list(dict.fromkeys(found))

    def run(self) -> None:
        """Decide, and set the kind of what goes to the host to "host"."""
        layer_follows = self._layer_follows()
        for unit in self.units:
            if unit.on_crossbars or (unit.on_device and self._wanted(unit, unit in layer_follows)):
                self.device.add(unit)
        self._relocate()
        self._join_regions()
        for unit in self.units:
            if unit.on_device and unit not in self.device:
                unit.kind = HOST

    def _layer_follows(self) -> set[Unit]:
        """Units from which a path of device candidates leads to a layer."""
        found: set[Unit] = set()
        for unit in reversed(self.units):
            if any(u.on_crossbars or (u.on_device and u in found) for u in self.users[unit]):
                found.add(unit)
        return found

    def _wanted(self, unit: Unit, layer_follows: bool) -> bool:
        """Cases 1 to 3."""
        constant_operand = unit.kind in ("affine", "prelu", "add", "mul") and any(
            map(is_constant, unit.ops[0].operands)
        )
        if constant_operand and not layer_follows:
            return self._refuse(unit, "constant operand, and no layer follows")
        inputs = self.inputs[unit]
        if any(v in self.producer and self.producer[v] in self.device for v in inputs):
            return True
        if layer_follows and unit.kind == "levels":
            return True
        if layer_follows and not constant_operand and any(isinstance(v, BlockArgument) for v in inputs):
            return True
        return self._refuse(unit, "reads no value of the device")

    def _refuse(self, unit: Unit, reason: str) -> bool:
        self.reasons.update(dict.fromkeys(unit.ops, reason))
        return False

    def _relocate(self) -> None:
        """Case 4, from the last unit to the first: movement whose readers are all on the host follows them."""
        host_only: set[Unit] = set()
        for unit in reversed(self.units):
            readers = self.users[unit]
            if all(u not in self.device or u in host_only for u in readers) and unit.kind in _RELOCATED:
                host_only.add(unit)
        for unit in self.units:
            if unit not in host_only or unit not in self.device:
                continue
            if all(self._only_for_host(v, host_only) for v in self.inputs[unit]):
                self.device.discard(unit)
                self._refuse(unit, "moves a layer's result to the host")

    def _only_for_host(self, value: Value, host_only: set[Unit]) -> bool:
        """Whether a value is on the host, or is a layer's result that only the host (or case 4) reads."""
        producer = self.producer.get(value)
        if producer is None or producer not in self.device:
            return True
        if not producer.on_crossbars:
            return False
        return all(u not in self.device or u in host_only for u in self.users[producer])

    # -- regions

    def stages(self) -> dict[Unit, int]:
        """By unit: the smallest even (device) or odd (host) number that is not below those of what it reads."""
        found: dict[Unit, int] = {}
        for unit in self.units:
            parity = 0 if unit in self.device else 1
            before = max((found[self.producer[v]] for v in self.inputs[unit] if v in self.producer), default=0)
            found[unit] = before if before % 2 == parity else before + 1
        return found

    def _join_regions(self) -> None:
        """Case 5, until no such value crosses."""
        while True:
            stages = self.stages()
            moved = False
            for unit in self.units:
                late = [u for u in self.users[unit] if self._must_share(unit, u) and stages[u] > stages[unit]]
                for user in late:
                    moved |= self._move_between(user, stages[unit])
                if moved:
                    break
            if not moved:
                return

    def _must_share(self, unit: Unit, user: Unit) -> bool:
        read = set(self.inputs[user])
        return any(v in read and not can_cross(v) for v in unit.outputs)

    def _move_between(self, user: Unit, stage: int) -> bool:
        """Send to the host every device unit that `user` depends on and that runs after `stage`."""
        stages = self.stages()
        pending, seen, moved = [user], {user}, False
        while pending:
            unit = pending.pop()
            if unit in self.device and stages[unit] > stage:
                self.device.discard(unit)
                self._refuse(unit, "stands between host operations that must share a region")
                moved = True
            before = dict.fromkeys(self.producer[v] for v in self.inputs[unit] if v in self.producer)
            fresh = [p for p in before if p not in seen]
            seen.update(fresh)
            pending.extend(fresh)
        return moved


def can_cross(value: Value) -> bool:
    """Whether a buffer can hold the value between a host region and anything else."""
    return value.type.is_static and value.type.element in ELEMENT_DTYPES


def run_order(placement: Placement) -> Iterable[tuple[int, Unit]]:
    """(stage, unit), sorted by stage and then by the order of the graph: every unit after what it reads."""
    stages = placement.stages()
    return sorted(((stages[u], u) for u in placement.units), key=lambda pair: pair[0])
