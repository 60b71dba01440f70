"""Embeddings of images: computed by a trained model, written as NumPy and parquet files."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from opsin.inference.inputs import InputImages
from opsin.inference.trained_model import TrainedModel
from opsin.runs.atomic import atomic_open
from opsin.runs.text import valid_text
from opsin.training.feature_extraction import Extractor

Format = Literal["npz", "parquet"]

FORMATS: tuple[Format, ...] = get_args(Format)
NO_LABEL = -1
"""Target of an image without a known class."""


@dataclass(frozen=True)
class Embeddings:
    """Embeddings of some images.

    Attributes:
        vectors: float32 `(N, D)`.
        targets: Class indices `(N,)`, int64; -1 if unknown.
        classes: Names of the classes; empty if unknown.
        paths: `(N,)`, the source of each image.
        splits: `(N,)`, the split of each image; "all" without splits.
    """

    vectors: NDArray[np.float32]
    targets: NDArray[np.int64]
    classes: tuple[str, ...]
    paths: tuple[str, ...]
    splits: tuple[str, ...]

    def write(self, folder: Path, formats: Sequence[Format] = FORMATS) -> list[Path]:
        """Write `embeddings.npz` and `embeddings.parquet` atomically.

        Args:
            folder: The folder to write to; created if it does not exist.
            formats: The formats to write.

        Returns:
            The files. The columns of the table are `embedding` (a list of fixed length), `target`, `label` (the name of
            the class, null if unknown), `path` and `split`.
        """
        files = []
        for kind in formats:
            file = folder / f"embeddings.{kind}"
            with atomic_open(file) as stream:
                {"npz": self._write_npz, "parquet": self._write_parquet}[kind](stream)
            files.append(file)
        return files

    def _write_npz(self, stream: Any) -> None:
        np.savez(
            stream,
            embeddings=self.vectors,
            targets=self.targets,
            classes=np.array(self.classes, np.str_),
            paths=np.array(self.paths, np.str_),
            split=np.array(self.splits, np.str_),
        )

    def _write_parquet(self, stream: Any) -> None:
        import pyarrow as pa
        import pyarrow.parquet

        flat = pa.array(self.vectors.reshape(-1))
        columns = {
            "embedding": pa.FixedSizeListArray.from_arrays(flat, self.vectors.shape[1]),
            "target": self.targets,
            "label": pa.array([self.classes[t] if t >= 0 else None for t in self.targets.tolist()], pa.string()),
            "path": pa.array(self.paths, pa.string()),
            "split": pa.array(self.splits, pa.string()),
        }
        pa.parquet.write_table(pa.table(columns), stream)


def embeddings(trained: TrainedModel, images: InputImages, extractor: Extractor, split: str) -> Embeddings:
    """Return the embeddings of a split: `Network.embed` after the evaluation transform, rounded to half precision."""
    part = images.subset(split)
    vectors = trained.outputs(part, extractor, images.cache_dir).read(np.arange(len(part)), 0).astype(np.float32)
    return Embeddings(
        vectors,
        part.targets if images.classes else np.full(len(part), NO_LABEL),
        images.classes,
        # File names can hold bytes that are not valid text
        tuple(valid_text(part.locate(row)) for row in range(len(part))),
        (split,) * len(part),
    )


def joined(parts: Sequence[Embeddings]) -> Embeddings:
    """Concatenate the embeddings of several splits."""
    return Embeddings(
        np.concatenate([part.vectors for part in parts]),
        np.concatenate([part.targets for part in parts]),
        parts[0].classes,
        sum((part.paths for part in parts), ()),
        sum((part.splits for part in parts), ()),
    )
