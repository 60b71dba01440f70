"""Values to places along an axis, and the values that are labelled there."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """Values to places along one axis.

    Attributes:
        low: The value at `start`.
        high: The value at `end`.
        start: In units of the chart.
        end: Likewise.
        log: Whether equal steps are equal factors.
        ticks: The values that are labelled.
    """

    low: float
    high: float
    start: float
    end: float
    log: bool
    ticks: tuple[float, ...]

    def __call__(self, value: float) -> float:
        """The place of a value."""
        bend: Callable[[float], float] = math.log10 if self.log else float
        share = (bend(value) - bend(self.low)) / (bend(self.high) - bend(self.low))
        return round(self.start + share * (self.end - self.start), 2)

    def holds(self, value: float | None) -> bool:
        """Whether a value has a place."""
        return value is not None and math.isfinite(value) and (value > 0 or not self.log)


def scale(
    values: Sequence[float | None], start: float, end: float, *, log: bool = False, integer: bool = False, most: int = 5
) -> Scale:
    """A scale over some values, from tick to tick.

    Args:
        values: To be shown; those that have no place do not count.
        start: Place of the lowest, in units of the chart.
        end: Of the highest.
        log: Equal steps are equal factors; values of 0 and below have no place.
        integer: Ticks are whole numbers, and the ends are the values' own: for epochs.
        most: About how many ticks.
    """
    from matplotlib.ticker import LogLocator, MaxNLocator

    known = [value for value in values if value is not None and math.isfinite(value) and (value > 0 or not log)]
    low, high = (min(known), max(known)) if known else (1.0, 2.0)
    if low == high:
        room = 1.0 if integer else abs(low) / 10 or 1.0
        low, high = low - room * (integer or low != 0), high + room * (integer or high != 1)
    if log and high / low >= 10:
        subs = (1.0,) if high / low >= 1000 else (1.0, 3.0)
        ticks = [float(tick) for tick in LogLocator(subs=subs).tick_values(low, high)]
        inside = [tick for tick in ticks if low <= tick <= high]
        return Scale(low, high, start, end, True, tuple(inside[:: max(1, math.ceil(len(inside) / most))]))
    steps = [1, 2, 5, 10] if integer else [1, 2, 2.5, 5, 10]
    found = MaxNLocator(most, steps=steps, integer=integer).tick_values(low, high)
    ticks = [float(f"{tick:.12g}") for tick in found]  # 0.1 + 0.2 is 0.3 here
    if not integer and not log:
        # Shares stay within 0 and 1, and an axis goes below 0 only where values do.
        low = max(ticks[0], 0.0) if low >= 0 else ticks[0]
        high = 1.0 if known and max(known) <= 1 < ticks[-1] else ticks[-1]
    return Scale(low, high, start, end, log, tuple(tick for tick in ticks if low <= tick <= high))
