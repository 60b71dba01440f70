"""A run directory: the paths of its files, its lock, and the status that its result records."""

import contextlib
import logging
import os
import re
import secrets
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import islice
from pathlib import Path

from filelock import FileLock, Timeout

from opsin.errors import Interrupted, RestartTraining, UserError
from opsin.runs.atomic import write_atomically
from opsin.runs.digests import DIGESTS, record_digests
from opsin.runs.disk_errors import NO_LOCKS, START_AGAIN, explanation
from opsin.runs.finished_backup import FinishedBackup
from opsin.runs.home import real_path, user_path
from opsin.runs.quoting import printed_command, resume_command
from opsin.runs.result import RunResult, read_result, result_text, write_result
from opsin.runs.secret_values import mask_secrets

log = logging.getLogger(__name__)

OUTPUT_DIR = "outputs"
"""Default folder of all runs; `configs/train.yaml` shows the same value."""

LATEST = "latest"
"""Link in the folder of all runs to the newest one."""

SWEEP_FILE = "sweep.yaml"
"""File that marks the directory of a sweep."""

LOCK_TIMEOUT_S = 10.0
"""Seconds to wait for the lock of a process that is being killed."""


@dataclass(frozen=True)
class RunDirectory:
    """The paths of a run, its lock and its result.

    Attributes:
        path: Path of the directory.
        derived: Folder for files that can be made again (the report, its images, predictions), for a run directory
            that cannot be written to; None for the run directory. A file that is not there is read from the run.
    """

    path: Path
    derived: Path | None = None

    @classmethod
    def of(cls, run: str | Path, derived: Path | None = None) -> "RunDirectory":
        """Return the directory of an existing run.

        Args:
            run: The run directory.
            derived: Another folder for files that can be made again.

        Raises:
            UserError: There is no run at this path. The message names the newest runs with a model.
        """
        directory = cls(real_path(run), derived)
        if not directory.config.is_file() and directory.result.is_file():
            raise UserError(
                f"{run} was stopped before its config was saved, so there is nothing to resume: start it again with "
                "the same command"
            )
        if not directory.config.is_file():
            near = newest_usable()
            hint = f"; the newest runs with a model are: {', '.join(near)}" if near else ""
            raise UserError(f"{run} is not a run directory: {why_no_run(run)}{hint}")
        return directory

    def check_links(self, out: Path | None = None) -> None:
        """Check that no folder in the directory is a link out of it, before a command writes into the directory.

        The command would write or delete files elsewhere through such a link. A run with links can be read. Links to
        files may remain: Opsin replaces a file and never writes through it.

        Args:
            out: The folder that `--out` sets or that is its default; nothing is checked if it is not in the directory.
                None if the command has no `--out`.

        Raises:
            UserError: A folder is such a link.
        """
        inside = os.path.realpath(self.path)
        if out and not any(place.is_relative_to(inside) for place in (out.absolute(), real_path(out))):
            return
        option = " or set --out to a folder elsewhere" if out else ""
        for root, folders, _ in os.walk(self.path):
            for link in (Path(root, name) for name in folders):
                if link.is_symlink() and not Path(target := os.path.realpath(link)).is_relative_to(inside):
                    raise UserError(
                        f"{link} is a link out of the run, to {target}: delete the link, or replace it by a copy of "
                        f"that folder. If the run must stay as it is, copy it with "
                        f"`{printed_command(['cp', '-rL', str(self.path), 'COPY'])}`{option}"
                    )

    @property
    def out(self) -> Path:
        """The folder to write files to that can be made again."""
        return self.derived or self.path

    def find(self, name: str) -> Path:
        """Return the path of a file that can be made again: in `out`, or else in the run directory.

        Args:
            name: Its path in the run directory.
        """
        return self.out / name if (self.out / name).exists() else self.path / name

    @property
    def config(self) -> Path:
        """The composed config, resolved; with it the run can be built again."""
        return self.path / "config.yaml"

    @property
    def overrides(self) -> Path:
        """The overrides of the command line and the chosen options."""
        return self.path / "overrides.yaml"

    @property
    def result(self) -> Path:
        """The result, see `opsin.runs.result`."""
        return self.path / "result.json"

    @property
    def report(self) -> Path:
        """The report, a self-contained page."""
        return self.out / "report.html"

    @property
    def checkpoints(self) -> Path:
        """The folder of `best.ckpt`, `last.ckpt` and `step.ckpt`."""
        return self.path / "checkpoints"

    @property
    def best(self) -> Path:
        """The checkpoint of the best epoch."""
        return self.checkpoints / "best.ckpt"

    @property
    def last(self) -> Path:
        """The checkpoint of the last epoch, of the last validation within an epoch, or of an interrupted run."""
        return self.checkpoints / "last.ckpt"

    @property
    def step(self) -> Path:
        """The newest checkpoint within an epoch, see `callbacks.checkpoints.every_n_steps` and `every_minutes`."""
        return self.checkpoints / "step.ckpt"

    @property
    def replay_points(self) -> Path:
        """The folder of the checkpoints that `verify_checkpoints` keeps, named by their step."""
        return self.checkpoints / "replay"

    @property
    def error(self) -> Path:
        """The traceback of a failed run."""
        return self.path / "error.txt"

    @property
    def log(self) -> Path:
        """The messages of the run, with their times."""
        return self.path / "train.log"

    @property
    def metrics(self) -> Path:
        """The table of epochs, see `opsin.runs.metrics_csv`."""
        return self.path / "metrics.csv"

    @property
    def network_table(self) -> Path:
        """The tables of the network, see `opsin.runs.network_table`."""
        return self.path / "model.txt"

    @property
    def tensorboard(self) -> Path:
        """The folder of TensorBoard's events."""
        return self.path / "tensorboard"

    @property
    def embeddings(self) -> Path:
        """The folder of embeddings of the run's own images, with a folder for each other dataset."""
        return self.path / "embeddings"

    def read_result(self) -> RunResult:
        """Return the result so far; its status is `not started` before the run has begun.

        Raises:
            UserError: The file is damaged, or another version of Opsin wrote it.
        """
        return read_result(self.result)

    def write_result(self, result: RunResult) -> None:
        """Write the result."""
        write_result(self.result, result)

    @contextlib.contextmanager
    def locked(self, write: bool, timeout: float = LOCK_TIMEOUT_S) -> Iterator[None]:
        """Lock the directory against other processes that write to it, such as the same run resumed twice.

        Args:
            write: Whether this process writes; otherwise it takes no lock.
            timeout: Seconds to wait for another process to end.

        Raises:
            UserError: Another process holds the lock and does not end within the timeout, or the lock is a link.
        """
        if not write:
            yield
            return
        lock = FileLock(self.path / ".lock", timeout=timeout)
        if Path(lock.lock_file).is_symlink():
            raise UserError(f"{lock.lock_file} is a link, but a lock must be a regular file: delete the link")
        self.path.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as held:
            try:
                held.enter_context(lock)
            except Timeout:
                raise UserError(
                    f"{self.path} is being written by another process: stop that process, or wait until it ends"
                ) from None
            except NotImplementedError:  # a filesystem without locks
                pass
            except OSError as error:
                if error.errno not in NO_LOCKS:
                    raise
            yield

    @contextlib.contextmanager
    def recorded(self, write: bool) -> Iterator[RunResult]:
        """Yield a result to fill, and write it as `result.json`, even if the block raises.

        The status is `interrupted` from the first moment, so that a run that is killed has this status. It becomes
        `finished` at the end of the block, or `failed` with the error, and the traceback goes to `error.txt`. If a
        run that had finished fails now, the finished state is restored, see `opsin.runs.finished_backup`.

        Args:
            write: Whether this process is the one that writes.

        Raises:
            UserError: The existing result is damaged, or another version of Opsin wrote it; or a disk has failed in
                the block, and the message says how to resume.
        """
        earlier = self.read_result()
        result = replace(earlier.without_outcome(), status="interrupted")
        backup = FinishedBackup(self.path)
        if write:
            self.error.unlink(missing_ok=True)
            if earlier.status == "finished":
                backup.make()
            self.write_result(result)
            (self.path / DIGESTS).unlink(missing_ok=True)  # a finished run keeps its digests if it is killed here
        try:
            with self._disk_errors():
                yield result
            result.status = "finished"
        except Exception as error:
            if not isinstance(error, Interrupted | RestartTraining):
                result.status, result.error = "failed", mask_secrets(f"{type(error).__name__}: {error}")
            raise
        finally:
            if write:
                with self._disk_errors():
                    self._conclude(result, backup)

    @contextlib.contextmanager
    def _disk_errors(self) -> Iterator[None]:
        """Turn the failure of a disk into a message that says how to resume; a run without a config is started again.

        Raises:
            UserError: The block raised an OSError of a disk.
        """
        try:
            yield
        except OSError as error:
            way_out = f"resume with: {resume_command(self.path)}" if self.config.is_file() else START_AGAIN
            if (message := explanation(error, way_out, self.path)) is None:
                raise
            raise UserError(message) from error

    def _conclude(self, result: RunResult, backup: FinishedBackup) -> None:
        """Write the result and the traceback of a failure; restore the finished state if the resume failed.

        A failure that cannot be recorded, because the disk is full, leaves the status `interrupted`.
        """
        with contextlib.suppress(OSError) if result.status == "failed" else contextlib.nullcontext():
            if result.status == "finished":
                record_digests(self.path, {self.result.name: result_text(result).encode()})
            self.write_result(result)
            if result.status == "finished":
                backup.discard()
            if result.status == "failed":
                backup.restore()
                if not self.error.exists():  # another process of the run may have failed first
                    write_atomically(self.error, mask_secrets(traceback.format_exc()))

    def record_failure(self, reason: str) -> None:
        """Record a failure that is not an exception in this process, such as the loss of another process."""
        result, backup = self.read_result(), FinishedBackup(self.path)
        if result.status == "finished":
            backup.discard()
        self.write_result(replace(result, status="failed", error=reason))
        backup.restore()

    def become_latest(self, outputs: Path) -> None:
        """Point `outputs/latest` at this run, unless the filesystem has no links.

        A folder of this name, such as a copy of the run that it pointed to, stays, and a warning names it.
        """
        outputs.mkdir(parents=True, exist_ok=True)
        link, new = outputs / LATEST, outputs / f".latest.{secrets.token_hex(4)}"
        try:
            self._date_after(RunDirectory(real_path(link)))
            new.symlink_to(os.path.relpath(self.path, outputs), target_is_directory=True)
            new.replace(link)
        except OSError:
            with contextlib.suppress(OSError):
                new.unlink(missing_ok=True)
            if link.is_dir() and not link.is_symlink():
                log.warning("%s is a folder, not a link to the newest run: rename it to get the link again", link)

    def _date_after(self, earlier: "RunDirectory") -> None:
        """Date the config after that of the run before, so that the newest run is found even if the clock went back."""
        if earlier.path != real_path(self.path) and earlier.config.is_file():
            time_ns = max(self.config.stat().st_mtime_ns, earlier.config.stat().st_mtime_ns + 1000)
            os.utime(self.config, ns=(time_ns, time_ns))


