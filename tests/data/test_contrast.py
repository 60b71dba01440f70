"""Datasets that lose their contrast when they are decoded are named, with the reason; others are not."""

import io
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from datamodules import image_data
from PIL import Image
from test_decode import png16

from opsin.data import contrast, decode
from opsin.data.contrast import lost_contrast
from opsin.data.datasets import image_folder
from opsin.data.image_memory import MemoryLimit

RNG = np.random.default_rng(0)
SHAPE = (np.hypot(*np.mgrid[-8:8, -8:8]) < 6) * np.uint8(255)
NOISE = RNG.random((16, 16))


def encoded(image: Any, kind: str = "PNG", **options: Any) -> bytes:
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def deep(top: int) -> np.ndarray:
    return np.rint(NOISE * top).astype(np.uint16)


def npy(values: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


def palette(transparency: Any) -> bytes:
    image = Image.fromarray(SHAPE // 255).convert("P")
    image.putpalette([200, 0, 0] * 256)
    return encoded(image, transparency=transparency)


WHITE_ON_NOTHING = np.dstack([np.full((16, 16, 3), 255, np.uint8), SHAPE])
PAINTED = np.dstack([np.repeat(SHAPE[..., None], 3, 2), SHAPE])
MULTIBAND = np.dstack([deep(4095)] * 5)


@pytest.mark.parametrize(
    ("data", "channels", "loss"),
    [
        (encoded(WHITE_ON_NOTHING), 3, "transparency"),
        (encoded(WHITE_ON_NOTHING, "WEBP", lossless=True, exact=True), 3, "transparency"),
        (encoded(WHITE_ON_NOTHING[..., 2:]), 1, "transparency"),
        (palette(b"\0\xff" + b"\xff" * 254), 3, "transparency"),
        (palette(0), 1, "transparency"),
        (encoded(WHITE_ON_NOTHING), 4, None),  # alpha is read as a channel
        (encoded(PAINTED), 3, None),
        (encoded(np.zeros((16, 16), np.uint8)), 3, None),  # the file has no contrast either
        (encoded(np.dstack([np.zeros((16, 16, 3), np.uint8), np.full((16, 16), 255, np.uint8)])), 3, None),
        (encoded(deep(255)), 1, "depth"),
        (encoded(deep(1023)), 3, "depth"),
        (encoded(deep(4095), "TIFF"), 1, "depth"),
        (encoded(deep(65535)), 1, None),
        (encoded(deep(16383)), 1, None),
        (encoded(deep(65535) // 65535 * 9), 1, None),  # the file has only a few levels either
        (encoded((NOISE / 50).astype(np.float32), "TIFF"), 1, "depth"),
        (encoded(NOISE.astype(np.float32), "TIFF"), 1, None),
        (png16(np.dstack([deep(255)] * 3), 2), 3, "depth"),
        (npy(MULTIBAND), 5, "depth"),
        (npy(MULTIBAND * 16), 5, None),
    ],
)
def test_the_cause_of_lost_contrast_is_found(data: bytes, channels: int, loss: str | None) -> None:
    assert lost_contrast(data, channels) == loss


def multiband_tiff() -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, MULTIBAND, photometric="minisblack", planarconfig="contig")
    return file.getvalue()


@pytest.mark.parametrize("data", [npy(MULTIBAND), multiband_tiff()], ids=["npy", "tiff"])
def test_an_image_that_was_checked_holds_no_memory_of_the_decoding_threads(
    data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = MemoryLimit(10**6)
    monkeypatch.setattr(contrast, "image_memory", memory)
    monkeypatch.setattr(decode, "image_memory", memory)
    assert lost_contrast(data, 5) == "depth"
    done = threading.Event()

    def take_all() -> None:
        with memory.scope():
            memory.reserve(10**6)
        done.set()

    threading.Thread(target=take_all, daemon=True).start()
    assert done.wait(5)


@pytest.mark.parametrize(
    ("flat", "warned"), [({"cat": 10, "dog": 10}, 20), ({"cat": 10, "dog": 0}, 10), ({"cat": 1}, 0), ({}, 0)]
)
def test_a_dataset_is_named_if_a_class_or_many_images_lose_their_contrast(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, flat: dict[str, int], warned: int
) -> None:
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(10):
            image = WHITE_ON_NOTHING if number < flat.get(name, 0) else RNG.integers(0, 256, (16, 16, 3), np.uint8)
            Image.fromarray(image).save(tmp_path / "photos" / name / f"{number}.png")
    splits = {"val_fraction": 0.1, "test_fraction": 0.1}
    for _ in range(2):  # decoded now, and read from the store of an earlier run
        caplog.clear()
        data = image_data(image_folder(str(tmp_path / "photos")), data_dir=str(tmp_path), image_size=12, **splits)
        data.setup("fit")
        lines = [record.getMessage() for record in caplog.records if "contrast" in record.getMessage()]
        assert len(lines) == (1 if warned else 0)
        if warned:
            assert "sampled training images lose their contrast when they are decoded" in lines[0]
            assert "datamodule.channels=4" in lines[0]
