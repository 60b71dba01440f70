"""The common part of all loggers: the facts of a run, its start and its outcome."""

import functools
import importlib.util
import json
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from lightning.pytorch.loggers import CometLogger, Logger, MLFlowLogger, WandbLogger

from opsin.config.target_lookup import Target
from opsin.errors import UserError
from opsin.runs.atomic import write_atomically
from opsin.runs.directory import SWEEP_FILE, RunDirectory
from opsin.runs.flat_keys import Scalar
from opsin.runs.rank import is_spawned
from opsin.runs.regular_file import read_text

log = logging.getLogger(__name__)

LIBRARIES = {WandbLogger: "wandb", MLFlowLogger: "mlflow", CometLogger: "comet_ml"}
"""Libraries that loggers of Lightning need, as they are imported."""

EXTRAS = {"wandb": "opsin[wandb]", "mlflow": "opsin[mlflow]", "trackio": "opsin[trackio]", "comet_ml": "comet-ml"}
"""Packages that pip installs for each library."""

DURING_A_RUN = ("log_metrics", "save", "finalize")
"""Methods that Lightning and Opsin call between the start of a logger and the outcome of the run."""


@dataclass(frozen=True)
class RunFacts:
    """Facts of a run that a logger records at its start.

    Attributes:
        run: The run directory.
        config: The chosen options and every value that affects training, by dotted key; secrets are references.
        tags: Tags of the run.
    """

    run: RunDirectory
    config: Mapping[str, Scalar]
    tags: tuple[str, ...] = ()

    @property
    def values(self) -> dict[str, Scalar]:
        """The config, the tags and the path of the run directory, for a logger that has one table of values."""
        tags = {"tags": ", ".join(self.tags)} if self.tags else {}
        return {**self.config, **tags, "run_dir": str(self.run.path)}


class RunLogger(Logger):
    """A logger that records a whole run: its start, its metrics and its outcome."""

    library: ClassVar[str] = ""
    """Library that the logger needs; empty if Opsin always installs it."""

    advice: ClassVar[str] = ""
    """Advice for the message if the logger cannot start."""

    def log_start(self, facts: RunFacts) -> None:
        """Record the facts of the run before the first step."""
        self.log_hyperparams(facts.values)

    def log_outcome(self, facts: RunFacts, metrics: Mapping[str, float], step: int) -> None:
        """Record the final metrics as `final/<metric>`, and close the logger.

        Args:
            facts: Facts of the run.
            metrics: Metrics of the best epoch and of the test.
            step: Number of optimizer steps.
        """
        self.log_metrics({f"final/{name}": value for name, value in metrics.items()}, step)
        self.save()


def check_installed(loggers: Mapping[str, Target[Logger]]) -> None:
    """Check that the libraries of all loggers are installed; none is imported.

    Raises:
        UserError: A library is missing; the message has the command that installs it.
    """
    for name, target in loggers.items():
        kind: Any = target.call
        of_lightning = (library for base, library in LIBRARIES.items() if kind is base)
        library = getattr(kind, "library", "") or next(of_lightning, "")
        if library and importlib.util.find_spec(library) is None:
            raise UserError(
                f"logger.{name} needs {library}, which is not installed: pip install '{EXTRAS[library]}', or use "
                "logger=tensorboard"
            )


def log_start(loggers: Iterable[Logger], facts: RunFacts) -> None:
    """Start every logger of a run. The run continues without one that fails later, for example with its server.

    Raises:
        UserError: A logger cannot start, for example because its server cannot be reached. Those that have started
            have recorded that the run failed.
    """
    started: list[Logger] = []
    for logger in loggers:
        try:
            if isinstance(logger, RunLogger):
                logger.log_start(facts)
            else:
                logger.log_hyperparams(facts.values)
        except Exception as error:  # libraries raise errors of their own kinds
            for other in started:
                other.finalize("failed")
            advice = logger.advice if isinstance(logger, RunLogger) else ""
            reason = " ".join(str(error).split()).rstrip(".")
            raise UserError(f"the logger {type(logger).__name__} cannot start: {reason}. {advice}".strip()) from error
        if not isinstance(logger, RunLogger) or logger.library:  # the others write to the disk of the run
            _continue_without(logger)
        started.append(logger)


def _continue_without(logger: Logger) -> None:
    """Turn the first failure of a started logger into a warning, and call it no more until the outcome of the run."""
    failures: list[Exception] = []

    def guarded(method: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(method)
        def call(*arguments: Any, **named: Any) -> None:
            if failures:
                return
            try:
                method(*arguments, **named)
            except Exception as error:  # libraries raise errors of their own kinds
                failures.append(error)
                log.warning("the logger %s failed, and the run continues without it: %s", type(logger).__name__, error)

        return call

    for name in DURING_A_RUN:
        setattr(logger, name, guarded(getattr(logger, name)))


def log_outcome(loggers: Iterable[Logger], facts: RunFacts, metrics: Mapping[str, float], step: int) -> None:
    """Record the outcome of a run in every logger; a failure does not fail the run, which has finished."""
    for logger in loggers:
        for name in DURING_A_RUN:
            vars(logger).pop(name, None)  # a server that was away may be back
        try:
            if isinstance(logger, RunLogger):
                logger.log_outcome(facts, metrics, step)
            else:
                logger.log_metrics({f"final/{name}": value for name, value in metrics.items()}, step)
                logger.save()
        except Exception as error:
            log.warning("the logger %s could not record the outcome: %s", type(logger).__name__, error)


def recorded_id(run: RunDirectory, logger: str, new: str) -> tuple[str, bool]:
    """Return the identifier that a logger gave to a run, and whether the run had it before.

    Args:
        run: The run directory, whose `loggers.json` holds the identifiers.
        logger: Name of the logger and of the place to which it writes.
        new: Identifier of a run that has none; it is recorded.
    """
    recorded = recorded_ids(run)
    if logger in recorded:
        return recorded[logger], True
    if new and not is_spawned():
        record_id(run, logger, new)
    return new, False


def record_id(run: RunDirectory, logger: str, identifier: str) -> None:
    """Record the identifier of a run in `loggers.json`."""
    write_atomically(_file(run), json.dumps({**recorded_ids(run), logger: identifier}, indent=2) + "\n")


def run_name(run: RunDirectory) -> str:
    """Return the name of a run among other runs: that of its directory, after the name of its sweep if it has one."""
    sweep = run.path.parent
    return f"{sweep.name}/{run.path.name}" if (sweep / SWEEP_FILE).is_file() else run.path.name


def _file(run: RunDirectory) -> Path:
    return run.path / "loggers.json"


def recorded_ids(run: RunDirectory) -> dict[str, str]:
    """Return the identifiers that loggers gave to a run, by the name of the logger and of the place.

    Raises:
        UserError: `loggers.json` is damaged.
    """
    file, way_out = _file(run), "delete it to start new runs in the loggers"
    try:
        found = json.loads(read_text(file, way_out))
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} is damaged ({error}): {way_out}") from None
    if not isinstance(found, dict):
        raise UserError(f"{file} is damaged (it holds no names of loggers): {way_out}")
    return {str(key): str(value) for key, value in found.items()}
