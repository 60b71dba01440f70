"""Datasets with equal contents are equal, and unchanged files are read once."""

import os
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from inodes import report_no_inodes
from PIL import Image

from opsin.data import file_contents
from opsin.data.cache.image_store import open_store, use_digest_cache
from opsin.data.datasets import image_folder
from opsin.data.file_contents import FileContents
from opsin.data.source import FileImages


@pytest.fixture(autouse=True)
def _fresh_files_count_as_settled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_contents, "_SETTLED_NS", 0)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are read, decoded or hashed."""
    names: list[str] = []
    lock = threading.Lock()
    original = file_contents.read_content

    def counted(path: Path) -> bytes | Path:
        with lock:
            names.append(path.name)
        return original(path)

    monkeypatch.setattr("opsin.data.source.read_content", counted)
    monkeypatch.setattr(file_contents, "read_content", counted)
    return names


def photos(root: Path, count: int = 6) -> Path:
    for number in range(count):
        file = root / "ab"[number % 2] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (number, 0, 0)).save(file)
    return root


def train_of(root: Path) -> FileImages:
    images = image_folder(str(root)).splits["train"]
    assert isinstance(images, FileImages)
    return images


def test_a_first_start_reads_each_file_once_and_a_second_one_none(tmp_path: Path, reads: list[str]) -> None:
    root, stores = photos(tmp_path / "photos"), tmp_path / "data" / "stores"
    (root / "a" / "dangling.png").symlink_to(root / "nowhere")
    (root / "b" / "text.png").write_text("no image")
    first = open_store(train_of(root), (8, 8), cache_dir=stores)
    assert sorted(set(reads)) == sorted(reads) == sorted([*(f"{n}.png" for n in range(6)), "dangling.png", "text.png"])
    reads.clear()
    second = open_store(train_of(root), (8, 8), cache_dir=stores)
    assert reads == []
    assert second.fingerprint == first.fingerprint
    assert [folder.name for folder in stores.iterdir() if folder.is_dir()] == [first.fingerprint]
    assert np.array_equal(second.take(np.arange(6)), first.take(np.arange(6)))


@pytest.mark.parametrize("move", [False, True])
def test_a_copied_or_moved_dataset_uses_the_same_store(tmp_path: Path, reads: list[str], move: bool) -> None:
    root, stores = photos(tmp_path / "photos"), tmp_path / "data" / "stores"
    first = open_store(train_of(root), (8, 8), cache_dir=stores)
    reads.clear()
    other = tmp_path / "disk" / "elsewhere"
    other.parent.mkdir()
    shutil.move(root, other) if move else shutil.copytree(root, other, copy_function=shutil.copyfile)
    found = open_store(train_of(other), (8, 8), cache_dir=stores)
    assert found.fingerprint == first.fingerprint
    assert found.locate(0) == str(other / "a" / "0.png")
    assert len(reads) == (0 if move else 6)  # hashed, not decoded
    assert len(list(stores.glob("*/meta.json"))) == 1


def test_a_changed_image_is_another_dataset_even_with_the_old_size_and_time(tmp_path: Path) -> None:
    root, stores = photos(tmp_path / "photos"), tmp_path / "data" / "stores"
    first = open_store(train_of(root), (8, 8), cache_dir=stores)
    file = root / "b" / "1.png"
    state, content = file.stat(), bytearray(file.read_bytes())
    content[-1] ^= 1  # behind the pixels
    file.write_bytes(content)
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert file.stat().st_size == state.st_size
    assert open_store(train_of(root), (8, 8), cache_dir=stores).fingerprint != first.fingerprint


def test_without_inodes_files_have_their_own_digests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, cache = photos(tmp_path / "photos"), tmp_path / "digests.bin"
    (root / "a" / "dangling.png").symlink_to(root / "nowhere")
    expected = train_of(root).contents.digests().tolist()
    report_no_inodes(monkeypatch)
    for _ in range(2):
        images = train_of(root)
        images.contents.use_cache(cache)
        assert images.contents.digests().tolist() == expected
    assert len({tuple(digest) for digest in expected}) == 7


def test_fresh_digests_are_used_but_not_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_contents, "_SETTLED_NS", 10**12)
    root, cache = photos(tmp_path / "photos"), tmp_path / "digests.bin"
    images = train_of(root)
    images.contents.use_cache(cache)
    assert images.fingerprint
    again = train_of(root)
    again.contents.use_cache(cache)
    assert not again.contents.known


def test_the_digest_cache_keeps_other_files_and_survives_damage(tmp_path: Path) -> None:
    cache = tmp_path / "digests.bin"
    for name in ("one", "two", "one"):
        images = train_of(photos(tmp_path / name))
        images.contents.use_cache(cache)
        assert images.fingerprint
    for name in ("one", "two"):
        images = train_of(tmp_path / name)
        images.contents.use_cache(cache)
        assert images.contents.known
    cache.write_bytes(cache.read_bytes()[:100])
    damaged = train_of(tmp_path / "one")
    damaged.contents.use_cache(cache)
    assert not damaged.contents.known
    assert damaged.fingerprint == images.fingerprint


def test_two_processes_at_once_build_one_store(tmp_path: Path, reads: list[str]) -> None:
    root, stores = photos(tmp_path / "photos", 40), tmp_path / "data" / "stores"
    found: list[str] = []
    threads = [
        threading.Thread(target=lambda: found.append(open_store(train_of(root), (8, 8), cache_dir=stores).fingerprint))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3
    assert len(set(found)) == 1
    assert len(list(stores.glob("*/meta.json"))) == 1
    assert len(reads) == 40


def test_a_large_file_that_is_no_image_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("opsin.data.decode._LARGE", 10_000)
    film, picture = tmp_path / "film", tmp_path / "large.ppm"
    film.write_bytes(b"\0")
    os.truncate(film, 6 * 10**9)
    Image.fromarray(np.zeros((100, 100, 3), np.uint8)).save(picture)
    before = FileContents([str(film), str(picture)]).digests().copy()
    with film.open("r+b") as file:  # the content of a video is not hashed
        file.seek(10**9)
        file.write(b"x")
    with picture.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"x")
    after = FileContents([str(film), str(picture)]).digests()
    assert (before == after).all(axis=1).tolist() == [True, False]


@pytest.mark.parametrize("start", [b"\x93NUMPY\1\0", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"])
def test_a_large_array_or_tiff_that_pillow_does_not_open_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: bytes
) -> None:
    monkeypatch.setattr("opsin.data.decode._LARGE", 100)
    digests = []
    for value in (b"a", b"b"):
        (tmp_path / "bands").write_bytes(start + value * 200)
        digests.append(FileContents([str(tmp_path / "bands")]).digests().tobytes())
    assert digests[0] != digests[1]


def test_arrays_have_no_digest_cache(tmp_path: Path) -> None:
    from opsin.data.source import ArrayImages

    use_digest_cache(ArrayImages(np.zeros((2, 4, 4, 1), np.uint8), np.zeros(2, np.int64), "zeros"), tmp_path / "stores")
    assert list(tmp_path.iterdir()) == []
