"""Clear messages for failures of a disk: full, over its quota, read-only, forbidden, defective; and for names too long.

Code that writes raises plain `OSError`s. `explained_disk_errors` turns an error that a command does not handle into one
message with the file, the disk and the way out. Three places write such a message, all with the reason that
`disk_failure` gives:

- `explanation`, here: every command and run, if the error reaches it. The advice depends on the kind of failure, such
  as "Free some space there". It ends with "start the same command again"; for a run that can be resumed, with
  "resume with:" and the command.
- `opsin.runs.atomic.write_errors`: a path that an option sets, such as `--out`: "set --out to another path".
- `opsin.data.cache.files.write_errors`: decoded images, features and shards; advice about `data_dir`.
"""

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from opsin.errors import UserError

FULL = (errno.ENOSPC, errno.EFBIG)
QUOTA = (getattr(errno, "EDQUOT", -1),)
READ_ONLY = (errno.EROFS,)
FORBIDDEN = (errno.EACCES, errno.EPERM)
DEFECTIVE = (errno.EIO, errno.ENXIO, errno.ENODEV, getattr(errno, "ESTALE", -1))
NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP)
"""Errors of a lock on a filesystem without locks, such as NFS without its lock service."""

SHOWN = 100
"""Number of characters of a name that is too long in its message."""

START_AGAIN = "start the same command again"
"""The way out of a command that can be repeated."""


@contextlib.contextmanager
def explained_disk_errors(way_out: str = START_AGAIN, folder: Path | None = None) -> Iterator[None]:
    """Turn the failure of a disk in the block into one message; all other exceptions pass.

    Args:
        way_out: What to do once the disk can be written to again, as an imperative sentence without its end.
        folder: Folder that the block writes to, for errors that do not name a file.

    Raises:
        UserError: The block raised an OSError of a disk.
    """
    try:
        yield
    except OSError as error:
        if (message := explanation(error, way_out, folder)) is None:
            raise
        raise UserError(message) from error


def explanation(error: OSError, way_out: str = START_AGAIN, folder: Path | None = None) -> str | None:
    """Return a message for the failure of a disk or a name too long for it; None for others, such as a missing file.

    Args:
        error: The error.
        way_out: As for `explained_disk_errors`.
        folder: As for `explained_disk_errors`.
    """
    if error.errno == errno.ENOENT and "temporary directory" in str(error.strerror):  # of `tempfile`
        return f"{error.strerror}: set TMPDIR to a folder that can be written to, then {way_out}"
    if "AF_UNIX path too long" in str(error):  # of `multiprocessing`
        temporary = os.environ.get("TMPDIR", "/tmp")
        return f"TMPDIR={temporary} is too long for the name of a socket: set TMPDIR to a shorter path, then {way_out}"
    if error.errno == errno.ENAMETOOLONG:  # also of `Path.is_file` and its relatives, for a word that is no path
        name = os.fsdecode(error.filename or "a path")
        shown = name if len(name) <= SHOWN else f"{name[:SHOWN]}..."
        return (
            f"{shown}: the name of this file or folder is too long for the disk (mostly 255 bytes): use a shorter one"
        )
    if error.errno == errno.ENOLCK:  # of `DiskLock`
        return (
            f"{error.filename or 'a file'} cannot be locked, because its disk does not support file locks. Set "
            f"output_dir and data_dir to folders on a disk with file locks, or mount the disk with them, then {way_out}"
        )
    if error.filename is None and error.errno in FORBIDDEN:  # of a process or a socket
        return None
    path = Path(os.fsdecode(error.filename)) if isinstance(error.filename, str | bytes) else _suspect(error, folder)
    if (reason := disk_failure(error, path)) is None:
        return None
    if error.errno in FORBIDDEN and _is_unreadable(path):
        return f"cannot read {path}: {reason}. Ask its owner for the permission, then {way_out}"
    if error.errno in DEFECTIVE:
        return f"cannot read or write {path}: {reason}. Check the disk, then {way_out}"
    if error.errno in (*READ_ONLY, *FORBIDDEN):
        return (
            f"cannot write {path}: {reason}. Write to another folder (--out, output_dir, data_dir or TMPDIR), or make "
            f"this one writable, then {way_out}"
        )
    return f"cannot write {path}: {reason}. Free some space there, then {way_out}"


def disk_failure(error: OSError, path: Path) -> str | None:
    """Return the reason of a failure to write to a path, with the disk and its free space; None for other errors."""
    disk = f"the disk {mount_point(path)}"
    if error.errno in FULL:
        return f"{disk} has too little free space ({_free(path)})"
    if error.errno in QUOTA:
        return f"your quota on {disk} is used up"
    if error.errno in READ_ONLY:
        return f"{disk} is read-only"
    if error.errno in FORBIDDEN:
        return "permission denied"
    if error.errno in DEFECTIVE:
        return f"{disk} has failed ({error.strerror})"
    return None


def mount_point(path: Path) -> Path:
    """Return the mount point of the disk that holds a path, or would hold it."""
    there = existing(path)
    while not os.path.ismount(there) and there.parent != there:
        there = there.parent
    return there


def existing(path: Path) -> Path:
    """Return a path with its links resolved if it exists, otherwise its nearest folder that does.

    A path in a folder that may not be searched counts as missing; `Path.exists` raises a PermissionError for it.
    """
    there = next(parent for parent in (path, *path.absolute().parents) if os.path.exists(parent))  # noqa: PTH110
    return Path(os.path.realpath(there))


def _is_unreadable(path: Path) -> bool:
    """Return whether a path exists and may not be read, or lies in a folder that may not be searched."""
    return not os.access(existing(path), os.R_OK if os.path.exists(path) else os.X_OK)  # noqa: PTH110


def named(error: BaseException, path: Path) -> BaseException:
    """Return an error of writing a file with the path of this file.

    `write` and `flush` raise errors without a path, and a library may raise its own error while it handles one.

    Args:
        error: Any exception of a block that writes.
        path: The file that the block writes.

    Returns:
        The OSError of a disk with its path, if one is the exception or its cause; otherwise the exception itself.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and disk_failure(cause, path):
            if cause.filename is None or Path(os.fsdecode(cause.filename)).parent == path.parent:  # or a temporary name
                cause.filename = str(path)
            return cause
        cause = cause.__cause__ or cause.__context__
    return error


def _suspect(error: OSError, folder: Path | None) -> Path:
    """Return the probable folder of an error without a path: the first candidate on a full or read-only disk."""
    folders = [folder or Path.cwd(), Path.cwd(), Path(os.environ.get("TMPDIR", "/tmp"))]
    for candidate in folders if hasattr(os, "statvfs") else ():
        state = os.statvfs(existing(candidate))
        full = state.f_bavail * state.f_frsize < 2**20 or (state.f_files > 0 and state.f_favail == 0)
        if (error.errno in FULL and full) or (error.errno in READ_ONLY and state.f_flag & os.ST_RDONLY):
            return candidate
    return folders[0]


def _free(path: Path) -> str:
    usage = shutil.disk_usage(existing(path))
    if hasattr(os, "statvfs"):
        state = os.statvfs(existing(path))
        if state.f_files and not state.f_favail:
            return "none for another file"
    return f"{usage.free / 1e6:,.1f} of {usage.total / 1e6:,.1f} MB"
