"""Targets from torch, timm and Lightning: each one that a section accepts is made from YAML values and used."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny

from opsin.config import RunConfig, compose, target_lookup
from opsin.config.signatures import signature_model
from opsin.errors import UserError
from opsin.training.optim.parameter_groups import parameter_groups
from opsin.training.permitted_targets import (
    AUGMENTATIONS,
    CALLBACKS,
    DATASETS,
    LOGGERS,
    NETWORKS,
    OPTIMIZERS,
    SCHEDULES,
)
from opsin.training.plan import RunPlan, make_plan

ARGUMENTS: dict[str, dict[str, Any]] = {
    "StepLR": {"step_size": 2},
    "plateau": {"monitor": "val/loss"},
    "MultiStepLR": {"milestones": [1, 2]},
    "ExponentialLR": {"gamma": 0.9},
    "CosineAnnealingLR": {"T_max": 5},
    "CyclicLR": {"base_lr": 0.001, "max_lr": 0.01},
    "CosineAnnealingWarmRestarts": {"T_0": 2},
    "OneCycleLR": {"max_lr": 0.01},
    "GradientAccumulationScheduler": {"scheduling": {"2": 4}},
    "EarlyStopping": {"monitor": "val/loss"},
    "ModelPruning": {"pruning_fn": "l1_unstructured"},
    "OnExceptionCheckpoint": {"dirpath": "folder"},
    "StochasticWeightAveraging": {"swa_lrs": 0.01},
    "Pruning": {"monitor": "val/loss", "storage": "file", "study": "a", "trial": 0, "pruner": "median"},
    "Checkpoints": {"monitor": "val/loss"},
    "TensorBoardLogger": {"name": None},
}
"""Arguments of the constructors that need some."""

IMPOSSIBLE = {
    "torch.optim.Muon": "Muon only supports 2D parameters",
    "lightning.pytorch.loggers.CometLogger": "comet",
    "lightning.pytorch.loggers.MLFlowLogger": "filesystem tracking backend",  # without a tracking_uri
    "lightning.pytorch.callbacks.ThroughputMonitor": "batch_size_fn",
}
"""Part of the message for the constructors that this network or this machine cannot use, or that need a function."""


@pytest.fixture(scope="module")
def composed() -> RunConfig:
    return compose([])


def plan_with(composed: RunConfig, section: str, name: str) -> RunPlan:
    values = {"_target_": name, **ARGUMENTS.get(name.rpartition(".")[2], {})}
    kept = {"checkpoints": composed.tree["callbacks"]["checkpoints"]} if section == "callbacks" else {}
    many = section in ("callbacks", "logger")
    return make_plan(replace(composed, tree={**composed.tree, section: {**kept, "mine": values} if many else values}))


def optimizer_of(plan: RunPlan) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    network = tiny(num_logits=3, in_channels=1, image_size=(8, 8))
    groups = parameter_groups(network, replace(plan.groups, weight_decay=0.01), plan.fine_tuning)
    return network, plan.optimizer.build(params=groups, lr=0.01, weight_decay=0.01)


@pytest.mark.parametrize("name", OPTIMIZERS.by_name)
def test_each_optimizer_trains_and_restores_its_state(name: str, composed: RunConfig) -> None:
    plan = plan_with(composed, "optimizer", name)
    if name in IMPOSSIBLE:
        with pytest.raises(UserError, match=f"cannot be created: {IMPOSSIBLE[name]}"):
            optimizer_of(plan)
        return
    network, optimizer = optimizer_of(plan)
    before = [parameter.detach().clone() for parameter in network.parameters()]

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = network(torch.rand(4, 1, 8, 8)).square().mean()
        loss.backward()
        return loss

    for _ in range(2):
        optimizer.step(closure)
    assert any(not torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))
    optimizer_of(plan)[1].load_state_dict(optimizer.state_dict())


def test_optimizers_of_timm_are_listed() -> None:
    own = {name.removeprefix("timm.optim.") for name in OPTIMIZERS.by_name if name.startswith("timm.")}
    assert {"Muon", "Lion", "Lamb", "Adan", "MADGRAD", "SGDW"} <= own
    assert not own & {"Adam", "SGD", "Lookahead", "Optimizer"}


@pytest.mark.parametrize("name", SCHEDULES.by_name)
def test_each_schedule_changes_an_optimizer_twice(name: str, composed: RunConfig) -> None:
    plan = plan_with(composed, "scheduler", name)
    for _ in range(2):  # the search for a batch size builds schedules of its own
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1, momentum=0.9)
        built: Any = plan.schedule.build(optimizer=optimizer, total_steps=10, steps_per_epoch=2)
        rates = []
        for scheduler in [config["scheduler"] for config in built] if isinstance(built, list) else [built]:
            for _ in range(4):
                optimizer.step()
                scheduler.step(*([1.0] if name.endswith(".plateau") else []))
                rates.append(optimizer.param_groups[0]["lr"])
        constant = name.endswith((".constant", ".plateau", ".step"))  # within so few steps
        assert (len({0.1, *rates}) > 1) != constant


def test_a_schedule_whose_state_replaces_the_config_has_a_substitute() -> None:
    with pytest.raises(UserError, match=r"LROnPlateau is not accepted: .*\. Use scheduler=plateau$"):
        SCHEDULES.resolve("torch.optim.lr_scheduler.ReduceLROnPlateau")


@pytest.mark.parametrize("section", ["callbacks", "logger"])
def test_each_callback_and_logger_of_the_libraries_is_made(section: str, composed: RunConfig, in_tmp: Path) -> None:
    constructors = CALLBACKS if section == "callbacks" else LOGGERS
    for name in (name for name in constructors.by_name if name.startswith("lightning.")):
        if name in IMPOSSIBLE:
            with pytest.raises(UserError, match=IMPOSSIBLE[name]):
                made(plan_with(composed, section, name), composed, in_tmp)
        else:
            built = made(plan_with(composed, section, name), composed, in_tmp)
            assert type(built).__name__ == name.rpartition(".")[2]


def made(plan: RunPlan, composed: RunConfig, folder: Path) -> Any:
    return {**plan.callbacks, **plan.loggers}["mine"].build(run=composed.run, save_dir=str(folder))


def test_the_package_of_a_name_is_the_only_one_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Importing timm takes a second, which runs with an optimizer of torch should not pay."""
    target_lookup._accepted.cache_clear()
    imported: list[str] = []
    real = __import__("importlib").import_module
    monkeypatch.setattr(
        "opsin.config.target_lookup.importlib.import_module", lambda name: imported.append(name) or real(name)
    )
    assert OPTIMIZERS.resolve("torch.optim.Adam") is torch.optim.Adam
    assert imported == ["torch.optim"]


