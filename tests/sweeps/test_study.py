"""The private names of Optuna, and the values that its plots get."""

import sys
from pathlib import Path

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.importance import get_param_importances

from opsin.errors import UserError
from opsin.sweeps.best_run import plotted_values
from opsin.sweeps.settings import Sweep
from opsin.sweeps.study import (
    has_report,
    open_storage,
    planned_choices,
    running_trial,
    set_attribute,
)


def test_the_private_names_of_optuna_exist() -> None:
    changed = f"Optuna {optuna.__version__} has changed: see opsin.sweeps.study"
    study = optuna.create_study()
    study.enqueue_trial({"seed": "0"})
    trial = study.get_trials()[0]
    assert hasattr(study, "_study_id"), f"{changed}: Study._study_id"
    assert hasattr(study, "_storage"), f"{changed}: Study._storage"
    assert hasattr(trial, "_trial_id"), f"{changed}: FrozenTrial._trial_id"
    assert planned_choices(trial) == {"seed": "0"}, f"{changed}: fixed_params"
    set_attribute(study, trial, "reason", "none")
    assert study.get_trials()[0].user_attrs["reason"] == "none"
    running = running_trial(study, study.get_trials()[study.ask().number])
    running.report(0.5, 3)
    assert has_report(running, 3)
    assert not has_report(running, 4)
    drawn = study.ask()
    assert planned_choices(study.get_trials()[drawn.number]) == {}


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("unknown+driver://me:hunter2@host/x", r"unknown\+driver://\.\.\. cannot be opened: Can't load plugin"),
        ("sqlite+absent:///x.db", r"sqlite\+absent:///x\.db cannot be opened: Can't load plugin"),
        (
            "sqlite:////absent/folder/x.db",
            "sqlite:////absent/folder/x.db cannot be opened: unable to open database file$",
        ),
        ("postgresql://me:hunter2@host:hunter2/x", r"postgresql://\.\.\. cannot be opened: the URL cannot be read$"),
        ("://me:hunter2@host", r"://\.\.\. cannot be opened: Could not parse"),
    ],
)
def test_a_storage_that_cannot_be_opened_gives_one_message_without_its_password(place: str, message: str) -> None:
    with pytest.raises(UserError, match=rf"^sweep\.storage={message}") as error:
        open_storage(place)
    assert "hunter2" not in str(error.value)


def test_the_missing_driver_of_a_storage_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("psycopg", "psycopg2"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setenv("DB_PASS", "hunter2")
    with pytest.raises(UserError, match=r"install the Python driver of this database \(.*psycopg") as error:
        open_storage("postgresql+psycopg2://me:${oc.env:DB_PASS}@host/x")
    assert "hunter2" not in str(error.value)


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "study.db").write_text("this is text and no database")
    with pytest.raises(UserError, match=r"study\.db cannot be opened: file is not a database"):
        open_storage(f"sqlite:///{tmp_path}/study.db")


def test_a_storage_without_a_url_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"storage=study\.db is not the URL of a database, such as sqlite:///study\.db$"
    ):
        Sweep(storage="study.db")
    monkeypatch.setenv("DB_KEY", f"sqlite:///{tmp_path}/secret.db")
    assert Sweep(storage="${oc.env:DB_KEY}").storage == "${oc.env:DB_KEY}"
    open_storage("${oc.env:DB_KEY}")
    assert (tmp_path / "secret.db").is_file()


@pytest.mark.filterwarnings("ignore:PedAnova")
@pytest.mark.parametrize("directions", [["maximize"], ["maximize", "minimize"], ["minimize", "maximize"]])
def test_the_importance_of_a_maximized_objective_explains_its_high_values(directions: list[str]) -> None:
    study = optuna.create_study(directions=directions)
    index = directions.index("maximize")
    share = FloatDistribution(0, 1)
    for i in range(100):
        lr, decay = i % 10 / 10, i // 10 / 10
        accuracy = 0.5 + 0.4 * (lr == 0.9) - 0.4 * (decay == 0) + i * 37 % 100 * 1e-5
        values = [accuracy if direction == "maximize" else i * 53 % 100 for direction in directions]
        trial = optuna.trial.create_trial(
            params={"lr": lr, "decay": decay}, distributions={"lr": share, "decay": share}, values=values
        )
        study.add_trial(trial)
    found = get_param_importances(study, target=plotted_values(study, index, "importance"))
    assert found["lr"] > 0.9
    if (values_of := plotted_values(study, index, "history")) is not None:
        assert values_of(study.trials[9]) == study.trials[9].values[index]
