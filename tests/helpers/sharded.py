"""Datasets, shards and datamodules for tests of shards."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from datamodules import image_data

from opsin.data import ImageDataModule
from opsin.data.datasets import ArrayImages, Source, shards
from opsin.data.shard_writer import ShardOptions, write_shards
from opsin.data.shards.storage import StorageOptions

SIZE = (6, 5)


def source(count: int = 400, channels: int = 3, seed: int = 0) -> Source:
    """Return a source of noise in three classes."""
    random = np.random.default_rng(seed)
    pixels = random.integers(0, 256, (count, *SIZE, channels), dtype=np.uint8)
    images = ArrayImages(pixels, random.integers(0, 3, count), "made train")
    return Source("made", ("a", "b", "c"), channels, SIZE, None, None, {"train": images})  # type: ignore[arg-type]


def written(folder: object, source: Source, cache: Path, form: ShardOptions | None = None, **options: Any) -> str:
    """Write the shards of a source, 20 images each unless `form` is given, and return the folder."""
    data = image_data(source, data_dir=str(cache), **options)
    data.splits.keeps_decoded = False
    write_shards(data, str(folder), form or ShardOptions(shard_bytes=20 * 130 + 84), StorageOptions())
    return str(folder)


def streamed(folder: object, cache: Path, *, window: int = 4, cache_gb: float = 1.0, **options: Any) -> ImageDataModule:
    """Return a datamodule that reads shards."""
    return image_data(
        shards(str(folder), data_dir=str(cache), window=window, cache_gb=cache_gb, workers=2),
        data_dir=str(cache),
        **options,
    )


def index(folder: object) -> dict[str, Any]:
    """Return the content of `opsin.json`."""
    facts: dict[str, Any] = json.loads((Path(str(folder)) / "opsin.json").read_text())
    return facts
