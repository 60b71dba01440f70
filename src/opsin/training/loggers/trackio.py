"""Trackio, the local experiment tracker of Hugging Face."""

import contextlib
import io
import logging
import secrets
from collections.abc import Mapping
from typing import Any, ClassVar

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.utilities import rank_zero_only

from opsin.runs.directory import RunDirectory
from opsin.training.loggers.base import RunFacts, RunLogger, recorded_id, run_name

log = logging.getLogger(__name__)


class Trackio(RunLogger):
    """A run in Trackio: a SQLite file in Trackio's own folder (TRACKIO_DIR), shown by `trackio show`.

    Args:
        run: The run directory.
        project: Project of Trackio.
        space_id: Space of Hugging Face to log to; None: the local file.
    """

    library: ClassVar[str] = "trackio"
    advice: ClassVar[str] = "Without a network leave logger.trackio.space_id null."

    def __init__(self, run: RunDirectory, project: str = "opsin", space_id: str | None = None) -> None:
        super().__init__()
        self._project = project
        self._space = space_id
        new = f"{run_name(run)}_{secrets.token_hex(2)}"  # Trackio resumes the last run of a name, of any directory
        self._name, self._resumes = recorded_id(run, f"trackio {space_id or 'local'} {project}", new)
        self._config: dict[str, Any] = {}
        self._tracked: Any = None

    @property
    def name(self) -> str:
        """The project."""
        return self._project

    @property
    def version(self) -> str:
        """The name of the run."""
        return self._name

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The run of Trackio, which begins when it is first used."""
        if self._tracked is None:
            import trackio

            with contextlib.redirect_stdout(io.StringIO()):
                self._tracked = trackio.init(
                    self._project,
                    name=self._name,
                    group=self._name.rpartition("/")[0] or None,
                    space_id=self._space,
                    config=self._config,
                    resume="allow" if self._resumes else "never",
                    embed=False,
                    auto_log_gpu=False,
                    auto_log_cpu=False,
                )
        return self._tracked

    @rank_zero_only
    def log_start(self, facts: RunFacts) -> None:
        """Begin the run with its config, or continue it."""
        super().log_start(facts)
        assert self.experiment is not None
        log.info("trackio    run %s; show it with: trackio show --project %s", self._name, self._project)

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Keep the config for the start of the run."""
        self._config |= dict(params)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log values at an optimizer step."""
        self.experiment.log(dict(metrics), step=step)

    @rank_zero_only
    def log_outcome(self, facts: RunFacts, metrics: Mapping[str, float], step: int) -> None:
        """Record the final metrics, and close the run."""
        super().log_outcome(facts, metrics, step)
        self._close()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Close a failed or interrupted run; a finished one is closed after its outcome is recorded."""
        if status == "failed":
            self._close()

    def _close(self) -> None:
        if self._tracked is not None:
            import trackio

            with contextlib.redirect_stdout(io.StringIO()):
                trackio.finish()
            self._tracked, self._resumes = None, True
