"""Validation within an epoch: its steps, best checkpoint, early stopping, and an exact resume."""

from pathlib import Path
from typing import Any

import pytest
import torch

from opsin.commands.train import train
from opsin.config import compose, from_saved
from opsin.errors import Interrupted, UserError
from opsin.runs.directory import RunDirectory
from opsin.runs.metrics_csv import read_epochs
from opsin.training.validation_schedule import validation_steps

WORDS = (
    *("model=simple_cnn", "augmentation=digits", "scheduler=plateau", "scheduler.patience=0", "trainer=cpu"),
    *("datamodule.batch_size=64", "datamodule.train_fraction=0.2", "trainer.max_epochs=3"),  # five steps per epoch
    *("callbacks=no_pictures", "callbacks.progress.bar=false", "logger=none", "report=false"),
)
EVERY_SECOND_STEP = "trainer.val_check_interval=2"
EPOCHS = [0.4, 0.8, 1, 1.4, 1.8, 2, 2.4, 2.8, 3]
STEPS = [2, 4, 5, 7, 9, 10, 12, 14, 15]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def whole(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """An uninterrupted run."""
    return start(data_dir, tmp_path_factory.mktemp("whole"), EVERY_SECOND_STEP)


def start(data_dir: Path, folder: Path, *words: str) -> RunDirectory:
    run = folder / "outputs" / "run"
    run.mkdir(parents=True)
    train(compose([*WORDS, f"data_dir={data_dir}", f"output_dir={folder / 'outputs'}", *words], run))
    return RunDirectory(run)


def weights(checkpoint: Path) -> dict[str, Any]:
    return torch.load(checkpoint, weights_only=True)["state_dict"]


@pytest.mark.parametrize(
    ("interval", "steps", "expected"),
    [
        (0.5, 10, [5, 10]),
        (0.25, 18, [4, 9, 14, 18]),
        (0.3, 10, [3, 6, 9, 10]),
        (1 / 3, 9, [3, 6, 9]),
        (0.01, 3, [1, 2, 3]),
        (1.0, 7, [7]),
        (3, 7, [3, 6, 7]),
        (7, 7, [7]),
        (1, 3, [1, 2, 3]),
    ],
)
def test_validation_steps_follow_from_the_interval(interval: int | float, steps: int, expected: list[int]) -> None:
    assert validation_steps(interval, steps) == expected


def test_each_validation_has_a_row_and_the_best_of_all_is_tested(whole: RunDirectory) -> None:
    rows, result = read_epochs(whole.metrics), whole.read_result()
    assert [row.epoch for row in rows] == EPOCHS
    assert [row.step for row in rows] == STEPS
    for row in rows:
        assert (row.get("train/loss") is not None) == isinstance(row.epoch, int)
        assert row.get("val/loss") is not None
    best = min(rows, key=lambda row: row.values["val/loss"])
    assert (result.best_epoch, result.monitor.best) == (best.epoch, best.get("val/loss"))
    assert result.metrics["val/loss"] == best.get("val/loss")
    assert result.epochs == 3
    assert torch.load(whole.best, weights_only=True)["global_step"] == best.step


def test_validating_more_often_does_not_change_the_training(
    whole: RunDirectory, data_dir: Path, tmp_path: Path
) -> None:
    by_epoch = start(data_dir, tmp_path)
    ends = [row for row in read_epochs(whole.metrics) if isinstance(row.epoch, int)]
    assert read_epochs(by_epoch.metrics) == ends
    last, other = weights(whole.last), weights(by_epoch.last)
    assert all(torch.equal(last[key], other[key]) for key in last)


@pytest.mark.slow
@pytest.mark.parametrize(("step", "how"), [(4, "SIGINT"), (5, "SIGTERM"), (6, "SIGINT"), (8, "error"), (10, "error")])
def test_a_run_resumed_from_any_step_is_bit_identical(
    step: int, how: str, whole: RunDirectory, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPSIN_TARGETS", "interruptions")
    stop = f"+callbacks.stop={{_target_: interruptions.StopAt, step: {step}, how: {how}}}"
    with pytest.raises((Interrupted, RuntimeError)):
        start(data_dir, tmp_path, EVERY_SECOND_STEP, stop)
    run = RunDirectory(tmp_path / "outputs" / "run")
    reached = torch.load(run.last, weights_only=True)["global_step"]
    assert reached == {4: 4, 5: 5, 6: 6, 8: 7, 10: 9}[step]
    train(from_saved(run, ["callbacks.stop=null"]))
    assert run.metrics.read_text() == whole.metrics.read_text()
    assert run.read_result().metrics == whole.read_result().metrics
    for file in ("best", "last"):
        one, other = weights(getattr(run, file)), weights(getattr(whole, file))
        assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.slow
def test_early_stopping_counts_validations_and_more_patience_completes_the_epoch(
    data_dir: Path, tmp_path: Path
) -> None:
    diverging = ("optimizer.lr=0.1", EVERY_SECOND_STEP)
    patient = ("callbacks.early_stopping.patience=20", *diverging)
    words = ("callbacks.early_stopping.patience=1", *diverging)
    run = start(data_dir, tmp_path / "a", *words)
    result, rows = run.read_result(), read_epochs(run.metrics)
    assert "has not improved for 1 validation" in result.stopped
    values = [row.values["val/loss"] for row in rows]
    assert values[-1] >= min(values[:-1])
    assert values[:-1] == sorted(values[:-1], reverse=True)
    assert result.epochs == rows[-1].epoch
    train(from_saved(run, ["callbacks.early_stopping.patience=20"]))
    other = start(data_dir, tmp_path / "b", *patient)
    assert run.metrics.read_text() == other.metrics.read_text()


@pytest.mark.slow
def test_validations_follow_complete_optimizer_steps(data_dir: Path, tmp_path: Path) -> None:
    run = start(data_dir, tmp_path, "trainer.accumulate_grad_batches=2", "trainer.val_check_interval=0.3")
    assert [row.step for row in read_epochs(run.metrics)] == [1, 2, 3, 4, 5, 6, 7, 8, 9]


def test_an_interval_above_an_epoch_is_refused_before_the_first_step(data_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"val_check_interval=6 is above the 5 steps of an epoch"):
        start(data_dir, tmp_path, "trainer.val_check_interval=6")
    assert not (tmp_path / "outputs" / "run" / "checkpoints").exists()


def test_another_interval_is_refused_on_resume(whole: RunDirectory) -> None:
    with pytest.raises(UserError, match=r"val_check_interval=0.5 cannot be changed on resume: .*validations"):
        train(from_saved(whole, ["trainer.val_check_interval=0.5", "trainer.max_epochs=4"]))


def written(run: RunDirectory) -> set[str]:
    """Return the splits with scores of each class, and those with predictions."""
    folders = {"per_class": "scores", "predictions": "predictions"}
    return {f"{folders[name]} of {file.stem}" for name in folders for file in (run.path / name).glob("*.npz")}


@pytest.mark.slow
def test_predictions_and_scores_belong_to_the_best_epoch(data_dir: Path, tmp_path: Path) -> None:
    """An epoch without validation becomes the best after one with validation, in a run that is resumed."""
    words = ("monitor.metric=train/loss", "trainer.check_val_every_n_epoch=2", "trainer.max_epochs=2")
    run = start(data_dir, tmp_path, *words)
    assert run.read_result().best_epoch == 2
    test = {"scores of test", "predictions of test"}
    assert written(run) == {"scores of train", "scores of val", "predictions of val"} | test
    train(from_saved(run, ["trainer.max_epochs=3"]))
    result = run.read_result()
    assert result.best_epoch == 3
    assert not [name for name in result.metrics if name.startswith("val/")]
    assert written(run) == {"scores of train"} | test
    assert result.calibration.reason == "val was not measured at the best epoch, so there is nothing to fit it on"
    assert result.calibration.temperature == 1


def test_a_best_epoch_within_an_epoch_has_no_scores_of_train(data_dir: Path, tmp_path: Path) -> None:
    """The training metrics of the epoch before it are those of other weights."""
    run = start(data_dir, tmp_path, EVERY_SECOND_STEP, "trainer.max_steps=7")
    result = run.read_result()
    assert result.best_epoch == 1.4
    assert {name.split("/")[0] for name in result.metrics} == {"val", "test"}
    assert {name for name in written(run) if name.startswith("scores")} == {"scores of val", "scores of test"}


@pytest.mark.slow
def test_a_plateau_schedule_counts_the_validated_epochs_only(data_dir: Path, tmp_path: Path) -> None:
    words = (*("model=mlp", "augmentation=none", "trainer.check_val_every_n_epoch=2"), "trainer.max_epochs=4")
    whole = start(data_dir, tmp_path / "whole", *words)
    resumed = start(data_dir, tmp_path / "resumed", *words, "trainer.max_epochs=3")  # its last epoch has no validation
    seen = [torch.load(run.last, weights_only=True)["lr_schedulers"][0]["last_epoch"] for run in (whole, resumed)]
    assert seen == [2, 1]
    train(from_saved(resumed, ["trainer.max_epochs=4"]))
    states = [torch.load(run.last, weights_only=True) for run in (whole, resumed)]
    assert states[0]["lr_schedulers"] == states[1]["lr_schedulers"]
    assert all(torch.equal(value, states[1]["state_dict"][key]) for key, value in states[0]["state_dict"].items())
