"""Digits, MNIST, Fashion-MNIST and CIFAR-10, read from files that the tests write in the publishers' formats."""

import gzip
import io
import os
import pickle
import struct
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from opsin.data.datasets import ArrayImages, cifar10, digits, fashion_mnist, mnist
from opsin.errors import UserError

cifar10_module = sys.modules["opsin.data.datasets.cifar10"]  # not the function

mnist_module = sys.modules["opsin.data.datasets.mnist"]  # not the function

NAMES = tuple(f"{prefix}-{kind}" for prefix in ("train", "t10k") for kind in ("images-idx3-ubyte", "labels-idx1-ubyte"))


def idx_bytes(values: np.ndarray) -> bytes:
    return bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}i", *values.shape) + values.tobytes()


def write_idx(folder: Path, packed: bool = False, dotted: bool = False) -> dict[str, np.ndarray]:
    """Write a tiny dataset in idx files: six training and four test images."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    written = {}
    for name in NAMES:
        count = 6 if name.startswith("train") else 4
        shape = (count, 28, 28) if "images" in name else (count,)
        written[name] = rng.integers(0, 256 if "images" in name else 10, shape, dtype=np.uint8)
        content = idx_bytes(written[name])
        file = folder / (name.replace("-idx", ".idx") if dotted else name)
        if packed:
            file.with_name(f"{file.name}.gz").write_bytes(gzip.compress(content))
        else:
            file.write_bytes(content)
    return written


def test_digits_have_one_split_of_8x8_images_resized_to_28() -> None:
    source = digits()
    assert (source.name, source.channels, source.size) == ("digits", 1, (28, 28))
    assert source.classes == tuple("0123456789")
    assert list(source.splits) == ["train"]
    train = source.splits["train"]
    assert len(train) == 1797
    # The counts in UCI's description of the test set of its optical digits.
    assert np.bincount(train.targets).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    first = train.read(0)
    assert first.shape == (8, 8, 1)
    # The first row of the first image is 0 0 5 13 9 1 0 0, in sixteenths.
    assert first[0, :, 0].tolist() == [0, 0, 80, 207, 143, 16, 0, 0]
    assert max(int(train.read(index).max()) for index in range(50)) == 255
    assert train.locate(3) == "digits, image 3"


@pytest.mark.parametrize("is_found", [True, False])
def test_digits_are_those_of_scikit_learn(is_found: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is read directly; if scikit-learn stores it elsewhere, scikit-learn reads it."""
    expected = load_digits()
    read_by_sklearn: list[int] = []
    monkeypatch.setattr("sklearn.datasets.load_digits", lambda: read_by_sklearn.append(1) or expected)
    if not is_found:
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    train = digits().splits["train"]
    assert len(read_by_sklearn) == (not is_found)
    assert train.targets.tolist() == expected.target.tolist()
    pixels = np.stack([train.read(index) for index in range(len(train))])[..., 0]
    np.testing.assert_array_equal(pixels, np.rint(expected.images * 255 / 16))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("dotted", [False, True])
@pytest.mark.parametrize("below", ["", "raw", "MNIST/raw"])
def test_mnist_is_read_from_all_its_layouts(tmp_path: Path, packed: bool, dotted: bool, below: str) -> None:
    written = write_idx(tmp_path / below, packed, dotted)
    source = mnist(path=str(tmp_path), download=False)
    assert (source.name, source.channels, source.size) == ("mnist", 1, (28, 28))
    assert (source.mean, source.std) == ((0.1307,), (0.3081,))
    assert list(source.splits) == ["train", "test"]
    for split, prefix in (("train", "train"), ("test", "t10k")):
        images = source.splits[split]
        assert images.targets.dtype == np.int64
        np.testing.assert_array_equal(images.targets, written[f"{prefix}-labels-idx1-ubyte"])
        for index in range(len(images)):
            expected = written[f"{prefix}-images-idx3-ubyte"][index][..., None]
            np.testing.assert_array_equal(images.read(index), expected)
    assert source.splits["test"].locate(1) == "mnist test, image 1"


