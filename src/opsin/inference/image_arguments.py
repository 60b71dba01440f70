"""Find image files from command-line arguments: files, folders and glob patterns."""

import glob
import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from opsin.data.datasets.image_files import image_files
from opsin.errors import UserError
from opsin.runs.home import MAX_PARTS, split_path, user_path
from opsin.runs.image_root import suggested_folder


def find_images(words: Sequence[str], channels: int = 3) -> list[Path]:
    """Return the files that match the arguments, each once, in the order of the arguments and sorted by name.

    Args:
        words: Files; folders, searched recursively for possible images; or glob patterns such as
            `'photos/**/*.jpg'` that the shell has not expanded. The name of an existing file is never a pattern.
        channels: Channels of the images, see `image_folder`.

    Raises:
        UserError: Nothing matches an argument, or a folder contains no images.
    """
    for position, word in enumerate(words):
        if path := split_path(words[position : position + MAX_PARTS]):
            raise UserError(f"no file or folder matches {word}: {path} has a space, so quote it: {shlex.quote(path)}")
    return list(dict.fromkeys(file for word in words for file in _named(word, channels)))


def _named(word: str, channels: int) -> list[Path]:
    path = user_path(word)
    if os.path.lexists(path):  # False for a name that is too long
        found = _files(path, channels)
        if not found:
            raise UserError(f"{word} contains no images: name a folder with image files in it or below it")
        return found
    # Path.glob does not support absolute patterns.
    matches = sorted(glob.glob(str(path), recursive=True)) if glob.has_magic(word) else []  # noqa: PTH207
    found = [file for match in matches for file in _files(Path(match), channels)]
    if matches and not found:
        raise UserError(f"the folders that match {word} contain no images: name folders with image files in them")
    if not found:
        hint = "." if glob.has_magic(word) else suggested_folder(path)
        raise UserError(f"no file or folder matches {word}{_way_out() if hint == '.' else hint}")
    return found


def _way_out() -> str:
    return (
        f": relative paths begin in the working directory, {Path.cwd()}. Name image files, folders, or a pattern in "
        "quotes, such as 'photos/**/*.jpg'"
    )


def _files(path: Path, channels: int) -> list[Path]:
    """Return a file, or the possible images in a folder."""
    if not path.is_dir():
        return [path]
    try:
        return [path / name for name in image_files(path, channels=channels)]
    except OSError as error:
        raise UserError(f"cannot read {error.filename or path}: {error.strerror or error}") from None
