"""The study behind a sweep, as several processes see it; a process here is a Worker."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from opsin.sweeps.search_space import read_space
from opsin.sweeps.settings import Sweep
from opsin.sweeps.trials import Direction, Outcome, Trials
from opsin.sweeps.workers import Worker

PARTS = {"datamodule": "digits", "model": "mlp"}
SEARCH = ("optimizer.lr=tag(log,interval(0.0001,0.1))", "model=mlp,cnn_gap", "model.hidden=int(interval(8,64))")


class Crowd:
    """Processes that work on one sweep."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.workers: list[Worker] = []

    def join(
        self, *words: str, directions: Sequence[Direction] = ("minimize",), seed: int = 0, **settings: Any
    ) -> Trials:
        worker = Worker(self.folder)
        self.workers.append(worker)
        return Trials(self.folder, read_space(words, {}), Sweep(**settings), directions, seed, PARTS, worker)

    def die(self, number: int = 0) -> None:
        self.workers.pop(number)._lock.release()  # what the system does when a process ends


@pytest.fixture
def crowd(tmp_path: Path) -> Any:
    found = Crowd(tmp_path)
    yield found
    while found.workers:
        found.die()


def test_a_grid_is_claimed_once_and_in_order(crowd: Crowd) -> None:
    words = ("model=mlp,cnn_gap", "seed=0,1")
    one, two = crowd.join(*words), crowd.join(*words)
    claimed = [trials.claim() for trials in (one, two, one, two)]
    assert [trial.number for trial in claimed if trial] == [0, 1, 2, 3]
    assert [trial.run for trial in claimed if trial][1:3] == ["001_digits_mlp", "002_digits_cnn_gap"]
    assert claimed[3] is not None
    assert claimed[3].words == ("model=cnn_gap", "seed=1")
    assert one.claim() is None
    assert one.total == 4


def test_what_a_dead_process_left_comes_first(crowd: Crowd) -> None:
    one, two = crowd.join("seed=range(4)"), crowd.join("seed=range(4)")
    first, second = one.claim(), two.claim()
    crowd.die(0)
    again = two.claim()
    assert first is not None
    assert again == first
    assert two.claim() != second
    assert [two.starts(first, progress) for progress in (0, 0, 7, 7, 7, 9)] == [1, 2, 1, 2, 3, 1]


def test_what_a_living_process_works_on_is_left_to_it(crowd: Crowd) -> None:
    one, two = crowd.join("seed=0"), crowd.join("seed=0")
    assert one.claim() is not None
    assert two.claim() is None


def test_a_process_that_died_while_it_claimed(crowd: Crowd) -> None:
    one = crowd.join("seed=range(3)")
    one.study.enqueue_trial({"seed": "0"})
    one.study.ask()  # and no more: neither a worker nor a choice is recorded
    trial = crowd.join("seed=range(3)").claim()
    assert trial is not None
    assert (trial.number, trial.words) == (0, ("seed=0",))


@pytest.mark.parametrize("database", [False, True])
def test_outcomes_are_kept(crowd: Crowd, database: bool) -> None:
    storage = f"sqlite:///{crowd.folder}/study.db" if database else None
    trials = crowd.join("seed=range(3)", storage=storage)
    for outcome in (Outcome("complete", (0.5,)), Outcome("pruned"), Outcome("failed", reason="it broke")):
        trial = trials.claim()
        assert trial is not None
        trials.record(trial, outcome)
    later = crowd.join("seed=range(3)", storage=storage).all()
    assert [trial.state.name for trial in later] == ["COMPLETE", "PRUNED", "FAIL"]
    assert later[0].values == [0.5]
    assert later[2].user_attrs["reason"] == "it broke"
    assert trials.ended() == 3


def test_what_failed_is_run_once_more_if_asked(crowd: Crowd) -> None:
    trials = crowd.join("seed=range(2)")
    for outcome in (Outcome("failed", reason="x"), Outcome("complete", (1.0,))):
        trial = trials.claim()
        assert trial is not None
        trials.record(trial, outcome)
    assert crowd.join("seed=range(2)").claim() is None
    again = crowd.join("seed=range(2)", retry_failed=True)
    trial = again.claim()
    assert trial is not None
    assert (trial.number, trial.words) == (2, ("seed=0",))
    assert again.claim() is None
    again.record(trial, Outcome("complete", (2.0,)))
    assert [found.number for found in again.all()] == [1, 2]
    assert again.ended() == again.total == 2


@pytest.mark.parametrize("sampler", ["tpe", "random", "cmaes"])
def test_what_is_drawn_is_a_function_of_the_seed_and_of_what_came_before(
    tmp_path: Path, sampler: str, crowd: Crowd
) -> None:
    def draw(folder: str, seed: int, die: bool) -> list[Any]:
        crowd.folder = tmp_path / folder
        found = []
        trials = crowd.join(*SEARCH, sampler=sampler, trials=14, seed=seed)
        for i in range(14):
            trial = trials.claim()
            assert trial is not None
            if die and i % 3 == 0:
                crowd.die(-1)
                trials = crowd.join(*SEARCH, sampler=sampler, trials=14, seed=seed)
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


def test_a_search_finds_what_a_grid_of_as_many_would_miss(crowd: Crowd) -> None:
    trials = crowd.join(SEARCH[0], sampler="tpe", trials=40)
    while (trial := trials.claim()) is not None:
        trials.record(trial, Outcome("complete", (abs(float(trial.choices["optimizer.lr"]) - 0.0123),)))
    assert min(trial.values[0] for trial in trials.all()) < 0.002


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    return lambda name: monkeypatch.setattr("opsin.sweeps.workers._machine", lambda: name)


def test_a_process_of_another_machine_is_dead_when_it_is_silent(
    tmp_path: Path, silent: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    silent("there")
    far = Worker(tmp_path)
    silent("here")
    near = Worker(tmp_path)
    assert near.is_alive(far.name)
    assert near.others() == [far.name]
    monkeypatch.setattr("opsin.sweeps.workers.TIMEOUT_S", -1.0)
    assert not near.is_alive(far.name)
    assert near.is_alive(near.name)
    far.leave()
    near.leave()
    assert list((tmp_path / "workers").iterdir()) == []
