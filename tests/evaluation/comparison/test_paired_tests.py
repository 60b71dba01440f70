from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from made_runs import made_run
from scipy import stats

from opsin.evaluation.comparison.leaderboard import leaderboard
from opsin.evaluation.comparison.paired_tests import PairwiseResult, pairwise_results


def pattern(both: int, only_first: int, only_second: int, neither: int) -> tuple[list[bool], list[bool]]:
    first = [True] * both + [True] * only_first + [False] * only_second + [False] * neither
    second = [True] * both + [False] * only_first + [True] * only_second + [False] * neither
    return first, second


def compare_recipes(
    tmp_path: Path, recipes: Sequence[Sequence[Sequence[bool]]], metric: str = "test/acc", seed: int = 0
) -> list[PairwiseResult]:
    """Compare recipes, each given by the images that each of its seeds classifies correctly."""
    runs = [
        made_run(tmp_path / f"{i}_{j}", correct, overrides=[f"seed={j + seed * i}", f"optimizer.lr={i + 1}"])
        for i, recipe in enumerate(recipes)
        for j, correct in enumerate(recipe)
    ]
    return pairwise_results(leaderboard(runs, metric))


def test_two_networks_are_compared_by_mcnemars_exact_test(tmp_path: Path) -> None:
    first, second = pattern(900, 40, 15, 45)
    (result,) = compare_recipes(tmp_path, [[first], [second]])
    assert result.p == result.p_adjusted == pytest.approx(stats.binomtest(15, 55, 0.5).pvalue)
    assert (result.difference.estimate, result.images) == (pytest.approx(0.025), 1000)
    assert 0 < result.difference.low < 0.025 < result.difference.high < 0.05
    assert result.conclusion == "A is better than B"
    assert (
        "A classifies 94.00 % of 1,000 test images correctly, B 91.50 %. The difference is 2.50 percentage points"
        in result.explanation
    )
    assert "Only A classifies 40 images correctly, only B 15 images" in result.explanation
    assert "To compare the recipes, train several seeds of each" in result.explanation


def test_a_difference_that_chance_explains_is_not_significant(tmp_path: Path) -> None:
    first, second = pattern(900, 20, 15, 65)
    (result,) = compare_recipes(tmp_path, [[first], [second]])
    assert result.better is None
    assert result.conclusion == "No significant difference between A and B"


def test_identical_predictions_do_not_differ(tmp_path: Path) -> None:
    (result,) = compare_recipes(tmp_path, [[[True, False]], [[True, False]]])
    assert (result.p, result.better, result.difference) == (1.0, None, (0.0, 0.0, 0.0))


def test_the_more_accurate_row_is_better_with_any_ranking_metric(tmp_path: Path) -> None:
    first, second = pattern(800, 80, 20, 100)
    runs = [
        made_run(tmp_path / "worse", second, config={"a": 1}, result={"metrics": {"test/loss": 0.1}}),
        made_run(tmp_path / "better", first, config={"a": 2}, result={"metrics": {"test/loss": 0.2}}),
    ]
    (result,) = pairwise_results(leaderboard(runs, "test/loss"))
    assert result.a.runs[0].run.path.name == "worse"
    assert result.conclusion == "B is better than A"
    assert (
        "B classifies 88.00 % of 1,000 test images correctly, A 82.00 %. The difference is 6.00 percentage points"
        in result.explanation
    )
    assert "interval +4.2" in result.explanation


