"""A CSV file of all logged values by step."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger

from opsin.runs.atomic import write_atomically
from opsin.runs.directory import RunDirectory
from opsin.runs.rank import is_spawned
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
        file = run.path / "csv" / "metrics.csv"
        if is_spawned() or not file.exists():
            return
        rows = _rows_before(file, resume_step or 0)
        columns = sorted({key for row in rows for key in row})
        if rows:
            write_atomically(file, _text(rows, columns))
        else:
            file.unlink()
        self._experiment = AppendingWriter(self.log_dir, columns)


def _rows_before(file: Path, step: int) -> list[dict[str, Any]]:
    """Return the rows before a step, without their empty cells."""
    with file.open(encoding="utf-8", newline="") as stream:
        rows = [{key: cell for key, cell in row.items() if cell} for row in csv.DictReader(stream)]
    return [row for row in rows if int(row["step"]) < step]


def _text(rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> str:
    """Return rows as the text of a CSV file; a missing value is an empty cell."""
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, columns)
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()
