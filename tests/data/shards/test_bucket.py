"""Shards in a bucket: moto's server speaks S3's protocol on the loopback."""

import gc
import socket
import time

import numpy as np
import pytest
import torch
from datamodules import image_data
from sharded import source, streamed, written

from opsin.data.datasets import shards
from opsin.data.shards.s3 import StorageOptions
from opsin.data.shards.storage import open_place
from opsin.errors import UserError

boto3 = pytest.importorskip("boto3")
pytest.importorskip("litdata")
moto = pytest.importorskip("moto.server")

PLACE = "s3://pictures/made"


@pytest.fixture(scope="module")
def server():
    server = moto.ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(autouse=True)
def keys(server, tmp_path, monkeypatch):
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_DEFAULT_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", server)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))


@pytest.fixture(scope="module")
def bucket(server, tmp_path_factory):
    client = boto3.client(
        "s3",
        endpoint_url=server,
        aws_access_key_id="somebody",
        aws_secret_access_key="secret",
        region_name="us-east-1",
    )
    client.create_bucket(Bucket="pictures")
    return client


@pytest.fixture
def place(bucket, tmp_path):
    if "Contents" not in bucket.list_objects_v2(Bucket="pictures", Prefix="made/"):
        written(PLACE, source(), tmp_path)
    return PLACE


def folders(tmp_path):
    return list((tmp_path / ".opsin" / "shards").iterdir())


def on_disk(tmp_path):
    return sum(file.stat().st_size for file in (tmp_path / ".opsin" / "shards").rglob("*.bin"))


def test_a_bucket_serves_the_batches_of_the_store(place, tmp_path):
    store = image_data(source(), data_dir=str(tmp_path), batch_size=16)
    stream = streamed(place, tmp_path, window=100, batch_size=16)
    for split in ("train", "val", "test"):
        one, other = (list(getattr(data, f"{split}_dataloader")()) for data in (store, stream))
        assert len(one) == len(other) > 0
        for left, right in zip(one, other, strict=True):
            assert torch.equal(left.images, right.images)
            assert torch.equal(left.positions, right.positions)
        assert stream.part(split).identity == store.part(split).identity


def test_the_cache_stays_within_its_bound_and_goes(place, tmp_path):
    limit = 40_000  # of 53,000 bytes of train
    data = streamed(place, tmp_path, window=2, cache_gb=limit / 1e9, batch_size=16)
    library = data.source.splits["train"].library
    sizes, seen = [], []
    for loader in (data.train_dataloader(), data.val_dataloader(), data.train_dataloader()):
        for batch in loader:
            seen += batch.positions.tolist()
            with library.shelf._turn:  # nothing comes or goes while files are counted
                sizes.append(library.shelf.bytes)
                assert on_disk(tmp_path) <= limit
    assert max(sizes) <= limit
    assert library.shelf.fetched > len(data.source.splits["train"].shards)  # some came twice
    assert len(seen) == 2 * len(data.part("train")) + len(data.part("val"))
    assert folders(tmp_path)
    del data, library, loader, batch
    until = time.monotonic() + 10
    while folders(tmp_path) and time.monotonic() < until:  # a thread may still hold on to what it did last
        gc.collect()
        time.sleep(0.05)
    assert folders(tmp_path) == []


def test_each_shard_is_fetched_once_an_epoch(place, tmp_path):
    data = streamed(place, tmp_path, window=2, cache_gb=40_000 / 1e9, batch_size=16)
    shelf, count = data.source.splits["train"].library.shelf, len(data.source.splits["train"].shards)
    loader = data.train_dataloader()
    for epoch in (1, 2):
        list(loader)
        assert shelf.fetched <= epoch * count


def test_what_a_killed_process_left_is_deleted(place, tmp_path):
    left = tmp_path / ".opsin" / "shards" / "tmpkilled"
    left.mkdir(parents=True)
    (left / "train-chunk-0-0.bin").write_bytes(b"x" * 1000)
    left.with_suffix(".lock").touch()
    first, second = (streamed(place, tmp_path) for _ in range(2))
    for data in (first, second):
        next(iter(data.val_dataloader()))
    assert not left.exists()
    assert len([folder for folder in folders(tmp_path) if folder.is_dir()]) == 2


