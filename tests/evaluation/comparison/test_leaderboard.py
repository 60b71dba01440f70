from pathlib import Path

import numpy as np
import pytest
from made_runs import made_run
from scipy import stats

from opsin.errors import UserError
from opsin.evaluation.comparison.leaderboard import leaderboard
from opsin.runs.directory import RunDirectory
from opsin.runs.result import DataFacts


def right(count: int, of: int = 100) -> list[bool]:
    return [i < count for i in range(of)]


def test_seeds_are_one_row_with_their_mean_and_t_interval(tmp_path: Path) -> None:
    counts = (90, 94, 93)
    runs = [made_run(tmp_path / f"a{seed}", right(n), overrides=[f"seed={seed}"]) for seed, n in enumerate(counts)]
    runs.append(made_run(tmp_path / "b", right(95), overrides=["optimizer.lr=0.1", "seed=0"]))
    board = leaderboard(runs)
    assert [(row.letter, row.rank, row.name, row.repetitions) for row in board.rows] == [
        ("A", 1, "cnn_gap optimizer.lr=0.1", "1 run"),
        ("B", 2, "cnn_gap", "3 seeds"),
    ]
    values = np.array(counts) / 100
    low, high = stats.t.interval(0.95, 2, values.mean(), stats.sem(values))
    assert board.rows[1].metrics["test/acc"] == pytest.approx((values.mean(), low, high))
    assert np.isnan(board.rows[0].metrics["test/acc"].low)
    assert board.ranking_problems() == []
    assert (board.rows[1].parameters, board.rows[1].images_per_second, board.rows[1].seconds) == (1000, 50.0, 12.5)


def test_lower_loss_is_better_and_equal_rows_share_a_rank(tmp_path: Path) -> None:
    for name, n in (("x", 80), ("y", 95), ("z", 80)):
        made_run(tmp_path / name, right(n), config={"model.of": name})
    runs = [RunDirectory(tmp_path / name) for name in "xyz"]
    board = leaderboard(runs, "test/loss")
    assert not board.higher_is_better
    assert [(row.rank, row.metrics["test/acc"].estimate) for row in board.rows] == [(1, 0.95), (2, 0.8), (2, 0.8)]
    assert len({row.name for row in board.rows}) == 3


def test_rows_of_different_test_images_are_not_ranked_together(tmp_path: Path) -> None:
    for seed in (0, 1):
        for lr in (0.1, 0.2):
            words = [f"seed={seed}", f"optimizer.lr={lr}"]
            images = f"images of seed {seed}"
            made_run(tmp_path / f"{lr}_{seed}", right(90), overrides=words, images=images, origin="carved")
    made_run(tmp_path / "0.3_0", right(99), overrides=["optimizer.lr=0.3"], images="images of seed 0", origin="carved")
    board = leaderboard([RunDirectory(path) for path in sorted(tmp_path.iterdir())])
    # Rows with the same two splits are ranked together. The row with one of them is not.
    assert [(row.letter, row.rank, row.group) for row in board.rows] == [("A", 1, 0), ("B", 1, 0), ("C", 1, 1)]
    (problem,) = board.ranking_problems()
    assert problem.startswith("Not ranked together, because the test images differ: A, B on digits (100 images")
    assert "split off by seeds 0, 1); C on digits (100 images, split off by seed 0)" in problem
    assert "same datamodule.split_seed" in problem


def test_different_datasets_get_no_hint_about_split_seeds(tmp_path: Path) -> None:
    made_run(tmp_path / "a", right(90), images="a")
    other = DataFacts(name="mnist", counts={"test": 100}, origin={"test": "given"})
    made_run(tmp_path / "b", right(90), images="b", choices={"datamodule": "mnist"}, result={"data": other})
    board = leaderboard([RunDirectory(tmp_path / name) for name in "ab"])
    (problem,) = board.ranking_problems()
    assert "split_seed" not in problem
    assert {row.name for row in board.rows} == {"cnn_gap"}  # names distinguish rows within a group only
    assert [row.rank for row in board.rows] == [1, 1]


def test_rows_without_predictions_or_metric_are_not_ranked(tmp_path: Path) -> None:
    made_run(tmp_path / "a", right(90))
    made_run(tmp_path / "b", None, config={"model.of": 1}, result={"metrics": {"test/acc": 0.99}})
    made_run(tmp_path / "c", None, config={"model.of": 2}, result={"metrics": {"val/acc": 0.99}})
    made_run(tmp_path / "d", result={"status": "failed", "metrics": {}})
    made_run(tmp_path / "e", None, config={"model.of": 3}, result={"metrics": {"val/loss": 0.1}})
    board = leaderboard([RunDirectory(tmp_path / name) for name in "abcde"])
    assert [row.rank for row in board.rows] == [1, None, None, None]
    unknown, lacking, other = board.ranking_problems()
    assert other.endswith("is not ranked: it has no test/acc.")
    assert f"Create them with: opsin evaluate {tmp_path / 'b'} --split test" in unknown
    way_out = "Rank all by val/acc, which it has: --metric val/acc (in Python, metric='val/acc')."
    assert lacking.endswith(f"is not ranked: it has no test/acc. {way_out}")
    assert [record.status for record in board.without_result] == ["failed"]


def test_seeds_measured_on_different_images_are_not_averaged(tmp_path: Path) -> None:
    for seed in (0, 1):
        made_run(tmp_path / str(seed), right(90 + seed), overrides=[f"seed={seed}"], images=f"at that time {seed}")
    board = leaderboard([RunDirectory(tmp_path / name) for name in "01"])
    assert [(row.repetitions, row.group) for row in board.rows] == [("1 run", 0), ("1 run", 1)]
    assert "the test images differ" in board.ranking_problems()[0]


def test_an_unknown_metric_is_an_error(tmp_path: Path) -> None:
    run = made_run(tmp_path / "a", right(90))
    with pytest.raises(UserError, match=r"there is no metric test/ac: did you mean test/acc\?"):
        leaderboard([run], "test/ac")


def test_folds_are_one_row(tmp_path: Path) -> None:
    runs = [
        made_run(tmp_path / str(fold), right(90 + fold), config={"datamodule.num_folds": 3, "datamodule.fold": fold})
        for fold in range(3)
    ]
    (row,) = leaderboard(runs).rows
    assert row.repetitions == "3 folds"
    assert [run.repetition_text for run in row.runs] == ["seed 0, fold 0", "seed 0, fold 1", "seed 0, fold 2"]


def test_rows_with_different_losses_are_not_ranked_by_the_loss_without_a_warning(tmp_path: Path) -> None:
    made_run(tmp_path / "a", right(90), config={"loss.class_weights": "none"})
    made_run(tmp_path / "b", right(95), config={"loss.class_weights": "balanced"})
    made_run(tmp_path / "c", right(80), config={"loss.class_weights": "balanced"}, images="others")
    runs = [RunDirectory(tmp_path / name) for name in "abc"]
    (problem, _) = sorted(leaderboard(runs, "test/loss").ranking_problems(), key=lambda text: "images differ" in text)
    assert problem.startswith("test/loss does not show which row is better, because the rows measure different losses ")
    assert problem.endswith(
        "(loss.class_weights). Rank by another metric: --metric test/acc (in Python, metric='test/acc')."
    )
    assert len(leaderboard(runs).ranking_problems()) == 1
    assert leaderboard(runs[1:], "test/loss").ranking_problems()[0].startswith("Not ranked together")
