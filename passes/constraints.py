"""Constraint sets: the integer matrices that a quantizer may choose from, and the nearest of them to a given matrix.

A weight matrix has K rows (inputs of a layer, in the order of im2col) and M columns (outputs). For grouped and
depthwise convolutions there is one matrix a group; leading axes of an array are such groups, so shapes are [..., K, M]
throughout. The crossbars matter for two things: a row is cut into segments of C columns, one a tile, each with a row
shift of its own; and rows come in tiles of R (see `smec.passes.mapping.tiling`; blocks packed on the diagonal of a tile
have rows and row shifts of their own too).

Three kinds of sets, by what they have to say about themselves:

* `RowSet` names its `levels`: lists of integers, one of which all entries of a row segment are from. Patterns and
  representable rows are of this kind. Nearest points are exact.
* `BoxSet` tells which entries must not be negative, not be positive, or be zero, given what the nearest integers are.
  Polarized columns and zero blocks are of this kind.
* any other defines `project` itself.

A set is a frozen dataclass; its fields but for the first are its options, in text too: `zero-blocks:50:16:128`. To add
one, in a plug-in file or in a package (entry point group `smec.constraints`)::

    @register_constraint
    @dataclass(frozen=True)
    class Even(RowSet):
        \"\"\"Even integers only.\"\"\"

        name = "even"

        def levels(self) -> Sequence[np.ndarray]:
            low, high = self.geometry.weight_range
            return [np.arange(low + low % 2, high + 1, 2)]
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, TypeVar

import numpy as np

from smec.ir.errors import SmecError
from smec.passes.mapping.coding import SIGNS, code_range, largest_bits, weight_range
from smec.passes.registry import Registry

#: Name of the entry-point group by which other packages offer constraint sets.
ENTRY_POINT_GROUP = "smec.constraints"

#: Values beyond count as this: far from any 16-bit integer, near enough for float32 to tell which one is nearer.
_REACH = float(1 << 20)

#: Built-in sets by name, as "module:Class".
BUILTIN_CONSTRAINTS = {
    "pattern": "smec.passes.constraint_sets.rows:PatternSet",
    "polarized": "smec.passes.constraint_sets.boxes:Polarized",
    "representable": "smec.passes.constraint_sets.rows:Representable",
    "zero-blocks": "smec.passes.constraint_sets.boxes:ZeroBlocks",
    "zero-rows": "smec.passes.constraint_sets.boxes:ZeroRows",
}

ConstraintT = TypeVar("ConstraintT", bound="type[ConstraintSet]")


@dataclass(frozen=True)
class Geometry:
    """How integers lie on crossbars.

    Attributes:
        bits: N.
        sign: one of `SIGNS`. "polarized" has the integers of "differential"; the rule on signs is the set `polarized`.
        rows, columns: R and C of a tile.
        cell_bits: c.
        dense: the layer has no groups. (With offset coding, packed blocks cannot use row shifts below the depth.)

    Raises:
        SmecError: unknown sign scheme, or a width that does not fit int16.
    """

    bits: int = 8
    sign: str = "differential"
    rows: int = 128
    columns: int = 128
    cell_bits: int = 1
    dense: bool = True

    def __post_init__(self) -> None:
        if self.sign not in SIGNS:
            raise SmecError("unknown sign scheme", expected=" | ".join(SIGNS), found=repr(self.sign))
        most = largest_bits(self.sign)
        if not 1 <= self.bits <= most:
            raise SmecError(f"bits of {self.sign} weights", expected=f"1 to {most}", found=self.bits)
        if min(self.rows, self.columns, self.cell_bits) < 1:
            found = (self.rows, self.columns, self.cell_bits)
            raise SmecError("crossbar without cells", expected="rows, columns and cell bits of at least 1", found=found)

    @property
    def offset(self) -> int:
        """What is added to an integer when it is stored."""
        return 1 << (self.bits - 1) if self.sign == "offset" else 0

    @property
    def weight_range(self) -> tuple[int, int]:
        """Least and largest integer of N bits."""
        return weight_range(self.sign, self.bits)

    def code_range(self, depth: int) -> tuple[int, int]:
        """Least and largest stored integer of N - x bits."""
        return code_range(self.sign, self.bits - depth)


class Box(NamedTuple):
    """Bounds of each entry: float32 arrays [..., K, M], or shapes that broadcast to it, of 0 and +-infinity."""

    low: np.ndarray
    high: np.ndarray


@dataclass(frozen=True)
class ConstraintSet:
    """A set of integer matrices [..., K, M]."""

    name: ClassVar[str] = ""

    geometry: Geometry = Geometry()

    def project(self, values: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
        """The point of the set that is nearest to `values`: least sum of weights * (values - point)^2.

        Args:
            values: real [..., K, M], in units of one integer step (divided by the scale already).
            weights: importance of each entry, not negative; broadcasts against `values`. None: all equal.

        Returns:
            int16 of the shape of `values`. Exact unless the set's class says otherwise.

        Raises:
            SmecError: `values` hold NaN or have fewer than two axes.
        """
        raise NotImplementedError  # each kind of set defines it

    def contains(self, integers: np.ndarray) -> bool:
        """Whether a matrix [..., K, M] is a point of the set."""
        return bool(np.array_equal(self.project(integers.astype(np.float32)), integers))

    def text(self) -> str:
        """The set's name, followed by the options that are not at their defaults: what `parse_constraint` reads."""
        own = own_options(type(self))
        values = [getattr(self, f.name) for f in own]
        while own and values[-1] == own[-1].default:
            own, values = own[:-1], values[:-1]
        return ":".join([self.name, *map(str, values)])