def test_folders_of_torchvision_in_data_dir_are_found(tmp_path: Path) -> None:
    write_idx(tmp_path / "MNIST" / "raw")
    write_idx(tmp_path / "FashionMNIST" / "raw", packed=True)
    assert len(mnist(data_dir=str(tmp_path), download=False).splits["train"]) == 6
    fashion = fashion_mnist(data_dir=str(tmp_path), download=False)
    assert (fashion.mean, fashion.std) == ((0.2860,), (0.3530,))
    assert fashion.classes[:2] == ("T-shirt/top", "Trouser")
    assert fashion.splits["test"].locate(0) == "fashion_mnist test, image 0"


def test_fashion_mnist_of_debian_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert mnist_module._FASHION_MNIST.elsewhere == (Path("/usr/share/datasets/fashion-mnist"),)
    write_idx(tmp_path / "debian", packed=True)
    monkeypatch.setattr(
        mnist_module, "_FASHION_MNIST", replace(mnist_module._FASHION_MNIST, elsewhere=(tmp_path / "debian",))
    )
    assert len(fashion_mnist(data_dir=str(tmp_path), download=False).splits["train"]) == 6


def test_missing_mnist_names_every_searched_folder_and_the_options(tmp_path: Path) -> None:
    write_idx(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    files = (
        "train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte "
        "(each plain or .gz)"
    )
    end = (
        "or name their folder with datamodule.path=FOLDER.\n"
        "Without internet access, use datamodule=digits: its images are part of scikit-learn."
    )
    with pytest.raises(UserError) as raised:
        mnist(path=str(tmp_path))
    assert str(raised.value) == (
        f"MNIST was not found: not all of its files are there.\nPut {files} into\n  {tmp_path}\n"
        f"  (or {tmp_path}/raw)\n  (or {tmp_path}/MNIST/raw)\n{end}"
    )
    with pytest.raises(UserError) as raised:
        mnist(data_dir=str(tmp_path), download=False)
    assert str(raised.value) == (
        f"MNIST was not found: datamodule.download=false.\nPut {files} into\n  {tmp_path}/MNIST/raw\n{end}"
    )


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("train-images-idx3-ubyte", idx_bytes(np.zeros((6, 28, 28), np.uint8))[:-1], "cannot reshape array"),
        ("train-images-idx3-ubyte", b"<html>404</html>", "its first bytes are not those of an idx file of bytes"),
        ("train-images-idx3-ubyte", b"", "its first bytes are not those of an idx file of bytes"),
        ("train-images-idx3-ubyte", idx_bytes(np.zeros(6, np.uint8)), "it has 1 axes"),
        ("train-images-idx3-ubyte.gz", gzip.compress(bytes(5000))[:-9], "Compressed file ended"),
        ("train-images-idx3-ubyte.gz", b"no gzip", "Not a gzipped file"),
        ("train-images-idx3-ubyte.gz", gzip.compress(bytes(50))[:10] + b"\xff" * 9, "Error -3"),
        ("train-images-idx3-ubyte", b"\0\0\x08", "index out of range"),
    ],
    ids=["short", "page", "empty", "axes", "cut", "plain", "bytes", "head"],
)
def test_a_damaged_file_is_named(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    write_idx(tmp_path)
    (tmp_path / "train-images-idx3-ubyte").unlink()
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as raised:
        mnist(path=str(tmp_path))
    assert str(raised.value).startswith(f"{tmp_path / name} is damaged ({reason}")
    assert str(raised.value).endswith("). Delete it, then run again or copy it there again.")


@pytest.mark.parametrize("labels", [np.zeros(5, np.uint8), np.full(6, 10, np.uint8)])
def test_labels_that_do_not_match_the_images_are_refused(tmp_path: Path, labels: np.ndarray) -> None:
    write_idx(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx_bytes(labels))
    with pytest.raises(UserError, match=rf"6 train images but {len(labels)} labels, or a label above 9"):
        mnist(path=str(tmp_path))


def test_array_images_have_a_fingerprint_and_can_be_pickled() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 3, 2, 1), dtype=np.uint8)
    images = ArrayImages(pixels, np.array([0, 1, 0, 1]), "these")
    assert images.fingerprint == ArrayImages(pixels.copy(), images.targets, "others").fingerprint
    changed = pixels.copy()
    changed[-1, -1, -1] ^= 1
    different = [
        ArrayImages(changed, images.targets, "these"),
        ArrayImages(pixels, images.targets[::-1], "these"),
        ArrayImages(pixels[::-1], images.targets, "these"),
        ArrayImages(pixels.reshape(4, 2, 3, 1), images.targets, "these"),
    ]
    assert len({other.fingerprint for other in (images, *different)}) == 5
    copy = pickle.loads(pickle.dumps(images))
    assert copy.fingerprint == images.fingerprint
    np.testing.assert_array_equal(copy.read(2), pixels[2])


