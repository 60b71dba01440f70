"""Answers as rows: CSV, JSON lines or parquet, written as they come."""

import contextlib
import csv
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Literal, get_args

import numpy as np

from opsin.errors import UserError
from opsin.inference.predictor import Answer
from opsin.runs.atomic import atomic_open

Format = Literal["csv", "jsonl", "parquet"]
FORMATS: tuple[Format, ...] = get_args(Format)
Write = Callable[[Answer], None]

_ROWS = 4096  # of a row group, the most that a parquet file holds back in memory


def ranked(answer: Answer, classes: Sequence[str], top: int) -> list[tuple[str, float]]:
    """The most probable classes of an answer and their probabilities, the first one first; none of a bad image."""
    if answer.probabilities is None:
        return []
    order = np.argsort(-answer.probabilities, kind="stable")[:top]
    return [(classes[i], float(answer.probabilities[i])) for i in order]


def printable(text: str) -> str:
    """A file name as it can be shown and kept: what is no text, and what would steer a terminal, is escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def kept(path: Path) -> str:
    """A file name as it can be kept: what is no text is escaped."""
    return str(path).encode(errors="backslashreplace").decode()


@contextlib.contextmanager
def open_table(out: Path | None, kind: Format | None, classes: Sequence[str], top: int) -> Iterator[Write]:
    """A table to write answers to, one row each, bad images too; a file appears once it is whole.

    CSV and parquet have the columns `path`, `class`, `probability`, then `class_2`, `probability_2` and so on, and
    `error`, which says why an image has no class. JSON lines have `path`, `class`, `probability` and `top`, or `path`
    and `error`.

    Args:
        out: The file; None: the standard output.
        kind: None: by the name of the file.
        classes: Names, in the order of probabilities.
        top: How many classes a row tells.

    Raises:
        UserError: The format is not said, parquet is asked for on the standard output, or the file cannot be written.
    """
    kind = kind or _kind(out)
    if out is None:
        if kind == "parquet":
            raise UserError("--format parquet is no text: say where it goes with --out FILE.parquet")
        with _TABLES[kind](sys.stdout, classes, top) as write:
            yield write
        return
    if out.is_dir():
        raise UserError(f"--out {out} is a folder: name a file in it, such as {out / f'answers.{kind}'}")
    with contextlib.ExitStack() as closing:
        try:
            stream = closing.enter_context(atomic_open(out, "wb" if kind == "parquet" else "w", newline=""))
        except OSError as error:
            raise UserError(f"--out {out} cannot be written: {error.strerror or error}") from None
        yield closing.enter_context(_TABLES[kind](stream, classes, top))


def _kind(out: Path | None) -> Format:
    if out is not None:
        for kind in FORMATS:
            if out.suffix.lower() == f".{kind}":
                return kind
    raise UserError(f"--out {out}: its name does not end in one of {', '.join(FORMATS)}: say --format too")


def _columns(top: int) -> list[str]:
    ranks = ["", *(f"_{rank}" for rank in range(2, top + 1))]
    return ["path", *(f"{name}{rank}" for rank in ranks for name in ("class", "probability")), "error"]


def _row(answer: Answer, classes: Sequence[str], top: int) -> list[Any]:
    cells: list[Any] = [cell for pair in ranked(answer, classes, top) for cell in pair] or [None] * (2 * top)
    return [kept(answer.path), *cells, answer.reason]


@contextlib.contextmanager
def _csv(stream: IO[str], classes: Sequence[str], top: int) -> Iterator[Write]:
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(_columns(top))
    yield lambda answer: writer.writerow(_row(answer, classes, top))


@contextlib.contextmanager
def _jsonl(stream: IO[str], classes: Sequence[str], top: int) -> Iterator[Write]:
    def write(answer: Answer) -> None:
        record: dict[str, Any] = {"path": kept(answer.path)}
        if found := ranked(answer, classes, top):
            record |= {"class": found[0][0], "probability": found[0][1]}
            record["top"] = [{"class": name, "probability": probability} for name, probability in found]
        else:
            record["error"] = answer.reason
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

    def write(answer: Answer) -> None:
        rows.append(_row(answer, classes, top))
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
