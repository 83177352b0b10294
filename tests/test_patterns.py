"""Patterns: their sets, exact nearest points, registry and text."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smec.ir.errors import SmecError
from smec.passes import patterns
from smec.passes.patterns import Apot, External, Pattern, Pot, Uniform, Window, parse, register_pattern

SIGNS = st.sampled_from(patterns.SIGNS)


@st.composite
def any_pattern(draw: st.DrawFn) -> Pattern:
    text = draw(st.sampled_from(["uniform", "window", "window:2", "window:5", "pot", "apot", "apot:3", "external"]))
    return parse(text, draw(st.integers(1, 12)), draw(SIGNS))


finite = st.floats(-1e6, 1e6, width=32)
scales = st.floats(2.0**-10, 1024, width=32)


def brute_force(points: np.ndarray, value: float, scale: float) -> int:
    """The nearest point in exact arithmetic; of two, the smaller magnitude."""
    x = Fraction(float(value)) / Fraction(float(scale))
    return min((int(p) for p in points), key=lambda p: (abs(x - p), abs(p)))


def test_sets_of_the_design_page() -> None:
    assert len(set(Window().magnitudes(8))) == 28  # DESIGN 2: zero included, N = 8, S = 3
    assert sorted(set(Pot().magnitudes(4))) == [1, 2, 4, 8]
    assert sorted(set(Apot(terms=2).magnitudes(4))) == [0, 1, 2, 3, 4, 5, 6, 8, 9, 10, 12]
    assert Uniform(bits=3).points().tolist() == list(range(-7, 8))
    assert Window(bits=2, window=3).points().tolist() == list(range(-3, 4))


def test_windows_start_at_the_leading_one() -> None:
    for m in set(Window(window=3).magnitudes(8)) - {0}:
        assert m % (1 << max(0, m.bit_length() - 3)) == 0


@pytest.mark.parametrize("sign", ["offset", "twos-complement"])
def test_signed_codes_have_one_more_negative_point(sign: str) -> None:
    assert Uniform(bits=8, sign=sign).points().tolist() == list(range(-128, 128))
    assert Pot(bits=4, sign=sign).points().tolist() == [-8, -4, -2, -1, 0, 1, 2, 4]
    assert Pot(bits=4, sign=sign).largest == (4, 8)


def test_unsigned_points() -> None:
    assert Uniform(bits=2, sign="unsigned").points().tolist() == [0, 1, 2, 3]
    assert Uniform(bits=2, sign="unsigned").project(np.array([-9.0, 2.4]), 1.0).tolist() == [0, 2]
    assert Uniform(bits=16, sign="unsigned").project(np.array([1e9]), 1.0).tolist() == [65535]


@given(any_pattern(), st.lists(finite, min_size=1, max_size=20), scales)
def test_projection_is_the_nearest_point(pattern: Pattern, values: list[float], scale: float) -> None:
    found = pattern.project(np.array(values, np.float32), scale)
    expected = [brute_force(pattern.points(), v, scale) for v in values]
    assert found.tolist() == expected


@given(any_pattern(), scales, st.data())
def test_projection_at_and_beside_midpoints(pattern: Pattern, scale: float, data: st.DataObject) -> None:
    points = pattern.points()
    if len(points) < 2:
        return
    i = data.draw(st.integers(0, len(points) - 2))
    middle = np.float32(float(points[i] + points[i + 1]) / 2 * scale)
    values = np.array([middle, np.nextafter(middle, np.float32(-np.inf)), np.nextafter(middle, np.float32(np.inf))])
    assert pattern.project(values, scale).tolist() == [brute_force(points, v, scale) for v in values]


@given(any_pattern(), scales)
def test_projection_is_idempotent(pattern: Pattern, scale: float) -> None:
    points = pattern.points()
    assert pattern.project(points.astype(np.float64) * scale, scale).tolist() == points.tolist()
    again = pattern.project(pattern.project(points / 3, 1.0), 1.0)
    assert again.tolist() == pattern.project(points / 3, 1.0).tolist()


@given(any_pattern(), st.lists(finite, min_size=1, max_size=20), scales, st.integers(-20, 20))
def test_projection_is_scale_equivariant(pattern: Pattern, values: list[float], scale: float, power: int) -> None:
    array, factor = np.array(values, np.float64), 2.0**power
    assert pattern.project(array * factor, scale * factor).tolist() == pattern.project(array, scale).tolist()


def test_ties_go_to_the_smaller_magnitude() -> None:
    assert Uniform().project(np.array([0.5, 1.5, -0.5, -1.5]), 1.0).tolist() == [0, 1, 0, -1]
    assert Pot().project(np.array([3.0, -3.0, 6.0]), 1.0).tolist() == [2, -2, 4]


def test_scales_broadcast() -> None:
    values = np.array([[1.0, 2.0], [1.0, 2.0]])
    assert Uniform().project(values, np.array([[1.0], [0.5]])).tolist() == [[1, 2], [2, 4]]


def test_values_beyond_the_set_saturate() -> None:
    assert Uniform().project(np.array([np.inf, -np.inf, 1e30]), 1e-3).tolist() == [255, -255, 255]


def test_invalid_values_and_scales_are_diagnosed() -> None:
    with pytest.raises(SmecError, match="NaN"):
        Uniform().project(np.array([1.0, np.nan]), 1.0)
    for scale in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(SmecError, match="scale must be positive"):
            Uniform().project(np.array([1.0]), scale)


@pytest.mark.parametrize("text", ["uniform", "window", "window:2", "pot", "apot", "apot:4", "external"])
def test_text_round_trip(text: str) -> None:
    assert parse(text).text() == text


def test_options_by_name_apply_where_the_text_is_silent() -> None:
    options = {"window": 2, "terms": 3}
    assert parse("window", options=options) == Window(window=2)
    assert parse("window:4", options=options) == Window(window=4)
    assert parse("uniform", 4, "offset", options) == Uniform(bits=4, sign="offset")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("widow", "unknown pattern 'widow'"),
        ("uniform:3", "too many options"),
        ("window:x", "no integer"),
        ("window:0", "positive width"),
        ("apot:0", "at least one term"),
    ],
)
def test_bad_text_is_diagnosed(text: str, message: str) -> None:
    with pytest.raises(SmecError, match=message):
        parse(text)


def test_bad_widths_and_signs_are_diagnosed() -> None:
    with pytest.raises(SmecError, match="invalid width"):
        Uniform(bits=17)
    with pytest.raises(SmecError, match="unknown sign scheme"):
        Uniform(sign="both")
    with pytest.raises(SmecError, match="do not fit 16-bit integers"):
        Uniform(bits=16).points()
    assert Uniform(bits=15).largest == (2**15 - 1, 2**15 - 1)
    assert Uniform(bits=16, sign="offset").largest == (2**15 - 1, 2**15)


def test_a_pattern_in_a_few_lines() -> None:
    @register_pattern
    @dataclass(frozen=True)
    class Even(Pattern):
        """Even magnitudes."""

        name = "even-test"

        def magnitudes(self, bits: int) -> Iterable[int]:
            return range(0, 1 << bits, 2)

    try:
        assert parse("even-test", 4).project(np.array([2.9, -7.2, 99.0]), 1.0).tolist() == [2, -8, 14]
        assert "even-test" in patterns.pattern_names()
        with pytest.raises(SmecError, match="is taken"):

            @register_pattern
            @dataclass(frozen=True)
            class Other(Even):
                """Another of the same name."""
    finally:
        del patterns.PATTERNS["even-test"]


def test_only_frozen_dataclasses_register() -> None:
    with pytest.raises(SmecError, match="not a frozen dataclass"):

        @register_pattern
        class Loose(Pattern):
            """Not a dataclass of its own."""

            name = "loose"


def test_magnitudes_are_checked() -> None:
    @dataclass(frozen=True)
    class Wide(Pattern):
        """Out of range on purpose."""

        name = "wide"

        def magnitudes(self, bits: int) -> Iterable[int]:
            return [1 << bits]

    with pytest.raises(SmecError, match="out of range"):
        Wide().points()
    assert External().project(np.array([1.0, -255.0]), 1.0).tolist() == [1, -255]
