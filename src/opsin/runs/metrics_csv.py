"""The table of epochs, `metrics.csv`: its columns, and the functions that write and read it.

Only the callback `opsin.training.callbacks.metrics_csv_writer.MetricsCSV` calls `write_epochs`: after each epoch and
after each validation within an epoch. The columns are:

- `epoch`: number of trained epochs; a fraction such as 1.5 within an epoch.
- `step`: number of optimizer steps.
- `lr` and the metrics `<split>/<name>`, in alphabetical order. `lr` is the learning rate of the head that the
  schedule has reached: with it the next step is taken. The metrics are those that were measured, of `train` and
  `val`: the names in `opsin.runs.metric_registry`, and those that callbacks of the user log.

A row after an epoch has the metrics of train, and of val if the epoch ended with a validation. A row of a validation
within an epoch has those of val only. A value that was not measured is an empty cell.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from opsin.errors import UserError
from opsin.runs.atomic import write_atomically
from opsin.runs.escaping import CSVLines
from opsin.runs.regular_file import read_text

WAY_OUT = "restore it from a backup, or delete it"

EPOCH, STEP, LEARNING_RATE = "epoch", "step", "lr"
"""Names of the columns that are not metrics. `epoch` and `step` come first, `lr` is sorted among the metrics."""


@dataclass(frozen=True)
class EpochRow:
    """The metrics at the end of an epoch, or of a validation within an epoch.

    Attributes:
        epoch: Number of trained epochs; a fraction within an epoch.
        step: Number of optimizer steps.
        values: `lr` (learning rate of the head in the next step) and the metrics by name; only those measured at this
            step.
    """

    epoch: float
    step: int = 0
    values: Mapping[str, float] = field(default_factory=dict)

    def get(self, name: str) -> float | None:
        """Return a value, or None if it was not measured at this step."""
        return self.values.get(name)


def read_epochs(file: Path) -> list[EpochRow]:
    """Return the rows in the order of the epochs, each epoch once; empty if there is no file.

    Raises:
        UserError: The file is damaged.
    """
    try:
        text = read_text(file, WAY_OUT)
        reader = csv.DictReader(io.StringIO(text))
        if EPOCH not in (reader.fieldnames or ()):
            raise KeyError(EPOCH)
        rows = [_row(cells) for cells in reader]
    except FileNotFoundError:
        return []
    except (ValueError, KeyError, TypeError, csv.Error) as error:
        reason = f"no column {error}" if isinstance(error, KeyError) else error
        raise UserError(f"{file} is damaged ({reason}): {WAY_OUT}") from None
    by_epoch = {row.epoch: row for row in rows}
    return [by_epoch[epoch] for epoch in sorted(by_epoch)]


def measured(rows: Sequence[EpochRow], name: str) -> tuple[list[float], list[float]]:
    """Return the epochs of the rows that have a value of this name, and the values."""
    found = [(row.epoch, value) for row in rows if (value := row.get(name)) is not None]
    return [epoch for epoch, _ in found], [value for _, value in found]


def write_epochs(file: Path, rows: Sequence[EpochRow]) -> None:
    """Write the rows; a missing value is an empty cell."""
    names = sorted({name for row in rows for name in row.values})
    text = io.StringIO()
    writer = csv.writer(CSVLines(text))
    writer.writerow([EPOCH, STEP, *names])
    for row in rows:
        cells = [repr(row.values[name]) if name in row.values else "" for name in names]
        writer.writerow([row.epoch, row.step, *cells])
    write_atomically(file, text.getvalue())


def _row(cells: Mapping[str, str]) -> EpochRow:
    values = {name: float(cell) for name, cell in cells.items() if name not in (EPOCH, STEP, None) and cell}
    epoch = float(cells[EPOCH])
    return EpochRow(int(epoch) if epoch.is_integer() else epoch, int(cells.get(STEP) or 0), values)
