"""Entry point of a multirun: run the trials of a sweep, and write its results."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from opsin.config import ConfigSource, RunConfig
from opsin.errors import Interrupted
from opsin.runs.disk_lock import DiskLock
from opsin.runs.quoting import opsin_command, printed_command
from opsin.sweeps import best_run, table
from opsin.sweeps.checked_sweep import CheckedSweep, check_sweep
from opsin.sweeps.jobs import Jobs
from opsin.sweeps.launchers.base import Handle, Job, Launcher, can_start
from opsin.sweeps.outcomes import directions
from opsin.sweeps.runner import POLL_S, Runner, Stop
from opsin.sweeps.sweep_directory import study_name
from opsin.sweeps.trials import Trials
from opsin.sweeps.value_check import Check
from opsin.sweeps.workers import Worker


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
    checked = check_sweep(overrides, source or ConfigSource(), load_check)
    console, worker = table.console(), Worker(checked.folder)
    try:
        trials = _trials(checked, worker)
        _run_trials(checked, trials, worker, console)
    except Interrupted:
        console.print("stopped; the same command resumes the sweep")
        raise
    finally:
        worker.leave()
    return _print_results(checked, trials, console)


def _trials(checked: CheckedSweep, worker: Worker) -> Trials:
    return Trials(
        checked.folder,
        study_name(checked.folder),
        checked.space,
        checked.settings,
        directions(checked.objectives),
        checked.jobs.typical.seed,
        checked.jobs.names,
        worker,
    )


def _run_trials(checked: CheckedSweep, trials: Trials, worker: Worker, console: Console) -> None:
    """Run all trials that no other process works on; if they are the last ones, test the best recipe.

    Raises:
        Interrupted: A signal asked to stop.
    """
    folder, objectives = checked.folder, checked.objectives
    launcher, done = checked.build_launcher(), trials.ended()
    _print_start(console, folder, trials, done, launcher, worker.others())
    _print_lines(console, checked.notes)
    metric: str = checked.jobs.typical.monitor.metric
    with table.ProgressTable(
        console, checked.space, metric, objectives, trials.total, done, launcher.slots
    ) as progress:
        runner = Runner(
            launcher,
            trials,
            lambda trial: checked.jobs.make_job(
                trial, folder, checked.settings, objectives[0], trials, launcher.threads
            ),
            objectives,
            progress.ended,
            progress.update,
            worker.heartbeat,
            progress.print_line,
        )
        try:
            runner.run()
            if trials.all_ended():
                _test_best_recipe(checked, trials, launcher, runner.stop)
        finally:
            launcher.close()


def _test_best_recipe(checked: CheckedSweep, trials: Trials, launcher: Launcher, stop: Stop) -> None:
    """Test the runs of the best recipe, and write the files of the best run.

    Raises:
        Interrupted: A signal asked to stop.
    """
    folder, objectives = checked.folder, checked.objectives
    with DiskLock(folder / ".best_run.lock"):  # the next process finds the best run tested
        rows = best_run.ranked_rows(folder, objectives, trials, checked.space)
        untested = _untested(rows, objectives[0], checked.jobs)
        run_all(launcher, [checked.jobs.test_job(row, checked.settings) for row in untested], stop)
        if winner := best_run.winner(rows, objectives[0]):
            best_run.write_best(folder, winner.run)
            best_run.draw(folder, trials.study, objectives)


def _print_results(checked: CheckedSweep, trials: Trials, console: Console) -> int:
    """Print the table of trials, problems and the next commands, and return the exit code."""
    folder, objectives = checked.folder, checked.objectives
    rows = best_run.ranked_rows(folder, objectives, trials, checked.space)
    table.report_trials(rows, objectives, folder, console)
    ended = all(row.state not in ("running", "waiting") for row in rows)
    problems = _problems(rows, objectives[0], _untested(rows, objectives[0], checked.jobs)) if ended else []
    _print_lines(console, [*problems, *checked.notes])
    _print_next_steps(console, folder, trials, rows, objectives[0])
    return int(bool(problems) or any(row.state == "failed" for row in rows))


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


def _print_lines(console: Console, lines: Sequence[str]) -> None:
    for line in lines:
        console.print(line, soft_wrap=True)


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
