"""Numbers and names as a report writes them."""

import math
from collections.abc import Callable

Text = Callable[[float | None], str]
"""How a value is written."""

NONE = "\N{EN DASH}"
"""What stands where there is no number."""


def number(value: float | None) -> str:
    """A number in few digits; a dash where there is none."""
    if value is None or math.isnan(value):
        return NONE
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"


def percent(value: float | None) -> str:
    """A share as per cent, with as many digits as tell it from the whole."""
    if value is None or not math.isfinite(value):
        return NONE
    if abs(value * 100 - round(value * 100)) < 1e-9:
        return f"{round(value * 100)} %"
    return f"{value:.{1 if 0.02 <= abs(value) <= 0.98 else 2}%}".replace("%", " %")


def seconds(value: float | None) -> str:
    """A duration in words: `12.3 s`, `4 min 10 s`, `2 h 05 min`."""
    if value is None:
        return NONE
    if round(value, 1) < 60:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest:02} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def split_name(split: str) -> str:
    """A split in full: `validation` for `val`."""
    return "validation" if split == "val" else split


def shortened(name: str, most: int) -> str:
    """A name in at most so many characters: its middle is left out, for the ends of file names tell them apart."""
    if len(name) <= most:
        return name
    head = (most - 1) // 2
    return f"{name[:head]}…{name[len(name) - (most - 1 - head) :]}"
