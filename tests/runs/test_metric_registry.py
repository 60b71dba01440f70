"""The table of metrics: direction, order, names that do not exist, metrics of a user's callback."""

import math

import pytest
import torch

from opsin.errors import UserError
from opsin.runs import metric_registry
from opsin.runs.metric_registry import (
    changed_loss,
    check_monitored,
    custom_metrics,
    higher_is_better,
    metric_names,
    metric_title,
    mode,
    register_metric,
    register_recorded,
    sort_key,
    split_of,
)


@pytest.fixture(autouse=True)
def _own_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metric_registry, "_TABLE", dict(metric_registry._TABLE))


def test_the_table_lists_exactly_the_metrics_that_training_measures() -> None:
    from opsin.training.metrics import SplitMetrics

    measure = SplitMetrics(3, 4)
    measure.update(torch.randn(4, 3), torch.tensor([0, 1, 2, 0]), torch.tensor(1.0))
    measured, _ = measure.compute()
    assert sorted(f"val/{name}" for name in measured) == sorted(metric_names(("val",)))


@pytest.mark.parametrize("split", ["train", "val", "test"])
@pytest.mark.parametrize(("name", "higher"), [("loss", 0), ("ece", 0), ("acc", 1), ("f1_macro", 1), ("auroc", 1)])
def test_each_metric_has_a_direction_and_a_sort_order(split: str, name: str, higher: int) -> None:
    full = f"{split}/{name}"
    assert higher_is_better(full) == bool(higher)
    assert mode(full) == ("max" if higher else "min")
    assert sorted([0.5, math.nan, 0.9, 0.1], key=lambda value: sort_key(full, value))[0] == (0.9 if higher else 0.1)


@pytest.mark.parametrize("name", ["val/loss", "val/acc"])
def test_values_that_are_not_finite_are_the_worst(name: str) -> None:
    assert all(sort_key(name, value) == math.inf for value in (None, math.nan, math.inf, -math.inf))


@pytest.mark.parametrize(
    ("wrong", "nearest"),
    [("val_loss", "val/loss"), ("val/acurracy", "val/acc"), ("val/f1", "val/f1_macro"), ("train/auc", "train/auroc")],
)
def test_a_metric_that_does_not_exist_is_refused_with_the_nearest(wrong: str, nearest: str) -> None:
    with pytest.raises(UserError, match=rf"KEY={wrong}: there is no metric {wrong}: did you mean {nearest}\?"):
        check_monitored(wrong, "KEY")


def test_names_without_a_split_cannot_be_monitored() -> None:
    for name in ("loss", "parameters", "epoch"):
        with pytest.raises(UserError, match=f"there is no metric {name}"):
            check_monitored(name, "KEY")


def test_test_metrics_cannot_be_monitored_and_the_message_says_why() -> None:
    with pytest.raises(UserError, match=r"read once, after training; use val/f1_macro"):
        check_monitored("test/f1_macro", "KEY")


def test_a_registered_metric_is_known_by_direction_title_and_splits() -> None:
    register_metric("top5", higher_is_better=True, title="top-5 accuracy", splits=("val",), percent=True)
    check_monitored("val/top5", "KEY")
    assert mode("val/top5") == "max"
    assert metric_title("val/top5") == "top-5 accuracy"
    with pytest.raises(UserError, match="there is no metric train/top5"):
        check_monitored("train/top5", "KEY")
    register_metric("top5", higher_is_better=True, title="top-5 accuracy", splits=("val",), percent=True)  # twice


@pytest.mark.parametrize("name", ["acc", "val/top5", ""])
def test_names_that_cannot_be_registered(name: str) -> None:
    with pytest.raises(UserError, match="register_metric"):
        register_metric(name, higher_is_better=False)


def test_splits_that_do_not_exist_cannot_be_registered() -> None:
    with pytest.raises(UserError, match=r"splits of top5 must be some of train, val, test, got \['valid'\]"):
        register_metric("top5", higher_is_better=True, splits=("val", "valid"))
    with pytest.raises(UserError, match=r"splits of top5 must be some of train, val, test, got \[\]"):
        register_metric("top5", higher_is_better=True, splits=())


def test_a_recorded_metric_keeps_its_direction_in_another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    register_metric("regret", higher_is_better=False)
    recorded = custom_metrics()
    monkeypatch.setattr(metric_registry, "_TABLE", {})
    register_recorded(recorded)
    assert mode("test/regret") == "min"
    with pytest.raises(UserError, match="regret is registered already"):
        register_metric("regret", higher_is_better=True)


def test_split_of() -> None:
    assert [split_of(name) for name in ("val/acc", "lr", "throughput/x", "lr-Adam/head")] == ["val", "", "", ""]


def test_losses_are_comparable_only_if_their_options_are_equal() -> None:
    plain = {"loss.label_smoothing": 0.0, "distillation.labels": 1.0, "optimizer.lr": 0.1}
    smooth, weighted = {**plain, "loss.label_smoothing": 0.1}, {**plain, "loss.class_weights": "balanced"}
    taught, other = {**plain, "model.teacher": "a"}, {**plain, "model.teacher": "a", "distillation.labels": 0.5}
    assert changed_loss("val/loss", [plain, {**plain, "optimizer.lr": 1, "distillation.labels": 0.0}]) == []
    assert changed_loss("test/loss", [plain, smooth, weighted]) == ["loss.class_weights", "loss.label_smoothing"]
    assert changed_loss("val/acc", [plain, smooth]) == []
    assert changed_loss("train/loss", [taught, other]) == ["distillation.labels"]
    assert changed_loss("val/loss", [plain, taught]) == ["distillation.labels", "model.teacher"]
    assert changed_loss("test/loss", [plain, taught, other]) == []
