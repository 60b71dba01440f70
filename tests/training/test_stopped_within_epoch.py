"""Training that a limit ends within an epoch: the end is validated, and a resume trains the rest of the epoch."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from small_fit import Linear, fit

from opsin.commands.train import train
from opsin.config import compose, from_saved
from opsin.runs.directory import RunDirectory
from opsin.runs.metrics_csv import read_epochs
from opsin.training.callbacks.base import EpochCallback, measurement_follows
from opsin.training.validation_schedule import ValidationSchedule

WORDS = (
    *("model=mlp", "scheduler=plateau", "scheduler.patience=0", "trainer=cpu", "trainer.max_epochs=2", "test=false"),
    *("datamodule.batch_size=64", "datamodule.train_fraction=0.2"),  # five steps per epoch
    *("callbacks=no_pictures", "callbacks.progress.bar=false", "logger=none", "report=false"),
)
UNVALIDATED = ("trainer.limit_val_batches=0", "monitor.metric=train/loss")
"""A run without validations."""


class Measured(EpochCallback):
    """Record the epochs of the measurements and their splits, and write a checkpoint after each."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.file = folder / "last.ckpt"
        self.found: list[tuple[float, str]] = []

    def on_measured(self, trainer: L.Trainer, pl_module: Any, epoch: float, metrics: dict[str, float]) -> None:
        self.found.append((epoch, "+".join(sorted({name.split("/")[0] for name in metrics}))))
        trainer.save_checkpoint(self.file)


def measurements(
    folder: Path, *, resume: bool = False, others: Sequence[L.Callback] = (), **options: Any
) -> list[tuple[float, str]]:
    """Train epochs of five batches, and return the measurements."""
    measured, chosen = Measured(folder), {"max_epochs": 2, **options}
    fit(folder, Linear(), measured, *others, batches=5, checkpoint=measured.file if resume else None, **chosen)
    return measured.found


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"max_steps": 8}, [(1, "train+val"), (1.6, "val")]),
        ({"max_steps": 3}, [(0.6, "val")]),
        ({"max_steps": 8, "check_val_every_n_epoch": 2}, [(1, "train"), (1.6, "val")]),
        ({"max_steps": 5, "check_val_every_n_epoch": 2}, [(1, "train+val")]),
        ({"max_steps": 2, "accumulate_grad_batches": 2}, [(0.8, "val")]),
        ({"max_steps": 8, "limit_val_batches": 0}, [(1, "train"), (1.6, "train")]),
        ({"max_epochs": 3, "check_val_every_n_epoch": 2}, [(1, "train"), (2, "train+val"), (3, "train")]),
    ],
)
def test_the_step_at_which_training_ends_is_measured(
    options: dict[str, Any], expected: list[tuple[float, str]], tmp_path: Path
) -> None:
    assert measurements(tmp_path, **options) == expected


def test_a_limit_of_time_in_an_epoch_without_validation_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elapsed = "lightning.pytorch.callbacks.Timer.time_elapsed"
    monkeypatch.setattr(elapsed, lambda self, stage="train": 1e9 if self.start_time() else 0.0)
    assert measurements(tmp_path, check_val_every_n_epoch=2, max_time="00:01:00:00") == [(0.2, "val")]


