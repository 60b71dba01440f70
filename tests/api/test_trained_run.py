"""Training from Python: the run equals that of the command, and the state of the process does not change."""

import logging
import os
import random
import signal
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra

import opsin
from opsin.runs.directory import RunDirectory

QUICK: dict[str, Any] = {
    "trainer": {"max_epochs": 2, "accelerator": "cpu"},
    "datamodule": {"batch_size": 64, "train_fraction": 0.2},
    "logger": "none",
}


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


def process_state() -> dict[str, Any]:
    root, own = logging.getLogger(), logging.getLogger("opsin")
    return {
        "environment": dict(os.environ),
        "folder": Path.cwd(),
        "signals": {number: signal.getsignal(number) for number in signal.valid_signals()},
        "root": (root.handlers[:], root.level),
        "opsin": (own.handlers[:], own.level, own.propagate),
        "lightning": logging.getLogger("lightning.pytorch").level,
        "warnings": list(warnings.filters),
        "random": (random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()),  # noqa: NPY002
        "torch": (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()),
        "cudnn": (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic),
        "hydra": GlobalHydra.instance().hydra,
    }


@pytest.mark.slow
def test_two_runs_do_not_change_the_process_state(
    data_dir: Path, in_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    opsin.train  # noqa: B018 - the first use imports torch, which sets variables and warnings of its own
    before = process_state()
    determinism = {**QUICK, "trainer": {**QUICK["trainer"], "deterministic": "strict", "threads": 2}}
    first = opsin.train("model=cnn_gap", data_dir=data_dir, **determinism)
    second = opsin.train("model=cnn_gap", data_dir=data_dir, report=False, **determinism)
    for name, value in process_state().items():
        assert value == before[name], name

    out = capsys.readouterr().out
    assert out.count("epoch 1/2  train/loss") == out.count("epoch 2/2  train/loss") == 2
    assert "\x1b" not in out
    assert first.path != second.path
    assert first.path.is_relative_to(in_tmp / "outputs")  # paths follow the current folder
    assert (in_tmp / "outputs" / "latest").resolve() == second.path
    assert "epoch 2/2" in (first.path / "train.log").read_text(encoding="utf-8")
    assert first.metrics == RunDirectory(first.path).read_result().metrics == second.metrics
    assert list(first.history.index) == [1, 2]
    assert first.history["val/loss"].notna().all()
    assert first.report == first.path / "report.html"
    assert second.report is None
    assert all(text in first._repr_html_() for text in (str(first.path), "test/acc", "finished"))
    assert first.model is first.model
    assert first.model.classes == tuple("0123456789")


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_a_caller_without_gradients_can_train(mode: Any, data_dir: Path, in_tmp: Path) -> None:
    with mode():
        run = opsin.train("model=mlp", data_dir=data_dir, test=False, report=False, **QUICK)
        assert torch.is_inference_mode_enabled() == (mode is torch.inference_mode)
        assert not torch.is_grad_enabled()
    assert run.metrics["train/loss"] < 2.3


@pytest.mark.slow
def test_the_result_equals_that_of_the_command(data_dir: Path, in_tmp: Path) -> None:
    words = ["model=mlp", f"data_dir={data_dir}", "datamodule.train_fraction=0.2", "trainer=cpu", "report=false"]
    words += ["trainer.max_epochs=1", "logger=none", "trainer.threads=1"]
    torch.manual_seed(5)
    by_python = opsin.train(*words)
    script = Path(__file__).resolve().parents[2] / "train.py"
    subprocess.run([sys.executable, str(script), *words, f"hydra.run.dir={in_tmp / 'run'}"], check=True)
    assert RunDirectory(in_tmp / "run").read_result().metrics == by_python.metrics


@pytest.mark.slow
def test_an_interrupted_run_is_resumed(data_dir: Path, in_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPSIN_TARGETS", "interruptions")
    stop = "+callbacks.stop={_target_:interruptions.StopAt,step:7,how:SIGINT}"  # five steps per epoch
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt, match=r"resume with opsin\.train\(resume='(.*)'\)") as caught:
        opsin.train("model=mlp", stop, data_dir=data_dir, report=False, **QUICK)
    assert signal.getsignal(signal.SIGINT) is handler
    path = str(caught.value).split("'")[1]
    assert RunDirectory(Path(path)).read_result().status == "interrupted"
    run = opsin.train(resume=path, callbacks={"stop": None})
    assert run.path == Path(path)
    assert run.result.status == "finished"
    whole = opsin.train("model=mlp", data_dir=data_dir, report=False, **QUICK)
    assert run.metrics == whole.metrics


def test_sigterm_reaches_the_handler_of_the_caller(
    data_dir: Path, in_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPSIN_TARGETS", "interruptions")
    stop = "+callbacks.stop={_target_:interruptions.StopAt,step:2,how:SIGTERM}"
    received: list[int] = []
    earlier = signal.signal(signal.SIGTERM, lambda number, _: received.append(number))
    try:
        with pytest.raises(opsin.errors.Interrupted):
            opsin.train("model=mlp", stop, data_dir=data_dir, report=False, **QUICK)
    finally:
        signal.signal(signal.SIGTERM, earlier)
    assert received == [signal.SIGTERM]


def test_a_failed_run_raises_its_error_and_records_it(
    data_dir: Path, in_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPSIN_TARGETS", "interruptions")
    stop = "+callbacks.stop={_target_:interruptions.StopAt,step:2,how:error}"
    before = process_state()
    with pytest.raises(RuntimeError, match="error of the test"):
        opsin.train("model=mlp", stop, data_dir=data_dir, **QUICK)
    state = process_state()
    assert {name for name in state if state[name] != before[name]} == set()
    [run] = (in_tmp / "outputs").glob("*/*/result.json")
    assert RunDirectory(run.parent).read_result().status == "failed"


def test_training_works_outside_the_main_thread(data_dir: Path, in_tmp: Path) -> None:
    found: list[opsin.api.trained_run.TrainedRun] = []
    work = threading.Thread(
        target=lambda: found.append(opsin.train("model=mlp", data_dir=data_dir, report=False, **QUICK))
    )
    work.start()
    work.join()
    assert found[0].result.status == "finished"


MISTAKES: dict[str, tuple[tuple[Any, ...], dict[str, Any], str]] = {
    "unknown option": (("model=cnn_gpa",), {}, "did you mean model=cnn_gap"),
    "unknown key": ((), {"datamodule": {"batchsize": 3}}, "did you mean datamodule.batch_size"),
    "wrong value": ((), {"optimizer": {"lr": "fast"}}, "optimizer.lr should be a valid number"),
    "several values": (("model=mlp,cnn_gap",), {}, "add -m to the command opsin train"),
    "multirun": (("-m", "seed=1,2"), {}, "trains one run"),
    "help": (("--help",), {}, "trains one run"),
    "no folder": (("photos",), {}, "there is no such folder"),
    "no path": ((Path("/photos"),), {}, "there is no such folder"),
    "no text": ((3,), {}, "is not an override"),
    "no run": ((), {"resume": "nowhere"}, "nowhere"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_invalid_arguments_give_the_error_of_the_command(mistake: str, in_tmp: Path) -> None:
    overrides, sections, message = MISTAKES[mistake]
    with pytest.raises(opsin.UserError, match=message.replace("(", r"\(")) as error:
        opsin.train(*overrides, **sections)
    assert error.value._render_traceback_() == [f"UserError: {error.value}"]  # in a notebook
    assert not list(in_tmp.iterdir())


def test_a_run_to_resume_is_any_kind_of_path(in_tmp: Path) -> None:
    (in_tmp / "first").mkdir()
    [entry] = os.scandir(in_tmp)
    with pytest.raises(opsin.UserError, match=rf"^{in_tmp}/first is not a run directory"):
        opsin.train(resume=entry)


def test_processes_of_torchrun_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(opsin.UserError, match="torchrun starts the processes"):
        opsin.train("model=mlp")
