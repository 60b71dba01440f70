"""Runs with a teacher, from end to end, on the bundled digits."""

import logging
from pathlib import Path

import pytest
import torch

from opsin.commands.evaluate import evaluate
from opsin.commands.train import train
from opsin.config import compose, from_saved
from opsin.errors import Interrupted, UserError
from opsin.runs.directory import RunDirectory
from opsin.runs.per_class import read_scores

QUICK = (
    "model=cnn_gap",
    "datamodule=digits",
    "datamodule.train_fraction=0.1",
    "trainer=cpu",
    "trainer.max_epochs=2",
    "datamodule.batch_size=32",
    "logger=none",
    "callbacks.progress.bar=false",
)
BOTH = ("distillation.logits=1", "distillation.embedding=1")


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture
def start(data_dir: Path, tmp_path: Path, digits_run: RunDirectory):
    def start(*words: str, name: str = "run", teacher: str = str(digits_run.path)) -> RunDirectory:
        run = tmp_path / "outputs" / name
        run.mkdir(parents=True)
        places = (f"data_dir={data_dir}", f"output_dir={tmp_path / 'outputs'}", f"model.teacher='{teacher}'")
        train(compose([*places, *QUICK, *words], run))
        return RunDirectory(run)

    return start


def state(run: RunDirectory) -> dict[str, torch.Tensor]:
    found = torch.load(run.last, weights_only=True)["state_dict"]
    assert isinstance(found, dict)
    return found


def same(first: RunDirectory, second: RunDirectory) -> bool:
    ours, theirs = state(first), state(second)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.mark.slow
def test_a_run_learns_embeddings_and_logits_and_can_be_evaluated_and_transferred(
    start, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="opsin"):
        run = start(*BOTH)
    result = run.read_result()
    assert result.status == "finished"
    meaning = "train/loss and val/loss are 1 x embedding + 1 x logits + 1 x labels, test/loss is the loss on the labels"
    assert meaning in result.settings.teacher
    assert sum(meaning in record.getMessage() for record in caplog.records) == 2  # at the start and at the end
    checkpoint = state(run)
    assert checkpoint["distillation.projector.weight"].shape == (64, 64)
    assert checkpoint["distillation.center"].abs().sum() > 0
    assert evaluate(run).metrics == {k: v for k, v in result.metrics.items() if k.startswith("test/")}
    on_labels = evaluate(run, "val").metrics
    assert on_labels["val/acc"] == result.metrics["val/acc"]
    assert on_labels["val/loss"] < result.metrics["val/loss"]
    taken = tmp_path / "outputs" / "taken"
    taken.mkdir()
    words = (f"model.weights={run.path}", "model.trainable=head", "trainer.max_epochs=1")
    train(compose([*QUICK, *words, f"data_dir={tmp_path}", f"output_dir={tmp_path / 'outputs'}"], taken))
    best = torch.load(run.best, weights_only=True)["state_dict"]
    transferred = state(RunDirectory(taken))
    assert not any(key.startswith("distillation.") for key in transferred)
    stages = [key for key in transferred if key.startswith("network.stages.")]
    assert stages
    assert all(torch.equal(transferred[key], best[key]) for key in stages)


@pytest.mark.slow
def test_longer_training_reduces_the_distance_to_the_teachers_embeddings(start) -> None:
    short, long = start("distillation.labels=0"), start("distillation.labels=0", "trainer.max_epochs=6", name="long")
    losses = [run.read_result().metrics["val/loss"] for run in (short, long)]
    assert losses[1] < 0.8 * losses[0] < 0.8 * 1.2  # one minus a cosine; about 1 for unrelated embeddings


