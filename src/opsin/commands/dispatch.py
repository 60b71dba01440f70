"""Start a command by its name: `opsin NAME ...`, or the script of the repository that has the name."""

import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from opsin import __version__
from opsin.commands.command_line import Main, command
from opsin.commands.command_table import COMMANDS
from opsin.errors import UserError, did_you_mean
from opsin.runs.garbage_collection import pause_collection
from opsin.runs.quoting import CLONE_VARIABLE, opsin_command

# Only the module of the command that is started is imported: `opsin --help` loads none of them.


@command
def main(arguments: list[str] | None = None) -> int:
    """Run the command that the first argument names with the others, and return its exit code."""
    if arguments is None:
        pause_collection()
    words = sys.argv[1:] if arguments is None else arguments
    first = words[0] if words else "--help"
    if first in ("--help", "-h"):
        print(help_page())
    elif first in ("--version", "-V"):
        print(f"opsin {__version__}")
    elif first in COMMANDS:
        return main_of(first)(words[1:])
    else:
        raise UserError(_unknown(words))
    return 0


def run_script(script: str) -> int:
    """Run the command of a script of the repository with the arguments of this process, and return its exit code.

    Messages then name the scripts instead of `opsin`.

    Args:
        script: Path of the script: `train.py`, or `scripts/find_lr.py` for the command `find-lr`.
    """
    pause_collection()
    path = Path(script).resolve()
    is_train = path.name == "train.py"
    os.environ[CLONE_VARIABLE] = str(path.parent if is_train else path.parents[1])
    return main_of(path.stem.replace("_", "-"))(sys.argv[1:])


def main_of(name: str) -> Main:
    """Return the `main` function of a command; only its module is imported."""
    found: Main = importlib.import_module(f"opsin.commands.{COMMANDS[name].module}").main
    return found


def help_page() -> str:
    """Return the text of `opsin --help`."""
    width = max(map(len, COMMANDS)) + 2
    lines = [f"  {name:{width}}{entry.summary}" for name, entry in COMMANDS.items()]
    return "\n".join(
        [
            "Opsin trains, explains and compares image classifiers.",
            "",
            "usage: opsin COMMAND [ARGUMENT ...]",
            "",
            *lines,
            "",
            "  opsin COMMAND --help   arguments of a command; opsin train --help lists all options of the config",
            "  opsin --version        version of Opsin",
        ]
    )


def _unknown(words: Sequence[str]) -> str:
    """Return the message for a first argument that is not a command."""
    word = words[0]
    from opsin.config.secrets import refuse_typed_secrets
    from opsin.runs.directory import RunDirectory

    refuse_typed_secrets(words)
    if "=" in word or os.path.isdir(word):  # noqa: PTH112 - Path.is_dir fails on a word too long for a file name
        name = "evaluate" if RunDirectory(Path(word)).config.is_file() else "train"
        return f"opsin {word}: the command is missing, such as {opsin_command(name, *words)}"
    near = did_you_mean(word, COMMANDS, "opsin ")
    return f"opsin {word}: there is no such command{near or '; opsin --help lists the commands'}"