def new_run_path(outputs: str | Path, *names: str) -> Path:
    """Return a new path `outputs/<date>/<time>_<names>_<id>`; the id separates runs that start in the same second."""
    now = datetime.now()
    folder, start = Path(outputs) / f"{now:%Y-%m-%d}", "_".join([f"{now:%H-%M-%S}", *file_names(names)])
    while (path := folder / f"{start}_{secrets.token_hex(2)}").exists():
        pass
    return path


def file_names(names: Sequence[str]) -> list[str]:
    """Return names as parts of a file name, without the empty ones."""
    return [re.sub(r"[^A-Za-z0-9.-]+", "_", name) for name in names if name]


def folder_name(name: str) -> str:
    """Return a name, such as `owner/photos` or one from a foreign file, as the name of one folder inside another."""
    return re.sub(r"[/\\:\x00-\x1f\x7f]+", "_", name).lstrip(".") or "_"


def find_runs(folder: Path) -> list[RunDirectory]:
    """Return all runs below a folder, the newest first; links are not followed, and runs are not searched."""
    found = []
    for root, folders, files in os.walk(folder):
        run = RunDirectory(Path(root))
        if run.config.name in files:
            folders.clear()
            if run.result.name in files:
                with contextlib.suppress(OSError):  # such as a link to nothing
                    found.append((run.config.stat().st_mtime, run))
    return [run for _, run in sorted(found, key=lambda entry: entry[0], reverse=True)]


