"""MLflow, on a server or in a local SQLite file."""

import contextlib
import logging
import os
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from lightning.pytorch.loggers import MLFlowLogger
from lightning.pytorch.utilities import rank_zero_only

from opsin.errors import Interrupted
from opsin.runs.directory import OUTPUT_DIR, RunDirectory
from opsin.runs.secret_values import mask_secrets
from opsin.training.loggers.base import RunFacts, RunLogger, record_id, recorded_id, recorded_ids, run_name

log = logging.getLogger(__name__)

LOCAL, DATABASE = "sqlite:///", "mlflow.db"
"""Begin of the address and name of the local database."""


class MLflow(MLFlowLogger, RunLogger):
    """A run in MLflow: params, tags and metrics.

    Args:
        run: The run directory.
        folder: Folder of the local database `mlflow.db`; a resumed run keeps its database.
        experiment_name: Experiment of MLflow.
        tracking_uri: Address of the server or database; None: MLFLOW_TRACKING_URI, else the local database.
    """

    library: ClassVar[str] = "mlflow"
    advice: ClassVar[str] = "Check logger.mlflow.tracking_uri; loggers.json of the run holds the id of its MLflow run."

    def __init__(
        self,
        run: RunDirectory,
        folder: str = OUTPUT_DIR,
        experiment_name: str = "opsin",
        tracking_uri: str | None = None,
    ) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # MLflow reads it when it is imported
        _silence()
        place = _recorded_folder(run) or Path(folder).absolute()
        address = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
        if not address:
            place.mkdir(parents=True, exist_ok=True)
            address = f"{LOCAL}{place / DATABASE}"
        self._run, self._key = run, mask_secrets(f"mlflow {address}")
        identifier, self._resumes = recorded_id(run, self._key, "")
        super().__init__(
            experiment_name=experiment_name,
            run_name=run_name(run),
            tracking_uri=address,
            artifact_location=None if "://" in address.removeprefix("sqlite://") else (place / "mlartifacts").as_uri(),
            run_id=identifier or None,
        )

    @rank_zero_only
    def log_start(self, facts: RunFacts) -> None:
        """Begin the run with its tags and params, or continue it."""
        self.tags = {"run_dir": str(facts.run.path), **dict.fromkeys(facts.tags, "true")}
        self._make_experiment()
        before = os.environ.get("MLFLOW_TRACKING_URI")
        assert self.run_id is not None
        if before is None:  # MLflow sets it, which would change the place of the next run in this process
            os.environ.pop("MLFLOW_TRACKING_URI", None)
        record_id(self._run, self._key, self.run_id)
        if self._resumes:
            self.experiment.update_run(self.run_id, status="RUNNING")
            for tag, value in self.tags.items():
                self.experiment.set_tag(self.run_id, tag, value)
        super().log_start(facts)
        log.info("mlflow     run %s in %s", self.run_id, self._tracking_uri)

    def _make_experiment(self) -> None:
        """Create the experiment if it does not exist, unless another run of a sweep does so at the same time."""
        client, name = self._mlflow_client, self._experiment_name
        if client.get_experiment_by_name(name) is None:
            with contextlib.suppress(Exception):
                client.create_experiment(name, artifact_location=self._artifact_location)

    @rank_zero_only
    def log_hyperparams(self, params: Any) -> None:
        """Log params; MLflow refuses to change those of a resumed run, which keep their first values."""
        assert self.run_id is not None
        logged = self.experiment.get_run(self.run_id).data.params
        super().log_hyperparams({key: value for key, value in params.items() if key not in logged})

    @rank_zero_only
    def log_outcome(self, facts: RunFacts, metrics: Mapping[str, float], step: int) -> None:
        """Record the final metrics, and end the run."""
        super().log_outcome(facts, metrics, step)
        self.finalize("success")

    @rank_zero_only
    def finalize(self, status: str = "success") -> None:
        """End the run in MLflow: finished, failed, or killed if a signal stopped it."""
        super().finalize(status)
        if self._initialized and status == "failed" and isinstance(sys.exception(), Interrupted):
            self.experiment.set_terminated(self.run_id, "KILLED")


def _recorded_folder(run: RunDirectory) -> Path | None:
    """Return the folder of the local database that holds a run, which may be resumed from any folder; else None."""
    begin = f"mlflow {LOCAL}"
    files = [Path(key.removeprefix(begin)) for key in recorded_ids(run) if key.startswith(begin)]
    return next((file.parent for file in files if file.name == DATABASE and file.is_file()), None)


def _silence() -> None:
    """Hide messages about the database, and warnings about SQLAlchemy that only MLflow can act on."""
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*noload.* loader strategy is deprecated")
