"""Which values the device holds, and which of them must share their levels.

1. The device holds every value that a device unit reads, and the result of every device unit but those layers whose
   result only the host reads: they give float32.
2. Data movement keeps levels: its result shares those of its input.
3. Where the model states levels, the value has those.
4. A concatenation shares its levels with each input that, with all that shares levels with it already, goes nowhere
   else. Its other inputs keep levels of their own, and are rescaled on the way in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from smec.ir.core import Operation, Value
from smec.ir.dialects.builtin import GraphOp
from smec.ir.types import Quantized
from smec.passes.quantization import specs
from smec.passes.quantization.carried import unit_levels
from smec.passes.quantization.units import MOVEMENT_KINDS, Unit, graph_units


@dataclass(eq=False)
class Group:
    """Values that share their levels.

    Attributes:
        values: the members.
        sources: those whose statistics count: what data movement makes of them has no values of its own.
        constants: further real values that the levels must cover (paddings).
        stated: the levels that the model itself states for the values.
    """

    values: set[Value] = field(default_factory=set)
    sources: list[Value] = field(default_factory=list)
    constants: list[float] = field(default_factory=list)
    stated: Quantized | None = None


class LevelGroups:
    """The groups of a partitioned graph.

    Attributes:
        of: the group of each value that the device holds.
        groups: all of them, in the order of the graph.
    """

    def __init__(self, graph: GraphOp) -> None:
        self.units = list(graph_units(graph))
        self.device_readers = self._device_readers()
        self.of: dict[Value, Group] = {}
        self.inside = {op for u in self.units if u.kind in MOVEMENT_KINDS for op in u.ops}
        for unit in self.units:
            if unit.on_device:
                self._visit(unit)
        self.groups = list(dict.fromkeys(self.of.values()))

    def _device_readers(self) -> set[Value]:
        return {v for u in self.units if u.on_device for v in u.inputs}

    def _visit(self, unit: Unit) -> None:
        for value in unit.inputs:
            # A pair rounds real values itself: they need no levels before it.
            if value not in self.of and unit.kind != "levels":
                self._new(value)
        result, stated = unit.result, unit_levels(unit.ops)
        if unit.kind in MOVEMENT_KINDS:
            self._move(unit, result)
        elif not unit.on_crossbars or result in self.device_readers or stated is not None:
            self._new(result)
        if stated is not None:
            self.of[result].stated = stated

    def _new(self, value: Value) -> None:
        self.of[value] = Group({value}, [value])

    def _move(self, unit: Unit, result: Value) -> None:
        if unit.kind == "concat":
            self._concat(unit, result)
            return
        group = self.of[unit.inputs[0]]
        group.values.add(result)
        self.of[result] = group
        if unit.kind == "pad":
            group.constants.append(specs.read_pad(unit.ops[0])[1])

    def _concat(self, unit: Unit, result: Value) -> None:
        """Case 4."""
        joined = Group({result}, [result])
        for group in dict.fromkeys(self.of[v] for v in unit.inputs):
            if unit_levels(unit.ops) is None and self._goes_nowhere_else(group, unit.ops[0]):
                joined.values |= group.values
                joined.sources += group.sources
                joined.constants += group.constants
        self.of.update(dict.fromkeys(joined.values, joined))

    def _goes_nowhere_else(self, group: Group, concat: Operation) -> bool:
        if group.stated is not None:
            return False
        for value in group.values:
            if value.defining_op() is None:
                return False  # a graph input keeps the levels that suit it
            for user in value.users:
                shares = user in self.inside and any(r in group.values for r in user.results)
                if user is not concat and not shares:
                    return False
        return True


def assign_levels(
    groups: Iterable[Group],
    range_of: Callable[[Value], tuple[float, float]],
    input_levels: Callable[[Value], Quantized | None],
    levels_for: Callable[[float, float], Quantized],
) -> dict[Value, Quantized]:
    """Levels of every value in `groups`.

    Args:
        range_of: the real values that a source should cover.
        input_levels: the levels of a source that is a graph input; None for other sources.
        levels_for: levels over a range.
    """
    found: dict[Value, Quantized] = {}
    for group in groups:
        if group.stated is not None:
            found.update(dict.fromkeys(group.values, group.stated))
            continue
        fixed = input_levels(group.sources[0]) if len(group.sources) == 1 else None
        if fixed is not None and all(covers(fixed, c) for c in group.constants):
            chosen = fixed
        else:
            ranges = [range_of(v) for v in group.sources]
            low = min([0.0, *(r[0] for r in ranges), *group.constants])
            high = max([0.0, *(r[1] for r in ranges), *group.constants])
            chosen = levels_for(low, high)
        found.update(dict.fromkeys(group.values, chosen))
    return found


def covers(levels: Quantized, value: float) -> bool:
    """Whether `value` lies between the outermost levels."""
    low, high = -levels.zero_point * levels.scale, (levels.qmax - levels.zero_point) * levels.scale
    return low <= value <= high
