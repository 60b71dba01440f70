"""Seconds to decode large JPEG photographs into an image store, and the pixels, compared with Pillow's plain way."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.datasets import large_photos
from benchmarks.goals import GoalResult, at_least, at_most, spread
from benchmarks.session import Session
from opsin.data.cache.image_store import open_store
from opsin.data.datasets import unlabeled_images
from opsin.runs.cpu_cores import available_cores

SIZE = (224, 224)
FIGURE = "Pillow's decode and resize / Opsin's image store, {} JPEGs of {:.0f} megapixels"


def decoding(session: Session) -> tuple[dict[str, Any], list[GoalResult]]:
    """Measure the seconds of three ways from files to pixels of `SIZE`, interleaved, with one thread per core.

    - `pillow`: Pillow decodes each file at full scale and resizes it; nothing is written;
    - `draft`: Pillow decodes each file at the smallest scale with twice the size, with `draft`; nothing is written;
    - `opsin`: Opsin builds an image store in an empty folder: it also hashes the files, and writes the pixels.
    """
    count, shape = (4, (300, 400)) if session.quick else (48, (3024, 4032))
    session.log(f"decoding: making {count} JPEGs of {shape[1]}x{shape[0]}")
    folder, real = large_photos(session.data_dir, session.folder / "large", count, shape)
    size = (24, 24) if session.quick else SIZE
    contenders: dict[str, Callable[[int], NDArray[np.uint8]]] = {
        "pillow": lambda _: _with_pillow(folder, size, is_reduced=False),
        "draft": lambda _: _with_pillow(folder, size, is_reduced=True),
        "opsin": lambda number: _store(folder, size, session.folder / f"stores{number}"),
    }
    times: dict[str, list[float]] = {name: [] for name in contenders}
    pixels: dict[str, NDArray[np.uint8]] = {}
    for number in range(1 + max(1, session.rounds)):
        session.log(f"decoding: round {number}")
        for name, contender in contenders.items():
            start = time.perf_counter()
            pixels[name] = contender(number)
            if number:  # the first brings files into the page cache
                times[name].append(time.perf_counter() - start)
    found = {name: spread(values) for name, values in times.items()}
    off = float(np.abs(pixels["opsin"].astype(int) - pixels["pillow"]).mean())
    megapixels = shape[0] * shape[1] / 1e6
    figures = {
        "seconds": {name: vars(value) for name, value in found.items()},
        "mean_difference": off,
        "megabytes": sum(file.stat().st_size for file in folder.iterdir()) / 1e6,
        "images": count,
        "real_images": real,
        "threads": available_cores(),
    }
    return figures, [
        at_least(FIGURE.format(count, megapixels), found["pillow"].median / found["opsin"].median, 4.0),
        at_most("mean difference of these pixels", off, 0.5, "of 255"),
    ]


def _with_pillow(folder: Path, size: tuple[int, int], *, is_reduced: bool) -> NDArray[np.uint8]:
    """Return the pixels of all images `(N, H, W, 3)`, decoded by one thread per core."""

    def read(file: Path) -> NDArray[np.uint8]:
        with Image.open(file) as image:
            if is_reduced:
                image.draft("RGB", (2 * size[1], 2 * size[0]))
            return np.asarray(image.convert("RGB").resize(size[::-1], Image.Resampling.BILINEAR))

    with ThreadPoolExecutor(available_cores()) as pool:
        return np.stack(list(pool.map(read, sorted(folder.iterdir()))))


def _store(folder: Path, size: tuple[int, int], stores: Path) -> NDArray[np.uint8]:
    """Return the pixels of all images `(N, H, W, 3)`, decoded into a new image store."""
    images = unlabeled_images(str(folder), 3)
    assert images is not None
    return open_store(images, size, cache_dir=stores).take(np.arange(len(images)))
