"""Folders of class folders: every layout, and the complete text of every error."""

import os
import pickle
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from inodes import report_no_inodes
from PIL import Image

from opsin.data.datasets import cats_vs_dogs, image_folder, unlabeled_images
from opsin.data.datasets.image_files import image_files
from opsin.data.types import BadImage
from opsin.errors import UserError


def image(path: Path, shade: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (7, 5), (shade, shade, shade)).save(path)
    return path


def layout(root: Path, *files: str) -> str:
    for shade, file in enumerate(files):
        image(root / file, shade)
    return str(root)


def refusal(path: Path | str) -> str:
    with pytest.raises(UserError) as raised:
        image_folder(str(path))
    return str(raised.value)


def test_a_folder_without_splits_is_train_with_sorted_classes_and_files(tmp_path: Path) -> None:
    source = image_folder(layout(tmp_path / "birds", "wren/2.png", "robin/b.png", "wren/1.png", "robin/a/c.png"))
    assert source.name == "birds"
    assert source.classes == ("robin", "wren")
    assert (source.channels, source.size, source.mean, source.std) == (3, (224, 224), None, None)
    assert list(source.splits) == ["train"]
    train = source.splits["train"]
    places = [train.locate(index) for index in range(len(train))]
    assert places == [
        str(tmp_path / "birds" / file) for file in ("robin/a/c.png", "robin/b.png", "wren/1.png", "wren/2.png")
    ]
    assert train.targets.tolist() == [0, 0, 1, 1]
    assert train.targets.dtype == np.int64
    assert [int(train.read(index)[0, 0, 0]) for index in range(4)] == [3, 1, 2, 0]
    assert train.read(0).shape == (5, 7, 3)


def test_channels_and_size_are_those_of_the_options(tmp_path: Path) -> None:
    source = image_folder(layout(tmp_path, "a/1.png", "b/1.png"), channels=1, size=(32, 48))
    assert (source.channels, source.size) == (1, (32, 48))
    assert source.splits["train"].read(1).shape == (5, 7, 1)


@pytest.mark.parametrize("val", ["val", "validation", "valid", "Validation"])
def test_folders_of_splits_are_used(tmp_path: Path, val: str) -> None:
    source = image_folder(
        layout(
            tmp_path,
            "Train/a/1.png",
            "Train/b/1.png",
            f"{val}/b/2.png",
            f"{val}/a/2.png",
            "test/a/3.png",
            "test/b/3.png",
        )
    )
    assert {split: len(images) for split, images in source.splits.items()} == {"train": 2, "val": 2, "test": 2}
    assert source.splits["val"].locate(0) == str(tmp_path / val / "a" / "2.png")


def test_classes_named_like_splits_are_classes(tmp_path: Path) -> None:
    assert image_folder(layout(tmp_path / "tickets", "valid/1.png", "void/1.png")).classes == ("valid", "void")
    assert image_folder(layout(tmp_path / "vehicles", "train/1.png", "bus/1.png")).classes == ("bus", "train")


def test_clutter_is_ignored_and_other_files_are_reported_as_bad_images(tmp_path: Path) -> None:
    root = Path(
        layout(tmp_path, "a/1.png", "b/1.png", "__MACOSX/a/1.png", ".git/x.png", "a/.hidden.png", "b/@eaDir/1.png")
    )
    for name in ("a/._1.png", "a/Thumbs.db", "a/notes.TXT", "b/labels.csv", "b/.DS_Store", "b/desktop.ini"):
        (root / name).write_bytes(b"not an image")
    (root / "b" / "looks_like.jpg").write_bytes(b"not an image")
    (root / "b" / "without_suffix").write_bytes((root / "b" / "1.png").read_bytes())
    os.mkfifo(root / "b" / "pipe.png")
    (root / "b" / "dangling.png").symlink_to(root / "nowhere.png")
    source = image_folder(str(root))
    assert source.classes == ("a", "b")
    train = source.splits["train"]
    names = [Path(train.locate(index)).name for index in range(len(train))]
    assert names == ["1.png", "1.png", "dangling.png", "looks_like.jpg", "without_suffix"]
    with pytest.raises(BadImage, match=r"^cannot be read: No such file"):
        train.read(2)
    with pytest.raises(BadImage, match=r"^not an image"):
        train.read(3)
    assert train.read(4).shape == (5, 7, 3)
    assert train.fingerprint


