"""Pairs of runs of two recipes, tested on the same images (`opsin.evaluation.significance`), and the result as text."""

import math
from dataclasses import dataclass, replace

from opsin.evaluation.comparison.leaderboard import Leaderboard, LeaderboardRow
from opsin.evaluation.comparison.run_records import RunRecord
from opsin.evaluation.confidence_intervals import Interval
from opsin.evaluation.significance import (
    LEVEL,
    CorrectPair,
    McNemarResult,
    accuracy_difference,
    adjusted_by_holm,
    excludes_zero,
    is_significant,
)
from opsin.runs.predictions import Predictions


@dataclass(frozen=True)
class RunPair:
    """One run of row A and one run of row B, tested on the same images."""

    a: RunRecord
    b: RunRecord
    test: McNemarResult


@dataclass(frozen=True)
class PairwiseResult:
    """Comparison of the accuracy of two rows of one group.

    Attributes:
        a: The row that is ranked higher.
        b: The other row.
        split: Split of the images: test or val.
        images: Number of images; images of different splits (seeds, folds) count separately.
        accuracy: Accuracy of a and of b, averaged over the run pairs.
        run_pairs: One run of each row, with the same seed if both rows have it.
        difference: Accuracy of a minus accuracy of b, with the 95 % interval of the paired bootstrap over images. It
            holds for these trained networks.
        difference_over_seeds: The same difference, with the 95 % interval of Student's t over seeds. It holds for the
            recipes. None if there are fewer than two run pairs.
        paired: Whether the run pairs have the same seeds.
        p: Two-sided p, from McNemar's exact test for one run pair, and from Student's t test over seeds for several.
        p_adjusted: p adjusted by Holm's method for all pairs of rows within this group.
        comparisons: Number of these pairs.
    """

    a: LeaderboardRow
    b: LeaderboardRow
    split: str
    images: int
    accuracy: tuple[float, float]
    run_pairs: tuple[RunPair, ...]
    difference: Interval
    difference_over_seeds: Interval | None
    paired: bool
    p: float
    p_adjusted: float
    comparisons: int = 1

    @property
    def significant(self) -> bool:
        """Whether the difference is larger than chance explains."""
        return is_significant(self.p_adjusted, len(self.run_pairs), self.difference)

    @property
    def better(self) -> LeaderboardRow | None:
        """The more accurate row; None if the difference is not significant."""
        return (self.a if self.difference.estimate > 0 else self.b) if self.significant else None

    @property
    def conclusion(self) -> str:
        """The conclusion in one clause."""
        if self.better is not None:
            other = self.b if self.better is self.a else self.a
            return f"{self.better.letter} is better than {other.letter}"
        return f"No significant difference between {self.a.letter} and {self.b.letter}"

    @property
    def explanation(self) -> str:
        """The numbers behind the conclusion, and its limits."""
        return " ".join(part for part in (self._accuracies(), self._test(), self._limits()) if part)

    def _accuracies(self) -> str:
        a, b = self.accuracy
        first, second = (self.a, self.b) if a >= b else (self.b, self.a)
        gain = self.difference if a >= b else _negated(self.difference)
        runs = f" (mean over {len(self.run_pairs)} pairs of runs)" if len(self.run_pairs) > 1 else ""
        if len(self.run_pairs) == 1 and len(self.a.runs) + len(self.b.runs) > 2:
            runs = f" (runs {self.run_pairs[0].a.run.path.name} and {self.run_pairs[0].b.run.path.name})"
        return (
            f"{first.letter} classifies {100 * max(a, b):.2f} % of {self.images:,} {self.split} images correctly, "
            f"{second.letter} {100 * min(a, b):.2f} %{runs}. The difference is {100 * gain.estimate:z.2f} percentage "
            f"points, {_points(gain)} by the paired bootstrap over images."
        )

    def _test(self) -> str:
        adjusted = ""
        if self.comparisons > 1:
            adjusted = f" ({p_text(self.p_adjusted)} adjusted for {self.comparisons} pairs of rows by Holm's method)"
        if len(self.run_pairs) == 1:
            test = self.run_pairs[0].test
            return (
                f"Only {self.a.letter} classifies {_images(test.only_a)} correctly, only {self.b.letter} "
                f"{_images(test.only_b)}: {p_text(self.p)}{adjusted} by McNemar's exact test."
            )
        assert self.difference_over_seeds is not None
        kind = "paired" if self.paired else "Welch's"
        return (
            f"Over {len(self.run_pairs)} {'seeds' if self.paired else 'runs each'}, {self.a.letter} minus "
            f"{self.b.letter} is {100 * self.difference_over_seeds.estimate:+z.2f} points, "
            f"{_points(self.difference_over_seeds)}, {p_text(self.p)}{adjusted} by the {kind} t test."
        )

    def _limits(self) -> str:
        if self.split == "val":
            return "The best epochs were selected on the same images; rank by test/acc for an unbiased comparison."
        if len(self.run_pairs) == 1:
            return "This compares two trained networks. To compare the recipes, train several seeds of each."
        if len({pair.a.repetition[1] for pair in self.run_pairs}) > 1:
            return "Folds share training images, so the true p is larger than the p over folds."
        if self.significant:
            return "So the difference holds for the recipes, not only for these networks."
        if self.p_adjusted < LEVEL:
            return "The difference is consistent over seeds, but there are too few images to confirm it."
        if excludes_zero(self.difference):
            return "These networks differ, but the variation between seeds is too large to say the same of the recipes."
        return ""


