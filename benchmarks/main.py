"""The command line of the benchmark: what to measure, and where the results go."""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks import startup_memory_scaling, tables
from benchmarks.contenders import Task
from benchmarks.goals import GoalResult, verdicts
from benchmarks.mfu import compute_share
from benchmarks.session import Session
from benchmarks.sweeps import sweeps as sweep_throughput
from benchmarks.tables import Result
from benchmarks.workloads import EXTRAS, GOALS, ON_REQUEST, WORKLOADS, Workload
from opsin.models import summarise
from opsin.training import recording
from opsin.training.hardware import resolve_accelerator, resolve_precision

Extra = Callable[[Session], tuple[dict[str, Any], list[GoalResult]]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and write what was asked for."""
    names = [*(workload.name for workload in WORKLOADS), *EXTRAS]
    parser = argparse.ArgumentParser(description="Opsin beside bare PyTorch and beside common practice.")
    parser.add_argument("--data-dir", default="data", type=Path, help="where real images may lie; else some are made")
    some = [*names, *ON_REQUEST]
    parser.add_argument("--only", nargs="+", choices=some, metavar="WORK", help=f"of {', '.join(some)}")
    parser.add_argument("--rounds", type=int, default=3, help="counted rounds of each contestant")
    parser.add_argument("--runs", type=int, default=2, help="counted whole runs of each contestant")
    parser.add_argument("--seconds", type=float, default=2.0, help="of a round of training steps")
    parser.add_argument("--quick", action="store_true", help="hardly any work: to see that all runs")
    parser.add_argument("--threads", type=int, help="of each contestant; all cores if not given")
    parser.add_argument("--json", type=Path, default=Path("outputs/benchmark.json"), help="file for all figures")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="page for the tables: docs/benchmarks.md")
    parser.add_argument("--work-dir", type=Path, help="3 GB are written there and deleted; the system's if not given")
    chosen = parser.parse_args(arguments)
    wanted = chosen.only or names

    start, console = time.perf_counter(), Console()
    with tempfile.TemporaryDirectory(prefix="opsin-benchmark-", dir=chosen.work_dir) as folder:
        rounds = 1 if chosen.quick else chosen.rounds
        seconds = min(chosen.seconds, 0.3) if chosen.quick else chosen.seconds
        say = lambda text: print(f"{time.perf_counter() - start:4.0f} s  {text}", file=sys.stderr, flush=True)  # noqa: E731
        runs = 1 if chosen.quick else chosen.runs
        session = Session(chosen.data_dir, Path(folder), rounds, seconds, runs, chosen.quick, chosen.threads, say)
        results = [measure(session, workload) for workload in WORKLOADS if workload.name in wanted]
        others, found = _extras(session, wanted)
    medians = {found.workload.name: found.medians() for found in results}
    found = [*verdicts(GOALS, medians), *found]

    for table in tables.tables(results, found):
        console.print(table)
    about = {**_about(), "seconds": seconds, "rounds": rounds, "minutes": (time.perf_counter() - start) / 60}
    about["command"] = " ".join(["python -m benchmarks.main", *(sys.argv[1:] if arguments is None else arguments)])
    chosen.json.parent.mkdir(parents=True, exist_ok=True)
    chosen.json.write_text(json.dumps(tables.as_json(results, others, found, about), indent=2) + "\n", "utf-8")
    console.print(f"all figures: {chosen.json}")
    if chosen.write:
        tables.write_page(chosen.write, tables.as_markdown(results, found, about), about)
    failed = [measured.error for one in results for measured in one.measured.values() if measured.error]
    return 1 if failed else 0


def measure(session: Session, workload: Workload) -> Result:
    """One workload, all its contestants."""
    measured, real = session.measure(workload)
    compute: dict[str, float | None] = {}
    gpus = recording.hardware().gpus
    speed = measured["opsin"].speed if "opsin" in measured else None
    if gpus and speed and workload.measure == "steps":
        images = session.folder / {"photos": f"photos{sum(workload.counts)}"}.get(workload.images, workload.images)
        task = Task(workload, images if images.exists() else session.data_dir, session.folder / "summary")
        data, network = task.network()
        summary = summarise(network, (data.channels, *data.image_size))
        compute = {
            "of the compute limit": compute_share(summary, speed.median, gpus[0]),
            "of the time at work": measured["opsin"].facts.get("utilisation"),
        }
    return Result(workload, measured, real, compute)


def _extras(session: Session, wanted: Sequence[str]) -> tuple[dict[str, Any], list[GoalResult]]:
    jobs: dict[str, Extra] = {
        "startup": startup_memory_scaling.startup,
        "memory": startup_memory_scaling.memory,
        "growth": startup_memory_scaling.growth,
        "sweep": sweep_throughput,
    }
    figures, found = {}, []
    for name, job in jobs.items():
        if name in wanted:
            figures[name], more = job(session)
            found += more
    return figures, found


def _about() -> dict[str, Any]:
    return {
        "hardware": recording.hardware(),
        "versions": recording.versions(),
        "commit": recording.commit(),
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "precision": resolve_precision("auto", resolve_accelerator("auto")),
    }
