"""A resume applies changed values, or is refused before anything is written."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from damage import DAMAGE, copy_of, flip_bit

from opsin.commands.train import train
from opsin.config import compose, from_saved
from opsin.config.resume_rules import changed_values
from opsin.errors import UserError
from opsin.runs.checkpoint_files import fault_of
from opsin.runs.directory import RunDirectory
from opsin.runs.metrics_csv import EpochRow, read_epochs, write_epochs
from opsin.training.resume_check import check_resume, find_resume_point, keeps_average

QUICK = (
    "model=mlp",
    "trainer=cpu",
    "logger=none",
    "report=false",
    "callbacks=no_pictures",
    "callbacks.progress.bar=false",
)


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    """A finished run of two epochs with AdamW."""
    place = tmp_path / "outputs" / "run"
    place.mkdir(parents=True)
    data = ("datamodule.train_fraction=0.2", "trainer.max_epochs=2", f"data_dir={tmp_path / 'data'}")
    parts = ("optimizer=adamw", "scheduler=constant", "optimizer.lr=0.01", "optimizer.weight_decay=0.1")
    train(compose([*QUICK, *data, *parts, f"output_dir={tmp_path / 'outputs'}"], place))
    return RunDirectory(place)


def test_changed_values_reach_the_optimizer(run: RunDirectory) -> None:
    train(from_saved(run, ["trainer.max_epochs=3", "optimizer.lr=0.00001", "optimizer.weight_decay=0.5"]))
    groups = torch.load(run.last, weights_only=True)["optimizer_states"][0]["param_groups"]
    assert {group["lr"] for group in groups} == {1e-5}
    assert [group["weight_decay"] for group in groups if group["name"] == "head/decay"] == [0.5]
    rows = read_epochs(run.metrics)
    assert [(row.epoch, row.get("lr")) for row in rows] == [(1, 0.01), (2, 0.01), (3, 1e-5)]


def content(run: RunDirectory) -> dict[str, bytes]:
    return {str(path.relative_to(run.path)): path.read_bytes() for path in run.path.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("seed=1", "seed=1 cannot be changed on resume"),
        ("datamodule.batch_size=8", "datamodule.batch_size=8 cannot be changed on resume"),
        ("optimizer.weight_decay=0", "from or to 0"),
        ("loss.label_smoothing=0.1", "loss.label_smoothing=0.1 cannot be changed on resume"),
        ("optimizer.lr=0.1", "optimizer.lr=0.1 cannot be changed on resume: no further epoch is trained"),
    ],
)
def test_a_refused_resume_does_not_change_the_finished_run(run: RunDirectory, override: str, said: str) -> None:
    before = content(run)
    with pytest.raises(UserError, match=said):
        train(from_saved(run, [override]))
    assert content(run) == before


@pytest.mark.parametrize(
    ("key", "added"),
    [
        ("trainer.max_time", ()),
        ("callbacks.timer.duration", ("+callbacks.timer._target_=lightning.pytorch.callbacks.Timer",)),
    ],
)
def test_a_resume_after_the_limit_of_time_applies_no_value_in_vain(
    key: str,
    added: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    run = RunDirectory(tmp_path / "outputs" / "run")
    run.path.mkdir(parents=True)
    limit = f"{key}=00:00:00:05"
    words = ("datamodule.train_fraction=0.2", *added, f"{'+' if added else ''}{limit}", f"data_dir={tmp_path / 'data'}")
    with monkeypatch.context() as patch:
        elapsed = "lightning.pytorch.callbacks.Timer.time_elapsed"
        patch.setattr(elapsed, lambda self, stage="train": 7.0 if self.start_time() else 0.0)
        train(compose([*QUICK, *words, f"output_dir={tmp_path / 'outputs'}"], run.path))
    reason = f"{limit} is used up"
    assert run.read_result().stopped == reason
    before = content(run)
    with pytest.raises(UserError, match=rf"optimizer\.lr=0\.1 cannot be.*\n.*{reason}.* for 7\.0 seconds.*null"):
        train(from_saved(run, ["optimizer.lr=0.1"]))
    assert content(run) == before
    with caplog.at_level("INFO"):
        train(from_saved(run, []))
    assert f"no further epoch is trained, because {reason}" in caplog.text
    assert run.read_result().stopped == reason
    train(from_saved(run, [f"{key}=01:00:00:00", "trainer.max_epochs=1"]))
    assert (run.read_result().epochs, run.read_result().stopped) == (1, None)


def test_a_resume_that_writes_the_embeddings_of_a_step_again_prints_no_warning_of_tensorboard(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "outputs" / "run"
    place.mkdir(parents=True)
    short = ("datamodule.train_fraction=0.2", "trainer.max_epochs=1", f"data_dir={tmp_path / 'data'}")
    short += ("logger=tensorboard", "+callbacks.projector._target_=opsin.training.callbacks.EmbeddingProjector")
    train(compose([*QUICK, *short, f"output_dir={tmp_path / 'outputs'}"], place))
    written = list(place.rglob("tensors.tsv"))
    train(from_saved(RunDirectory(place), []))
    assert list(place.rglob("tensors.tsv")) == written != []
    assert "Embedding dir" not in capsys.readouterr().out


def test_a_failed_resume_does_not_change_the_finished_run(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPSIN_TARGETS", "interruptions")
    names = ("result.json", "config.yaml", "metrics.csv", "checkpoints/best.ckpt", "predictions/test.npz")
    before = {name: (run.path / name).read_bytes() for name in names}
    stop = "+callbacks.stop={_target_: interruptions.StopAt, step: 17, how: error}"
    with pytest.raises(RuntimeError, match="error of the test"):
        train(from_saved(run, ["trainer.max_epochs=5", stop]))
    assert {name: (run.path / name).read_bytes() for name in names} == before
    assert RunDirectory(run.path / "failed_resume").read_result().status == "failed"


def copied(run: RunDirectory, target: Path) -> RunDirectory:
    return RunDirectory(copy_of(run.path, target))


def test_a_run_without_a_limit_of_epochs_has_the_default_limit(digits_run: RunDirectory, tmp_path: Path) -> None:
    run = copied(digits_run, tmp_path / "run")
    tree = yaml.safe_load(run.config.read_text())
    del tree["trainer"]["max_epochs"]  # as `opsin train ~trainer.max_epochs` does
    run.config.write_text(yaml.safe_dump(tree))
    assert check_resume(from_saved(run, ["optimizer.lr=0.001"]))[1] == ["changed: optimizer.lr=0.001"]


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_last_checkpoint_is_replaced_by_the_best(digits_run: RunDirectory, tmp_path: Path, kind: str) -> None:
    run = copied(digits_run, tmp_path / "run")
    DAMAGE[kind](run.last)
    point, lines = find_resume_point(run)
    assert point
    assert point.file == run.best
    assert len(lines) == 1
    assert f"{run.last} {fault_of(run.last)}: resuming from {run.best}, after step 17 (epoch 1)" in lines[0]
    point.restore(run)
    assert run.last.samefile(run.best)


def test_a_checkpoint_without_the_state_of_a_run_is_replaced_by_the_best(
    digits_run: RunDirectory, tmp_path: Path
) -> None:
    run = copied(digits_run, tmp_path / "run")
    run.last.unlink()
    torch.save({"weight": torch.zeros(2)}, run.last)
    point, lines = find_resume_point(run)
    assert point
    assert point.file == run.best
    assert f"{run.last} is damaged (it holds no state of a run): resuming from {run.best}" in lines[0]


def test_resuming_from_the_best_checkpoint_changes_nothing_else(
    digits_run: RunDirectory, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole, damaged = (copied(digits_run, tmp_path / name) for name in ("whole", "damaged"))
    flip_bit(damaged.last, "/data/3", 40)
    with caplog.at_level("INFO"):
        for run in (whole, damaged):
            train(from_saved(run, ["trainer.max_epochs=2", "report=false"]))
    assert f"{damaged.last} is damaged" in caplog.text
    assert damaged.metrics.read_text() == whole.metrics.read_text()
    states = [torch.load(run.last, weights_only=True)["state_dict"] for run in (whole, damaged)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_a_lost_best_checkpoint_is_replaced_by_the_last_of_the_same_epoch(
    digits_run: RunDirectory, tmp_path: Path
) -> None:
    run = copied(digits_run, tmp_path / "run")
    flip_bit(run.best)
    point, lines = find_resume_point(run)
    assert point
    assert f"{run.best} {fault_of(run.best)}: replaced by {run.last}" in lines[0]
    point.restore(run)
    assert run.best.read_bytes() == digits_run.best.read_bytes()


def test_without_a_good_checkpoint_nothing_is_written_and_the_command_is_printed(
    digits_run: RunDirectory, tmp_path: Path
) -> None:
    run = copied(digits_run, tmp_path / "run")
    flip_bit(run.best)
    for damage in (flip_bit, Path.unlink):
        damage(run.last)
        before = content(run)
        with pytest.raises(
            UserError, match=r"last\.ckpt is .*best\.ckpt is damaged|best\.ckpt is .*last\.ckpt is"
        ) as raised:
            train(from_saved(run, ["trainer.max_epochs=3"]))
        assert "start the run again with the same command: opsin train model=cnn_gap trainer=cpu" in str(raised.value)
        assert content(run) == before


def test_the_last_checkpoint_of_another_epoch_does_not_replace_the_best(
    digits_run: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = copied(digits_run, tmp_path / "run")
    monkeypatch.setattr("opsin.training.callbacks.checkpoints.sort_key", lambda name, value: 0.0)  # no epoch is better
    train(from_saved(run, ["trainer.max_epochs=2", "report=false"]))
    best, last = run.best.read_bytes(), run.last.read_bytes()
    run.best.write_bytes(last)  # of another epoch
    with pytest.raises(UserError, match=r"best\.ckpt is not of the best epoch, 1"):
        find_resume_point(run)
    run.best.unlink()
    with pytest.raises(UserError, match=r"best\.ckpt is missing"):
        find_resume_point(run)
    run.best.write_bytes(best)
    run.step.write_bytes(last[:-100])
    run.last.unlink()
    point, lines = find_resume_point(run)
    assert point
    assert (point.file, point.state.step) == (run.best, 17)
    assert len(lines) == 2  # one per damaged file
    run.step.write_bytes(last)
    assert find_resume_point(run)[0].file == run.step  # the newest good one


def test_a_run_without_checkpoints_restarts_only_if_it_never_wrote_one(
    digits_run: RunDirectory, tmp_path: Path
) -> None:
    run = copied(digits_run, tmp_path / "run")
    shutil.rmtree(run.checkpoints)
    with pytest.raises(UserError, match="has no good checkpoint"):
        find_resume_point(run)
    run.write_result(replace(run.read_result(), status="interrupted"))
    assert find_resume_point(run)[0] is None  # killed before the first checkpoint: the row is written before it
    write_epochs(run.metrics, [EpochRow(1, 17, {"val/loss": 1.0}), EpochRow(2, 34, {"val/loss": 0.9})])
    with pytest.raises(UserError, match="has no good checkpoint"):
        find_resume_point(run)


def test_changes_derived_from_another_change_are_not_named(run: RunDirectory) -> None:
    saved = from_saved(run, [])
    changed = changed_values(from_saved(run, ["datamodule.base_batch_size=32"]), saved)
    assert list(changed) == ["datamodule.base_batch_size"]


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("opsin.training.callbacks.EMA", True),
        ("lightning.pytorch.callbacks.EMAWeightAveraging", True),
        ("own_average.Mine", True),
        ("own_average.Other", False),
        ("lightning.pytorch.callbacks.StochasticWeightAveraging", False),
        ("own_average.Gone", False),
    ],
)
def test_averages_are_known_by_their_class(
    target: str, expected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = ("from lightning.pytorch import callbacks", "class Mine(callbacks.EMAWeightAveraging): ...")
    (tmp_path / "own_average.py").write_text("\n".join([*lines, "class Other(callbacks.Callback): ..."]))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("OPSIN_TARGETS", "own_average")
    assert keeps_average(target) is expected


STOPS = {
    "a threshold": ("+callbacks.mine.stopping_threshold=100", "Stopping threshold reached"),
    "divergence": ("+callbacks.mine.divergence_threshold=0", "Divergence threshold reached"),
    "patience": ("+callbacks.mine.min_delta=100", "did not improve"),
}


@pytest.mark.parametrize("case", STOPS)
def test_a_run_that_a_callback_of_lightning_stopped_stays_stopped(tmp_path: Path, case: str) -> None:
    override, reason = STOPS[case]
    place = tmp_path / "outputs" / "run"
    place.mkdir(parents=True)
    data = ("datamodule.train_fraction=0.2", "trainer.max_epochs=9", f"data_dir={tmp_path / 'data'}")
    kind = "+callbacks.mine._target_=lightning.pytorch.callbacks.EarlyStopping"
    mine = (
        "callbacks.early_stopping=null",
        kind,
        "+callbacks.mine.monitor=val/loss",
        "+callbacks.mine.patience=1",
        override,
    )
    train(compose([*QUICK, *data, *mine, f"output_dir={tmp_path / 'outputs'}"], place))
    run = RunDirectory(place)
    epochs, result = len(read_epochs(run.metrics)), run.read_result()
    assert epochs < 9
    _, lines = check_resume(from_saved(run, []))
    assert [line for line in lines if reason in line and line.endswith("set callbacks.mine=null")]
    train(from_saved(run, []))
    assert (len(read_epochs(run.metrics)), run.read_result().metrics) == (epochs, result.metrics)
    with pytest.raises(UserError, match="no further epoch is trained"):
        check_resume(from_saved(run, [override.removeprefix("+").rpartition("=")[0] + "=50"]))
    train(from_saved(run, ["callbacks.mine=null", f"trainer.max_epochs={epochs + 1}"]))
    assert len(read_epochs(run.metrics)) == epochs + 1
