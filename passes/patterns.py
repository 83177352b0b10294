"""Patterns: the sets of magnitudes that a quantizer may use, and the exact nearest point of each (DESIGN 2).

A pattern is a frozen dataclass whose own fields are its options. It only has to name its magnitudes; projection onto
the nearest one, for every sign scheme, comes from the base class::

    @register_pattern
    @dataclass(frozen=True)
    class Even(Pattern):
        \"\"\"Even magnitudes only: the lowest plane stays empty.\"\"\"

        name = "even"

        def magnitudes(self, bits: int) -> Iterable[int]:
            return range(0, 1 << bits, 2)

Other packages offer patterns through the entry point group `smec.patterns`; a plug-in file registers them as above.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, TypeVar

import numpy as np

from smec.ir.errors import SmecError
from smec.passes.base import origin
from smec.passes.registry import Registry

#: Name of the entry-point group by which other packages offer patterns.
ENTRY_POINT_GROUP = "smec.patterns"

#: Sign schemes and what each can store in N bits; "unsigned" is for values that have no sign at all.
SIGNS = ("differential", "offset", "polarized", "twos-complement", "unsigned")

#: Integer weights are held as int16.
INT16_MAX = 2**15 - 1

PatternT = TypeVar("PatternT", bound="type[Pattern]")


@dataclass(frozen=True)
class Pattern:
    """A set of allowed magnitudes of N bits, with a sign scheme.

    Attributes:
        bits: N, 1 to 16.
        sign: which integers carry those magnitudes m:
            "differential" and "polarized": +m and -m, for every m of the N-bit set;
            "offset" and "twos-complement": the N-bit set is cut to what -2^(N-1) .. 2^(N-1) - 1 holds, that is +m for
            m <= 2^(N-1) - 1 and -m for m <= 2^(N-1). The pattern constrains the magnitude, not the stored bits;
            "unsigned": +m alone.

    Raises:
        SmecError: `bits`, `sign` or the magnitudes are not valid, or an integer does not fit int16.
    """

    name: ClassVar[str] = ""

    bits: int = 8
    sign: str = "differential"

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= 16:
            raise SmecError(f"pattern '{self.name}' has an invalid width", expected="1 to 16 bits", found=self.bits)
        if self.sign not in SIGNS:
            raise SmecError("unknown sign scheme", expected=" | ".join(SIGNS), found=repr(self.sign))

    def magnitudes(self, bits: int) -> Iterable[int]:
        """The allowed magnitudes among 0 .. 2^bits - 1, in any order. Zero belongs to every pattern, named or not."""
        raise NotImplementedError  # each pattern defines it

    def points(self) -> np.ndarray:
        """Every integer that the pattern allows, int64, ascending."""
        positive, negative = _halves(self)
        return np.concatenate([-negative[:0:-1], positive])

    @property
    def largest(self) -> tuple[int, int]:
        """Largest magnitude of a positive and of a negative integer; the second is 0 where there are none."""
        positive, negative = _halves(self)
        return int(positive[-1]), int(negative[-1])

    def project(self, values: np.ndarray, scale: np.ndarray | float) -> np.ndarray:
        """The nearest allowed integer of each value / scale; of two that are equally near, the smaller magnitude.

        Exact for float32 values and scales: no quotient of two of them rounds onto or across the midpoint of two
        points (midpoints are multiples of 1/2 below 2^16, so the quotient of two 24-bit significands is either equal
        to one or at least 2^-42 of it away, far more than float64's rounding).

        Args:
            values: any shape, finite or infinite (infinite ones give the outermost points).
            scale: positive; broadcasts against `values`.

        Returns:
            int16 (int32 where an unsigned 16-bit pattern needs it), shape of `values`.

        Raises:
            SmecError: a value is NaN, or a scale is not positive and finite.
        """
        values, scale = np.asarray(values), np.asarray(scale, np.float64)
        if not (np.isfinite(scale).all() and (scale > 0).all()):
            raise SmecError("scale must be positive and finite", found=float(np.min(scale, initial=0)))
        positive, negative = _lookup(self)
        with np.errstate(over="ignore"):
            steps = np.ceil(np.abs(values / (scale / 2)))
        if np.isnan(steps).any():
            raise SmecError("values hold NaN", expected="finite values")
        # Half steps: everything in (k - 1) / 2 < |v| / scale <= k / 2 has the same nearest point.
        index = np.minimum(steps, len(positive) - 1).astype(np.int32)
        return np.where(values < 0, negative[index], positive[index])

    def text(self) -> str:
        """The pattern's name, followed by the options that are not at their defaults: what `parse` reads."""
        own = own_options(type(self))
        values = [getattr(self, f.name) for f in own]
        while own and values[-1] == own[-1].default:
            own, values = own[:-1], values[:-1]
        return ":".join([self.name, *map(str, values)])


def own_options(cls: type[Pattern]) -> tuple[dataclasses.Field[Any], ...]:
    """The options of a pattern class beyond width and sign, in order of declaration."""
    return tuple(f for f in dataclasses.fields(cls) if f.name not in ("bits", "sign"))


@cache
def _halves(pattern: Pattern) -> tuple[np.ndarray, np.ndarray]:
    """Ascending magnitudes of the positive and of the negative integers, each beginning with 0."""
    try:
        found = np.unique(np.fromiter(pattern.magnitudes(pattern.bits), np.int64))
    except SmecError:
        raise
    except Exception as error:
        # A plug-in's own code: whatever it raises, its place belongs into the message.
        file = origin(type(pattern))
        where = f" (plug-in {file})" if file else ""
        raise SmecError(f"pattern '{pattern.name}'{where} fails: {type(error).__name__}: {error}") from error
    top = (1 << pattern.bits) - 1
    if len(found) and (found[0] < 0 or found[-1] > top):
        raise SmecError(f"pattern '{pattern.name}' has magnitudes out of range", expected=f"0..{top}", found=found)
    every = np.union1d(found, [0])
    half = 1 << (pattern.bits - 1)
    positive, negative = every, every
    if pattern.sign in ("offset", "twos-complement"):
        positive, negative = every[every < half], every[every <= half]
    elif pattern.sign == "unsigned":
        negative = every[:1]
    if pattern.sign != "unsigned" and (positive[-1] > INT16_MAX or negative[-1] > INT16_MAX + 1):
        raise SmecError(
            f"{pattern.bits}-bit {pattern.sign} weights do not fit 16-bit integers",
            expected="at most 15 bits (differential, polarized) or 16 bits (offset, twos-complement)",
        )
    return positive, negative


@cache
def _lookup(pattern: Pattern) -> tuple[np.ndarray, np.ndarray]:
    """For k = 0, 1, ...: the integer nearest to every x with (k - 1) / 2 < x <= k / 2, and the one nearest to -x."""
    positive, negative = _halves(pattern)
    # x = k / 2 stands for its interval: a midpoint can only lie at the closed end, where the smaller magnitude wins.
    x = np.arange(2 * max(positive[-1], negative[-1]) + 1) / 2
    dtype = np.int16 if positive[-1] <= INT16_MAX else np.int32
    tables = []
    for side, factor in ((positive, 1), (negative, -1)):
        middle = (side[1:] + side[:-1]) / 2
        tables.append((factor * side[np.searchsorted(middle, x, side="left")]).astype(dtype))
    return tables[0], tables[1]


# -- registry ----------------------------------------------------------------------------------------------------------


REGISTRY = Registry("pattern", Pattern, ENTRY_POINT_GROUP, is_name=lambda name: ":" not in name)

#: Pattern classes that have been imported, by name.
PATTERNS = REGISTRY.known


def register_pattern(cls: PatternT) -> PatternT:
    """Class decorator: make a pattern known by its name.

    Raises:
        SmecError: the class is no frozen dataclass with a name, or the name is taken.
    """
    REGISTRY.register(cls)
    return cls


def pattern_names() -> list[str]:
    """The names of all patterns that are built in, registered, or offered by an installed package."""
    return REGISTRY.names()


def pattern_class(name: str) -> type[Pattern]:
    """The pattern class called `name`.

    Raises:
        SmecError: no such pattern, or the package that offers it cannot be imported.
    """
    return REGISTRY.find(name)


def parse(text: str, bits: int = 8, sign: str = "differential", options: Mapping[str, int] | None = None) -> Pattern:
    """The pattern that `text` names: a name, or a name and the values of its own options, as in `window:3`.

    Args:
        text: see above.
        bits, sign: as in `Pattern`.
        options: values by option name, for options that `text` leaves out; those a pattern does not have are ignored.

    Raises:
        SmecError: unknown pattern, or an option that it does not have or cannot be.
    """
    name, *values = text.split(":")
    cls = pattern_class(name)
    own = own_options(cls)
    if len(values) > len(own):
        raise SmecError(f"pattern '{name}' has too many options", expected=f"at most {len(own)}", found=text)
    chosen: dict[str, int] = {f.name: options[f.name] for f in own if options and f.name in options}
    for option, value in zip(own, values, strict=False):
        try:
            chosen[option.name] = int(value)
        except ValueError:
            raise SmecError(
                f"option '{option.name}' of pattern '{name}' is no integer", expected="an integer", found=repr(value)
            ) from None
    return cls(bits=bits, sign=sign, **chosen)


# -- the patterns of DESIGN 2 ------------------------------------------------------------------------------------------


@register_pattern
@dataclass(frozen=True)
class Uniform(Pattern):
    """All magnitudes 0 .. 2^N - 1."""

    name = "uniform"

    def magnitudes(self, bits: int) -> Iterable[int]:
        return range(1 << bits)


@register_pattern
@dataclass(frozen=True)
class Window(Pattern):
    """Non-zero bits lie within `window` consecutive positions that start at the leading one (SME; S = 3).

    Source: SME, IEEE TCAD 2023, doi 10.1109/tcad.2022.3172907.
    """

    name = "window"

    window: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.window < 1:
            raise SmecError("window pattern needs a positive width", expected="S >= 1", found=self.window)

    def magnitudes(self, bits: int) -> Iterable[int]:
        width = min(self.window, bits)
        return (m << k for m in range(1 << width) for k in range(bits - width + 1))


@register_pattern
@dataclass(frozen=True)
class Pot(Pattern):
    """Zero and the powers of two."""

    name = "pot"

    def magnitudes(self, bits: int) -> Iterable[int]:
        return (1 << k for k in range(bits))


@register_pattern
@dataclass(frozen=True)
class Apot(Pattern):
    """Sums of at most `terms` powers of two: at most n one-bits, anywhere."""

    name = "apot"

    terms: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.terms < 1:
            raise SmecError("apot pattern needs at least one term", expected="n >= 1", found=self.terms)

    def magnitudes(self, bits: int) -> Iterable[int]:
        return (m for m in range(1 << bits) if m.bit_count() <= self.terms)


@register_pattern
@dataclass(frozen=True)
class External(Pattern):
    """Integers that the model already carries: every magnitude is allowed, and nothing is rounded that is integer."""

    name = "external"

    def magnitudes(self, bits: int) -> Iterable[int]:
        return range(1 << bits)
