"""Collect the warnings of a run for its result and for the summary at its end; do not repeat them afterwards."""

import contextlib
import logging
from collections.abc import Iterator, Sequence

from opsin.runs.result import RunResult
from opsin.runs.secret_values import mask_secrets

MOST_WARNINGS = 100
"""Warnings that a result keeps."""

SHOWN_WARNINGS = 8
"""Warnings that the summary at the end of a run repeats."""

DATA_LOGGERS = "opsin.data"
"""Package whose modules log the warnings about the images of a run."""


@contextlib.contextmanager
def collect_warnings(result: RunResult) -> Iterator[None]:
    """Add the warnings that Opsin logs in the block to a result, each once."""
    collector = _WarningCollector(result.warnings)
    logger = logging.getLogger("opsin")
    logger.addHandler(collector)
    try:
        yield
    finally:
        logger.removeHandler(collector)


class _WarningCollector(logging.Handler):
    def __init__(self, messages: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._messages = messages

    def emit(self, record: logging.LogRecord) -> None:
        message = mask_secrets(record.getMessage())
        if message not in self._messages and len(self._messages) < MOST_WARNINGS:
            self._messages.append(message)


@contextlib.contextmanager
def known_warnings(known: Sequence[str]) -> Iterator[None]:
    """Do not log again, within a block, warnings about the data of a run that the run has recorded.

    Args:
        known: The warnings in the result of the run.
    """

    def is_new(record: logging.LogRecord) -> bool:
        return mask_secrets(record.getMessage()) not in known

    names = [name for name in logging.root.manager.loggerDict if name.startswith(f"{DATA_LOGGERS}.")]
    loggers = [logging.getLogger(name) for name in names]
    for logger in loggers:
        logger.addFilter(is_new)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(is_new)


def warning_lines(warnings: Sequence[str]) -> list[str]:
    """Return the lines of the summary that repeat the first warnings; none without warnings."""
    lines = [f"warning     {message}" for message in warnings[:SHOWN_WARNINGS]]
    more = len(warnings) - SHOWN_WARNINGS
    return ["", *lines, *([f"            and {more} more in result.json"] if more > 0 else [])] if lines else []
