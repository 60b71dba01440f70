from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from made_runs import made_run
from scipy import stats

from opsin.evaluation.comparison.leaderboard import leaderboard
from opsin.evaluation.comparison.paired_tests import PairwiseResult, verdicts


def pattern(both: int, only_first: int, only_second: int, neither: int) -> tuple[list[bool], list[bool]]:
    first = [True] * both + [True] * only_first + [False] * only_second + [False] * neither
    second = [True] * both + [False] * only_first + [True] * only_second + [False] * neither
    return first, second


def of(
    tmp_path: Path, recipes: Sequence[Sequence[Sequence[bool]]], metric: str = "test/acc", seed: int = 0
) -> list[PairwiseResult]:
    """Verdicts of recipes, each with the images that each of its seeds tells rightly."""
    runs = [
        made_run(tmp_path / f"{i}_{j}", correct, words=[f"seed={j + seed * i}", f"optimizer.lr={i + 1}"])
        for i, recipe in enumerate(recipes)
        for j, correct in enumerate(recipe)
    ]
    return verdicts(leaderboard(runs, metric))


def test_two_networks_are_told_apart_by_mcnemars_exact_test(tmp_path: Path) -> None:
    first, second = pattern(900, 40, 15, 45)
    (verdict,) = of(tmp_path, [[first], [second]])
    assert verdict.p == verdict.adjusted == pytest.approx(stats.binomtest(15, 55, 0.5).pvalue)
    assert (verdict.gain.estimate, verdict.images) == (pytest.approx(0.025), 1000)
    assert 0 < verdict.gain.low < 0.025 < verdict.gain.high < 0.05
    assert verdict.answer == "A is better than B"
    assert "A tells 94.00 % of 1,000 test images rightly and B 91.50 %: 2.50 points more" in verdict.reasons
    assert "40 images are right with A alone and 15 with B alone" in verdict.reasons
    assert "whether the recipe is better takes several seeds" in verdict.reasons


def test_a_difference_that_chance_explains_is_not_shown(tmp_path: Path) -> None:
    first, second = pattern(900, 20, 15, 65)
    (verdict,) = of(tmp_path, [[first], [second]])
    assert verdict.better is None
    assert verdict.answer == "No difference between A and B is shown"


def test_the_same_predictions_are_no_difference(tmp_path: Path) -> None:
    (verdict,) = of(tmp_path, [[[True, False]], [[True, False]]])
    assert (verdict.p, verdict.better, verdict.gain) == (1.0, None, (0.0, 0.0, 0.0))


def test_the_more_accurate_one_is_better_whatever_ranks_them(tmp_path: Path) -> None:
    first, second = pattern(800, 80, 20, 100)
    runs = [
        made_run(tmp_path / "worse", second, config={"a": 1}, result={"metrics": {"test/loss": 0.1}}),
        made_run(tmp_path / "better", first, config={"a": 2}, result={"metrics": {"test/loss": 0.2}}),
    ]
    (verdict,) = verdicts(leaderboard(runs, "test/loss"))
    assert verdict.a.runs[0].run.path.name == "worse"
    assert verdict.answer == "B is better than A"
    assert "B tells 88.00 % of 1,000 test images rightly and A 82.00 %: 6.00 points more" in verdict.reasons
    assert "interval +4.2" in verdict.reasons


def test_seeds_are_paired_and_tested_by_students_t(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    first, second = (rng.random((4, 500)) < share for share in (0.95, 0.8))
    (verdict,) = of(tmp_path, [first.tolist(), second.tolist()])
    expected = stats.ttest_rel(first.mean(1), second.mean(1))
    assert verdict.p == pytest.approx(expected.pvalue)
    assert verdict.over_seeds is not None
    interval = expected.confidence_interval()
    assert verdict.over_seeds[1:] == pytest.approx((interval.low, interval.high))
    assert len(verdict.duels) == 4
    assert verdict.images == 500  # four seeds do not make four times the images
    assert verdict.gain.estimate == pytest.approx(first.mean() - second.mean())
    assert "So it holds for the recipes" in verdict.reasons


def test_other_seeds_are_tested_by_welch(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    first, second = (rng.random((3, 500)) < share for share in (0.95, 0.8))
    (verdict,) = of(tmp_path, [first.tolist(), second.tolist()], seed=10)
    expected = stats.ttest_ind(first.mean(1), second.mean(1), equal_var=False)
    interval = expected.confidence_interval()
    assert not verdict.paired
    assert verdict.p == pytest.approx(expected.pvalue)
    assert verdict.over_seeds is not None
    assert verdict.over_seeds[1:] == pytest.approx((interval.low, interval.high))


def test_two_seeds_that_differ_alike_prove_nothing(tmp_path: Path) -> None:
    first, second = pattern(300, 3, 0, 57)
    (verdict,) = of(tmp_path, [[first, first], [second, second]])
    assert verdict.p > 0.1
    assert verdict.better is None


def test_seeds_that_vary_more_than_recipes_leave_it_open(tmp_path: Path) -> None:
    best, worst = [True] * 99 + [False], [True] * 60 + [False] * 40
    middle = [True] * 75 + [False] * 25
    (verdict,) = of(tmp_path, [[best, middle], [worst, middle]])
    assert verdict.gain.low > 0
    assert verdict.better is None
    assert "seeds vary too much" in verdict.reasons


def test_p_is_adjusted_for_the_number_of_comparisons(tmp_path: Path) -> None:
    base = [True] * 100
    others = [[False] * n + [True] * (100 - n) for n in (6, 7, 12)]
    found = of(tmp_path, [[base], *[[other] for other in others]])
    raw = [2 * 0.5**n for n in (6, 7, 12)]
    assert [verdict.p for verdict in found] == pytest.approx(raw)
    assert [verdict.adjusted for verdict in found] == pytest.approx([2 * raw[1], 2 * raw[1], 3 * raw[2]])
    assert {verdict.comparisons for verdict in found} == {3}
    assert "when adjusted for 3 comparisons by Holm's method" in found[0].reasons


def test_carved_images_are_compared_seed_by_seed(tmp_path: Path) -> None:
    first, second = pattern(80, 15, 1, 4)
    runs = [
        made_run(
            tmp_path / f"{lr}_{seed}",
            correct,
            words=[f"seed={seed}", f"optimizer.lr={lr}"],
            images=f"of {seed}",
            origin="carved",
        )
        for lr, correct in ((1, first), (2, second))
        for seed in (0, 1, 2)
    ]
    (verdict,) = verdicts(leaderboard(runs))
    assert verdict.images == 300
    assert [(duel.a.repetition, duel.b.repetition) for duel in verdict.duels] == [((s, 0), (s, 0)) for s in range(3)]


def test_images_that_chose_the_epoch_are_said_to_have(tmp_path: Path) -> None:
    first, second = pattern(80, 15, 1, 4)
    runs = [
        made_run(tmp_path / str(i), correct, config={"a": i}, split="val") for i, correct in enumerate((first, second))
    ]
    (verdict,) = verdicts(leaderboard(runs, "val/acc"))
    assert "The best epochs were chosen on these very images" in verdict.reasons
