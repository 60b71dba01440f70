import errno
import json
import multiprocessing
import os
import shutil
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from opsin.data.cache import checksums
from opsin.data.cache.files import gather
from opsin.data.cache.image_store import decode_rows, open_store, store_key
from opsin.data.cache.uncached_images import UncachedStore
from opsin.data.fit import Fit, fit_image
from opsin.data.source import ArrayImages
from opsin.data.types import BadImage
from opsin.errors import UserError


@dataclass
class FakeImages:
    """Images of varying size, made from their number; some are bad. Every read appends to `log`."""

    count: int = 100
    bad: frozenset[int] = frozenset()
    log: Path | None = None
    delay: float = 0.0
    fingerprint: str = "fake"
    channels: int = 3
    targets: np.ndarray = field(init=False)

    def __post_init__(self):
        self.targets = np.arange(self.count) % 3

    def __len__(self):
        return self.count

    def read(self, index, fit=None):
        if self.log is not None:
            with self.log.open("a") as file:
                file.write("x")
        time.sleep(self.delay)
        if index in self.bad:
            raise BadImage("it is, on purpose")
        image = np.random.default_rng(index).integers(0, 256, (8 + index % 5, 9 + index % 7, 3), dtype=np.uint8)
        return fit_image(image, *fit) if fit else image

    def locate(self, index):
        return f"folder/{index}.jpg"


SIZE = (6, 7)
# Fork where possible, because a spawned process has to import torch and Lightning.
CONTEXT = multiprocessing.get_context("fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn")
FORKS = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


def open_fake(images, cache, **options):
    return open_store(images, SIZE, cache_dir=cache, **options)


def test_a_store_holds_every_image_at_the_image_size(tmp_path):
    images = FakeImages()
    store = open_fake(images, tmp_path)
    expected = np.stack([fit_image(images.read(index), SIZE) for index in range(100)])
    assert store.pixels.shape == (100, 6, 7, 3)
    assert np.array_equal(store.pixels, expected)
    assert np.array_equal(store.targets, images.targets)
    assert np.array_equal(store.kept, np.arange(100))
    assert store.bad == []
    index = np.array([7, 99, 7, 0])
    taken = store.take(index)
    assert np.array_equal(taken, expected[index])
    assert taken.flags.writeable
    assert taken.flags.owndata


@pytest.mark.parametrize("resize", ["crop", "letterbox"])
def test_resize_and_interpolation_are_applied(tmp_path, resize):
    images = FakeImages(3)
    store = open_store(images, SIZE, resize, "bicubic", cache_dir=tmp_path)
    assert np.array_equal(store.pixels[2], fit_image(images.read(2), SIZE, resize, "bicubic"))


def test_pixels_do_not_depend_on_workers(tmp_path):
    files = []
    for workers in (1, 2, 7):
        store = open_fake(FakeImages(bad=frozenset({3, 40})), tmp_path / str(workers), workers=workers)
        files.append(
            [(store.report.parent / name).read_bytes() for name in ("pixels.npy", "kept.npy", "bad_images.csv")]
        )
    assert files[0] == files[1] == files[2]


def test_few_images_are_decoded_by_all_threads_at_once(tmp_path):
    images, together = FakeImages(8), threading.Barrier(4, timeout=20)
    read = images.read
    images.read = lambda index, fit: (together.wait(), read(index, fit))[1]
    assert len(open_fake(images, tmp_path, workers=4)) == 8


def test_a_store_is_built_once(tmp_path):
    log = tmp_path / "log"
    for _ in range(3):
        store = open_fake(FakeImages(log=log), tmp_path / "stores")
    assert len(log.read_text()) == len(store) == 100


def test_the_key_of_a_store_includes_everything_that_changes_pixels():
    keys = {
        store_key(images, size, resize, interpolation)
        for images in (FakeImages(), FakeImages(fingerprint="other"))
        for size in ((6, 7), (7, 6))
        for resize in ("squash", "crop")
        for interpolation in ("bilinear", "nearest")
    }
    assert len(keys) == 16
    assert store_key(FakeImages(), SIZE, "squash", "bilinear") == store_key(FakeImages(5), SIZE, "squash", "bilinear")


