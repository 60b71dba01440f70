"""A CSV file of all logged values by step."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger

from opsin.errors import UserError
from opsin.runs.atomic import write_atomically
from opsin.runs.directory import RunDirectory
from opsin.runs.metrics_csv import WAY_OUT
from opsin.runs.rank import is_spawned
from opsin.runs.regular_file import read_text
from opsin.training.lightning_patches import AppendingWriter
from opsin.training.loggers.base import RunLogger


class CSV(CSVLogger, RunLogger):
    """All logged values by step in `csv/metrics.csv` of the run, and the config in `csv/hparams.yaml`.

    `metrics.csv` of the run itself has one row per epoch. A resumed run keeps the rows before its first step.

    Args:
        run: The run directory.
        resume_step: Optimizer step of the resumed checkpoint; later rows are dropped.
    """

    def __init__(self, run: RunDirectory, resume_step: int | None = None) -> None:
        super().__init__(run.path, name="csv", version="")
        if is_spawned():
            return
        file, hyperparameters = run.path / "csv" / "metrics.csv", run.path / "csv" / "hparams.yaml"
        text = _read(file)
        _read(hyperparameters)
        if hyperparameters.is_symlink():  # Lightning would write through it
            hyperparameters.unlink()
        rows = _rows_before(file, text or "", resume_step or 0)
        columns = sorted({key for row in rows for key in row})
        if rows:
            write_atomically(file, _text(rows, columns))
        else:
            file.unlink(missing_ok=True)
        if text is not None:
            self._experiment = AppendingWriter(self.log_dir, columns)


def _read(file: Path) -> str | None:
    """Return the text of a file; None without one.

    Raises:
        UserError: It is no regular file, or no text.
    """
    try:
        return read_text(file, WAY_OUT)
    except FileNotFoundError:
        return None


def _rows_before(file: Path, text: str, step: int) -> list[dict[str, Any]]:
    """Return the rows before a step, without their empty cells.

    Args:
        file: The file, for the message.
        text: Its text. The last line is incomplete if the process was killed while it wrote the line.
        step: An optimizer step.

    Raises:
        UserError: The text is damaged.
    """
    complete = text[: text.rfind("\n") + 1]
    try:
        rows = list(csv.DictReader(io.StringIO(complete, newline=""), strict=True))
        found = [{key: cell for key, cell in row.items() if cell} for row in rows if int(row["step"]) < step]
        if any(None in row for row in found):
            raise ValueError("a row has more cells than the header")
    except (ValueError, KeyError, TypeError, csv.Error) as error:
        reason = f"no column {error}" if isinstance(error, KeyError) else error
        raise UserError(f"{file} is damaged ({reason}): {WAY_OUT}") from None
    return found


def _text(rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> str:
    """Return rows as the text of a CSV file; a missing value is an empty cell."""
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, columns)
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()
