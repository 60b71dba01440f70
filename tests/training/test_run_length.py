"""Runs that would not train or not reach a phase are refused before they train."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from torch.optim.lr_scheduler import CyclicLR

from opsin.config import compose
from opsin.config.target_lookup import Target
from opsin.data import ImageDataModule
from opsin.errors import UserError
from opsin.training import build
from opsin.training.plan import RunPlan, make_plan
from opsin.training.run_length import check_run_length, steps_per_epoch, warn_unreached

WORDS = ("trainer=cpu", "datamodule.batch_size=64", "datamodule.train_fraction=0.2")  # five steps per epoch
PHASES = "model.phases=[{epoch: 2, trainable: all}]"


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


def checked(data_dir: Path, *words: str) -> tuple[RunPlan, ImageDataModule]:
    plan = make_plan(compose(["model=simple_cnn", *WORDS, f"data_dir={data_dir}", *words]))
    data = build.data(plan)
    data.setup("fit")
    check_run_length(plan, data)
    return plan, data


def test_steps_per_epoch_depend_on_accumulation_and_limits(data_dir: Path) -> None:
    for words, steps in (
        ((), 5),
        (("trainer.accumulate_grad_batches=2",), 3),
        (("trainer.limit_train_batches=0.5",), 2),
    ):
        assert steps_per_epoch(*checked(data_dir, *words)) == steps


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("trainer.limit_train_batches=0.1",), r"trainer\.limit_train_batches=0\.1 selects none of the 5 batch"),
        (("trainer.max_steps=0",), r"trainer\.max_steps=0 trains nothing"),
        (("trainer.max_time='00:00:00:00'",), r"trainer\.max_time=00:00:00:00 trains nothing"),
        (
            ("trainer.max_time='02:00:00'",),
            r"trainer\.max_time=02:00:00 is not a duration: write days, hours, .*DD:HH:MM:SS",
        ),
        (("trainer.max_time=2h",), r"trainer\.max_time=2h is not a duration"),
        (
            ("trainer.max_steps=9", PHASES),
            r"the phase at epoch 2 never starts, because trainer\.max_steps=9 is 2 epochs of 5 steps",
        ),
        (("trainer.max_steps=15", "model.unfreeze_every=3"), "the phase at epoch 3 never starts"),
    ],
)
def test_a_run_too_short_for_its_settings_is_refused(data_dir: Path, words: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        checked(data_dir, *words)


@pytest.mark.parametrize(
    "words",
    [
        ("trainer.max_steps=1", "trainer.check_val_every_n_epoch=2"),
        ("trainer.max_steps=11", PHASES),
    ],
)
def test_a_run_of_the_minimum_length_is_accepted(data_dir: Path, words: tuple[str, ...]) -> None:
    assert steps_per_epoch(*checked(data_dir, *words)) == 5


def test_stages_and_rates_that_are_never_reached_are_named(data_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    words = ("trainer.max_epochs=3", "model.unfreeze_every=2", "scheduler=cosine", "scheduler.warmup_epochs=3")
    plan, data = checked(data_dir, *words)
    network, _ = build.network(plan, data, 10, pretrained=False)
    schedule = build.freeze_schedule(plan, network)
    warn_unreached(plan, data, schedule)
    missing = [stage for stage in network.stages if stage not in schedule.at(2).trainable]
    assert missing
    assert f"ends training before the phase at epoch 4: {', '.join(missing)} never train" in caplog.text
    assert "scheduler.warmup_epochs=3 is not below trainer.max_epochs=3" in caplog.text


@pytest.mark.parametrize(
    ("words", "messages"),
    [
        (
            ("trainer.max_steps=7", "model.unfreeze_every=1"),
            ["trainer.max_steps=7 (5 steps per epoch) ends training before the phase at epoch 2"],
        ),
        (
            ("trainer.max_steps=5", "scheduler=cosine", "scheduler.warmup_epochs=1"),
            ["scheduler.warmup_epochs=1 is not below trainer.max_steps=5 (5 steps per epoch)"],
        ),
        (("trainer.max_steps=6", "scheduler=plateau", "scheduler.warmup_epochs=1"), []),
        (
            ("trainer.max_steps=99", "trainer.max_epochs=2", "scheduler=step", "scheduler.warmup_epochs=2.5"),
            ["scheduler.warmup_epochs=2.5 is not below trainer.max_epochs=2"],
        ),
    ],
)
def test_a_limit_of_steps_counts_for_what_is_never_reached(
    data_dir: Path, words: tuple[str, ...], messages: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    plan, data = checked(data_dir, *words)
    network, _ = build.network(plan, data, 10, pretrained=False)
    caplog.clear()
    warn_unreached(plan, data, build.freeze_schedule(plan, network))
    found = [record.getMessage() for record in caplog.records]
    assert [text[: len(message)] for text, message in zip(found, messages, strict=True)] == messages


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, ["scheduler.step_size_up=2000 counts epochs and is not below trainer.max_epochs=30"]),
        ({"step_size_up": 30}, ["scheduler.step_size_up=30 counts epochs and is not below trainer.max_epochs=30"]),
        ({"step_size_up": 5}, []),
    ],
)
def test_a_cycle_that_never_reaches_its_highest_rate_is_named(
    data_dir: Path, arguments: dict[str, Any], message: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    plan, data = checked(data_dir)
    cycled = replace(plan, schedule=Target(CyclicLR, {"base_lr": 0.001, "max_lr": 0.01, **arguments}))
    network, _ = build.network(plan, data, 10, pretrained=False)
    caplog.clear()
    warn_unreached(cycled, data, build.freeze_schedule(plan, network))
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == message


def own_schedule(optimizer: Any, *, warmup_epochs: float = 20.0) -> Any:
    raise NotImplementedError


def test_the_default_warm_up_of_an_own_schedule_is_known(caplog: pytest.LogCaptureFixture) -> None:
    plan = replace(make_plan(compose(["trainer.max_epochs=7"])), schedule=Target(own_schedule, {}))
    warn_unreached(plan, SimpleNamespace(), SimpleNamespace(phases=[]))  # type: ignore[arg-type]
    assert "scheduler.warmup_epochs=20 is not below trainer.max_epochs=7" in caplog.text
