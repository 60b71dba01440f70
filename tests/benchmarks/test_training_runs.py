import os
import shutil

import pytest
from made_runs import made_run

from benchmarks.reproduce import training_runs
from benchmarks.reproduce.lecture_rows import RESULTS
from benchmarks.reproduce.records import file_of, read_seed
from benchmarks.reproduce.rows import Row, select
from benchmarks.reproduce.training_runs import Session, config_of, recipe_of, run_all
from opsin.config import RunConfig
from opsin.errors import UserError
from opsin.runs.cpu_usage import CpuSample

ROW = Row("some", "title", "group", "mnist", seeds=2)
FACTS = {"metrics": {"test/acc": 0.5}, "seconds": {"total": 1.0}}


class Trainings:
    """Replaces the processes that train: writes run directories and counts the starts."""

    def __init__(self, folder, exit_code=0):
        self.started, self.exit_code = [], exit_code
        run = made_run(folder / "template", [True, False], result=FACTS)
        self.config = recipe_of(RunConfig.load(run))
        self.template = run.path

    def train(self, session, row, seed, run):
        self.started.append((row.name, seed, run.config.exists()))
        if not self.exit_code:
            shutil.copytree(self.template, run.path, dirs_exist_ok=True)
        return self.exit_code


@pytest.fixture
def trainings(tmp_path, monkeypatch):
    found = Trainings(tmp_path)
    monkeypatch.setattr(training_runs, "_train", found.train)
    monkeypatch.setattr(training_runs, "config_of", lambda row, seed, data_dir: found.config)
    return found


@pytest.fixture
def session(tmp_path):
    return Session(tmp_path / "records", tmp_path / "data", tmp_path / "work", log=lambda line: None)


def test_seeds_with_a_record_are_skipped(trainings, session):
    other = Row("other", "title", "group", "mnist", seeds=1)
    assert set(run_all(session, [ROW, other]).values()) == {"recorded"}
    assert [started[:2] for started in trainings.started] == [("some", 0), ("other", 0), ("some", 1)]
    assert set(run_all(session, [ROW, other]).values()) == {"done"}
    assert len(trainings.started) == 3
    assert run_all(session, [ROW], seeds=3)["some", 2] == "recorded"


def test_an_interrupted_record_is_written_again_without_training(trainings, session):
    run_all(session, [ROW])
    file = file_of(session.records, "some", 1)
    file.write_text(file.read_text()[:300])
    assert run_all(session, [ROW]) == {("some", 0): "done", ("some", 1): "recorded"}
    assert len(trainings.started) == 2  # the run directory had finished
    assert read_seed(session.records, "some", 1).metrics == {"test/acc": 0.5}


def test_a_changed_experiment_is_run_again(trainings, session):
    run_all(session, [ROW], seeds=1)
    trainings.config = trainings.config | {"optimizer.lr": 0.1}
    assert run_all(session, [ROW], seeds=1) == {("some", 0): "recorded"}
    assert [started[2] for started in trainings.started] == [False, False]  # the old run directory is gone


def test_a_stopped_run_is_resumed(trainings, session, tmp_path):
    made_run(tmp_path / "work" / "some" / "seed0", result={"status": "interrupted"})
    assert run_all(session, [ROW], seeds=1) == {("some", 0): "recorded"}
    assert trainings.started == [("some", 0, True)]


def test_a_failed_run_leaves_no_record_and_the_others_continue(trainings, session):
    trainings.exit_code = 1
    assert set(run_all(session, [ROW]).values()) == {"failed"}
    assert len(trainings.started) == 2
    assert not session.records.exists()


@pytest.mark.parametrize(("busy", "own", "load"), [(180.0, 95.0, 0.85), (100.0, 99.0, 0.01), (None, 50.0, None)])
def test_a_record_has_the_cores_that_other_programs_used(busy, own, load, trainings, session, monkeypatch):
    samples = iter([CpuSample(0.0, 0.0 if busy else None, 0.0), CpuSample(100.0, busy, own)])
    monkeypatch.setattr(CpuSample, "now", lambda: next(samples))
    monkeypatch.delattr(os, "getloadavg")
    run_all(session, [ROW], seeds=1)
    assert read_seed(session.records, "some", 0).load == load


def test_downloads_need_permission(trainings, session):
    row = Row("some", "title", "group", "cats_vs_dogs", downloads=True, seeds=1)
    assert run_all(session, [row]) == {("some", 0): "needs a download"}
    allowed = Session(session.records, session.data_dir, session.work_dir, downloads=True, log=session.log)
    assert run_all(allowed, [row]) == {("some", 0): "recorded"}


def test_the_process_gets_the_config_or_the_run_to_resume(session, monkeypatch):
    commands = []

    class Process:
        returncode = 0

        def __init__(self, command, **options):
            commands.append((command[2:], options["env"].get("OPSIN_TARGETS")))

        def wait(self):
            return 0

    monkeypatch.setattr(training_runs.subprocess, "Popen", Process)
    own = Row("own", "title", "group", "mnist", "mistakes/small_mnist", ("optimizer.lr=0.1",))
    run = session.run_directory(own, 3)
    training_runs._train(session, own, 3, run)
    words, targets = commands[-1]
    assert words[:4] == [
        "--config-dir",
        "benchmarks/mistakes/configs",
        "experiment=mistakes/small_mnist",
        "optimizer.lr=0.1",
    ]
    assert {"seed=3", f"data_dir={session.data_dir}", f"hydra.run.dir={run.path}"} <= set(words)
    assert targets == "benchmarks"
    run.path.mkdir()
    run.config.touch()
    training_runs._train(session, own, 3, run)
    assert commands[-1][0] == [f"resume={run.path}"]


def test_rows_are_selected_by_the_beginning_of_their_name():
    names = [row.name for row in select(RESULTS, ["mnist"])]
    assert len(names) == 8
    assert all(name.startswith("mnist_") for name in names)
    assert [row.name for row in select(RESULTS, ["mnist_mlp", "cats_vs_dogs_cnn"])] == [
        "mnist_mlp",
        "cats_vs_dogs_cnn",
        "cats_vs_dogs_cnn_augmented",
    ]
    assert select(RESULTS, None) == list(RESULTS)
    with pytest.raises(UserError, match="did you mean mnist_mlp"):
        select(RESULTS, ["mnist_mpl"])


def test_folders_of_real_images_are_named(tmp_path):
    (tmp_path / "cifar10_jpeg").mkdir()
    row = next(row for row in RESULTS if row.name == "cifar10_cnn_plain")
    config = config_of(row, 0, tmp_path)
    assert config["trainer.max_epochs"] == 10
    assert "seed" not in config
    assert f"datamodule.path={tmp_path / 'cifar10_jpeg'}" in row.settings(0, tmp_path)
    assert not any("datamodule.path" in word for word in row.settings(0, tmp_path / "none"))
