"""The results as a table for the terminal, as JSON, and as a section of docs/benchmarks.md."""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from benchmarks.goals import GoalResult
from benchmarks.session import Measurement
from benchmarks.step_work import Peak, StepWork
from benchmarks.workloads import TITLES, Workload
from opsin.runs.atomic import write_atomically

if TYPE_CHECKING:
    from rich.table import Table

COLUMNS = ("workload", "contender", "images/s: median (range)", "peak memory", "notes")
WORK_COLUMNS = ("workload", "MFLOP per image", "MB per image", "(b) GFLOP/s", "of peak", "(d) GFLOP/s", "of peak")
UNKNOWN = "?"


@dataclass(frozen=True)
class WorkloadResult:
    """Measurements of all contenders of one workload.

    Attributes:
        workload: The workload.
        measured: Measurement of each contender, by name.
        real: Whether the images are real.
        work: Work of a training step; without the feature cache, if the workload uses it.
        peak: Peak of the machine, measured after the contenders.
    """

    workload: Workload
    measured: dict[str, Measurement]
    real: bool
    work: StepWork
    peak: Peak

    def medians(self) -> dict[str, float | None]:
        """Return the median images/s by contender."""
        return {name: found.speed.median if found.speed else None for name, found in self.measured.items()}


def rows(results: Sequence[WorkloadResult]) -> list[tuple[str, ...]]:
    """Return one row per workload and contender, with the cells of `COLUMNS`."""
    found: list[tuple[str, ...]] = []
    for result in results:
        for name, measured in result.measured.items():
            speed = f"{measured.speed}, n={measured.speed.n}" if measured.speed else f"not run: {measured.error}"
            memory = UNKNOWN if measured.peak_mb is None else f"{measured.peak_mb:,.0f} MB"
            found.append((result.workload.name, TITLES[name], speed, memory, _notes(result, name, measured)))
    return found


def _notes(result: WorkloadResult, name: str, measured: Measurement) -> str:
    notes = []
    if result.workload.measure == "runs" and measured.seconds:
        notes.append(f"{result.workload.epochs} epochs, whole run in {median(measured.seconds):.1f} s")
    if "workers" in measured.facts:
        notes.append(f"loader workers: {measured.facts['workers']}")
    if name.startswith("bare") and result.workload.augmentation != "none":
        notes.append("without augmentation")
    if name == "opsin" and measured.facts.get("utilization") is not None:
        notes.append(f"{measured.facts['utilization']:.0%} GPU utilization")
    return ", ".join(notes)


def work_rows(results: Sequence[WorkloadResult]) -> list[tuple[str, ...]]:
    """Return one row per workload, with the cells of `WORK_COLUMNS`; whole runs have no speed of their steps."""
    found: list[tuple[str, ...]] = []
    for result in results:
        cells = [result.workload.name, f"{result.work.flops / 1e6:,.1f}", f"{result.work.bytes / 1e6:,.1f}"]
        speeds = result.medians() if result.workload.measure == "steps" else {}
        for speed in (speeds.get(name) for name in ("bare_same", "opsin")):
            if speed is None:
                cells += [UNKNOWN if speeds else "", ""]
            else:
                share = result.work.share(speed, _peak(results))
                cells += [f"{result.work.flops * speed / 1e9:,.0f}", f"{share:.0%}"]
        found.append(tuple(cells))
    return found


def work_title(results: Sequence[WorkloadResult]) -> str:
    """Return the title of the table of `work_rows`, with the peak."""
    return f"Work of a training step, and share of the measured peak, {_peak(results)}"


def _peak(results: Sequence[WorkloadResult]) -> Peak:
    return max(result.peak for result in results)


def tables(results: Sequence[WorkloadResult], goal_results: Sequence[GoalResult]) -> list["Table"]:
    """Return the tables for the terminal."""
    from rich.table import Table

    speeds = Table(*COLUMNS, title="Speed", title_justify="left")
    for row in rows(results):
        speeds.add_row(*row)
    goals = Table("figure", "goal", "measured", "", title="Goals", title_justify="left")
    for goal_result in goal_results:
        goals.add_row(goal_result.figure, goal_result.goal, goal_result.text, goal_result.status)
    if not results:
        return [speeds, goals]
    work = Table(*WORK_COLUMNS, title=work_title(results), title_justify="left")
    for row in work_rows(results):
        work.add_row(*row)
    return [speeds, work, goals]


