"""Runs from end to end, in this process, on the bundled digits."""

import csv
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from opsin.commands.evaluate import evaluate
from opsin.commands.train import train
from opsin.config import RunConfig, compose, from_saved
from opsin.errors import Interrupted, UserError
from opsin.runs.directory import RunDirectory
from opsin.runs.per_class import read_scores
from opsin.runs.result import ParameterCounts

QUICK = (
    "datamodule.batch_size=64",
    "datamodule.train_fraction=0.2",  # 259 images: five batches, the last of three
    "trainer.max_epochs=3",
    "trainer.accelerator=cpu",
    "callbacks.progress.bar=false",
)
NOISY = ("model=simple_cnn", "augmentation=digits", "scheduler=plateau", "scheduler.patience=0", *QUICK)
"""All that draws random numbers or carries state: dropout, augmentation, Adam, a schedule that sees the metrics."""


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture
def start(data_dir: Path, tmp_path: Path):
    def start(*words: str, name: str = "run") -> RunDirectory:
        run = tmp_path / "outputs" / name
        run.mkdir(parents=True)
        train(compose([f"data_dir={data_dir}", f"output_dir={tmp_path / 'outputs'}", *words], run))
        return RunDirectory(run)

    return start


def resume(run: RunDirectory, *words: str) -> None:
    train(from_saved(run, words))


def metrics(run: RunDirectory) -> dict[str, Any]:
    return run.read_result().metrics


@pytest.mark.slow
def test_a_result_records_overrides_without_effect_and_weights_that_saw_the_test_images(start) -> None:
    words = ("model=mlp", *QUICK, "trainer.max_epochs=1", "logger=none")
    first = start(*words)
    second = start(*words, f"model.weights={first.path}", "seed=1", "+augmentation.fill=border", name="second")

    def warnings(run: RunDirectory) -> list[str]:
        return [text for text in run.read_result().warnings if "has no effect" in text or "was trained on" in text]

    unused, seen = warnings(second)
    assert unused.startswith("augmentation.fill=border has no effect: it needs ")
    assert seen.startswith(f"model.weights={first.path} was trained on ")
    assert seen.endswith("datamodule.split_seed=42")
    assert warnings(first) == []


def test_a_run_writes_all_results_into_its_directory(start) -> None:
    run = start("model=mlp", *QUICK)
    result = run.read_result()
    assert result.status == "finished"
    names = {"loss", "acc", "f1_macro", "auroc", "ece"}
    assert set(result.metrics) == {f"{split}/{name}" for split in ("train", "val", "test") for name in names}
    assert all(math.isfinite(value) for value in result.metrics.values())
    assert set(result.seconds) == {"setup", "fit", "test", "total"}
    assert result.parameters == ParameterCounts(total=101_770, trainable=101_770, frozen=0)
    assert result.data.counts == {"train": 259, "val": 144, "test": 359}
    assert result.data.origin == {"train": "given", "val": "carved", "test": "carved"}
    assert result.settings.accelerator == "cpu"
    assert result.seed == 42
    assert result.throughput > 0
    for split, count in result.data.counts.items():
        confusion = read_scores(run, split).confusion
        assert confusion.sum() == count
        assert confusion.trace() / count == pytest.approx(result.metrics[f"{split}/acc"])
    with run.metrics.open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    best = rows[result.best_epoch - 1]
    assert float(best["val/loss"]) == result.metrics["val/loss"] == min(float(row["val/loss"]) for row in rows)
    assert "101,770" in (run.path / "model.txt").read_text()
    assert (run.path.parent / "latest").resolve() == run.path
    assert list((run.path / "tensorboard").glob("events.*"))


@pytest.mark.slow
def test_a_run_writes_a_report_unless_it_is_disabled(start) -> None:
    run = start("model=cnn_gap", *QUICK, "trainer.max_epochs=1")
    page = (run.path / "report.html").read_text(encoding="utf-8")
    assert f"{run.read_result().metrics['test/acc']:.1%}".replace("%", "") in page
    assert page.count("data:image/") > 3
    without = start("model=mlp", *QUICK, "trainer.max_epochs=1", "report=false", name="without")
    assert not (without.path / "report.html").exists()
    assert not (without.path / "pictures").exists()


