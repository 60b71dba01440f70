"""The private names of Optuna."""

import optuna

from opsin.sweeps.study import (
    has_report,
    running_trial,
    set_attribute,
)


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
