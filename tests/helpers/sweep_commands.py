"""A multirun as a person types it, and what it leaves: for tests."""

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


def start(folder: Path, *words: str, variables: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
    """Begin a multirun in a process group of its own, as a shell does."""
    own = {"OPSIN_TARGETS": "faults", "PYTHONPATH": f"{ROOT / 'src'}:{ROOT / 'tests' / 'helpers'}", "HOME": str(folder)}
    environment = {**os.environ, **own, **(variables or {})}
    command = [sys.executable, str(ROOT / "train.py"), "-m", *QUICK, *words]
    with (folder / "printed.txt").open("a", encoding="utf-8") as file:
        return subprocess.Popen(
            command, cwd=folder, env=environment, stdout=file, stderr=file, text=True, start_new_session=True
        )


def finish(folder: Path, *words: str, code: int = 0, variables: Mapping[str, str] | None = None) -> str:
    """Run it to its end; all that it printed."""
    (folder / "printed.txt").unlink(missing_ok=True)
    process = start(folder, *words, variables=variables)
    try:
        assert process.wait(timeout=400) == code, printed(folder)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    return printed(folder)


def printed(folder: Path) -> str:
    return (folder / "printed.txt").read_text()


def rows(folder: Path) -> list[dict[str, str]]:
    [table] = folder.glob("outputs/sweeps/*/sweep.csv")
    with table.open(newline="") as file:
        return list(csv.DictReader(file))


def runs(folder: Path) -> list[Path]:
    return sorted(path.parent for path in folder.glob("outputs/sweeps/*/*/console.txt"))


def wait_for(what: Callable[[], bool], seconds: float = 200) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def processes_of(folder: Path) -> list[str]:
    """Command lines of the processes that work in a folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if (path / "cwd").readlink() == folder.resolve():
                found.append((path / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return found


def ends(run: Path) -> int:
    """How often the training of a run came to its end."""
    return (run / "console.txt").read_text().count("no test images were read")