class Python2Pickler(pickle._Pickler):
    """Writes pickles like Python 2: byte strings for text and for the content of arrays, old module names of NumPy."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)

    def save_string(self, value: str | bytes) -> None:
        content = value if isinstance(value, bytes) else value.encode("latin1")
        self.write(b"T" + struct.pack("<i", len(content)) + content)
        self.memoize(value)

    dispatch[str] = save_string
    dispatch[bytes] = save_string

    def save_global(self, obj: object, name: str | None = None) -> None:
        module = obj.__module__.replace("numpy._core", "numpy.core")
        self.write(f"c{module}\n{obj.__name__}\n".encode())
        self.memoize(obj)

    dispatch[type] = save_global
    dispatch[type(lambda: None)] = save_global
    dispatch[type(len)] = save_global


def python2_pickle(value: object) -> bytes:
    file = io.BytesIO()
    Python2Pickler(file, protocol=2).dump(value)
    return file.getvalue()


def write_cifar(folder: Path, python2: bool) -> dict[str, tuple[np.ndarray, list[int]]]:
    """Write batches of three images and return their pixels (N, 32, 32, 3) and labels."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    written = {}
    for name in ("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch"):
        pixels = rng.integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
        labels = rng.integers(0, 10, 3).tolist()
        planes = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)).reshape(3, 3072)
        batch = {"batch_label": name, "labels": labels, "data": planes, "filenames": ["a.png"] * 3}
        (folder / name).write_bytes(python2_pickle(batch) if python2 else pickle.dumps(batch))
        written[name] = (pixels, labels)
    return written


@pytest.mark.parametrize("python2", [True, False])
@pytest.mark.parametrize("below", ["", "cifar-10-batches-py"])
def test_cifar10_is_read_from_pickles(tmp_path: Path, python2: bool, below: str) -> None:
    written = write_cifar(tmp_path / below, python2)
    for source in (cifar10(path=str(tmp_path)), cifar10(data_dir=str(tmp_path), download=False)):
        assert (source.name, source.channels, source.size) == ("cifar10", 3, (32, 32))
        assert source.classes[:3] == ("airplane", "automobile", "bird")
        assert (source.mean, source.std) == ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
        train, test = source.splits["train"], source.splits["test"]
        assert (len(train), len(test)) == (15, 3)
        for images, names in ((train, [f"data_batch_{n}" for n in range(1, 6)]), (test, ["test_batch"])):
            assert images.targets.tolist() == [label for name in names for label in written[name][1]]
            expected = np.concatenate([written[name][0] for name in names])
            np.testing.assert_array_equal([images.read(index) for index in range(len(images))], expected)


def test_python2_pickles_made_here_equal_real_ones() -> None:
    content = python2_pickle({"data": np.zeros((1, 3), np.uint8)})
    assert b"cnumpy.core.multiarray\n_reconstruct\n" in content
    assert b"T\x04\x00\x00\x00data" in content
    assert b"_codecs" not in content


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return os.system, (f"touch {tmp_path}/ran",)

    write_cifar(tmp_path, python2=False)
    (tmp_path / "data_batch_1").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(UserError) as raised:
        cifar10(path=str(tmp_path))
    assert str(raised.value) == (
        f"{tmp_path}/data_batch_1 is damaged (it names posix.system, which CIFAR-10 files never do). "
        "Delete it, then run again or copy it there again."
    )
    assert not (tmp_path / "ran").exists()


def test_a_pickle_gets_no_object_of_numpy(tmp_path: Path) -> None:
    """NumPy's own types accept a state that turns bytes into the addresses of objects."""
    batch = {"data": np.zeros((3, 3072), np.uint8), "labels": [0, 1, 2]}
    loaded = cifar10_module._BatchUnpickler(io.BytesIO(pickle.dumps(batch)), encoding="latin1").load()
    assert not isinstance(loaded["data"], np.ndarray)
    assert np.array_equal(np.asarray(loaded["data"]).reshape(3, 3072), batch["data"])
    write_cifar(tmp_path, python2=False)
    odd = (np.array([["x"] * 3072], object), np.asfortranarray(np.zeros((3, 3072), np.uint8)), np.zeros((3, 3072)))
    for data in odd:
        (tmp_path / "test_batch").write_bytes(pickle.dumps({**batch, "data": data}))
        with pytest.raises(UserError, match=r"/test_batch is damaged"):
            cifar10(path=str(tmp_path))


