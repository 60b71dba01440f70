"""The checkpoint files of a run: which of them are intact, and which one a command uses.

A resume takes the newest of `last.ckpt`, `step.ckpt` and `best.ckpt` that is intact and whose best epoch is intact too,
then the replay points (`opsin.training.resume_check.find_resume_point`).
"""

import functools
import zipfile
from pathlib import Path

from opsin.errors import UserError
from opsin.runs.directory import RunDirectory
from opsin.runs.home import user_path
from opsin.runs.quoting import resume_command


def fault_of(file: Path) -> str | None:
    """Return why a checkpoint cannot be used, as the rest of a sentence; None if it is intact.

    A checkpoint is a zip archive with a CRC-32 of every entry. `torch.load` does not compare them: a flipped bit would
    change a weight without notice. The comparison reads the file once, at about a gigabyte per second.
    """
    try:
        state = file.stat()
        return _fault(file, (state.st_ino, state.st_size, state.st_mtime_ns)) if state.st_size else "is empty"
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read ({error.strerror or error})"


@functools.lru_cache(maxsize=8)
def _fault(file: Path, _state: tuple[int, int, int]) -> str | None:
    """Return the fault of a file in a state, which several functions of a command ask for."""
    try:
        with zipfile.ZipFile(file) as archive:
            damaged = archive.testzip()
    except OSError:
        raise
    except Exception:  # a damaged archive raises anything
        return "is damaged (it is not a complete archive)"
    return f"is damaged (the checksum of {damaged} does not match)" if damaged else None


def choose_checkpoint(run: RunDirectory, wanted: str = "best", advice: str = "add --checkpoint {name}") -> Path:
    """Return an intact checkpoint of a run: the only place that reads the words `best` and `last`.

    Args:
        run: The run directory.
        wanted: `best`, `last`, or the path of a checkpoint.
        advice: How the caller's user names the other checkpoint if this one is damaged; `{name}` is its name, `{file}`
            its path. Empty: the user cannot.

    Raises:
        UserError: The checkpoint is missing or damaged.
    """
    named = {"best": run.best, "last": run.last}
    file = named[wanted] if wanted in named else user_path(wanted)
    if (fault := fault_of(file)) is None:
        return file
    if wanted not in named:
        raise UserError(f"--checkpoint {wanted}: {file} {fault}; give best, last, or the path of a checkpoint")
    name, other = next((name, other) for name, other in named.items() if name != wanted)
    resume = f"resume the run with: {resume_command(run.path)}"
    if (fault_of_other := fault_of(other)) is None:
        offer = f"{other.name} is intact: {advice.format(name=name, file=other)}, or " if advice else ""
        raise UserError(f"{file} {fault}. {offer or 'Restore it, or '}{resume}")
    if not file.exists() and not other.exists():
        raise UserError(f"{run.path} has not finished its first epoch; {resume.replace('the run', 'it')}")
    raise UserError(
        f"{run.path} has no intact checkpoint: {file.name} {fault}, {other.name} {fault_of_other}; {resume}"
    )