def test_a_report_that_fails_does_not_fail_the_run(start, monkeypatch, caplog: pytest.LogCaptureFixture) -> None:
    def full(*_: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("opsin.commands.report_images.make_images", full)
    run = start("model=mlp", *QUICK, "trainer.max_epochs=1")
    assert run.read_result().status == "finished"
    assert "No space left on device" in caplog.text
    assert f"opsin report {run.path}" in caplog.text


def test_checkpoints_hold_plain_values(start) -> None:
    run = start("model=mlp", *QUICK)
    content = torch.load(run.best, weights_only=True)
    assert content["opsin"]["data"]["classes"] == list("0123456789")
    assert all(key.startswith("network.") for key in content["state_dict"])


@pytest.mark.slow
def test_the_same_seed_gives_the_same_metrics_and_another_does_not(start) -> None:
    first, second = start(*NOISY, name="a"), start(*NOISY, name="b")
    assert metrics(first) == metrics(second)
    other = start(*NOISY, "seed=0", name="c")
    assert metrics(other) != metrics(first)
    assert other.read_result().seed == 0


def test_repeated_evaluation_gives_the_same_metrics(start) -> None:
    run = start(*NOISY)
    found = metrics(run)
    again = evaluate(run).metrics
    assert again == {name: value for name, value in found.items() if name.startswith("test/")}
    validated = evaluate(run, "val").metrics
    assert validated == {name: value for name, value in found.items() if name.startswith("val/")}


@pytest.mark.parametrize(("step", "how"), [*((step, "SIGINT") for step in (1, 4, 5, 6, 15)), (8, "SIGTERM")])
@pytest.mark.slow
def test_a_resumed_run_is_bit_identical(start, step: int, how: str, monkeypatch) -> None:
    monkeypatch.setenv("OPSIN_TARGETS", "interruptions")
    whole = start(*NOISY, name="whole")
    stop = f"+callbacks.stop={{_target_: interruptions.StopAt, step: {step}, how: {how}}}"
    with pytest.raises(Interrupted):
        start(*NOISY, stop, name="cut")
    cut = RunDirectory(whole.path.parent / "cut")
    assert cut.read_result().status == "interrupted"
    resume(cut, "callbacks.stop=null")
    assert metrics(cut) == metrics(whole)
    assert cut.metrics.read_text() == whole.metrics.read_text()
    states = [torch.load(run.last, weights_only=True)["state_dict"] for run in (cut, whole)]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[1])


IMPATIENT = ("model=mlp", "scheduler=constant", "optimizer.lr=5", "callbacks.early_stopping.patience=1", *QUICK)
"""A run that stops early, because its rate is too high."""


def test_patience_that_ends_in_the_last_epoch_stops_nothing(start, caplog: pytest.LogCaptureFixture) -> None:
    early = start(*IMPATIENT, "trainer.max_epochs=9", name="early").read_result()
    assert early.stopped
    caplog.clear()
    with caplog.at_level("INFO"):
        whole = start(*IMPATIENT, f"trainer.max_epochs={early.epochs}", name="whole").read_result()
    assert (whole.epochs, whole.stopped, whole.metrics) == (early.epochs, None, early.metrics)
    assert "stopped early" not in caplog.text


def test_early_stopping_records_its_reason_and_a_resumed_run_stays_stopped(start, data_dir: Path) -> None:
    run = start(*IMPATIENT, "trainer.max_epochs=9")
    result = run.read_result()
    assert result.epochs < 9
    assert "val/loss has not improved for 1 validation" in result.stopped
    resume(run)
    assert run.read_result().epochs == result.epochs
    assert metrics(run) == result.metrics


@pytest.mark.slow
def test_a_finished_run_can_be_extended(start) -> None:
    words = ("model=mlp", "scheduler=constant", *QUICK)
    run, longer = start(*words), start(*words, "trainer.max_epochs=5", name="longer")
    resume(run, "trainer.max_epochs=5")
    assert metrics(run) == metrics(longer)


@pytest.mark.slow
def test_a_onecycle_run_can_be_extended_and_resumed_with_fewer_epochs(start) -> None:
    run = start("model=mlp", "scheduler=onecycle", *QUICK, "trainer.max_epochs=1")
    for epochs in (3, 2):  # the second is below the completed epochs, so nothing is trained
        resume(run, f"trainer.max_epochs={epochs}")
        assert RunConfig.load(run).tree["trainer"]["max_epochs"] == epochs
    assert run.read_result().epochs == 3


@pytest.mark.slow
def test_values_changed_on_resume_apply_to_all_references(start) -> None:
    run = start("model=mlp", *QUICK)
    tree = from_saved(run, ["monitor.metric=val/acc"]).tree
    assert {tree["callbacks"][name]["monitor"] for name in ("checkpoints", "early_stopping")} == {"val/acc"}


