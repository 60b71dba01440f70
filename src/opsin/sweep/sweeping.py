"""The story of a sweep: what varies, who works on what, and what is left in the end."""

import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock
from omegaconf import DictConfig, OmegaConf
from pydantic import BaseModel
from rich.console import Console

from opsin.check import Node, Section, check
from opsin.config import CONFIGS, Origin, compose
from opsin.errors import Interrupted, UserError
from opsin.rundir import RunDirectory
from opsin.sweep import ending, table
from opsin.sweep.directory import sweep_directory
from opsin.sweep.launchers.base import Handle, Job, Launcher
from opsin.sweep.outcomes import directions
from opsin.sweep.running import POLL_S, Runner, Stop
from opsin.sweep.settings import Sweep
from opsin.sweep.space import Space, read_space
from opsin.sweep.trials import Trial, Trials
from opsin.sweep.workers import Worker

SECTIONS = {"sweep": Section(call=Sweep), "launcher": Section()}
"""The parts of a config that are about a sweep, and not about its runs."""


def sweep(config: DictConfig, words: Sequence[str], config_loader: Any = None) -> int:
    """Run what the words of a multirun describe, go on with it where it was begun, and tell what came out.

    Args:
        config: composed of the words that do not vary, Hydra's own settings included.
        words: of the command line, but for Hydra's.
        config_loader: Hydra's.

    Returns:
        The exit code: 1 where a run failed, else 0.

    Raises:
        UserError: a word, a setting or the directory is wrong.
        Interrupted: a signal asked to stop; the same command goes on.
    """
    settings, engine = _checked(config)
    typed = [word for word in words if _key(word).split(".")[0] not in SECTIONS]
    space = read_space(typed, settings.space, config_loader)
    objectives = list(settings.objectives or [config.monitor.metric])
    choices = config.hydra.runtime.choices
    folder = sweep_directory(Path(config.hydra.sweep.dir), str(choices.sweep), settings, typed)
    console = table.console()
    worker = Worker(folder)
    try:
        parts = {part: choices[part] for part in ("datamodule", "model")}
        trials = Trials(folder, space, settings, directions(objectives), config.seed, parts, worker)
        launcher: Launcher = engine.build()
        done = trials.ended()
        _announce(console, folder, trials, done, launcher, worker.others())
        make_job = _jobs(config, settings, space, folder, trials, launcher)
        metric = str(config.monitor.metric)
        with table.Board(console, space, metric, trials.total, done, launcher.slots) as board:
            runner = Runner(launcher, trials, make_job, objectives, board.ended, board.watch, worker.beat)
            try:
                runner.run()
                if trials.ended() == trials.total:
                    with FileLock(folder / ".ending"):  # one process after the other; the second finds all done
                        _finish(folder, trials, space, objectives, launcher, space.says("test"), runner.stop)
            finally:
                launcher.close()
    except Interrupted:
        console.print("stopped; go on with the same command")
        raise
    finally:
        worker.leave()
    rows = table.read_rows(folder, trials, space)
    table.tell(rows, objectives, folder, console)
    _close(console, folder, trials, rows)
    return int(any(row.state == "failed" for row in rows))


class _NoMore(BaseModel):
    """There are no keys beside the sections."""


def _checked(config: DictConfig) -> tuple[Sweep, Node]:
    """The settings of the sweep, and the engine, not yet started."""
    tree = {key: OmegaConf.to_container(config[key], resolve=True) for key in SECTIONS}
    choices = {key: value for key, value in config.hydra.runtime.choices.items() if not key.startswith("hydra/")}
    nodes, _ = check(tree, SECTIONS, _NoMore, Origin(CONFIGS, choices, list(config.hydra.overrides.task)))
    return nodes["sweep"].build(), nodes["launcher"]


def _quoted(path: Path) -> str:
    """A path as Hydra's grammar takes it."""
    text = str(path)
    return text if re.fullmatch(r"[\w./-]+", text) else "'" + text.replace("'", "\\'") + "'"


def _key(word: str) -> str:
    return word.lstrip("+~").split("=", 1)[0]


