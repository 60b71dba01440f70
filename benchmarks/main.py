"""The command line of the benchmark, `python -m benchmarks.main`."""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from benchmarks import startup_memory_scaling, tables
from benchmarks.contenders import Task
from benchmarks.decoding import decoding
from benchmarks.feature_caching import feature_cache
from benchmarks.frameworks import frameworks
from benchmarks.goals import GoalResult, goal_results
from benchmarks.precision_accuracy import COMPARISONS, comparison
from benchmarks.session import Session
from benchmarks.shared_machine import shared_machine
from benchmarks.step_work import measure_peak, step_work
from benchmarks.sweeps import sweeps as sweep_throughput
from benchmarks.tables import WorkloadResult
from benchmarks.time_to_accuracy import RECIPES, time_to_accuracy
from benchmarks.workloads import EXTRAS, GOALS, ON_REQUEST, WORKLOADS, Workload
from opsin.runs.atomic import write_atomically
from opsin.training import recording
from opsin.training.accelerator import resolve_accelerator
from opsin.training.precision import bfloat16_instructions, resolve_precision

Extra = Callable[[Session], tuple[dict[str, Any], list[GoalResult]]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the selected workloads, print the tables and write the results."""
    names = [*(workload.name for workload in WORKLOADS), *EXTRAS]
    parser = argparse.ArgumentParser(description="Compare Opsin with a bare PyTorch loop and with common practice.")
    parser.add_argument("--data-dir", default="data", type=Path, help="folder of real images; missing ones are made")
    available = [*names, *ON_REQUEST]
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--only", nargs="+", choices=available, metavar="WORK", help=f"of {', '.join(available)}")
    choice.add_argument("--all", action="store_true", help="measure everything, which takes hours")
    parser.add_argument("--rounds", type=int, default=3, help="measured rounds per contender")
    parser.add_argument("--runs", type=int, default=2, help="measured whole runs per contender")
    parser.add_argument("--seeds", type=int, help="seeds of mnist_fast and cifar10_fast (default: 20 and 3)")
    parser.add_argument("--seconds", type=float, default=2.0, help="duration of a round of training steps")
    parser.add_argument("--quick", action="store_true", help="tiny workloads, to check that everything runs")
    parser.add_argument("--threads", type=int, help="threads per contender (default: all cores)")
    parser.add_argument("--json", type=Path, default=Path("outputs/benchmark.json"), help="file for all results")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="page to update with the tables: docs/benchmarks.md")
    parser.add_argument("--work-dir", type=Path, help="folder for 3 GB of temporary files (default: the system's)")
    options = parser.parse_args(arguments)
    selected = options.only or (available if options.all else names)

    start, console = time.perf_counter(), Console()
    with tempfile.TemporaryDirectory(prefix="opsin-benchmark-", dir=options.work_dir) as folder:
        rounds = 1 if options.quick else options.rounds
        seconds = min(options.seconds, 0.3) if options.quick else options.seconds
        log = lambda text: print(f"{time.perf_counter() - start:4.0f} s  {text}", file=sys.stderr, flush=True)  # noqa: E731
        runs = 1 if options.quick else options.runs
        settings = (rounds, seconds, runs, options.quick, options.threads, log, options.seeds)
        session = Session(options.data_dir, Path(folder), *settings)
        results = [measure(session, workload) for workload in WORKLOADS if workload.name in selected]
        others, found = _extras(session, selected)
    medians = {found.workload.name: found.medians() for found in results}
    found = [*goal_results(GOALS, medians), *found]

    for table in tables.tables(results, found):
        console.print(table)
    about = {
        **_environment_facts(),
        "seconds": seconds,
        "rounds": rounds,
        "minutes": (time.perf_counter() - start) / 60,
    }
    about["command"] = " ".join(["python -m benchmarks.main", *(sys.argv[1:] if arguments is None else arguments)])
    write_atomically(options.json, json.dumps(tables.as_json(results, others, found, about), indent=2) + "\n")
    if omitted := [name for name in available if name not in selected]:
        console.print(f"not measured: {', '.join(omitted)}; measure them with --only NAME, or everything with --all")
    console.print(f"all results: {options.json}")
    if options.write:
        tables.write_page(options.write, tables.as_markdown(results, found, about), about)
    failed = [measured.error for one in results for measured in one.measured.values() if measured.error]
    reasons = _reasons(others)
    for reason in reasons:
        print(reason, file=sys.stderr)
    return 1 if failed or reasons else 0


def measure(session: Session, workload: Workload) -> WorkloadResult:
    """Measure all contenders of one workload, then the work of a step and the peak of the machine."""
    workload = workload.quick() if session.quick else workload
    measured, images, real = session.measure(workload)
    data, network = Task(workload, images, session.folder / workload.name / "opsin").network()
    work = step_work(network.train(), (data.channels, *data.image_size), workload.batch_size)
    peak = measure_peak(torch.device("cuda" if resolve_accelerator("auto") == "gpu" else "cpu"), session.threads)
    return WorkloadResult(workload, measured, real, work, peak)


def _extras(session: Session, selected: Sequence[str]) -> tuple[dict[str, Any], list[GoalResult]]:
    jobs: dict[str, Extra] = {
        "startup": startup_memory_scaling.startup,
        "memory": startup_memory_scaling.memory,
        "growth": startup_memory_scaling.growth,
        "decoding": decoding,
        "sweep": sweep_throughput,
        "shared_machine": shared_machine,
        **{name: comparison(name) for name in COMPARISONS},
        **{name: partial(time_to_accuracy, name=name) for name in RECIPES},
        "feature_cache": feature_cache,
        "frameworks": frameworks,
    }
    figures, found = {}, []
    for name, job in jobs.items():
        if name in selected:
            figures[name], more = job(session)
            found += more
    return figures, found


def _reasons(figures: dict[str, dict[str, Any]]) -> list[str]:
    """Return why extra measurements failed: each has an `error` or a list `errors` among its figures."""
    return [
        f"{name} failed: {reason}"
        for name, found in figures.items()
        for reason in [*([found["error"]] if "error" in found else []), *found.get("errors", [])]
    ]


def _environment_facts() -> dict[str, Any]:
    return {
        "hardware": asdict(recording.hardware()),
        "versions": recording.versions(),
        "commit": recording.commit(),
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "precision": resolve_precision("auto", resolve_accelerator("auto")).precision,
        "bfloat16": ", ".join(bfloat16_instructions()) or "none",
    }


if __name__ == "__main__":
    sys.exit(main())
