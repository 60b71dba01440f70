"""The help page of the train command: flags, and every option of every config group with one line on it."""

import argparse
import shutil
import textwrap
from pathlib import Path

from opsin.config.search_path import ConfigSource
from opsin.config.suggestions import config_options
from opsin.runs.quoting import opsin_command

EXAMPLES = (
    ("", "the bundled digits, in seconds, offline"),
    ("PHOTOS", "your images: one folder per class, or train/ and val/"),
    ("datamodule=mnist model=cnn_gap trainer.max_epochs=3", "another dataset, another network"),
    ("-m model=mlp,cnn_gap optimizer.lr=0.001,0.01", "one run per combination"),
    ("resume=outputs/latest", "resume a stopped run"),
    ("--cfg job", "print all keys with their values"),
)
"""Arguments of the train command, and what they do."""


def help_page(parser: argparse.ArgumentParser, source: ConfigSource) -> str:
    """Return the help page.

    Args:
        parser: The parser of the flags.
        source: Search path of the config files.
    """
    width = shutil.get_terminal_size().columns
    groups = [_group(group, options, source, width) for group, options in config_options(source).items()]
    command = opsin_command("train")
    longest = max(len(arguments) for arguments, _ in EXAMPLES)
    examples = [f"  {f'{command} {arguments}':{len(command) + longest + 3}}{effect}" for arguments, effect in EXAMPLES]
    return "\n".join(
        [
            "Train and test an image classifier, or run a sweep.",
            "",
            parser.format_help().rstrip(),
            "",
            "config groups and their options, GROUP=OPTION:",
            *groups,
            "",
            "Every value of the config can be overridden by its key, KEY=VALUE.",
            "",
            "examples:",
            *examples,
            "",
        ]
    )


def describe(file: Path) -> str:
    """Return the first line of comment in a config file that is neither a command nor a directive of Hydra."""
    with file.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if not line.startswith("#"):
                return ""
            text = line.lstrip("#").strip()
            if text and not text.startswith(("@package", "opsin train")):
                return text
    return ""


def _group(group: str, options: list[str], source: ConfigSource, width: int) -> str:
    """Return the lines of a config group."""
    column = max(map(len, options)) + 4
    lines = ["", f"  {group}"]
    for option in options:
        file = next(path for folder in source.folders if (path := folder / group / f"{option}.yaml").is_file())
        first = f"    {option}".ljust(column + 2)
        lines += textwrap.wrap(
            describe(file), max(width, 60), initial_indent=first, subsequent_indent=" " * len(first)
        ) or [first.rstrip()]
    return "\n".join(lines)
