"""Every key of every shipped config is applied on resume, or refused by name."""

import inspect
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import yaml

from opsin.config import compose, resume_rules
from opsin.config.resume_rules import SavedState, check_steps, idle_remark, nothing_to_train, refusal, refused_by_state
from opsin.errors import UserError
from opsin.evaluation.comparison import recipes
from opsin.runs import neutral_keys
from opsin.training.callbacks import EarlyStopping
from opsin.training.plan import with_defaults
from opsin.training.trainer import TrainerOptions

PARTS = {
    "optimizer": ("adam", "adamw", "sgd"),
    "scheduler": ("constant", "cosine", "onecycle", "plateau", "step"),
    "callbacks": ("default", "ema", "no_early_stopping"),
    "augmentation": ("none", "digits", "mixup_cutmix"),
    "trainer": ("cpu", "auto"),
}
APPLIED = (
    *("optimizer.lr", "optimizer.weight_decay", "optimizer.nesterov", "optimizer.betas", "optimizer.momentum"),
    *("scheduler.", "augmentation.", "callbacks.", "logger.", "trainer.", "feature_cache."),
    *("data_dir", "output_dir", "test", "report", "resume", "tags", "verify_checkpoints"),
    *("datamodule.data_dir", "datamodule.eval_batch_size", "datamodule.on_device"),
)
"""Keys, or beginnings of keys, that a resumed run may apply; all others are refused."""


def keys(tree: Mapping[str, Any], above: str = "") -> list[str]:
    found = []
    for key, value in tree.items():
        found += keys(value, f"{above}{key}.") if isinstance(value, Mapping) else [f"{above}{key}"]
    return found


@pytest.mark.parametrize(("group", "option"), [(group, option) for group in PARTS for option in PARTS[group]])
def test_every_key_of_the_shipped_configs_has_a_rule(group: str, option: str) -> None:
    tree = compose([f"{group}={option}"]).tree
    for key in keys(tree):
        reason = refusal(key, tree, {key: ("an old value", "a new value")})
        assert reason is None or len(reason) > 10, key
        if not key.startswith(APPLIED):
            assert reason, key
        if key.endswith("_target_") and not key.startswith("logger."):  # loggers have no saved state
            assert reason, key
    for key in ("seed", "model.weights", "loss.label_smoothing", "distillation.labels", "monitor.metric"):
        assert refusal(key, tree, {key: (1, 2)}), key
    for key in ("datamodule.batch_size", "datamodule.fold", "trainer.accumulate_grad_batches"):
        assert refusal(key, tree, {key: (1, 2)}), key
    for key in ("optimizer.lr", "trainer.max_epochs", "callbacks.early_stopping.patience"):
        assert refusal(key, tree, {key: (1, 2)}) is None, key


@pytest.mark.parametrize("name", ["CyclicLR", "OneCycleLR"])
@pytest.mark.parametrize(
    ("cycles", "refused"), [({}, {"lr", "betas", "momentum"}), ({"cycle_momentum": False}, {"lr"})]
)
def test_options_that_a_cycle_sets_are_fixed(name: str, cycles: dict[str, bool], refused: set[str]) -> None:
    tree = with_defaults({"scheduler": {"_target_": f"torch.optim.lr_scheduler.{name}", **cycles}})
    found = {name for name in ("lr", "betas", "momentum", "eps") if refusal(f"optimizer.{name}", tree, {})}
    assert found == refused


@pytest.mark.parametrize(
    ("limit", "refused"), [("3", True), ("1", True), ("0.5", True), ("1.0", False), ("0", False), ("0.0", False)]
)
def test_the_images_of_a_limited_validation_are_fixed(limit: str, refused: bool) -> None:
    tree = {"trainer": {"limit_val_batches": yaml.safe_load(limit)}}
    key = "datamodule.eval_batch_size"
    assert bool(refusal(key, tree, {key: (64, 32)})) == refused
    assert refusal("datamodule.on_device", tree, {}) is None


def test_a_run_stopped_early_continues_with_more_patience() -> None:
    state = SavedState(step=10, best_step=4, epochs=3, best_epoch=1, stopped="no improvement", waited=2)
    tree = compose(["trainer.max_epochs=8", "callbacks.early_stopping.patience=2"]).tree
    assert nothing_to_train(tree, state)
    tree["callbacks"]["early_stopping"]["patience"] = 3
    assert not nothing_to_train(tree, state)
    tree["trainer"]["max_epochs"] = 3
    assert nothing_to_train(tree, state)


