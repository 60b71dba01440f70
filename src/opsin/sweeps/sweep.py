"""Entry point of a multirun: run the trials of a sweep, and write its results."""

import contextlib
import inspect
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

from opsin.config import CommandLine, ConfigOrigin, ConfigSource, RunConfig, compose_raw, is_of_a_sweep, show
from opsin.config.compose import compose_trial
from opsin.config.hydra_keys import refuse_run_directory
from opsin.config.overrides import check_overrides, key_of
from opsin.config.run_config import plain, unresolvable
from opsin.config.secrets import refuse_launcher_secrets, refuse_literal_secrets, refuse_missing_secrets
from opsin.config.suggestions import config_options
from opsin.config.target_lookup import Constructors, Target
from opsin.config.validation import SectionSchema, check
from opsin.errors import Interrupted, UserError
from opsin.runs.disk_lock import DiskLock
from opsin.runs.flat_keys import flat
from opsin.runs.home import user_path
from opsin.runs.metric_registry import changed_loss
from opsin.runs.quoting import opsin_command, printed_command
from opsin.sweeps import best_run, table
from opsin.sweeps.jobs import Jobs
from opsin.sweeps.launchers import Local
from opsin.sweeps.launchers.base import Handle, Job, Launcher, can_start
from opsin.sweeps.outcomes import RUN_QUANTITIES, check_objectives, directions
from opsin.sweeps.runner import POLL_S, Runner, Stop
from opsin.sweeps.search_space import Ranged, Space, read_space
from opsin.sweeps.settings import Sweep
from opsin.sweeps.study import open_storage
from opsin.sweeps.sweep_directory import recorded_values, study_name, sweep_directory
from opsin.sweeps.trials import Trials
from opsin.sweeps.value_check import Check, check_process, check_values, spawn
from opsin.sweeps.workers import Worker

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


def sweep(
    overrides: Sequence[str], source: ConfigSource | None = None, load_check: Callable[[], Check] | None = None
) -> int:
    """Run or resume a sweep, select its best run, and print the table of trials.

    Args:
        overrides: Overrides of the command line, for the sweep and for its runs.
        source: Search path and primary config; None for those of Opsin.
        load_check: Returns the check of a config before training; None: the configs are composed, and not checked.

    Returns:
        The exit code: 1 if a run failed, there is no best run, or it could not be tested; else 0.

    Raises:
        UserError: An override or a setting is wrong, or the directory holds another sweep or cannot be written.
        Interrupted: A signal asked to stop; the same command resumes the sweep.
    """
    source = source or ConfigSource()
    of_sweep, of_runs = _divide(overrides, source)
    alone = compose_raw(of_sweep, source)
    settings, engine, option = _checked(alone, of_sweep, source)
    space = read_space(of_runs, settings.space, source)
    local = engine.build() if engine.call is Local else None  # to build another launcher may connect to a cluster
    start = local.fork if isinstance(local, Local) else spawn
    check = check_process(load_check, start) if load_check else contextlib.nullcontext(None)
    configs = _checked_runs(space, of_sweep, source, check)
    _refuse_settings_of_runs(configs, alone)
    jobs = Jobs(space, source, of_sweep)
    refuse_missing_secrets({**_without_overrides(jobs.typical), "sweep.storage": settings.storage})
    metric: str = jobs.typical.monitor.metric
    objectives: list[str] = [*settings.objectives] if settings.objectives else [metric]
    _import_callbacks(jobs.typical)
    key = "sweep.objectives" if settings.objectives else "monitor.metric"
    check_objectives(objectives, key, settings.pruner, jobs.typical.trainer)
    notes = _incomparable(objectives[0], space, configs)
    if settings.storage:
        open_storage(settings.storage)  # a wrong one is refused before the sweep has a directory
    folder = sweep_directory(
        _folder_of_sweeps(jobs.typical), option, settings, of_runs, objectives, space.lists, source
    )
    begun = space.ordered(recorded_values(folder) or {})
    if begun != space:  # a list such as shuffle(range(9)) has another order now
        space, jobs = begun, Jobs(begun, source, of_sweep)
    console = table.console()
    worker = Worker(folder)
    try:
        seed: int = jobs.typical.seed
        trials = Trials(folder, study_name(folder), space, settings, directions(objectives), seed, jobs.names, worker)
        launcher = local or engine.build()
        done = trials.ended()
        _print_start(console, folder, trials, done, launcher, worker.others())
        _print_lines(console, notes)
        with table.ProgressTable(console, space, metric, objectives, trials.total, done, launcher.slots) as progress:
            runner = Runner(
                launcher,
                trials,
                lambda trial: jobs.make_job(trial, folder, settings, objectives[0], trials, launcher.threads),
                objectives,
                progress.ended,
                progress.update,
                worker.heartbeat,
                progress.print_line,
            )
            try:
                runner.run()
                if trials.all_ended():
                    with DiskLock(folder / ".best_run.lock"):  # the next process finds the best run tested
                        ranked = best_run.ranked_rows(folder, objectives, trials, space)
                        untested = _untested(ranked, objectives[0], jobs)
                        run_all(launcher, [jobs.test_job(row, settings) for row in untested], runner.stop)
                        if winner := best_run.winner(ranked, objectives[0]):
                            best_run.write_best(folder, winner.run)
                            best_run.draw(folder, trials.study, objectives)
            finally:
                launcher.close()
    except Interrupted:
        console.print("stopped; the same command resumes the sweep")
        raise
    finally:
        worker.leave()
    rows = best_run.ranked_rows(folder, objectives, trials, space)
    table.report_trials(rows, objectives, folder, console)
    ended = all(row.state not in ("running", "waiting") for row in rows)
    problems = _problems(rows, objectives[0], _untested(rows, objectives[0], jobs)) if ended else []
    _print_lines(console, [*problems, *notes])
    _print_next_steps(console, folder, trials, rows, objectives[0])
    return int(bool(problems) or any(row.state == "failed" for row in rows))


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


