"""Transforms of single images as augmentation: random per image, repeatable, checked before a run."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.transforms import v2

from opsin.data.augmentation import Augmentation
from opsin.data.augmentation.image_transform import ImageTransform, as_augmentation
from opsin.errors import UserError


def batch(count: int = 64) -> tuple[Tensor, Tensor]:
    """Equal images of float pixels that stand for uint8, and targets."""
    image = torch.randint(0, 256, (1, 3, 12, 12), generator=torch.Generator().manual_seed(0)) / 255
    return image.repeat(count, 1, 1, 1).contiguous(memory_format=torch.channels_last), torch.arange(count)


def test_each_image_gets_parameters_of_its_own_that_depend_on_the_key_only() -> None:
    images, targets = batch()
    augmentation = ImageTransform(v2.RandomHorizontalFlip())
    before = (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy())  # noqa: NPY002
    first, same_targets = augmentation(images, targets, 5)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert (np.random.get_state()[1] == before[2]).all()  # noqa: NPY002
    flipped = (first == images.flip(3)).flatten(1).all(1)
    kept = (first == images).flatten(1).all(1)
    assert (flipped ^ kept).all()
    assert 16 < int(flipped.sum()) < 48
    torch.rand(9)
    random.random()
    assert torch.equal(augmentation(images, targets, 5)[0], first)
    assert not torch.equal(augmentation(images, targets, 6)[0], first)
    assert first.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(same_targets, targets)
    assert augmentation.eval()(images, targets, 5)[0] is images


def noise_of_the_standard_library(image: Tensor) -> Tensor:
    return image if random.random() < 0.5 else 255 - image


def noise_of_numpy(image: Tensor) -> Tensor:
    return image if np.random.random() < 0.5 else 255 - image  # noqa: NPY002


@pytest.mark.parametrize("function", [noise_of_the_standard_library, noise_of_numpy])
def test_other_random_generators_are_seeded_too(function: Callable[[Tensor], Tensor]) -> None:
    augmentation, (images, targets) = ImageTransform(function), batch()
    first = augmentation(images, targets, 1)[0]
    assert torch.equal(augmentation(images, targets, 1)[0], first)
    assert len(first.flatten(1).unique(dim=0)) == 2


@pytest.mark.parametrize(
    "transform",
    [
        v2.Compose([v2.RandomResizedCrop([12, 12], antialias=True), v2.ToDtype(torch.float32, scale=True)]),
        v2.Compose([v2.ToImage(), v2.TrivialAugmentWide(), v2.RandomErasing(1.0)]),
        v2.ColorJitter(0.4, 0.4, 0.4, 0.1),
        v2.RandAugment(),
        v2.GaussianBlur(3),
        nn.Sequential(v2.RandomRotation(20), v2.RandomGrayscale()),
        lambda image: image,
    ],
)
def test_transformed_images_keep_type_shape_and_unit_range(transform: Callable[[Tensor], Any]) -> None:
    augmentation = as_augmentation(transform)
    assert isinstance(augmentation, ImageTransform)
    augmentation.check(3, (12, 12))
    images, _ = augmentation(*batch(4), 3)
    assert type(images) is Tensor
    assert (images.dtype, images.shape) == (torch.float32, (4, 3, 12, 12))
    assert 0 <= float(images.min()) <= float(images.max()) <= 1
    assert "\n" not in str(augmentation)


@pytest.mark.parametrize(
    ("transform", "reason"),
    [
        (v2.Resize([6, 6]), "changes the shape of an image from 3x12x12 to 3x6x6.*datamodule.image_size"),
        (v2.RandomCrop(8), "changes the shape"),
        (
            v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5] * 3, [0.5] * 3)]),
            "leave out Normalize",
        ),
        (v2.MixUp(num_classes=3), "fails on an image.*no label; to mix images.*mixup_cutmix"),
        (v2.ToPILImage(), "returns Image, not a tensor: leave out ToPILImage"),
        (v2.FiveCrop(6), "returns tuple, not a tensor"),
        (v2.ToDtype(torch.int64), "returns torch.int64"),
        (v2.Grayscale(), "changes the shape of an image from 3x12x12 to 1x12x12"),
    ],
)
def test_transforms_that_cannot_be_adapted_are_refused_with_the_reason(
    transform: Callable[[Tensor], Any], reason: str
) -> None:
    augmentation = as_augmentation(transform)
    assert isinstance(augmentation, ImageTransform)
    with pytest.raises(UserError, match=reason):
        augmentation.check(3, (12, 12))


def test_a_module_of_the_native_form_is_unchanged_and_other_objects_are_refused() -> None:
    own = Augmentation(horizontal_flip=0.5)
    assert as_augmentation(own) is own
    with pytest.raises(UserError, match="str is not a function from an image"):
        as_augmentation("flip")


@pytest.mark.slow
def test_a_resumed_run_equals_an_undisturbed_one(in_tmp: Path) -> None:
    from opsin.commands.train import train
    from opsin.config import compose, from_saved

    flip = "augmentation._target_=torchvision.transforms.v2.RandomHorizontalFlip"
    words = (
        "datamodule.train_fraction=0.1",
        "trainer=cpu",
        "logger=none",
        "callbacks=no_pictures",
        "scheduler=constant",
    )
    keys = ["model=mlp", "model.hidden=8", flip, "+augmentation.p=0.4", *words, "report=false"]
    whole = compose([*keys, "trainer.max_epochs=2"], Path("whole"))
    train(whole)
    part = compose([*keys, "trainer.max_epochs=1"], Path("part"))
    train(part)
    train(from_saved(part.run, ["trainer.max_epochs=2"]))
    one, other = (torch.load(c.run.last, weights_only=True)["state_dict"] for c in (whole, part))
    assert all(torch.equal(value, other[key]) for key, value in one.items() if key.startswith("network."))
    assert whole.run.read_result().settings.augmentation == "RandomHorizontalFlip(p=0.4)"
    with pytest.raises(UserError, match=r"RandomCrop.*changes the shape"):
        train(compose(["augmentation._target_=torchvision.transforms.v2.RandomCrop", "+augmentation.size=8", *words]))
