"""Saved predictions of a run for the images of a split, readable without torch."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from opsin.errors import UserError
from opsin.runs.atomic import atomic_open
from opsin.runs.directory import RunDirectory
from opsin.runs.escaping import valid_text
from opsin.runs.quoting import opsin_command
from opsin.runs.regular_file import check_regular


@dataclass(frozen=True, eq=False)
class Predictions:
    """Predictions of the best checkpoint of a run for the images of one split.

    Attributes:
        split: train, val or test.
        classes: Class names, in the order of the columns.
        logits: float32 `(N, C)`, whose softmax gives the probabilities; a single logit z is stored as (0, z).
        targets: Class indices `(N,)`, int64.
        positions: Positions of the images in the split `(N,)`, int64, sorted; all of them unless batches were limited.
        paths: Origin of each image `(N,)`.
        images: Digest of the images and their classes, independent of their size. If it is equal, the predictions of
            two runs are for the same images, in the same order.
    """

    split: str
    classes: tuple[str, ...]
    logits: NDArray[np.float32]
    targets: NDArray[np.int64]
    positions: NDArray[np.int64]
    paths: tuple[str, ...]
    images: str

    def __len__(self) -> int:
        """The number of images."""
        return len(self.targets)

    @property
    def probabilities(self) -> NDArray[np.float64]:
        """Class probabilities `(N, C)`; each row sums to 1."""
        return softmax(self.logits)

    @property
    def predicted(self) -> NDArray[np.int64]:
        """The most probable class `(N,)`; the first of equally probable ones."""
        best: NDArray[np.int64] = self.logits.argmax(axis=1)
        return best

    @property
    def correct(self) -> NDArray[np.bool_]:
        """Whether each image is classified correctly `(N,)`."""
        right: NDArray[np.bool_] = self.predicted == self.targets
        return right

    def check(self) -> None:
        """Check that all arrays are of the same images, and that their values have a meaning.

        Raises:
            ValueError: They are not, or have not.
        """
        count = len(self.paths)
        shapes = (self.logits.shape, self.targets.shape, self.positions.shape)
        if shapes != ((count, len(self.classes)), (count,), (count,)):
            raise ValueError(f"{shapes} for {count} images and {len(self.classes)} classes")
        kinds = (self.logits.dtype.kind, self.targets.dtype.kind, self.positions.dtype.kind)
        if kinds != ("f", "i", "i") or not all(isinstance(name, str) for name in (*self.classes, *self.paths[:1])):
            raise ValueError(f"values of the kinds {kinds}")
        if count and not (0 <= self.targets.min() <= self.targets.max() < len(self.classes)):
            raise ValueError("a target is not a class")
        if count and self.positions.min() < 0:
            raise ValueError("a position is negative")

    def write(self, run: RunDirectory) -> None:
        """Write `predictions/<split>.npz` in a run directory, or in its folder for derived files, atomically."""
        # File names can hold bytes that are not valid text
        paths = [valid_text(path) for path in self.paths]
        with atomic_open(run.out / _name(self.split)) as stream:
            np.savez(
                stream,
                classes=np.array(self.classes, np.str_),
                logits=self.logits,
                targets=self.targets,
                positions=self.positions,
                paths=np.array(paths, np.str_),
                images=np.array(self.images, np.str_),
            )


def predictions_file(run: RunDirectory, split: str) -> Path:
    """Return the path of the predictions of a split."""
    return run.find(_name(split))


def _name(split: str) -> str:
    return f"predictions/{split}.npz"


def read_predictions(run: RunDirectory, split: str) -> Predictions:
    """Return the saved predictions of a split.

    Raises:
        UserError: There are no predictions of this split, or the file is damaged.
    """
    file = predictions_file(run, split)
    command = opsin_command("evaluate", run.path, "--split", split)
    way_out = f"create them with: {command}"
    try:
        check_regular(file)
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as kept:
            found = Predictions(
                split,
                tuple(kept["classes"].tolist()),
                kept["logits"],
                kept["targets"],
                kept["positions"],
                tuple(kept["paths"].tolist()),
                str(kept["images"]),
            )
            found.check()
    except FileNotFoundError:
        raise UserError(f"{run.path} has no predictions of {split}: {way_out}") from None
    except Exception:  # a damaged file raises anything, and numpy's own message advises to load pickles
        raise UserError(f"{file} is damaged: {way_out}") from None
    return found


def check_positions(positions: NDArray[np.int64], split: str, count: int) -> None:
    """Check positions of saved predictions before the images at these positions are read.

    Args:
        positions: Positions of images in a split.
        split: The split.
        count: Number of its images.

    Raises:
        UserError: A position is not in the split.
    """
    if (largest := positions.max(initial=-1)) >= count:
        command = opsin_command("evaluate", "RUN", "--split", split)
        raise UserError(
            f"the predictions of {split} are damaged: one is of image {largest:,}, and {split} has {count:,} images. "
            f"Delete {_name(split)} of the run, and create it with: {command}"
        )


def have_probabilities(logits: NDArray[np.floating]) -> bool:
    """Return whether logits `(N, C)` have probabilities; those of a diverged network are NaN. -inf excludes a class."""
    return bool(np.isfinite(logits.max(axis=1)).all())


def softmax(logits: NDArray[np.floating], temperature: float = 1.0) -> NDArray[np.float64]:
    """Return the probabilities `(N, C)` of logits `(N, C)` divided by a temperature, in double precision."""
    powers = np.exp((logits.astype(np.float64) - logits.max(axis=1, keepdims=True)) / temperature)
    rows: NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return rows
