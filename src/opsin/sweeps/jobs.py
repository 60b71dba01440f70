"""From a trial to its job: the overrides of the run, its directory, its devices and its secrets."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from opsin.config import ConfigSource, compose_raw
from opsin.config.secrets import secret_variables
from opsin.errors import UserError
from opsin.runs.directory import RunDirectory
from opsin.runs.quoting import override
from opsin.sweeps.launchers.base import Job
from opsin.sweeps.search_space import Listed, Space
from opsin.sweeps.settings import Sweep
from opsin.sweeps.table import TrialRow
from opsin.sweeps.trials import Trial, Trials

OF_EVERY_RUN = {"test": False, "report": False}
"""Defaults of the runs of a sweep: only the winner reads the test images and has a report."""


class Jobs:
    """Makes the jobs of a sweep.

    Args:
        space: Search space of the sweep.
        source: Search path and primary config of all runs.

    Attributes:
        typical: Config of the first run of a grid; if that cannot be composed, of the last one.

    Raises:
        UserError: Neither can be composed, for example because of an unknown key.
    """

    def __init__(self, space: Space, source: ConfigSource | None = None) -> None:
        self._space = space
        self._source = source or ConfigSource()
        last = [d.word(d.words[-1] if isinstance(d, Listed) else d.high) for d in space.dimensions]
        try:
            self.typical = compose_raw([*space.fixed, *space.first()], self._source)
        except UserError:  # one wrong value is one run that fails
            self.typical = compose_raw([*space.fixed, *last], self._source)
        keys = [dimension.key for dimension in space.dimensions]
        self._groups_vary = any(key in self.typical.hydra.runtime.choices for key in keys)
        self._devices_vary = any(key.lstrip("+").startswith("trainer.") for key in keys)

    @property
    def parts(self) -> dict[str, str | None]:
        """The options of the groups that are part of the name of a run."""
        return {part: self.typical.hydra.runtime.choices[part] for part in ("datamodule", "model")}

    def of(self, trial: Trial, folder: Path, settings: Sweep, objective: str, trials: Trials, threads: int) -> Job:
        """Return the job of a trial, which begins its run or resumes it.

        Args:
            trial: A trial that this process has claimed.
            folder: Directory of the sweep.
            settings: Settings of the sweep.
            objective: The metric that a pruner compares.
            trials: The study to which the run reports, if there is a pruner.
            threads: Threads of each process.
        """
        run = RunDirectory(folder / trial.run)
        run.path.mkdir(exist_ok=True)
        config = self._config(trial.words)
        devices, secrets = _count(config.trainer.devices), _secrets(config, settings)
        if run.config.exists():
            return Job(trial.number, (override("resume", run.path),), run, devices, secrets)
        more = {**OF_EVERY_RUN, "trainer.threads": threads}
        overrides = [override(key, value) for key, value in more.items() if not self._space.says(key)]
        overrides += _pruning(settings, trials, trial.number, objective)
        overrides = [*self._source.flags, *trial.words, *overrides, override("hydra.run.dir", run.path)]
        return Job(trial.number, tuple(overrides), run, devices, secrets)

    def of_winner(self, row: TrialRow, settings: Sweep) -> Job:
        """Return the job that tests a finished run on the test images and writes its report."""
        overrides = (override("resume", row.run.path), "test=true", "report=true")
        saved = OmegaConf.load(row.run.config)
        return Job(row.number, overrides, row.run, secrets=_secrets(saved, settings))

    def _config(self, overrides: Sequence[str]) -> DictConfig:
        """Return the config of a run, or the typical one if it has the same devices and secrets."""
        if not (self._groups_vary or self._devices_vary):
            return self.typical
        try:
            return compose_raw(overrides, self._source)
        except UserError:  # the process of the run reports it
            return self.typical


def _secrets(config: Any, settings: Sweep) -> tuple[str, ...]:
    tree = OmegaConf.to_container(config, resolve=False)
    return tuple(sorted(secret_variables(tree) | secret_variables({"storage": settings.storage})))


def _pruning(settings: Sweep, trials: Trials, number: int, metric: str) -> list[str]:
    if settings.pruner == "none":
        return []
    values: Mapping[str, Any] = {
        "_target_": "opsin.training.callbacks.Pruning",
        "monitor": metric,
        "storage": trials.place,
        "study": trials.name,
        "trial": number,
        "pruner": settings.pruner,
        "epochs": settings.pruner_epochs,
    }
    return [override(f"+callbacks.pruning.{key}", value) for key, value in values.items()]


def _count(devices: Any) -> int:
    return devices if isinstance(devices, int) else 1 if devices == "auto" else len(devices)
