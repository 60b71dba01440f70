"""Tell whether two paths lead to the same file."""

from pathlib import Path


def file_identity(path: Path) -> tuple[int, int] | Path:
    """Return a value that is equal for all paths of one file or folder.

    It is the device and the inode. On a filesystem that reports inode 0 for each file, it is the resolved path.
    """
    state = path.stat()
    return (state.st_dev, state.st_ino) if state.st_ino else path.resolve()
