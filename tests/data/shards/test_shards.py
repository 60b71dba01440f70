"""Shards in a local folder, compared with the store of the same images."""

import errno
import gc
import json
import os
import pickle
import shutil
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from datamodules import image_data
from PIL import Image
from sharded import SIZE, index, source, streamed, written

from opsin.data.datasets import image_folder, shards
from opsin.data.fit import Fit
from opsin.data.shard_writer import ShardOptions
from opsin.data.shards.shard_cache import ShardCache
from opsin.errors import UserError

litdata = pytest.importorskip("litdata")
SPLITS = ("train", "val", "test")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    return written(folder / "out", source(), folder / "cache", split_seed=3)


@pytest.fixture
def copied(folder, tmp_path):
    return Path(shutil.copytree(folder, tmp_path / "copied"))


def stored(tmp_path, **options):
    return image_data(source(), data_dir=str(tmp_path), split_seed=3, **options)


def batches(data, split):
    return list(getattr(data, f"{split}_dataloader")())


def assert_same(one, other, training=True):
    assert len(one) == len(other) > 0
    for left, right in zip(one, other, strict=True):
        assert torch.equal(left.images, right.images)
        assert left.images.stride() == right.images.stride()
        assert torch.equal(left.targets, right.targets)
        assert torch.equal(left.positions, right.positions)
        assert left.key == right.key or not training


def test_a_window_over_all_shards_gives_the_batches_of_the_store(folder, tmp_path):
    store, stream = stored(tmp_path, batch_size=16), streamed(folder, tmp_path, window=100, batch_size=16)
    for split in SPLITS:
        assert_same(batches(store, split), batches(stream, split), training=split == "train")
    assert_same(batches(store, "train"), batches(stream, "train"))  # the second epoch


def test_facts_and_fingerprints_equal_those_of_the_store(folder, tmp_path):
    store, stream = stored(tmp_path), streamed(folder, tmp_path)
    for data in (store, stream):
        data.setup()
    digests = {"fingerprint": "", "dataset": ""}  # of shards: the digests of their files
    assert {**stream.facts(), **digests} == {**store.facts(), **digests}
    for split in SPLITS:
        assert stream.subset(split).identity == store.subset(split).identity
        some = np.array([1, 4, 9])
        assert stream.subset(split).choose(some, "given").identity == store.subset(split).choose(some, "given").identity
    assert "train/chunk-0-" in stream.subset("train").locate(3)


@pytest.mark.parametrize("stated", [{"mean": (0.5,), "std": (0.25,)}, {"mean": (0.5,)}, {"std": (0.25, 0.2, 0.3)}])
def test_one_mean_for_all_channels_is_written_for_each(tmp_path, stated):
    images = replace(source(40), **stated)
    folder = written(tmp_path / "out", images, tmp_path / "cache", split_seed=3)
    stream, store = streamed(folder, tmp_path), image_data(images, data_dir=str(tmp_path), split_seed=3)
    for name in ("mean", "std"):
        assert getattr(stream.preprocess, name) == getattr(store.preprocess, name)
        assert len(index(folder)[name]) == 3


def test_reading_shard_by_shard_gives_every_image_once(folder, tmp_path):
    data = streamed(folder, tmp_path, batch_size=16)
    assert len(index(folder)["splits"]["train"]["shards"]) > 10
    reference = stored(tmp_path).subset("train")
    orders, loader = [], data.train_dataloader()
    for _ in range(2):
        batches_read = list(loader)
        order = torch.cat([batch.positions for batch in batches_read])
        images = torch.cat([batch.images for batch in batches_read]).permute(0, 2, 3, 1).numpy()
        assert np.array_equal(images, reference.read(order.numpy()))
        assert len(set(order.tolist())) == len(order) == len(reference)
        orders.append(order.tolist())
    assert orders[0] != orders[1]


def test_processes_divide_the_training_shards(folder, tmp_path):
    def of_process(rank):
        data = streamed(folder, tmp_path, batch_size=16)
        limits = {"limit_train_batches": 1.0, "limit_val_batches": 1.0}
        data.trainer = type("T", (), {"global_rank": rank, "world_size": 2, "training": False, **limits})()
        data.trainer.strategy = type("S", (), {"root_device": torch.device("cpu")})()
        positions = torch.cat([batch.positions for batch in data.train_dataloader()]).tolist()
        return (
            positions,
            data.subset("train").stores[0].images.dataset.cache.fetched,
            [position for batch in data.val_dataloader() for position in batch.positions.tolist()],
        )

    (one, fetched, val), (two, also, other) = of_process(0), of_process(1)
    count = len(stored(tmp_path).subset("train"))
    assert len(one) == len(two) == count // 2
    assert not set(one) & set(two)
    shards_ = len(index(folder)["splits"]["train"]["shards"])
    assert fetched + also <= shards_ + 1
    assert val + other == list(range(len(stored(tmp_path).subset("val"))))


