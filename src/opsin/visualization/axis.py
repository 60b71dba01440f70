"""Scales of chart axes and their ticks."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

LARGEST = 1e100
"""Largest absolute value that has a position; differences and ticks of values near the largest float overflow."""

SAME = 1e-9
"""Relative difference up to which values count as equal: rounding errors are no curve, and ticks are rounded too."""


@dataclass(frozen=True)
class Scale:
    """The scale of an axis: maps values to positions.

    Attributes:
        low: The value at `start`.
        high: The value at `end`.
        start: Position of `low` in units of the chart.
        end: Position of `high` in units of the chart.
        log: Whether the scale is logarithmic.
        ticks: The labeled values.
    """

    low: float
    high: float
    start: float
    end: float
    log: bool
    ticks: tuple[float, ...]

    def __call__(self, value: float) -> float:
        """Return the position of a value."""
        bend: Callable[[float], float] = math.log10 if self.log else float
        share = (bend(value) - bend(self.low)) / (bend(self.high) - bend(self.low))
        return round(self.start + share * (self.end - self.start), 2)

    def holds(self, value: float | None) -> bool:
        """Return whether a value has a position."""
        return has_position(value, self.log)


def has_position(value: float | None, log: bool) -> bool:
    """Return whether a value can be drawn on an axis; NaN cannot."""
    return value is not None and abs(value) <= LARGEST and (not log or value >= 1 / LARGEST)


def scale(
    values: Sequence[float | None], start: float, end: float, *, log: bool = False, integer: bool = False, most: int = 5
) -> Scale:
    """Return a scale for some values that begins and ends at ticks.

    Args:
        values: The values; None and values without a position are ignored.
        start: Position of the lowest value in units of the chart.
        end: Position of the highest value in units of the chart.
        log: Use a logarithmic scale; values of 0 and below have no position.
        integer: Use whole numbers as ticks, and begin and end at the values, for epochs.
        most: Approximate number of ticks.
    """
    from matplotlib.ticker import LogLocator, MaxNLocator

    known = [value for value in values if value is not None and has_position(value, log)]
    low, high = (min(known), max(known)) if known else (1.0, 2.0)
    if high - low <= SAME * max(abs(low), abs(high)):
        room = max(1.0, abs(low) * SAME) if integer else abs(low) / 10 or 1.0
        low, high = low - room * (integer or low != 0), high + room * (integer or high != 1)
    if log and high / low >= 10:
        subs = (1.0,) if high / low >= 1000 else (1.0, 3.0)
        ticks = [float(tick) for tick in LogLocator(subs=subs).tick_values(low, high)]
        inside = [tick for tick in ticks if low <= tick <= high]
        return Scale(low, high, start, end, True, tuple(inside[:: max(1, math.ceil(len(inside) / most))]))
    steps = [1, 2, 5, 10] if integer else [1, 2, 2.5, 5, 10]
    found = MaxNLocator(most, steps=steps, integer=integer).tick_values(low, high)
    ticks = [float(f"{tick:.12g}") for tick in found]  # rounds 0.30000000000000004 to 0.3
    if not integer and not log:
        # Fractions stay within 0 and 1, and an axis extends below 0 only if values do.
        low = max(ticks[0], 0.0) if low >= 0 else ticks[0]
        high = 1.0 if known and max(known) <= 1 < ticks[-1] else ticks[-1]
    return Scale(low, high, start, end, log, tuple(tick for tick in ticks if low <= tick <= high))
