"""Images that are removed or changed while a run uses them, or between its start, its resume and its evaluation."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from datamodules import image_data
from PIL import Image

from opsin.commands.evaluate import measure
from opsin.commands.train import train
from opsin.config import compose, from_saved
from opsin.data import ImageDataModule
from opsin.data.cache.image_store import open_store
from opsin.data.datasets import image_folder
from opsin.errors import UserError
from opsin.runs.directory import RunDirectory
from opsin.training.build import check_same_data
from opsin.training.recording import data_facts

SIZE = (8, 8)


def photos(root: Path, count: int = 20) -> Path:
    random = np.random.default_rng(0)
    for split in ("train", "test"):
        for label, name in enumerate(("cat", "dog")):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(0, 120, (*SIZE, 3)) + 100 * label
                Image.fromarray(pixels.astype(np.uint8)).save(root / split / name / f"{number:02}.bmp")
    return root


def blacken(file: Path) -> None:
    """Change the pixels of a file and keep its size and its time of modification."""
    state, content = file.stat(), bytearray(file.read_bytes())
    content[60:] = bytes(len(content) - 60)
    file.write_bytes(content)
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one epoch in `run`, its images in `photos`."""
    folder = tmp_path_factory.mktemp("changed")
    photos(folder / "photos")
    (folder / "run").mkdir()
    words = ("model=mlp", "trainer=cpu", "trainer.max_epochs=1", "callbacks=no_pictures", "logger=none", "report=false")
    data = ("datamodule=image_folder", f"datamodule.path={folder / 'photos'}", "datamodule.image_size=8")
    places = (f"data_dir={folder / 'data'}", f"output_dir={folder}")
    train(compose([*words, *data, *places], folder / "run"))
    return folder


CHANGES = {
    "black": lambda root: blacken(root / "train" / "cat" / "03.bmp"),
    "black test": lambda root: blacken(root / "test" / "dog" / "00.bmp"),
    "removed": lambda root: (root / "train" / "dog" / "19.bmp").unlink(),
    "added": lambda root: shutil.copy(root / "train" / "cat" / "00.bmp", root / "train" / "cat" / "99.bmp"),
    "moved": lambda root: (root / "train" / "cat" / "00.bmp").rename(root / "train" / "dog" / "00b.bmp"),
    "deleted": lambda root: shutil.rmtree(root),
    "split deleted": lambda root: shutil.rmtree(root / "test"),
    "class deleted": lambda root: shutil.rmtree(root / "train" / "dog"),
}


@pytest.mark.slow
@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_dataset_is_refused(original: Path, tmp_path: Path, change: str) -> None:
    root = shutil.copytree(original / "photos", tmp_path / "photos")
    CHANGES[change](root)
    run, words = RunDirectory(original / "run"), (f"datamodule.path={root}",)
    before = {file: file.read_bytes() for file in run.checkpoints.iterdir()}
    for use in (lambda: measure(run, "test", words), lambda: train(from_saved(run, (*words, "trainer.max_epochs=2")))):
        with pytest.raises(UserError, match=r"are not those of the run|does not exist|only the class folder"):
            use()
    assert {file: file.read_bytes() for file in run.checkpoints.iterdir()} == before


def test_new_modification_times_are_not_a_change(original: Path, tmp_path: Path) -> None:
    run = RunDirectory(original / "run")
    first, _ = measure(run)
    for file in (original / "photos").rglob("*.bmp"):
        file.touch()
    assert measure(run)[0].metrics == first.metrics
    copy = shutil.copytree(original / "photos", tmp_path / "photos", copy_function=shutil.copyfile)
    assert measure(run, "test", (f"datamodule.path={copy}",))[0].metrics == first.metrics


def test_new_names_are_a_change_only_if_they_change_the_order(tmp_path: Path) -> None:
    def opened(root: Path) -> ImageDataModule:
        data = image_data(image_folder(str(root), size=SIZE), data_dir=str(tmp_path / "data"))
        data.setup("fit")
        return data

    root = photos(tmp_path / "photos", 10)
    recorded = data_facts(opened(root))
    first = root / "train" / "cat" / "00.bmp"
    check_same_data(opened(first.rename(first.with_name("000.bmp")).parents[2]), recorded)
    renamed = opened(first.with_name("000.bmp").rename(first.with_name("99.bmp")).parents[2])
    with pytest.raises(UserError, match="or new names changed their order, so training images could"):
        check_same_data(renamed, recorded)


def test_images_that_vanish_or_change_while_they_are_used_are_named(tmp_path: Path) -> None:
    root = photos(tmp_path / "photos", 4)
    images = image_folder(str(root)).splits["test"]
    removed = root / "test" / "cat" / "02.bmp"
    content = removed.read_bytes()
    removed.unlink()
    with pytest.raises(UserError, match=r"02\.bmp was removed while it was in use"):
        open_store(images, SIZE, cache_dir=tmp_path / "stores")
    removed.write_bytes(content)
    images = image_folder(str(root)).splits["test"]
    assert images.fingerprint  # recorded from this point
    blacken(root / "test" / "dog" / "01.bmp")
    with pytest.raises(UserError, match=r"01\.bmp was changed while it was in use"):
        open_store(images, SIZE, cache_dir=tmp_path / "stores")
    assert list(tmp_path.glob("stores/*/pixels.npy")) == []
    dangling = root / "train" / "cat" / "link.bmp"
    dangling.symlink_to("nowhere")  # a bad image, as before
    store = open_store(image_folder(str(root)).splits["train"], SIZE, cache_dir=tmp_path / "stores")
    assert [location for location, _ in store.bad] == [str(dangling)]
