"""`opsin verify`: forgeries are found, honest runs are verified, and a run with missing parts is neither.

`tests/engines/forgeries.py` verifies 50 forgeries and 20 honest runs by hand.
"""

import copy as copying
import errno
import functools
import json
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from colored_folders import colored_folder
from forging import FORGERIES, edit_checkpoints, edit_result, recompute_digests
from honest_runs import HONEST, honest_run, start

from opsin.commands import verify as command
from opsin.commands.verify import verify
from opsin.commands.verify.checkpoint_contents import differences
from opsin.commands.verify.checks import Verification
from opsin.commands.verify.recomputed import _differences_of_predictions, check_data, check_metrics
from opsin.commands.verify.recorded import check_digests, check_records
from opsin.commands.verify.replay_check import check_replay
from opsin.commands.verify.stretches import Point, Stretch, choose, stretches
from opsin.config import RunConfig
from opsin.inference.opened_run import open_run
from opsin.models.load_weights import HEAD_LOADED
from opsin.runs.digests import DIGESTS, read_digests
from opsin.runs.directory import RunDirectory
from opsin.runs.metrics_csv import read_epochs, write_epochs
from opsin.runs.predictions import Predictions
from opsin.runs.result import Settings
from opsin.runs.training_record import TrainingRecord
from opsin.training import build

Copy = Callable[[], tuple[RunDirectory, Path]]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """A finished run with replay points; not to be changed."""
    folder = tmp_path_factory.mktemp("original")
    return start(folder, colored_folder(folder / "images"), ["augmentation=flip"])


@pytest.fixture
def copy(original: RunDirectory, tmp_path: Path) -> Copy:
    """Function that copies the run and its images."""

    def copy() -> tuple[RunDirectory, Path]:
        run = RunDirectory(tmp_path / "run")
        shutil.copytree(original.path, run.path)
        images = shutil.copytree(original.path.parents[1] / "images", tmp_path / "images")
        return run, images

    return copy


def statuses(found: Verification) -> dict[str, str]:
    return {check.name: check.status for check in found.checks}


