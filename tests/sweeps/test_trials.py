"""Trials of a sweep that several processes share; each process is a `Worker` here."""

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from opsin.errors import UserError
from opsin.runs.directory import RunDirectory
from opsin.runs.rich_console import TerminalConsole
from opsin.sweeps.best_run import best_runs, ranked_rows
from opsin.sweeps.outcomes import Direction, Outcome
from opsin.sweeps.search_space import read_space
from opsin.sweeps.settings import Sweep
from opsin.sweeps.table import report_trials
from opsin.sweeps.trials import Trials
from opsin.sweeps.workers import Worker

SEARCH = ("optimizer.lr=tag(log,interval(0.0001,0.1))", "model=mlp,cnn_gap", "model.hidden=int(interval(8,64))")


def names(overrides: Sequence[str]) -> list[str]:
    typed = dict(override.split("=", 1) for override in overrides)
    return ["digits", typed.get("model", "mlp")]


class Processes:
    """Processes that work on one sweep."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.workers: list[Worker] = []

    def join(
        self, *overrides: str, directions: Sequence[Direction] = ("minimize",), seed: int = 0, **settings: Any
    ) -> Trials:
        worker = Worker(self.folder)
        self.workers.append(worker)
        space, sweep = read_space(overrides, {}), Sweep(**settings)
        return Trials(self.folder, self.folder.name, space, sweep, directions, seed, names, worker)

    def die(self, number: int = 0) -> None:
        self.workers.pop(number)._lock.release()  # as the system does when a process ends


@pytest.fixture
def processes(tmp_path: Path) -> Any:
    found = Processes(tmp_path)
    yield found
    while found.workers:
        found.die()


def test_a_grid_is_claimed_once_and_in_order(processes: Processes) -> None:
    overrides = ("model=mlp,cnn_gap", "seed=0,1")
    one, two = processes.join(*overrides), processes.join(*overrides)
    claimed = [trials.claim() for trials in (one, two, one, two)]
    assert [trial.number for trial in claimed if trial] == [0, 1, 2, 3]
    assert [trial.run for trial in claimed if trial][1:3] == ["001_digits_mlp", "002_digits_cnn_gap"]
    assert claimed[3] is not None
    assert claimed[3].overrides == ("model=cnn_gap", "seed=1")
    assert one.claim() is None
    assert one.total == 4


@pytest.mark.parametrize("name", ["night", None])
def test_a_list_that_has_changed_since_an_earlier_version_is_refused(processes: Processes, name: str | None) -> None:
    trials = processes.join("seed=2,0,1", "model=mlp", name=name)
    trials.claim()
    processes.die()
    way_out = f"Set {'another' if name else 'a'} sweep.name"
    with pytest.raises(UserError, match=rf"earlier version.*was seed=2,0,1, and now it is seed=0,1,2\. {way_out}"):
        processes.join("seed=0,1,2", "model=mlp", name=name)
    assert processes.join("seed=2,0,1", "model=mlp", name=name).total == 3


COMBINATIONS = [{"model": model, "seed": seed} for model in ("mlp", "cnn_gap") for seed in ("0", "1")]


def test_a_grid_that_is_resumed_with_its_overrides_in_another_order_runs_every_combination_once(
    processes: Processes,
) -> None:
    complete(processes.join("seed=0,1", "model=mlp,cnn_gap"), 2)
    again = processes.join("model=mlp,cnn_gap", "seed=0,1")
    complete(again, 2)
    assert again.claim() is None
    assert again.all_ended()
    choices = [trial.params for trial in again.all()]
    assert len(choices) == 4
    assert all(choice in choices for choice in COMBINATIONS)


def test_processes_with_the_overrides_of_a_grid_in_another_order_share_its_combinations(processes: Processes) -> None:
    one, two = processes.join("seed=0,1", "model=mlp,cnn_gap"), processes.join("model=mlp,cnn_gap", "seed=0,1")
    claimed = [trials.claim() for trials in (one, two, one, two)]
    choices = [dict(trial.choices) for trial in claimed if trial]
    assert all(choice in choices for choice in COMBINATIONS)
    assert one.claim() is None


def test_a_combination_of_a_retried_trial_does_not_run_again_for_another_one(processes: Processes) -> None:
    trials = processes.join("seed=0,1", "model=mlp,cnn_gap")
    complete(trials, 1)
    trial = trials.claim()
    assert trial is not None
    trials.record(trial, Outcome("failed", reason="x"))
    again = processes.join("model=mlp,cnn_gap", "seed=0,1", retry_failed=True)
    complete(again, 3)
    assert again.claim() is None
    choices = [trial.params for trial in again.all()]
    assert all(choice in choices for choice in COMBINATIONS)


def test_a_trial_of_a_dead_process_is_claimed_first(processes: Processes) -> None:
    one, two = processes.join("seed=range(4)"), processes.join("seed=range(4)")
    first, second = one.claim(), two.claim()
    processes.die(0)
    again = two.claim()
    assert first is not None
    assert again == first
    assert two.claim() != second
    assert [two.starts(first, progress) for progress in (0, 0, 7, 7, 7, 9)] == [1, 2, 1, 2, 3, 1]


def test_a_trial_of_a_live_process_is_not_claimed(processes: Processes) -> None:
    one, two = processes.join("seed=0"), processes.join("seed=0")
    assert one.claim() is not None
    assert two.claim() is None


def test_a_trial_of_a_process_that_died_during_its_claim_is_claimed(processes: Processes) -> None:
    one = processes.join("seed=range(3)")
    one.study.enqueue_trial({"seed": "0"})
    one.study.ask()  # neither a worker nor a choice is recorded
    trial = processes.join("seed=range(3)").claim()
    assert trial is not None
    assert (trial.number, trial.overrides) == (0, ("seed=0",))


@pytest.mark.parametrize("database", [False, True])
def test_outcomes_are_recorded(processes: Processes, database: bool) -> None:
    storage = f"sqlite:///{processes.folder}/study.db" if database else None
    trials = processes.join("seed=range(3)", storage=storage)
    for outcome in (Outcome("complete", (0.5,)), Outcome("pruned"), Outcome("failed", reason="it broke")):
        trial = trials.claim()
        assert trial is not None
        trials.record(trial, outcome)
    later = processes.join("seed=range(3)", storage=storage).all()
    assert [trial.state.name for trial in later] == ["COMPLETE", "PRUNED", "FAIL"]
    assert later[0].values == [0.5]
    assert later[2].user_attrs["reason"] == "it broke"
    assert trials.ended() == 3


def test_a_failed_trial_is_retried_with_retry_failed(processes: Processes) -> None:
    trials = processes.join("seed=range(2)")
    for outcome in (Outcome("failed", reason="x"), Outcome("complete", (1.0,))):
        trial = trials.claim()
        assert trial is not None
        trials.record(trial, outcome)
    assert processes.join("seed=range(2)").claim() is None
    again = processes.join("seed=range(2)", retry_failed=True)
    trial = again.claim()
    assert trial is not None
    assert (trial.number, trial.overrides) == (2, ("seed=0",))
    assert again.claim() is None
    again.record(trial, Outcome("complete", (2.0,)))
    assert [found.number for found in again.all()] == [1, 2]
    assert again.ended() == again.total == 2


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["tpe", "random", "cmaes"])
def test_choices_are_a_function_of_the_seed_and_earlier_outcomes(
    tmp_path: Path, sampler: str, processes: Processes
) -> None:
    def draw(folder: str, seed: int, die: bool) -> list[Any]:
        processes.folder = tmp_path / folder
        found = []
        trials = processes.join(*SEARCH, sampler=sampler, trials=14, seed=seed)
        for i in range(14):
            trial = trials.claim()
            assert trial is not None
            if die and i % 3 == 0:
                processes.die(-1)
                trials = processes.join(*SEARCH, sampler=sampler, trials=14, seed=seed)
                assert trials.claim() == trial
            found.append(dict(trial.choices))
            trials.record(trial, Outcome("complete", (abs(float(trial.choices["optimizer.lr"]) - 0.01),)))
        assert trials.claim() is None
        return found

    one = draw("one", 0, die=False)
    assert draw("two", 0, die=True) == one
    assert draw("three", 1, die=False) != one
    assert all(0.0001 <= run["optimizer.lr"] <= 0.1 for run in one)
    assert all(isinstance(run["model.hidden"], int) for run in one)
    assert len({run["optimizer.lr"] for run in one}) == 14


def test_tpe_approaches_the_minimum(processes: Processes) -> None:
    trials = processes.join(SEARCH[0], sampler="tpe", trials=40)
    while (trial := trials.claim()) is not None:
        trials.record(trial, Outcome("complete", (abs(float(trial.choices["optimizer.lr"]) - 0.0123),)))
    assert min(trial.values[0] for trial in trials.all()) < 0.002


@pytest.fixture
def set_machine(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    return lambda name: monkeypatch.setattr("opsin.sweeps.workers._machine", lambda: name)


def test_a_process_of_another_machine_is_dead_without_heartbeat(
    tmp_path: Path, set_machine: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    set_machine("there")
    remote = Worker(tmp_path)
    set_machine("here")
    local = Worker(tmp_path)
    assert local.is_alive(remote.name)
    assert local.others() == [remote.name]
    monkeypatch.setattr("opsin.sweeps.workers.TIMEOUT_S", -1.0)
    assert not local.is_alive(remote.name)
    assert local.is_alive(local.name)
    remote.leave()
    local.leave()
    assert list((tmp_path / "workers").iterdir()) == []


def test_a_trial_that_was_killed_from_outside_is_queued_again_in_its_run_directory(processes: Processes) -> None:
    one = processes.join("seed=range(3)")
    killed, failed, third = (one.claim() for _ in range(3))
    assert killed is not None
    assert failed is not None
    assert third is not None
    one.record(killed, Outcome("failed", reason="killed", killed=True))
    one.record(failed, Outcome("failed", reason="diverged"))
    one.record(third, Outcome("complete", (0.5,)))
    assert one.claim() is None
    processes.die()
    two = processes.join("seed=range(3)")
    assert (two.total, two.ended()) == (3, 2)
    again = two.claim()
    assert again is not None
    assert (again.choices, again.run) == (killed.choices, killed.run)
    assert two.claim() is None
    two.record(again, Outcome("complete", (0.4,)))
    assert [trial.state.name for trial in two.all()] == ["FAIL", "COMPLETE", "COMPLETE"]
    assert processes.join("seed=range(3)").claim() is None


def complete(trials: Trials, count: int) -> None:
    for _ in range(count):
        trial = trials.claim()
        assert trial is not None
        trials.record(trial, Outcome("complete", (0.5,)))


@pytest.mark.parametrize("sampler", ["grid", "random"])
def test_a_sweep_ends_if_its_number_of_trials_is_lowered(processes: Processes, sampler: str) -> None:
    many = processes.join("seed=range(9)", sampler=sampler, trials=5)
    complete(many, 3)
    assert not many.all_ended()
    fewer = processes.join("seed=range(9)", sampler=sampler, trials=2)
    assert fewer.all_ended()
    claimed = many.claim()
    assert claimed is not None
    assert not fewer.all_ended()  # another process still works on a trial
    many.record(claimed, Outcome("pruned"))
    assert fewer.all_ended()
    assert not many.all_ended()


def test_a_trial_whose_run_was_deleted_is_not_compared(processes: Processes) -> None:
    trials = processes.join("seed=range(2)")
    complete(trials, 2)
    kept = RunDirectory(processes.folder / trials.all()[1].user_attrs["run"])
    kept.path.mkdir()
    kept.config.touch()
    rows = ranked_rows(processes.folder, ["val/loss"], trials, read_space(["seed=range(2)"], {}))
    assert [(row.number, row.state, bool(row.values)) for row in rows] == [(1, "complete", True), (0, "missing", False)]
    assert best_runs(rows, "val/loss") == rows[:1]
    console = TerminalConsole(file=io.StringIO(), width=200)
    report_trials(rows, ["val/loss"], processes.folder, console)
    assert f"missing: {rows[1].run.path.name}: its run directory is missing" in console.file.getvalue()  # type: ignore[attr-defined]


def test_a_trial_whose_result_is_damaged_is_not_compared(processes: Processes) -> None:
    trials = processes.join("seed=range(2)")
    complete(trials, 2)
    for trial in trials.all():
        run = RunDirectory(processes.folder / trial.user_attrs["run"])
        run.path.mkdir()
        run.config.touch()
    run.result.write_text("{")
    rows = ranked_rows(processes.folder, ["val/loss"], trials, read_space(["seed=range(2)"], {}))
    assert [(row.number, row.state) for row in rows] == [(0, "complete"), (1, "missing")]
    assert str(run.result) in rows[1].reason


def test_lists_of_names_are_shown_in_the_table(processes: Processes) -> None:
    lists = ("+model.stages=[layer4],[red]",)
    folder = processes.folder = processes.folder / "[bold]"
    folder.mkdir()
    trials, space = processes.join(*lists), read_space(lists, {})
    complete(trials, 2)
    stream = io.StringIO()
    report_trials(
        ranked_rows(folder, ["val/loss"], trials, space),
        ["val/loss"],
        folder,
        TerminalConsole(file=stream, width=300),
    )
    assert all(text in stream.getvalue() for text in ("stages=[layer4]", "stages=[red]", str(folder)))


def test_a_trial_of_another_sweep_has_no_overrides(processes: Processes) -> None:
    complete(processes.join("seed=range(2)"), 1)
    other = processes.join("split_seed=range(2)")
    [row] = ranked_rows(processes.folder, ["val/loss"], other, read_space(["split_seed=range(2)"], {}))
    assert (row.state, row.overrides, row.typed) == ("missing", "", ())
