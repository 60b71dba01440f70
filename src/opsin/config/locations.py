"""Location of the config files, and the command that starts a run in a process of its own."""

import os
import sys
from collections.abc import Iterable
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]

IS_CLONE = not (_PACKAGE / "configs").is_dir()
"""Whether Opsin runs from its repository; an installed wheel has the config files inside the package."""

CONFIGS = _PACKAGE.parents[1] / "configs" if IS_CLONE else _PACKAGE / "configs"
"""The folder of Opsin's own config files."""


def train_process(arguments: Iterable[str] = ()) -> list[str]:
    """Return the command of a process that runs `opsin train`, such as a job of a sweep or a rank of a run.

    The process needs `module_path()` as its `PYTHONPATH`. Files in the working directory hide no module (`-P`).

    Args:
        arguments: Arguments of the train command.
    """
    return [sys.executable, "-P", "-m", "opsin", "train", *arguments]


def module_path() -> str:
    """Return the value of `PYTHONPATH` with which another process finds the modules of this one."""
    return os.pathsep.join(str(Path(entry).absolute()) for entry in sys.path)
