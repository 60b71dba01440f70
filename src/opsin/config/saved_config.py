"""Resume a run: its own config with new values, in its own directory."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from opsin.config.overrides import check_overrides, find_value, key_of, parse_override
from opsin.config.resume_rules import refuse_other_parts
from opsin.config.run_config import RunConfig, read_origin
from opsin.config.secrets import refuse_typed_secrets
from opsin.config.suggestions import suggest
from opsin.errors import UserError
from opsin.runs.directory import RunDirectory, find_runs
from opsin.runs.quoting import opsin_command, printed_override

log = logging.getLogger(__name__)


def from_saved(run: RunDirectory, overrides: Sequence[str] = ()) -> RunConfig:
    """Return the saved config of a run, changed by overrides such as `trainer.max_epochs=40`.

    Raises:
        UserError: An override holds a secret, names no key of the config, or would make it a different run
            (`model=mlp`).
    """
    refuse_typed_secrets(overrides)
    saved = RunConfig.load(run)
    overrides = [override for override in check_overrides(overrides, {}) if key_of(override) != "resume"]
    refuse_other_parts(saved, overrides)
    changes = {}
    for override in overrides:
        parsed = parse_override(override)
        if not override.startswith("+") and not _has(saved.tree, parsed.key_or_group):
            raise UserError(suggest([override], tree=saved.tree) or f"{override} names no key of {run.config}")
        changes[parsed.key_or_group] = parsed.value()
    origin = replace(saved.origin, overrides=[*saved.origin.overrides, *overrides])
    return replace(saved.changed(changes), origin=origin)


def start_command(run: RunDirectory) -> str:
    """Return the command that started a run; without its overrides if they are not readable."""
    try:
        origin = read_origin(run)
    except UserError:
        return opsin_command("train")
    return opsin_command("train", *origin.source.flags, *origin.overrides)


def resumed_run(place: str, overrides: Sequence[str]) -> RunDirectory:
    """Return the run that `resume=RUN` names.

    Raises:
        UserError: There is no run, or the overrides also ask for another directory.
    """
    run = RunDirectory.of(place)
    if find_value(overrides, "hydra.run.dir"):
        raise UserError(
            f"{printed_override('resume', run.path)} resumes in that directory: leave out hydra.run.dir and --multirun"
        )
    return run


def find_unfinished(composed: RunConfig) -> RunDirectory | None:
    """Return the run that `resume=auto` continues: the one in `hydra.run.dir`, or without it the newest unfinished one.

    A run that cannot be read, such as a damaged one, is skipped with a warning.

    Args:
        composed: The config that the command composes: a run of the same overrides and the same config files matches.
            Overrides of Hydra's settings, such as `hydra.verbose=true`, are not compared.

    Raises:
        UserError: `hydra.run.dir` holds a run that does not match, or that cannot be read.
    """
    if composed.run.config.exists():
        if _command(RunConfig.load(composed.run)) != _command(composed):
            raise UserError(
                f"resume=auto continues a run of the same command, and {composed.run.path} holds a run of another one: "
                f"{start_command(composed.run)}. To continue that run with other values, write "
                f"{printed_override('resume', composed.run.path)} KEY=VALUE; for a new run name another hydra.run.dir"
            )
        return composed.run
    assert composed.settings is not None
    if composed.settings.hydra.run.dir:
        return None
    for run in find_runs(Path(composed.tree["output_dir"])):
        try:
            found = _is_unfinished(run) and _command(RunConfig.load(run)) == _command(composed)
        except Exception as error:  # damaged files raise anything; one bad run must not stop the others
            reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            log.warning("resume=auto skips %s: %s", run.path, " ".join(reason.split()))
            continue
        if found:
            return RunDirectory(run.path.absolute())
    return None


def _is_unfinished(run: RunDirectory) -> bool:
    return run.overrides.exists() and run.read_result().status != "finished"


def _command(config: RunConfig) -> Any:
    """Return what identifies the command of a run: its overrides without `resume`, and its config files."""
    overrides = [override for override in config.origin.overrides if key_of(override) != "resume"]
    return overrides, config.origin.source


def _has(tree: Any, key: str) -> bool:
    for name in key.split("."):
        if not isinstance(tree, dict) or name not in tree:
            return False
        tree = tree[name]
    return True