def _jobs(
    config: DictConfig, settings: Sweep, space: Space, folder: Path, trials: Trials, launcher: Launcher
) -> Callable[[Trial], Job]:
    """What makes the job of a trial: its run begun, or gone on with where it was begun before."""
    words = [word for key, word in _ADDED.items() if not space.says(key)]
    if not space.says("trainer.threads"):
        words.append(f"trainer.threads={launcher.threads}")
    wide = [d.key for d in space.dimensions if d.key.split(".")[0] in ("trainer", "experiment", "debug")]

    def make(trial: Trial) -> Job:
        run = RunDirectory(folder / trial.run)
        run.path.mkdir(exist_ok=True)
        devices = _devices(trial.words) if wide else _count(config.trainer.devices)
        if run.config.exists():
            return Job(trial.number, (f"resume={run.path}",), run, devices)
        pruning = _pruning(settings, trials, trial.number, config.monitor.metric)
        return Job(trial.number, (*trial.words, *words, *pruning, f"hydra.run.dir={_quoted(run.path)}"), run, devices)

    return make


_ADDED = {"test": "test=false", "report": "report=false"}
"""Words of every run that does not say otherwise: test is read for the winner only, which alone has a report."""


def _pruning(settings: Sweep, trials: Trials, number: int, metric: str) -> list[str]:
    if settings.pruner == "none":
        return []
    values: Mapping[str, Any] = {
        "_target_": "opsin.callbacks.Pruning",
        "monitor": f"'{metric}'",
        "storage": f"'{trials.place}'",
        "study": trials.name,
        "trial": number,
        "pruner": settings.pruner,
        "epochs": settings.pruner_epochs,
    }
    return [f"+callbacks.pruning.{key}={value}" for key, value in values.items()]


def _devices(words: Sequence[str]) -> int:
    """How many devices a run trains on, where the runs of a sweep differ in it."""
    try:
        return _count(compose(words).tree["trainer"]["devices"])
    except UserError:  # which its own process will tell
        return 1


def _count(devices: Any) -> int:
    return devices if isinstance(devices, int) else 1 if devices == "auto" else len(devices)


def _finish(
    folder: Path,
    trials: Trials,
    space: Space,
    objectives: Sequence[str],
    launcher: Launcher,
    told: bool,
    stop: Stop,
) -> None:
    """Test the winner, and write how to run it again and what the search was like."""
    best = ending.winners(table.read_rows(folder, trials, space), trials.directions[0])
    if not best:
        return
    if not told:
        untested = [row for row in best if not row.metric("test/acc")]
        jobs = [Job(r.number, (f"resume={r.run.path}", "test=true", "report=true"), r.run) for r in untested]
        run_all(launcher, jobs, stop)
    ending.write_best(folder, best[0].run)
    ending.draw(folder, trials.study, objectives)


def run_all(launcher: Launcher, jobs: Sequence[Job], stop: Stop) -> None:
    """Run jobs, as many at once as there is room for.

    Raises:
        Interrupted: a signal asked to stop.
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
    console.print(
        f"sweep      {folder}\n"
        f"trials     {trials.total}"
        + (f", of which {done} have ended" if done else "")
        + f"; {launcher.slots} at once, {launcher.threads} thread{'s' * (launcher.threads != 1)} each",
        soft_wrap=True,
    )
    if others:
        console.print(f"           together with {', '.join(others)}", soft_wrap=True)


def _close(console: Console, folder: Path, trials: Trials, rows: Sequence[table.Row]) -> None:
    """What to do next."""
    if open_ := sum(row.state in ("running", "waiting") for row in rows):
        console.print(f"{open_} trials are under way in other processes; the last of them ends the sweep")
    if (folder / "experiment" / "best.yaml").exists():
        console.print(
            f"best again python train.py --config-dir {folder} experiment=best\n"
            f"compare    python scripts/compare.py {folder} --metric val/acc\n"
            f"look       optuna-dashboard {trials.place}   (pip install optuna-dashboard)",
            markup=False,
            soft_wrap=True,
        )