TRANSFORMS = [name for name in AUGMENTATIONS.by_name if name.startswith("torchvision.")]


def test_each_transform_of_torchvision_has_a_signature_for_yaml() -> None:
    assert len(TRANSFORMS) > 40
    for name in TRANSFORMS:
        annotations = [field.annotation for field in signature_model(AUGMENTATIONS.by_name[name]).model_fields.values()]
        assert "Number" not in str(annotations), name


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("GaussianBlur", {"kernel_size": 4}, "Kernel size value should be an odd"),
        ("RandomErasing", {"p": 2}, "should be a floating point value in the interval"),
        ("ColorJitter", {"hue": 0.9}, "hue values should be between"),
        ("RandomRotation", {"degrees": -10}, "degrees"),
        ("RandomAffine", {"degrees": 5, "translate": [2, 2]}, "translation values should be between 0 and 1"),
    ],
)
def test_a_transform_that_refuses_its_arguments_gives_one_message(
    name: str, arguments: dict[str, Any], message: str, composed: RunConfig
) -> None:
    values = {"_target_": f"torchvision.transforms.v2.{name}", **arguments}
    plan = make_plan(replace(composed, tree={**composed.tree, "augmentation": values}))
    with pytest.raises(UserError, match=f"{name} cannot be created: .*{message}"):
        plan.augmentation.build()


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("RandomRotation", {"degrees": 10}, "degrees=[-10.0, 10.0]"),
        ("RandomRotation", {"degrees": 7.5}, "degrees=[-7.5, 7.5]"),
        ("RandomRotation", {"degrees": [0, 10]}, "degrees=[0.0, 10.0]"),
        ("RandomAffine", {"degrees": 5, "shear": 2}, "degrees=[-5.0, 5.0]"),
    ],
)
def test_an_angle_is_a_number_or_a_list(
    name: str, arguments: dict[str, Any], expected: str, composed: RunConfig
) -> None:
    values = {"_target_": f"torchvision.transforms.v2.{name}", **arguments}
    plan = make_plan(replace(composed, tree={**composed.tree, "augmentation": values}))
    assert expected in str(plan.augmentation.build())


def test_errors_of_every_library_that_a_section_names_are_explained() -> None:
    sections = (NETWORKS, DATASETS, AUGMENTATIONS, OPTIMIZERS, SCHEDULES, CALLBACKS, LOGGERS)
    named = {package.partition(".")[0] for section in sections for package in section.packages}
    assert named == {"opsin", *target_lookup.LIBRARIES}
