"""Write predictions as rows of CSV, JSON lines or parquet, one by one."""

import contextlib
import csv
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from opsin.errors import UserError
from opsin.inference.predictor import Prediction
from opsin.runs.atomic import atomic_open, check_writable, write_errors
from opsin.runs.escaping import CSVLines, valid_text

Format = Literal["csv", "jsonl", "parquet"]
FORMATS: tuple[Format, ...] = get_args(Format)
Write = Callable[[Prediction], None]

_ROWS = 4096  # rows per row group of parquet, which are buffered in memory


def ranked(prediction: Prediction, classes: Sequence[str], top: int) -> list[tuple[str, float]]:
    """Return the most probable classes and their probabilities, highest first; empty for a bad image."""
    return [] if prediction.probabilities is None else most_probable(prediction.probabilities, classes, top)


def most_probable(probabilities: NDArray[np.float64], classes: Sequence[str], top: int) -> list[tuple[str, float]]:
    """Return the most probable classes and their probabilities `(C,)`, highest first."""
    order = np.argsort(-probabilities, kind="stable")[:top]
    return [(classes[i], float(probabilities[i])) for i in order]


def classes_per_row(classes: Sequence[str], top: int) -> int:
    """Return the number of classes that a row shows: `top`, or the number of classes if that is smaller."""
    return min(top, len(classes))


def printable(text: str) -> str:
    """Return a file name for display, with invalid bytes and control characters escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in valid_text(text))


def path_text(path: Path) -> str:
    """Return a path as text for the cells of a table file, with invalid bytes escaped."""
    return valid_text(str(path))


@contextlib.contextmanager
def open_table(out: Path | None, kind: Format | None, classes: Sequence[str], top: int) -> Iterator[Write]:
    """Open a table that takes one row per prediction, including bad images; a file is written atomically.

    CSV and parquet have the columns `path`, `class`, `probability`, then `class_2`, `probability_2` and so on, and
    `error`, the reason if an image has no class. JSON lines have `path`, `class`, `probability` and `top`, or `path`
    and `error`.

    Args:
        out: The file; its folder is created if needed. None for stdout.
        kind: Format; None takes it from the suffix of the file.
        classes: Names of the classes, in the order of the probabilities.
        top: Number of classes per row, limited to the number of classes (`classes_per_row`).

    Raises:
        UserError: The format is unknown or contradicts the suffix of the file, parquet would go to stdout, or the file
            cannot be written.
    """
    kind, top = kind or _kind(out), classes_per_row(classes, top)
    if out is None:
        if kind == "parquet":
            raise UserError("parquet is binary and cannot go to stdout; use --out FILE.parquet")
        with _TABLES[kind](sys.stdout, classes, top) as write:
            yield write
        return
    if (suffix := out.suffix.lower().removeprefix(".")) in FORMATS and suffix != kind:
        raise UserError(
            f"--out {out} and --format {kind} contradict each other: leave --format out, or change the suffix"
        )
    if out.is_dir():
        raise UserError(f"--out {out} is a folder; give a file, such as {out / f'predictions.{kind}'}")
    check_writable(out.parent, "--out")
    with contextlib.ExitStack() as closing:
        opened = atomic_open(out, "wb") if kind == "parquet" else atomic_open(out, "w", newline="")
        with write_errors(out, "--out"):
            stream = closing.enter_context(opened)
        yield closing.enter_context(_TABLES[kind](stream, classes, top))


def _kind(out: Path | None) -> Format:
    if out is not None:
        for kind in FORMATS:
            if out.suffix.lower() == f".{kind}":
                return kind
    raise UserError(f"the suffix of --out {out} is not one of {', '.join(FORMATS)}; add --format")


def _columns(top: int) -> list[str]:
    ranks = ["", *(f"_{rank}" for rank in range(2, top + 1))]
    return ["path", *(f"{name}{rank}" for rank in ranks for name in ("class", "probability")), "error"]


def _row(prediction: Prediction, classes: Sequence[str], top: int) -> list[Any]:
    cells: list[Any] = [cell for pair in ranked(prediction, classes, top) for cell in pair] or [None] * (2 * top)
    return [path_text(prediction.path), *cells, prediction.reason]


@contextlib.contextmanager
def _csv(stream: IO[str], classes: Sequence[str], top: int) -> Iterator[Write]:
    writer = csv.writer(CSVLines(stream))
    writer.writerow(_columns(top))
    yield lambda prediction: writer.writerow(_row(prediction, classes, top))


@contextlib.contextmanager
def _jsonl(stream: IO[str], classes: Sequence[str], top: int) -> Iterator[Write]:
    def write(prediction: Prediction) -> None:
        record: dict[str, Any] = {"path": path_text(prediction.path)}
        if found := ranked(prediction, classes, top):
            record |= {"class": found[0][0], "probability": found[0][1]}
            record["top"] = [{"class": name, "probability": probability} for name, probability in found]
        else:
            record["error"] = prediction.reason
        stream.write(json.dumps(record, ensure_ascii=False) + "\n")

    yield write


@contextlib.contextmanager
def _parquet(stream: IO[bytes], classes: Sequence[str], top: int) -> Iterator[Write]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = _columns(top)
    schema = pa.schema([(name, pa.float64() if name.startswith("probability") else pa.string()) for name in columns])
    rows: list[list[Any]] = []

    def flush() -> None:
        table.write_table(pa.table([list(column) for column in zip(*rows, strict=True)], schema=schema))
        rows.clear()

    def write(prediction: Prediction) -> None:
        rows.append(_row(prediction, classes, top))
        if len(rows) == _ROWS:
            flush()

    with pq.ParquetWriter(stream, schema) as table:
        yield write
        if rows:
            flush()


_TABLES: dict[Format, Callable[..., contextlib.AbstractContextManager[Write]]] = {
    "csv": _csv,
    "jsonl": _jsonl,
    "parquet": _parquet,
}
