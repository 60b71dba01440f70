"""Trials of a sweep: claim the next one, and record outcomes in the Optuna study."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from opsin.errors import UserError
from opsin.runs.disk_lock import DiskLock
from opsin.sweeps.outcomes import Direction, Outcome
from opsin.sweeps.search_space import Dimension, Listed, Space, Value
from opsin.sweeps.settings import Sweep
from opsin.sweeps.study import (
    has_report,
    make_sampler,
    open_storage,
    planned_choices,
    running_trial,
    set_attribute,
    silence_optuna,
)
from opsin.sweeps.workers import Worker

if TYPE_CHECKING:
    import optuna
    from optuna.study import Study
    from optuna.trial import FrozenTrial


@dataclass(frozen=True)
class Trial:
    """A trial that this process works on.

    Attributes:
        number: Counted from 0, over all processes.
        choices: Value of each key that varies.
        overrides: Overrides of the run, fixed and varying.
        run: Name of its run directory inside that of the sweep.
    """

    number: int
    choices: Mapping[str, Value]
    overrides: tuple[str, ...]
    run: str


class Trials:
    """The Optuna study of a sweep; any number of processes may share it.

    A trial belongs to the process that claimed it while that process lives. A trial of a dead process is claimed again,
    with its number, choices and run directory, before a new one begins. A trial whose job was killed from outside is
    queued again by the next process, with its choices, run directory and reports. The choices of a new trial are a
    function of the seed, the number of the trial, and the outcomes of the trials before it.

    Args:
        folder: Directory of the sweep.
        name: Name of the study.
        space: Search space.
        settings: Settings of the sweep.
        directions: Direction of each objective.
        seed: Seed of the sampler.
        names: Returns the parts of the name of the run with some overrides, such as its model.
        worker: This process.

    Attributes:
        storage: URL or path of the Optuna storage, for other processes that open it.
        name: Name of the study in the storage.
        study: The Optuna study.
        total: Number of trials of the sweep.

    Raises:
        UserError: The trials of an earlier version have other values of a list, or in another order.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        space: Space,
        settings: Sweep,
        directions: Sequence[Direction],
        seed: int,
        names: Callable[[Sequence[str]], Sequence[str]],
        worker: Worker,
    ) -> None:
        import optuna

        silence_optuna()
        self._space, self._settings, self._seed, self._names = space, settings, seed, names
        self._worker = worker
        self._lock = DiskLock(folder / ".lock")
        self.storage = settings.storage or str(folder / "study.journal")
        self.name = name
        self._grid = list(space.grid()) if settings.sampler == "grid" else None
        limit = math.inf if settings.trials is None else settings.trials
        self.total = int(limit if self._grid is None else min(len(self._grid), limit))
        with self._lock:
            self.study: Study = optuna.create_study(
                storage=open_storage(self.storage),
                study_name=self.name,
                directions=list(directions),
                load_if_exists=True,
            )
            self._check_lists(folder)
            self._retry_failed()

    def _check_lists(self, folder: Path) -> None:
        """Refuse a list such as `shuffle(...)` that has changed since an earlier version, which did not record it."""
        begun = {
            key: found for trial in self.study.get_trials(deepcopy=False) for key, found in trial.distributions.items()
        }
        for key, values in self._space.lists.items():
            before: tuple[str, ...] = getattr(begun.get(key), "choices", values)
            if before != values:
                way_out = f"Set {'another' if self._settings.name else 'a'} sweep.name to begin a new sweep"
                raise UserError(
                    f"{folder} was begun by an earlier version of Opsin, which did not record the order of values: it "
                    f"was {key}={','.join(before)}, and now it is {key}={','.join(values)}. {way_out}."
                )

    def all(self) -> list["FrozenTrial"]:
        """Return all trials in their order, except those that were retried."""
        trials = self.study.get_trials(deepcopy=False)
        retried = {trial.user_attrs["retries"] for trial in trials if "retries" in trial.user_attrs}
        return [trial for trial in trials if trial.number not in retried]

    def ended(self) -> int:
        """Return the number of trials that have ended in any way."""
        return sum(trial.state.is_finished() for trial in self.all())

    def all_ended(self) -> bool:
        """Return whether all trials exist and have ended. There are more than `total` if the number was lowered."""
        found = self.all()
        return len(found) >= self.total and all(trial.state.is_finished() for trial in found)

    def claim(self) -> Trial | None:
        """Claim an interrupted trial or a new one; None if all are done or belong to other processes."""
        from optuna.trial import TrialState

        with self._lock:
            trials = self.study.get_trials(deepcopy=False)
            live = None
            for trial in trials:
                if trial.state is TrialState.RUNNING and not self._is_claimed(trial):
                    live = running_trial(self.study, trial)
                    break
            if live is None:
                begun = sum("retries" not in trial.user_attrs for trial in trials)
                waiting = any(trial.state is TrialState.WAITING for trial in trials)
                if begun >= self.total and not waiting:
                    return None
                if self._grid is not None and not waiting:
                    taken = [planned_choices(trial) for trial in trials]  # maybe with the overrides in another order
                    self.study.enqueue_trial(next(choices for choices in self._grid if choices not in taken))
                self.study.sampler = make_sampler(self._settings.sampler, self._seed, len(trials))
                live = self.study.ask()
            live.set_user_attr("worker", self._worker.name)
            _repeat_reports(live, trials)
        choices = {dimension.key: _suggest(live, dimension) for dimension in self._space.dimensions}
        overrides = self._space.overrides(choices)
        if "run" not in live.user_attrs:
            live.set_user_attr("run", "_".join([f"{live.number:03d}", *self._names(overrides)]))
        return Trial(live.number, choices, overrides, live.user_attrs["run"])

    def starts(self, trial: Trial, progress: int) -> int:
        """Count a start of a trial; return the number of starts since its last progress, over all processes.

        Args:
            trial: The trial that is about to start.
            progress: A number that changes with each new checkpoint.
        """
        live = self._frozen(trial)
        before, count = live.user_attrs.get("starts", (progress, 0))
        count = count + 1 if before == progress else 1
        set_attribute(self.study, live, "starts", (progress, count))
        return int(count)

    def record(self, trial: Trial, outcome: Outcome) -> None:
        """Record the outcome of a trial in the study."""
        from optuna.trial import TrialState

        if outcome.reason:
            set_attribute(self.study, self._frozen(trial), "reason", outcome.reason)
        if outcome.killed:
            set_attribute(self.study, self._frozen(trial), "killed", True)
        states = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}
        values = outcome.values if outcome.state == "complete" else None
        self.study.tell(trial.number, values, states[outcome.state])

    def _frozen(self, trial: Trial) -> "FrozenTrial":
        return self.study.get_trials(deepcopy=False)[trial.number]

    def _is_claimed(self, trial: "FrozenTrial") -> bool:
        worker = trial.user_attrs.get("worker")  # without one, a process died while it claimed the trial
        return worker is not None and self._worker.is_alive(worker)

    def _retry_failed(self) -> None:
        """Queue trials again: those that were killed from outside, in their run directories, and all if asked to."""
        from optuna.trial import TrialState

        for trial in self.all():
            killed = trial.user_attrs.get("killed", False)
            if trial.state is TrialState.FAIL and (killed or self._settings.retry_failed):
                run = {"run": trial.user_attrs["run"]} if killed else {}
                self.study.enqueue_trial(trial.params, user_attrs={"retries": trial.number, **run})


def _repeat_reports(live: "optuna.trial.Trial", trials: Sequence["FrozenTrial"]) -> None:
    """Report the values of a killed trial to the one that continues its run, which a pruner compares with others."""
    killed = trials[live.user_attrs["retries"]] if "retries" in live.user_attrs else None
    if killed is None or not killed.user_attrs.get("killed", False):
        return
    for step, value in killed.intermediate_values.items():
        if not has_report(live, step):  # this process continues a claim that another one began
            live.report(value, step)


def _suggest(trial: "optuna.trial.Trial", dimension: Dimension) -> Value:
    if isinstance(dimension, Listed):
        choice: Value = trial.suggest_categorical(dimension.key, dimension.values)
        return choice
    if dimension.whole:
        return trial.suggest_int(dimension.key, int(dimension.low), int(dimension.high), log=dimension.log)
    return trial.suggest_float(dimension.key, dimension.low, dimension.high, log=dimension.log)
