import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import baseline_lightning
from benchmarks.datasets import many_photos, photos, prepare
from benchmarks.workloads import WORKLOADS
from opsin.config import compose
from opsin.training import build
from opsin.training.plan import make_plan

COUNTS = (20, 4, 10)
STEPS = {workload.images: workload for workload in WORKLOADS if workload.measure == "steps"}


@pytest.mark.parametrize("kind", ["mnist", "cifar10", "photos"])
def test_opsin_and_torchvision_read_the_same_images(kind, tmp_path):
    images, real = prepare(kind, tmp_path / "none", tmp_path / "work", COUNTS)
    assert not real
    plan = make_plan(compose([*STEPS[kind].command(images), f"data_dir={tmp_path}"], tmp_path / "run"))
    data = build.data(plan)
    data.setup()
    theirs = baseline_lightning.dataset(STEPS[kind], images, "test", 0.0, 1.0)
    assert len(theirs) == len(data.subset("test")) == COUNTS[2]
    ours = data.subset("test").read(np.arange(COUNTS[2]))
    for i, (image, target) in enumerate(theirs):
        expected = torch.from_numpy(ours[i]).permute(2, 0, 1) / 255
        assert target == data.subset("test").targets[i]
        assert (image - expected).abs().max() < 1e-6
    train = baseline_lightning.dataset(STEPS[kind], images, "train", 0.0, 1.0)
    split_off = 0 if kind == "photos" else len(data.subset("val"))
    assert len(train) == len(data.subset("train")) + split_off
    assert train[0][0].shape == (data.channels, *data.image_size)


def test_real_photographs_are_linked(tmp_path):
    for name in ("cats", "dogs"):
        folder = tmp_path / "data" / "cats_vs_dogs_original" / "train" / name
        folder.mkdir(parents=True)
        for i in range(20):
            Image.new("RGB", (9, 7), (i, 0, 0)).save(folder / f"{i}.jpg")
    folder, real = photos(tmp_path / "data", tmp_path / "photos", COUNTS)
    assert real
    linked = [file.resolve() for file in folder.rglob("*.jpg")]
    assert len(set(linked)) == sum(COUNTS)
    assert {file.parent.name for file in linked} == {"cats", "dogs"}


def test_real_cifar10_stored_as_jpegs_is_converted(tmp_path):
    names = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    for split in ("train", "test"):
        for number, name in enumerate(names):
            folder = tmp_path / "cifar10_jpeg" / split / name
            folder.mkdir(parents=True)
            for i in range(2):
                Image.new("RGB", (32, 32), (number * 20, 0, 0)).save(folder / f"{i}.jpg", quality=100)
    folder, real = prepare("cifar10", tmp_path, tmp_path / "work", (10, 2, 4))
    assert real
    found = baseline_lightning.dataset(STEPS["cifar10"], folder, "test", 0.0, 1.0)
    assert len(found) == 4
    assert all(abs(float(image[0].mean()) * 255 - target * 20) < 4 for image, target in found)


def test_many_photos_are_links_to_few_files(tmp_path):
    folder = many_photos(tmp_path, 20, 16, distinct=5)
    files = list(folder.rglob("*.jpg"))
    assert len(files) == 20
    assert len({file.resolve() for file in files}) == 5


@pytest.mark.slow
@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.name)
def test_every_workload_is_a_valid_config(workload, tmp_path):
    plan = make_plan(compose(workload.command(tmp_path), tmp_path / "run"))
    assert plan.data.batch_size == workload.batch_size
    assert plan.trainer.max_epochs == workload.epochs
    if workload.measure == "runs":
        assert plan.fine_tuning.weights == "none"
