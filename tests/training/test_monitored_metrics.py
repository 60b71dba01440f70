"""Metrics named by configs: every place, wrong names, wrong directions, and metrics that are never measured."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from opsin.commands.train import train
from opsin.config import compose
from opsin.errors import UserError
from opsin.runs import metric_registry
from opsin.training.plan import make_plan

LIGHTNING = "lightning.pytorch.callbacks"
PLACES = {
    "monitor.metric": (),
    "callbacks.checkpoints.monitor": (),
    "callbacks.early_stopping.monitor": (),
    "scheduler.monitor": ("scheduler=plateau",),
    "+callbacks.x.monitor": (f"+callbacks.x._target_={LIGHTNING}.ModelCheckpoint",),
    "+callbacks.y.monitor": (f"+callbacks.y._target_={LIGHTNING}.EarlyStopping",),
    "+callbacks.pruning.monitor": tuple(
        f"+callbacks.pruning.{key}={value}"
        for key, value in {
            "_target_": "opsin.training.callbacks.Pruning",
            "storage": "s",
            "study": "s",
            "trial": 0,
            "pruner": "median",
        }.items()
    ),
}


def refusal(*words: str) -> str:
    with pytest.raises(UserError) as caught:
        make_plan(compose(words))
    return str(caught.value)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(("wrong", "nearest"), [("val_loss", "val/loss"), ("val/acurracy", "val/acc")])
def test_a_metric_that_does_not_exist_is_refused_at_the_start(place: str, wrong: str, nearest: str) -> None:
    message = refusal(*PLACES[place], f"{place}={wrong}")
    assert f"{place.lstrip('+')}={wrong}: there is no metric {wrong}: did you mean {nearest}?" in message
    assert "[set " in message


@pytest.mark.slow
@pytest.mark.parametrize("place", PLACES)
def test_test_metrics_are_refused(place: str) -> None:
    assert "the test images are read once" in refusal(*PLACES[place], f"{place}=test/acc")


@pytest.mark.slow
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("metric", ["val/acc", "val/ece", "val/f1_macro", "val/auroc", "train/loss"])
def test_every_monitor_key_accepts_every_metric(place: str, metric: str) -> None:
    plan = make_plan(compose([*PLACES[place], f"{place}={metric}"]))
    targets = (plan.schedule, *plan.callbacks.values())
    assert metric in (plan.monitor.metric, *(target.arguments.get("monitor") for target in targets))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "cause"),
    [
        (("trainer.limit_val_batches=0",), "limit_val_batches=0 turns validation off"),
        (("trainer.limit_val_batches=0.0",), "turns validation off"),
        (("trainer.check_val_every_n_epoch=10", "trainer.max_epochs=4"), "is above trainer.max_epochs=4"),
    ],
)
@pytest.mark.parametrize("place", PLACES)
def test_a_metric_that_is_never_measured_is_refused(place: str, words: tuple[str, ...], cause: str) -> None:
    others = ("monitor.metric=train/loss",) if place != "monitor.metric" else ()
    message = refusal(*PLACES[place], *others, f"{place}=val/f1_macro", *words)
    assert f"{place.lstrip('+')}=val/f1_macro is never measured" in message
    assert cause in message


def test_training_metrics_do_not_need_validation() -> None:
    plan = make_plan(compose(["monitor.metric=train/loss", "trainer.limit_val_batches=0"]))
    assert (plan.monitor.metric, plan.trainer.limit_val_batches) == ("train/loss", 0)


def test_a_run_without_training_batches_is_refused() -> None:
    assert "trainer.limit_train_batches" in refusal("trainer.limit_train_batches=0")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("section", "words"),
    [
        ("monitor", ()),
        ("callbacks.checkpoints", ()),
        ("callbacks.early_stopping", ()),
        ("scheduler", ("scheduler=plateau",)),
    ],
)
def test_a_direction_cannot_be_set(section: str, words: tuple[str, ...]) -> None:
    message = refusal(*words, f"+{section}.mode=max")
    assert f"{section}.mode cannot be set: the direction follows from the metric (val/loss: lower is better)" in message
    with pytest.raises(UserError, match=rf"{section}\.mode cannot be set: .*follows from the metric"):
        compose([*words, f"{section}.mode=max"])  # without a plus, which Hydra itself refuses


def callbacks(*words: str) -> Mapping[str, Any]:
    return make_plan(compose(words)).callbacks


@pytest.mark.slow
@pytest.mark.parametrize("callback", ["ModelCheckpoint", "EarlyStopping"])
@pytest.mark.parametrize(
    ("metric", "right", "wrong"),
    [("val/acc", "max", "min"), ("val/ece", "min", "max"), ("val/auroc", "max", "min"), ("train/loss", "min", "max")],
)
def test_the_mode_of_lightning_callbacks_follows_from_the_metric(
    callback: str, metric: str, right: str, wrong: str
) -> None:
    words = (f"+callbacks.x._target_={LIGHTNING}.{callback}", f"+callbacks.x.monitor={metric}")
    assert callbacks(*words)["x"].arguments["mode"] == right
    assert callbacks(*words, f"+callbacks.x.mode={right}")["x"].arguments["mode"] == right
    message = refusal(*words, f"+callbacks.x.mode={wrong}")
    assert f"callbacks.x.mode={wrong} is wrong for {metric}" in message
    assert f"set callbacks.x.mode={right}" in message


@pytest.mark.parametrize("counter", ["epoch", "step"])
def test_model_checkpoint_may_keep_the_newest_epochs(counter: str) -> None:
    words = (f"+callbacks.x._target_={LIGHTNING}.ModelCheckpoint", f"+callbacks.x.monitor={counter}")
    assert callbacks(*words, "+callbacks.x.mode=max")["x"].arguments["mode"] == "max"


USERS_CALLBACK = """
import lightning as L
from opsin.runs.metric_registry import register_metric

register_metric("regret", higher_is_better=False, splits=("val",))

class Regret(L.Callback):
    def on_validation_epoch_end(self, trainer, pl_module):
        pl_module.log("val/regret", float(trainer.current_epoch))
"""


@pytest.fixture
def _users_callback(in_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metric_registry, "_TABLE", dict(metric_registry._TABLE))
    (in_tmp / "regrets.py").write_text(USERS_CALLBACK)
    monkeypatch.syspath_prepend(in_tmp)
    monkeypatch.setenv("OPSIN_TARGETS", "regrets")


@pytest.mark.slow
@pytest.mark.usefixtures("_users_callback")
def test_a_metric_of_a_users_callback_selects_the_best_epoch_and_ranks_runs(in_tmp: Path) -> None:
    from opsin.evaluation.comparison.leaderboard import leaderboard

    quick = ("model=mlp", "trainer=cpu", "logger=none", "trainer.max_epochs=3", "report=false", "test=false")
    run = compose([*quick, "+callbacks.regret={_target_: regrets.Regret}", "monitor.metric=val/regret"])
    run.run.path.mkdir(parents=True)
    assert train(run) == 0.0
    result = run.run.read_result()
    assert result.best_epoch == 1
    assert result.custom_metrics[0].name == "regret"
    metric_registry._TABLE.pop("regret")  # as in a process that never imports the callback
    assert not leaderboard([run.run], "val/regret").higher_is_better


def test_an_unregistered_metric_of_a_callback_is_refused_with_a_correction() -> None:
    assert "needs opsin.runs.metric_registry.register_metric" in refusal("monitor.metric=val/regret")
