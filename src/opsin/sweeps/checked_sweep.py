"""Check the settings and the values of a sweep before it starts, and find its directory."""

import contextlib
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from opsin.config import CommandLine, ConfigOrigin, ConfigSource, compose_raw, is_of_a_sweep, show
from opsin.config.compose import compose_trial
from opsin.config.hydra_keys import refuse_run_directory
from opsin.config.overrides import check_overrides, key_of
from opsin.config.run_config import plain, unresolvable
from opsin.config.secrets import refuse_launcher_secrets, refuse_literal_secrets, refuse_missing_secrets
from opsin.config.suggestions import config_options
from opsin.config.target_lookup import Constructors, Target
from opsin.config.validation import SectionSchema, check
from opsin.errors import UserError
from opsin.runs.flat_keys import flat
from opsin.runs.home import user_path
from opsin.runs.metric_registry import changed_loss
from opsin.sweeps.jobs import Jobs
from opsin.sweeps.launchers import Local
from opsin.sweeps.launchers.base import Launcher
from opsin.sweeps.outcomes import RUN_QUANTITIES, check_objectives
from opsin.sweeps.search_space import Ranged, Space, read_space
from opsin.sweeps.settings import Sweep
from opsin.sweeps.study import open_storage
from opsin.sweeps.sweep_directory import recorded_values, sweep_directory
from opsin.sweeps.value_check import Check, check_process, check_values, spawn

LAUNCHERS = Constructors({"opsin.sweeps.launchers": inspect.isclass}, own=inspect.isclass)

SCHEMA = {
    "sweep": SectionSchema({"settings": Sweep}),
    "launcher": SectionSchema(target="launcher", constructors=LAUNCHERS),
}
"""Sections of the config that describe the multirun and not its runs."""

VALIDATED = tuple(
    f"datamodule.{key}" for key in ("_target_", "path", "val_fraction", "test_fraction", "num_folds", "split_seed")
)
"""Keys that determine the validation images. `seed` and `datamodule.fold` do too, but their runs are repetitions."""

RUN_COMMANDS = {"setup": "holds commands", "address": "names a server that can run commands here"}
"""Keys of launchers that run code, with the effect."""


@dataclass(frozen=True)
class CheckedSweep:
    """A sweep that can start.

    Attributes:
        folder: Its directory.
        settings: Its settings.
        space: Its search space; the lists have the order of the process that began the sweep.
        jobs: Its jobs.
        objectives: Metrics of train or val, or quantities of a run; the first one selects the best run.
        notes: Reasons why the first objective does not show which run is better.
        build_launcher: Returns its launcher, which may connect to a cluster.
    """

    folder: Path
    settings: Sweep
    space: Space
    jobs: Jobs
    objectives: list[str]
    notes: list[str]
    build_launcher: Callable[[], Launcher]


def check_sweep(
    overrides: Sequence[str], source: ConfigSource, load_check: Callable[[], Check] | None = None
) -> CheckedSweep:
    """Check a sweep, and create its directory.

    Args:
        overrides: Overrides of the command line, for the sweep and for its runs.
        source: Search path and primary config.
        load_check: Returns the check of a config before training; None: the configs are composed, and not checked.

    Raises:
        UserError: An override or a setting is wrong, or the directory holds another sweep or cannot be written.
    """
    of_sweep, of_runs = _divide(overrides, source)
    alone = compose_raw(of_sweep, source)
    settings, engine, option = _checked(alone, of_sweep, source)
    space = read_space(of_runs, settings.space, source)
    local = engine.build() if engine.call is Local else None  # to build another launcher may connect to a cluster
    start = local.fork if isinstance(local, Local) else spawn
    process = check_process(load_check, start) if load_check else contextlib.nullcontext(None)
    configs = _checked_runs(space, of_sweep, source, process)
    _refuse_settings_of_runs(configs, alone)
    jobs = Jobs(space, source, of_sweep)
    refuse_missing_secrets({**_without_overrides(jobs.typical), "sweep.storage": settings.storage})
    objectives = _checked_objectives(settings, jobs.typical)
    notes = _incomparable(objectives[0], space, configs)
    if settings.storage:
        open_storage(settings.storage)  # a wrong one is refused before the sweep has a directory
    sweeps = _folder_of_sweeps(jobs.typical)
    folder = sweep_directory(sweeps, option, settings, of_runs, objectives, space.lists, source)
    begun = space.ordered(recorded_values(folder) or {})
    if begun != space:  # a list such as shuffle(range(9)) has another order now
        space, jobs = begun, Jobs(begun, source, of_sweep)
    return CheckedSweep(folder, settings, space, jobs, objectives, notes, lambda: local or engine.build())