@pytest.mark.slow
def test_stopping_waits_for_accumulated_gradients(start, monkeypatch) -> None:
    monkeypatch.setenv("OPSIN_TARGETS", "interruptions")
    words = (*NOISY, "trainer.accumulate_grad_batches=2")
    whole = start(*words, name="whole")
    with pytest.raises(Interrupted):
        start(*words, "+callbacks.stop={_target_: interruptions.StopAt, step: 6}", name="cut")
    cut = RunDirectory(whole.path.parent / "cut")
    resume(cut, "callbacks.stop=null")
    assert metrics(cut) == metrics(whole)


@pytest.mark.slow
def test_epochs_without_validation_have_no_validation_metrics(start) -> None:
    run = start("model=mlp", *QUICK, "trainer.max_epochs=5", "trainer.check_val_every_n_epoch=2")
    with run.metrics.open() as file:
        values = [row["val/loss"] for row in csv.DictReader(file)]
    assert [bool(value) for value in values] == [False, True, False, True, False]
    assert run.read_result().best_epoch in (2, 4)


def test_schedules_count_the_steps_of_an_epoch_with_any_max_steps(start) -> None:
    run = start("model=mlp", *QUICK, "scheduler=step", "scheduler.every_epochs=2", "trainer.max_steps=12")
    with run.metrics.open() as file:
        rates = [float(row["lr"]) for row in csv.DictReader(file)]
    assert rates == pytest.approx([0.002, 0.0002, 0.0002])


