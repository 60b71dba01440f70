"""Shards in a bucket: moto serves the protocol of S3, Azurite that of Azure, both on the loopback interface."""

import asyncio
import errno
import gc
import importlib
import multiprocessing
import os
import pickle
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from datamodules import image_data
from filelock import FileLock
from sharded import source, streamed, written

from opsin.data.datasets import shards
from opsin.data.shards.storage import LocalStorage, StorageOptions, open_storage
from opsin.errors import UserError
from opsin.runs.disk_lock import DiskLock

boto3 = pytest.importorskip("boto3")
pytest.importorskip("s3fs")
pytest.importorskip("litdata")
moto = pytest.importorskip("moto.server")

PATH = "s3://pictures/made"
AZURITE = Path("/tmp/opsin-azurite")
AZURITE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="  # public


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    server = moto.ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(autouse=True)
def keys(server, tmp_path, monkeypatch):
    for name in list(os.environ):
        if name.startswith(("AWS_", "AZURE_", "GOOGLE_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ENDPOINT_URL", server)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))


@pytest.fixture(scope="module")
def bucket(server):
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
def path(bucket, tmp_path):
    if "Contents" not in bucket.list_objects_v2(Bucket="pictures", Prefix="made/"):
        written(PATH, source(), tmp_path)
    return PATH


