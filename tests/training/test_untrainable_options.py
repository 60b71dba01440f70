"""Options that stop a training leave the runs that an earlier version trained with them readable."""

from dataclasses import replace
from typing import Any

import pytest

from opsin.config import RunConfig, compose
from opsin.errors import UserError
from opsin.training.plan import RunPlan, check_trainable, make_plan
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


def test_a_run_of_several_gpus_is_evaluated_on_a_cpu() -> None:
    options = TrainerOptions(strategy="fsdp", devices=[0, 1], num_nodes=2, sync_batchnorm=True, accelerator="cpu")
    assert check_hardware(options.on_one_device()) == "cpu"