def test_a_new_format_version_builds_the_store_again(tmp_path, monkeypatch):
    old = open_fake(FakeImages(), tmp_path).fingerprint
    monkeypatch.setattr("opsin.data.cache.image_store.DECODING_VERSION", 10_000)
    assert open_fake(FakeImages(), tmp_path).fingerprint != old


def test_arrays_of_the_image_size_are_read_from_memory(tmp_path):
    pixels = np.zeros((5, *SIZE, 1), np.uint8)
    store = open_fake(ArrayImages(pixels, np.arange(5), "test"), tmp_path)
    assert store.pixels is pixels
    assert store.report is None
    assert not list(tmp_path.iterdir())
    assert store.locate(3) == "test, image 3"
    store = open_fake(ArrayImages(np.zeros((5, 3, 3, 1), np.uint8), np.arange(5), "test"), tmp_path)
    assert store.pixels.shape == (5, *SIZE, 1)


def test_bad_images_are_skipped_and_reported(tmp_path):
    bad = frozenset({0, 31, 32, 64, 99})
    images = FakeImages(bad=bad)
    store = open_fake(images, tmp_path)
    assert store.kept.tolist() == [index for index in range(100) if index not in bad]
    assert len(store) == len(store.pixels) == 95
    assert np.array_equal(store.targets, store.kept % 3)
    for position in (0, 30, 94):
        assert np.array_equal(store.pixels[position], fit_image(images.read(store.kept[position]), SIZE))
    assert store.locate(0) == "folder/1.jpg"
    assert store.bad == [(f"folder/{index}.jpg", "it is, on purpose") for index in sorted(bad)]
    assert store.report.read_text().splitlines()[:2] == ["index,location,reason", '0,folder/0.jpg,"it is, on purpose"']
    meta = json.loads((store.report.parent / "meta.json").read_text())
    assert (meta["count"], meta["bad"], meta["size"]) == (95, 5, [6, 7])


def test_bad_images_are_refused_with_one_message(tmp_path):
    log = tmp_path / "log"
    images = FakeImages(bad=frozenset(range(0, 60, 5)), log=log)
    with pytest.raises(UserError) as caught:
        open_fake(images, tmp_path, on_bad_image="raise")
    message = str(caught.value)
    assert message.startswith("12 of 100 images cannot be decoded")
    assert message.count("folder/") == 10
    assert "and 2 more" in message
    assert "on_bad_image=skip" in message
    report = next(tmp_path.glob("*/bad_images.csv"))
    assert str(report) in message
    assert len(report.read_text().splitlines()) == 13
    assert len(open_fake(images, tmp_path, on_bad_image="skip")) == 88
    assert len(log.read_text()) == 100  # images decoded in the search for bad ones are not decoded again


def test_a_store_without_good_images_is_an_error(tmp_path):
    with pytest.raises(UserError, match="3 of 3 images cannot be decoded"):
        open_fake(FakeImages(3, bad=frozenset({0, 1, 2})), tmp_path)
    assert len(open_fake(FakeImages(3), tmp_path)) == 3  # the failed store was deleted
    with pytest.raises(UserError, match="the dataset has no images"):
        open_fake(FakeImages(0, fingerprint="none"), tmp_path)


def test_another_error_while_decoding_leaves_no_files(tmp_path):
    images = FakeImages()
    images.read = lambda index, fit: 1 // 0
    with pytest.raises(ZeroDivisionError):
        open_fake(images, tmp_path)
    assert [path.suffix for path in tmp_path.iterdir() if path.is_dir()] == []


