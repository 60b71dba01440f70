"""Mean and standard deviation of pixels: equal to numpy's and measured once."""

import json
from pathlib import Path

import numpy as np
import pytest
from datamodules import image_data

from opsin.data import ImageDataModule, statistics
from opsin.data.datasets import ArrayImages, Source
from opsin.data.statistics import pixel_statistics


def test_channel_statistics_equal_numpys():
    pixels = np.random.default_rng(0).integers(0, 200, (900, 40, 50, 3), dtype=np.uint8)
    pixels[..., 1] = 77
    mean, std = pixel_statistics(lambda index: pixels[index], 850)
    scaled = pixels[:850].astype(np.float64) / 255
    assert np.allclose(mean, scaled.mean(axis=(0, 1, 2)), rtol=1e-12)
    assert np.allclose(std, np.where([True, False, True], scaled.std(axis=(0, 1, 2)), 1.0), rtol=1e-9)


def test_statistics_of_many_pixels_do_not_overflow():
    half = np.zeros((1, 1000, 1000, 1), np.uint8)
    half[:, ::2] = 255
    assert pixel_statistics(lambda index: half.repeat(len(index), axis=0), 40) == ((0.5,), (0.5,))


def datamodule(folder: Path, size: int = 8, **options) -> ImageDataModule:
    pixels = np.random.default_rng(0).integers(0, 255, (60, 10, 10, 3), dtype=np.uint8)
    images = ArrayImages(pixels, np.arange(60) % 2, "mine")
    source = Source("mine", ("a", "b"), 3, (10, 10), None, None, {"train": images})
    return image_data(source, data_dir=str(folder), image_size=size, **options)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of images that each measurement reads."""
    counts: list[int] = []

    def counting(read, count):
        counts.append(count)
        return pixel_statistics(read, count)

    monkeypatch.setattr(statistics, "pixel_statistics", counting)
    return counts


def test_statistics_are_measured_once(tmp_path: Path, measured: list[int]) -> None:
    first, second = datamodule(tmp_path), datamodule(tmp_path)
    assert (first.facts()["mean"], first.facts()["std"]) == (second.facts()["mean"], second.facts()["std"])
    assert len(measured) == 1
    assert [path.suffix for path in (tmp_path / ".opsin" / "stores").glob("*.statistics.json")] == [".json"]


def test_other_images_sizes_and_train_fractions_are_measured_again(tmp_path: Path, measured: list[int]) -> None:
    means = [
        datamodule(tmp_path, **options).facts()["mean"]
        for options in ({}, {"size": 9}, {"train_fraction": 0.5}, {"split_seed": 7}, {"num_folds": 3})
    ]
    assert len(measured) == 5
    assert len({tuple(mean) for mean in means}) == 5


def test_a_damaged_statistics_file_is_measured_again(tmp_path: Path, measured: list[int]) -> None:
    right = datamodule(tmp_path).facts()["std"]
    (file,) = (tmp_path / ".opsin" / "stores").glob("*.statistics.json")
    for text in ("", "{}", "[1]", json.dumps({"mean": ["x"], "std": [1.0]}), '{"mean": [NaN], "std": [1.0]}'):
        file.write_text(text)
        assert datamodule(tmp_path).facts()["std"] == right
        assert json.loads(file.read_text())["std"] == right
    assert len(measured) == 6


def test_images_in_memory_write_no_statistics_file(tmp_path: Path, measured: list[int]) -> None:
    for _ in range(2):
        datamodule(tmp_path, size=10).facts()
    assert len(measured) == 2
    assert list(tmp_path.iterdir()) == []


def test_a_read_only_folder_does_not_prevent_the_measurement(
    tmp_path: Path, measured: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError

    data = datamodule(tmp_path)
    data.setup("fit")
    monkeypatch.setattr(Path, "write_text", refuse)
    assert len(data.facts()["mean"]) == 3
