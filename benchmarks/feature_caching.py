"""Gain of the feature cache per photograph: whole runs at two sizes, so that start-up does not count."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

from benchmarks.goals import LETTERS, GoalResult, at_least
from benchmarks.session import Session
from benchmarks.workloads import WORKLOADS

Counts = tuple[int, int, int]
SIZES: tuple[Counts, Counts] = ((100, 10, 10), (1000, 100, 100))
"""Numbers of photographs of train, val and test in the two runs of a comparison."""
QUICK_SIZES: tuple[Counts, Counts] = ((24, 6, 6), (48, 12, 12))

CACHED: dict[str, float] = {
    "resnet18_feature_extract": 8.0,
    "efficientnet_lite0_feature_extract": 8.0,
    "resnet18_partial": 2.0,
}
"""Lowest ratio of the seconds per photograph of the slower and the faster contender, by workload."""


@dataclass(frozen=True)
class Slope:
    """Whole runs at two sizes.

    Attributes:
        images: Training images at both sizes.
        seconds: Median seconds at both sizes.
    """

    images: tuple[int, int]
    seconds: tuple[float, float]

    @property
    def per_image(self) -> float:
        """Seconds for each further training image, with its share of validation and test images."""
        return (self.seconds[1] - self.seconds[0]) / (self.images[1] - self.images[0])


def feature_cache(session: Session, sizes: Sequence[Counts] = SIZES) -> tuple[dict[str, Any], list[GoalResult]]:
    """Compare seconds per photograph of ten epochs of each contender of the transfer workloads."""
    figures: dict[str, Any] = {}
    found, errors = [], []
    for workload in (workload for workload in WORKLOADS if workload.name in CACHED):
        slopes, failed = _slopes(session, workload.name, sizes)
        errors += failed
        figures[workload.name] = {name: slope and vars(slope) for name, slope in slopes.items()}
        slower, faster = (slopes[name] for name in workload.contenders)
        ratio = slower.per_image / faster.per_image if slower and faster else None
        letters = " / ".join(LETTERS[name] for name in workload.contenders)
        goal = at_least(f"seconds per photograph, {letters} {workload.name}", ratio, CACHED[workload.name])
        if slower and faster:
            text = f"{goal.text} ({1000 * slower.per_image:.0f} ms against {1000 * faster.per_image:.0f} ms)"
            goal = replace(goal, text=text)
        found.append(goal)
    return {**figures, "errors": errors}, found


def _slopes(session: Session, name: str, sizes: Sequence[Counts]) -> tuple[dict[str, Slope | None], list[str]]:
    """Return the slope of each contender of a workload, None for one that could not be measured, and the reasons."""
    original = next(workload for workload in WORKLOADS if workload.name == name)
    if session.quick:
        original, sizes = original.quick(), QUICK_SIZES
    seconds: dict[str, list[float]] = {contender: [] for contender in original.contenders}
    images, errors = [], []
    for number, counts in enumerate(sizes):
        workload = replace(original, name=f"{name}_{number}", counts=counts)
        measured, _, _ = session.measure(workload)
        images.append(counts[0])
        for contender, found in measured.items():
            if found.seconds:
                seconds[contender].append(median(found.seconds))
            if found.error:
                errors.append(f"{contender}, {workload.name}: {found.error}")
    slopes = {
        contender: Slope((images[0], images[1]), (spent[0], spent[1])) if len(spent) == 2 else None
        for contender, spent in seconds.items()
    }
    return slopes, errors
