from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datamodules import image_data

from opsin.data.cache.image_store import DecodedStore
from opsin.data.datasets import ArrayImages, Source
from opsin.data.loader import device_cache
from opsin.data.loader.device_cache import DeviceSubset, cached_on_device
from opsin.data.subset import Subset
from opsin.errors import UserError

CPU = torch.device("cpu")


def store(n=30, seed=0):
    random = np.random.default_rng(seed)
    pixels = random.integers(0, 256, (n, 6, 5, 3), dtype=np.uint8)
    return DecodedStore(ArrayImages(pixels, np.arange(n) % 3, "made"), f"{seed}")


def test_a_device_subset_gives_the_pixels_of_the_host(monkeypatch):
    monkeypatch.setattr(device_cache, "_UPLOADED_AT_ONCE", 400)  # several uploads
    subset = Subset((store(), store(7, 1)), np.array([1, 4, 5, 20, 29, 31, 36]), "given")
    cached = DeviceSubset(subset, CPU)
    positions = np.array([6, 0, 3, 3, 5])
    assert np.array_equal(cached.read(positions).numpy(), subset.read(positions))
    assert cached.read(positions).data_ptr() != cached.pixels.data_ptr()


def module(on_device):
    images = store(60).images
    source = Source("made", ("a", "b", "c"), 3, (6, 5), (0.5,), (0.5,), {"train": images})
    return image_data(source, batch_size=8, on_device=on_device)


def test_batches_from_the_device_cache_are_the_same():
    for split in ("train", "val", "test"):
        host, cached = (
            [data.finish(batch, augment=False) for batch in getattr(data, f"{split}_dataloader")()]
            for data in (module(False), module(True))
        )
        assert len(host) == len(cached) > 0
        for one, other in zip(host, cached, strict=True):
            assert torch.equal(one.images, other.images)
            assert one.images.stride() == other.images.stride()
            assert torch.equal(one.targets, other.targets)
            assert torch.equal(one.positions, other.positions)
            assert one.key == other.key


@pytest.mark.parametrize(("free", "is_cached"), [(3600, True), (3596, False), (0, False)])
def test_auto_uses_at_most_a_quarter_of_the_free_memory(monkeypatch, free, is_cached):
    monkeypatch.setattr(device_cache, "free_bytes", lambda device: free)
    subset = Subset.whole(store(10))  # 900 bytes
    assert isinstance(cached_on_device(subset, CPU, "auto"), DeviceSubset) == is_cached
    assert cached_on_device(subset, CPU, False) is subset


def test_auto_keeps_images_on_the_host_if_the_device_is_a_cpu():
    data = module("auto")
    next(iter(data.train_dataloader()))
    assert isinstance(data._fetcher._device_cache["train"], Subset)


def test_a_subset_too_large_for_the_device_is_named(monkeypatch):
    def full(*args, **kwargs):
        raise torch.OutOfMemoryError

    subset = Subset.whole(store(10))
    monkeypatch.setattr(torch, "empty", full)
    with pytest.raises(UserError, match=r"on_device=true.*do not fit on cpu"):
        DeviceSubset(subset, CPU)


def test_images_and_targets_move_to_the_device_and_positions_stay():
    device = torch.device("meta")
    data = module(False)
    batch = next(iter(data.train_dataloader()))
    moved = data.transfer_batch_to_device(batch, device, 0)
    assert moved.images.device.type == moved.targets.device.type == "meta"
    assert moved.positions.device.type == "cpu"


def test_the_trainer_determines_the_device():
    data = module(True)
    strategy = SimpleNamespace(root_device=torch.device("meta"))
    data.trainer = SimpleNamespace(  # type: ignore[assignment]
        strategy=strategy, global_rank=0, world_size=1, training=False, limit_val_batches=1.0
    )
    assert next(iter(data.val_dataloader())).images.device.type == "meta"


@pytest.mark.gpu
def test_a_gpu_gives_the_same_batches():
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    subset = Subset.whole(store())
    cached = cached_on_device(subset, torch.device("cuda", 0), "auto")
    assert isinstance(cached, DeviceSubset)
    positions = np.array([5, 2, 29])
    assert np.array_equal(cached.read(positions).cpu().numpy(), subset.read(positions))
