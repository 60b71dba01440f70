"""The kernels of the optimizers of torch: mixed precision with clipped gradients, and the choice of a kernel."""

import copy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.plugins import MixedPrecision
from tiny import tiny
from torch.utils.data import DataLoader

from opsin.config import RunConfig, compose
from opsin.data.loader.batch_loader import Batch
from opsin.training import build
from opsin.training.lightning_trainer import make_trainer
from opsin.training.loss import ClassificationLoss
from opsin.training.module import Classifier
from opsin.training.plan import make_plan

NORM = 1e-3
"""A norm that the gradients exceed."""


@pytest.fixture(scope="module")
def composed() -> RunConfig:
    return compose(["trainer=cpu", "scheduler=constant", "augmentation=none"])


def made(composed: RunConfig, optimizer: dict[str, Any], **options: Any) -> tuple[Classifier, Any]:
    """Return the module of a tiny network with an optimizer of torch, and the options of its trainer."""
    tree = {**composed.tree, "optimizer": {"lr": 0.01, **optimizer}}
    tree["trainer"] = {**composed.tree["trainer"], "max_steps": 2, **options}
    plan = make_plan(replace(composed, tree=tree))
    torch.manual_seed(0)
    network = tiny(num_logits=3, in_channels=1, image_size=(8, 8))
    data: Any = SimpleNamespace(facts=lambda: {"counts": {"train": 8}}, batch_size=4)
    module = build.classifier(plan, data, network, ClassificationLoss([3, 3, 2]), record={})
    return module, replace(plan.trainer, limit_val_batches=0)


class Norms(Checkpoint):
    """Record the norm of the gradients of each step."""

    def __init__(self) -> None:
        self.found: list[float] = []

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        def record(*_: Any) -> None:
            gradients = [p.grad for p in pl_module.parameters() if p.grad is not None]
            self.found.append(float(torch.nn.utils.get_total_norm(gradients)))

        trainer.optimizers[0].register_step_post_hook(record)


def fit(module: Classifier, options: Any, folder: Path, precision: MixedPrecision | None = None) -> tuple[Any, Any]:
    """Take two steps, and return the trainer and the norms of the gradients."""
    norms = Norms()
    trainer = make_trainer(options, callbacks=[norms], loggers=[], folder=folder)
    if precision is not None:
        trainer.strategy.precision_plugin = precision
    batches = [Batch(torch.rand(4, 1, 8, 8), torch.tensor([0, 1, 2, 0]), torch.arange(4), key) for key in (1, 2)]
    trainer.fit(module, *[DataLoader(batches, batch_size=None)] * 2)
    return trainer, norms.found


@pytest.mark.parametrize("name", ["Adam", "AdamW", "SGD", "Adagrad"])
def test_bfloat16_steps_have_clipped_gradients(name: str, composed: RunConfig, tmp_path: Path) -> None:
    module, options = made(composed, {"_target_": f"torch.optim.{name}"}, precision="bf16", gradient_clip_norm=NORM)
    before = copy.deepcopy(module.network.state_dict())
    trainer, norms = fit(module, options, tmp_path)
    assert isinstance(trainer.precision_plugin, MixedPrecision)
    assert trainer.optimizers[0].param_groups[0]["fused"]
    assert norms == pytest.approx([NORM, NORM], rel=1e-3)
    assert not torch.equal(before["head.fc.weight"], module.network.state_dict()["head.fc.weight"])


def test_scaled_gradients_are_unscaled_before_they_are_clipped(composed: RunConfig, tmp_path: Path) -> None:
    """Lightning scales gradients on GPUs only; the scaler of the CPU works alike."""
    module, options = made(composed, {"_target_": "torch.optim.Adam"}, gradient_clip_norm=NORM)
    scaled = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))
    assert fit(module, options, tmp_path, scaled)[1] == pytest.approx([NORM, NORM], rel=1e-3)


@pytest.mark.parametrize(
    ("kernel", "is_fused"),
    [
        ({}, True),
        ({"foreach": False}, True),
        ({"foreach": None, "differentiable": False}, True),
        ({"foreach": True}, False),
        ({"fused": False}, False),
        ({"fused": None}, False),
    ],
)
@pytest.mark.parametrize("name", ["Adam", "SGD", "Adagrad"])
def test_a_chosen_kernel_takes_a_step(
    name: str, kernel: dict[str, bool | None], is_fused: bool, composed: RunConfig
) -> None:
    module, _ = made(composed, {"_target_": f"torch.optim.{name}", **kernel})
    optimizer = module._make_optimizer(module.network)
    group = optimizer.param_groups[0]
    assert {key: group[key] for key in kernel} == kernel
    assert bool(group["fused"]) is is_fused
    before = group["params"][0].detach().clone()
    module.network(torch.rand(4, 1, 8, 8)).square().mean().backward()
    optimizer.step()
    assert not torch.equal(before, group["params"][0])
