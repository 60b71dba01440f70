"""Runs and sweeps on a real disk that fills up: one message, no loss of saved data, and a suggestion that works."""

import contextlib
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from disks import Disk, mounted

from opsin.commands.train import train
from opsin.config import compose, from_saved
from opsin.config.hydra_session import raise_disk_errors
from opsin.errors import UserError
from opsin.runs import atomic
from opsin.runs.directory import RunDirectory
from opsin.runs.metrics_csv import read_epochs
from opsin.sweeps.journal import Journal

QUICK = ("model=mlp", "datamodule.train_fraction=0.1", "trainer=cpu", "callbacks=no_pictures", "trainer.max_epochs=2")
NO_LOGGER = (*QUICK, "logger=none", "report=false")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    with mounted(tmp_path / "disk", megabytes=8) as disk:
        yield disk


@pytest.fixture
def fill_before(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, int], None]:
    """Return a function that fills the disk when a file of a name is written for the n-th time."""

    def fill_before(name: str, time: int = 1) -> None:
        original, count = atomic.atomic_path, 0

        @contextlib.contextmanager
        def full(path: Path) -> Iterator[Path]:
            nonlocal count
            count += path.name == name
            if path.name == name and count == time:
                disk.fill()
            with original(path) as temporary:
                yield temporary

        monkeypatch.setattr(atomic, "atomic_path", full)

    return fill_before


def run_on(disk: Disk, tmp_path: Path, *words: str) -> RunDirectory:
    run = RunDirectory(disk.path / "run")
    run.path.mkdir()
    train(compose([f"data_dir={tmp_path / 'data'}", f"output_dir={disk.path / 'outputs'}", *words], run.path))
    return run


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "time", "epochs"), [("best.ckpt", 2, 1), ("metrics.csv", 2, 1), ("val.npz", 1, 0), ("test.npz", 1, 2)]
)
def test_a_run_on_a_full_disk_is_resumed_once_there_is_room(
    disk: Disk, tmp_path: Path, fill_before, name: str, time: int, epochs: int
) -> None:
    fill_before(name, time)
    message = rf"cannot write .*{name}: the disk {disk.path} has too little .* resume with: .*resume=.*/run"
    with pytest.raises(UserError, match=message):
        run_on(disk, tmp_path, *NO_LOGGER)
    run = RunDirectory(disk.path / "run")
    assert list(run.path.rglob("*.part")) == []
    assert run.read_result().status in ("interrupted", "failed")
    if epochs:
        assert torch.load(run.last, weights_only=True)["callbacks"] is not None
        assert [row.epoch for row in read_epochs(run.metrics)][:epochs] == list(range(1, epochs + 1))
    else:
        assert not run.last.exists()
    disk.free()
    train(from_saved(run, ()))
    assert run.read_result().status == "finished"
    assert [row.epoch for row in read_epochs(run.metrics)] == [1, 2]


@pytest.mark.slow
def test_tensorboard_on_a_full_disk_ends_the_run_with_one_message(disk: Disk, tmp_path: Path) -> None:
    """The run has its own process, because its threads print tracebacks."""
    program = (
        "import sys; from disks import Disk; from pathlib import Path; from opsin.commands.train_cli import main\n"
        "from opsin.training.loggers.tensorboard import TensorBoard\n"
        "start = TensorBoard.log_start\n"
        "def full(self, facts):\n"
        "    start(self, facts); Disk(Path(sys.argv[1])).fill()\n"
        "TensorBoard.log_start = full\n"
        "sys.exit(main(sys.argv[2:]))\n"
    )
    run, words = disk.path / "run", ("model=mlp", "trainer=cpu", "trainer.max_epochs=1")
    places = (f"hydra.run.dir={run}", f"data_dir={tmp_path / 'data'}")
    helpers = Path(__file__).parents[1] / "helpers"
    environment = {**os.environ, "PYTHONPATH": f"{os.environ.get('PYTHONPATH', '')}:{helpers}"}
    done = subprocess.run(
        [sys.executable, "-c", program, str(disk.path), *words, *places],
        env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 1
    assert "Traceback" not in done.stderr, done.stderr
    assert "too little free space" in done.stderr
    assert done.stderr.count("cannot write") == 1, done.stderr


def test_a_log_file_on_a_full_disk_raises(disk: Disk, capsys: pytest.CaptureFixture[str]) -> None:
    handler = logging.FileHandler(disk.path / "train.log")
    raise_disk_errors(handler)
    logger = logging.Logger("full")
    logger.addHandler(handler)
    logger.info("epoch 1/2")
    disk.fill()
    with pytest.raises(OSError, match=r"No space left.*train\.log"):
        logger.info("epoch 2/2" * 5000)
    assert capsys.readouterr().err == ""
    disk.free()
    handler.close()


def test_a_journal_on_a_full_disk_stays_readable(disk: Disk) -> None:
    path = str(disk.path / "study.journal")
    journal = Journal(path)
    journal.append_logs([{"op_code": 0, "text": "x" * 100}] * 3)
    disk.fill()
    with pytest.raises(OSError, match=r"No space left.*study\.journal"):
        journal.append_logs([{"op_code": 1, "text": "y" * 10_000}])
    disk.free()
    journal.append_logs([{"op_code": 2}])
    with Path(path).open("a") as file:  # of a process that was killed
        file.write('{"op_code":3,"te')
    again = Journal(path)
    again.append_logs([{"op_code": 4}])
    assert [record["op_code"] for record in Journal(path).read_logs(0)] == [0, 0, 0, 2, 4]
