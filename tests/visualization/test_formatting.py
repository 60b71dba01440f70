"""Formatting of numbers, durations and names."""

import math

import pytest

from opsin.visualization.formatting import NONE, decimal, number, percent, seconds, shortened


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.5, "50 %"),
        (0.98765, "98.77 %"),
        (0.9899, "98.99 %"),
        (0.9899999999999999, "99 %"),
        (0.123456, "12.3 %"),
        (0.004, "0.40 %"),
        (1.0, "100 %"),
        (0.99999, "100.00 %"),
        (0.0, "0 %"),
        (-0.05, "-5 %"),
        (math.nan, NONE),
        (1e308, NONE),
        (None, NONE),
    ],
)
def test_percentages(value: float | None, text: str) -> None:
    assert percent(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1234567, "1,234,567"),
        (0.123456, "0.1235"),
        (12345.6, "12,346"),
        (2.0, "2"),
        (math.inf, "∞"),
        (10**400, f"{10**400:,}"),
        (None, NONE),
    ],
)
def test_numbers(value: float | None, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("value", "places", "text"),
    [(3.0, 2, "3"), (-0.25, 2, "-0.25"), (1.204, 2, "1.2"), (-0.001, 2, "0"), (100.0, 1, "100"), (12.6, 0, "13")],
)
def test_decimals_have_no_trailing_zeros(value: float, places: int, text: str) -> None:
    assert decimal(value, places) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (3.14, "3.1 s"),
        (59.97, "1 min 00 s"),
        (188, "3 min 08 s"),
        (3725, "1 h 02 min"),
        (math.nan, NONE),
        (math.inf, NONE),
        (None, NONE),
    ],
)
def test_durations(value: float | None, text: str) -> None:
    assert seconds(value) == text


def test_names_are_shortened_in_the_middle() -> None:
    assert shortened("short", 5) == "short"
    assert shortened("/a/long/path/image_0815.png", 11) == "/a/lo…5.png"
    assert len(shortened("x" * 99, 12)) == 12