@pytest.mark.parametrize("accumulated", [1, 2, 3])
def test_a_limit_of_time_ends_training_after_a_complete_step(
    accumulated: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elapsed = "lightning.pytorch.callbacks.Timer.time_elapsed"
    monkeypatch.setattr(elapsed, lambda self, stage="train": 1e9 if self.start_time() else 0.0)
    found = measurements(tmp_path, accumulate_grad_batches=accumulated, max_time="00:01:00:00")
    assert found == [(accumulated / 5, "val")]


class Stop(L.Callback):
    """Stop training after a batch, counted from 1."""

    def __init__(self, batch: int) -> None:
        self.batch = batch

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        trainer.should_stop |= trainer.fit_loop.total_batch_idx + 1 == self.batch


@pytest.mark.parametrize(("batch", "end"), [(1, 0.4), (2, 0.4), (3, 0.8), (5, 1), (6, 1.4), (9, 1.8)])
def test_a_stop_of_any_callback_waits_for_a_complete_step(batch: int, end: float, tmp_path: Path) -> None:
    """The last step of an epoch of five batches has one batch."""
    assert measurements(tmp_path, others=[Stop(batch)], accumulate_grad_batches=2)[-1][0] == end


class Foretold(EpochCallback):
    """Record the steps after which a measurement follows, and those that were measured."""

    def __init__(self) -> None:
        super().__init__()
        self.foretold: list[int] = []
        self.measured: list[int] = []

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        self.foretold += [trainer.global_step] if measurement_follows(trainer) else []

    def on_measured(self, trainer: L.Trainer, pl_module: Any, epoch: float, metrics: dict[str, float]) -> None:
        self.measured.append(trainer.global_step)


@pytest.mark.parametrize("every", [1, 2, 3])
def test_a_measurement_is_foretold_where_a_validation_follows(every: int, tmp_path: Path) -> None:
    """Signals and step.ckpt rely on it."""
    watch = Foretold()
    measurements(tmp_path, others=[ValidationSchedule(2), watch], max_epochs=3, check_val_every_n_epoch=every)
    assert watch.foretold == watch.measured
    assert {2, 4} <= set(watch.measured) or every > 1


@pytest.mark.parametrize("first", [{"max_epochs": 1, "max_steps": 15}, {"max_steps": 5}, {"max_steps": 10}])
def test_a_resumed_run_with_a_limit_of_steps_reaches_its_last_epoch(first: dict[str, Any], tmp_path: Path) -> None:
    begun = measurements(tmp_path, **first)
    assert [*begun, *measurements(tmp_path, resume=True, max_epochs=3, max_steps=15)] == [
        (n, "train+val") for n in (1, 2, 3)
    ]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


def start(data_dir: Path, folder: Path, *words: str) -> RunDirectory:
    run = folder / "outputs" / "run"
    run.mkdir(parents=True)
    train(compose([*WORDS, f"data_dir={data_dir}", f"output_dir={folder / 'outputs'}", *words], run))
    return RunDirectory(run)


def places(run: RunDirectory) -> list[tuple[float, int]]:
    return [(row.epoch, row.step) for row in read_epochs(run.metrics)]


def last(run: RunDirectory) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(run.last, weights_only=True)
    return content


def assert_same_training(run: RunDirectory, other: RunDirectory) -> None:
    """Assert that two runs end with the same weights, optimizer, schedule, steps of curves and metrics of epochs."""
    one, two = last(run), last(other)
    for content in (one, two):
        content["optimizer_states"] = [state["state"] for state in content["optimizer_states"]]
    for key in ("state_dict", "optimizer_states"):
        torch.testing.assert_close(one[key], two[key], rtol=0, atol=0)
    assert [one[key] for key in ("lr_schedulers", "global_step")] == [
        two[key] for key in ("lr_schedulers", "global_step")
    ]
    progress = "epoch_loop.state_dict"
    assert one["loops"]["fit_loop"][progress] == two["loops"]["fit_loop"][progress]
    ends = [[row for row in read_epochs(each.metrics) if isinstance(row.epoch, int)] for each in (run, other)]
    assert ends[0] == ends[1]


@pytest.mark.slow
def test_the_end_of_training_is_validated_and_can_be_the_best(data_dir: Path, tmp_path: Path) -> None:
    run = start(data_dir, tmp_path, "trainer.max_steps=8", "trainer.check_val_every_n_epoch=2")
    result = run.read_result()
    assert places(run) == [(1, 5), (1.6, 8)]
    assert read_epochs(run.metrics)[-1].get("val/loss") == result.monitor.best
    assert (result.epochs, result.best_epoch) == (1.6, 1.6)
    assert torch.load(run.best, weights_only=True)["global_step"] == 8


@pytest.mark.slow
@pytest.mark.parametrize("words", [(), UNVALIDATED])
def test_a_resume_without_the_limit_trains_the_rest_of_the_epoch(
    words: tuple[str, ...], data_dir: Path, tmp_path: Path
) -> None:
    whole = start(data_dir, tmp_path / "whole", *words)
    cut = start(data_dir, tmp_path / "cut", "trainer.max_steps=8", *words)
    assert places(cut) == [(1, 5), (1.6, 8)]
    train(from_saved(cut, ["trainer.max_steps=-1"]))
    assert places(cut) == [(1, 5), (1.6, 8), (2, 10)]
    assert_same_training(cut, whole)


@pytest.mark.slow
@pytest.mark.parametrize("first", [("trainer.max_epochs=1",), ("trainer.max_steps=7",)])
def test_a_run_with_a_limit_of_steps_reaches_its_last_epoch(
    first: tuple[str, ...], data_dir: Path, tmp_path: Path
) -> None:
    limits = ("trainer.max_epochs=3", "trainer.max_steps=15")
    whole = start(data_dir, tmp_path / "whole", *limits)
    run = start(data_dir, tmp_path / "run", *limits, *first)
    train(from_saved(run, list(limits)))
    assert places(run)[-1] == (3, 15)
    assert run.read_result().epochs == 3
    assert_same_training(run, whole)


@pytest.mark.slow
def test_a_limit_of_time_loses_no_accumulated_gradients(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("trainer.accumulate_grad_batches=2",)
    whole = start(data_dir, tmp_path / "whole", *words)
    with monkeypatch.context() as patch:
        elapsed = "lightning.pytorch.callbacks.Timer.time_elapsed"
        patch.setattr(elapsed, lambda self, stage="train": 1e9 if self.start_time() else 0.0)
        cut = start(data_dir, tmp_path / "cut", *words, "trainer.max_time=00:01:00:00")
    assert places(cut) == [(0.4, 1)]
    train(from_saved(cut, ["trainer.max_time=null"]))
    assert_same_training(cut, whole)
