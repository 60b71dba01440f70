"""Options that stop a training leave the runs that an earlier version trained with them readable."""

from dataclasses import replace

import pytest

from opsin.config import compose
from opsin.errors import UserError
from opsin.training.accelerator import check_devices
from opsin.training.plan import check_trainable, make_plan
from opsin.training.trainer import TrainerOptions


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trainer.strategy=fsdp", "trainer.sync_batchnorm=true"], r"fsdp cannot be combined with.*use trainer"),
        (["+optimizer.differentiable=true"], r"^optimizer.differentiable=true cannot train a network: .*Leave it out"),
        (["trainer.strategy=ddp", "trainer.sync_batchnorm=true", "+optimizer.differentiable=false"], None),
    ],
)
def test_options_are_refused_where_a_training_starts(words: list[str], message: str | None) -> None:
    plan = make_plan(compose(words))
    if message is None:
        check_trainable(plan)
        return
    with pytest.raises(UserError, match=message):
        check_trainable(plan)


def test_an_own_optimizer_can_have_an_option_of_the_same_name() -> None:
    plan = make_plan(compose(["+optimizer.differentiable=true"]))
    own = type("Own", (), {"__module__": "mine"})
    check_trainable(replace(plan, optimizer=replace(plan.optimizer, call=own)))


def test_a_run_of_several_gpus_is_evaluated_on_a_cpu() -> None:
    options = TrainerOptions(strategy="fsdp", devices=4, sync_batchnorm=True).on_one_device()
    check_devices("cpu", options.num_nodes, options.sync_batchnorm)
