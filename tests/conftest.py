"""Fixtures of all tests: isolation from the machine, one thread, and the real images if they are present."""

import logging
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
# Without instructions for bfloat16, so that no measurement decides the precision and all machines test the same.
os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX512_CORE")
# ONNX Runtime reads it when it is imported, and would send usage data.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
# Trackio reads it when it is imported.
os.environ["TRACKIO_DIR"] = str(Path(tempfile.gettempdir(), f"opsin-trackio-{os.getpid()}"))

import pytest
from filelock import FileLock

from opsin.runs.directory import RunDirectory

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
ISOLATED = (
    "OPSIN_CLONE",
    "OPSIN_TARGETS",
    "HYDRA_FULL_ERROR",
    "RANK",
    "LOCAL_RANK",
    "NODE_RANK",
    "SLURM_PROCID",
    "SLURM_STEP_NUM_TASKS",
    "WORLD_SIZE",
    "TORCH_HOME",
    "MLFLOW_TRACKING_URI",
    "WANDB_API_KEY",
    "WANDB_MODE",
)


@pytest.fixture(autouse=True)
def _isolated(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ISOLATED:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture(autouse=True)
def _no_handlers_left() -> Iterator[None]:
    """Remove the log handlers that a test installed: they hold its captured streams, which are closed at its end."""
    before = {logger: list(logger.handlers) for logger in (logging.getLogger(), logging.getLogger("opsin"))}
    yield
    for logger, handlers in before.items():
        for handler in [handler for handler in logger.handlers if handler not in handlers]:
            logger.removeHandler(handler)
            handler.close()


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def real_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real images of ../shared/data, unpacked once per machine; skips where they are absent."""
    if not (SHARED / "unpack.sh").exists():
        pytest.skip("the real images of ../shared/data are absent")
    place = Path(os.environ.get("OPSIN_REAL_DATA", "/tmp/opsin-real-data"))
    with FileLock(f"{place}.lock"):  # several test processes may start together
        subprocess.run(["bash", str(SHARED / "unpack.sh"), str(place)], check=True, capture_output=True)
    return place


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """A finished run of one epoch: `cnn_gap` on a fifth of the digits. Not to be changed."""
    from opsin.commands.train import train
    from opsin.config import compose

    folder = tmp_path_factory.mktemp("digits_run")
    run = folder / "outputs" / "run"
    run.mkdir(parents=True)
    words = ("datamodule.train_fraction=0.2", "trainer.max_epochs=1", "callbacks.progress.bar=false", "logger=none")
    places = (f"data_dir={folder / 'data'}", f"output_dir={folder / 'outputs'}")
    train(compose(["model=cnn_gap", "trainer=cpu", *words, *places], run))
    return RunDirectory(run)


@pytest.fixture
def in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A temporary folder as the working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
