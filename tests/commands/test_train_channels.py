"""Images of 2, 4 and 5 channels from files to predictions, reports and exported models."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from opsin.commands.export import main as export
from opsin.commands.interpret import main as interpret
from opsin.commands.predict import predict_files
from opsin.commands.train import train
from opsin.config import compose
from opsin.errors import UserError
from opsin.inference import open_predictor
from opsin.runs.directory import RunDirectory


def bands(folder: Path, channels: int, kind: str) -> Path:
    """Images of two classes that differ in their last channel only."""
    rng = np.random.default_rng(0)
    for number in range(48):
        place = folder / "bands" / ("dry", "wet")[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 200, (20, 24, channels), dtype=np.uint8)
        pixels[..., -1] = rng.integers(0, 60, (20, 24)) + 180 * (number % 2)
        if kind == "npy":
            np.save(place / f"{number}.npy", pixels)
        elif kind == "png":
            Image.fromarray(pixels).save(place / f"{number}.png")
        else:
            tifffile.imwrite(place / f"{number}.tif", pixels, photometric="minisblack", planarconfig="contig")
    return folder / "bands"


def run_on(folder: Path, images: Path, channels: int, *words: str) -> RunDirectory:
    run = RunDirectory(folder / "run")
    run.path.mkdir()
    common = ["datamodule=image_folder", f"datamodule.path={images}", f"datamodule.channels={channels}", "trainer=cpu"]
    common += ["datamodule.image_size=32", "trainer.precision=32", "logger=none", "callbacks.progress.bar=false"]
    train(compose([*common, f"data_dir={folder / 'data'}", f"output_dir={folder}", *words], run.path))
    return run


CASES = {
    "2 png": (2, "png", ["model=cnn_batchnorm", "trainer.max_epochs=6", "optimizer.lr=0.01"]),
    "4 npy": (4, "npy", ["model=resnet18_full", "model.weights=opsin", "trainer.max_epochs=2", "report=false"]),
    "5 tif": (5, "tif", ["model=cnn_batchnorm", "trainer.max_epochs=6", "optimizer.lr=0.01"]),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.slow
def test_a_run_uses_all_channels(case: str, tmp_path: Path, capsys) -> None:
    channels, kind, words = CASES[case]
    images = bands(tmp_path, channels, kind)
    run = run_on(tmp_path, images, channels, *words)
    result = run.read_result()
    assert (result.data.channels, result.data.source_channels, result.data.bad_images) == (channels, channels, 0)
    assert len(result.data.mean) == len(result.data.std) == channels
    assert result.data.mean[-1] == pytest.approx((29.5 + 90) / 255, abs=0.03)  # not the mean of the weights
    if "report=false" not in words:
        assert result.metrics["test/acc"] > 0.8  # only the last channel distinguishes the classes
        assert run.report.is_file()
        assert list((run.path / "pictures").glob("*.png"))
    assert predict_files(str(run.path), [str(images)]) == 48
    words = ["--what", "activations", "--images", str(images / "dry"), "--count", "2", "--out", str(tmp_path / "drawn")]
    assert interpret([str(run.path), *words]) == 0
    out = tmp_path / "model.pt2"
    assert export([str(run.path), "--format", "torch_export", "--out", str(out)]) == 0
    assert "have the class that PyTorch predicts" in capsys.readouterr().out


@pytest.mark.slow
def test_bad_files_and_impossible_options_are_named(tmp_path: Path) -> None:
    images = bands(tmp_path, 4, "npy")
    np.save(images / "dry" / "first.npy", np.zeros((4, 20, 24), np.uint8))
    np.save(images / "dry" / "wide.npy", np.full((20, 24, 4), 70_000, np.int64))
    Image.fromarray(np.zeros((20, 24, 3), np.uint8)).save(images / "dry" / "rgb.png")
    with pytest.raises(UserError, match=r"augmentation.saturation=0.2 needs RGB images, not images of 4 channels"):
        run_on(tmp_path, images, 4, "model=cnn_batchnorm", "augmentation=flip", "+augmentation.saturation=0.2")
    (tmp_path / "run").rename(tmp_path / "refused")
    with pytest.raises(UserError) as error:
        run_on(tmp_path, images, 4, "model=cnn_batchnorm", "datamodule.on_bad_image=raise")
    said = str(error.value)
    assert "first.npy: has the shape (4, 20, 24) instead of (H, W, 4)" in said
    assert "wide.npy: values of type int64: their range is unknown" in said
    assert "rgb.png: has mode RGB instead of 4 channels" in said


def test_sixteen_bits_are_scaled(tmp_path: Path) -> None:
    from opsin.data.decode import decode_image

    values = np.random.default_rng(0).integers(0, 65536, (6, 7, 4), dtype=np.uint16)
    for name, save in {"a.npy": np.save, "a.tif": tifffile.imwrite}.items():
        save(tmp_path / name, values)
        np.testing.assert_array_equal(decode_image(tmp_path / name, 4), np.rint(values / 257).astype(np.uint8))
    tifffile.imwrite(tmp_path / "planar.tif", values.transpose(2, 0, 1), photometric="minisblack")
    np.testing.assert_array_equal(decode_image(tmp_path / "planar.tif", 4), np.rint(values / 257).astype(np.uint8))
    np.save(tmp_path / "float.npy", (values / 65535).astype(np.float32))
    np.testing.assert_array_equal(decode_image(tmp_path / "float.npy", 4), np.rint(values / 257).astype(np.uint8))


@pytest.mark.slow
def test_a_gray_run_of_an_rgb_network_still_repeats_its_channel(tmp_path: Path) -> None:
    folder = tmp_path / "gray"
    for number in range(40):
        place = folder / "ab"[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((20, 20), 100 * (number % 2) + number, np.uint8)).save(place / f"{number}.png")
    run = run_on(
        tmp_path, folder, 1, "model=resnet18_full", "model.weights=opsin", "trainer.max_epochs=1", "report=false"
    )
    facts = run.read_result().data
    assert (facts.channels, facts.source_channels, len(facts.mean)) == (3, 1, 3)
    assert open_predictor(run.path).trained.source_channels == 1
