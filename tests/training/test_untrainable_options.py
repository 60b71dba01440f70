"""Options that stop a training leave the runs that an earlier version trained with them readable."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import callbacks

from opsin.config import RunConfig, compose
from opsin.errors import UserError
from opsin.runs.directory import RunDirectory
from opsin.training import build
from opsin.training.plan import UNUSABLE_CALLBACKS, RunPlan, check_trainable, make_plan
from opsin.training.trainer import TrainerOptions, check_hardware

TIMER = "{_target_: lightning.pytorch.callbacks.Timer, duration: '00:02:00:00'}"


@pytest.fixture(scope="module")
def composed() -> RunConfig:
    return compose([])


def plan_with(composed: RunConfig, section: str, values: dict[str, Any]) -> RunPlan:
    return make_plan(replace(composed, tree={**composed.tree, section: {**composed.tree[section], **values}}))


@pytest.mark.parametrize(
    ("section", "values", "message"),
    [
        ("trainer", {"strategy": "fsdp", "sync_batchnorm": True}, r"fsdp cannot be combined with.*use trainer"),
        ("trainer", {"strategy": "ddp", "sync_batchnorm": True}, None),
        ("optimizer", {"differentiable": True}, r"^optimizer.differentiable=true cannot train .*Leave it out"),
        ("optimizer", {"differentiable": False}, None),
    ],
)
def test_options_are_refused_where_a_training_starts(
    composed: RunConfig, section: str, values: dict[str, Any], message: str | None
) -> None:
    plan = plan_with(composed, section, values)
    if message is None:
        check_trainable(plan)
        return
    with pytest.raises(UserError, match=message):
        check_trainable(plan)


def test_an_own_optimizer_can_have_an_option_of_the_same_name(composed: RunConfig) -> None:
    plan = plan_with(composed, "optimizer", {"differentiable": True})
    own = type("Own", (), {"__module__": "mine"})
    check_trainable(replace(plan, optimizer=replace(plan.optimizer, call=own)))
    with pytest.raises(UserError, match=r"^optimizer\.differentiable=true"):
        check_trainable(plan)


@pytest.mark.parametrize("second", ["trainer.max_time=00:01:00:00", f"+callbacks.second={TIMER}"])
def test_only_one_limit_of_the_time_is_accepted(second: str) -> None:
    """Lightning ignores `max_time` beside its callback."""
    check_trainable(make_plan(compose([second])))
    with pytest.raises(UserError, match=r"^callbacks\.timer\.duration and \S+(duration|max_time): only one limit"):
        check_trainable(make_plan(compose([f"+callbacks.timer={TIMER}", second])))


UNUSABLE = {
    "BackboneFinetuning": ({}, r"Set model\.phases"),
    "BatchSizeFinder": ({}, r"Set datamodule\.batch_size=auto"),
    "GradientAccumulationScheduler": ({"scheduling": {2: 4}}, r"Set trainer\.accumulate_grad_batches"),
    "LearningRateFinder": ({}, r"Use .*find.lr"),
    "ModelPruning": ({"pruning_fn": "l1_unstructured"}, r"Leave it out"),
    "RichProgressBar": ({}, r"callbacks\.progress"),
    "StochasticWeightAveraging": ({"swa_lrs": 0.01}, r"Use callbacks=ema"),
    "TQDMProgressBar": ({}, r"callbacks\.progress"),
}
"""Arguments of the callbacks of Lightning that cannot be used, and a part of the message."""


@pytest.mark.parametrize("name", UNUSABLE)
def test_callbacks_of_lightning_that_contradict_a_run_are_refused(composed: RunConfig, name: str) -> None:
    arguments, way_out = UNUSABLE[name]
    plan = plan_with(composed, "callbacks", {"mine": {"_target_": f"lightning.pytorch.callbacks.{name}", **arguments}})
    with pytest.raises(UserError, match=rf"^callbacks\.mine: {name} of Lightning cannot be used: .*{way_out}"):
        check_trainable(plan)
    own = type("Own", (plan.callbacks["mine"].call,), {"__module__": "mine"})
    derived = {**plan.callbacks, "mine": replace(plan.callbacks["mine"], call=own)}
    with pytest.raises(UserError, match=rf"{name} of Lightning cannot be used"):
        check_trainable(replace(plan, callbacks=derived))


def test_each_unusable_callback_is_one_of_lightning() -> None:
    assert UNUSABLE.keys() == UNUSABLE_CALLBACKS.keys()
    assert all(hasattr(callbacks, name) for name in UNUSABLE)


@pytest.mark.parametrize("name", ["ModelCheckpoint", "EMAWeightAveraging", "EarlyStopping"])
def test_other_callbacks_of_lightning_are_accepted(composed: RunConfig, name: str) -> None:
    arguments = {"monitor": "val/loss"} if name == "EarlyStopping" else {}
    values = {"mine": {"_target_": f"lightning.pytorch.callbacks.{name}", **arguments}}
    check_trainable(plan_with(composed, "callbacks", values))


@pytest.mark.parametrize(
    ("target", "arguments"),
    [
        ("opsin.training.callbacks.Checkpoints", {"monitor": "val/loss"}),
        ("opsin.training.callbacks.EarlyStopping", {"monitor": "val/loss"}),
        ("lightning.pytorch.callbacks.EarlyStopping", {"monitor": "val/loss", "patience": 5}),
    ],
)
def test_callbacks_with_the_same_place_in_a_checkpoint_are_refused(
    composed: RunConfig, tmp_path: Path, target: str, arguments: dict[str, Any]
) -> None:
    plan = plan_with(composed, "callbacks", {"mine": {"_target_": target, **arguments}})
    with pytest.raises(UserError, match=r"^callbacks\.(checkpoints|early_stopping) and callbacks\.mine have the same"):
        build.trainer(plan, RunDirectory(tmp_path))


def test_two_early_stoppings_by_different_metrics_are_accepted(composed: RunConfig, tmp_path: Path) -> None:
    mine = {"_target_": "lightning.pytorch.callbacks.EarlyStopping", "monitor": "val/acc", "mode": "max"}
    build.trainer(plan_with(composed, "callbacks", {"mine": mine}), RunDirectory(tmp_path))


def test_a_run_of_several_gpus_is_evaluated_on_a_cpu() -> None:
    options = TrainerOptions(strategy="fsdp", devices=[0, 1], num_nodes=2, sync_batchnorm=True, accelerator="cpu")
    assert check_hardware(options.on_one_device()) == "cpu"
