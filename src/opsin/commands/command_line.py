"""The parser and the error handling that all commands share."""

import argparse
import functools
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any, Protocol

from opsin.commands.command_table import COMMANDS
from opsin.errors import UserError, is_out_of_memory
from opsin.runs.disk_errors import explained_disk_errors
from opsin.runs.escaping import escape_output
from opsin.runs.quoting import opsin_command
from opsin.runs.secret_values import mask_secrets

FEWER = (
    "use smaller batches (predict: --batch-size; other commands: datamodule.eval_batch_size or datamodule.batch_size), "
    "smaller images, or trainer.accelerator=cpu if the GPU is full"
)
"""Advice for a command that needs too much memory."""


class Main(Protocol):
    """The `main` function of a command."""

    def __call__(self, arguments: list[str] | None = None) -> int:
        """Run the command with these arguments, by default those of the process, and return its exit code."""


def show_error(error: UserError) -> None:
    """Print a user's mistake on stderr: the message alone, with secrets masked."""
    print(mask_secrets(str(error)), file=sys.stderr)


def command(main: Callable[[list[str] | None], int], failure: int = 1) -> Main:
    """Wrap the `main` of a command: a UserError, the failure of a disk, or too little memory becomes one message.

    Ctrl-C ends the command with exit code 130. A reader that closes the pipe early, such as `head`, ends it with 0.
    Python prints the traceback of any other exception. This function prints it instead if it must mask secrets, or if
    `failure` is not 1, the exit code of Python.

    Args:
        main: The function.
        failure: Exit code after an error.
    """

    @functools.wraps(main)
    def wrapped(arguments: list[str] | None = None) -> int:
        escape_output()
        try:
            with explained_disk_errors():
                return main(arguments)
        except UserError as error:
            show_error(error)
            return failure
        except KeyboardInterrupt:
            return 130
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes stdout once more at exit
            return 0
        except Exception as error:
            if is_out_of_memory(error):
                show_error(UserError(f"out of memory ({' '.join(str(error).split())[:200] or 'no details'}): {FEWER}"))
                return failure
            text = traceback.format_exc()
            if (masked := mask_secrets(text)) == text and failure == 1:
                raise
            print(masked, file=sys.stderr)
            return failure

    return wrapped


def add_checkpoint_option(parser: argparse.ArgumentParser) -> None:
    """Add `--checkpoint` to the parser of a command that loads the weights of a run."""
    parser.add_argument(
        "--checkpoint",
        default="best",
        metavar="best|last|PATH",
        help="the weights of the best epoch (default), of the last one, or of a file",
    )


def command_parser(name: str, details: str = "", **options: Any) -> argparse.ArgumentParser:
    """Return the parser of a command, whose help shows the command in the form in which the user started it.

    Args:
        name: A name in `COMMANDS`.
        details: Text for the help page between the summary and the example.
        options: Further options of `argparse.ArgumentParser`.
    """
    form, entry = opsin_command(name), COMMANDS[name]
    parts = [entry.summary, details, f"Example: {form} {entry.example}"]  # last: argparse joins them to one paragraph
    return argparse.ArgumentParser(prog=form, description="\n\n".join(filter(None, parts)), **options)
