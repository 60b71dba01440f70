"""Embeddings as a product: what a network that has learned makes of images, in files, and classifiers on them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from opsin.data.source import Split
from opsin.errors import UserError
from opsin.inference.inputs import SPLITS, InputImages, Which, open_images
from opsin.inference.linear_probe import HeadName, fit_head
from opsin.inference.trained_model import TrainedModel, load_trained_model
from opsin.runs.atomic import atomic_open, write_atomically
from opsin.training.feature_extraction import Extractor
from opsin.training.quiet_logging import quieten

Format = Literal["npz", "parquet"]

FORMATS: tuple[Format, ...] = get_args(Format)
NO_LABEL = -1
"""The target of an image whose class nobody knows."""


@dataclass(frozen=True)
class Embeddings:
    """What a network makes of some images.

    Attributes:
        vectors: float32 `(N, D)`.
        targets: Class indices `(N,)`, int64; -1: unknown.
        classes: Their names; empty where they are unknown.
        paths: `(N,)`, where each image comes from.
        splits: `(N,)`, which split each is of; "all" where there are no splits.
    """

    vectors: NDArray[np.float32]
    targets: NDArray[np.int64]
    classes: tuple[str, ...]
    paths: tuple[str, ...]
    splits: tuple[str, ...]

    def write(self, folder: Path, formats: Sequence[Format] = FORMATS) -> list[Path]:
        """Write `embeddings.npz` and `embeddings.parquet`, each whole or not at all.

        Args:
            folder: Made if need be.
            formats: Which of them.

        Returns:
            The files. The columns of the table are `embedding` (a list of fixed length), `target`, `label` (the name of
            the class, null where it is unknown), `path` and `split`.
        """
        folder.mkdir(parents=True, exist_ok=True)
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


def embed(
    name: str,
    words: Sequence[str] = (),
    *,
    image_size: int | None = None,
    split: Which = "all",
    out: Path | None = None,
    formats: Sequence[Format] = FORMATS,
    head: HeadName | None = None,
) -> list[str]:
    """Write the embeddings of some images, and fit a classifier on them where one is asked for.

    Args:
        name: A run directory, or a network with ImageNet weights.
        words: Name the images, see `open_images`.
        image_size: Side of the images in pixels; None: that which the network has learned from.
        split: Which images.
        out: The folder to write to; None: `embeddings` in the run directory, or in `outputs`.
        formats: Of the files.
        head: What to fit on train, choose on val and measure once on test, whatever `split` says.

    Returns:
        Lines for a person: what was written, and what was measured.

    Raises:
        UserError: There is no such network or there are no such images.
    """
    quieten(True)
    if image_size is not None and image_size < 1:
        raise UserError(f"--image-size {image_size}: the side of an image has at least one pixel")
    learned = load_trained_model(name, image_size)
    images = open_images(learned, words)
    extractor = learned.extractor(images.trainer)
    out = out or images.out
    if head and not images.classes:
        raise UserError(f"{images.name} has no class folders: --head {head} learns from labels")
    found = {which: embeddings(learned, images, extractor, which) for which in images.splits(split)}
    files = joined(list(found.values())).write(out, formats)
    counts = ", ".join(f"{len(part.vectors):,} {which}" for which, part in found.items())
    size = next(iter(found.values())).vectors.shape[1]
    lines = [f"{images.name}: {counts}; {size} numbers each", *map(str, files)]
    if head:
        every = {which: found.get(which) or embeddings(learned, images, extractor, which) for which in SPLITS}
        lines += _fit(head, every, out, learned, images, extractor)
    return lines


def embeddings(learned: TrainedModel, images: InputImages, extractor: Extractor, split: str) -> Embeddings:
    """What a network makes of a split: `Network.embed` of the evaluation transform, to half precision."""
    part = images.part(split)
    vectors = learned.outputs(part, extractor, images.cache_dir).read(np.arange(len(part)), 0).astype(np.float32)
    return Embeddings(
        vectors,
        part.targets if images.classes else np.full(len(part), NO_LABEL),
        images.classes,
        # A file name need not be valid text; what is written here is.
        tuple(part.locate(row).encode(errors="backslashreplace").decode() for row in range(len(part))),
        (split,) * len(part),
    )


def joined(parts: Sequence[Embeddings]) -> Embeddings:
    """The embeddings of several splits of the same images, one after the other."""
    return Embeddings(
        np.concatenate([part.vectors for part in parts]),
        np.concatenate([part.targets for part in parts]),
        parts[0].classes,
        sum((part.paths for part in parts), ()),
        sum((part.splits for part in parts), ()),
    )


def _fit(
    name: HeadName,
    found: dict[Split, Embeddings],
    out: Path,
    learned: TrainedModel,
    images: InputImages,
    extractor: Extractor,
) -> list[str]:
    """Fit a head, write `head.json` (and `head.npz`), and say what was measured."""
    train, val, test = ((found[split].vectors, found[split].targets) for split in SPLITS)
    head = fit_head(name, train, val)
    metrics = {"val/acc": head.accuracy(*val), "test/acc": head.accuracy(*test)}
    record = {
        "head": name,
        "parameters": head.parameters,
        "tried": head.tried,
        "metrics": metrics,
        "counts": {split: len(part.vectors) for split, part in found.items()},
        "network": learned.name,
        "weights_digest": extractor.facts["weights"],
        "precision": extractor.precision,
        "image_size": list(learned.size),
        "data": images.name,
        "classes": list(images.classes),
    }
    write_atomically(out / "head.json", json.dumps(record, indent=2) + "\n")
    (out / "head.npz").unlink(missing_ok=True)
    if coefficients := head.coefficients():
        arrays: dict[str, Any] = {**coefficients, "classes": np.array(images.classes, np.str_)}
        with atomic_open(out / "head.npz") as stream:
            np.savez(stream, **arrays)
    chosen = ", ".join(f"{key}={value:g}" for key, value in head.parameters.items())
    return [
        str(out / "head.json"),
        f"{name} ({chosen}, by val): val accuracy {metrics['val/acc']:.2%}, test accuracy {metrics['test/acc']:.2%}",
    ]