@pytest.mark.parametrize(
    "content",
    [b"", b"no pickle", pickle.dumps([1]), pickle.dumps({"data": np.zeros((2, 3072), np.uint8), "labels": [1]})],
)
def test_a_damaged_batch_is_named(tmp_path: Path, content: bytes) -> None:
    write_cifar(tmp_path, python2=False)
    (tmp_path / "test_batch").write_bytes(content)
    with pytest.raises(UserError, match=r"/test_batch is damaged \(.+\)\. Delete it"):
        cifar10(path=str(tmp_path))


def test_the_archive_is_unpacked_only_if_its_checksum_matches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cifar(tmp_path / "made" / "cifar-10-batches-py", python2=True)
    archive = tmp_path / "data" / "cifar-10-python.tar.gz"
    archive.parent.mkdir()
    with tarfile.open(archive, "w:gz") as members:
        members.add(tmp_path / "made" / "cifar-10-batches-py", "cifar-10-batches-py")
    with pytest.raises(UserError) as raised:
        cifar10(path=str(archive.parent))
    assert str(raised.value) == (
        f"{archive} is damaged: its md5 is not c58f30108f718f92721af3b95e74349a. Delete it, then run again."
    )
    digest = subprocess.run(["md5sum", archive], capture_output=True, text=True, check=True).stdout.split()[0]
    monkeypatch.setattr(cifar10_module, "_ARCHIVE_MD5", digest)
    assert len(cifar10(path=str(archive.parent)).splits["train"]) == 15
    archive.unlink()
    assert len(cifar10(path=str(archive.parent)).splits["train"]) == 15


def test_only_expected_files_are_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cifar(tmp_path / "made" / "cifar-10-batches-py", python2=True)
    archive = tmp_path / "data" / "cifar-10-python.tar.gz"
    archive.parent.mkdir()
    victim = tmp_path / "victim"
    victim.write_text("old")
    (tmp_path / "new").write_text("new")
    with tarfile.open(archive, "w:gz") as members:
        members.add(tmp_path / "made" / "cifar-10-batches-py", "cifar-10-batches-py")
        for name in ("../victim", str(victim), "extra", "cifar-10-batches-py/extra"):
            members.add(tmp_path / "new", name)
    digest = subprocess.run(["md5sum", archive], capture_output=True, text=True, check=True).stdout.split()[0]
    monkeypatch.setattr(cifar10_module, "_ARCHIVE_MD5", digest)
    assert len(cifar10(path=str(archive.parent)).splits["train"]) == 15
    assert victim.read_text() == "old"
    assert list(tmp_path.rglob("extra")) == []


def test_cifar10_is_downloaded_into_data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cifar(tmp_path / "cifar-10-batches-py", python2=True)
    with tarfile.open(tmp_path / "cifar-10-python.tar.gz", "w:gz") as members:
        members.add(tmp_path / "cifar-10-batches-py", "cifar-10-batches-py")
    digest = subprocess.run(["md5sum", tmp_path / "cifar-10-python.tar.gz"], capture_output=True, text=True, check=True)
    monkeypatch.setattr(cifar10_module, "_ARCHIVE_MD5", digest.stdout.split()[0])
    monkeypatch.setattr(cifar10_module, "_MIRRORS", (f"{tmp_path.as_uri()}/",))
    assert len(cifar10(data_dir=str(tmp_path / "new")).splits["test"]) == 3
    assert len(list((tmp_path / "new" / "cifar-10-batches-py").iterdir())) == 6


def test_missing_cifar10_names_every_searched_folder_and_the_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cifar10_module, "_MIRRORS", ("http://127.0.0.1:1/",))
    with pytest.raises(UserError) as raised:
        cifar10(data_dir=str(tmp_path))
    assert str(raised.value) == (
        "CIFAR-10 was not found: it could not be downloaded.\n"
        "  http://127.0.0.1:1/cifar-10-python.tar.gz: <urlopen error [Errno 111] Connection refused>\n"
        "Put the folder cifar-10-batches-py, or cifar-10-python.tar.gz, or the image folders cifar10/train/<class>/ "
        f"and cifar10/test/<class>/, into\n  {tmp_path}\n"
        "or name their folder with datamodule.path=FOLDER.\n"
        "Without internet access, use datamodule=digits: its images are part of scikit-learn."
    )