def show_first_run(line: CommandLine) -> None:
    """Print the config of the first run of a sweep, or the information on its composition, for `-m --cfg job`.

    Raises:
        UserError: An override or a setting is wrong.
    """
    of_sweep, of_runs = _divide(line.overrides, line.source)
    settings, _, _ = _checked(compose_raw(of_sweep, line.source), of_sweep, line.source)
    space = read_space(of_runs, settings.space, line.source)
    show(replace(line, overrides=(*space.fixed, *space.first(), *of_sweep)))


def _divide(overrides: Sequence[str], source: ConfigSource) -> tuple[list[str], list[str]]:
    """Return the overrides of the sweep itself, and those of its runs.

    Raises:
        UserError: An override cannot be read, names a key or an option that does not exist, or sets `hydra.run.dir`.
    """
    checked = check_overrides(["--multirun", *overrides], config_options(source))[1:]
    refuse_run_directory(checked)
    of_sweep = [override for override in checked if is_of_a_sweep(override)]
    return of_sweep, [override for override in checked if not is_of_a_sweep(override)]


def _checked(config: DictConfig, overrides: Sequence[str], source: ConfigSource) -> tuple[Sweep, Target[Launcher], str]:
    """Return the settings of the sweep, the constructor of its launcher, and the chosen option of `sweep`.

    Args:
        config: Config composed of the overrides of the sweep itself.
        overrides: These overrides.
        source: Search path and primary config.

    Raises:
        UserError: A setting is wrong.
    """
    tree = plain(OmegaConf.masked_copy(config, list(SCHEMA)))
    refuse_literal_secrets(tree)
    refuse_launcher_secrets(tree["launcher"])
    _refuse_foreign_commands(tree["launcher"], overrides, source.extended(config.hydra.searchpath))
    choices = {key: value for key, value in config.hydra.runtime.choices.items() if key in SCHEMA}
    fields = check(tree, SCHEMA, ConfigOrigin(source, choices, list(overrides), source.folders))
    return fields["settings"], fields["launcher"], choices["sweep"]


def _refuse_foreign_commands(launcher: Mapping[str, Any], overrides: Sequence[str], source: ConfigSource) -> None:
    """Refuse commands of a launcher that a config file outside the project may have set.

    Args:
        launcher: The section `launcher`.
        overrides: Overrides of the command line, which may set any command.
        source: All config folders. Those of Opsin and of the project are trusted.

    Raises:
        UserError: Names the key and the way out.
    """
    typed = {key_of(override) for override in overrides}
    for key, effect in RUN_COMMANDS.items():
        if launcher.get(key) not in (None, [], "auto") and source.search_path and f"launcher.{key}" not in typed:
            raise UserError(
                f"launcher.{key} {effect}, so it cannot come from the config files of {', '.join(source.search_path)}. "
                "Set it on the command line, or in configs/ of your project without --config-dir"
            )


def _checked_runs(
    space: Space,
    of_sweep: Sequence[str],
    source: ConfigSource,
    process: contextlib.AbstractContextManager[Check | None],
) -> list[DictConfig]:
    """Check the values of a sweep, and return the composed configs of runs with each of them.

    Args:
        space: Search space of the sweep.
        of_sweep: Overrides of the sweep itself.
        source: Search path and primary config.
        process: The check of a config before training; of None, if the configs are only composed.

    Raises:
        UserError: A value cannot be used, see `check_values`.
    """
    with process as check:

        def composed(overrides: Sequence[str]) -> DictConfig:
            config = compose_trial([*of_sweep, *overrides], source)
            if check:
                check(config)
            assert config.settings is not None
            return config.settings

        return check_values(space, composed, config_options(source))