def as_json(
    results: Sequence[WorkloadResult], extras: dict[str, Any], goal_results: Sequence[GoalResult], about: Any
) -> Any:
    """Return everything as plain values."""
    return {
        "about": about,
        "workloads": {
            result.workload.name: {
                "workload": asdict(result.workload),
                "real_images": result.real,
                "work": asdict(result.work),
                "peak": asdict(result.peak),
                "contenders": {
                    name: {**asdict(found), "speed": found.speed and asdict(found.speed)}
                    for name, found in result.measured.items()
                },
            }
            for result in results
        },
        "extras": extras,
        "goals": [{**asdict(goal_result), "status": goal_result.status} for goal_result in goal_results],
    }


def as_markdown(results: Sequence[WorkloadResult], goal_results: Sequence[GoalResult], about: dict[str, Any]) -> str:
    """Return the tables with the machine and versions."""
    hardware, versions = about["hardware"], about["versions"]
    accelerators = ", ".join(hardware["gpus"]) or "no GPU"
    real = sorted({result.workload.images for result in results if result.real})
    lines = [
        f"## {_machine(about)}",
        "",
        f"{hardware['cpu']}, {hardware['cores']} cores, {hardware['memory_gib']} GiB, {accelerators}; "
        f"Opsin's precision: {about['precision']} (instructions for bfloat16: {about['bfloat16']}). "
        f"{about['date']}, commit {about['commit']}; "
        + ", ".join(f"{name} {version}" for name, version in versions.items())
        + ".",
        f"Real images: {', '.join(real) or 'none'}; other images are synthetic. Rounds of all contenders interleaved"
        f"{', about ' + str(about['seconds']) + ' s each' if about.get('seconds') else ''}.",
        f"Command: `{about['command']}`; {about['minutes']:.1f} minutes in total.",
        "",
        *markdown_table(
            ("figure", "goal", "measured", "result"), [_cells(goal_result) for goal_result in goal_results]
        ),
        "",
        *markdown_table(COLUMNS, rows(results)),
        "",
        *([f"{work_title(results)}:", "", *markdown_table(WORK_COLUMNS, work_rows(results)), ""] if results else []),
    ]
    return "\n".join(lines)


def _cells(goal_result: GoalResult) -> tuple[str, ...]:
    return goal_result.figure, goal_result.goal, goal_result.text, goal_result.status


def markdown_table(header: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a Markdown table."""
    lines = [header, ["---"] * len(header), *body]
    return ["| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in line) + " |" for line in lines]


def _machine(about: dict[str, Any]) -> str:
    hardware = about["hardware"]
    name = ", ".join(hardware["gpus"]) or hardware["cpu"]
    return f"{name}, {hardware['cores']} cores"


def write_page(path: Path, section: str, about: dict[str, Any]) -> None:
    """Replace a machine's section of a page, or append it; all other text stays."""
    name = re.sub(r"[^A-Za-z0-9]+", "-", _machine(about)).strip("-").lower()
    text = path.read_text(encoding="utf-8") if path.exists() else HEAD
    write_atomically(path, with_section(text, f"measured: {name}", section))


def with_section(text: str, name: str, section: str) -> str:
    """Return a page with a section between its markers: in the place of the former one, or at the end."""
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    block = f"{begin}\n{section}{end}\n"
    if begin in text and end in text:
        before, rest = text.split(begin, 1)
        return before + block + rest.split(end, 1)[1].removeprefix("\n")
    return f"{text.rstrip()}\n\n{block}"


HEAD = """# Benchmarks

Made by `make benchmark`. All contenders of a workload train the same network with the same batch size on the same
images, each in a separate process, interleaved round by round. Ratios are ratios of medians.

- **(a)** a bare PyTorch loop: float32, normalized images in memory as one tensor, no augmentation;
- **(b)** that loop with Opsin's precision, memory format, compile setting, fused optimizer and allocator setting, and
  without torch's search for CUDA in every step;
- **(c)** common practice: torchvision dataset, transforms of single Pillow images, DataLoader with the number
  of workers that is fastest on the machine, a plain LightningModule with torchmetrics and self.log,
  Lightning's defaults otherwise;
- **(d)** Opsin as `python train.py` runs it, with its default callbacks and TensorBoard.

Steps are timed in steady state, without validation and checkpoints. Whole runs of ten epochs are timed from the
decoding of the first image to the end of the test, with empty caches; their images/s are the images of all ten
epochs divided by this time.

The work of a training step is counted in bfloat16: the floating-point operations of convolutions and matrix products,
and the bytes that all operators read and write if none are fused. Whole runs are counted without the feature cache.
"""
