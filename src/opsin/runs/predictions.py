"""What a network says of the images of a split, kept beside the run: for reports and comparisons, without torch."""

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from opsin.errors import UserError
from opsin.runs.atomic import atomic_open
from opsin.runs.directory import RunDirectory
from opsin.runs.quoting import printed_command


@dataclass(frozen=True, eq=False)
class Predictions:
    """What the best checkpoint of a run says of the images of one split.

    Attributes:
        split: train, val or test.
        classes: Names, in the order of the columns.
        logits: float32 `(N, C)`, whose softmax are the probabilities; a single logit z stands as (0, z).
        targets: Class indices `(N,)`, int64.
        positions: `(N,)`, int64, sorted: which images of the split these are; all, unless batches were limited.
        paths: `(N,)`, where each image comes from.
        images: Digest of which images these are and of their classes, whatever the size they are served at: where it
            is the same, the predictions of two runs are about the same images, in the same order.
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
        """`(N, C)`, each row adds up to 1."""
        return softmax(self.logits)

    @property
    def predicted(self) -> NDArray[np.int64]:
        """The most probable class `(N,)`; of equally probable ones the first."""
        best: NDArray[np.int64] = self.logits.argmax(axis=1)
        return best

    @property
    def correct(self) -> NDArray[np.bool_]:
        """Whether each image is told rightly `(N,)`."""
        right: NDArray[np.bool_] = self.predicted == self.targets
        return right

    def write(self, run: RunDirectory) -> None:
        """Keep them as `predictions/<split>.npz` in a run directory; the file is whole at every moment."""
        file = predictions_file(run, self.split)
        # A file name need not be valid text; what is written here is.
        paths = [path.encode(errors="backslashreplace").decode() for path in self.paths]
        with atomic_open(file) as stream:
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
    """Where the predictions of a split lie."""
    return run.path / "predictions" / f"{split}.npz"


def read_predictions(run: RunDirectory, split: str) -> Predictions:
    """The predictions that a run has kept.

    Raises:
        UserError: It has kept none of this split, or the file is damaged.
    """
    file = predictions_file(run, split)
    command = printed_command(["python", "scripts/evaluate.py", run.path, "--split", split])
    way_out = f"create them with: {command}"
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as kept:
            return Predictions(
                split,
                tuple(kept["classes"].tolist()),
                kept["logits"],
                kept["targets"],
                kept["positions"],
                tuple(kept["paths"].tolist()),
                str(kept["images"]),
            )
    except FileNotFoundError:
        raise UserError(f"{run.path} has kept no predictions of {split}: {way_out}") from None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        # Not numpy's own words, which advise to load pickles.
        raise UserError(f"{file} is damaged: {way_out}") from None


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Probabilities `(N, C)` of logits `(N, C)`, in double precision."""
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    rows: NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return rows