def why_no_run(path: str | Path) -> str:
    """Return why a path is not the directory of a run, as the end of a sentence.

    The path can be a link to a deleted run, be absent, or lie inside a run, such as a checkpoint.
    """
    given, target = user_path(path), real_path(path)
    if not target.exists():
        return f"it is a link to {target}, which does not exist" if given.is_symlink() else "it does not exist"
    if run := next((above for above in given.parents if RunDirectory(real_path(above)).config.is_file()), None):
        return f"it is inside the run {run}; give that directory"
    return f"it has no {RunDirectory(target).config.name}"


def newest_usable() -> list[str]:
    """Return the three newest runs with a model below the default folder; the first is the link to the latest one."""
    latest = Path(OUTPUT_DIR, LATEST)
    linked = RunDirectory(real_path(latest))
    usable = (run for run in find_runs(Path(OUTPUT_DIR)) if real_path(run.path) != linked.path and _has_model(run))
    return [str(latest)] * _has_model(linked) + [str(run.path) for run in islice(usable, 2)]


def _has_model(run: RunDirectory) -> bool:
    """Return whether a run has a checkpoint and has not failed."""
    try:
        return (run.best.is_file() or run.last.is_file()) and run.read_result().status != "failed"
    except (UserError, OSError):  # its files are damaged or not to be read, or another version wrote them
        return False
