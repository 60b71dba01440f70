"""Is one recipe better than another? Paired tests on the same images, and over seeds, answered in words."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from opsin.evaluation.comparison.leaderboard import Leaderboard, LeaderboardRow
from opsin.evaluation.comparison.run_records import RunRecord
from opsin.evaluation.confidence_intervals import Interval
from opsin.evaluation.significance import Comparison, bootstrap_difference, mcnemar
from opsin.runs.predictions import Predictions

LEVEL = 0.05
"""A difference counts as shown where its p, adjusted for the number of comparisons, lies below."""


@dataclass(frozen=True)
class RunPair:
    """One run of A and one of B, on the same images."""

    a: RunRecord
    b: RunRecord
    test: Comparison


@dataclass(frozen=True)
class PairwiseResult:
    """How two rows of one board compare, by the share of images that they tell rightly.

    Attributes:
        a: The row that stands higher.
        b: The other.
        split: Of the images.
        images: How many there are, over all divisions.
        accuracy: Of a and of b on them, the mean over the duels.
        duels: A run of each, of the same seed where both have it.
        gain: Accuracy of a minus that of b, its 95 % interval by the paired bootstrap over images: for these networks.
        over_seeds: The same, its interval by Student's t over seeds: for the recipes. None: fewer than two duels.
        paired: Whether the duels are of the same seeds.
        p: Two-sided: McNemar's exact one of a single duel, Student's t over seeds of several.
        adjusted: p by Holm's method, for all comparisons of this board.
        comparisons: How many these are.
    """

    a: LeaderboardRow
    b: LeaderboardRow
    split: str
    images: int
    accuracy: tuple[float, float]
    duels: tuple[RunPair, ...]
    gain: Interval
    over_seeds: Interval | None
    paired: bool
    p: float
    adjusted: float
    comparisons: int = 1

    @property
    def shown(self) -> bool:
        """Whether the one that is more accurate here is better beyond what chance explains."""
        by_images = self.gain.low > 0 or self.gain.high < 0
        return self.adjusted < LEVEL and (len(self.duels) == 1 or by_images)

    @property
    def better(self) -> LeaderboardRow | None:
        """The better row; None where no difference is shown."""
        return (self.a if self.gain.estimate > 0 else self.b) if self.shown else None

    @property
    def answer(self) -> str:
        """The answer in a few words."""
        if self.better is not None:
            other = self.b if self.better is self.a else self.a
            return f"{self.better.letter} is better than {other.letter}"
        return f"No difference between {self.a.letter} and {self.b.letter} is shown"

    @property
    def reasons(self) -> str:
        """What the answer rests on, and what it does not say."""
        return " ".join(part for part in (self._measured(), self._tested(), self._meaning()) if part)

    def _measured(self) -> str:
        a, b = self.accuracy
        first, second = (self.a, self.b) if a >= b else (self.b, self.a)
        gain = self.gain if a >= b else Interval(-self.gain.estimate, -self.gain.high, -self.gain.low)
        seeds = f" (mean over {len(self.duels)} pairs of runs)" if len(self.duels) > 1 else ""
        if len(self.duels) == 1 and len(self.a.runs) + len(self.b.runs) > 2:
            seeds = f" (in {self.duels[0].a.run.path.name} and {self.duels[0].b.run.path.name})"
        return (
            f"{first.letter} tells {100 * max(a, b):.2f} % of {self.images:,} {self.split} images rightly and "
            f"{second.letter} {100 * min(a, b):.2f} %{seeds}: {100 * gain.estimate:.2f} points more, {_points(gain)} "
            "by the paired bootstrap over images."
        )

    def _tested(self) -> str:
        adjusted = ""
        if self.comparisons > 1:
            adjusted = f" ({_p(self.adjusted)} when adjusted for {self.comparisons} comparisons by Holm's method)"
        if len(self.duels) == 1:
            test = self.duels[0].test
            return (
                f"{test.only_a:,} images are right with {self.a.letter} alone and {test.only_b:,} with {self.b.letter} "
                f"alone: McNemar's exact {_p(self.p)}{adjusted}."
            )
        assert self.over_seeds is not None
        kind = "paired " if self.paired else "Welch's "
        return (
            f"Over {len(self.duels)} {'seeds' if self.paired else 'runs each'} {self.a.letter} minus {self.b.letter} "
            f"is {100 * self.over_seeds.estimate:+.2f} points, {_points(self.over_seeds)} by the {kind}t test: "
            f"{_p(self.p)}{adjusted}."
        )

    def _meaning(self) -> str:
        by_images = self.gain.low > 0 or self.gain.high < 0
        if self.split == "val":
            return "The best epochs were chosen on these very images: --metric test/acc asks others."
        if len(self.duels) == 1:
            return "This compares two trained networks; whether the recipe is better takes several seeds of each."
        if len({duel.a.repetition[1] for duel in self.duels}) > 1:
            return "Folds share training images, so p over folds is smaller than it should be."
        if self.shown:
            return "So it holds for the recipes, as far as these seeds tell."
        if self.adjusted < LEVEL:
            return "All seeds agree, but these are too few images to tell."
        return "These networks differ, but seeds vary too much to say it of the recipes." if by_images else ""


def verdicts(board: Leaderboard) -> list[PairwiseResult]:
    """The best row of each board against every other row of it.

    p is adjusted for the number of these comparisons (Holm 1979, Scandinavian Journal of Statistics 6, 65-70).
    """
    found = []
    for i in range(len(board.boards)):
        rows = board.on(i)
        found.extend(_adjusted([_verdict(rows[0], row, board.split) for row in rows[1:]]))
    return found


def _adjusted(verdicts: Sequence[PairwiseResult]) -> list[PairwiseResult]:
    count, least = len(verdicts), 0.0
    adjusted = {}
    for place, i in enumerate(sorted(range(count), key=lambda i: verdicts[i].p)):
        least = max(least, min(1.0, (count - place) * verdicts[i].p))
        adjusted[i] = least
    return [replace(verdict, adjusted=adjusted[i], comparisons=count) for i, verdict in enumerate(verdicts)]


def _verdict(a: LeaderboardRow, b: LeaderboardRow, split: str) -> PairwiseResult:
    pairs, paired = _pairs(a, b, split)
    right: dict[str, list[tuple[NDArray[np.bool_], NDArray[np.bool_]]]] = {}
    duels = []
    for run_a, run_b in pairs:
        in_a, in_b = _kept(run_a, split).correct, _kept(run_b, split).correct
        right.setdefault(str(run_a.images(split)), []).append((in_a, in_b))
        duels.append(RunPair(run_a, run_b, mcnemar(in_a, in_b)))
    # What several seeds make of the same image is one observation: their mean, and not one image more.
    mean_a, mean_b = (
        np.concatenate([np.mean([pair[side] for pair in same], axis=0) for same in right.values()]) for side in (0, 1)
    )
    gain = bootstrap_difference(mean_b, mean_a)
    over_seeds, p = None, duels[0].test.p
    if len(duels) > 1:
        tests = [duel.test for duel in duels]
        counts = np.array(
            [[t.both + t.only_a, t.both + t.only_b, t.both + t.only_a + t.only_b + t.neither] for t in tests]
        )
        over_seeds, p = _over_seeds(counts[:, 0] / counts[:, 2], counts[:, 1] / counts[:, 2], paired, 1 / counts[0, 2])
    accuracy = (float(mean_a.mean()), float(mean_b.mean()))
    return PairwiseResult(a, b, split, len(mean_a), accuracy, tuple(duels), gain, over_seeds, paired, p, p)


def _pairs(a: LeaderboardRow, b: LeaderboardRow, split: str) -> tuple[list[tuple[RunRecord, RunRecord]], bool]:
    """A run of each on the same images: of the same seed and fold where both have one, else in their order."""
    others = {run.repetition: run for run in b.runs}
    same = [(run, others[run.repetition]) for run in a.runs if run.repetition in others]
    same = [(run, other) for run, other in same if run.images(split) == other.images(split)]
    if same:
        return same, True
    left, pairs = list(b.runs), []
    for run in a.runs:
        other = next((other for other in left if other.images(split) == run.images(split)), None)
        if other is not None:
            left.remove(other)
            pairs.append((run, other))
    return pairs, False


def _over_seeds(a: NDArray[np.float64], b: NDArray[np.float64], paired: bool, image: float) -> tuple[Interval, float]:
    """Mean of a minus mean of b with its 95 % interval and p by Student's t: paired, or Welch's.

    Two seeds can differ alike to the last image by chance; so the spread is taken to be at least that of one image.
    """
    count, middle = len(a), float(a.mean() - b.mean())
    if paired:
        variance, freedom = max(float((a - b).var(ddof=1)), image**2) / count, count - 1.0
    else:
        parts = [max(float(values.var(ddof=1)), image**2) / count for values in (a, b)]
        variance = sum(parts)
        freedom = variance**2 / sum(part**2 / (count - 1) for part in parts)
    error = math.sqrt(variance)
    reach = float(stats.t.ppf(0.975, freedom)) * error
    return Interval(middle, middle - reach, middle + reach), float(2 * stats.t.sf(abs(middle) / error, freedom))


def _kept(run: RunRecord, split: str) -> Predictions:
    predictions = run.predictions(split)
    assert predictions is not None, "rows of a board have predictions"
    return predictions


def _points(interval: Interval) -> str:
    return f"95 % interval {100 * interval.low:+.2f} to {100 * interval.high:+.2f}"


def _p(value: float) -> str:
    return "p < 0.0001" if value < 0.0001 else f"p = {value:.4f}" if value < 0.1 else f"p = {value:.2f}"