@pytest.mark.slow
def test_images_that_changed_since_training_are_refused(start, tmp_path: Path) -> None:
    import numpy as np
    from PIL import Image

    pixels = np.random.default_rng(0)
    for name in ("a", "b"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(20):
            image = pixels.integers(0, 255, (20, 20, 3), dtype=np.uint8)
            Image.fromarray(image).save(tmp_path / "photos" / name / f"{i}.png")
    words = ("datamodule=image_folder", f"datamodule.path={tmp_path / 'photos'}", "datamodule.image_size=20")
    run = start("model=mlp", *words, "trainer.max_epochs=1", "callbacks.progress.bar=false")
    evaluate(run)
    (tmp_path / "photos" / "a" / "3.png").unlink()
    for again in (lambda: evaluate(run), lambda: resume(run, "trainer.max_epochs=2")):
        with pytest.raises(UserError, match="are not those of the run"):
            again()


def test_evaluating_a_run_without_a_finished_epoch_is_refused(start, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("OPSIN_TARGETS", "interruptions")
    with pytest.raises(RuntimeError):
        start("model=mlp", *QUICK, "+callbacks.stop={_target_: interruptions.StopAt, step: 2, how: error}")
    with pytest.raises(UserError, match=r"has not finished its first epoch; resume it with"):
        evaluate(RunDirectory(tmp_path / "outputs" / "run"))


def test_resume_refuses_another_model(start) -> None:
    run = start("model=mlp", *QUICK)
    with pytest.raises(UserError, match="model=cnn_gap cannot be changed"):
        resume(run, "model=cnn_gap")


def test_a_failure_is_recorded(start, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("OPSIN_TARGETS", "interruptions")
    with pytest.raises(RuntimeError, match="error of the test"):
        start("model=mlp", *QUICK, "+callbacks.stop={_target_: interruptions.StopAt, step: 2, how: error}")
    result = RunDirectory(tmp_path / "outputs" / "run").read_result()
    assert result.status == "failed"
    assert result.error == "RuntimeError: error of the test"


def test_divergence_gives_a_message_with_advice(start) -> None:
    with pytest.raises(UserError, match=r"not finite.*smaller optimizer\.lr"):
        start("model=mlp", "optimizer=sgd", "optimizer.lr=1e30", *QUICK)


def test_weights_and_buffers_of_frozen_stages_do_not_change(start) -> None:
    run = start("model=strided_cnn", "model.trainable=[block4,block5]", *QUICK)
    counts = run.read_result().parameters
    assert counts.frozen > 0
    torch.manual_seed(0)
    after = torch.load(run.last, weights_only=True)["state_dict"]
    tracked = {key: value for key, value in after.items() if "num_batches_tracked" in key}
    frozen = {key: int(value) for key, value in tracked.items() if any(f"block{i}." in key for i in (1, 2, 3))}
    moving = {key: int(value) for key, value in tracked.items() if key not in frozen}
    assert frozen
    assert set(frozen.values()) == {0}
    assert moving
    assert set(moving.values()) == {15}


@pytest.mark.slow
def test_the_test_uses_the_ema_weights(start) -> None:
    run = start("model=mlp", "callbacks=ema", "callbacks.ema.decay=0.9", *QUICK)
    test = {name: value for name, value in metrics(run).items() if name.startswith("test/")}
    assert evaluate(run).metrics == test
    plain = start("model=mlp", *QUICK, name="plain")
    assert metrics(plain)["test/loss"] != metrics(run)["test/loss"]


@pytest.mark.slow
@pytest.mark.parametrize("debug", ["fast", "limit", "profile"])
def test_debug_options_run(start, debug: str) -> None:
    run = start("model=mlp", f"debug={debug}")
    assert run.read_result().status == "finished"
    assert not (run.path.parent / "latest").is_symlink()  # `latest` names the last useful model
    if debug == "profile":
        assert list(run.path.glob("*profile*.txt"))


@pytest.mark.slow
def test_overfitting_one_batch(start) -> None:
    run = start("model=mlp", "debug=overfit", "callbacks.progress.bar=false")
    assert metrics(run)["train/acc"] == 1.0
    assert metrics(run)["train/loss"] < 0.05


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        ("augmentation=mixup_cutmix",),
        ("loss.class_weights=balanced",),
        ("datamodule.num_folds=5", "datamodule.fold=4"),
        ("datamodule.sampler=balanced",),
        ("trainer.accumulate_grad_batches=2", "trainer.gradient_clip_norm=1.0"),
        ("scheduler=onecycle",),
        ("loss.label_smoothing=0.1", "optimizer=adamw"),
        ("logger=none",),
        ("trainer.precision=bf16",),
    ],
)
def test_options_run(start, options: tuple[str, ...]) -> None:
    run = start("model=mlp", *QUICK, *options)
    assert run.read_result().status == "finished"


@pytest.mark.slow
def test_a_config_is_read_back_from_its_run_directory(start) -> None:
    run = start("model=mlp", *QUICK, "optimizer.lr=0.003")
    loaded = RunConfig.load(run)
    assert loaded.tree["optimizer"]["lr"] == 0.003
    assert loaded.origin.choices["model"] == "mlp"
    assert "optimizer.lr=0.003" in loaded.origin.overrides


@pytest.mark.slow
def test_a_network_of_another_library_trains_from_a_file_and_from_a_run(start, tmp_path: Path) -> None:
    from torchvision.models import resnet18

    torch.manual_seed(1)
    original = resnet18()
    torch.save(original.state_dict(), tmp_path / "resnet18.pth")
    small = ("datamodule.image_size=32", "datamodule.train_fraction=0.1", *QUICK[2:], "trainer.max_epochs=1")
    first = start("model=resnet18_partial", f"model.weights={tmp_path / 'resnet18.pth'}", *small, name="first")
    result = first.read_result()
    assert "new head" in result.weights
    state = torch.load(first.best, weights_only=True)["state_dict"]
    assert torch.equal(state["network.stages.layer3.0.conv1.weight"], original.layer3[0].conv1.weight)
    assert torch.equal(state["network.stages.layer3.0.bn1.running_mean"], original.layer3[0].bn1.running_mean)
    assert not torch.equal(state["network.stages.layer4.0.conv1.weight"], original.layer4[0].conv1.weight)
    second = start("model=resnet18_feature_extract", f"model.weights={first.path}", *small, name="second")
    assert second.read_result().data.mean == result.data.mean
    taken = torch.load(second.best, weights_only=True)["state_dict"]
    for key, value in state.items():
        if ".stages." in key:
            assert torch.equal(taken[key], value), key


@pytest.mark.slow
def test_the_best_and_the_last_epoch_share_a_file_until_they_differ(
    digits_run: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert digits_run.last.samefile(digits_run.best)
    copy = RunDirectory(tmp_path / "run")
    shutil.copytree(digits_run.path, copy.path)
    best = digits_run.best.read_bytes()
    monkeypatch.setattr("opsin.training.callbacks.checkpoints.sort_key", lambda name, value: 0.0)  # no epoch is better
    resume(copy, "trainer.max_epochs=2")
    assert copy.best.read_bytes() == best
    assert not copy.last.samefile(copy.best)
    assert [path.name for path in copy.checkpoints.iterdir() if path.name.startswith(".")] == []
