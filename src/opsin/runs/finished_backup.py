"""The backup of a finished run while it is resumed: a resume that fails leaves the run as it was."""

import contextlib
import shutil
from pathlib import Path

from opsin.runs.atomic import link_atomically

KEPT = (
    "config.yaml",
    "metrics.csv",
    "report.html",
    "model.txt",
    "checkpoints",
    "predictions",
    "per_class",
    "pictures",
    "digests.json",
    "result.json",
)
"""Files and folders that belong to a finished run. `result.json` is the last, so that it marks a complete backup."""

ATTEMPT = "failed_resume"
"""Folder inside the run directory for the files of a failed resume; it is a run directory itself."""


class FinishedBackup:
    """A backup inside a run directory.

    Files are linked where the filesystem has hard links: every writer replaces files and never changes them. The backup
    counts only while the status of the run is not `finished`: a process may be killed before it removes the backup.

    Args:
        run: The run directory.
    """

    def __init__(self, run: Path) -> None:
        self._run = run
        self._folder = run / ".finished"

    def make(self) -> None:
        """Back up the finished run. An existing backup is of an earlier end of the run, or incomplete."""
        self.discard()
        self._folder.mkdir()
        for name in KEPT:
            _copy(self._run / name, self._folder / name)

    def discard(self) -> None:
        """Remove the backup, because the run has finished again; first the file that marks it as complete."""
        with contextlib.suppress(OSError):
            (self._folder / "result.json").unlink()
        shutil.rmtree(self._folder, ignore_errors=True)

    def place_of_failure(self) -> Path:
        """Return the run directory in which the files of this process are if it fails."""
        return self._run / ATTEMPT if (self._folder / "result.json").exists() else self._run

    def restore(self) -> None:
        """Restore the finished run, if there is a backup, and move the files of the resume to `failed_resume`.

        The moved files can be resumed, unless the resume failed before its first checkpoint. The backup stays complete
        until the end, so that a later failure restores it if the process is killed here.
        """
        if not (self._folder / "result.json").exists():
            return
        attempt = self._run / ATTEMPT
        shutil.rmtree(attempt, ignore_errors=True)
        attempt.mkdir()
        _copy(self._run / "overrides.yaml", attempt / "overrides.yaml")
        for name in KEPT:
            if (self._run / name).is_dir():
                (self._run / name).replace(attempt / name)
            else:
                _copy(self._run / name, attempt / name)
            _replace(self._run / name, self._folder / name)
        self.discard()


def _copy(source: Path, target: Path) -> None:
    """Copy a file or a folder by hard links, or by content where there are none."""
    if source.is_dir():
        shutil.copytree(source, target, copy_function=_link)
    elif source.exists():
        _link(str(source), str(target))


def _replace(target: Path, source: Path) -> None:
    """Replace a file in one step, so that it is never absent, or copy a folder; remove a file without a source."""
    if not source.exists():
        target.unlink(missing_ok=True)
    elif source.is_dir():
        _copy(source, target)
    else:
        link_atomically(source, target)


def _link(source: str, target: str) -> None:
    try:
        Path(target).hardlink_to(source)
    except OSError:  # not every filesystem has hard links
        shutil.copy2(source, target)