def test_any_batch_can_be_resumed(folder, tmp_path):
    data = streamed(folder, tmp_path, batch_size=16)
    loader = data.train_dataloader()
    loader._position = lambda: (3, 0)
    whole = list(loader)
    for step in (1, 7, len(whole)):
        loader._position = lambda step=step: (3, step)
        rest = list(loader)
        if whole[step:]:
            assert_same(rest, whole[step:])
        else:
            assert rest == []


def test_litdata_reads_the_same_images(folder, tmp_path):
    for split in SPLITS:
        subset = stored(tmp_path).subset(split)
        read = litdata.StreamingDataset(str(Path(folder) / split), shuffle=False)
        shard_rows = streamed(folder, tmp_path).subset(split).stores[0].images.table.shard_rows
        assert len(read) == len(subset)
        images = [(item["label"], item["image"]) for item in (read[at] for at in range(len(read)))]
        for position in range(len(subset)):
            label, image = images[shard_rows[position]]
            assert label == subset.targets[position]
            assert np.array_equal(image, subset.read(np.array([position]))[0])


@pytest.fixture
def photographs(tmp_path):
    random = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(30):
            size = (131, 97) if number % 5 == 3 else tuple(random.integers(20, 40, 2).tolist())  # some are reduced
            noise = Image.fromarray(random.integers(0, 256, (4, 4, 3), dtype=np.uint8)).resize(size)
            noise.save(tmp_path / "photos" / name / f"{number}.jpg")
    (tmp_path / "photos" / "cat" / "7.jpg").write_bytes(b"no picture")
    return tmp_path / "photos"


def test_original_files_give_the_pixels_of_the_store_at_any_size(photographs, tmp_path):
    images = image_folder(str(photographs), size=(24, 24))
    folder = written(tmp_path / "out", images, tmp_path / "none", ShardOptions("original", 3000), resize="crop")
    for size, resize in ((24, "crop"), (16, "squash")):
        options = {"image_size": size, "resize": resize, "batch_size": 8}
        store = image_data(images, data_dir=str(tmp_path / "cache"), **options)
        stream = streamed(folder, tmp_path, window=100, **options)
        for split in SPLITS:
            assert_same(batches(store, split), batches(stream, split), training=split == "train")
            assert stream.subset(split).identity == store.subset(split).identity
    assert not (tmp_path / "none" / ".opsin" / "stores").exists()  # writing shards builds no store


def test_jpeg_shards_are_close_to_the_pixels_of_the_store(photographs, tmp_path):
    images = image_folder(str(photographs), size=(24, 24))
    folder = written(tmp_path / "out", images, tmp_path / "none", ShardOptions("jpeg", 10_000, quality=95))
    store = image_data(images, data_dir=str(tmp_path / "cache"))
    stream = streamed(folder, tmp_path)
    every = np.arange(len(store.subset("train")))
    off = stream.subset("train").read(every).astype(int) - store.subset("train").read(every)
    assert 0 < np.abs(off).mean() < 8
    assert stream.subset("train").identity == store.subset("train").identity
    with pytest.raises(
        UserError, match=r"resize=squash, interpolation=bilinear, but 24x24 with crop, bilinear are needed"
    ):
        streamed(folder, tmp_path, resize="crop").setup()


@pytest.mark.parametrize("encoding", ["raw", "jpeg"])
@pytest.mark.parametrize("size", [16, 48, (24, 20)])
def test_images_that_were_resized_when_they_were_written_are_not_resized_again(photographs, tmp_path, encoding, size):
    images = image_folder(str(photographs), size=(24, 24))
    folder = written(tmp_path / "out", images, tmp_path / "none", ShardOptions(encoding, 10_000))
    with pytest.raises(UserError, match=r"Set datamodule\.image_size=24 datamodule\.resize=squash"):
        streamed(folder, tmp_path, image_size=size).setup()
    store = streamed(folder, tmp_path).subset("val").stores[0]
    with pytest.raises(UserError, match="A second resizing"):
        store.images.read(0, Fit((16, 16)))


