"""A resume applies changed values, or is refused before anything is written."""

from pathlib import Path

import pytest

from opsin.commands.train import train
from opsin.config import compose, from_saved
from opsin.config.resume_rules import changed_values
from opsin.errors import UserError
from opsin.runs.directory import RunDirectory
from opsin.runs.metrics_csv import read_epochs

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
    import torch

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
def test_a_refused_resume_leaves_the_finished_run_alone(run: RunDirectory, override: str, said: str) -> None:
    before = content(run)
    with pytest.raises(UserError, match=said):
        train(from_saved(run, [override]))
    assert content(run) == before


def test_a_resume_that_fails_leaves_the_finished_run_alone(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPSIN_TARGETS", "interruptions")
    names = ("result.json", "config.yaml", "metrics.csv", "checkpoints/best.ckpt", "predictions/test.npz")
    before = {name: (run.path / name).read_bytes() for name in names}
    stop = "+callbacks.stop={_target_: interruptions.StopAt, step: 17, how: error}"
    with pytest.raises(RuntimeError, match="error of the test"):
        train(from_saved(run, ["trainer.max_epochs=5", stop]))
    assert {name: (run.path / name).read_bytes() for name in names} == before
    assert RunDirectory(run.path / "failed_resume").read_result().status == "failed"


@pytest.mark.parametrize(("gone", "said"), [("last", "last.ckpt is missing"), ("best", "best.ckpt is missing")])
def test_a_missing_checkpoint_is_named_before_anything_is_written(run: RunDirectory, gone: str, said: str) -> None:
    getattr(run, gone).unlink()
    before = content(run)
    with pytest.raises(UserError, match=said):
        train(from_saved(run, ["trainer.max_epochs=3"]))
    assert content(run) == before


def test_changes_that_only_follow_another_are_not_named(run: RunDirectory) -> None:
    saved = from_saved(run, [])
    changed = changed_values(from_saved(run, ["datamodule.base_batch_size=32"]), saved)
    assert list(changed) == ["datamodule.base_batch_size"]
