"""Paths that a user gives: `~` in them, and links."""

import os
from collections.abc import Sequence
from os import PathLike
from pathlib import Path

from opsin.errors import UserError

EMPTY = "for example because a variable of the shell is not set"
"""Reason for an empty path, for messages."""

MAX_PARTS = 10
"""Largest number of words that are tried as one path."""


def expand_home(path: str) -> str:
    """Return a path with a leading `~` replaced by the home folder; the one place that does so.

    A path that begins with a folder named `~name` is unchanged if there is no such user.
    """
    return os.path.expanduser(path)  # noqa: PTH111 - Path.expanduser fails on an unknown user


def user_path(path: str | PathLike[str]) -> Path:
    """Return a path that a user gives, with `~` expanded; the `type` of options that take a path.

    Raises:
        UserError: It is empty text, which would name the working directory.
    """
    text = os.fspath(path)
    if not text.strip():
        raise UserError(f"a path is empty, {EMPTY}: name a file or a folder; . is the working directory")
    return Path(expand_home(text))


def split_path(words: Sequence[str]) -> str | None:
    """Return the existing path that the first of some words begins, if a shell has split it at its spaces.

    None if the first word exists itself, or if the words form no existing path.
    """
    for end in range(1, min(len(words), MAX_PARTS) + 1):
        text = " ".join(words[:end])
        if text.strip() and os.path.lexists(expand_home(text)):
            return text if end > 1 else None
    return None


def real_path(path: str | PathLike[str]) -> Path:
    """Return the absolute path that a user gives, with links followed; a circle of links stays as it is."""
    return Path(os.path.realpath(user_path(path)))  # Path.resolve fails on a circle