def pairwise_results(board: Leaderboard) -> list[PairwiseResult]:
    """Compare the best row of each group with every other row of the group.

    p is adjusted for all pairs of rows, because the same images determine which row is the best.
    """
    found = []
    for i in range(len(board.groups)):
        rows = board.rows_in(i)
        results = [_compared(rows[0], row, board.split) for row in rows[1:]]
        pairs = math.comb(len(rows), 2)
        adjusted = adjusted_by_holm([result.p for result in results], pairs)
        found += [replace(result, p_adjusted=p, comparisons=pairs) for result, p in zip(results, adjusted, strict=True)]
    return found


def _compared(a: LeaderboardRow, b: LeaderboardRow, split: str) -> PairwiseResult:
    pairs, paired = _pairs(a, b, split)
    correct = [
        CorrectPair(
            str(run_a.images_digest(split)), _predictions(run_a, split).correct, _predictions(run_b, split).correct
        )
        for run_a, run_b in pairs
    ]
    found = accuracy_difference(correct, paired)
    run_pairs = tuple(RunPair(*pair, test) for pair, test in zip(pairs, found.tests, strict=True))
    over_images, over_runs = found.over_images, found.over_runs
    return PairwiseResult(
        a, b, split, found.images, found.accuracy, run_pairs, over_images, over_runs, paired, found.p, found.p
    )


def _pairs(a: LeaderboardRow, b: LeaderboardRow, split: str) -> tuple[list[tuple[RunRecord, RunRecord]], bool]:
    """Pair runs measured on the same images: by seed and fold, or in their order if only that gives several pairs."""
    others = {run.repetition: run for run in b.runs}
    same = [(run, others[run.repetition]) for run in a.runs if run.repetition in others]
    same = [(run, other) for run, other in same if run.images_digest(split) == other.images_digest(split)]
    left, in_order = list(b.runs), []
    for run in a.runs:
        other = next((other for other in left if other.images_digest(split) == run.images_digest(split)), None)
        if other is not None:
            left.remove(other)
            in_order.append((run, other))
    by_seed = len(same) > 1 or (len(same) == 1 and len(in_order) == 1)
    return (same, True) if by_seed else (in_order, False)


def _predictions(run: RunRecord, split: str) -> Predictions:
    predictions = run.predictions(split)
    assert predictions is not None, "rows of a group have predictions"
    return predictions


def _negated(interval: Interval) -> Interval:
    return Interval(-interval.estimate, -interval.high, -interval.low)


def _images(count: int) -> str:
    return f"{count:,} image{'' if count == 1 else 's'}"


def _points(interval: Interval) -> str:
    return f"95 % interval {100 * interval.low:+z.2f} to {100 * interval.high:+z.2f}"


def p_text(value: float) -> str:
    """Return p as text."""
    return "p < 0.0001" if value < 0.0001 else f"p = {value:.4f}" if value < 0.1 else f"p = {value:.2f}"
