"""Options of the command line without effect are named, each with the reason."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from datamodules import image_data
from sharded import source
from timm.optim import Muon
from torch.optim import SGD, AdamW, Rprop
from torch.optim.lr_scheduler import CyclicLR, OneCycleLR

from opsin.config import compose
from opsin.config.target_lookup import Target
from opsin.data import Augmentation
from opsin.errors import UserError
from opsin.models import cnn_deep, inception_v3
from opsin.models.fine_tuning import FreezeSchedule, Phase
from opsin.training import optim
from opsin.training.plan import RunPlan, make_plan
from opsin.training.unused_options import warn_kept_values, warn_unused

CARVED = source(60)
GIVEN = replace(CARVED, splits=dict.fromkeys(("train", "val", "test"), CARVED.splits["train"]))
HEAD_ONLY = FreezeSchedule(("body",), (Phase(0, []),))
WHOLE = FreezeSchedule(("body",), (Phase(0, ["body"]),))


@pytest.fixture(scope="module")
def plan() -> RunPlan:
    return make_plan(compose(["model=resnet18_full", "model.head=dense"]))


def unused(
    caplog: pytest.LogCaptureFixture, plan: RunPlan, data: Any, schedule: FreezeSchedule, words: Any
) -> set[str]:
    caplog.clear()
    warn_unused(plan, data, schedule, words)
    return {record.getMessage() for record in caplog.records}


def test_splits_that_the_dataset_or_folds_determine(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, plan: RunPlan
) -> None:
    words = ("datamodule.test_fraction=0.5", "datamodule.val_fraction=0.2", "seed=1", "~tags")

    def of(images: Any, **options: Any) -> set[str]:
        return unused(caplog, plan, image_data(images, data_dir=str(tmp_path), **options), WHOLE, words)

    assert of(CARVED) == set()
    assert of(GIVEN) == {
        "datamodule.test_fraction=0.5 has no effect: made has test images of its own",
        "datamodule.val_fraction=0.2 has no effect: made has val images of its own",
    }
    in_folds = "datamodule.val_fraction=0.2 has no effect: val is a fold (datamodule.num_folds=3)"
    assert of(CARVED, num_folds=3) == {in_folds}


@pytest.mark.parametrize(
    ("sampler", "weights", "warns"),
    [("balanced", "balanced", True), ("balanced", "none", False), ("shuffle", "balanced", False)],
)
def test_two_options_that_compensate_for_rare_classes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, sampler: str, weights: str, warns: bool
) -> None:
    both = make_plan(compose([f"datamodule.sampler={sampler}", f"loss.class_weights={weights}"]))
    found = unused(caplog, both, image_data(CARVED, data_dir=str(tmp_path)), WHOLE, ())
    assert [message.split(" both ")[0] for message in found] == (
        ["datamodule.sampler=balanced and loss.class_weights=balanced"] if warns else []
    )


@pytest.mark.parametrize(
    ("words", "kept"),
    [
        (("experiment=mnist_fast", "augmentation=none"), ["augmentation=none: augmentation.crop_padding=1"]),
        (("experiment=mnist_fast", "augmentation=none", "augmentation.crop_padding=0"), []),
        (("experiment=mnist_fast", "~augmentation.crop_padding", "augmentation=none"), []),
        (
            ("experiment=[mnist_fast]", "optimizer=sgd", "~optimizer.betas"),
            ["optimizer=sgd: optimizer.lr=0.015, optimizer.weight_decay=0.05"],
        ),
        (("experiment=cifar10_fast", "model=cnn_gap"), ["model=cnn_gap: model.widths=[64,128,256]"]),
        (("experiment=mnist_fast", "model=cnn_gap", "scheduler=cosine"), []),
        (("augmentation=none", "+augmentation.crop_padding=1"), []),
    ],
)
def test_values_of_an_experiment_that_a_typed_option_does_not_replace(
    caplog: pytest.LogCaptureFixture, words: tuple[str, ...], kept: list[str]
) -> None:
    warn_kept_values(compose(words))
    found = [re.sub(r", which experiment=\S+ sets: type \S+=VALUE to change it$", "", m) for m in caplog.messages]
    assert [message.replace(" does not replace ", ": ") for message in found] == kept


def test_a_key_of_an_experiment_that_the_typed_option_does_not_have() -> None:
    with pytest.raises(UserError, match=r"optimizer.betas is not known with optimizer=sgd: add '~optimizer.betas' to"):
        make_plan(compose(["experiment=cifar10_fast", "optimizer=sgd"]))
    with pytest.raises(UserError, match=r"optimizer.betas is not known; known here"):
        make_plan(compose(["experiment=cifar10_fast", "optimizer=sgd", "optimizer.betas=[0.9,0.99]"]))
    make_plan(compose(["experiment=cifar10_fast", "optimizer=sgd", "~optimizer.betas"]))


def test_options_of_operations_heads_and_losses_that_are_not_chosen(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, plan: RunPlan
) -> None:
    model = ("model.head_dropout=0.2", "+model.head_units=8", "model.layer_decay=0.5", "distillation.temperature=2")
    augmentation = ("+augmentation.resized_crop_ratio=[1,2]", "++augmentation.fill=border", "augmentation.saturation=1")
    words = ("model=resnet18_full", *model, *augmentation)
    linear = replace(plan, model=replace(plan.model, arguments={}))
    cropped = Augmentation(resized_crop_scale=(0.5, 1), translation=0.1)

    def of(plan: RunPlan, schedule: FreezeSchedule, changes: Augmentation, channels: int) -> set[str]:
        images = source(60, channels)
        data = image_data(images, data_dir=str(tmp_path), augmentation=changes)
        return {line.split("=")[0] for line in unused(caplog, plan, data, schedule, words)}

    no_logits = "distillation.temperature"
    assert of(plan, WHOLE, cropped, 3) == {no_logits}
    assert of(linear, HEAD_ONLY, Augmentation(), 1) == {
        *("model.head_dropout", "model.head_units", "model.layer_decay", no_logits),
        *("augmentation.resized_crop_ratio", "augmentation.fill", "augmentation.saturation"),
    }
    own = type("Own", (Augmentation,), {})()  # it may use every option
    assert not any(key.startswith("augmentation.") for key in of(linear, HEAD_ONLY, own, 1))
    with_logits = replace(plan, distillation=replace(plan.distillation, logits=1))
    assert of(with_logits, WHOLE, cropped, 3) == set()


OPTIONS = ("optimizer.lr=0.1", "optimizer.momentum=0", "optimizer.betas=[0.5,0.98]")
MOMENTUM, FIRST_BETA = "optimizer.momentum=0", "the first value of optimizer.betas=[0.5,0.98]"


@pytest.mark.parametrize(
    ("schedule", "arguments", "optimizer", "expected"),
    [
        (optim.onecycle, {}, SGD, {MOMENTUM}),
        (optim.onecycle, {}, AdamW, {FIRST_BETA}),
        (optim.onecycle, {}, Muon, {FIRST_BETA}),  # it has both, and torch cycles the betas
        (optim.cosine, {}, SGD, set()),
        (OneCycleLR, {"max_lr": 0.1}, SGD, {"optimizer.lr=0.1", MOMENTUM}),
        (CyclicLR, {"cycle_momentum": False}, AdamW, {"optimizer.lr=0.1"}),
    ],
)
def test_options_of_the_optimizer_that_the_schedule_replaces(
    schedule: Any,
    arguments: dict[str, Any],
    optimizer: Any,
    expected: set[str],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    plan: RunPlan,
) -> None:
    cycled = replace(plan, schedule=Target(schedule, arguments), optimizer=Target(optimizer))
    words = [word for word in OPTIONS if Target(optimizer).takes(re.findall(r"\w+", word)[1])]
    data = image_data(CARVED, data_dir=str(tmp_path))
    reason = f"has no effect: the schedule {schedule.__name__} sets it at every step"
    assert unused(caplog, cycled, data, WHOLE, words) == {f"{option} {reason}" for option in expected}


@pytest.mark.parametrize(
    ("schedule", "arguments", "has_effect"),
    [(CyclicLR, {"base_lr": 0.01}, False), (OneCycleLR, {"max_lr": 0.1}, False), (optim.onecycle, {}, True)],
)
def test_rates_of_the_stages_have_no_effect_if_the_schedule_sets_them(
    schedule: Any,
    arguments: dict[str, Any],
    has_effect: bool,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    plan: RunPlan,
) -> None:
    changed = replace(plan, schedule=Target(schedule, arguments))
    words = ("model.backbone_lr_factor=0.1", "model.layer_decay=0.5")
    reason = f"has no effect: the schedule {schedule.__name__} sets all learning rates"
    found = unused(caplog, changed, image_data(CARVED, data_dir=str(tmp_path)), WHOLE, words)
    assert found == (set() if has_effect else {f"{word} {reason}" for word in words})


@pytest.mark.parametrize(
    ("optimizer", "decay", "expected"),
    [
        (Rprop, 0.1, "optimizer.weight_decay=0.1 has no effect: Rprop has no weight decay"),
        (SGD, 0.0, "optimizer.decay_norm_and_bias=true has no effect: optimizer.weight_decay is 0"),
        (AdamW, 0.1, None),
        (lambda params: AdamW(params), 0.1, None),  # the parameter groups have a weight decay
    ],
)
def test_weight_decay_that_no_parameter_gets(
    optimizer: Any,
    decay: float,
    expected: str | None,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    plan: RunPlan,
) -> None:
    changed = replace(plan, optimizer=Target(optimizer), groups=replace(plan.groups, weight_decay=decay))
    words = ("optimizer.weight_decay=0.1", "optimizer.decay_norm_and_bias=true")
    found = unused(caplog, changed, image_data(CARVED, data_dir=str(tmp_path)), WHOLE, words)
    assert found == ({expected} if expected else set())


def test_views_that_are_not_cached(tmp_path: Path, caplog: pytest.LogCaptureFixture, plan: RunPlan) -> None:
    def of(mode: Any, changes: Augmentation) -> set[str]:
        data = image_data(CARVED, data_dir=str(tmp_path), augmentation=changes)
        cached = replace(plan, feature_cache=replace(plan.feature_cache, mode=mode))
        return unused(caplog, cached, data, WHOLE, ("feature_cache.views=4",))

    text = "feature_cache.views=4 has no effect:"
    assert of("auto", Augmentation(rotation=5)) == set()
    assert of("auto", Augmentation()) == {f"{text} training images are not augmented"}
    assert of("off", Augmentation(rotation=5)) == {f"{text} feature_cache=off"}


def test_the_weight_of_an_auxiliary_head_that_is_off(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, plan: RunPlan
) -> None:
    def of(auxiliary: bool) -> set[str]:
        arguments = {"auxiliary": auxiliary, "head": "dense"}
        changed = replace(plan, model=replace(plan.model, call=inception_v3, arguments=arguments))
        data = image_data(CARVED, data_dir=str(tmp_path))
        return unused(caplog, changed, data, WHOLE, ("+model.auxiliary_weight=0.3",))

    assert of(True) == set()
    assert of(False) == {"model.auxiliary_weight=0.3 has no effect: model.auxiliary is false"}


def test_another_network_may_use_the_same_name(tmp_path: Path, caplog: pytest.LogCaptureFixture, plan: RunPlan) -> None:
    deep = replace(plan, model=replace(plan.model, call=cnn_deep, arguments={}))
    data = image_data(CARVED, data_dir=str(tmp_path))
    assert unused(caplog, deep, data, WHOLE, ("model.head_dropout=0.1",)) == set()
