"""The common part of the loggers, without their libraries."""

import errno
import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.logger import DummyLogger

from opsin.commands.train import train
from opsin.config import compose
from opsin.errors import UserError
from opsin.runs.directory import RunDirectory
from opsin.training.loggers.base import (
    RunFacts,
    check_installed,
    log_outcome,
    log_start,
    record_id,
    recorded_id,
    run_name,
)
from opsin.training.loggers.csv_rows import CSV
from opsin.training.loggers.mlflow import MLflow
from opsin.training.plan import make_plan


@pytest.fixture
def facts(tmp_path: Path) -> RunFacts:
    return RunFacts(RunDirectory(tmp_path), {"model": "mlp", "optimizer.lr": 0.1}, ("a", "b"))


@pytest.mark.parametrize("name", ["wandb", "mlflow", "trackio"])
def test_a_missing_library_is_named_before_a_file_is_written(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda module, *a: None if module == name else find(module, *a))
    composed = compose([f"logger=[tensorboard,{name}]", f"output_dir={tmp_path}"], tmp_path / "run")
    with pytest.raises(UserError, match=rf"logger\.{name} needs {name}, .*: pip install 'opsin\[{name}\]'"):
        train(composed)
    assert list(tmp_path.iterdir()) == []


def test_the_identifier_of_mlflow_is_recorded_without_the_password_of_its_server(tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    run = RunDirectory(tmp_path)
    address = "https://me:{}@mlflow.example.com"
    record_id(run, f"mlflow {address.format('***')}", "seven")
    logger = MLflow(run, tracking_uri=address.format("of-this-test"))  # no other test registers it as a secret
    assert logger._resumes  # `run_id` would open a connection


def test_a_run_resumed_in_another_folder_keeps_its_local_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    run, database = RunDirectory(tmp_path / "run"), tmp_path / "first" / "mlflow.db"
    run.path.mkdir()
    key = MLflow(run, str(database.parent))._key
    assert key == f"mlflow sqlite:///{database}"
    record_id(run, "wandb opsin", "one")
    record_id(run, key, "seven")
    database.touch()
    for folder in ("first", "second"):
        logger = MLflow(run, str(tmp_path / folder))
        assert (logger._key, logger._resumes) == (key, True)
    assert not MLflow(run, str(tmp_path / "second"), tracking_uri="http://127.0.0.1:9")._resumes
    database.unlink()
    logger = MLflow(run, str(tmp_path / "third"))
    assert (logger._key, logger._resumes) == (f"mlflow sqlite:///{tmp_path / 'third' / 'mlflow.db'}", False)


def test_a_missing_library_of_lightnings_own_logger_is_named() -> None:
    composed = compose([])
    section = {"mine": {"_target_": "lightning.pytorch.loggers.CometLogger"}}
    plan = make_plan(replace(composed, tree={**composed.tree, "logger": section}))
    with pytest.raises(UserError, match=r"logger.mine needs comet_ml, which is not installed: pip install 'comet-ml'"):
        check_installed(plan.loggers)


def test_any_logger_of_lightning_gets_config_and_outcome(facts: RunFacts, tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path, name="", version="")
    log_start([logger], facts)
    log_outcome([logger], facts, {"test/acc": 0.5}, 10)
    assert "final/test/acc,step\n0.5,10" in (tmp_path / "metrics.csv").read_text().replace("\r", "")
    logger.save()
    text = (tmp_path / "hparams.yaml").read_text()
    assert "model: mlp" in text
    assert "tags: a, b" in text


class Broken(DummyLogger):
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        raise RuntimeError("no\n server.")

    def log_metrics(self, *args: Any, **kwargs: Any) -> None:
        raise RuntimeError("the server is gone")


def test_a_logger_that_cannot_start_is_named_and_one_that_cannot_end_is_a_warning(
    facts: RunFacts, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(UserError, match=r"the logger Broken cannot start: no server\.$"):
        log_start([Broken()], facts)
    log_outcome([Broken()], facts, {"test/acc": 0.5}, 10)
    assert "Broken could not record the outcome: the server is gone" in caplog.text


class Away(CSVLogger):
    """A logger whose server is away while `away` names one of its methods."""

    away = ""

    def log_metrics(self, *args: Any, **kwargs: Any) -> None:
        self._fail("log_metrics")
        super().log_metrics(*args, **kwargs)

    def save(self) -> None:
        self._fail("save")
        super().save()

    def finalize(self, status: str) -> None:
        self._fail("finalize")
        super().finalize(status)

    def _fail(self, method: str) -> None:
        if self.away == method:
            raise ConnectionError("no route to host")


@pytest.mark.parametrize("method", ["log_metrics", "save", "finalize"])
def test_a_run_continues_without_a_logger_that_fails_and_records_its_outcome_if_the_server_is_back(
    method: str, facts: RunFacts, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    logger = Away(tmp_path, name="", version="")
    log_start([logger], facts)
    logger.log_metrics({"val/acc": 0.25}, 5)
    logger.away = method
    for _ in range(2):
        logger.log_metrics({"val/acc": 0.375}, 7)
        logger.save()
        logger.finalize("success")
    message = "the logger Away failed, and the run continues without it: no route to host"
    assert [record.getMessage() for record in caplog.records] == [message]
    logger.away = ""
    log_outcome([logger], facts, {"test/acc": 0.5}, 10)
    assert len(caplog.records) == 1
    text = (tmp_path / "metrics.csv").read_text()
    assert "0.25" in text
    assert "final/test/acc" in text


class Status(DummyLogger):
    def __init__(self) -> None:
        super().__init__()
        self.ends: list[str] = []

    def finalize(self, status: str) -> None:
        self.ends.append(status)


@pytest.mark.parametrize("before", [0, 1, 2])
def test_loggers_that_have_started_record_the_failure_of_one_that_cannot(before: int, facts: RunFacts) -> None:
    loggers = [Status() for _ in range(3)]
    with pytest.raises(UserError, match="the logger Broken cannot start: no server"):
        log_start([*loggers[:before], Broken(), *loggers[before:]], facts)
    assert [logger.ends for logger in loggers] == [["failed"]] * before + [[]] * (3 - before)


def test_a_failure_of_the_disk_of_the_run_ends_it(facts: RunFacts, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(CSV, "save", full)
    logger = CSV(facts.run)
    log_start([logger], facts)
    with pytest.raises(OSError, match="No space left"):
        logger.save()


def test_the_id_of_a_run_is_kept_and_a_damaged_file_is_named(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    assert recorded_id(run, "wandb opsin", "one") == ("one", False)
    assert recorded_id(run, "wandb opsin", "two") == ("one", True)
    assert recorded_id(run, "wandb other", "two") == ("two", False)
    record_id(run, "mlflow x", "three")
    assert len(json.loads((tmp_path / "loggers.json").read_text())) == 3
    (tmp_path / "loggers.json").write_text("{")
    with pytest.raises(UserError, match=r"loggers\.json is damaged .*: delete it"):
        recorded_id(run, "wandb opsin", "one")


def test_a_run_of_a_sweep_is_named_after_its_sweep(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "grid_1" / "003_digits_mlp")
    run.path.mkdir(parents=True)
    assert run_name(run) == "003_digits_mlp"
    (run.path.parent / "sweep.yaml").touch()
    assert run_name(run) == "grid_1/003_digits_mlp"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["logger=wandbb"], "did you mean logger=wandb?"),
        (["logger=[tensorboard,mlfow]"], "did you mean logger=mlflow?"),
        (["logger=wandb", "logger.wandb.mod=offline"], "did you mean logger.wandb.mode=offline?"),
        (["trainer.val_check_intervall=0.5"], "did you mean trainer.val_check_interval=0.5?"),
        (["tag=[a]"], "did you mean 'tags=[a]'?"),
    ],
)
def test_a_typo_is_refused_with_the_right_name(words: list[str], said: str) -> None:
    with pytest.raises(UserError) as error:
        compose(words)
    assert said in str(error.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["logger=wandb", "logger.wandb.mode=offlin"], "logger.wandb.mode should be 'online' or 'offline'"),
        (["tags=a"], r"tags=\[a\]"),
        (["tags=['']"], "tags"),
        (["trainer.val_check_interval=0"], "trainer.val_check_interval"),
        (["trainer.val_check_interval=1.5"], "trainer.val_check_interval"),
        (
            ["trainer.val_check_interval=0.5", "trainer.limit_val_batches=0", "monitor.metric=train/loss"],
            "has no effect",
        ),
    ],
)
def test_a_wrong_value_is_refused_by_name(words: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        make_plan(compose(words))
