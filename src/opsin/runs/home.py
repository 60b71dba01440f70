"""Paths that a user gives: `~` in them, and links."""

import os
from pathlib import Path


def expand_home(path: str) -> str:
    """Return a path with a leading `~` replaced by the home folder; the one place that does so.

    A path that begins with a folder named `~name` is unchanged if there is no such user.
    """
    return os.path.expanduser(path)  # noqa: PTH111 - Path.expanduser fails on an unknown user


def user_path(path: str | Path) -> Path:
    """Return a path that a user gives, with `~` expanded; the `type` of options that take a path."""
    return Path(expand_home(str(path)))


def real_path(path: str | Path) -> Path:
    """Return the absolute path that a user gives, with links followed; a circle of links stays as it is."""
    return Path(os.path.realpath(user_path(path)))  # Path.resolve fails on a circle
