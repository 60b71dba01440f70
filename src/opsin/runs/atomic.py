"""Write files and folders atomically: after a kill or a full disk, a file is the complete old or new version.

A folder is complete too, or it is missing if the process is killed between two renames.

Files and folders are written next to their target, flushed to the disk and renamed. Each writer of a file has its own
temporary name, so several processes may write the same file: the version that is written last remains. A temporary
folder has a fixed name, so its writer holds a lock.
"""

import contextlib
import errno
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Literal

from opsin.errors import UserError
from opsin.runs.disk_errors import disk_failure, existing, mount_point, named
from opsin.runs.escaping import valid_text

_STALE_S = 24 * 3600.0
"""Age in seconds above which a temporary file belongs to a killed process and is deleted."""

OLD = ".old"
"""Name of the replaced version in the folder that replaces it, for the moment between rename and deletion."""


def check_writable(folder: Path, key: str) -> None:
    """Check that a folder can be written to or created; creates nothing.

    Args:
        folder: Folder that files will be written to.
        key: Config key or option that sets it, for the message.

    Raises:
        UserError: It cannot be written to.
    """
    there = existing(folder)
    if not there.is_dir():
        raise UserError(f"{key}={folder}: {there} is a file, not a folder; set {key} to a path in a folder")
    if not os.access(there, os.W_OK | os.X_OK):
        reason = f": the disk {mount_point(there)} is read-only" if _is_read_only(there) else ""
        raise UserError(
            f"{key}={folder}: {there} cannot be written to{reason}; set {key} to a path that you may write to"
        )


@contextlib.contextmanager
def write_errors(path: Path, key: str) -> Iterator[None]:
    """Turn a failure to write `path` in the block into an error that names the option that sets it.

    Args:
        path: The file or folder written to.
        key: Config key or option that sets it, for the message.

    Raises:
        UserError: The block raised an OSError.
    """
    try:
        yield
    except OSError as error:
        reason = disk_failure(error, path) or error.strerror or error
        raise UserError(f"cannot write {path} ({reason}); set {key} to another path") from None


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write text (as UTF-8, see `valid_text`) or bytes to a file.

    `path` always holds either the complete old content or the complete new content.

    Args:
        path: The file. Its folder is created if needed.
        content: New content of the file.
    """
    with atomic_path(path) as temporary:
        temporary.write_bytes(valid_text(content).encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def atomic_open(path: Path, mode: Literal["w", "wb"] = "wb", newline: str | None = None) -> Iterator[IO[Any]]:
    """Open a file for writing that replaces `path` when the block ends; if the block raises, `path` is unchanged.

    Args:
        path: The file. Its folder is created if needed.
        mode: `w` for text in UTF-8, `wb` for bytes.
        newline: As in `open`.
    """
    with (
        atomic_path(path) as temporary,
        _open(temporary, mode, newline) as file,
    ):
        yield file


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a free temporary path next to `path`; the file that the block creates there then replaces `path`.

    Use it for functions that take a path, for links, and for files that are moved. If the block raises, the
    temporary file is deleted and `path` is unchanged.

    Args:
        path: The file. Its folder is created if needed.
    """
    if not path.name:  # such as `.`
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    _delete_stale(path)
    temporary = path.with_name(f"{_prefix(path)}{secrets.token_hex(4)}.part")
    try:
        yield temporary
        with temporary.open("r+b") as file:  # Windows flushes only files that are open for writing
            os.fsync(file.fileno())
        temporary.replace(path)
        temporary.unlink(missing_ok=True)  # a rename to a second link of the same file does nothing
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if (found := named(error, path)) is error:
            raise
        raise found from None
    flush_folder(path.parent)


def link_atomically(source: Path, target: Path) -> None:
    """Make `target` the same file as `source` by a hard link, or a copy on a filesystem without hard links."""
    with atomic_path(target) as temporary:
        try:
            temporary.hardlink_to(source)
        except OSError:
            shutil.copyfile(source, temporary)


@contextlib.contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Yield a new empty folder next to `folder`, which replaces it when the block ends.

    The caller flushes the files it writes (see `flush`) and holds a lock, because the temporary folder has a fixed
    name, `unfinished_folder(folder)`. If the block raises, it is deleted and `folder` is unchanged.

    Args:
        folder: The folder. Its parent exists.
    """
    unfinished = unfinished_folder(folder)
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        unfinished.mkdir()
        yield unfinished
        flush_folder(unfinished)
        if folder.exists():
            folder.rename(unfinished / OLD)
        unfinished.rename(folder)
        shutil.rmtree(folder / OLD, ignore_errors=True)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    flush_folder(folder.parent)


def unfinished_folder(folder: Path) -> Path:
    """Return the temporary folder in which `atomic_folder` builds a folder."""
    return folder.with_name(f"{folder.name}.building")


def flush(file: IO[Any]) -> None:
    """Flush an open file to the disk."""
    file.flush()
    os.fsync(file.fileno())


def flush_folder(folder: Path) -> None:
    """Flush the names in a folder to the disk, if the system and the filesystem support it."""
    if os.name != "posix":  # a folder cannot be opened on Windows
        return
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _is_read_only(path: Path) -> bool:
    return hasattr(os, "statvfs") and bool(os.statvfs(path).f_flag & os.ST_RDONLY)


def _open(path: Path, mode: Literal["w", "wb"], newline: str | None) -> IO[Any]:
    return (
        path.open("wb")
        if mode == "wb"
        else path.open(mode, encoding="utf-8", errors="backslashreplace", newline=newline)
    )


def _prefix(path: Path) -> str:
    return f".{path.name[:48]}."  # a name has at most 255 bytes, which may be 63 characters


def _delete_stale(path: Path) -> None:
    """Delete the temporary files of `path` that killed processes left; they may be large checkpoints."""
    with contextlib.suppress(OSError), os.scandir(path.parent) as entries:
        for entry in entries:
            temporary = entry.name.startswith(_prefix(path)) and entry.name.endswith(".part")
            if temporary and time.time() - entry.stat(follow_symlinks=False).st_mtime > _STALE_S:
                Path(entry.path).unlink()
