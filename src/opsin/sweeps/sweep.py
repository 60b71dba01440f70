"""A sweep from start to end: search space, study, jobs, tests of the winner, and the results table."""

import contextlib
import inspect
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from filelock import FileLock
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from opsin.config import CommandLine, ConfigOrigin, ConfigSource, compose_raw, is_of_a_sweep, show
from opsin.config.hydra_keys import refuse_run_directory
from opsin.config.overrides import check_overrides
from opsin.config.run_config import plain
from opsin.config.secrets import refuse_launcher_secrets, refuse_literal_secrets, refuse_missing_secrets
from opsin.config.suggestions import config_options
from opsin.config.targets import Constructors, Target
from opsin.config.validation import SectionSchema, check
from opsin.errors import Interrupted, UserError
from opsin.runs.quoting import printed_command
from opsin.sweeps import best_run, table
from opsin.sweeps.jobs import Jobs
from opsin.sweeps.launchers.base import Handle, Job, Launcher
from opsin.sweeps.outcomes import check_objectives, directions
from opsin.sweeps.runner import POLL_S, Runner, Stop
from opsin.sweeps.search_space import read_space
from opsin.sweeps.settings import Sweep
from opsin.sweeps.sweep_directory import sweep_directory
from opsin.sweeps.trials import Trials
from opsin.sweeps.workers import Worker

LAUNCHERS = Constructors({"opsin.sweeps.launchers": inspect.isclass}, own=inspect.isclass)

SCHEMA = {
    "sweep": SectionSchema({"settings": Sweep}),
    "launcher": SectionSchema(target="launcher", constructors=LAUNCHERS),
}
"""The sections of a config that are about a multirun and not about its runs."""


def sweep(words: Sequence[str], source: ConfigSource | None = None) -> int:
    """Run or resume the sweep that the overrides of a multirun describe, and print its results.

    Args:
        words: Overrides of the command line.
        source: Search path and primary config; None: Opsin's own.

    Returns:
        The exit code: 1 if a run failed, else 0.

    Raises:
        UserError: An override, a setting or the directory is wrong.
        Interrupted: A signal asked to stop; the same command resumes the sweep.
    """
    source = source or ConfigSource()
    words = check_overrides(["--multirun", *words], config_options(source))[1:]
    settings, engine, option = _checked([word for word in words if is_of_a_sweep(word)], source)
    typed = [word for word in words if not is_of_a_sweep(word)]
    refuse_run_directory(typed)
    space = read_space(typed, settings.space, source)
    jobs = Jobs(space, source)
    refuse_missing_secrets([OmegaConf.to_container(jobs.typical, resolve=False), settings.storage])
    metric: str = jobs.typical.monitor.metric
    objectives: list[str] = [*settings.objectives] if settings.objectives else [metric]
    _import_callbacks(jobs.typical)
    place = "sweep.objectives" if settings.objectives else "monitor.metric"
    check_objectives(objectives, place, settings.pruner, jobs.typical.trainer)
    folder = sweep_directory(Path(jobs.typical.hydra.sweep.dir), option, settings, typed, source)
    console = table.console()
    worker = Worker(folder)
    try:
        seed: int = jobs.typical.seed
        trials = Trials(folder, space, settings, directions(objectives), seed, jobs.parts, worker)
        launcher = engine.build()
        done = trials.ended()
        _announce(console, folder, trials, done, launcher, worker.others())
        with table.ProgressTable(console, space, metric, trials.total, done, launcher.slots) as board:
            runner = Runner(
                launcher,
                trials,
                lambda trial: jobs.of(trial, folder, settings, objectives[0], trials, launcher.threads),
                objectives,
                board.ended,
                board.watch,
                worker.heartbeat,
                board.say,
            )
            try:
                runner.run()
                if trials.ended() == trials.total:
                    with FileLock(folder / ".ending"):  # one process after the other; the second finds all done
                        best = best_run.winners(table.read_rows(folder, objectives, trials, space), objectives[0])
                        untested = [] if space.says("test") else [row for row in best if not row.metric("test/acc")]
                        run_all(launcher, [jobs.of_winner(row, settings) for row in untested], runner.stop)
                        if best:
                            best_run.write_best(folder, best[0].run)
                            best_run.draw(folder, trials.study, objectives)
            finally:
                launcher.close()
    except Interrupted:
        console.print("stopped; resume with the same command")
        raise
    finally:
        worker.leave()
    rows = table.read_rows(folder, objectives, trials, space)
    table.tell(rows, objectives, folder, console)
    _close(console, folder, trials, rows)
    return int(any(row.state == "failed" for row in rows))