def test_shards_of_original_files_need_files(tmp_path):
    with pytest.raises(UserError, match="are arrays, not files"):
        written(tmp_path / "out", source(), tmp_path, ShardOptions("original"))


@pytest.mark.parametrize("options", [{}, {"train_fraction": 0.5}, {"val_fraction": 0.3}])
def test_shards_of_shards_hold_the_same_images(folder, tmp_path, options):
    again = written(tmp_path / "again", shards(folder, data_dir=str(tmp_path)), tmp_path / "cache", **options)
    one, other = streamed(folder, tmp_path, **options), streamed(again, tmp_path)
    for split in SPLITS:
        assert other.subset(split).identity == one.subset(split).identity
        everything = np.arange(len(one.subset(split)))
        assert np.array_equal(other.subset(split).read(everything), one.subset(split).read(everything))


def test_existing_shards_are_never_overwritten(folder, tmp_path):
    with pytest.raises(UserError, match="already holds shards"):
        written(folder, source(), tmp_path)


def test_a_missing_shard_is_named(copied, tmp_path):
    (copied / "train" / "chunk-0-2.bin").unlink()
    with pytest.raises(UserError, match=r"train/chunk-0-2.bin of .*copied is missing"):
        batches(streamed(copied, tmp_path), "train")


@pytest.mark.parametrize("length", [0, 100, 2000])
def test_a_shard_that_is_truncated_during_a_run_is_named(copied, tmp_path, length):
    loader = iter(streamed(copied, tmp_path, batch_size=16).train_dataloader())
    next(loader)
    for file in (copied / "train").glob("chunk-*.bin"):
        os.truncate(file, length)
    with pytest.raises(UserError, match=r"train/chunk-0-\d+.bin (is shorter than when it was opened|of .* is corrupt)"):
        list(loader)


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE])
def test_a_shard_whose_disk_fails_is_named(copied, tmp_path, monkeypatch, code):
    data = streamed(copied, tmp_path)
    assert data.subset("val").read(np.arange(30)).shape[0] == 30

    def failing(*_):
        raise OSError(code, os.strerror(code))  # without the name of a file

    monkeypatch.setattr(os, "pread", failing)
    with pytest.raises(UserError, match=rf"val/chunk-0-\d.bin cannot be read any more: {os.strerror(code)}"):
        data.subset("val").read(np.arange(30))


@pytest.mark.parametrize("damage", ["short", "flipped"])
def test_a_corrupt_shard_is_named(copied, tmp_path, damage):
    file = copied / "val" / "chunk-0-1.bin"
    content = bytearray(file.read_bytes())
    if damage == "short":
        del content[-100:]
    else:
        content[-100] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"val/chunk-0-1.bin of .*copied is corrupt"):
        batches(streamed(copied, tmp_path), "val")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "opsin.json").unlink(), "writing them was interrupted"),
        (lambda folder: (folder / "opsin.json").write_text("{"), "opsin.json is damaged"),
        (lambda folder: (folder / "train" / "images.npz").unlink(), "train/images.npz of .* is missing"),
        (lambda folder: (folder / "train" / "images.npz").write_bytes(b"x"), "differs from the file that was written"),
    ],
)
def test_a_damaged_index_is_named(copied, tmp_path, damage, message):
    damage(copied)
    with pytest.raises(UserError, match=message):
        streamed(copied, tmp_path)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(UserError, match=r"has no opsin\.json"):
        shards(str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"from a local folder or from s3://"):
        shards("http://bucket/prefix")


def test_balanced_sampling_and_folds_need_all_shards_in_the_window(folder, tmp_path):
    with pytest.raises(UserError, match=r"loss.class_weights=balanced"):
        streamed(folder, tmp_path, sampler="balanced").train_dataloader()
    with pytest.raises(UserError, match=r"num_folds=3: the dataset has more shards"):
        streamed(folder, tmp_path, num_folds=3).setup()
    small = streamed(folder, tmp_path, num_folds=3, sampler="balanced", window=100, batch_size=16)
    assert len(batches(small, "train")) == len(small.train_dataloader())
    assert len(small.subset("train")) + len(small.subset("val")) == len(stored(tmp_path).subset("train")) + len(
        stored(tmp_path).subset("val")
    )