def test_cifar10_as_an_image_folder_keeps_the_order_of_its_classes(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for shade, name in enumerate(cifar10_module.CLASSES):
            (tmp_path / "cifar10" / split / name).mkdir(parents=True)
            Image.new("RGB", (32, 32), (shade,) * 3).save(tmp_path / "cifar10" / split / name / "0.png")
    source = cifar10(data_dir=str(tmp_path), download=False)
    assert source.classes == cifar10_module.CLASSES
    for images in source.splits.values():
        assert images.targets.tolist() == list(range(10))
        assert [int(images.read(index)[0, 0, 0]) for index in range(10)] == list(range(10))
    for split, name in (("train", "robin"), ("train", "wren"), ("test", "robin")):  # another dataset in data_dir
        (tmp_path / split / name).mkdir(parents=True)
    assert len(cifar10(data_dir=str(tmp_path), download=False).splits["train"]) == 10
    assert len(cifar10(path=str(tmp_path / "cifar10")).splits["train"]) == 10
    (tmp_path / "cifar10" / "test" / "truck").rename(tmp_path / "cifar10" / "test" / "lorry")
    with pytest.raises(UserError, match=r"'truck' is missing\.\n  'lorry' is not one of them\."):
        cifar10(data_dir=str(tmp_path), download=False)
    (tmp_path / "cifar10").rename(tmp_path / "away")
    with pytest.raises(UserError, match=r"not found: datamodule\.download=false\.\nPut .* cifar10/train/<class>/"):
        cifar10(data_dir=str(tmp_path), download=False)


def test_cifar10_facts_equal_torchvisions() -> None:
    known = pytest.importorskip("torchvision").datasets.CIFAR10
    assert known.url == cifar10_module._MIRRORS[0] + cifar10_module._ARCHIVE
    assert (known.base_folder, known.tgz_md5) == (cifar10_module._FOLDER, cifar10_module._ARCHIVE_MD5)
    assert [name for name, _ in known.train_list] == list(cifar10_module._BATCHES["train"])


@pytest.mark.slow
def test_sources_import_large_libraries_only_when_called() -> None:
    # `opsin.data` imports torch; libraries that only some sources need are imported when those are called.
    program = (
        "import sys, opsin.data.datasets as s; s.mnist; "
        "print(*sorted({'datasets', 'sklearn', 'huggingface_hub', 'pyarrow'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


@pytest.mark.realdata
def test_real_mnist(real_data: Path) -> None:
    source = mnist(data_dir=str(real_data), download=False)
    assert {split: len(images) for split, images in source.splits.items()} == {"train": 60000, "test": 10000}
    train = source.splits["train"]
    assert train.targets[:5].tolist() == [5, 0, 4, 1, 9]
    assert isinstance(train, ArrayImages)
    assert train.pixels.mean() / 255 == pytest.approx(0.1307, abs=5e-5)
    assert train.pixels.std() / 255 == pytest.approx(0.3081, abs=5e-5)


@pytest.mark.realdata
def test_real_cifar10_as_jpeg(real_data: Path) -> None:
    source = cifar10(path=str(real_data / "cifar10_jpeg"))
    assert {split: len(images) for split, images in source.splits.items()} == {"train": 50000, "test": 10000}
    assert np.bincount(source.splits["test"].targets).tolist() == [1000] * 10
    assert source.splits["train"].read(49999).shape == (32, 32, 3)
    assert "/train/truck/" in source.splits["train"].locate(49999)


@pytest.mark.realdata
def test_real_fashion_mnist_of_debian() -> None:
    if not Path("/usr/share/datasets/fashion-mnist").is_dir():
        pytest.skip("Debian's package dataset-fashion-mnist is not installed")
    source = fashion_mnist(data_dir="/nowhere", download=False)
    train = source.splits["train"]
    assert (len(train), len(source.splits["test"])) == (60000, 10000)
    assert isinstance(train, ArrayImages)
    assert (train.pixels.mean() / 255, train.pixels.std() / 255) == pytest.approx((0.2860, 0.3530), abs=5e-5)
