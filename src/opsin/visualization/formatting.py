"""Formatting of numbers and names in reports."""

import math
from collections.abc import Callable, Sequence

Text = Callable[[float | None], str]
"""A function that formats a value."""

NONE = "\N{EN DASH}"
"""Text for a missing value."""


def number(value: float | None) -> str:
    """Format a number with few digits; a dash for a missing value."""
    if value is None:
        return NONE
    if isinstance(value, int):
        return f"{value:,}"
    if math.isnan(value):
        return NONE
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"


def decimal(value: float, places: int = 2) -> str:
    """Format a number with few decimals and without trailing zeros: 3, -0.25, 1.2."""
    return f"{round(value, places) + 0.0:.{places}f}".rstrip("0").rstrip(".") if places else f"{round(value)}"


def percent(value: float | None) -> str:
    """Format a fraction as percent, with two decimals near 0 and 100 %."""
    if value is None or not math.isfinite(value * 100):
        return NONE
    if abs(value * 100 - round(value * 100)) < 1e-9:
        return f"{round(value * 100)} %"
    return f"{value:.{1 if 0.02 <= abs(value) <= 0.98 else 2}%}".replace("%", " %")


def seconds(value: float | None) -> str:
    """Format a duration: `12.3 s`, `4 min 10 s`, `2 h 05 min`."""
    if value is None or not math.isfinite(value):
        return NONE
    if round(value, 1) < 60:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest:02} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def size_text(shape: Sequence[int]) -> str:
    """Format the rows and columns of an array: `28 x 28`."""
    return f"{shape[0]} x {shape[1]}"


def split_name(split: str) -> str:
    """Return the full name of a split: `validation` for `val`."""
    return "validation" if split == "val" else split


def shortened(name: str, most: int) -> str:
    """Shorten a name in the middle to a maximum number of characters; the ends of file names differ most."""
    if len(name) <= most:
        return name
    head = (most - 1) // 2
    return f"{name[:head]}…{name[len(name) - (most - 1 - head) :]}"
