import os
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
    runs = [made_run(tmp_path / f"a{seed}", right(n), words=[f"seed={seed}"]) for seed, n in enumerate(counts)]
    runs.append(made_run(tmp_path / "b", right(95), words=["optimizer.lr=0.1", "seed=0"]))
    board = leaderboard(runs)
    assert [(row.letter, row.rank, row.name, row.repeats) for row in board.rows] == [
        ("A", 1, "cnn_gap optimizer.lr=0.1", "1 run"),
        ("B", 2, "cnn_gap", "3 seeds"),
    ]
    values = np.array(counts) / 100
    low, high = stats.t.interval(0.95, 2, values.mean(), stats.sem(values))
    assert board.rows[1].metrics["test/acc"] == pytest.approx((values.mean(), low, high))
    assert np.isnan(board.rows[0].metrics["test/acc"].low)
    assert board.refusals() == []
    assert (board.rows[1].parameters, board.rows[1].images_per_second, board.rows[1].seconds) == (1000, 50.0, 12.5)


def test_a_repeated_seed_is_no_second_observation(tmp_path: Path) -> None:
    old, new = (made_run(tmp_path / name, right(n)) for name, n in (("old", 80), ("new", 90)))
    os.utime(old.result, (1, 1))
    board = leaderboard([new, old])
    assert [row.runs[0].run.path.name for row in board.rows] == ["new"]
    assert [record.run.path.name for record in board.repeated] == ["old"]


def test_less_loss_is_better_and_equal_rows_share_a_rank(tmp_path: Path) -> None:
    for name, n in (("x", 80), ("y", 95), ("z", 80)):
        made_run(tmp_path / name, right(n), config={"model.of": name})
    runs = [RunDirectory(tmp_path / name) for name in "xyz"]
    board = leaderboard(runs, "test/loss")
    assert board.mode == "min"
    assert [(row.rank, row.metrics["test/acc"].estimate) for row in board.rows] == [(1, 0.95), (2, 0.8), (2, 0.8)]
    assert len({row.name for row in board.rows}) == 3


def test_rows_of_other_test_images_are_not_ranked_together(tmp_path: Path) -> None:
    for seed in (0, 1):
        for lr in (0.1, 0.2):
            words = [f"seed={seed}", f"optimizer.lr={lr}"]
            images = f"images of seed {seed}"
            made_run(tmp_path / f"{lr}_{seed}", right(90), words=words, images=images, origin="carved")
    made_run(tmp_path / "0.3_0", right(99), words=["optimizer.lr=0.3"], images="images of seed 0", origin="carved")
    board = leaderboard([RunDirectory(path) for path in sorted(tmp_path.iterdir())])
    # The same two divisions: ranked together. One of them alone: other images.
    assert [(row.letter, row.rank, row.board) for row in board.rows] == [("A", 1, 0), ("B", 1, 0), ("C", 1, 1)]
    (refusal,) = board.refusals()
    assert refusal.startswith("Not ranked together, because their test images differ: A, B on digits (100 images")
    assert "carved by seed 0, 1); C on digits (100 images, carved by seed 0)" in refusal
    assert "same datamodule.split_seed" in refusal


def test_other_datasets_are_not_told_to_share_a_split(tmp_path: Path) -> None:
    made_run(tmp_path / "a", right(90), images="a")
    other = DataFacts(name="mnist", counts={"test": 100}, origin={"test": "given"})
    made_run(tmp_path / "b", right(90), images="b", choices={"datamodule": "mnist"}, result={"data": other})
    board = leaderboard([RunDirectory(tmp_path / name) for name in "ab"])
    (refusal,) = board.refusals()
    assert "split_seed" not in refusal
    assert {row.name for row in board.rows} == {"cnn_gap"}  # what differs between boards sets no row apart
    assert [row.rank for row in board.rows] == [1, 1]


def test_without_predictions_or_metric_there_is_no_rank(tmp_path: Path) -> None:
    made_run(tmp_path / "a", right(90))
    made_run(tmp_path / "b", None, config={"model.of": 1}, result={"metrics": {"test/acc": 0.99}})
    made_run(tmp_path / "c", None, config={"model.of": 2}, result={"metrics": {"val/acc": 0.99}})
    made_run(tmp_path / "d", result={"status": "failed", "metrics": {}})
    board = leaderboard([RunDirectory(tmp_path / name) for name in "abcd"])
    assert [row.rank for row in board.rows] == [1, None, None]
    unknown, lacking = board.refusals()
    assert f"python scripts/evaluate.py {tmp_path / 'b'} --split test makes them" in unknown
    assert lacking.endswith("is not ranked: it has no test/acc.")
    assert [record.status for record in board.others] == ["failed"]


def test_seeds_whose_given_images_changed_are_not_averaged(tmp_path: Path) -> None:
    for seed in (0, 1):
        made_run(tmp_path / str(seed), right(90 + seed), words=[f"seed={seed}"], images=f"at that time {seed}")
    board = leaderboard([RunDirectory(tmp_path / name) for name in "01"])
    assert [(row.repeats, row.board) for row in board.rows] == [("1 run", 0), ("1 run", 1)]
    assert "their test images differ" in board.refusals()[0]


def test_a_metric_that_nobody_has_is_said(tmp_path: Path) -> None:
    run = made_run(tmp_path / "a", right(90))
    with pytest.raises(UserError, match=r"test/ac: no finished run has it: did you mean test/acc\? There are test/acc"):
        leaderboard([run], "test/ac")


def test_folds_are_one_row(tmp_path: Path) -> None:
    runs = [
        made_run(tmp_path / str(fold), right(90 + fold), config={"datamodule.num_folds": 3, "datamodule.fold": fold})
        for fold in range(3)
    ]
    (row,) = leaderboard(runs).rows
    assert row.repeats == "3 folds"
    assert [run.repeat for run in row.runs] == ["seed 0, fold 0", "seed 0, fold 1", "seed 0, fold 2"]