def _refuse_settings_of_runs(configs: Sequence[DictConfig], alone: DictConfig) -> None:
    """Refuse settings of a sweep or a launcher in config files of the runs, such as experiments.

    They have no effect. A setting that is typed too is accepted, because the command line takes precedence.

    Args:
        configs: Configs of runs, with the overrides of the sweep.
        alone: Config composed of the overrides of the sweep itself.

    Raises:
        UserError: Names the setting, the files that hold it and the way out.
    """
    before = _sweep_settings(alone)
    places: dict[str, dict[str, None]] = {}  # the files by setting, each once
    for config in configs:
        now = _sweep_settings(config)
        for key in {**now, **before}:
            if now.get(key) != before.get(key):
                setting = f"{key}={now[key]}" if key in SCHEMA else key
                places.setdefault(setting, {})[_files_of_runs(config)] = None
    if not places:
        return
    setting, files = next(iter(places.items()))
    raise UserError(
        f"{setting} in {' and '.join(files)} has no effect, because the config of a run does not describe its sweep: "
        f"set it on the command line, or in a file of configs/{re.split('[.=]', setting)[0]}"
    )


def _files_of_runs(config: DictConfig) -> str:
    """Return the options of the config groups whose files may change any section."""
    choices = config.hydra.runtime.choices
    files = [f"{group}={choices[group]}" for group in ("experiment", "debug") if choices.get(group)]
    return " or ".join(files) or "a config file of the runs"


def _sweep_settings(config: DictConfig) -> dict[str, Any]:
    """Return the settings of the sweep and its launcher by dotted key, and the chosen option of each."""
    sections = OmegaConf.to_container(OmegaConf.masked_copy(config, list(SCHEMA)), resolve=False)
    assert isinstance(sections, dict)
    options = {key: config.hydra.runtime.choices.get(key) for key in SCHEMA}
    return {**options, **flat({str(key): section for key, section in sections.items()})}


def _without_overrides(config: DictConfig) -> dict[str, Any]:
    """Return the keys of a config with their references, without Hydra's copy of the overrides."""
    tree: Any = OmegaConf.to_container(config, resolve=False)
    return {**tree, "hydra": {key: value for key, value in tree["hydra"].items() if key != "overrides"}}


def _checked_objectives(settings: Sweep, config: DictConfig) -> list[str]:
    """Return the objectives of a sweep, by default the monitored metric.

    Args:
        settings: Settings of the sweep.
        config: Config of a run.

    Raises:
        UserError: An objective does not exist, is never measured, or cannot be used.
    """
    _import_callbacks(config)
    objectives: list[str] = [*settings.objectives] if settings.objectives else [config.monitor.metric]
    key = "sweep.objectives" if settings.objectives else "monitor.metric"
    check_objectives(objectives, key, settings.pruner, config.trainer)
    return objectives


def _import_callbacks(config: DictConfig) -> None:
    """Import the user's own callbacks: their modules register the metrics that they log."""
    own = Constructors({}, own=inspect.isclass)
    callbacks = OmegaConf.to_container(config.callbacks) or {}
    assert isinstance(callbacks, dict)
    for section in callbacks.values():
        if isinstance(section, Mapping):  # null switches a callback off; a reference names another section
            with contextlib.suppress(UserError):  # the runs report a target that is not accepted
                own.resolve(section.get("_target_"))


def _incomparable(objective: str, space: Space, configs: Sequence[DictConfig]) -> list[str]:
    """Return a warning if the objective cannot be compared: of different losses, or on different images.

    Args:
        objective: The first objective.
        space: Search space of the sweep.
        configs: Configs of runs with each listed value.
    """
    sections = ["datamodule", "loss", "distillation", "model"]
    trees: list[Any] = [OmegaConf.to_container(OmegaConf.masked_copy(config, sections)) for config in configs]
    values = [flat(tree) for tree in trees]
    ranges = [dimension for dimension in space.dimensions if isinstance(dimension, Ranged)]
    values += [{**values[0], dimension.key.lstrip("+"): dimension.high} for dimension in ranges]
    start = f"{objective} does not show which run is better, because the runs"
    if keys := changed_loss(objective, values):
        listed = ", ".join(keys)
        return [
            f"{start} measure different losses ({listed}): set another objective, such as sweep.objectives=[val/acc]"
        ]
    keys = [key for key in VALIDATED if len({str(config.get(key)) for config in values}) > 1]
    if keys and objective not in RUN_QUANTITIES:
        listed = ", ".join(keys)
        return [f"{start} are validated on different images ({listed}): use one sweep for each of these values"]
    return []


def _folder_of_sweeps(config: DictConfig) -> Path:
    """Return `hydra.sweep.dir`, by default a folder in `output_dir`.

    Raises:
        UserError: It is empty, or refers to something that does not exist.
    """
    try:
        return user_path(str(config.hydra.sweep.dir))
    except OmegaConfBaseException as error:
        raise unresolvable(error) from None