def test_folds_of_a_dataset_with_val_images_are_written(tmp_path):
    parts = {"train": source(60).splits["train"], "val": source(30, seed=1).splits["train"]}
    dataset = replace(source(), splits=parts)
    options = {"num_folds": 3, "fold": 1, "split_seed": 3}
    folder = written(tmp_path / "out", dataset, tmp_path / "cache", **options)
    store, stream = image_data(dataset, data_dir=str(tmp_path), **options), streamed(folder, tmp_path, window=100)
    for data in (store, stream):
        data.setup()
    for split in SPLITS:
        every = np.arange(len(store.subset(split)))
        assert np.array_equal(store.subset(split).read(every), stream.subset(split).read(every))


def test_train_fraction_selects_the_same_images_as_in_the_store(folder, tmp_path):
    options = {"train_fraction": 0.3, "split_seed": 3, "batch_size": 16}
    store = image_data(source(), data_dir=str(tmp_path), **options)
    stream = streamed(folder, tmp_path, window=100, **options)
    assert_same(batches(store, "train"), batches(stream, "train"))


@pytest.mark.parametrize("copies", ["device", "features"])
def test_images_with_a_copy_are_not_read_from_shards_again(folder, tmp_path, copies):
    data = streamed(folder, tmp_path, batch_size=16, on_device=copies == "device")
    shard_cache, loader = data.source.splits["train"].dataset.cache, data.train_dataloader()
    first = list(loader)
    if copies == "features":
        features = type("F", (), {"read": lambda self, positions, epoch: np.zeros((len(positions), 2), np.float16)})()
        data.use_features({"train": features}, "layer")
    shard_cache._shards.clear()
    fetched = shard_cache.fetched
    again = []
    for batch in loader:
        again.append(batch)
        time.sleep(0.01)  # a step, during which shards would be fetched
    assert shard_cache.fetched == fetched
    assert not shard_cache._shards
    assert len(again) == len(first)
    in_order = streamed(folder, tmp_path, batch_size=16).train_dataloader()
    list(in_order)
    for left, right in zip(again, in_order, strict=True):  # the order remains that of the shards
        assert torch.equal(left.positions, right.positions)


def test_an_abandoned_epoch_releases_its_shards(folder, tmp_path):
    data = streamed(folder, tmp_path, batch_size=16)
    iterator = iter(data.train_dataloader())
    next(iterator)
    cache = data.subset("train").stores[0].images.dataset.cache
    assert any(cache._expected.values())
    iterator.close()
    assert not any(cache._expected.values())


def test_shards_of_an_abandoned_epoch_are_not_downloaded(folder, tmp_path):
    data = streamed(folder, tmp_path)
    cache = data.source.splits["train"].dataset.cache
    begin, slow = threading.Event(), cache._fetch
    cache._fetch = lambda shard: begin.wait(10) and slow(shard)
    every = data.source.splits["train"].shards
    cache.expect("loader", every)
    cache.expect("loader", ())
    begin.set()
    assert len(cache.take(every[-1])) == every[-1].images
    assert cache.fetched <= 5  # those that the threads had begun, and the one taken


@pytest.mark.parametrize(
    "name", ["../victim.bin", "/etc/passwd", "train/../../victim.bin", "train/", "train/..", "val/x.bin", "a\\..\\b"]
)
def test_an_index_names_no_file_outside_the_shards(copied, name):
    file = copied / "opsin.json"
    facts = json.loads(file.read_text())
    facts["splits"]["train"]["shards"][0]["file"] = name
    file.write_text(json.dumps(facts))
    with pytest.raises(UserError, match="is not the name of a shard"):
        shards(str(copied))
    facts["splits"] = {f"../{split}": of_split for split, of_split in facts["splits"].items()}
    file.write_text(json.dumps(facts))
    with pytest.raises(UserError, match=r"is not a split|should be 'train', 'val' or 'test'"):
        shards(str(copied))


def test_shards_can_be_pickled_to_another_process(folder, tmp_path):
    data = streamed(folder, tmp_path)
    images = pickle.loads(pickle.dumps(data.source.splits["val"]))
    assert np.array_equal(images.read(3), data.subset("val").read(np.array([3]))[0])


@pytest.mark.slow
def test_only_files_of_the_window_stay_open(folder, tmp_path, monkeypatch):
    from opsin.data.shards import shard_cache

    monkeypatch.setattr(shard_cache, "_OPEN_FILES", 3)
    data = streamed(folder, tmp_path, window=1, batch_size=8)
    batches(data, "train")
    held: ShardCache = data.subset("train").stores[0].images.dataset.cache
    gc.collect()
    assert len(held._shards) <= 3 + shard_cache.AHEAD
    assert data.image_size == SIZE
