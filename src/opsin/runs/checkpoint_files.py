"""Check whether the checkpoint files of a run are intact, and choose the one that a command reads.

`choose_checkpoint` serves the commands that read a finished run. A resume takes the newest good checkpoint
(`opsin.training.resume_check.find_resume_point`):

1. A good checkpoint is intact and holds the state of a run. If the run has a best epoch, the weights of that epoch are
   intact too, in `best.ckpt` or in the checkpoint itself. A complete archive without the state of a run counts as
   damaged.
2. The newest is the one with the highest `global_step` of `last.ckpt`, `step.ckpt` and `best.ckpt`. If steps are equal,
   `last.ckpt` comes before `step.ckpt`, and `step.ckpt` before `best.ckpt`. If none is good, the newest good replay
   point is taken.
3. If no replay point is good, an error lists the faults and gives the command that starts the run again. Nothing is
   changed. A run that has written no checkpoint begins at its first step.
"""

import functools
import zipfile
from pathlib import Path

from opsin.errors import UserError
from opsin.runs.directory import RunDirectory
from opsin.runs.home import user_path
from opsin.runs.quoting import resume_command


def fault_of(file: Path) -> str | None:
    """Return the fault of a checkpoint as the end of a sentence, such as `is missing`; None if it is intact.

    A checkpoint is a zip archive with a CRC-32 of every entry. `torch.load` does not check them, so a flipped bit would
    change a weight without notice. This function reads the whole file once, at about a gigabyte per second.
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
    """Return the fault of a file; the result is cached until inode, size or time of the file change."""
    try:
        with zipfile.ZipFile(file) as archive:
            damaged = archive.testzip()
    except OSError:
        raise
    except Exception:  # a damaged archive raises anything
        return "is damaged (it is not a complete archive)"
    return f"is damaged (the checksum of {damaged} does not match)" if damaged else None


CHOOSE_OTHER = "add --checkpoint {name} (in Python checkpoint='{name}')"
"""Advice to choose another checkpoint with the option of the commands, or with the argument of `opsin.load`."""


def choose_checkpoint(run: RunDirectory, wanted: str = "best", advice: str = CHOOSE_OTHER) -> Path:
    """Return the checkpoint of a run that `--checkpoint` names, if it is intact.

    Args:
        run: The run directory.
        wanted: `best`, `last`, or the path of a checkpoint.
        advice: Advice for a missing or damaged checkpoint if `last` can replace `best`, or the reverse. `{name}` and
            `{file}` are the name and the path of the replacement. Empty if the user cannot choose a checkpoint.

    Raises:
        UserError: The checkpoint is missing or damaged.
    """
    named = {"best": run.best, "last": run.last}
    file = named[wanted] if wanted in named else user_path(wanted)
    if (fault := fault_of(file)) is None:
        return file
    if wanted not in named:
        raise UserError(f"checkpoint {wanted}: {file} {fault}; give best, last, or the path of a checkpoint")
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