def test_a_key_that_is_not_set_has_the_default_of_its_signature() -> None:
    removed = ("trainer.max_epochs", "trainer.max_steps", "trainer.limit_val_batches")
    tree = with_defaults(compose([*(f"~{key}" for key in removed), "~callbacks.early_stopping.patience"]).tree)
    epochs, patience = TrainerOptions().max_epochs, inspect.signature(EarlyStopping).parameters["patience"].default
    state = SavedState(step=10, best_step=4, epochs=epochs - 1, best_epoch=1, stopped=None, waited=0)
    assert not nothing_to_train(tree, state)
    assert refused_by_state({"optimizer.lr": (0.1, 0.2)}, tree, state) == {}
    assert f"{epochs} of trainer.max_epochs={epochs} epochs" in idle_remark(tree, replace(state, epochs=epochs))
    check_steps(tree, state)
    stopped = replace(state, stopped="no improvement", waited=patience - 1)
    assert not nothing_to_train(tree, stopped)
    assert nothing_to_train(tree, replace(stopped, waited=patience))
    assert refusal("datamodule.eval_batch_size", tree, {}) is None


def test_the_default_patience_is_that_of_the_class() -> None:
    mine = {"_target_": "lightning.pytorch.callbacks.EarlyStopping", "monitor": "val/loss"}
    tree = with_defaults({"callbacks": {"mine": mine, "other": None, "gone": {"_target_": "no_such_package.X"}}})
    assert tree["callbacks"]["mine"]["patience"] == 3
    assert (tree["callbacks"]["other"], tree["callbacks"]["gone"]) == (None, {"_target_": "no_such_package.X"})
    state = SavedState(step=10, best_step=4, epochs=1, best_epoch=1, stopped="no improvement", waited=3)
    assert nothing_to_train(tree, state)


def test_a_run_that_a_callback_of_lightning_stopped_continues_only_without_it() -> None:
    mine = {"_target_": "lightning.pytorch.callbacks.EarlyStopping", "monitor": "val/loss"}
    tree = with_defaults({"callbacks": {"mine": mine}})
    state = SavedState(10, 4, epochs=1, best_epoch=1, stopped="reached", waited=0, stopped_by="EarlyStopping")
    assert idle_remark(tree, state).endswith("stopped early: reached; to continue training, set callbacks.mine=null")
    changes = {"callbacks.mine.stopping_threshold": (0.3, 0.5), "callbacks.mine.verbose": (False, True)}
    assert list(refused_by_state(changes, tree, state)) == ["callbacks.mine.stopping_threshold"]
    assert not nothing_to_train(with_defaults({"callbacks": {"mine": None}}), state)
    key = "callbacks.mine.patience"
    assert "restores the saved patience" in (refusal(key, tree, {key: (3, 9)}) or "")
    own = with_defaults({"callbacks": {"mine": {**mine, "_target_": "opsin.training.callbacks.EarlyStopping"}}})
    assert refusal(key, own, {key: (3, 9)}) is None


def test_changes_that_need_training_are_refused_if_nothing_is_trained() -> None:
    state = SavedState(step=10, best_step=4, epochs=3, best_epoch=1, stopped=None, waited=0)
    changes = {"optimizer.lr": (0.1, 0.2), "trainer.precision": ("16-mixed", "32")}
    done, more = (compose([f"trainer.max_epochs={epochs}"]).tree for epochs in (3, 4))
    assert list(refused_by_state(changes, done, state)) == ["optimizer.lr"]
    assert refused_by_state(changes, more, state) == {}


def test_the_limit_of_steps_is_not_below_the_completed_steps() -> None:
    state = SavedState(step=10, best_step=4, epochs=3, best_epoch=1, stopped=None, waited=0)
    tree = compose(["trainer.max_steps=10"]).tree
    check_steps(tree, state)
    assert nothing_to_train(tree, state)
    assert "10 of trainer.max_steps=10 steps are completed" in idle_remark(tree, state)
    assert not nothing_to_train(compose(["trainer.max_steps=11"]).tree, state)
    with pytest.raises(UserError, match=r"trainer.max_steps=10 cannot be changed on resume: 11 steps are completed"):
        check_steps(tree, replace(state, step=11))


@pytest.mark.parametrize(
    ("limit", "seconds", "idle"),
    [("00:00:00:03", 3.1, True), ("01:02:03:04", 93784, True), ("01:02:03:04", 93783.9, False), ("null", 1e9, False)],
)
def test_a_run_whose_time_is_used_up_trains_nothing(limit: str, seconds: float, idle: bool) -> None:
    state = SavedState(10, 4, epochs=2.5, best_epoch=1, stopped=None, waited=0, seconds=seconds)
    tree, changes = compose([f"trainer.max_time={limit}"]).tree, {"optimizer.lr": (0.1, 0.2)}
    assert nothing_to_train(tree, state) == idle
    assert list(refused_by_state(changes, tree, state)) == ["optimizer.lr"] * idle
    assert (f"trainer.max_time={limit} is used up" in idle_remark(tree, state)) == idle


def test_the_docstrings_list_exactly_the_neutral_keys() -> None:
    keys = (neutral_keys.TOP_LEVEL, neutral_keys.DATAMODULE, neutral_keys.TRAINER)
    for module in (resume_rules, recipes):
        lines = [line.strip() for line in inspect.getsource(module).splitlines() if line.strip().startswith("- ")]
        listed = [tuple(re.findall(r"`(\w+)`", line.partition(": ")[2])) for line in lines]
        assert listed[:3] == list(keys), module.__name__
