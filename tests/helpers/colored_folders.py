"""A small folder of images that a network classifies only partly correctly: noise with a tint for each class."""

from pathlib import Path

import numpy as np
from PIL import Image

COUNTS = {"train": 20, "val": 8, "test": 10}


def colored_folder(folder: Path, seed: int = 0, side: int = 12) -> Path:
    """Write `train`, `val` and `test` with three classes each, and return the folder."""
    rng = np.random.default_rng(seed)
    for split, count in COUNTS.items():
        for channel, name in enumerate(("blue", "green", "red")):
            place = folder / split / name
            place.mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 200, (side, side, 3), np.uint8)
                pixels[..., 2 - channel] += rng.integers(0, 30, dtype=np.uint8)
                Image.fromarray(pixels).save(place / f"{number:02d}.png")
    return folder
