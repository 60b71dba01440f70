"""Seconds of the phases of a run, why it ended, and its last message."""

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping as LightningEarlyStopping

from opsin.runs.directory import RunDirectory
from opsin.runs.result import MonitoredMetric, RunResult
from opsin.training import recording
from opsin.training.callbacks import EarlyStopping
from opsin.training.recording import PhaseTimer, closing_message


def test_seconds_are_summed_over_processes() -> None:
    result = RunResult(seconds={"setup": 1.0, "fit": 10.0, "test": 0.5, "total": 11.5})
    with PhaseTimer(result) as timer:
        time.sleep(0.02)
        timer.enter("fit")
    seconds = result.seconds
    assert 1.02 <= seconds["setup"] < 2
    assert 10 <= seconds["fit"] < 11
    assert seconds["test"] == 0.5
    assert seconds["total"] == pytest.approx(sum(seconds[phase] for phase in ("setup", "fit", "test")), abs=0.01)


def test_an_interrupted_phase_counts() -> None:
    result = RunResult()
    timer = PhaseTimer(result)
    timer.enter("fit")
    time.sleep(0.02)
    timer.__exit__(RuntimeError, None, None)
    assert result.seconds["fit"] >= 0.02
    assert list(result.seconds)[-1] == "total"


def test_the_last_message_names_the_phases_of_its_seconds(tmp_path: Path) -> None:
    settings: Any = SimpleNamespace(teacher=None)
    facts = {"monitor": MonitoredMetric("val/loss", 0.25), "best_epoch": 2, "epochs": 3}
    result = RunResult(seconds={"setup": 1.0, "fit": 10.0, "test": 1.4, "total": 12.4}, settings=settings, **facts)
    line = "best epoch 2 of 3, by val/loss 0.2500; 12 s of setup, training and test"
    assert line in closing_message(result, RunDirectory(tmp_path)).splitlines()


@pytest.mark.parametrize(
    ("epochs", "diverged", "reason"), [(2, False, "waited"), (3, False, None), (2, True, "waited"), (3, True, "waited")]
)
def test_a_run_of_all_epochs_ended_early_only_if_it_diverged(epochs: int, diverged: bool, reason: str | None) -> None:
    stopping = EarlyStopping("val/loss")
    stopping.reason, stopping.diverged = "waited", diverged
    plan: Any = SimpleNamespace(trainer=SimpleNamespace(max_epochs=3, max_steps=-1))
    trainer: Any = SimpleNamespace(callbacks=[stopping], global_step=9)
    assert recording._early_end(plan, trainer, epochs) == reason


@pytest.mark.parametrize(("epochs", "says"), [(2, True), (3, False)])
def test_early_stopping_of_lightning_is_a_reason_too(epochs: int, says: bool) -> None:
    stopping = LightningEarlyStopping("val/loss", patience=1)
    strategy = SimpleNamespace(reduce_boolean_decision=lambda decision, **_: decision)
    trainer: Any = SimpleNamespace(callbacks=[stopping], global_step=9, strategy=strategy, world_size=1)
    trainer.fast_dev_run, trainer.should_stop, trainer.current_epoch, trainer.global_rank = False, False, 1, 0
    plan: Any = SimpleNamespace(trainer=SimpleNamespace(max_epochs=3, max_steps=-1))
    assert recording._early_end(plan, trainer, 2) is None  # by another callback
    for loss in (1.0, 2.0):
        trainer.callback_metrics = {"val/loss": torch.tensor(loss)}
        stopping._run_early_stopping_check(trainer)
    assert trainer.should_stop
    assert ("did not improve" in (recording._early_end(plan, trainer, epochs) or "")) == says
