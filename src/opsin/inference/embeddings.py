"""Embeddings of images: computed by a trained model, written as NumPy and parquet files."""

import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from opsin.data.cache.feature_store import FeatureSubset
from opsin.inference.inputs import InputImages
from opsin.inference.trained_model import TrainedModel
from opsin.runs.atomic import atomic_open
from opsin.runs.escaping import valid_text
from opsin.training.feature_extraction import Extractor

Format = Literal["npz", "parquet"]

FORMATS: tuple[Format, ...] = get_args(Format)
_BLOCK = 4096  # vectors that are in memory together
NO_LABEL = -1
"""Target of an image without a known class."""


@dataclass(frozen=True)
class Embeddings:
    """Embeddings of some images; their vectors are on the disk and are read in blocks.

    Attributes:
        subsets: The vectors of each split.
        targets: Class indices `(N,)`, int64; -1 if unknown.
        classes: Names of the classes; empty if unknown.
        paths: `(N,)`, the source of each image.
        splits: `(N,)`, the split of each image; "all" without splits.
    """

    subsets: tuple[FeatureSubset, ...]
    targets: NDArray[np.int64]
    classes: tuple[str, ...]
    paths: tuple[str, ...]
    splits: tuple[str, ...]

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.targets)

    @property
    def dimension(self) -> int:
        """The number of features of each image."""
        return self.subsets[0].shape[0]

    @property
    def vectors(self) -> NDArray[np.float32]:
        """All vectors, float32 `(N, D)`, in memory."""
        return np.concatenate(list(self.blocks()))

    def blocks(self) -> Iterator[NDArray[np.float32]]:
        """Yield the vectors in their order, float32 `(B, D)`."""
        for subset in self.subsets:
            for start in range(0, len(subset), _BLOCK):
                yield subset.read(np.arange(start, min(start + _BLOCK, len(subset))), 0).astype(np.float32)

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
        """Write the same file as `np.savez`, but without holding all vectors in memory."""
        others = {"targets": self.targets, "classes": self.classes, "paths": self.paths, "split": self.splits}
        with zipfile.ZipFile(stream, "w") as archive:
            with archive.open("embeddings.npy", "w", force_zip64=True) as member:
                header = {"descr": "<f4", "fortran_order": False, "shape": (len(self), self.dimension)}
                np.lib.format.write_array_header_1_0(member, header)
                for block in self.blocks():
                    member.write(block.data)
            for name, values in others.items():
                array = values if isinstance(values, np.ndarray) else np.array(values, np.str_)
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, array, allow_pickle=False)

    def _write_parquet(self, stream: Any) -> None:
        import pyarrow as pa
        import pyarrow.parquet

        embedding = pa.list_(pa.float32(), self.dimension)
        texts = [(name, pa.string()) for name in ("label", "path", "split")]
        schema = pa.schema([("embedding", embedding), ("target", pa.int64()), *texts])
        with pa.parquet.ParquetWriter(stream, schema) as table:
            start = 0
            for block in self.blocks():
                rows = slice(start, start + len(block))
                targets = self.targets[rows]
                labels = [self.classes[target] if target >= 0 else None for target in targets.tolist()]
                vectors = pa.FixedSizeListArray.from_arrays(pa.array(block.reshape(-1)), self.dimension)
                columns = [vectors, pa.array(targets), labels, self.paths[rows], self.splits[rows]]
                table.write_table(pa.table(columns, schema=schema))
                start += len(block)


def embeddings(trained: TrainedModel, images: InputImages, extractor: Extractor, split: str) -> Embeddings:
    """Return the embeddings of a split: `Network.embed` after the evaluation transform, rounded to half precision."""
    subset = images.subset(split)
    return Embeddings(
        (trained.outputs(subset, extractor, images.cache_dir),),
        subset.targets if images.classes else np.full(len(subset), NO_LABEL),
        images.classes,
        # File names can hold bytes that are not valid text
        tuple(valid_text(subset.locate(row)) for row in range(len(subset))),
        (split,) * len(subset),
    )


def joined(splits: Sequence[Embeddings]) -> Embeddings:
    """Concatenate the embeddings of several splits."""
    return Embeddings(
        sum((split.subsets for split in splits), ()),
        np.concatenate([split.targets for split in splits]),
        splits[0].classes,
        sum((split.paths for split in splits), ()),
        sum((split.splits for split in splits), ()),
    )
