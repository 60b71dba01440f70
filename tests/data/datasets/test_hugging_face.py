"""Hugging Face datasets, written locally; no test connects to the hub."""

import hashlib
import io
import json
import pickle
import shutil
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, List, Value
from PIL import Image as PILImage

from opsin.data.cache.image_store import open_store
from opsin.data.datasets import DatasetImages, cats_vs_dogs, hugging_face
from opsin.data.datasets.hugging_face_columns import read_splits
from opsin.data.source import content_fingerprint
from opsin.data.types import BadImage
from opsin.errors import UserError

hugging_face_module = sys.modules["opsin.data.datasets.hugging_face"]  # not the function


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


def png(shade: int) -> bytes:
    file = io.BytesIO()
    PILImage.new("RGB", (7, 5), (shade,) * 3).save(file, "PNG")
    return file.getvalue()


def damaged_png() -> bytes:
    """Return a PNG of noise, which does not compress, truncated in the middle of its pixels."""
    file = io.BytesIO()
    PILImage.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()[:1500]


def rows(labels: list[Any], kind: Any, image: Any = None, **more: Any) -> Dataset:
    """Return a dataset with the column `label`; the shade of an image is its row."""
    image = Image() if image is None else image
    pictures = [{"bytes": png(n), "path": None} if isinstance(image, Image) else png(n) for n in range(len(labels))]
    columns = {"picture": pictures, "label": labels, **{name: values for name, (values, _) in more.items()}}
    features = {"picture": image, "label": kind, **{name: feature for name, (_, feature) in more.items()}}
    return Dataset.from_dict(columns, features=Features(features))


BIRDS = ClassLabel(names=["robin", "wren"])


def test_saved_splits_with_a_class_label(tmp_path: Path) -> None:
    splits = {"train": rows([1, 0, 1], BIRDS), "validation": rows([0, 1], BIRDS), "test": rows([1], BIRDS)}
    DatasetDict(splits).save_to_disk(tmp_path / "birds")
    source = hugging_face(str(tmp_path / "birds"))
    assert (source.name, source.classes) == ("birds", ("robin", "wren"))
    assert (source.channels, source.size, source.mean) == (3, (224, 224), None)
    targets = {split: images.targets.tolist() for split, images in source.splits.items()}
    assert targets == {"train": [1, 0, 1], "val": [0, 1], "test": [1]}
    train = source.splits["train"]
    assert train.targets.dtype == np.int64
    assert [train.read(index).tolist() for index in range(3)] == [np.full((5, 7, 3), n).tolist() for n in range(3)]
    assert source.splits["val"].locate(1) == f"{tmp_path}/birds val, image 1"
    gray = hugging_face(str(tmp_path / "birds"), channels=1, size=(32, 48))
    assert (gray.channels, gray.size, gray.splits["train"].read(2).shape) == (1, (32, 48), (5, 7, 1))


def test_a_changed_image_in_a_large_table_changes_the_fingerprint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("opsin.data.decode._LARGE", 100)
    fingerprints = []
    for name, shade in (("one", 1), ("two", 2)):
        pictures = [{"bytes": png(n), "path": None} for n in (0, shade)]
        features = Features({"picture": Image(), "label": BIRDS})
        Dataset.from_dict({"picture": pictures, "label": [0, 1]}, features=features).save_to_disk(tmp_path / name)
        fingerprints.append(hugging_face(str(tmp_path / name)).splits["train"].fingerprint)
    sizes = [next((tmp_path / name).glob("*.arrow")).stat().st_size for name in ("one", "two")]
    assert sizes[0] == sizes[1] > 100
    assert fingerprints[0] != fingerprints[1]


def test_a_saved_dataset_without_splits_is_train(tmp_path: Path) -> None:
    rows([1, 0, 1], BIRDS).save_to_disk(tmp_path / "birds")
    assert list(hugging_face(str(tmp_path / "birds")).splits) == ["train"]


