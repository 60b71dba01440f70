"""The goals on real images; minutes each."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from opsin.commands.train import train
from opsin.config import compose
from opsin.runs.directory import RunDirectory

pytestmark = [pytest.mark.slow, pytest.mark.realdata]


@pytest.fixture(autouse=True)
def _all_cores() -> Iterator[None]:
    if "PYTEST_XDIST_WORKER" not in os.environ:
        torch.set_num_threads(os.cpu_count() or 1)
    yield
    torch.set_num_threads(1)


def metrics(folder: Path, *words: str) -> dict[str, float]:
    run = folder / "run"
    run.mkdir()
    train(compose([f"data_dir={folder / 'data'}", f"output_dir={folder}", "callbacks.progress.bar=false", *words], run))
    return RunDirectory(run).read_result().metrics


def test_mnist_in_three_epochs(real_data: Path, tmp_path: Path) -> None:
    found = metrics(
        tmp_path, "datamodule=mnist", f"datamodule.path={real_data / 'MNIST' / 'raw'}", "trainer.max_epochs=3"
    )
    assert found["test/acc"] >= 0.985


def test_transfer_from_real_imagenet_weights(real_data: Path, tmp_path: Path) -> None:
    found = metrics(
        tmp_path,
        "experiment=cats_vs_dogs_efficientnet_lite0_feature_extract",
        f"datamodule.path={real_data / 'cats_vs_dogs_original'}",
        "trainer.max_epochs=3",
    )
    assert found["val/acc"] >= 0.98


@pytest.mark.parametrize("kind", ["cats_vs_dogs_180", "cifar10_jpeg"])
def test_other_archives_train_above_chance(real_data: Path, tmp_path: Path, kind: str) -> None:
    name, classes = ("cifar10", 10) if kind == "cifar10_jpeg" else ("cats_vs_dogs", 2)
    words = (f"datamodule={name}", f"datamodule.path={real_data / kind}", "datamodule.image_size=32")
    found = metrics(tmp_path, *words, "model=cnn_batchnorm", "datamodule.train_fraction=0.5", "trainer.max_epochs=1")
    assert found["val/acc"] > 1.1 / classes
