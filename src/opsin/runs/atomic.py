"""Write files so that a kill or a full disk leaves the old file or the new one, never a part."""

import os
from pathlib import Path

from opsin.errors import UserError


def check_writable(folder: Path, key: str) -> None:
    """See to it that a folder can be written to, or made; nothing is made yet.

    Args:
        folder: where files will go.
        key: what sets it, for the message.

    Raises:
        UserError: it cannot.
    """
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not there.is_dir():
        raise UserError(f"{key}={folder}: {there} is a file, and no folder; set {key} to a folder to write to")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UserError(f"{key}={folder}: {there} cannot be written to; set {key} to a folder that you may write to")


def write_atomically(path: Path, text: str) -> None:
    """Write a text file so that at every moment the old or the new one is whole."""
    part = path.with_name(f".{path.name}.part")
    with part.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
