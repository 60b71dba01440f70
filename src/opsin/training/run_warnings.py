"""Collect the warnings of a run for its result and for the summary at its end."""

import contextlib
import logging
from collections.abc import Iterator, Sequence

from opsin.runs.result import RunResult
from opsin.runs.secret_values import mask_secrets

MOST_WARNINGS = 100
"""Warnings that a result keeps."""

SHOWN_WARNINGS = 8
"""Warnings that the summary at the end of a run repeats."""


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


def warning_lines(warnings: Sequence[str]) -> list[str]:
    """Return the lines of the summary that repeat the first warnings; none without warnings."""
    lines = [f"warning     {message}" for message in warnings[:SHOWN_WARNINGS]]
    more = len(warnings) - SHOWN_WARNINGS
    return ["", *lines, *([f"            and {more} more in result.json"] if more > 0 else [])] if lines else []
