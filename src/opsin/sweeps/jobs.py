"""From a trial to its job: the words of the run, where it lies, and how many devices it takes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from opsin.config import ConfigSource, compose_raw
from opsin.errors import UserError
from opsin.runs.directory import RunDirectory
from opsin.runs.quoting import override
from opsin.sweeps.launchers.base import Job
from opsin.sweeps.search_space import Listed, Space
from opsin.sweeps.settings import Sweep
from opsin.sweeps.table import TrialRow
from opsin.sweeps.trials import Trial, Trials

OF_EVERY_RUN = {"test": False, "report": False}
"""What a run has that does not say otherwise: the winner alone reads the test images, and has a report."""


class Jobs:
    """Makes the jobs of a sweep.

    Args:
        space: of the sweep.
        source: Search path and primary config of all runs.

    Attributes:
        typical: the config of the first run of a grid; where that cannot be composed, of the last one.

    Raises:
        UserError: neither can be, as where a key is not known.
    """

    def __init__(self, space: Space, source: ConfigSource | None = None) -> None:
        self._space = space
        self._source = source or ConfigSource()
        last = [d.word(d.words[-1] if isinstance(d, Listed) else d.high) for d in space.dimensions]
        try:
            self.typical = compose_raw([*space.fixed, *space.first()], self._source)
        except UserError:  # one wrong value is one run that fails
            self.typical = compose_raw([*space.fixed, *last], self._source)
        groups = {dimension.key.split(".")[0] for dimension in space.dimensions}
        self._widths_differ = bool(groups & {"trainer", "experiment", "debug"})

    @property
    def parts(self) -> dict[str, str | None]:
        """Option of each part that the name of a run tells."""
        return {part: self.typical.hydra.runtime.choices[part] for part in ("datamodule", "model")}

    def of(self, trial: Trial, folder: Path, settings: Sweep, objective: str, trials: Trials, threads: int) -> Job:
        """The job of a trial: its run begun, or gone on with where it was begun before.

        Args:
            trial: claimed by this process.
            folder: of the sweep.
            settings: of the sweep.
            objective: the metric that a pruner compares.
            trials: whose study the run reports to, where a pruner listens.
            threads: of each process.
        """
        run = RunDirectory(folder / trial.run)
        run.path.mkdir(exist_ok=True)
        devices = self._devices(trial.words) if self._widths_differ else _count(self.typical.trainer.devices)
        if run.config.exists():
            return Job(trial.number, (override("resume", run.path),), run, devices)
        more = {**OF_EVERY_RUN, "trainer.threads": threads}
        words = [override(key, value) for key, value in more.items() if not self._space.says(key)]
        words += _pruning(settings, trials, trial.number, objective)
        words = [*self._source.flags, *trial.words, *words, override("hydra.run.dir", run.path)]
        return Job(trial.number, tuple(words), run, devices)

    def _devices(self, words: Sequence[str]) -> int:
        try:
            return _count(compose_raw(words, self._source).trainer.devices)
        except UserError:  # which the process of the run tells
            return 1


def of_winner(row: TrialRow) -> Job:
    """The job that reads the test images for a run that has ended, and writes its report."""
    return Job(row.number, (override("resume", row.run.path), "test=true", "report=true"), row.run)


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
