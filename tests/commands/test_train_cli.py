"""The command line in this process: config files of the user in any order of arguments, and secrets in no file."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from sweep_commands import finish, runs

from opsin.commands import find_lr, train_cli
from opsin.config import ConfigSource, RunConfig, compose
from opsin.runs.directory import RunDirectory

SECRET = "s3cret/väl'ue+1"
REFERENCE = "${oc.env:OPSIN_TEST_TOKEN}"
QUICK = ("model=mlp", "trainer=cpu", "trainer.max_epochs=1", "datamodule.train_fraction=0.1", "callbacks=no_pictures")
TRACKER = f"""# @package _global_
optimizer:
  lr: 0.0031
callbacks:
  tracker:
    _target_: faults.Tracker
    api_token: {REFERENCE}
"""


@pytest.fixture
def conf(in_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of the user's config files, with an experiment that needs a secret, and a primary config."""
    conf = in_tmp / "my conf"
    (conf / "experiment").mkdir(parents=True)
    (conf / "experiment" / "mine.yaml").write_text(TRACKER)
    (conf / "primary.yaml").write_text("defaults:\n  - train\n  - _self_\nseed: 17\n")
    monkeypatch.setenv("OPSIN_TARGETS", "faults")
    monkeypatch.setenv("OPSIN_TEST_TOKEN", SECRET)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield conf
    for handler in root.handlers:
        if handler not in handlers:
            handler.close()
    root.handlers[:], root.level = handlers, level


def files_with_the_secret(folder: Path) -> list[Path]:
    forms = [form.encode() for form in (SECRET, repr(SECRET)[1:-1], "s3cret", "s3cret%2F")]
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    return [path for path in files if any(form in path.read_bytes() for form in forms)]


