"""Functions of the user that return an object of the wrong kind are named, each in one message."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from sharded import source
from torch import Tensor, nn
from torch.optim import SGD
from torch.optim.lr_scheduler import ReduceLROnPlateau, StepLR

from opsin.config import compose
from opsin.config.target_lookup import Target
from opsin.data import DataOptions, ImageDataModule
from opsin.errors import UserError
from opsin.training import build
from opsin.training.module import Classifier
from opsin.training.plan import RunPlan, make_plan


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> RunPlan:
    return make_plan(compose(["model=mlp", "datamodule.image_size=8", f"data_dir={tmp_path_factory.mktemp('data')}"]))


def classifier(plan: RunPlan) -> Classifier:
    data = build.data(plan)
    loss = build.loss(plan, data)
    network, _ = build.network(plan, data, loss.num_logits)
    return build.classifier(plan, data, network, loss, {})


def named(name: str, result: Callable[..., Any]) -> Target[Any]:
    result.__name__ = name
    return Target(result)


@pytest.mark.parametrize(
    ("result", "found"),
    [(None, "nothing"), ((1, 2), "an object of type tuple"), ({"train": 1}, "an object of type dict")],
)
def test_a_function_that_makes_no_dataset_is_named(plan: RunPlan, result: Any, found: str) -> None:
    with pytest.raises(UserError, match=rf"^datamodule\._target_: photos returns {found}\. Let it return an opsin\."):
        build.data(replace(plan, dataset=named("photos", lambda: result)))


@pytest.mark.parametrize(("wrap", "found"), [(lambda _: None, "nothing"), (lambda made: [made], "type list")])
def test_a_function_that_makes_no_optimizer_is_named(plan: RunPlan, wrap: Callable[[Any], Any], found: str) -> None:
    own = replace(plan, optimizer=named("steps", lambda params, lr: wrap(SGD(params, lr))))
    module = classifier(own)
    with pytest.raises(UserError, match=rf"^optimizer\._target_: steps returns .*{found}\. Let it return a torch"):
        module._make_optimizer(module.network)


@pytest.mark.parametrize(
    ("wrap", "found"),
    [
        (lambda _: None, "nothing"),
        (lambda made: {"scheduler": made}, "type dict"),
        (lambda made: [made], "type list"),
        (lambda made: [{"schedule": made}], "type list"),
        (lambda made: ({"scheduler": made},), "type tuple"),
    ],
)
def test_a_function_that_makes_no_schedule_is_named(plan: RunPlan, wrap: Callable[[Any], Any], found: str) -> None:
    module = classifier(replace(plan, schedule=named("falls", lambda optimizer: wrap(StepLR(optimizer, 1)))))
    with pytest.raises(UserError, match=rf"^scheduler\._target_: falls returns .*{found}\. Let it return a schedule"):
        module._make_schedule(SGD([nn.Parameter(torch.ones(1))], 0.1), 10, 5)


@pytest.mark.parametrize("wrap", [lambda made: made, lambda made: [{"scheduler": made, "interval": "epoch"}]])
def test_a_plateau_without_its_metric_is_named(plan: RunPlan, wrap: Callable[[Any], Any]) -> None:
    module = classifier(replace(plan, schedule=named("falls", lambda optimizer: wrap(ReduceLROnPlateau(optimizer)))))
    with pytest.raises(UserError, match=r"type ReduceLROnPlateau\. Let it return its metric too"):
        module._make_schedule(SGD([nn.Parameter(torch.ones(1))], 0.1), 10, 5)


@pytest.mark.parametrize("wrap", [lambda made: made, lambda made: [{"scheduler": made}], lambda _: []])
def test_schedules_of_your_own_are_accepted(plan: RunPlan, wrap: Callable[[Any], Any]) -> None:
    module = classifier(replace(plan, schedule=named("falls", lambda optimizer: wrap(StepLR(optimizer, 1)))))
    made = module._make_schedule(SGD([nn.Parameter(torch.ones(1))], 0.1), 10, 5)
    assert all(isinstance(config["scheduler"], StepLR) for config in made)


class Own(nn.Module):
    """An augmentation that returns the result of a function of images and targets."""

    def __init__(self, result: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.result = result

    def forward(self, images: Tensor, targets: Tensor, key: int) -> Any:
        return self.result(images, targets)


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (lambda images, targets: images, "Own returns Tensor: return a tuple"),
        (lambda images, targets: None, "Own returns NoneType: return a tuple"),
        (lambda images, targets: (images, targets.tolist()), "Own returns tuple: return a tuple .*, as tensors"),
        (lambda images, targets: (images[:2], targets[:2]), r"of shape \(2, .* and 2 targets from .*keep their number"),
        (lambda images, targets: (images, targets[:2]), "and 2 targets from images"),
        (lambda images, targets: (images[..., 1:], targets), "keep their number and size"),
        (lambda images, targets: ((images * 255).byte(), targets), r"images of type torch\.uint8: return floats"),
        (lambda images, targets: [images / 2, targets], None),
        (lambda images, targets: (images.half(), targets), None),
    ],
)
def test_an_augmentation_of_your_own_that_loses_images_is_named(
    result: Callable[[Tensor, Tensor], Any], message: str | None, tmp_path: Path
) -> None:
    data = ImageDataModule(source(60), DataOptions(data_dir=str(tmp_path)), augmentation=Own(result))
    batch = next(iter(data.train_dataloader()))
    if message is None:
        found = data.finish(batch, augment=True).images
        assert (found.shape, found.dtype) == (batch.images.shape, torch.float32)
        return
    with pytest.raises(UserError, match=f"^augmentation: .*{message}"):
        data.finish(batch, augment=True)