def error_of(values: np.ndarray, integers: np.ndarray, weights: np.ndarray | None = None) -> float:
    """What `project` minimises: the sum of weights * (values - integers)^2."""
    squares = np.square(values.astype(np.float64) - integers)
    return float((squares if weights is None else squares * weights).sum())


def checked_values(values: np.ndarray) -> np.ndarray:
    """The argument of `project` as a contiguous float32 or float64 array.

    Raises:
        SmecError: see `ConstraintSet.project`.
    """
    array = np.ascontiguousarray(values, None if values.dtype in (np.float32, np.float64) else np.float64)
    if array.ndim < 2:
        raise SmecError("no matrix to project", expected="two axes or more", found=f"shape {array.shape}")
    largest = float(np.abs(array).max(initial=0))
    if np.isnan(largest):
        raise SmecError("values hold NaN", expected="numbers")
    return np.clip(array, -_REACH, _REACH) if largest > _REACH else array


# -- registry ----------------------------------------------------------------------------------------------------------


REGISTRY = Registry(
    "constraint",
    ConstraintSet,
    ENTRY_POINT_GROUP,
    built_in=BUILTIN_CONSTRAINTS,
    is_name=lambda name: ":" not in name and "+" not in name,
)

#: Classes that have been imported, by name.
CONSTRAINTS = REGISTRY.known


def register_constraint(cls: ConstraintT) -> ConstraintT:
    """Class decorator: make a set known by its name.

    Raises:
        SmecError: the class is no frozen dataclass with a name, or the name is taken.
    """
    REGISTRY.register(cls)
    return cls


def constraint_names() -> list[str]:
    """The names of all sets that are built in, registered, or offered by an installed package."""
    return REGISTRY.names()


def constraint_class(name: str) -> type[ConstraintSet]:
    """The class of the set called `name`.

    Raises:
        SmecError: no such set, or the package that offers it cannot be imported.
    """
    return REGISTRY.find(name)


def own_options(cls: type[ConstraintSet]) -> tuple[dataclasses.Field[Any], ...]:
    """The options of a class beyond the geometry, in order of declaration."""
    return tuple(f for f in dataclasses.fields(cls) if f.name != "geometry")


def parse_constraint(text: str, geometry: Geometry) -> ConstraintSet:
    """The set that `text` names: a name, or a name and the values of its options, as in `zero-blocks:50:16`.

    Raises:
        SmecError: unknown set, or an option that it does not have or cannot be.
    """
    name, *values = text.split(":")
    cls = constraint_class(name)
    own = own_options(cls)
    if len(values) > len(own):
        raise SmecError(f"constraint '{name}' has too many options", expected=f"at most {len(own)}", found=text)
    chosen: dict[str, Any] = {}
    for option, value in zip(own, values, strict=False):
        if isinstance(option.default, str):
            chosen[option.name] = value
            continue
        try:
            chosen[option.name] = int(value)
        except ValueError:
            raise SmecError(
                f"option '{option.name}' of constraint '{name}' is no integer", expected="an integer", found=repr(value)
            ) from None
    return cls(geometry=geometry, **chosen)


# -- putting sets together ---------------------------------------------------------------------------------------------


def intersect(*sets: ConstraintSet) -> ConstraintSet:
    """The points that all `sets` have in common.

    Sets of rows become one set of rows, whose nearest points are exact; see `smec.passes.constraint_sets.intersection`
    for the others.

    Raises:
        SmecError: there are no sets, or none of their points is in all of them.
    """
    from smec.passes.constraint_sets.intersection import intersection_of  # it needs the classes of this file

    return intersection_of(sets)


def layer_constraint(
    geometry: Geometry,
    pattern: str = "uniform",
    depth: int = 0,
    extra: str = "",
    sign_rows: int = 8,
    doubled: tuple[bool, ...] = (),
) -> ConstraintSet:
    """What a quantizer projects a layer onto: a pattern AND what x bit positions fewer can represent AND more.

    Args:
        geometry: of the layer on the target; the sign scheme "polarized" adds the set `polarized:<sign_rows>`.
        pattern: name and options, see `smec.passes.patterns`.
        depth: x.
        extra: further sets, parted by "+", as in `zero-blocks:50+polarized:8`.
        sign_rows: g, rows that share a sign in each column with the sign scheme "polarized".
        doubled: of each of the K rows, whether it has two rows of tiles; none: no row has.

    Raises:
        SmecError: an unknown pattern or set; wrong options; no integer but 0 is in all of the sets.
    """
    from smec.passes.constraint_sets.rows import PatternSet, Representable, RowSet

    sets: list[ConstraintSet] = [PatternSet(geometry, pattern)]
    if not any(doubled):
        sets.append(Representable(geometry, depth))
    sets += [parse_constraint(text, geometry) for text in filter(None, extra.split("+"))]
    if geometry.sign == "polarized":
        if any(s.name == "polarized" for s in sets):
            hint = "give their rows as sign-rows"
            raise SmecError("sign blocks are part of the sign scheme 'polarized'", found=extra, hint=hint)
        sets.append(parse_constraint(f"polarized:{sign_rows}", geometry))
    if any(doubled):
        from smec.passes.constraint_sets.doubled import mixed_rows

        rows_only = [s for s in sets if isinstance(s, RowSet)]
        sets = [mixed_rows(geometry, depth, rows_only, doubled), *(s for s in sets if not isinstance(s, RowSet))]
    whole = intersect(*sets)
    rows = whole if isinstance(whole, RowSet) else getattr(whole, "rows", None)
    if isinstance(rows, RowSet) and not any(level.any() for level in rows.levels()):
        raise SmecError("no weight but 0 satisfies the constraints", found=", ".join(s.text() for s in sets))
    return whole
