"""Pruners of a sweep, and the reports of its runs."""

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from opsin.sweeps.study import open_storage, silence_optuna, trial_at
from opsin.training.callbacks import Pruning
from opsin.training.callbacks.pruning import make_pruner


@pytest.mark.parametrize(("kind", "expected"), [("median", 2), ("halving", 2), ("none", None)])
def test_a_worse_trial_is_pruned_at_the_first_permitted_epoch(tmp_path: Path, kind: str, expected: int | None) -> None:
    silence_optuna()
    place = str(tmp_path / "journal")
    study = optuna.create_study(storage=open_storage(place), study_name="s", direction="minimize")
    pruner = make_pruner(kind, 2)  # type: ignore[arg-type]
    for value in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6):
        trial = study.ask()
        reporter = trial_at(place, "s", trial.number, pruner)  # as in the process of the run
        for epoch in range(1, 10):
            reporter.report(value / epoch, epoch)
            reporter.should_prune()  # the call records the rung of the trial for successive halving
        study.tell(trial.number, value)
    bad = trial_at(place, "s", study.ask().number, pruner)
    pruned_at = None
    for epoch in range(1, 10):
        bad.report(5.0, epoch)
        if pruned_at is None and bad.should_prune():
            pruned_at = epoch
    assert pruned_at == expected


@pytest.mark.parametrize("kind", ["median", "halving"])
def test_the_best_trial_is_not_pruned(tmp_path: Path, kind: str) -> None:
    study = optuna.create_study(storage=open_storage(str(tmp_path / "journal")), study_name="s", direction="maximize")
    pruner = make_pruner(kind, 1)  # type: ignore[arg-type]
    for value in (0.1, 0.2, 0.3, 0.4, 0.5, 0.9):
        trial = study.ask()
        reporter = trial_at(str(tmp_path / "journal"), "s", trial.number, pruner)
        for epoch in range(1, 10):
            reporter.report(value, epoch)
            assert not (value == 0.9 and reporter.should_prune())
        study.tell(trial.number, value)


@pytest.mark.parametrize("state", [TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, None])
def test_a_run_that_continues_after_its_trial_reports_nothing(
    tmp_path: Path, state: TrialState | None, caplog: pytest.LogCaptureFixture
) -> None:
    silence_optuna()
    place = str(tmp_path / "journal")
    study = optuna.create_study(storage=open_storage(place), study_name="s", direction="minimize")
    trial = study.ask()
    trial.report(0.5, 1)
    if state is not None:
        study.tell(trial.number, 0.5 if state == TrialState.COMPLETE else None, state=state)
    callback = Pruning("val/loss", place, "s", trial.number, "median")
    strategy = SimpleNamespace(reduce_boolean_decision=lambda decision, **_: decision)
    trainer: Any = SimpleNamespace(is_global_zero=True, max_epochs=9, strategy=strategy)
    module: Any = None
    with caplog.at_level(logging.INFO, "opsin"):
        callback.on_train_start(trainer, module)
    callback.on_measured(trainer, module, 2, {"val/loss": 0.4})
    reported = study.get_trials()[0].intermediate_values
    if state is None:
        assert (reported, caplog.text) == ({1: 0.5, 2: 0.4}, "")
    else:
        assert reported == {1: 0.5}
        assert "trial 0 of the sweep is finished" in caplog.text
    assert callback.reason is None