def _without_overrides(config: DictConfig) -> dict[str, Any]:
    """Return the keys of a config with their references, without Hydra's copy of the overrides."""
    tree: Any = OmegaConf.to_container(config, resolve=False)
    return {**tree, "hydra": {key: value for key, value in tree["hydra"].items() if key != "overrides"}}


def _folder_of_sweeps(config: DictConfig) -> Path:
    """Return `hydra.sweep.dir`, by default a folder in `output_dir`.

    Raises:
        UserError: It is empty, or refers to something that does not exist.
    """
    try:
        return user_path(str(config.hydra.sweep.dir))
    except OmegaConfBaseException as error:
        raise unresolvable(error) from None


def _import_callbacks(config: DictConfig) -> None:
    """Import the user's own callbacks: their modules register the metrics that they log."""
    own = Constructors({}, own=inspect.isclass)
    callbacks = OmegaConf.to_container(config.callbacks) or {}
    assert isinstance(callbacks, dict)
    for section in callbacks.values():
        if isinstance(section, Mapping):  # null switches a callback off; a reference names another section
            with contextlib.suppress(UserError):  # the runs report a target that is not accepted
                own.resolve(section.get("_target_"))


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


def _print_lines(console: Console, lines: Sequence[str]) -> None:
    for line in lines:
        console.print(line, soft_wrap=True)


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


def run_all(launcher: Launcher, jobs: Sequence[Job], stop: Stop) -> None:
    """Run jobs, at the same time as far as the launcher has slots for their devices.

    Raises:
        Interrupted: A signal asked to stop.
    """
    waiting = list(jobs)
    running: list[tuple[Job, Handle]] = []
    with stop.listening():
        while waiting or running:
            while waiting and can_start(launcher, waiting[0], [job for job, _ in running]):
                job = waiting.pop(0)
                running.append((job, launcher.start(job)))
            time.sleep(POLL_S)
            running = [(job, handle) for job, handle in running if handle.poll() is None]
            if stop.asked:
                for _, handle in running:
                    handle.kill()
                raise Interrupted(stop.signal)


def _untested(rows: Sequence[best_run.TrialRow], objective: str, jobs: Jobs) -> list[best_run.TrialRow]:
    """Return the runs of the best recipe that the sweep tests and that have no metrics of the test images."""
    return [row for row in best_run.untested_runs(rows, objective) if jobs.tests(row)]


def _problems(rows: Sequence[best_run.TrialRow], objective: str, untested: Sequence[best_run.TrialRow]) -> list[str]:
    """Return one line for each result that the sweep could not produce: a best run, and its test.

    Args:
        rows: Rows of all trials, none of which is left to run.
        objective: The first objective.
        untested: The runs that the sweep could not test.
    """
    if not best_run.best_runs(rows, objective):
        return ["no trial is complete, so there is no best run"]
    lines = []
    for row in untested:
        reason = next((line for line in reversed(_lines(row.run.error)) if line.strip()), "its process ended")
        lines.append(f"not tested: {row.run.path.name}: {reason.strip()}; the same command tries it again")
    return lines


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def _print_start(
    console: Console, folder: Path, trials: Trials, done: int, launcher: Launcher, others: Sequence[str]
) -> None:
    """Print the directory, the number of trials, and the processes that share the sweep."""
    ended = f" ({done} ended before)" if done else ""
    threads = f"{launcher.threads} thread{'s' * (launcher.threads != 1)} each"
    lines = [f"sweep      {folder}", f"trials     {trials.total}{ended}; {launcher.slots} at once, {threads}"]
    if others:
        lines.append(f"shared     with {', '.join(others)}")
    console.print("\n".join(lines), soft_wrap=True)


def _print_next_steps(
    console: Console, folder: Path, trials: Trials, rows: Sequence[best_run.TrialRow], objective: str
) -> None:
    """Print the trials that other processes run, and the commands for the results."""
    lines = []
    if unfinished := sum(row.state in ("running", "waiting") for row in rows):
        lines.append(f"trials in other processes: {unfinished}; the process that ends last selects the best run")
    winner = best_run.winner(rows, objective)
    if winner and (folder / best_run.BEST).exists():
        arguments = best_run.repeat_arguments(folder, RunConfig.load(winner.run))
        lines.append("repeat best " + opsin_command("train", *arguments))
        ranks = [name for name in (objective, "val/acc", "test/acc") if not name.startswith("train/")]
        if metric := next((name for name in ranks if name in winner.result.metrics), None):
            lines.append("compare     " + opsin_command("compare", folder, "--metric", metric))
        lines += [
            f"dashboard   {printed_command(['optuna-dashboard', trials.storage])}   (pip install optuna-dashboard)",
        ]
    console.print("\n".join(lines), soft_wrap=True)