@pytest.mark.parametrize("inodes", [True, False])
def test_links_are_followed_and_loops_are_ignored(
    tmp_path: Path, inodes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not inodes:
        report_no_inodes(monkeypatch)
    elsewhere = image(tmp_path / "elsewhere" / "x.png").parent
    root = Path(layout(tmp_path / "data", "a/1.png", "b/1.png"))
    (root / "a" / "loop").symlink_to(root / "a", target_is_directory=True)
    (root / "a" / "up").symlink_to(root, target_is_directory=True)
    (root / "c").symlink_to(elsewhere, target_is_directory=True)
    source = image_folder(str(root))
    assert source.classes == ("a", "b", "c")
    assert Path(source.splits["train"].locate(len(source.splits["train"]) - 1)) == root / "c" / "x.png"


@pytest.mark.parametrize("backward", [True, False])
def test_the_images_do_not_depend_on_the_order_of_the_file_system(
    tmp_path: Path, backward: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = Path(layout(tmp_path / "data", "a/m/1.png", "a/m/inner/2.png", "a/3.png", "b/1.png"))
    for link, folder in (("b_inner", "m/inner"), ("z", "m"), ("m/k", ".")):
        (root / "a" / link).symlink_to(root / "a" / folder, target_is_directory=True)
    scandir = os.scandir

    @contextmanager
    def ordered(path: str) -> Iterator[list[os.DirEntry[str]]]:
        with scandir(path) as entries:
            yield sorted(entries, key=lambda entry: entry.name, reverse=backward)

    monkeypatch.setattr("opsin.data.datasets.image_files.os.scandir", ordered)
    assert image_files(root, "a") == ["a/3.png", "a/b_inner/2.png", "a/m/1.png"]


def test_the_fingerprint_depends_on_content_classes_order_and_channels_only(tmp_path: Path) -> None:
    root = tmp_path / "data"
    path = layout(root, "a/1.png", "b/1.png")
    first = image_folder(path).splits["train"].fingerprint
    assert image_folder(path).splits["train"].fingerprint == first
    moved = shutil.copytree(root, tmp_path / "moved", copy_function=shutil.copyfile)  # with new times
    (moved / "a" / "1.png").rename(moved / "a" / "first.png")
    assert image_folder(str(moved)).splits["train"].fingerprint == first
    seen = {first, image_folder(path, channels=1).splits["train"].fingerprint}
    assert len(seen) == 2
    state = (root / "a" / "1.png").stat()
    image(root / "a" / "1.png", 7)
    os.utime(root / "a" / "1.png", ns=(state.st_atime_ns, state.st_mtime_ns))
    seen.add(image_folder(path).splits["train"].fingerprint)
    (root / "a" / "1.png").rename(root / "b" / "2.png")
    image(root / "a" / "1.png", 9)
    seen.add(image_folder(path).splits["train"].fingerprint)
    (root / "a").rename(root / "z")
    seen.add(image_folder(path).splits["train"].fingerprint)
    assert len(seen) == 5


def test_files_can_be_pickled_and_read_by_threads(tmp_path: Path) -> None:
    train = image_folder(layout(tmp_path, *(f"{name}/{n}.png" for name in "ab" for n in range(20)))).splits["train"]
    other = pickle.loads(pickle.dumps(train))
    assert other.fingerprint == train.fingerprint
    with ThreadPoolExecutor(4) as pool:
        shades = [int(pixels[0, 0, 0]) for pixels in pool.map(other.read, range(40))]
    assert sorted(shades) == list(range(40))


def test_a_missing_folder_a_file_and_an_empty_folder_are_refused(tmp_path: Path) -> None:
    absent = tmp_path / "absent"
    assert (
        refusal(absent)
        == f"The folder {absent} does not exist. Name the folder of the images with datamodule.path=FOLDER."
    )
    file = image(tmp_path / "photo.png")
    assert refusal(file) == f"{file} is a file; datamodule.path must be the folder of the class folders."
    layout(tmp_path, "photos/1.png")
    message = f"{tmp_path}/photos has no class folders. Put the images of each class into a folder of its own there."
    assert refusal(tmp_path / "photos") == message
    layout(tmp_path, "dogs/1.png")
    assert refusal(tmp_path / "photos") == (
        f"{message} If photos is itself a class, give the folder above it: datamodule.path={tmp_path}"
    )


def test_a_single_class_is_refused_with_a_suggested_folder(tmp_path: Path) -> None:
    layout(tmp_path, "PetImages/cat/1.png")
    message = f"{tmp_path} has only the class folder 'PetImages'; a classifier needs two."
    assert refusal(tmp_path) == message
    layout(tmp_path, "PetImages/dog/1.png")
    assert refusal(tmp_path) == f"{message} Did you mean datamodule.path={tmp_path / 'PetImages'}?"


def test_an_empty_class_is_refused(tmp_path: Path) -> None:
    layout(tmp_path, "a/1.png", "b/1.png")
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "readme.txt").touch()
    assert refusal(tmp_path) == (
        f"The class folder {tmp_path / 'c'} has no images. Put some there, remove the folder, "
        f"or give another folder than {tmp_path}, in which each folder is a class."
    )


@pytest.mark.parametrize(
    ("train", "other", "split"),
    [
        ("Training", "Testing", "test"),
        ("training_set", "test_set", "test"),
        ("seg_train/seg_train", "seg_test/seg_test", "test"),
        ("TrainData", "eval-data", "val"),
        ("train2017", "val2017", "val"),
        ("train images", "dev images", "val"),
        ("train", "ValidationSet", "val"),
    ],
)
def test_splits_are_found_by_the_names_of_published_datasets(
    tmp_path: Path, train: str, other: str, split: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    source = image_folder(layout(tmp_path, *(f"{part}/{name}/1.png" for part in (train, other) for name in "ab")))
    assert source.classes == ("a", "b")
    assert {name: len(images) for name, images in source.splits.items()} == {"train": 2, split: 2}
    assert f"train is {train}, {split} is {other}" in caplog.text


@pytest.mark.parametrize(
    ("files", "classes"),
    [
        (["train/1.png", "dev/1.png", "bus/1.png", "test/1.png"], ("bus", "dev", "test", "train")),
        (
            ["test_tube/1.png", "testing_lab/1.png", "train station/1.png"],
            ("test_tube", "testing_lab", "train station"),
        ),
        (["train/steam/1.png", "train/diesel/1.png", "bus/1.png", "car/1.png"], ("bus", "car", "train")),
        (["train/steam/1.png", "dev/board/1.png", "bus/1.png"], ("bus", "dev", "train")),
    ],
)
def test_classes_that_look_like_splits_stay_classes(
    tmp_path: Path, files: list[str], classes: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    assert image_folder(layout(tmp_path, *files)).classes == classes
    assert ("taken as" in caplog.text) == ("train" in classes)


@pytest.mark.parametrize(
    ("other", "unused"),
    [("val", True), ("test_set", True), ("val/nested", False), ("holidays", False)],
)
def test_the_folder_of_the_training_split_gets_a_warning_about_the_other_splits(
    tmp_path: Path, other: str, unused: bool, caplog: pytest.LogCaptureFixture
) -> None:
    root = layout(tmp_path, *(f"{part}/{name}/1.png" for part in ("train", other) for name in "ab"))
    assert set(image_folder(f"{root}/train").splits) == {"train"}
    line = (
        f"train is the training split of {root}, and its other splits are not used: {other}. "
        f"To use them, set datamodule.path={root}."
    )
    assert caplog.messages == ([line] if unused else [])


def test_a_split_may_lack_a_class_and_one_without_labels_is_not_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    root = layout(tmp_path, "train/cat/1.png", "train/dog/1.png", "val/dog/1.png", "test/1.png", "extra/1.png")
    (tmp_path / "val" / "cat").mkdir()
    source = image_folder(root)
    assert {name: images.targets.tolist() for name, images in source.splits.items()} == {"train": [0, 1], "val": [1]}
    assert f"{tmp_path / 'test'} is not used: no class folders, so no labels" in caplog.text
    assert f"{tmp_path / 'extra'} is not used: not the name of a split" in caplog.text
    shutil.rmtree(tmp_path / "val" / "dog")
    assert list(image_folder(root).splits) == ["train"]
    assert f"{tmp_path / 'val'} is not used: no images" in caplog.text


@pytest.mark.parametrize("name", ["K\u00e4fer", "\u30ac", "\u00c5ngstr\u00f6m"])
def test_names_in_both_unicode_forms_are_one_class(tmp_path: Path, name: str) -> None:
    import unicodedata

    other = unicodedata.normalize("NFD", name)
    assert other != name
    source = image_folder(
        layout(tmp_path, f"train/{other}/1.png", "train/x/1.png", f"test/{name}/1.png", "test/x/1.png")
    )
    assert sorted(source.classes) == sorted(("x", name))
    assert source.splits["test"].targets.tolist() == [0, 1]
    layout(tmp_path, f"train/{name}/1.png")
    assert f"two folders for the class {name!r}" in refusal(tmp_path)
    assert ascii(other) in refusal(tmp_path)


@pytest.mark.parametrize(
    ("odd", "shown"),
    [("k\x1b[31mfer", r"k\x1b[31mfer"), ("k\ntest accuracy 1", r"k\ntest accuracy 1"), ("k\tb", "k\tb")],
)
def test_control_characters_are_escaped_in_the_names_of_classes(tmp_path: Path, odd: str, shown: str) -> None:
    layout(tmp_path, f"{odd}/1.png", "ant/1.png")
    source = image_folder(str(tmp_path))
    assert source.classes == ("ant", shown)
    assert source.splits["train"].read(1).shape == (5, 7, 3)


def test_names_that_are_not_utf8_are_classes_with_escaped_names(tmp_path: Path) -> None:
    odd = os.fsdecode(b"k\xe4fer")
    for split in ("train", "valid"):
        layout(tmp_path, f"{split}/{odd}/{odd}.png", f"{split}/ant/1.png")
    source = image_folder(str(tmp_path))
    assert source.classes == ("ant", r"k\xe4fer")
    assert source.splits["val"].read(1).shape == (5, 7, 3)
    assert os.fsencode(source.splits["train"].locate(1)).endswith(b"/train/k\xe4fer/k\xe4fer.png")


def test_files_that_are_not_images_are_counted_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    root = Path(layout(tmp_path, "a/1.png", "b/1.png"))
    for name in ("film.MP4", "clip.mp4", "model.safetensors", ".hidden.mp4"):
        (root / "a" / name).touch()
    assert len(image_folder(str(root)).splits["train"]) == 2
    assert f"files left out of {root / 'a'}, because they are not images: 2 .mp4, 1 .safetensors" in caplog.text


def test_missing_and_unknown_classes_of_a_split_are_named(tmp_path: Path) -> None:
    layout(tmp_path, "train/cat/1.png", "train/dog/1.png", "val/Dog/1.png", "val/zebra/1.png", "val/cat/1.png")
    assert refusal(tmp_path) == (
        f"The class folders of {tmp_path / 'val'} must be cat, dog.\n"
        "  'dog' is missing.\n"
        "  'Dog' is not one of them: did you mean dog?\n"
        "  'zebra' is not one of them."
    )


def test_two_folders_for_one_split_are_refused(tmp_path: Path) -> None:
    layout(tmp_path, *(f"{split}/{name}/1.png" for split in ("train", "val", "valid") for name in "ab"))
    assert (
        refusal(tmp_path)
        == f"{tmp_path} has 'val' and 'valid', which mean the same split. Rename or remove one of them."
    )


def test_splits_without_train_are_refused(tmp_path: Path) -> None:
    layout(tmp_path, "test/a/1.png", "test/b/1.png")
    assert refusal(tmp_path) == (
        f"{tmp_path} has 'test' but no 'train' with class folders, so there are no training images."
    )


def test_a_misspelled_split_is_refused_with_a_suggestion(tmp_path: Path) -> None:
    layout(tmp_path, "train/a/1.png", "train/b/1.png", "valdation/a/1.png", "annotations/boxes/1.png")
    assert refusal(tmp_path) == (
        f"{tmp_path / 'valdation'} holds class folders, but 'valdation' is not the name of a split: did you mean "
        "validation? Rename it to train, val (or validation, valid, dev) or test, or move it away."
    )


def test_splits_inside_class_folders_are_refused(tmp_path: Path) -> None:
    layout(tmp_path, "bottle/train/1.png", "bottle/test/1.png", "cable/train/1.png")
    bottle = tmp_path / "bottle"
    assert refusal(tmp_path) == (
        f"The class folder {bottle} contains a folder 'train'. If bottle is the folder of the "
        f"dataset, set datamodule.path={bottle}. If bottle is a class, put its training images into train/bottle, "
        "and do the same for val and test."
    )


@pytest.mark.parametrize("where", ["PetImages", "cats_vs_dogs/PetImages", "cats_vs_dogs"])
def test_cats_vs_dogs_in_microsofts_layout_is_one_split(tmp_path: Path, where: str) -> None:
    layout(tmp_path / where, "Cat/0.jpg", "Cat/1.jpg", "Dog/0.jpg")
    (tmp_path / where / "Cat" / "666.jpg").touch()
    (tmp_path / where / "Cat" / "Thumbs.db").write_bytes(b"\xd0\xcf")
    for source in (cats_vs_dogs(data_dir=str(tmp_path)), cats_vs_dogs(path=str(tmp_path / where))):
        assert (source.name, source.classes, source.size) == ("cats_vs_dogs", ("cat", "dog"), (150, 150))
        train = source.splits["train"]
        assert list(source.splits) == ["train"]
        assert train.targets.tolist() == [0, 0, 0, 1]
        with pytest.raises(BadImage, match=r"^zero bytes$"):
            train.read(2)


def test_cats_vs_dogs_accepts_splits_and_any_folder_names(tmp_path: Path) -> None:
    layout(tmp_path, "train/dogs/0.jpg", "train/cats/0.jpg", "validation/Dog/1.jpg", "validation/Cat/1.jpg")
    source = cats_vs_dogs(path=str(tmp_path))
    assert {split: images.targets.tolist() for split, images in source.splits.items()} == {
        "train": [0, 1],
        "val": [0, 1],
    }
    assert source.splits["val"].locate(1).endswith("Dog/1.jpg")
    gray = cats_vs_dogs(path=str(tmp_path), channels=1)
    assert (gray.channels, gray.mean, source.channels) == (1, None, 3)
    assert {split: images.channels for split, images in gray.splits.items()} == {"train": 1, "val": 1}


def test_cats_vs_dogs_refuses_two_folders_for_one_class(tmp_path: Path) -> None:
    layout(tmp_path, "cat/0.jpg", "cats/0.jpg", "dog/0.jpg")
    with pytest.raises(UserError) as raised:
        cats_vs_dogs(path=str(tmp_path))
    assert str(raised.value) == f"{tmp_path} has two folders for the class 'cat': 'cat' and 'cats'. Merge them."


def test_a_missing_cats_vs_dogs_names_the_options(tmp_path: Path) -> None:
    with pytest.raises(UserError) as raised:
        cats_vs_dogs(path=str(tmp_path / "absent"))
    assert str(raised.value) == (
        f"Cats vs dogs was not found: there is no folder {tmp_path / 'absent'}.\n"
        "Put the folder PetImages with Cat/ and Dog/ (from https://www.microsoft.com/download/details.aspx?id=54765), "
        "or a folder cats_vs_dogs with train/cat, train/dog and optionally validation/... and test/..., "
        f"into\n  {tmp_path / 'absent'}\n"
        "or name their folder with datamodule.path=FOLDER.\n"
        "Without internet access, use datamodule=digits: its images are part of scikit-learn."
    )


@pytest.mark.realdata
def test_real_cats_and_dogs(real_data: Path) -> None:
    for name, train, val in (("cats_vs_dogs_180", 6000, 2000), ("cats_vs_dogs_original", 1400, 602)):
        source = cats_vs_dogs(path=str(real_data / name))
        assert {split: len(images) for split, images in source.splits.items()} == {"train": train, "val": val}
        for images in source.splits.values():
            assert np.bincount(images.targets).tolist() == [len(images) // 2] * 2
            assert images.locate(0).endswith(".jpg")
            assert "/cats/" in images.locate(0)
            assert images.read(len(images) - 1).shape[2] == 3


def test_a_folder_without_subfolders_holds_unlabeled_images(tmp_path: Path) -> None:
    found = unlabeled_images(layout(tmp_path / "photos", "b.png", "a.png"))
    assert found is not None
    assert [found.locate(index) for index in range(2)] == [
        str(tmp_path / "photos" / name) for name in ("a.png", "b.png")
    ]
    assert found.targets.tolist() == [0, 0]
    (tmp_path / "photos" / "notes.txt").write_text("not an image")
    assert unlabeled_images(str(tmp_path / "photos"), channels=1).read(0).shape == (5, 7, 1)
    assert len(unlabeled_images(str(tmp_path / "photos"))) == 2
    layout(tmp_path / "photos", "class/1.png")
    assert unlabeled_images(str(tmp_path / "photos")) is None
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="neither class folders nor images"):
        unlabeled_images(str(tmp_path / "empty"))
    with pytest.raises(UserError, match="does not exist"):
        unlabeled_images(str(tmp_path / "nowhere"))
