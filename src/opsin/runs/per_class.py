"""Precision, recall and F1 of each class: the one definition, and the files of a run that hold them.

For each measured split, `per_class/SPLIT.npz` holds the confusion matrix and `per_class/SPLIT.csv` the scores as a
table. They are not part of `result.json`, which stays small with a thousand classes.
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from opsin.errors import UserError
from opsin.runs.atomic import atomic_open, write_atomically
from opsin.runs.directory import RunDirectory
from opsin.runs.escaping import CSVLines, valid_text
from opsin.runs.regular_file import check_regular


@dataclass(frozen=True)
class ClassScores:
    """Scores of one class.

    Attributes:
        name: Name of the class.
        count: Number of images of this class.
        predicted: Number of images predicted to be in this class.
        precision: Share of the images predicted to be in the class that do belong to it; None if no image is.
        recall: Share of the images of the class that are predicted to be in it; None if it has no images.
        f1: Harmonic mean of precision and recall, `2 hits / (count + predicted)`; None if both counts are zero.
    """

    name: str
    count: int
    predicted: int
    precision: float | None
    recall: float | None
    f1: float | None


@dataclass(frozen=True, eq=False)
class SplitScores:
    """Scores of the classes on a split.

    Attributes:
        classes: Scores of each class.
        confusion: Number of images `(C, C)` by true class (rows) and predicted class (columns).
    """

    classes: tuple[ClassScores, ...]
    confusion: NDArray[np.int64]

    @classmethod
    def of(cls, confusion: NDArray[np.int64], classes: Sequence[str]) -> "SplitScores":
        """Return the scores that follow from a confusion matrix `(C, C)`."""
        return cls(tuple(class_scores(confusion, classes)), confusion)

    def write(self, run: RunDirectory, split: str) -> None:
        """Write the files of a split in a run directory."""
        names = [valid_text(row.name) for row in self.classes]
        with atomic_open(_file(run, split, "npz")) as stream:
            np.savez_compressed(stream, classes=np.array(names, np.str_), confusion=self.confusion)
        text = io.StringIO()
        table = csv.DictWriter(CSVLines(text), list(ClassScores.__annotations__))
        table.writeheader()
        table.writerows(asdict(row) | {"name": name} for row, name in zip(self.classes, names, strict=True))
        write_atomically(_file(run, split, "csv"), text.getvalue())


def read_scores(run: RunDirectory, split: str) -> SplitScores | None:
    """Return the scores of a split; None if the run has not measured it.

    Raises:
        UserError: The file is damaged.
    """
    file = _file(run, split, "npz")
    try:
        check_regular(file)
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as kept:
            confusion, classes = kept["confusion"], kept["classes"]
            if confusion.shape != (len(classes),) * 2 or confusion.dtype.kind not in "iu" or classes.dtype.kind != "U":
                raise ValueError
            return SplitScores.of(confusion, classes.tolist())
    except FileNotFoundError:
        return None
    except Exception:  # a damaged file raises anything
        raise UserError(f"{file} is damaged: replace it with an intact copy") from None


def delete_scores(run: RunDirectory, split: str) -> None:
    """Delete the files of a split, if there are any."""
    for kind in ("npz", "csv"):
        _file(run, split, kind).unlink(missing_ok=True)


def class_scores(confusion: NDArray[np.int64], classes: Sequence[str]) -> list[ClassScores]:
    """Return the scores of each class.

    Args:
        confusion: Number of images `(C, C)` by true class (rows) and predicted class (columns).
        classes: Names of the C classes.
    """
    hits, counts, predicted = confusion.diagonal().tolist(), confusion.sum(1).tolist(), confusion.sum(0).tolist()
    return [
        ClassScores(name, count, taken, _ratio(hit, taken), _ratio(hit, count), _ratio(2 * hit, count + taken))
        for name, hit, count, taken in zip(classes, hits, counts, predicted, strict=True)
    ]


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _file(run: RunDirectory, split: str, kind: str) -> Path:
    return run.path / "per_class" / f"{split}.{kind}"