def test_seeds_are_paired_and_tested_by_students_t(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    first, second = (rng.random((4, 500)) < share for share in (0.95, 0.8))
    (result,) = compare_recipes(tmp_path, [first.tolist(), second.tolist()])
    expected = stats.ttest_rel(first.mean(1), second.mean(1))
    assert result.p == pytest.approx(expected.pvalue)
    assert result.difference_over_seeds is not None
    interval = expected.confidence_interval()
    assert result.difference_over_seeds[1:] == pytest.approx((interval.low, interval.high))
    assert len(result.run_pairs) == 4
    assert result.images == 500  # four seeds do not make four times the images
    assert result.difference.estimate == pytest.approx(first.mean() - second.mean())
    assert "So the difference holds for the recipes" in result.explanation


def test_unpaired_seeds_are_tested_by_welch(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    first, second = (rng.random((3, 500)) < share for share in (0.95, 0.8))
    (result,) = compare_recipes(tmp_path, [first.tolist(), second.tolist()], seed=10)
    expected = stats.ttest_ind(first.mean(1), second.mean(1), equal_var=False)
    interval = expected.confidence_interval()
    assert not result.paired
    assert result.p == pytest.approx(expected.pvalue)
    assert result.difference_over_seeds is not None
    assert result.difference_over_seeds[1:] == pytest.approx((interval.low, interval.high))


def test_two_seeds_with_the_same_difference_are_not_significant(tmp_path: Path) -> None:
    first, second = pattern(300, 3, 0, 57)
    (result,) = compare_recipes(tmp_path, [[first, first], [second, second]])
    assert result.p > 0.1
    assert result.better is None


def test_a_difference_smaller_than_seed_variation_is_not_significant(tmp_path: Path) -> None:
    best, worst = [True] * 99 + [False], [True] * 60 + [False] * 40
    middle = [True] * 75 + [False] * 25
    (result,) = compare_recipes(tmp_path, [[best, middle], [worst, middle]])
    assert result.difference.low > 0
    assert result.better is None
    assert "the variation between seeds is too large" in result.explanation


def test_p_is_adjusted_for_all_pairs_of_rows_because_the_images_determine_the_best(tmp_path: Path) -> None:
    base = [True] * 100
    others = [[False] * n + [True] * (100 - n) for n in (6, 7, 12)]
    found = compare_recipes(tmp_path, [[base], *[[other] for other in others]])
    raw = [2 * 0.5**n for n in (6, 7, 12)]
    assert [result.p for result in found] == pytest.approx(raw)
    assert [result.p_adjusted for result in found] == pytest.approx([4 * raw[0], 5 * raw[1], 6 * raw[2]])
    assert {result.comparisons for result in found} == {6}
    assert "adjusted for 6 pairs of rows by Holm's method" in found[0].explanation


@pytest.mark.parametrize(("shared", "pairs", "paired"), [(0, 3, False), (1, 3, False), (2, 2, True), (3, 3, True)])
def test_seeds_that_are_partly_shared_give_as_many_pairs_as_possible(
    tmp_path: Path, shared: int, pairs: int, paired: bool
) -> None:
    rng = np.random.default_rng(0)
    first, second = (rng.random((3, 300)) < share for share in (0.95, 0.8))
    (result,) = compare_recipes(tmp_path, [first.tolist(), second.tolist()], seed=3 - shared)
    assert (len(result.run_pairs), result.paired) == (pairs, paired)
    assert "train several seeds" not in result.explanation


def test_split_off_images_are_compared_per_seed(tmp_path: Path) -> None:
    first, second = pattern(80, 15, 1, 4)
    runs = [
        made_run(
            tmp_path / f"{lr}_{seed}",
            correct,
            overrides=[f"seed={seed}", f"optimizer.lr={lr}"],
            images=f"of {seed}",
            origin="carved",
        )
        for lr, correct in ((1, first), (2, second))
        for seed in (0, 1, 2)
    ]
    (result,) = pairwise_results(leaderboard(runs))
    assert result.images == 300
    assert [(pair.a.repetition, pair.b.repetition) for pair in result.run_pairs] == [((s, 0), (s, 0)) for s in range(3)]


def test_a_comparison_on_val_warns_about_selection(tmp_path: Path) -> None:
    first, second = pattern(80, 15, 1, 4)
    runs = [
        made_run(tmp_path / str(i), correct, config={"a": i}, split="val") for i, correct in enumerate((first, second))
    ]
    (result,) = pairwise_results(leaderboard(runs, "val/acc"))
    assert "The best epochs were selected on the same images" in result.explanation


@pytest.mark.parametrize("gains", [(12, -6, -6), (6, -12, 6), (7, -3, -4), (0, 0, 0)])
def test_a_difference_of_zero_has_no_minus_sign(gains: Sequence[int], tmp_path: Path) -> None:
    pairs = [pattern(80 - abs(gain), max(gain, 0), max(-gain, 0), 20) for gain in gains]
    (result,) = compare_recipes(tmp_path, [[first for first, _ in pairs], [second for _, second in pairs]])
    assert "The difference is 0.00 percentage points" in result.explanation
    assert "is +0.00 points" in result.explanation