@pytest.mark.slow
def test_a_run_and_its_resume_write_no_secret(
    conf: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = RunDirectory(conf.parent / "outputs" / "run")
    arguments = ["experiment=mine", "--config-name", "primary", *QUICK, "hydra.run.dir=outputs/run", "-cd", "my conf"]
    assert train_cli.main(arguments) == 0
    tree = RunConfig.load(run).tree
    assert (tree["seed"], tree["optimizer"]["lr"]) == (17, 0.0031)
    assert tree["callbacks"]["tracker"]["api_token"] == REFERENCE
    conf.rename(conf.with_name("gone"))
    assert train_cli.main(["trainer.max_epochs=2", "resume=outputs/run"]) == 0
    assert run.read_result().epochs == 2
    written = {path.name.split(".")[0] for path in run.path.rglob("*")}
    assert {"config", "overrides", "result", "train", "report", "events", "best"} <= written
    assert f"connected with {REFERENCE}" in (run.path / "train.log").read_text()
    assert files_with_the_secret(conf.parent / "outputs") == []
    assert "s3cret" not in "".join(capsys.readouterr())

    monkeypatch.delenv("OPSIN_TEST_TOKEN")
    assert train_cli.main(["resume=outputs/run", "trainer.max_epochs=3"]) == 1
    assert capsys.readouterr().err == (
        "Not set in the environment: OPSIN_TEST_TOKEN (for callbacks.tracker.api_token). "
        "Set it first: export OPSIN_TEST_TOKEN=...\n"
    )
    assert train_cli.main(["+callbacks.tracker.api_token=hunter2"]) == 1
    error = capsys.readouterr().err
    assert "callbacks.tracker.api_token: a secret must not be written" in error
    assert "hunter2" not in error


def test_the_error_of_a_library_with_the_secret_is_masked(conf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*QUICK, "--config-dir=my conf", "experiment=mine", "+callbacks.tracker.fails=true"]
    assert train_cli.main([*arguments, "hydra.run.dir=outputs/run"]) == 1
    run = RunDirectory(conf.parent / "outputs" / "run")
    assert run.read_result().error == f"RuntimeError: 401 for https://tracker/?token={REFERENCE}"
    assert f"token={REFERENCE}" in run.error.read_text()
    assert files_with_the_secret(conf.parent / "outputs") == []
    printed = "".join(capsys.readouterr())
    assert f"token={REFERENCE}" in printed
    assert "s3cret" not in printed


@pytest.mark.slow
@pytest.mark.parametrize("address", ["${oc.env:OPSIN_TEST_URL}", "http://me:${oc.env:PGPASSWORD}@127.0.0.1:9", None])
def test_a_run_writes_no_password_of_an_address(
    address: str | None, conf: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The server does not answer, so the library fails with the address in its message."""
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("PGPASSWORD", "hunter22")
    monkeypatch.setenv("OPSIN_TEST_URL" if address else "MLFLOW_TRACKING_URI", "http://me:hunter22@127.0.0.1:9")
    arguments = [*QUICK, "logger=mlflow", *([f"logger.mlflow.tracking_uri='{address}'"] if address else [])]
    assert train_cli.main([*arguments, "hydra.run.dir=outputs/run"]) == 1
    files = [file for file in conf.parent.rglob("*") if file.is_file()]
    assert "error.txt" in {file.name for file in files}
    assert [file for file in files if b"hunter22" in file.read_bytes()] == []
    printed = "".join(capsys.readouterr())
    assert "mlflow" in printed
    assert "hunter22" not in printed


@pytest.mark.slow
def test_a_sweep_writes_no_secret_and_its_best_needs_the_same_config_files(conf: Path) -> None:
    folder = conf.parent
    fails = "+callbacks.tracker.fails=true,false"
    arguments = ("experiment=mine", "--config-dir", "my conf", "trainer.max_epochs=1", fails, "logger=tensorboard")
    printed = finish(folder, *arguments, "launcher.jobs=1", code=1, variables={"OPSIN_TEST_TOKEN": SECRET})
    failed, winner = map(RunDirectory, runs(folder))
    assert f"token={REFERENCE}" in failed.error.read_text()
    assert f"token={REFERENCE}" in printed
    assert winner.read_result().status == "finished"
    assert "test/acc" in winner.read_result().metrics
    [sweep] = folder.glob("outputs/sweeps/*")
    assert {"study.journal", "sweep.csv", "experiment"} <= {path.name for path in sweep.iterdir()}
    assert files_with_the_secret(folder) == []

    source = ConfigSource.of([str(conf), str(sweep)])
    again = compose(["experiment=best"], folder / "again", source).tree
    saved = RunConfig.load(winner).tree
    for key in ("seed", "optimizer", "model", "callbacks", "datamodule"):
        assert again[key] == saved[key]
    assert f"--config-dir '{conf}' --config-dir {sweep} experiment=best" in (sweep / "experiment/best.yaml").read_text()


@pytest.mark.parametrize(
    "arguments",
    [
        ["-m", "-cd", "CONF", "experiment=mine", "seed=1,2", "--cfg", "job", "-cn", "primary"],
        ["experiment=mine", "seed=1,2", "--cfg=job", "--config-name=primary", "--config-dir", "CONF", "--multirun"],
        ["-cn", "primary", "--cfg", "job", "experiment=mine", "seed=1", "--config-dir=CONF"],
    ],
)
def test_flags_are_accepted_in_any_order(arguments: list[str], conf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train_cli.main([argument.replace("CONF", str(conf)) for argument in arguments]) == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert (printed["seed"], printed["optimizer"]["lr"]) == (1, 0.0031)
    assert printed["callbacks"]["tracker"]["api_token"] == REFERENCE


def test_the_range_test_takes_the_same_flags(conf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["experiment=mine", "--steps", "20", "--config-name=primary", *QUICK, "--config-dir", "my conf"]
    assert find_lr.main(arguments) == 0
    printed = capsys.readouterr().out
    assert f"opsin train --config-name primary --config-dir '{conf}' experiment=mine" in printed
    assert files_with_the_secret(conf.parent / "outputs") == []
