"""The folder of an image dataset: check it before anything is loaded, and suggest the right one."""

import contextlib
import os
from pathlib import Path

from opsin.errors import UserError, nearest
from opsin.runs.home import user_path
from opsin.runs.quoting import printed_override

ABOVE_CUTOFF = 0.75
"""Similarity from which a folder above the working directory is suggested."""


def check_image_root(path: str | Path) -> None:
    """Check that the folder of an image dataset exists and has folders inside.

    Raises:
        UserError: It does not; the message suggests the right folder.
    """
    root = user_path(path).absolute()
    if not root.exists():
        hint = suggested_folder(root)
        raise UserError(
            f"The folder {root} does not exist{hint} Name the folder of the images with datamodule.path=FOLDER."
        )
    if not root.is_dir():
        raise UserError(f"{root} is a file; datamodule.path must be the folder of the class folders.")
    with contextlib.suppress(OSError), os.scandir(root) as entries:  # a folder that cannot be read is explained later
        if not any(entry.is_dir() for entry in entries):
            raise no_class_folders(root)


def no_class_folders(folder: Path) -> UserError:
    """Return the message for a folder without class folders; it may be a class folder itself."""
    is_class = any(entry.is_file() for entry in folder.iterdir()) and len(_folders(folder.parent)) > 1
    above = printed_override("datamodule.path", folder.parent)
    hint = f" If {folder.name} is itself a class, give the folder above it: {above}" if is_class else ""
    return UserError(
        f"{folder} has no class folders. Put the images of each class into a folder of its own there.{hint}"
    )


def suggested_folder(path: Path) -> str:
    """Return `: did you mean FOLDER?` for a folder that does not exist, or a full stop.

    Folders beside it are compared, and for a folder in the working directory also those beside the working directory,
    where images of a project often are.
    """
    path = path.absolute()
    beside = _folders(path.parent)
    if near := nearest(path.name, beside):
        return f": did you mean {_shown(path.parent / near[0])}?"
    above = _folders(path.parent.parent) if path.parent == Path.cwd() else []
    near = nearest(path.name, above, cutoff=ABOVE_CUTOFF)
    return f": did you mean {_shown(path.parent.parent / near[0])}?" if near else "."


def _folders(parent: Path) -> list[str]:
    """Return the names of the folders in a folder, without hidden ones; none if it cannot be read."""
    with contextlib.suppress(OSError):
        return [entry.name for entry in parent.iterdir() if entry.is_dir() and not entry.name.startswith(".")]
    return []


def _shown(folder: Path) -> str:
    """Return a path from the working directory if it is in or beside it, else the absolute path."""
    return os.path.relpath(folder) if folder.is_relative_to(Path.cwd().parent) else str(folder)