@pytest.mark.parametrize("damage", ["truncate", "meta", "missing"])
def test_a_damaged_store_is_built_again(tmp_path, damage):
    folder = open_fake(FakeImages(), tmp_path).report.parent
    if damage == "truncate":
        os.truncate(folder / "pixels.npy", 1000)
    elif damage == "meta":
        (folder / "meta.json").write_text("{")
    else:
        (folder / "targets.npy").unlink()
    assert len(open_fake(FakeImages(), tmp_path)) == 100
    assert np.load(folder / "pixels.npy").shape == (100, 6, 7, 3)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("pixels.npy", lambda content: content[:-50] + bytes(50)),
        ("pixels.npy", lambda content: content[:200] + bytes([content[200] ^ 4]) + content[201:]),
        ("targets.npy", lambda content: b""),
        ("targets.npy", lambda content: content[:-8] + content[-16:-8]),
        ("kept.npy", lambda content: content[:-1] + b"\1"),
        ("bad_images.csv", lambda content: content.replace(b"3", b"4")),
        ("meta.json", lambda content: b"[]"),
        ("meta.json", lambda content: b"null"),
        ("meta.json", lambda content: b"{}"),
        ("meta.json", lambda content: content.replace(b'"digests"', b'"others!"')),
    ],
)
def test_a_store_with_damaged_bytes_is_built_again_and_named(tmp_path, caplog, name, damage):
    images = FakeImages(bad=frozenset([3]))
    cache = tmp_path / "stores"
    store = open_fake(images, cache)
    pixels, folder = store.take(np.arange(99)), store.report.parent
    file = folder / name
    file.write_bytes(damage(file.read_bytes()))
    again = open_fake(images, cache)
    assert np.array_equal(again.take(np.arange(99)), pixels)
    assert np.array_equal(again.targets, images.targets[again.kept])
    assert [record.getMessage() for record in caplog.records] == [
        f"the decoded images in {folder} are damaged: decoding them again"
    ]


def test_an_unchanged_store_is_checked_once(tmp_path, monkeypatch):
    monkeypatch.setattr("opsin.data.file_contents._SETTLED_NS", 0)
    checked, digest = [], checksums._digest
    monkeypatch.setattr(checksums, "_digest", lambda file: checked.append(file.name) or digest(file))
    cache = tmp_path / "stores"
    file = open_fake(FakeImages(), cache).report.with_name("pixels.npy")
    checked.clear()
    for _ in range(3):
        open_fake(FakeImages(), cache)
    assert sorted(checked) == ["bad_images.csv", "kept.npy", "pixels.npy", "targets.npy"]
    checked.clear()
    content, times = file.read_bytes(), file.stat()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))  # the size and the time of modification are the same
    assert np.array_equal(open_fake(FakeImages(), cache).pixels, np.load(file))
    assert "pixels.npy" in checked
    assert file.read_bytes() == content


def open_in_a_process(cache, log, start):
    start.wait()
    assert len(open_fake(FakeImages(log=log, delay=0.002), cache)) == 100


