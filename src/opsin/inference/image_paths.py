"""The image files that words on a command line name: files, folders and globs."""

import glob
from collections.abc import Sequence
from pathlib import Path

from opsin.data.datasets.image_folder import image_files
from opsin.errors import UserError


def find_images(words: Sequence[str]) -> list[Path]:
    """The files that some words name, each once: in the order of the words, those of a word sorted by name.

    Args:
        words: Files; folders, of which all is taken that may be an image, in folders within them too; globs such as
            `'photos/**/*.jpg'`, should the shell have left them. A word that is the name of a file is that file.

    Raises:
        UserError: A word names nothing, or a folder holds nothing.
    """
    return list(dict.fromkeys(file for word in words for file in _named(word)))


def _named(word: str) -> list[Path]:
    path = Path(word).expanduser()
    if path.exists() or path.is_symlink():
        found = _files(path)
        if not found:
            raise UserError(f"{word} holds no images")
        return found
    # Path.glob takes no absolute pattern.
    matches = sorted(glob.glob(str(path), recursive=True)) if glob.has_magic(word) else []  # noqa: PTH207
    found = [file for match in matches for file in _files(Path(match))]
    if not found:
        raise UserError(f"{word} is no file, no folder and no pattern that fits a file")
    return found


def _files(path: Path) -> list[Path]:
    """A file, or the files of a folder that may be images."""
    if not path.is_dir():
        return [path]
    try:
        return [path / name for name in image_files(path)]
    except OSError as error:
        raise UserError(f"{error.filename or path} cannot be read: {error.strerror or error}") from None
