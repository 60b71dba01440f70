"""The command line of `opsin train`: a run, a sweep, or a page to print."""

import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from opsin.commands.command_line import command
from opsin.config import CommandLine, RunConfig, compose, read_command_line, refuse_broken_files, show
from opsin.config.hydra_session import configure_logging
from opsin.config.resolvers import register_resolvers
from opsin.config.secrets import reveal
from opsin.config.shortcut import expand_folder
from opsin.errors import Interrupted, RestartTraining, UserError
from opsin.runs.atomic import check_writable
from opsin.runs.disk_errors import START_AGAIN, explained_disk_errors
from opsin.runs.garbage_collection import resume_collection
from opsin.runs.image_root import check_image_root
from opsin.runs.quoting import printed_override
from opsin.runs.rank import is_spawned, stand_alone

IMAGE_FOLDER = "opsin.data.datasets.image_folder"
"""Target of `datamodule=image_folder`."""

# torch, Lightning and Optuna take seconds to import: `--help` and a typo do without.


@command
def main(arguments: list[str] | None = None) -> int:
    """Run the train command with its arguments, and return the exit code."""
    try:
        line = read_command_line(sys.argv[1:] if arguments is None else arguments)
        return _main(expand_folder(line, quiet=is_spawned()))
    except Interrupted as stop:
        return 128 + stop.signal  # the exit code that shells give to a process ended by a signal


def _main(line: CommandLine) -> int:
    refuse_broken_files(line.overrides, line.source)
    if line.multirun and line.shows in ("config", "info"):
        from opsin.sweeps.checked_sweep import show_first_run

        show_first_run(line)
    elif line.shows:
        show(line)
    elif line.multirun:
        from opsin.sweeps.sweep import sweep

        stand_alone()
        with explained_disk_errors(f"{START_AGAIN}: it resumes the sweep"):
            return sweep(line.overrides, line.source, load_check)
    else:
        if is_spawned():
            from opsin.commands.train_worker import join

            join()
        run_config(compose(line.overrides, source=line.source))
    return 0


def load_check() -> Callable[[RunConfig], object]:
    """Import what the check of a config needs, and return the check."""
    from opsin.commands.train import checked_plan

    register_resolvers()  # of the references to variables

    def check(composed: RunConfig) -> None:
        _set_variables(composed)
        checked_plan(composed)

    return check


def _set_variables(composed: RunConfig) -> None:
    """Set the environment variables of a run in this process."""
    assert composed.settings is not None
    os.environ.update({key: reveal(str(value)) for key, value in composed.settings.hydra.job.env_set.items()})


def run_config(composed: RunConfig, set_up_logging: Callable[[Any], None] = configure_logging) -> float:
    """Train a composed config.

    Args:
        composed: The config and its run directory.
        set_up_logging: Called with the settings of Hydra before training begins.

    Returns:
        The best value of the monitored metric.

    Raises:
        UserError: The run directory is in use, cannot be written to or has a link out of it, or training fails by a
            mistake of the user.
        Interrupted: A signal stopped the run.
    """
    data = composed.tree["datamodule"]
    if data.get("_target_") == IMAGE_FOLDER:
        check_image_root(str(data["path"]))  # here, so that a wrong path leaves no failed run
    if not composed.resumes:
        if composed.run.config.exists():
            raise UserError(
                f"{composed.run.path} holds a run already: resume it with "
                f"{printed_override('resume', composed.run.path)}, or name another directory"
            )
        check_writable(Path(composed.tree["output_dir"]), "output_dir")
    check_writable(composed.run.path, "resume" if composed.resumes else "hydra.run.dir")
    composed.run.check_links()
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    from opsin.commands.train import train
    from opsin.training.out_of_memory import free_memory

    resume_collection()
    _set_variables(composed)
    set_up_logging(composed.settings)
    try:
        while True:
            try:
                return train(composed)
            except RestartTraining as request:
                composed = replace(request.config, resumes=True)
            free_memory()
    except MisconfigurationException as error:
        raise UserError(str(error)) from None