def show_first_run(line: CommandLine) -> None:
    """Print the config of the first run of a sweep, or the information on its composition, for `-m --cfg job`.

    Raises:
        UserError: An override or a setting is wrong.
    """
    words = check_overrides(["--multirun", *line.overrides], config_options(line.source))[1:]
    of_sweep = [word for word in words if is_of_a_sweep(word)]
    refuse_run_directory(words)
    settings, _, _ = _checked(of_sweep, line.source)
    space = read_space([word for word in words if not is_of_a_sweep(word)], settings.space, line.source)
    show(replace(line, overrides=(*space.fixed, *space.first(), *of_sweep)))


def _import_callbacks(config: DictConfig) -> None:
    """Import the user's own callbacks: their modules register the metrics that they log."""
    own = Constructors({}, own=inspect.isclass)
    callbacks = OmegaConf.to_container(config.callbacks) or {}
    assert isinstance(callbacks, dict)
    for section in callbacks.values():
        with contextlib.suppress(UserError):  # the runs report a target that is not accepted
            own.resolve((section or {}).get("_target_"))


def _checked(words: Sequence[str], source: ConfigSource) -> tuple[Sweep, Target[Launcher], str]:
    """Return the settings of the sweep, the launcher, not yet started, and the chosen option of `configs/sweep`."""
    config = compose_raw(words, source)
    tree = plain(OmegaConf.masked_copy(config, list(SCHEMA)))
    refuse_literal_secrets(tree)
    refuse_launcher_secrets(tree["launcher"])
    choices = {key: value for key, value in config.hydra.runtime.choices.items() if key in SCHEMA}
    fields = check(tree, SCHEMA, ConfigOrigin(source, choices, list(words), source.folders))
    return fields["settings"], fields["launcher"], choices["sweep"]


def run_all(launcher: Launcher, jobs: Sequence[Job], stop: Stop) -> None:
    """Run jobs, as many at the same time as the launcher has slots.

    Raises:
        Interrupted: A signal asked to stop.
    """
    waiting = list(jobs)
    running: list[Handle] = []
    with stop.listening():
        while waiting or running:
            while waiting and len(running) < launcher.slots:
                running.append(launcher.start(waiting.pop(0)))
            time.sleep(POLL_S)
            running = [handle for handle in running if handle.poll() is None]
            if stop.asked:
                for handle in running:
                    handle.kill()
                raise Interrupted(stop.signal)


def _announce(
    console: Console, folder: Path, trials: Trials, done: int, launcher: Launcher, others: Sequence[str]
) -> None:
    """Print the directory and the number of trials of the sweep."""
    had = f", of which {done} have ended" if done else ""
    threads = f"{launcher.threads} thread{'s' * (launcher.threads != 1)} each"
    lines = [f"sweep      {folder}", f"trials     {trials.total}{had}; {launcher.slots} at once, {threads}"]
    if others:
        lines.append(f"           together with {', '.join(others)}")
    console.print("\n".join(lines), markup=False, soft_wrap=True)


def _close(console: Console, folder: Path, trials: Trials, rows: Sequence[table.TrialRow]) -> None:
    """Print the commands that use the results."""
    lines = []
    if open_ := sum(row.state in ("running", "waiting") for row in rows):
        lines.append(f"{open_} trials are under way in other processes; the last of them ends the sweep")
    if (folder / "experiment" / "best.yaml").exists():
        lines += [
            "best again  " + printed_command(["python", "train.py", "--config-dir", folder, "experiment=best"]),
            "compare     " + printed_command(["python", "scripts/compare.py", folder, "--metric", "val/acc"]),
            "dashboard   " + printed_command(["optuna-dashboard", trials.place]) + "   (pip install optuna-dashboard)",
        ]
    console.print("\n".join(lines), markup=False, soft_wrap=True)
