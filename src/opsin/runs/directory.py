"""A run directory: where everything about one run lies, and who may write it when."""

import contextlib
import json
import os
import re
import secrets
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from opsin.errors import Interrupted, UserError
from opsin.runs.atomic import write_atomically

CLAIM_S = 10.0
"""Seconds that a process waits for one that was killed to be gone."""


@dataclass(frozen=True)
class RunDirectory:
    """The paths of a run, and its result.

    Attributes:
        path: the directory itself, absolute.
    """

    path: Path

    @classmethod
    def of(cls, run: str | Path) -> "RunDirectory":
        """The directory of an existing run.

        Raises:
            UserError: there is no run at this place; the newest ones are named.
        """
        directory = cls(Path(run).expanduser().resolve())
        if not directory.config.is_file():
            near = [str(found.path) for found in find_runs(Path("outputs"))[:3]]
            hint = f"; the newest are: {', '.join(near)}" if near else ""
            raise UserError(f"{run} is no run directory: it has no {directory.config.name}{hint}")
        return directory

    @property
    def config(self) -> Path:
        """The composed config, resolved: enough to build the run again."""
        return self.path / "config.yaml"

    @property
    def overrides(self) -> Path:
        """The words of the command line."""
        return self.path / "overrides.yaml"

    @property
    def result(self) -> Path:
        """What came out."""
        return self.path / "result.json"

    @property
    def checkpoints(self) -> Path:
        """The folder of `best.ckpt` and `last.ckpt`."""
        return self.path / "checkpoints"

    @property
    def best(self) -> Path:
        """The checkpoint of the best epoch."""
        return self.checkpoints / "best.ckpt"

    @property
    def last(self) -> Path:
        """The checkpoint to go on from."""
        return self.checkpoints / "last.ckpt"

    @property
    def error(self) -> Path:
        """Why a run failed, with the traceback."""
        return self.path / "error.txt"

    @property
    def metrics(self) -> Path:
        """One row per epoch."""
        return self.path / "metrics.csv"

    def read_result(self) -> dict[str, Any]:
        """The result so far; empty before the run has begun.

        Raises:
            UserError: the file is damaged.
        """
        try:
            result = json.loads(self.result.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise UserError(f"{self.result} is damaged ({error}): put an intact copy of it there") from None
        assert isinstance(result, dict)
        return result

    @contextlib.contextmanager
    def claimed(self, write: bool, patience: float = CLAIM_S) -> Iterator[None]:
        """Keep the directory from other processes that would write to it, such as the same run resumed twice.

        Args:
            write: whether this process is one that writes.
            patience: seconds to wait for another one to end.

        Raises:
            UserError: another one does, and has not ended within some seconds.
        """
        if not write:
            yield
            return
        lock = FileLock(self.path / ".lock", timeout=patience)
        self.path.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as held:
            try:
                held.enter_context(lock)
            except Timeout:
                raise UserError(
                    f"{self.path} is being written by another process: stop that one, or wait for its end"
                ) from None
            except NotImplementedError:  # a filesystem without locks
                pass
            yield

    @contextlib.contextmanager
    def record(self, write: bool, forget: Sequence[str] = ()) -> Iterator[dict[str, Any]]:
        """Give a dict to fill, and write it as `result.json` however the block ends.

        The status is `interrupted` from the first moment, so that a run which is killed reads so; it becomes
        `finished` at the end of the block, or `failed` with the error, whose traceback goes to `error.txt`.

        Args:
            write: whether this process is the one that writes.
            forget: keys of an earlier process that no longer hold.
        """
        earlier = {key: value for key, value in self.read_result().items() if key not in ("error", *forget)}
        result: dict[str, Any] = {**earlier, "status": "interrupted"}
        if write:
            self.error.unlink(missing_ok=True)
            self.write_result(result)
        try:
            yield result
            result["status"] = "finished"
        except Exception as error:
            if not isinstance(error, Interrupted):
                result |= {"status": "failed", "error": f"{type(error).__name__}: {error}"}
                if write and not self.error.exists():  # another process of the run may have failed first
                    write_atomically(self.error, traceback.format_exc())
            raise
        finally:
            if write:
                self.write_result(result)

    def write_result(self, result: dict[str, Any]) -> None:
        """Write `result.json` as it stands."""
        write_atomically(self.result, json.dumps(result, indent=2) + "\n")

    def become_latest(self, outputs: Path) -> None:
        """Let `outputs/latest` point here; where links cannot be made, there is none."""
        outputs.mkdir(parents=True, exist_ok=True)
        link, new = outputs / "latest", outputs / f".latest.{secrets.token_hex(4)}"
        with contextlib.suppress(OSError):
            new.symlink_to(os.path.relpath(self.path, outputs), target_is_directory=True)
            new.replace(link)


def new_run_path(outputs: str | Path, *names: str) -> Path:
    """A fresh `outputs/<date>/<time>_<names>_<id>`; the id tells runs apart that start in the same second."""
    now = datetime.now()
    words = [re.sub(r"[^A-Za-z0-9.-]+", "_", name) for name in names if name]
    name = "_".join([f"{now:%H-%M-%S}", *words, secrets.token_hex(2)])
    return Path(outputs) / f"{now:%Y-%m-%d}" / name


def find_runs(folder: Path) -> list[RunDirectory]:
    """All runs below a folder, the newest first; links are not followed."""
    found = [RunDirectory(Path(root)) for root, _, files in os.walk(folder) if "config.yaml" in files]
    return sorted(
        (run for run in found if run.result.exists()),
        key=lambda run: run.config.stat().st_mtime,
        reverse=True,
    )