@pytest.mark.parametrize("name", ["validation", "valid", "val", "dev"])
def test_parquet_files_and_split_names_are_read(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "birds"
    folder.mkdir()
    rows([1, 0, 1], BIRDS).to_parquet(folder / "train-00000.parquet")
    rows([0, 1], BIRDS).to_parquet(folder / f"{name}-00000.parquet")
    source = hugging_face(str(folder))
    assert {split: len(images) for split, images in source.splits.items()} == {"train": 3, "val": 2}
    assert source.splits["train"].read(2)[0, 0, 0] == 2


def test_the_only_column_of_plain_bytes_holds_the_images(tmp_path: Path) -> None:
    folder = tmp_path / "birds"
    folder.mkdir()
    rows([1, 0, 1], BIRDS, image=Value("binary")).to_parquet(folder / "train.parquet")
    assert hugging_face(str(folder)).splits["train"].read(2)[0, 0, 0] == 2
    mask = {"mask": ([b"", b"", b""], Value("binary"))}
    rows([1, 0, 1], BIRDS, image=Value("binary"), **mask).to_parquet(folder / "train.parquet")
    assert refusal(folder) == (
        f"{folder}: its columns are picture (binary), label (int64), mask (binary). "
        "Name the column of the images: datamodule.image_column=NAME."
    )


def test_a_folder_of_image_files_is_read(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for shade, name in enumerate(("robin", "wren")):
            (tmp_path / "birds" / split / name).mkdir(parents=True)
            (tmp_path / "birds" / split / name / "1.png").write_bytes(png(shade))
    (tmp_path / "birds" / "train" / "wren" / "2.png").write_bytes(damaged_png())
    source = hugging_face(str(tmp_path / "birds"))
    assert source.classes == ("robin", "wren")
    train = source.splits["train"]
    assert train.targets.tolist() == [0, 1, 1]
    assert train.read(1)[0, 0, 0] == 1
    with pytest.raises(BadImage, match=r"^damaged: "):
        train.read(2)
    first = train.fingerprint
    (tmp_path / "birds").rename(tmp_path / "moved")
    assert hugging_face(str(tmp_path / "moved")).splits["train"].fingerprint == first
    (tmp_path / "moved" / "train" / "wren" / "1.png").write_bytes(png(9))
    assert hugging_face(str(tmp_path / "moved")).splits["train"].fingerprint != first


@pytest.mark.parametrize(
    ("kind", "values", "classes"),
    [
        (Value("string"), ["wren", "robin", "wren"], ("robin", "wren")),
        (Value("int64"), [10, 9, 10], ("9", "10")),
        (Value("bool"), [True, False, True], ("False", "True")),
        (Value("float64"), [7.0, 2.0, 7.0], ("2", "7")),
        (Value("string"), ["u\u0308", "a", "\u00fc"], ("a", "\u00fc")),
        (ClassLabel(names=["n0", "n1", "n2", "n3"]), [3, 1, 3], ("n1", "n3")),
    ],
    ids=["string", "int64", "bool", "float64", "two forms of Unicode", "classes without images"],
)
def test_plain_labels_become_sorted_classes(
    tmp_path: Path, kind: Value, values: list[Any], classes: tuple[str, ...]
) -> None:
    note = {"note": ([0.5] * 3, Value("float32"))}
    rows(values, kind, **note).save_to_disk(tmp_path / "birds")
    source = hugging_face(str(tmp_path / "birds"))
    assert source.classes == classes
    assert source.splits["train"].targets.tolist() == [1, 0, 1]


def test_a_test_split_without_labels_is_left_out(tmp_path: Path) -> None:
    DatasetDict(train=rows([1, 0], BIRDS), test=rows([-1, -1], BIRDS)).save_to_disk(tmp_path / "birds")
    assert list(hugging_face(str(tmp_path / "birds")).splits) == ["train"]
    DatasetDict(train=rows(["b", "a"], Value("string")), test=rows([None, None], Value("string"))).save_to_disk(
        tmp_path / "more"
    )
    assert list(hugging_face(str(tmp_path / "more")).splits) == ["train"]


def refusal(folder: Path, **options: Any) -> str:
    with pytest.raises(UserError) as raised:
        hugging_face(str(folder), **options)
    return str(raised.value)


def test_unusable_labels_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "birds"
    DatasetDict(train=rows([-1, -1], BIRDS)).save_to_disk(folder / "1")
    assert refusal(folder / "1") == f"{folder}/1: the training labels in column 'label' are hidden (-1 or empty)."
    DatasetDict(train=rows([1, -1, 0], BIRDS)).save_to_disk(folder / "2")
    assert refusal(folder / "2") == (
        f"{folder}/2 train: 1 of 3 labels in column 'label' are -1 or empty. Remove those rows."
    )
    strings = Value("string")
    DatasetDict(train=rows(["cat", "dog"], strings), test=rows(["dgo", "cat"], strings)).save_to_disk(folder / "3")
    assert refusal(folder / "3") == (
        f"{folder}/3 test: label 'dgo' is not a class of train: did you mean dog? The classes are cat, dog."
    )
    DatasetDict(train=rows(["cat", "cat"], strings)).save_to_disk(folder / "4")
    assert refusal(folder / "4") == f"{folder}/4: column 'label' has only the class 'cat'; a classifier needs two."
    save_splits(folder / "5", train=BIRDS, test=ClassLabel(names=["wren", "robbin"]))
    assert refusal(folder / "5") == (
        f"{folder}/5 test: label 'robbin' is not a class of train: did you mean robin? The classes are robin, wren."
    )
    DatasetDict(train=rows([0.5, 1.0], Value("float32"))).save_to_disk(folder / "6")
    assert refusal(folder / "6") == (
        f"{folder}/6 train: 0.5 in column 'label' is not a class; a class is a whole number or a name."
    )


@pytest.mark.parametrize("label", [-2, -3, 2, 9])
def test_labels_outside_the_classes_are_refused(tmp_path: Path, label: int) -> None:
    table = rows([0, 1, 0], BIRDS).data.table
    labels = pyarrow.array([0, label, 1], pyarrow.int64())
    pyarrow.parquet.write_table(table.set_column(1, table.schema.field("label"), labels), tmp_path / "train.parquet")
    assert refusal(tmp_path) == f"{tmp_path} train: label {label} in column 'label' is not one of its 2 classes."


@pytest.mark.parametrize("blank", ["", " ", "\t"])
def test_blank_labels_are_missing_labels(tmp_path: Path, blank: str) -> None:
    train = rows(["wren", "robin"], Value("string"))
    DatasetDict(train=train, test=rows([blank, blank], Value("string"))).save_to_disk(tmp_path / "birds")
    assert list(hugging_face(str(tmp_path / "birds")).splits) == ["train"]
    DatasetDict(train=rows(["wren", blank, "robin"], Value("string"))).save_to_disk(tmp_path / "more")
    assert "1 of 3 labels in column 'label' are -1 or empty. Remove those rows." in refusal(tmp_path / "more")


def save_splits(folder: Path, **kinds: ClassLabel) -> None:
    """Save splits whose labels 0 and 1 name different classes, which `DatasetDict` refuses."""
    for split, kind in kinds.items():
        rows([0, 1], kind).save_to_disk(folder / split)
    (folder / "dataset_dict.json").write_text(json.dumps({"splits": list(kinds)}))


def test_labels_are_compared_by_name_if_the_splits_number_them_differently(tmp_path: Path) -> None:
    save_splits(tmp_path, train=BIRDS, Testing=ClassLabel(names=["wren", "robin"]))
    source = hugging_face(str(tmp_path))
    assert source.splits["train"].targets.tolist() == [0, 1]
    assert source.splits["test"].targets.tolist() == [1, 0]


def test_ambiguous_columns_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "birds"
    both = {"coarse": ([0, 1], ClassLabel(names=["a", "b"])), "picture2": ([None, None], Image())}
    dataset = rows([1, 0], BIRDS, **both).rename_column("label", "fine")
    dataset.save_to_disk(folder)
    columns = "picture (Image), fine (int64), coarse (int64), picture2 (Image)"
    assert refusal(folder) == (
        f"{folder}: its columns are {columns}. Name the column of the images: datamodule.image_column=NAME."
    )
    assert refusal(folder, image_column="picture") == (
        f"{folder}: its columns are {columns}. Name the column of the labels: datamodule.label_column=NAME."
    )
    assert refusal(folder, image_column="pictures", label_column="fine") == (
        f"{folder} has no column 'pictures' (datamodule.image_column): did you mean picture? The columns are {columns}."
    )
    assert refusal(folder, image_column="fine", label_column="coarse") == (
        f"{folder}: column 'fine' has no images; the columns are {columns}."
    )
    assert refusal(folder, image_column="picture", label_column="picture2") == (
        f"{folder}: column 'picture2' has no labels; the columns are {columns}."
    )
    source = hugging_face(str(folder), image_column="picture", label_column="coarse")
    assert source.classes == ("a", "b")
    empty = hugging_face(str(folder), image_column="picture2", label_column="fine").splits["train"]
    with pytest.raises(BadImage, match=r"^no image in this row$"):
        empty.read(0)


def test_the_column_called_label_is_used_if_there_are_several(tmp_path: Path) -> None:
    rows([1, 0], BIRDS, camera=([0, 1], ClassLabel(names=["a", "b"]))).save_to_disk(tmp_path / "birds")
    assert hugging_face(str(tmp_path / "birds")).classes == ("robin", "wren")


def test_splits_of_other_names_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    DatasetDict(train=rows([1, 0], BIRDS), extra=rows([1], BIRDS)).save_to_disk(tmp_path / "1")
    assert list(hugging_face(str(tmp_path / "1")).splits) == ["train"]
    assert f"{tmp_path}/1: ignored 'extra', which is not train, validation or test" in caplog.text
    DatasetDict(full=rows([1, 0], BIRDS)).save_to_disk(tmp_path / "2")
    assert list(hugging_face(str(tmp_path / "2")).splits) == ["train"]
    DatasetDict(test=rows([1, 0], BIRDS), extra=rows([1], BIRDS)).save_to_disk(tmp_path / "3")
    assert refusal(tmp_path / "3") == f"{tmp_path}/3 has no split 'train', only 'test', 'extra'."


@pytest.mark.parametrize(("one", "other"), [("valid", "dev"), ("test", "testing"), ("train", "training")])
def test_two_names_for_one_split_are_refused(tmp_path: Path, one: str, other: str) -> None:
    names = dict.fromkeys(("train", one, "extra", other))
    DatasetDict({name: rows([1, 0], BIRDS) for name in names}).save_to_disk(tmp_path / "1")
    assert refusal(tmp_path / "1") == (
        f"{tmp_path}/1 has '{one}' and '{other}', which mean the same split. Save a DatasetDict of the wanted ones to "
        "a folder (save_to_disk), and set datamodule.path to it."
    )


def test_bad_images_are_found_and_rows_survive_pickling_and_threads(tmp_path: Path) -> None:
    dataset = rows([1, 0] * 10, BIRDS)
    bad = dataset.cast_column("picture", Image(decode=False)).map(
        lambda row, n: {"picture": {"bytes": b"no image" if n == 3 else row["picture"]["bytes"], "path": None}},
        with_indices=True,
    )
    bad.cast_column("picture", Image()).save_to_disk(tmp_path / "birds")
    train = hugging_face(str(tmp_path / "birds")).splits["train"]
    with pytest.raises(BadImage, match=r"^not an image"):
        train.read(3)
    other = pickle.loads(pickle.dumps(train))
    assert other.fingerprint == train.fingerprint
    good = [index for index in range(20) if index != 3]
    with ThreadPoolExecutor(4) as pool:
        assert [int(pixels[0, 0, 0]) for pixels in pool.map(other.read, good)] == good


def test_rows_without_an_image_are_left_out(tmp_path: Path) -> None:
    for shade in range(4):
        (tmp_path / f"{shade}.png").write_bytes(png(shade))
    in_files: list[Any] = [{"bytes": None, "path": f"{tmp_path}/{shade}.png"} for shade in range(4)]
    in_rows: list[Any] = [{"bytes": png(shade), "path": None} for shade in range(4)]
    features, stores, prints = Features({"picture": Image(), "label": BIRDS}), [], set()
    for name, pictures in (("files", in_files), ("rows", in_rows)):
        for missing in ((), (1,), (2,)):
            values = [None if row in missing else picture for row, picture in enumerate(pictures)]
            train = Dataset.from_dict({"picture": values, "label": [0, 1, 0, 1]}, features=features)
            images = read_splits({"train": train}, name, None, None, 3, (5, 7)).splits["train"]
            assert isinstance(images, DatasetImages)
            assert bool(images.files) == (name == "files")
            store = open_store(images, (5, 7), cache_dir=tmp_path / f"{name}{missing}")
            stores.append((store.kept.tolist(), [reason for _, reason in store.bad], store.take(np.array([-1])).max()))
            prints.add(images.fingerprint)
    reason = ["no image in this row"]
    assert stores[:3] == [([0, 1, 2, 3], [], 3), ([0, 2, 3], reason, 3), ([0, 1, 3], reason, 3)]
    assert stores[3:] == stores[:3]
    assert len(prints) == 6


@pytest.mark.parametrize("kind", ["numpy", "torch", "pandas", "arrow", None])
def test_the_format_in_which_rows_were_saved_does_not_count(tmp_path: Path, kind: str | None) -> None:
    rows([1, 0, 1], BIRDS).with_format(kind, columns=["label"]).save_to_disk(tmp_path / "birds")
    source = hugging_face(str(tmp_path / "birds"))
    train = source.splits["train"]
    assert source.classes == ("robin", "wren")
    assert train.targets.tolist() == [1, 0, 1]
    assert [int(train.read(index)[0, 0, 0]) for index in range(3)] == [0, 1, 2]
    assert isinstance(train, DatasetImages)
    formatted = replace(train, rows=train.rows.with_format(kind))
    assert int(formatted.read(2)[0, 0, 0]) == 2


def test_the_fingerprint_is_stable_and_depends_on_rows_labels_and_channels(tmp_path: Path) -> None:
    rows([1, 0], BIRDS).save_to_disk(tmp_path / "1")
    first = hugging_face(str(tmp_path / "1")).splits["train"].fingerprint
    assert hugging_face(str(tmp_path / "1")).splits["train"].fingerprint == first
    rows([0, 1], BIRDS).save_to_disk(tmp_path / "2")
    rows([1, 0, 1], BIRDS).save_to_disk(tmp_path / "3")
    shutil.copytree(tmp_path / "1", tmp_path / "copy", copy_function=shutil.copyfile)
    assert hugging_face(str(tmp_path / "copy")).splits["train"].fingerprint == first
    others = [hugging_face(str(tmp_path / name)).splits["train"].fingerprint for name in "23"]
    gray = hugging_face(str(tmp_path / "1"), channels=1).splits["train"].fingerprint
    assert len({first, gray, *others}) == 4


@pytest.mark.parametrize("shards", [1, 3])
def test_selected_rows_have_a_fingerprint_of_their_own(tmp_path: Path, shards: int) -> None:
    rows([1] * 9, BIRDS).save_to_disk(tmp_path / "1", num_shards=shards)
    shutil.copytree(tmp_path / "1", tmp_path / "copy")

    def prints(folder: Path) -> list[str]:
        whole = datasets.load_from_disk(folder)
        assert isinstance(whole, Dataset)
        files = tuple(file["filename"] for file in whole.cache_files)
        ways = ([1, 0, 4], [4, 0, 1], [2, 0, 4], [0, 1, 2], [1, 2, 3], [3, 4, 5])  # the last three are slices
        parts = [whole.select(way) for way in ways]
        parts.append(parts[0].select([1, 2, 0]))
        return [
            DatasetImages(part.select_columns(["picture"]), np.ones(3, np.int64), 3, "part", files, "").fingerprint
            for part in parts
        ]

    found = prints(tmp_path / "1")
    assert len(set(found)) == 7
    assert prints(tmp_path / "copy") == found


def test_rows_that_their_files_identify_keep_their_fingerprint(tmp_path: Path) -> None:
    def former(images: DatasetImages) -> str:
        content = content_fingerprint(images.contents, images.targets, images.channels)
        text = f"{content} {images.rows.column_names} {len(images)} {'' if images.files else images.fallback}"
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    for shade in range(4):
        file = tmp_path / "folder" / str(shade // 2) / f"{shade}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(png(shade))
    folder = datasets.load_dataset("imagefolder", data_dir=str(tmp_path / "folder"), split="train")
    rows([0, 1, 0, 1], BIRDS).save_to_disk(tmp_path / "table")
    both = [folder, datasets.load_from_disk(tmp_path / "table")]
    chosen = [part.filter(lambda _, row: row in (1, 2), with_indices=True) for part in both]
    chosen += [folder.select([3, 0]), folder.select([1, 2]), rows([0, 1, 1], BIRDS).select([2, 0])]
    for part in chosen:
        images = read_splits({"train": part}, "part", None, None, 3, (5, 7)).splits["train"]
        assert isinstance(images, DatasetImages)
        assert images.fingerprint == former(images)


def test_folders_without_a_dataset_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    message = refusal(tmp_path / "empty")
    assert message.startswith(f"Hugging Face datasets cannot read {tmp_path}/empty: ")
    assert message.endswith(
        "\nThe folder must be written by save_to_disk, or contain parquet files or folders of images."
    )
    assert refusal(tmp_path / "absent") == (
        f"There is no folder {tmp_path}/absent, and '{tmp_path}/absent' is not an id like 'ylecun/mnist'."
    )
    (tmp_path / "file").touch()
    assert refusal(tmp_path / "file") == (
        f"{tmp_path}/file is a file; datamodule.path must be the folder that holds the dataset."
    )


@pytest.mark.parametrize(
    ("labels", "kind", "reason"),
    [(["x", "1"], Value("string"), "Failed to parse string: 'x'"), ([[0], [1]], List(Value("int64")), "Couldn't cast")],
)
def test_the_reason_why_files_of_a_folder_do_not_fit_together_is_given(
    tmp_path: Path, labels: list[Any], kind: Any, reason: str
) -> None:
    rows([0, 1], Value("int64")).to_parquet(tmp_path / "1.parquet")
    rows(labels, kind).to_parquet(tmp_path / "2.parquet")
    assert f"Hugging Face datasets cannot read {tmp_path}: {reason}" in refusal(tmp_path)


OFFLINE = (
    f"Download it on a machine with internet access and copy Hugging Face's cache ({datasets.config.HF_CACHE_HOME}) "
    "here, or save it to a folder with datasets.load_dataset(...).save_to_disk(FOLDER) "
    "and set datamodule.path=FOLDER.\n"
    "Without internet access, use datamodule=digits: its images are part of scikit-learn."
)


def test_a_missing_connection_is_reported_within_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError) as raised:
        hugging_face("someone/birds")
    assert str(raised.value) == (
        f"The Hugging Face dataset 'someone/birds' could not be downloaded.\n  HF_HUB_OFFLINE is set.\n{OFFLINE}"
    )
    for module in (datasets.config, huggingface_hub.constants):
        monkeypatch.setattr(module, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:1")
    start = time.monotonic()
    with pytest.raises(UserError) as raised:
        hugging_face("someone/birds")
    assert time.monotonic() - start < 5  # by default, `datasets` tries for 23 s
    assert str(raised.value) == (
        "The Hugging Face dataset 'someone/birds' could not be downloaded.\n"
        f"  http://127.0.0.1:1 cannot be reached: [Errno 111] Connection refused\n{OFFLINE}"
    )
    assert not datasets.config.HF_HUB_OFFLINE
    assert not huggingface_hub.constants.HF_HUB_OFFLINE


def test_a_downloaded_dataset_is_read_offline(tmp_path: Path) -> None:
    folder = tmp_path / "birds"
    folder.mkdir()
    rows([1, 0, 1], BIRDS).to_parquet(folder / "train.parquet")
    datasets.load_dataset(str(folder))
    # The path of a hub dataset in the cache of the library: NAMESPACE___NAME/CONFIG/VERSION/HASH.
    (local,) = (tmp_path / "cache").glob("*/*/*/*/dataset_info.json")
    (tmp_path / "cache" / "someone___birds").mkdir()
    local.parents[2].rename(tmp_path / "cache" / "someone___birds" / local.parents[2].name)
    for file in (tmp_path / "cache").rglob("parquet-train.arrow"):
        file.rename(file.with_name("birds-train.arrow"))
    source = hugging_face("someone/birds")
    assert (source.name, source.classes) == ("someone/birds", ("robin", "wren"))
    assert source.splits["train"].read(2)[0, 0, 0] == 2


def test_cats_vs_dogs_comes_from_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load_dataset(path: str, name: str | None, revision: str | None) -> DatasetDict:
        asked.append((path, name, revision))
        dataset = rows([0, 1, 1], ClassLabel(names=["cat", "dog"])).rename_columns(
            {"picture": "image", "label": "labels"}
        )
        return DatasetDict(train=dataset)

    monkeypatch.setattr(hugging_face_module, "_hub_problem", lambda: "")
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    source = cats_vs_dogs(data_dir=str(tmp_path))
    assert asked == [("microsoft/cats_vs_dogs", None, None)]
    assert (source.name, source.classes, source.size) == ("cats_vs_dogs", ("cat", "dog"), (150, 150))
    assert source.splits["train"].targets.tolist() == [0, 1, 1]
    assert source.splits["train"].locate(2) == "microsoft/cats_vs_dogs train, image 2"


def test_cats_vs_dogs_without_a_network_names_the_options(tmp_path: Path) -> None:
    with pytest.raises(UserError) as raised:
        cats_vs_dogs(data_dir=str(tmp_path))
    first, second, *_, folder, option, offline = str(raised.value).splitlines()
    assert first == "Cats vs dogs was not found: microsoft/cats_vs_dogs could not be downloaded."
    assert second == "  HF_HUB_OFFLINE is set."
    assert folder == f"  {tmp_path}"
    assert option == "or name their folder with datamodule.path=FOLDER."
    assert offline == "Without internet access, use datamodule=digits: its images are part of scikit-learn."


def test_a_refusal_of_the_hub_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(*_: object, **__: object) -> DatasetDict:
        raise datasets.exceptions.DatasetNotFoundError("Dataset 'someone/birds' doesn't exist on the Hub.\nmore")

    monkeypatch.setattr(hugging_face_module, "_hub_problem", lambda: "")
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(UserError) as raised:
        hugging_face("someone/birds")
    assert str(raised.value).splitlines()[1] == "  Dataset 'someone/birds' doesn't exist on the Hub."