@FORKS
def test_processes_that_start_together_build_once(tmp_path):
    start = CONTEXT.Barrier(2)
    options = {"target": open_in_a_process, "args": (tmp_path / "stores", tmp_path / "log", start)}
    processes = [CONTEXT.Process(**options) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert len((tmp_path / "log").read_text()) == 100
    assert len([path for path in (tmp_path / "stores").iterdir() if path.is_dir()]) == 1


@FORKS
def test_files_of_a_killed_build_are_not_used(tmp_path):
    log, cache = tmp_path / "log", tmp_path / "stores"
    process = CONTEXT.Process(target=open_fake, args=(FakeImages(log=log, delay=0.05), cache))
    process.start()
    deadline = time.monotonic() + 60
    while not (log.exists() and len(log.read_text()) > 40):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.join(60)
    (unfinished,) = [path for path in cache.iterdir() if path.is_dir()]
    assert unfinished.suffix == ".building"
    shutil.copytree(unfinished, other := cache / "ff.building")
    assert len(open_fake(FakeImages(), cache)) == 100
    assert not unfinished.exists()
    assert not other.exists()


def test_too_little_disk_space_is_reported_before_writing(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(2**30, 2**30, 1000))
    with pytest.raises(UserError, match=r"need 0 MB.*stores has 0 MB free.*data_dir.*image_size"):
        open_fake(FakeImages(), tmp_path / "stores")
    assert not [path for path in (tmp_path / "stores").iterdir() if path.is_dir()]


@pytest.mark.parametrize(("number", "way_out"), [(errno.ENOSPC, "free some space"), (errno.EROFS, "you may write to")])
def test_a_failed_write_names_the_folder_and_the_reason(tmp_path, monkeypatch, number, way_out):
    def refuse(descriptor):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(UserError) as caught:
        open_fake(FakeImages(), tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert way_out in str(caught.value)
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_a_cache_path_inside_a_file_is_named(tmp_path):
    (tmp_path / "data").write_text("")
    with pytest.raises(UserError, match=r"data/stores.*data_dir"):
        open_fake(FakeImages(), tmp_path / "data" / "stores")


def test_transposed_arrays_are_copied_to_contiguous_images(tmp_path):
    planes = np.random.default_rng(0).integers(0, 256, (20, 3, *SIZE), dtype=np.uint8)  # the layout of CIFAR-10
    images = ArrayImages(planes.transpose(0, 2, 3, 1), np.arange(20) % 3, "planes")
    store = open_store(images, SIZE, cache_dir=tmp_path)
    assert store.pixels.flags.c_contiguous
    assert np.array_equal(store.take(np.array([3, 1])), images.pixels[[3, 1]])


def planes(image):
    return np.ascontiguousarray(image.transpose(2, 0, 1)).transpose(1, 2, 0)


def reversed_memory(image):
    return np.ascontiguousarray(image[::-1, :, ::-1])[::-1, :, ::-1]


@pytest.mark.parametrize("layout", [np.asfortranarray, planes, reversed_memory])
def test_images_may_have_any_order_in_memory(tmp_path, layout):
    class Laid(FakeImages):
        def read(self, index, fit=None):
            return layout(super().read(index, fit))

    expected = np.stack([FakeImages().read(index, Fit(SIZE)) for index in range(12)])
    store = open_store(Laid(12), SIZE, cache_dir=tmp_path)
    assert np.array_equal(store.take(np.arange(12)), expected)
    decoded = decode_rows(store, np.arange(12), Fit(SIZE))
    assert np.array_equal(decoded, expected)
    assert decoded.flags.c_contiguous


def test_no_rows_are_an_empty_array(tmp_path):
    store, uncached = open_fake(FakeImages(4), tmp_path), UncachedStore(FakeImages(4), SIZE, "squash", "bilinear")
    none = np.zeros(0, np.int64)
    assert [rows.shape for rows in (store.take(none), uncached.take(none))] == [(0, *SIZE, 3)] * 2
    assert decode_rows(store, none, Fit((3, 4))).shape == (0, 3, 4, 3)
    assert np.array_equal(gather([uncached, store], np.array([5])), store.take(np.array([1])))


def test_an_existing_store_is_opened_without_writing(tmp_path, monkeypatch):
    open_fake(FakeImages(), tmp_path)
    monkeypatch.setattr("opsin.data.cache.image_store.build", None)
    assert len(open_fake(FakeImages(), tmp_path)) == 100


@pytest.mark.skipif(
    not Path("/proc/self/statm").exists(), reason="reads the resident memory, which only Linux shows here"
)
def test_reading_a_large_store_does_not_increase_resident_memory(tmp_path, monkeypatch):
    def resident_bytes():
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    monkeypatch.setattr("opsin.data.cache.files._MAPPED_AT_MOST", 2**20)
    store = open_store(FakeImages(300), (256, 256), cache_dir=tmp_path)
    index = np.random.default_rng(0).permutation(300).reshape(30, 10)
    store.take(index[0])
    before = resident_bytes()
    taken = [store.take(rows)[:, 7, 9].copy() for rows in index]
    assert resident_bytes() - before < 20 * 2**20
    assert np.array_equal(np.concatenate(taken), store.pixels[index.ravel(), 7, 9])  # 59 MB, mapped
    assert store.take(index[0]).flags.writeable


def test_a_store_truncated_while_in_use_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr("opsin.data.cache.files._MAPPED_AT_MOST", 0)
    store = open_fake(FakeImages(), tmp_path)
    os.truncate(store.report.parent / "pixels.npy", 1000)
    with pytest.raises(OSError, match="changed while"):
        store.take(np.array([99]))
