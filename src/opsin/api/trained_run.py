"""`opsin.train`: a run in this process, the same as that of the train command."""

import signal
from functools import cached_property
from os import PathLike, fspath
from typing import Any, NoReturn

from opsin.api.caller_state import caller_state
from opsin.api.finished_run import Run
from opsin.api.keyword_overrides import keyword_overrides
from opsin.api.loaded_model import Model, load
from opsin.commands.train_cli import run_config
from opsin.config import CommandLine, RunConfig, compose, read_command_line, refuse_broken_files
from opsin.config.hydra_session import opsin_logging
from opsin.config.shortcut import expand_folder
from opsin.errors import Interrupted, UserError
from opsin.runs.quoting import opsin_command
from opsin.runs.secret_values import mask_secrets
from opsin.training.distributed.environment import launched


class TrainedRun(Run):
    """A run that `opsin.train` has finished."""

    @cached_property
    def model(self) -> Model:
        """The model with the weights of the best epoch, as `opsin.load` returns it."""
        return load(self.path)


def train(*overrides: str | PathLike[str], resume: str | PathLike[str] | None = None, **sections: Any) -> TrainedRun:
    """Train, test and record a run, as the command `train` does with the same overrides.

    The progress is printed, one line per epoch. Relative paths, the configs and the targets of a project follow the
    current folder, as for the command. The process of the caller does not change: working directory, environment,
    random generators, number of threads, signal handlers and logging.

    Args:
        *overrides: Overrides of the config, such as `"model=cnn_gap"` and `"optimizer.lr=0.01"`; or a folder of images
            (text or a path), as for the command, which prints the overrides that it stands for.
        resume: A run directory to continue, or `auto` for the newest unfinished run with the same overrides.
        **sections: Overrides as Python values: a mapping for a section, such as `datamodule={"batch_size": 64}`, or a
            value, such as `seed=3`. They follow the other overrides.

    Returns:
        The finished run.

    Raises:
        UserError: A mistake in the overrides or the data; the message names it. A run that had begun has the status
            `failed`.
        KeyboardInterrupt: Ctrl-C or the stop button. The run has saved a checkpoint; the message says how to resume.

    Example:
        >>> run = opsin.train("model=cnn_gap", trainer={"max_epochs": 2})
        >>> run.metrics["test/acc"]
        0.91
    """
    given = {} if resume is None else {"resume": resume}
    typed = [fspath(override) if isinstance(override, PathLike) else override for override in overrides]
    line = _command_line([*typed, *keyword_overrides(given | sections)])
    try:
        with caller_state():
            composed = compose(line.overrides, source=line.source)
            assert composed.settings is not None
            with opsin_logging(composed.settings):
                run_config(composed, set_up_logging=lambda _: None)
    except Interrupted as stop:
        _interrupt(stop, composed)
    except SystemExit:  # Lightning raises it at the second Ctrl-C
        raise KeyboardInterrupt(f"stopped at once; {_resume_hint(composed)}") from None
    except UserError as error:
        raise UserError(mask_secrets(str(error))) from None
    return TrainedRun(composed.run.path)


def _command_line(arguments: list[str]) -> CommandLine:
    """Return the checked arguments of a single run.

    Raises:
        UserError: They belong to a command, or other processes of a run were started together with this one.
    """
    for argument in arguments:
        if not isinstance(argument, str):
            raise UserError(
                f"{argument!r} is not an override: give text, such as 'model=cnn_gap', or keyword arguments"
            )
    line = expand_folder(read_command_line(arguments))
    if line.multirun or line.shows:
        example = opsin_command("train", "-m", "seed=0,1,2")
        raise UserError(f"opsin.train trains one run: for a sweep or for help, use the command, such as {example}")
    if found := launched():
        raise UserError(
            f"{found.by} starts the processes of a run: use it with the command train, not with opsin.train"
        )
    refuse_broken_files(line.overrides, line.source)
    return line


def _interrupt(stop: Interrupted, composed: RunConfig) -> NoReturn:
    """Stop the program of the caller as the signal would have done without Opsin."""
    if stop.signal != signal.SIGINT:
        signal.raise_signal(stop.signal)
        raise stop
    raise KeyboardInterrupt(f"stopped; {_resume_hint(composed)}") from None


def _resume_hint(composed: RunConfig) -> str:
    return f"resume with opsin.train(resume={str(composed.run.path)!r})"