@pytest.mark.slow
@pytest.mark.parametrize("step", [3, 5])
def test_a_resumed_run_is_bit_identical(start, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPSIN_TARGETS", "interruptions")
    words = ("augmentation=digits", "scheduler=plateau", *BOTH)
    whole = start(*words, name="whole")
    with pytest.raises(Interrupted):
        start(*words, f"+callbacks.stop={{_target_: interruptions.StopAt, step: {step}}}", name="cut")
    cut = RunDirectory(whole.path.parent / "cut")
    train(from_saved(cut, ["callbacks.stop=null"]))
    assert cut.read_result().metrics == whole.read_result().metrics
    assert same(cut, whole)


@pytest.mark.slow
def test_labels_do_not_affect_training_if_their_weight_is_zero(start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPSIN_TARGETS", "digit_splits")
    source = ("datamodule._target_=digit_splits.digit_splits", "datamodule.train_fraction=1", "trainer.max_epochs=1")
    shuffled = (*source, "+datamodule.shuffled=true")
    right, wrong = start(*source, "distillation.labels=0"), start(*shuffled, "distillation.labels=0", name="wrong")
    assert same(right, wrong)
    assert (read_scores(right, "val").confusion != read_scores(wrong, "val").confusion).any()
    assert "accuracies are meaningless" in right.read_result().settings.teacher
    assert not same(start(*source, name="a"), start(*shuffled, name="b"))  # labels with a weight


@pytest.mark.slow
def test_an_untrained_head_cannot_choose_the_best_epoch(start) -> None:
    words = ("distillation.labels=0", "monitor.metric=val/acc")
    with pytest.raises(
        UserError,
        match=r"monitor.metric=val/acc measures the head, which does not train .* set monitor.metric=val/loss",
    ):
        start(*words)
    start(*words, "distillation.logits=1", name="taught")


@pytest.mark.slow
def test_a_teacher_of_other_classes_gives_embeddings_only(start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPSIN_TARGETS", "digit_splits")
    others = "+datamodule.classes=abcdefghij"
    words = ("datamodule._target_=digit_splits.digit_splits", others, "trainer.max_epochs=1")
    with pytest.raises(UserError, match=r"distillation.logits=1: the teacher .* has other classes"):
        start(*words, *BOTH)
    assert start(*words, name="embeddings").read_result().status == "finished"


def test_mixup_is_refused(start) -> None:
    with pytest.raises(UserError, match=r"needs unmixed images: set augmentation\.mixup=0"):
        start("augmentation=mixup_cutmix")


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("distillation.labels=0",), r"distillation\.labels=0\.0: "),
        (("distillation.logits=1", "distillation.image_size=32"), r"logits=1\.0, distillation\.image_size=32: "),
    ],
)
def test_options_of_the_loss_without_a_teacher_are_refused(words: tuple[str, ...], named: str, tmp_path: Path) -> None:
    composed = compose([*QUICK, *words, f"output_dir={tmp_path}"], tmp_path / "run")
    with pytest.raises(UserError, match=rf"{named}without a teacher .*model\.teacher"):
        train(composed)
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_name_is_refused_with_the_nearest(start) -> None:
    with pytest.raises(UserError, match=r"did you mean model.teacher=efficientnet_lite0\?") as caught:
        start(teacher="efficientnet_lite")
    assert "opsin.models" not in str(caught.value)


@pytest.mark.slow
def test_frozen_features_are_cached_in_a_run_with_a_teacher(start) -> None:
    words = ("model.trainable=[block3]", *BOTH)
    cached, plain = start(*words), start(*words, "feature_cache=off", name="plain")
    assert cached.read_result().settings.feature_cache.startswith("block2 of")
    for name, value in plain.read_result().metrics.items():
        assert cached.read_result().metrics[name] == pytest.approx(value, abs=5e-3), name


@pytest.mark.slow
def test_imagenet_features_are_learned_by_a_small_network(start) -> None:
    small = ("distillation.image_size=32", "datamodule.train_fraction=0.5", "optimizer.lr=0.005")
    run = start(*small, "distillation.labels=0", "trainer.max_epochs=4", teacher="efficientnet_lite0")
    assert state(run)["distillation.projector.weight"].shape == (1280, 64)
    assert run.read_result().metrics["val/loss"] < 0.9