def content(run: RunDirectory) -> dict[str, bytes]:
    return {str(path.relative_to(run.path)): path.read_bytes() for path in run.path.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_an_honest_run_is_verified_and_not_changed(original: RunDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    before = content(original)
    assert command.main([str(original.path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["status"] == "verified"
    replayed = found["checks"][-1]
    assert (replayed["check"], replayed["stretches"], replayed["repeated"]) == ("replay", 6, 2)
    assert replayed["probability"] == pytest.approx(2 / 6, abs=1e-4)
    assert command.main([str(original.path), "--full"]) == 0
    assert "6 of 6 stretches repeated: the same weights bit for bit" in capsys.readouterr().out
    assert content(original) == before
    digests = read_digests(original.path)
    assert digests is not None
    assert {"config.yaml", "result.json", "checkpoints/best.ckpt", "predictions/test.npz"} <= set(digests.files)


@pytest.mark.parametrize("kind", FORGERIES)
def test_an_edit_is_found_by_the_digests(copy: Copy, kind: str) -> None:
    run, images = copy()
    FORGERIES[kind][0](run, images, 0)
    checks = {check.name: check.status for check in check_digests(run)}
    if kind == "data":
        checks["data"] = check_data(open_run(run, [f"datamodule.path={images}"])).status
    differ = {"weights": "digests: checkpoints", "metrics": "digests: result"}.get(kind, f"digests: {kind}")
    assert [name for name, status in checks.items() if status == "differs"] == [differ if kind != "data" else "data"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "found_by"),
    [
        ("weights", "replay"),
        ("metrics", "predictions: test"),
        pytest.param("predictions", "predictions: test", marks=pytest.mark.slow),
        pytest.param("config", "replay", marks=pytest.mark.slow),
        pytest.param("data", "predictions: test", marks=pytest.mark.slow),
    ],
)
def test_an_edit_with_recomputed_digests_is_found_by_recomputation(copy: Copy, kind: str, found_by: str) -> None:
    run, images = copy()
    FORGERIES[kind][1](run, images, 0)
    found = verify(run, overrides=[f"datamodule.path={images}"])
    assert found.exit_code == 1, found.table()
    assert [name for name, status in statuses(found).items() if status == "differs"] == [found_by], found.table()


@pytest.mark.slow
def test_a_changed_training_image_is_found_by_the_replay_of_all_stretches(copy: Copy) -> None:
    run, images = copy()
    FORGERIES["data"][True](run, images, 2)
    found = verify(run, full=True, overrides=[f"datamodule.path={images}"])
    assert [name for name, status in statuses(found).items() if status == "differs"] == ["replay"], found.table()


@pytest.mark.slow
@pytest.mark.parametrize("kind", HONEST)
def test_honest_runs_raise_no_false_alarm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setenv("OPSIN_TARGETS", "interruptions")
    run, words = honest_run(tmp_path, colored_folder(tmp_path / "images"), kind)
    found = verify(run, full=True, overrides=words)
    assert found.status == "verified", found.table()


@pytest.mark.slow
def test_a_run_that_began_with_the_head_of_other_classes_is_verified(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Earlier versions took every head with the same number of logits."""
    images = colored_folder(tmp_path / "images")
    first = start(tmp_path, images, ["trainer.max_epochs=1"], "first")
    for folder in {path.parent for path in images.rglob("*") if path.is_file()}:
        folder.rename(folder.with_name(f"other_{folder.name}"))
    with monkeypatch.context() as earlier:
        earlier.setattr(build, "network", functools.partial(build.network, any_classes=True))
        run = start(tmp_path, images, ["trainer.max_epochs=2", f"model.weights={first.path}"])
    assert str(run.read_result().weights).endswith(HEAD_LOADED)
    found = verify(run, full=True)
    assert found.status == "verified", found.table()


@pytest.mark.slow
def test_missing_parts_are_never_verified(copy: Copy, capsys: pytest.CaptureFixture[str]) -> None:
    run, images = copy()
    words = [str(run.path), f"datamodule.path={images}"]
    (run.path / "predictions" / "val.npz").unlink()
    assert command.main(words) == 3
    assert "predictions/val.npz is missing" in capsys.readouterr().out
    shutil.rmtree(images)
    assert command.main(words) == 3
    printed = capsys.readouterr().out
    assert "predictions: test     not verified" in printed
    assert "run: not verified" in printed
    (run.path / DIGESTS).unlink()
    assert command.main(words) == 3
    assert "digests.json is missing" in capsys.readouterr().out
    edit_result(run, status="interrupted")
    assert command.main(words) == 3
    assert "its status is interrupted" in capsys.readouterr().out
    assert command.main([str(images)]) == 3
    assert "is not a run directory" in capsys.readouterr().err


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), MemoryError("no memory"), RuntimeError("a bug")])
def test_an_error_is_not_reported_as_a_difference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    def fails(_: str) -> RunDirectory:
        raise error

    monkeypatch.setattr(RunDirectory, "of", fails)
    assert command.main([str(tmp_path)]) == 3
    said = {OSError: "too little free space", MemoryError: "out of memory", RuntimeError: "RuntimeError: a bug"}
    assert said[type(error)] in capsys.readouterr().err


def test_chosen_stretches_cover_a_tenth_of_training_and_include_the_best_checkpoint() -> None:
    best = Path("best.ckpt")
    for count, chosen in ((20, 2), (50, 5), (4, 2), (1, 1)):
        ends = [Point(10 * number, (best,) if number == 1 else ()) for number in range(count + 1)]
        every = stretches(ends)
        draws = [choose(every, best, 10 * count, random.Random(seed)) for seed in range(20)]
        assert {len(draw) for draw in draws} == {chosen}
        assert all(every[0] in draw for draw in draws)
        assert count == 1 or len({stretch.end.step for draw in draws for stretch in draw}) > 2


def test_removed_replay_points_are_never_verified(copy: Copy) -> None:
    run, images = copy()
    shutil.rmtree(run.replay_points)
    recompute_digests(run)
    found = verify(run, overrides=[f"datamodule.path={images}"])
    assert found.exit_code == 3
    assert statuses(found)["replay"] == "not verified"


@pytest.mark.slow
def test_a_difference_that_a_skipped_callback_may_cause_is_not_a_forgery(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPSIN_TARGETS", "weight_noise")
    noise = "+callbacks.noise={_target_: weight_noise.WeightNoise}"
    run = start(tmp_path, colored_folder(tmp_path / "images"), [noise, "trainer.max_epochs=2"])
    monkeypatch.setattr("weight_noise.WeightNoise.__init__", None)  # a replay must not construct it
    found = verify(run, full=True)
    assert found.exit_code == 3, found.table()
    assert "perhaps by callbacks that are not repeated: noise" in found.checks[-1].detail


DAMAGED_CONFIGS = {
    "a: [": "did not find expected node content",
    "[1]": "it holds no keys",
    "a: &a [*a]": "contains itself",
    "a: " + "[" * 5000 + "]" * 5000: "levels deep",
}


def test_a_damaged_config_in_a_checkpoint_is_named(digits_run: RunDirectory, tmp_path: Path) -> None:
    run = RunDirectory(shutil.copytree(digits_run.path, tmp_path / "run"))
    content, opened = torch.load(run.last, weights_only=True), open_run(run)
    for text, problem in DAMAGED_CONFIGS.items():
        content["opsin"]["training"]["config"] = text
        for file in (run.best, run.last):
            file.unlink()
            torch.save(content, file)
        recorded = check_records(opened, run.read_result())
        replayed = check_replay(opened, full=True, chance=random.Random(0))
        assert (recorded.status, replayed.status) == ("differs", "not verified")
        assert problem in recorded.detail
        assert problem in replayed.detail


@pytest.mark.parametrize("target", ["own_average.Mine", "lightning.pytorch.callbacks.EMAWeightAveraging"])
def test_an_average_that_the_config_got_after_training_is_a_difference(
    target: str, digits_run: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "from lightning.pytorch import callbacks\nclass Mine(callbacks.EMAWeightAveraging): ..."
    (tmp_path / "own_average.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("OPSIN_TARGETS", "own_average")
    run = RunDirectory(shutil.copytree(digits_run.path, tmp_path / "run"))
    RunConfig.load(run).changed({"callbacks.mine._target_": target}).save()
    found = check_records(open_run(run), run.read_result())
    assert found.status == "differs"
    assert f"callbacks.mine._target_ is {target} in config.yaml and was None in training" in found.detail


def test_checkpoints_of_the_first_step_are_a_difference(digits_run: RunDirectory, tmp_path: Path) -> None:
    run = RunDirectory(shutil.copytree(digits_run.path, tmp_path / "run"))
    content = {**torch.load(run.last, weights_only=True), "global_step": 0}
    for file in (run.best, run.last):
        file.unlink()
        torch.save(content, file)
    found = check_replay(open_run(run), full=True, chance=random.Random(0))
    assert (found.status, found.detail) == ("differs", "all checkpoints are from before the first step of training")


@pytest.mark.parametrize("text", ['{"files": 3}', "[", "null", '{"files": {"/etc/passwd": ""}, "evaluated": []}'])
def test_damaged_digests_are_a_difference_and_the_other_checks_go_on(
    digits_run: RunDirectory, tmp_path: Path, text: str
) -> None:
    run = RunDirectory(shutil.copytree(digits_run.path, tmp_path / "run"))
    (run.path / DIGESTS).write_text(text)
    assert [check.status for check in check_digests(run)] == ["differs"]
    found = check_metrics(open_run(run), run.read_result(), "test")
    assert (found.status, "digests.json is damaged" in found.detail) == ("not verified", True)


def _edit_schedule(content: dict[str, Any]) -> None:
    content["lr_schedulers"][0]["base_lrs"][0] *= 10


def _edit_step_of_schedule(content: dict[str, Any]) -> None:
    content["lr_schedulers"][0]["last_epoch"] -= 5


def _edit_epoch(content: dict[str, Any]) -> None:
    for counts in content["loops"]["fit_loop"]["epoch_progress"].values():
        counts.update({name: count - 1 for name, count in counts.items()})


def _edit_batch(content: dict[str, Any]) -> None:
    content["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"]["completed"] -= 5


@pytest.mark.parametrize("edit", [_edit_schedule, _edit_step_of_schedule, _edit_epoch, _edit_batch])
def test_checkpoints_from_which_training_goes_on_differently_differ(
    digits_run: RunDirectory, edit: Callable[[dict[str, Any]], None]
) -> None:
    """With such a checkpoint, another learning rate or other batches of the next stretch would be repeated."""
    content = torch.load(digits_run.last, weights_only=True)
    edited = copying.deepcopy(content)
    assert differences(edited, content, "last.ckpt") == []
    edit(edited)
    assert len(differences(edited, content, "last.ckpt")) == 1


def test_a_checkpoint_that_is_saved_in_a_validation_is_the_same(digits_run: RunDirectory) -> None:
    content = torch.load(digits_run.last, weights_only=True)
    edited = copying.deepcopy(content)
    for counts in edited["loops"]["fit_loop"]["epoch_loop.batch_progress"].values():
        if isinstance(counts, dict):
            counts["completed"] = counts["processed"] - 1
    edited["loops"]["fit_loop"]["epoch_loop.val_loop.batch_progress"] = {}
    assert differences(edited, content, "last.ckpt") == []


@pytest.mark.parametrize(
    ("key", "value"), [("config", "seed: 1\n"), ("start", 3), ("cpu", "another"), ("torch", "2.11.0")]
)
def test_checkpoints_of_one_process_with_other_records_are_a_difference(
    digits_run: RunDirectory, tmp_path: Path, key: str, value: object
) -> None:
    run = RunDirectory(shutil.copytree(digits_run.path, tmp_path / "run"))
    edit_checkpoints(run, lambda content: content["opsin"]["training"].update({key: value}), "last.ckpt")
    found = check_replay(open_run(run), full=True, chance=random.Random(0))
    assert found.status == "differs"
    assert "last.ckpt records another config, machine or start than best.ckpt" in found.detail


def test_a_stretch_begins_at_a_checkpoint_of_its_process() -> None:
    def point(step: int, start: int) -> Point:
        return Point(step, (Path(f"{step}.ckpt"),), (TrainingRecord("", start, Settings(), "", (), ""),))

    assert Stretch(Point(0), point(5, 0)).is_whole
    assert Stretch(point(5, 0), point(11, 0)).is_whole
    assert Stretch(point(8, 0), point(32, 8)).is_whole
    assert not Stretch(point(5, 0), point(32, 8)).is_whole
    assert not Stretch(Point(0), point(32, 8)).is_whole
    # A killed process wrote 11 and a resume from 8 did not replace it
    assert not Stretch(point(11, 0), point(32, 8)).is_whole


def test_a_best_epoch_that_is_not_the_best_is_a_difference(digits_run: RunDirectory, tmp_path: Path) -> None:
    run = RunDirectory(shutil.copytree(digits_run.path, tmp_path / "run"))
    result, rows = run.read_result(), read_epochs(run.metrics)
    assert result.monitor is not None
    assert check_records(open_run(run), result).status == "verified"
    other = replace(rows[-1], epoch=99, values={result.monitor.metric: 1e-9})
    write_epochs(run.metrics, [*rows, other])
    found = check_records(open_run(run), result)
    assert found.status == "differs"
    assert f"{result.monitor.metric} is better after epoch 99" in found.detail


def test_a_best_checkpoint_of_another_step_is_a_difference(digits_run: RunDirectory, tmp_path: Path) -> None:
    run = RunDirectory(shutil.copytree(digits_run.path, tmp_path / "run"))
    step = torch.load(run.best, weights_only=True)["global_step"]
    edit_checkpoints(run, lambda content: content.update(global_step=step - 1), "best.ckpt")
    found = check_records(open_run(run), run.read_result())
    assert f"best.ckpt is from step {step - 1}, and last.ckpt records step {step} as the best" in found.detail


@pytest.mark.parametrize("exact", [True, False])
def test_logits_that_exclude_a_class_are_compared(exact: bool) -> None:
    logits = np.array([[1, 2, -np.inf], [0, 3, -np.inf]], np.float32)
    targets = positions = np.arange(2)
    saved = Predictions("val", ("a", "b", "c"), logits, targets, positions, ("x.png", "y.png"), "digest")
    assert list(_differences_of_predictions(saved, saved, exact)) == []
    for value, difference in ((-np.inf, "inf"), (0.5, "2.5")):
        other = logits.copy()
        other[1, 1] = value
        found = list(_differences_of_predictions(saved, replace(saved, logits=other), exact))
        assert found == [f"the logits of 1 images differ by up to {difference}, such as y.png"]