@pytest.fixture(scope="session")
def azurite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return the connection string of a running Azurite, which npm installs once per machine."""
    pytest.importorskip("adlfs")
    program = shutil.which("azurite-blob") or str(AZURITE / "node_modules" / ".bin" / "azurite-blob")
    with FileLock(f"{AZURITE}.lock"):
        if not Path(program).exists():
            if not shutil.which("npm"):
                pytest.skip("needs azurite-blob, or npm to install it")
            install = ["npm", "install", "azurite", "--no-audit", "--no-fund", "--prefix", str(AZURITE)]
            if subprocess.run(install, capture_output=True, timeout=300).returncode:
                pytest.skip("npm cannot install azurite here")
    port, folder = _free_port(), tmp_path_factory.mktemp("azurite")
    arguments = ["--blobPort", str(port), "--location", str(folder), "--silent", "--skipApiVersionCheck"]
    process = subprocess.Popen([program, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 60
    while not _listens(port):
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.2)
    yield _connection_string(port)
    process.terminate()
    process.wait()


def _connection_string(port: int) -> str:
    account = "AccountName=devstoreaccount1;BlobEndpoint=http://127.0.0.1:{}/devstoreaccount1"
    return f"DefaultEndpointsProtocol=http;AccountKey={AZURITE_KEY};{account.format(port)};"


def _listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def folders(tmp_path):
    return list((tmp_path / ".opsin" / "shards").iterdir())


def on_disk(tmp_path):
    return sum(file.stat().st_size for file in (tmp_path / ".opsin" / "shards").rglob("*.bin"))


def check_storage(path: str, tmp_path: Path) -> None:
    storage, target = open_storage(path), tmp_path / "fetched"
    assert str(storage) == path
    for content in (b"", b"one", bytes(range(256)) * 30_000):  # 7.7 MB: uploaded and downloaded in several requests
        (tmp_path / "file").write_bytes(content)
        storage.put(tmp_path / "file", "train/chunk-0-0.bin")
        assert not (tmp_path / "file").exists()
        assert storage.read("train/chunk-0-0.bin") == content
        assert storage.fetch("train/chunk-0-0.bin", target)
        assert target.read_bytes() == content
    assert storage.read("train/chunk") is None
    assert storage.read("train") is None
    assert not storage.fetch("train/chunk-0-1.bin", tmp_path / "nothing")
    copy = pickle.loads(pickle.dumps(storage))
    assert (str(copy), copy.read("train/chunk-0-0.bin")) == (path, content)


def check_datamodule(path: str, tmp_path: Path) -> None:
    written(path, source(200), tmp_path)
    store = image_data(source(200), data_dir=str(tmp_path), batch_size=16)
    stream = streamed(path, tmp_path, window=100, batch_size=16)
    for split in ("train", "val", "test"):
        one, other = (list(getattr(data, f"{split}_dataloader")()) for data in (store, stream))
        assert len(one) == len(other) > 0
        for left, right in zip(one, other, strict=True):
            assert torch.equal(left.images, right.images)
            assert torch.equal(left.positions, right.positions)
        assert stream.subset(split).identity == store.subset(split).identity
    with pytest.raises(UserError, match=f"{path.removeprefix('file://')} already holds shards"):
        written(path, source(200), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("path", ["s3://pictures/contract", "memory://pictures/contract"])
def test_files_are_written_read_and_downloaded(bucket, path, tmp_path):
    check_storage(path, tmp_path)


@pytest.mark.parametrize("path", ["s3://pictures/batches", "memory://pictures/batches"])
def test_batches_from_a_bucket_equal_those_of_the_store(bucket, path, tmp_path):
    check_datamodule(path, tmp_path)


def test_a_file_url_is_a_local_folder(tmp_path):
    storage = open_storage(f"file://{tmp_path}/made")
    assert isinstance(storage, LocalStorage)
    assert str(storage) == f"{tmp_path}/made"
    check_datamodule(f"file://{tmp_path}/made", tmp_path)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")  # caused by adlfs
def test_azure_batches_equal_those_of_the_store(azurite, tmp_path, monkeypatch):
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", azurite)
    open_storage("az://pictures/x")._filesystem().mkdir("pictures")
    check_storage("az://pictures/contract", tmp_path)
    check_datamodule("az://pictures/batches", tmp_path)
    for path, message in (
        ("az://pictures/nothing", r"az://pictures/nothing has no opsin\.json"),
        ("az://elsewhere/made", r"there is no bucket 'elsewhere'"),
    ):
        with pytest.raises(UserError, match=message):
            shards(path)
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", azurite.replace("Eby8", "AAAA"))
    with pytest.raises(UserError, match=r"refuses the keys .*AZURE_STORAGE_ACCOUNT_KEY"):
        shards("az://pictures/batches")


@pytest.mark.slow
def test_azure_without_an_account_or_a_server_is_named(monkeypatch):
    pytest.importorskip("adlfs")
    with pytest.raises(UserError, match=r"no credentials were found .*AZURE_STORAGE_CONNECTION_STRING"):
        shards("az://pictures/made")
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", _connection_string(_free_port()))
    begin = time.monotonic()
    with pytest.raises(UserError, match=r"az://pictures/made cannot be reached: .*Check the network"):
        shards("az://pictures/made")
    assert time.monotonic() - begin < 40


@pytest.mark.slow
def test_the_cache_stays_within_its_limit_and_is_deleted(path, tmp_path):
    limit = 40_000  # train has 53,000 bytes
    data = streamed(path, tmp_path, window=2, cache_gb=limit / 1e9, batch_size=16)
    dataset = data.source.splits["train"].dataset
    sizes, seen = [], []
    for loader in (data.train_dataloader(), data.val_dataloader(), data.train_dataloader()):
        for batch in loader:
            seen += batch.positions.tolist()
            with dataset.cache._lock:  # no shard is added or deleted while files are counted
                sizes.append(dataset.cache.bytes)
                assert on_disk(tmp_path) <= limit
    assert max(sizes) <= limit
    assert dataset.cache.fetched > len(data.source.splits["train"].shards)  # some were downloaded twice
    assert len(seen) == 2 * len(data.subset("train")) + len(data.subset("val"))
    assert folders(tmp_path)
    del data, dataset, loader, batch
    until = time.monotonic() + 10
    while folders(tmp_path) and time.monotonic() < until:  # a thread may still hold its last shard
        gc.collect()
        time.sleep(0.05)
    assert folders(tmp_path) == []


def test_each_shard_is_downloaded_once_per_epoch(path, tmp_path):
    data = streamed(path, tmp_path, window=2, cache_gb=40_000 / 1e9, batch_size=16)
    cache, count = data.source.splits["train"].dataset.cache, len(data.source.splits["train"].shards)
    loader = data.train_dataloader()
    for epoch in (1, 2):
        list(loader)
        assert cache.fetched <= epoch * count


@pytest.mark.slow
def test_files_of_a_killed_process_are_deleted(path, tmp_path):
    left = tmp_path / ".opsin" / "shards" / "tmpkilled"
    left.mkdir(parents=True)
    (left / "train-chunk-0-0.bin").write_bytes(b"x" * 1000)
    left.with_suffix(".lock").touch()
    first, second = (streamed(path, tmp_path) for _ in range(2))
    for data in (first, second):
        next(iter(data.val_dataloader()))
    assert not left.exists()
    assert len([folder for folder in folders(tmp_path) if folder.is_dir()]) == 2


@pytest.mark.slow
def test_a_folder_is_not_deleted_while_its_process_creates_it(path, tmp_path, monkeypatch):
    first, second, acquire = streamed(path, tmp_path), streamed(path, tmp_path), DiskLock.acquire

    def interrupted(lock, *args, **options):
        monkeypatch.setattr(DiskLock, "acquire", acquire)
        Path(lock.lock_file).touch()  # as `acquire` does before it has the lock
        next(iter(second.val_dataloader()))  # deletes the folders whose lock is not held
        return acquire(lock, *args, **options)

    monkeypatch.setattr(DiskLock, "acquire", interrupted)
    assert len(list(first.val_dataloader())) == len(list(second.val_dataloader())) > 0
    assert len([folder for folder in folders(tmp_path) if folder.is_dir()]) == 2
    assert len([file for file in folders(tmp_path) if file.suffix == ".lock"]) == 2


def test_folders_of_another_user_are_left_alone(path, tmp_path, monkeypatch):
    theirs = tmp_path / ".opsin" / "shards" / "theirs"
    theirs.mkdir(parents=True)
    theirs.with_suffix(".lock").touch()
    acquire = DiskLock.acquire

    def refused(lock, *args, **options):
        if Path(lock.lock_file).stem == "theirs":  # the mode of a lock lets only its owner write
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), lock.lock_file)
        return acquire(lock, *args, **options)

    monkeypatch.setattr(DiskLock, "acquire", refused)
    next(iter(streamed(path, tmp_path).val_dataloader()))
    assert theirs.exists()
    assert theirs.with_suffix(".lock").exists()


@pytest.mark.parametrize("deleted", ["", ".opsin", ".opsin/shards"])
def test_a_run_survives_the_deletion_of_downloaded_shards(path, tmp_path, deleted):
    data = streamed(path, tmp_path / "data", window=1, cache_gb=30_000 / 1e9, batch_size=16)
    batches = list(data.train_dataloader())
    shutil.rmtree(tmp_path / "data" / deleted)
    again = list(data.train_dataloader())
    assert len(again) == len(batches)
    assert data.source.splits["train"].dataset.cache.fetched > len(data.source.splits["train"].shards)
    expected = image_data(source(), data_dir=str(tmp_path / "data")).subset("train")
    for batch in again:
        assert np.array_equal(batch.images.permute(0, 2, 3, 1), expected.read(batch.positions.numpy()))


def test_too_small_a_cache_is_refused(path, tmp_path):
    with pytest.raises(
        UserError, match=r"too small: the cache must hold datamodule.window=4 .* shards of s3://pictures/made"
    ):
        streamed(path, tmp_path, window=4, cache_gb=1e-6)


def test_too_small_a_disk_is_named(path, tmp_path):
    with pytest.raises(UserError, match=r"cache_gb=1e\+09: .* GB free"):
        next(iter(streamed(path, tmp_path, cache_gb=1e9).val_dataloader()))


def test_a_missing_shard_and_a_corrupt_one_are_named(bucket, path, tmp_path):
    for key in ("opsin.json", "train/images.npz", "val/images.npz", "test/images.npz", "val/chunk-0-0.bin"):
        source_ = {"Bucket": "pictures", "Key": f"made/{key}"}
        bucket.copy_object(Bucket="pictures", Key=f"corrupt/{key}", CopySource=source_)
    content = bucket.get_object(Bucket="pictures", Key="corrupt/val/chunk-0-0.bin")["Body"].read()
    bucket.put_object(Bucket="pictures", Key="corrupt/val/chunk-0-0.bin", Body=content[:-1])
    begin = time.monotonic()
    data = streamed("s3://pictures/corrupt", tmp_path)
    with pytest.raises(UserError, match=r"train/chunk-0-\d+.bin of s3://pictures/corrupt is missing"):
        list(data.train_dataloader())
    with pytest.raises(UserError, match=r"val/chunk-0-0.bin of s3://pictures/corrupt is corrupt: .* bytes, expected"):
        list(data.val_dataloader())
    assert time.monotonic() - begin < 10


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("s3://pictures/nothing", r"s3://pictures/nothing has no opsin\.json"),
        ("s3://elsewhere/made", r"there is no bucket 'elsewhere'"),
        ("s3://", "names no bucket"),
        ("http://pictures/made", r"read from a local folder or from s3://BUCKET/PREFIX"),
    ],
)
def test_a_wrong_path_is_named(bucket, path, message):
    with pytest.raises(UserError, match=message):
        shards(path)


def test_missing_keys_are_named(monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(UserError, match=r"no credentials were found .* Set AWS_ACCESS_KEY_ID"):
        shards(PATH)
    with pytest.raises(UserError, match="nobody"):
        shards(PATH, storage_options=StorageOptions(profile="nobody"))


@pytest.mark.parametrize(
    ("path", "options"),
    [
        ("az://pictures/made", StorageOptions(profile="mine")),
        ("az://pictures/made", StorageOptions(endpoint_url="http://127.0.0.1")),
        ("gs://pictures/made", StorageOptions(region="eu")),
        ("memory://pictures/made", StorageOptions(anonymous=True)),
        ("folder/made", StorageOptions(endpoint_url="http://127.0.0.1")),
        ("file:///folder/made", StorageOptions(region="eu")),
    ],
)
def test_an_option_that_does_not_apply_is_named(path, options):
    with pytest.raises(UserError, match=rf"storage_options\.\w+ does not apply to {path}"):
        open_storage(path, options)


def test_a_public_bucket_needs_no_keys(bucket, path, tmp_path, server, monkeypatch):
    for found in bucket.list_objects_v2(Bucket="pictures", Prefix="made/")["Contents"]:
        bucket.put_object_acl(Bucket="pictures", Key=found["Key"], ACL="public-read")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    options = StorageOptions(endpoint_url=server, region="us-east-1", anonymous=True)
    images = shards(path, data_dir=str(tmp_path), storage_options=options).splits["val"]
    assert images.read(0).shape == (6, 5, 3)


@pytest.mark.slow
def test_an_unreachable_server_is_reported_within_seconds(monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{_free_port()}")
    begin = time.monotonic()
    with pytest.raises(UserError, match=r"cannot be reached: .*AWS_ENDPOINT_URL"):
        shards(PATH)
    assert time.monotonic() - begin < 15


@pytest.mark.slow
def test_a_silent_server_is_reported_within_seconds(monkeypatch):
    monkeypatch.setattr("opsin.data.shards.storage._FIRST_ANSWER_S", 2.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        begin = time.monotonic()
        with pytest.raises(UserError, match=r"cannot be reached: "):
            shards(PATH)
    assert time.monotonic() - begin < 15


@pytest.mark.parametrize("name", ["train/images.npz", "test/images.npz", "train/absent"])
def test_a_server_that_has_answered_may_be_slow(path, monkeypatch, name):
    storage = open_storage(path)
    assert storage.read("opsin.json")
    monkeypatch.setattr("opsin.data.shards.storage._FIRST_ANSWER_S", 0.2)
    filesystem = importlib.import_module("s3fs").S3FileSystem
    read = filesystem._cat_file

    async def slow(self, file, *args, **options):
        await asyncio.sleep(0.5)
        return await read(self, file, *args, **options)

    monkeypatch.setattr(filesystem, "_cat_file", slow)
    with pytest.raises(UserError, match="cannot be reached"):
        open_storage(path).read(name)
    assert (storage.read(name) is None) == (name == "train/absent")


@pytest.mark.parametrize(
    ("module", "path", "extra"),
    [("s3fs", PATH, "streaming"), ("adlfs", "az://pictures/made", "azure"), ("gcsfs", "gs://pictures/made", "gcs")],
)
def test_a_missing_package_is_one_message(monkeypatch, module, path, extra):
    monkeypatch.setitem(sys.modules, module, None)
    imported = importlib.import_module("fsspec.registry")._registry
    monkeypatch.delitem(imported, path.partition(":")[0], raising=False)
    with pytest.raises(UserError, match=rf"pip install 'opsin\[{extra}\]'"):
        open_storage(path)


@pytest.mark.slow
def test_a_forked_process_can_read_the_bucket(path):
    storage = open_storage(path)
    content = storage.read("opsin.json")
    pipe = multiprocessing.get_context("fork").Queue()
    child = multiprocessing.get_context("fork").Process(target=lambda: pipe.put(storage.read("opsin.json")))
    child.start()
    assert pipe.get(timeout=60) == content
    child.join(60)
    assert child.exitcode == 0
    assert storage.read("opsin.json") == content


@pytest.mark.slow
def test_all_storages_share_one_thread(path):
    storages = [open_storage(path) for _ in range(20)]
    assert all(storage.read("opsin.json") for storage in storages)
    assert sum(thread.name == "fsspecIO" for thread in threading.enumerate()) == 1


def test_writing_to_a_bucket_leaves_no_files_on_the_disk(bucket, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", None)
    written("s3://pictures/second", source(200), tmp_path / "data")
    assert list((tmp_path / "tmp").iterdir()) == []
    assert not (tmp_path / "data").exists()
    stream = streamed("s3://pictures/second", tmp_path)
    assert np.array_equal(
        stream.subset("val").read(np.arange(5)),
        image_data(source(200), data_dir=str(tmp_path)).subset("val").read(np.arange(5)),
    )
