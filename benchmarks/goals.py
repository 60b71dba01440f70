"""Medians, ranges and ratios, and the goals that they meet."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.workloads import Goal


@dataclass(frozen=True)
class Spread:
    """Median and range of repeated measurements.

    Attributes:
        median: Median.
        low: Minimum.
        high: Maximum.
        n: Number of measurements.
    """

    median: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        """Median and range, as short as the numbers allow."""
        digits = 0 if self.median >= 100 else 1 if self.median >= 10 else 2
        return f"{self.median:,.{digits}f} ({self.low:,.{digits}f} to {self.high:,.{digits}f})"


def spread(values: Sequence[float]) -> Spread:
    """Return the median and range of at least one value."""
    return Spread(statistics.median(values), min(values), max(values), len(values))


@dataclass(frozen=True)
class GoalResult:
    """A goal with the measured value.

    Attributes:
        figure: Description of the measured quantity.
        goal: Description of the goal.
        value: Measured value; None if it could not be measured.
        met: Whether the value reaches the goal; None without a value.
        text: Value with its unit.
    """

    figure: str
    goal: str
    value: float | None
    met: bool | None
    text: str

    @property
    def status(self) -> str:
        """`met`, `not met` or `not measured`."""
        return "not measured" if self.met is None else "met" if self.met else "not met"


def at_least(figure: str, value: float | None, goal: float) -> GoalResult:
    """Compare a ratio with its minimum."""
    met = None if value is None else value >= goal
    return GoalResult(figure, f"at least {goal:.2f}", value, met, "" if value is None else f"{value:.2f}")


def at_most(figure: str, value: float | None, goal: float, unit: str) -> GoalResult:
    """Compare an amount with its maximum."""
    met = None if value is None else value <= goal
    return GoalResult(figure, f"at most {goal:.4g} {unit}", value, met, "" if value is None else f"{value:.4g} {unit}")


LETTERS = {
    "bare": "(a)",
    "bare_same": "(b)",
    "common": "(c)",
    "opsin": "(d)",
    "opsin_uncached": "(d) with `feature_cache=off`",
}


def goal_results(goals: Sequence[Goal], medians: Mapping[str, Mapping[str, float | None]]) -> list[GoalResult]:
    """Return the ratio of medians for every goal whose workload was measured.

    Args:
        goals: The goals.
        medians: Images/s by workload and contender; None if a contender could not be measured.
    """
    found = []
    for goal in goals:
        if goal.workload not in medians:
            continue
        above, below = (medians[goal.workload].get(name) for name in (goal.faster, goal.slower))
        ratio = above / below if above is not None and below else None
        name = f"{LETTERS[goal.faster]} / {LETTERS[goal.slower]} {goal.workload}"
        found.append(at_least(name, ratio, goal.at_least))
    return found