def test_too_small_a_cache_is_refused(place, tmp_path):
    with pytest.raises(UserError, match=r"too small for datamodule.window=4 shards of s3://pictures/made .* or more"):
        streamed(place, tmp_path, window=4, cache_gb=1e-6)


def test_too_small_a_disk_is_named(place, tmp_path):
    with pytest.raises(UserError, match=r"cache_gb=1e\+09: .* GB free"):
        next(iter(streamed(place, tmp_path, cache_gb=1e9).val_dataloader()))


def test_a_missing_shard_and_a_torn_one_are_named(bucket, place, tmp_path):
    for key in ("opsin.json", "train/rows.npz", "val/rows.npz", "test/rows.npz", "val/chunk-0-0.bin"):
        source_ = {"Bucket": "pictures", "Key": f"made/{key}"}
        bucket.copy_object(Bucket="pictures", Key=f"torn/{key}", CopySource=source_)
    content = bucket.get_object(Bucket="pictures", Key="torn/val/chunk-0-0.bin")["Body"].read()
    bucket.put_object(Bucket="pictures", Key="torn/val/chunk-0-0.bin", Body=content[:-1])
    begin = time.monotonic()
    data = streamed("s3://pictures/torn", tmp_path)
    with pytest.raises(UserError, match=r"train/chunk-0-\d+.bin of s3://pictures/torn is missing"):
        list(data.train_dataloader())
    with pytest.raises(
        UserError, match=r"val/chunk-0-0.bin of s3://pictures/torn is torn: it has .* bytes in place of"
    ):
        list(data.val_dataloader())
    assert time.monotonic() - begin < 10


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("s3://pictures/nothing", r"s3://pictures/nothing holds no opsin\.json"),
        ("s3://elsewhere/made", r"there is no bucket 'elsewhere'"),
        ("s3://", "names no bucket"),
    ],
)
def test_a_wrong_place_is_named(bucket, path, message):
    with pytest.raises(UserError, match=message):
        shards(path)


def test_no_keys(monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(UserError, match=r"there are no keys for it. Set AWS_ACCESS_KEY_ID"):
        shards(PLACE)
    with pytest.raises(UserError, match="nobody"):
        shards(PLACE, storage_options=StorageOptions(profile="nobody"))


def test_a_public_bucket_needs_no_keys(bucket, place, tmp_path, server, monkeypatch):
    for found in bucket.list_objects_v2(Bucket="pictures", Prefix="made/")["Contents"]:
        bucket.put_object_acl(Bucket="pictures", Key=found["Key"], ACL="public-read")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    options = StorageOptions(endpoint_url=server, region="us-east-1", anonymous=True)
    images = shards(place, data_dir=str(tmp_path), storage_options=options).splits["val"]
    assert images.read(0).shape == (6, 5, 3)


def test_a_server_that_is_not_there_is_told_within_seconds(monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free.getsockname()[1]}")
        begin = time.monotonic()
        with pytest.raises(UserError, match=r"cannot be reached: .*AWS_ENDPOINT_URL"):
            shards(PLACE)
    assert time.monotonic() - begin < 15


def test_boto3_missing_is_one_message(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "boto3", None)
    with pytest.raises(UserError, match=r"pip install 'opsin\[streaming\]'"):
        open_place(PLACE)


def test_nothing_of_the_shards_stays_where_they_are_written(bucket, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", None)
    written("s3://pictures/second", source(200), tmp_path / "data")
    assert list((tmp_path / "tmp").iterdir()) == []
    assert not (tmp_path / "data").exists()
    stream = streamed("s3://pictures/second", tmp_path)
    assert np.array_equal(
        stream.part("val").read(np.arange(5)),
        image_data(source(200), data_dir=str(tmp_path)).part("val").read(np.arange(5)),
    )
