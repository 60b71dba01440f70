"""Runs per minute of a sweep of small networks: Opsin's sweeper, Hydra's basic sweeper, and manual processes."""

import itertools
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.goals import GoalResult, at_least, spread
from benchmarks.session import Session
from benchmarks.startup_memory_scaling import ROOT, environment
from opsin.runs.quoting import override

AT_ONCE = 4
"""Number of processes started manually at the same time."""

COMMON = ("datamodule=digits", "trainer=cpu", "trainer.max_epochs=5", "test=false", "report=false")


def sweeps(session: Session) -> tuple[dict[str, Any], list[GoalResult]]:
    """Measure the wall time of the same runs of `mlp` and `cnn_gap` on digits, from first command to last result."""
    seeds = range(1 if session.quick else 10)
    contenders: dict[str, Callable[[Path], None]] = {
        "opsin": lambda folder: _run("-m", *_varied(seeds), *COMMON, override("output_dir", folder)),
        "basic": lambda folder: _basic(*_varied(seeds), *COMMON, override("output_dir", folder)),
        "by hand": lambda folder: _by_hand(seeds, folder),
    }
    count = 2 * len(seeds)
    minutes: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(1 if session.quick else session.runs):
        for name, run in contenders.items():
            session.log(f"sweep: round {number + 1}, {name}")
            start = time.perf_counter()
            try:
                run(session.folder / "sweeps" / f"{name.replace(' ', '_')}_{number}")
            except subprocess.CalledProcessError as error:
                return {"error": f"{name}: {error.stderr[-500:]}"}, [at_least("sweep, runs per minute", None, 1.0)]
            minutes[name].append((time.perf_counter() - start) / 60)
    speeds = {name: spread([count / spent for spent in values]) for name, values in minutes.items()}
    ours = speeds["opsin"]
    found = [at_least(f"sweep of {count} runs, runs per minute", ours.median, 40.0)]
    titles = {"basic": "Hydra's basic sweeper", "by hand": f"{AT_ONCE} processes started by hand"}
    for name, title in titles.items():
        ratio = at_least(
            f"sweep of {count} runs, runs per minute: (d) / {title}", ours.median / speeds[name].median, 1.0
        )
        found.append(replace(ratio, text=f"{ratio.text} ({ours} against {speeds[name]}, n={ours.n})"))
    return {"runs": count, **{name: vars(value) for name, value in speeds.items()}}, found


def _varied(seeds: range) -> tuple[str, ...]:
    return "model=mlp,cnn_gap", f"seed=range({len(seeds)})"


def _basic(*overrides: str) -> None:
    _start("-m", "benchmarks.basic_sweeper", *overrides)


def _run(*overrides: str) -> None:
    _start(str(ROOT / "train.py"), *overrides)


def _start(*arguments: str) -> None:
    command = [sys.executable, *arguments]
    subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment(), check=True)


def _by_hand(seeds: range, folder: Path) -> None:
    runs = itertools.product(("mlp", "cnn_gap"), seeds)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        started = [
            pool.submit(_run, f"model={model}", f"seed={seed}", *COMMON, override("output_dir", folder))
            for model, seed in runs
        ]
        for future in started:
            future.result()
