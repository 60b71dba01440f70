"""Checks of commands in documents that stop before anything runs."""

import contextlib
import io
import re
from dataclasses import replace

import pytest

from opsin.commands.dispatch import main_of
from opsin.config import compose, read_command_line
from opsin.config.shortcut import expand_folder
from opsin.errors import UserError
from opsin.sweeps.checked_sweep import show_first_run
from opsin.training.plan import make_plan


def filled(word: str) -> str:
    """Return a word of a command with an example for each value that the reader fills in."""
    return re.sub(r"\b[A-Z]{2,}\b", "PHOTOS", re.sub(r"\bN\b", "1", word))


def check_overrides(words: list[str]) -> None:
    """Fail if a train command is refused before the point at which a run would start."""
    try:
        line = expand_folder(read_command_line(words), quiet=True)
        if line.multirun:
            show_first_run(replace(line, shows="config"))
        elif not line.shows and "resume=auto" not in line.overrides:
            make_plan(compose(line.overrides))
    except UserError as error:
        pytest.fail(f"{' '.join(words)}: {error}")


def check_flags(words: list[str]) -> None:
    """Check that a command has the flags of a call."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), pytest.raises(SystemExit):
        main_of(words[0])(["--help"])
    flags = [word.split("=")[0] for word in words[1:] if word.startswith("--")]
    assert [flag for flag in flags if flag not in printed.getvalue()] == []
