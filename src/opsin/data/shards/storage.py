"""Where shards lie: a local folder, or a bucket of S3 and of what speaks its protocol."""

import shutil
from pathlib import Path
from typing import Protocol

from opsin.data.shards.s3 import S3Storage, StorageOptions
from opsin.errors import UserError
from opsin.runs.atomic import atomic_path


class Storage(Protocol):
    """Files by their name below one place, `train/chunk-0-0.bin`. Thread-safe; `str()` is what a person calls it."""

    local: bool
    """Whether the files can be read where they are."""

    def read(self, name: str) -> bytes | None:
        """The content of a file; None: there is none."""

    def fetch(self, name: str, target: Path) -> bool:
        """Copy a file to `target`; False: there is none. Where files are local, nothing is copied."""

    def put(self, file: Path, name: str) -> None:
        """Move a local file to the place."""


class LocalStorage:
    """A local folder."""

    local = True

    def __init__(self, root: Path) -> None:
        self.root = root

    def __str__(self) -> str:
        return str(self.root)

    def read(self, name: str) -> bytes | None:
        """The content of a file; None: there is none."""
        try:
            return (self.root / name).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise UserError(f"{self.root / name} cannot be read: {error.strerror}.") from error

    def fetch(self, name: str, target: Path) -> bool:
        """Whether there is such a file."""
        return (self.root / name).is_file()

    def put(self, file: Path, name: str) -> None:
        """Move a file into the folder; a person never sees half of it."""
        with atomic_path(self.root / name) as temporary:
            shutil.move(file, temporary)


def open_place(path: str, options: StorageOptions | None = None) -> Storage:
    """The place that a path names.

    Args:
        path: A local folder, or `s3://bucket/prefix`.
        options: How a bucket is reached.

    Raises:
        UserError: It is neither, or boto3 is not installed.
    """
    scheme, separator, _ = path.partition("://")
    if not separator:
        return LocalStorage(Path(path).expanduser().resolve())
    if scheme == "s3":
        return S3Storage(path, options or StorageOptions())
    raise UserError(f"{path}: shards are read from a local folder or from s3://BUCKET/PREFIX.")
