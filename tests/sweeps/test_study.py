"""Pruners, and the private names of Optuna."""

from pathlib import Path

import optuna
import pytest

from opsin.sweeps.study import (
    has_report,
    make_pruner,
    open_storage,
    running_trial,
    set_attribute,
    silence_optuna,
    trial_at,
)


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


def test_the_private_names_of_optuna_exist() -> None:
    changed = f"Optuna {optuna.__version__} has changed: see opsin.sweeps.study"
    study = optuna.create_study()
    study.enqueue_trial({})
    trial = study.get_trials()[0]
    assert hasattr(study, "_study_id"), f"{changed}: Study._study_id"
    assert hasattr(study, "_storage"), f"{changed}: Study._storage"
    assert hasattr(trial, "_trial_id"), f"{changed}: FrozenTrial._trial_id"
    set_attribute(study, trial, "reason", "none")
    assert study.get_trials()[0].user_attrs["reason"] == "none"
    running = running_trial(study, study.get_trials()[study.ask().number])
    running.report(0.5, 3)
    assert has_report(running, 3)
    assert not has_report(running, 4)
