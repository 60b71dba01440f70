"""Jobs of trials: the overrides, the run directory, the devices and the secrets of each run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from opsin.config import ConfigSource, compose_raw
from opsin.config.hydra_keys import of_a_process
from opsin.config.run_names import run_names
from opsin.config.secrets import secret_variables
from opsin.errors import UserError
from opsin.runs.directory import RunDirectory, file_names
from opsin.runs.quoting import override
from opsin.sweeps.best_run import TrialRow
from opsin.sweeps.launchers.base import Job
from opsin.sweeps.search_space import Listed, Space
from opsin.sweeps.settings import Sweep
from opsin.sweeps.trials import Trial, Trials

RUN_DEFAULTS = {"test": False, "report": False}
"""Values of every run whose overrides do not set them: only the best runs read the test images and have a report."""


class Jobs:
    """The jobs of a sweep.

    Args:
        space: Search space of the sweep.
        source: Search path and primary config of all runs; None for those of Opsin.
        of_sweep: Overrides of the sweep itself.

    Attributes:
        typical: Config of the first run of the grid; of the last run if the first cannot be composed. Its sections
            `sweep` and `launcher` have the overrides of the sweep too.

    Raises:
        UserError: Neither config can be composed, for example because a key does not exist.
    """

    def __init__(self, space: Space, source: ConfigSource | None = None, of_sweep: Sequence[str] = ()) -> None:
        self._space = space
        self._source = source or ConfigSource()
        last = [d.override(d.values[-1] if isinstance(d, Listed) else d.high) for d in space.dimensions]
        try:
            self.typical = compose_raw([*of_sweep, *space.fixed, *space.first()], self._source)
        except UserError:  # one wrong value fails one run, and not the sweep
            self.typical = compose_raw([*of_sweep, *space.fixed, *last], self._source)
        keys = [dimension.key.lstrip("+") for dimension in space.dimensions]
        groups = self.typical.hydra.runtime.choices
        self._configs_vary = any(key in groups or key.startswith("trainer.") for key in keys)

    def names(self, overrides: Sequence[str]) -> list[str]:
        """Return the parts of the name of the run with these overrides."""
        return file_names(run_names(self._config(overrides), overrides))

    def make_job(
        self, trial: Trial, folder: Path, settings: Sweep, objective: str, trials: Trials, threads: int
    ) -> Job:
        """Return the job of a trial, which starts its run or resumes it.

        Args:
            trial: Trial that this process has claimed.
            folder: Directory of the sweep.
            settings: Settings of the sweep.
            objective: Metric that the pruner compares.
            trials: Trials of the sweep; the run reports its metric to their study if there is a pruner.
            threads: Number of threads of each process of the run; the config of the run may set another one.

        Raises:
            UserError: A folder of the run directory is a link out of it.
        """
        run = RunDirectory(folder / trial.run)
        run.path.mkdir(exist_ok=True)
        run.check_links()
        config, place = self._config(trial.overrides), _place(settings, trials, trial.number)
        if run.config.exists():
            again = [*of_a_process(trial.overrides), *(override(key, value) for key, value in place.items())]
            overrides = [override("resume", run.path), *again]
            return _job(trial.number, overrides, run, config, settings)
        defaults: dict[str, Any] = dict(RUN_DEFAULTS)
        if config.trainer.get("threads") == "auto":
            defaults["trainer.threads"] = threads
        added = [override(key, value) for key, value in defaults.items() if not self._space.sets(key)]
        added += [override(f"+{key}", value) for key, value in {**_pruning(settings, objective), **place}.items()]
        overrides = [*self._source.flags, *trial.overrides, *added, override("hydra.run.dir", run.path)]
        return _job(trial.number, overrides, run, config, settings)

    def tests(self, row: TrialRow) -> bool:
        """Return whether a run of the best recipe is tested: `test` is no override, and not false in a config file."""
        config = self._config(row.typed)
        return not self._space.sets("test") and bool(config.test) and config.trainer.get("limit_test_batches") != 0

    def test_job(self, row: TrialRow, settings: Sweep) -> Job:
        """Return the job that reads the test images for a finished run and, unless `report` is false, reports it."""
        config = self._config(row.typed)
        overrides = [override("resume", row.run.path), "test=true"]
        if "report" in config:  # a resume cannot set a key that the config of the run leaves out
            overrides.append(override("report", config.report))
        overrides += of_a_process(row.typed)
        return _job(row.number, overrides, row.run, OmegaConf.load(row.run.config), settings)

    def _config(self, overrides: Sequence[str]) -> DictConfig:
        """Return the config of a run, or the typical one if it has the same devices and secrets."""
        if not self._configs_vary:
            return self.typical
        try:
            return compose_raw(overrides, self._source)
        except UserError:  # the run itself reports it
            return self.typical


def _job(number: int, overrides: Sequence[str], run: RunDirectory, config: Any, settings: Sweep) -> Job:
    """Return the job of a run with a config."""
    return Job(number, tuple(overrides), run, _count(config.trainer.get("devices")), _secrets(config, settings))


def _secrets(config: Any, settings: Sweep) -> tuple[str, ...]:
    """Return the names of the environment variables of the secrets of a run and of the storage of its sweep."""
    tree = OmegaConf.to_container(config, resolve=False)
    return tuple(sorted(secret_variables(tree) | secret_variables({"storage": settings.storage})))


def _pruning(settings: Sweep, metric: str) -> dict[str, Any]:
    """Return the values of the pruning callback that every start of a run has; none without a pruner."""
    if settings.pruner == "none":
        return {}
    return {
        "callbacks.pruning._target_": "opsin.training.callbacks.Pruning",
        "callbacks.pruning.monitor": metric,
        "callbacks.pruning.pruner": settings.pruner,
        "callbacks.pruning.epochs": settings.pruner_epochs,
    }


def _place(settings: Sweep, trials: Trials, number: int) -> dict[str, Any]:
    """Return the values of the pruning callback that differ after a retry or a move of the sweep: its trial."""
    if settings.pruner == "none":
        return {}
    return {
        "callbacks.pruning.storage": trials.storage,
        "callbacks.pruning.study": trials.name,
        "callbacks.pruning.trial": number,
    }


def _count(devices: Any) -> int:
    """Return the number of devices of `trainer.devices`: a number or a list; `auto` and a key left out count as one."""
    return devices if isinstance(devices, int) else 1 if devices in ("auto", None) else len(devices)
