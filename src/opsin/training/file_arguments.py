"""Files that callbacks and loggers of libraries write: in the run directory and nowhere else.

A config may come from somebody else, and a class of Lightning writes to any path that it is given.
"""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from opsin.config.secrets import reveal
from opsin.config.target_lookup import LIBRARIES, Target
from opsin.errors import UserError
from opsin.runs.directory import RunDirectory

FOLDERS = frozenset({"dirpath", "dir", "exclude_batches_path"})
"""Parameters of libraries that take a path; a relative one lies in the run directory."""

PARTS = frozenset({"filename", "name", "version", "sub_dir"})
"""Parameters of libraries that take a part of a path below a folder of the run."""

ADDRESSES = frozenset({"tracking_uri", "artifact_location"})
"""Parameters of libraries that take the address of a server or a database."""

T = TypeVar("T")


def inside_run(section: str, targets: Mapping[str, Target[T]], run: RunDirectory) -> dict[str, Target[T]]:
    """Return targets whose arguments name files in the run directory only.

    Args:
        section: The section of the config, for messages.
        targets: Callbacks or loggers by name. Those of Opsin and of the user determine their own files.
        run: The run.

    Raises:
        UserError: An argument names a place outside the run directory.
    """
    return {name: _inside(f"{section}.{name}", target, run.path) for name, target in targets.items()}


def _inside(place: str, target: Target[T], run: Path) -> Target[T]:
    if target.call.__module__.partition(".")[0] not in LIBRARIES:
        return target
    run = Path(os.path.normpath(run))
    changed: dict[str, Any] = {}
    for key, value in target.arguments.items():
        if not isinstance(value, str | Path):
            continue
        if key in FOLDERS:
            changed[key] = str(run / value)
        path = Path(os.path.normpath(run / value))
        if key in FOLDERS | PARTS and not path.is_relative_to(run):
            raise UserError(f"{place}.{key}={value} lies outside the run directory: give a relative path without ..")
        if key in ADDRESSES and urlsplit(reveal(str(value)) or "").scheme in ("", "file"):
            raise UserError(f"{place}.{key}={value} names a local folder: give the address of a server or a database")
    return replace(target, arguments={**target.arguments, **changed})
