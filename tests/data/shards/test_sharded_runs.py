"""Whole runs on shards: compared with runs on the store, resumed, and in two processes."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from interruptions import StopAt
from observers import Watch

from opsin.commands.evaluate import evaluate
from opsin.commands.train import train
from opsin.config import RunConfig, compose, from_saved
from opsin.errors import Interrupted, UserError
from opsin.runs.directory import RunDirectory
from opsin.runs.per_class import read_scores
from opsin.runs.predictions import read_predictions

pytest.importorskip("litdata")

ROOT = Path(__file__).resolve().parents[3]
OVERRIDES = (
    "model=mlp",
    "trainer.max_epochs=2",
    "callbacks.progress.bar=false",
    "logger=none",
    "report=false",
)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with the digits in `shards`: 12 of train, 2 of val, 4 of test."""
    folder: Path = tmp_path_factory.mktemp("streaming")
    command = [sys.executable, ROOT / "scripts" / "prepare_data.py", "digits", f"data_dir={folder / 'data'}"]
    done = subprocess.run(
        [*command, "--shards", folder / "shards", "--shard-mb", "0.1", "seed=7"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "824 bytes per image" in done.stdout
    assert f"datamodule.path={folder / 'shards'}" in done.stdout
    assert not (folder / "data" / ".opsin" / "stores").exists()
    return folder


@pytest.fixture
def start(home, tmp_path, monkeypatch):
    monkeypatch.setenv("OPSIN_TARGETS", "observers,interruptions")

    def start(name: str, *overrides: str) -> RunDirectory:
        run = RunDirectory(tmp_path / "outputs" / name)
        run.path.mkdir(parents=True, exist_ok=True)
        train(compose(all_overrides(home, run, *overrides), run.path))
        return run

    return start


def all_overrides(home: Path, run: RunDirectory, *overrides: str) -> list[str]:
    watch = f"+callbacks.watch={{_target_: observers.{Watch.__name__}, folder: {run.path / 'watch'}}}"
    return [*OVERRIDES, f"data_dir={home / 'data'}", f"output_dir={run.path.parent}", "seed=7", watch, *overrides]


def on_shards(home: Path, window: int) -> list[str]:
    batch = "datamodule.base_batch_size=16"  # as for the digits
    return ["datamodule=streaming", f"datamodule.path={home / 'shards'}", f"datamodule.window={window}", batch]


def stop(step: int) -> str:
    return f"+callbacks.stop={{_target_: interruptions.{StopAt.__name__}, step: {step}}}"


def state(run: RunDirectory, rank: int = 0) -> dict[str, torch.Tensor]:
    found: dict[str, Any] = torch.load(run.path / "watch" / f"{rank}.pt", weights_only=False)
    return found["state"]  # type: ignore[no-any-return]


def assert_same_state(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


@pytest.mark.slow
def test_a_run_on_shards_equals_one_on_the_store_exactly(home, start) -> None:
    overrides = ("trainer=cpu", "augmentation=digits")
    store, stream = start("store", *overrides), start("stream", *overrides, *on_shards(home, 16))
    assert_same_state(state(store), state(stream))
    one, other = store.read_result(), stream.read_result()
    assert one.metrics == other.metrics
    assert replace(one.data, fingerprint="", dataset="") == replace(other.data, fingerprint="", dataset="")
    for split in ("val", "test"):
        left, right = read_predictions(store, split), read_predictions(stream, split)
        assert left.images == right.images  # compare.py ranks only runs with the same images
        assert np.array_equal(left.logits, right.logits)
        assert np.array_equal(left.positions, right.positions)
    assert evaluate(stream).metrics["test/loss"] == other.metrics["test/loss"]


@pytest.mark.slow
def test_features_of_shards_equal_those_of_the_store(home, start) -> None:
    frozen = ("trainer=cpu", "model.trainable=head")
    store, stream = start("store", *frozen), start("stream", *frozen, *on_shards(home, 16))
    for run in (store, stream):
        assert "of 1,438 images" in run.read_result().settings.feature_cache
    assert_same_state(state(store), state(stream))


@pytest.mark.slow
@pytest.mark.parametrize("step", [30, 81, 100])  # an epoch has 81 steps
def test_a_run_stopped_within_an_epoch_resumes_exactly(home, start, step) -> None:
    overrides = ("trainer=cpu", "augmentation=digits", *on_shards(home, 2))
    whole = start("whole", *overrides)
    with pytest.raises(Interrupted):
        start("cut", *overrides, stop(step))
    cut = RunDirectory(whole.path.with_name("cut"))
    train(compose_again(cut))
    assert_same_state(state(whole), state(cut))
    one, other = whole.read_result(), cut.read_result()
    assert one.metrics == other.metrics
    assert other.status == "finished"


def compose_again(run: RunDirectory) -> RunConfig:
    return from_saved(run, ["callbacks.stop=null"])


@pytest.mark.slow
def test_a_resume_with_other_shards_is_refused(home, start, tmp_path) -> None:
    copied = shutil.copytree(home / "shards", tmp_path / "copied")
    overrides = ("trainer=cpu", *on_shards(home, 16), f"datamodule.path={copied}")
    with pytest.raises(Interrupted):
        start("cut", *overrides, stop(5))
    index = copied / "opsin.json"
    index.write_text(index.read_text().replace('"digest": "', '"digest": "0', 1))
    with pytest.raises(UserError, match="are not those of the run"):
        train(compose_again(RunDirectory(tmp_path / "outputs" / "cut")))


@pytest.mark.slow
def test_two_processes_divide_the_shards_and_resume_exactly(home, tmp_path) -> None:
    runs = {name: RunDirectory(tmp_path / "outputs" / name) for name in ("whole", "cut")}
    overrides = ("trainer=ddp_cpu", "augmentation=digits", *on_shards(home, 2))
    for name, run in runs.items():
        more = [stop(50)] if name == "cut" else []
        command(*all_overrides(home, run, *overrides, *more), f"hydra.run.dir={run.path}", code=130 if more else 0)
    command(f"resume={runs['cut'].path}", "callbacks.stop=null")
    for rank in (0, 1):
        assert_same_state(state(runs["whole"], rank), state(runs["whole"]))
        assert_same_state(state(runs["cut"], rank), state(runs["whole"]))
    result = runs["whole"].read_result()
    assert result.settings.devices == 2
    assert read_scores(runs["whole"], "test").confusion.sum() == 359  # no image is counted twice
    assert read_predictions(runs["whole"], "test").positions.tolist() == list(range(359))
    assert runs["cut"].read_result().metrics == result.metrics


def command(*overrides: str, code: int = 0) -> None:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT / 'tests' / 'helpers'}"}
    environment |= {"OPSIN_TARGETS": "observers,interruptions", "OMP_NUM_THREADS": "1"}
    line = [sys.executable, str(ROOT / "train.py"), *overrides]
    done = subprocess.run(line, capture_output=True, text=True, timeout=300, env=environment, check=False)
    assert done.returncode == code, done.stdout + done.stderr


@pytest.mark.slow
def test_missing_shards_give_one_message(tmp_path) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "train.py", "datamodule=streaming", f"datamodule.path={tmp_path}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "has no opsin.json" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
