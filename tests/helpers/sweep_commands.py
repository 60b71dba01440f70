"""Multiruns in processes of their own, and the files that they write; for tests."""

import csv
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
QUICK = ("model=mlp", "datamodule.train_fraction=0.1", "trainer=cpu", "callbacks=no_pictures", "logger=none")


def start(folder: Path, *overrides: str, variables: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
    """Start a multirun in a process group of its own, as a shell does."""
    added = {
        "OPSIN_TARGETS": "faults",
        "PYTHONPATH": f"{ROOT / 'src'}:{ROOT / 'tests' / 'helpers'}",
        "HOME": str(folder),
    }
    environment = {**os.environ, **added, **(variables or {})}
    command = [sys.executable, str(ROOT / "train.py"), "-m", *QUICK, *overrides]
    with (folder / "printed.txt").open("a", encoding="utf-8") as file:
        return subprocess.Popen(
            command, cwd=folder, env=environment, stdout=file, stderr=file, text=True, start_new_session=True
        )


def finish(folder: Path, *overrides: str, code: int = 0, variables: Mapping[str, str] | None = None) -> str:
    """Run a multirun to its end; return its output."""
    (folder / "printed.txt").unlink(missing_ok=True)
    process = start(folder, *overrides, variables=variables)
    try:
        assert process.wait(timeout=400) == code, printed(folder)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    return printed(folder)


def printed(folder: Path) -> str:
    """Return the output of the multirun."""
    return (folder / "printed.txt").read_text()


def rows(folder: Path) -> list[dict[str, str]]:
    """Return the rows of `sweep.csv`."""
    [table] = folder.glob("outputs/sweeps/*/sweep.csv")
    with table.open(newline="") as file:
        return list(csv.DictReader(file))


def runs(folder: Path) -> list[Path]:
    """Return the directories of the started runs, sorted."""
    return sorted(path.parent for path in folder.glob("outputs/sweeps/*/*/console.txt"))


def wait_for(condition: Callable[[], bool], seconds: float = 200) -> None:
    """Wait until a condition is true, and fail after some seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def processes_of(folder: Path) -> list[str]:
    """Return the command lines of the processes whose working directory is a folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if (path / "cwd").readlink() == folder.resolve():
                found.append((path / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return found


def ends(run: Path) -> int:
    """Return how often the training of a run has ended."""
    return (run / "console.txt").read_text().count("no test images were read")


def processes_that_write(file: Path) -> list[str]:
    """Return the numbers of the processes that have a file open and lead their process group."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            is_open = any(Path(link).readlink() == file.resolve() for link in (path / "fd").iterdir())
            if is_open and os.getpgid(int(path.name)) == int(path.name):
                found.append(path.name)
        except OSError:
            continue
    return found
