"""docs/results.md, and the table of results in README.md, made from the records."""

from collections.abc import Mapping, Sequence
from statistics import median

from benchmarks.reproduce.conclusions import (
    against_figure,
    between_rows,
    divergence,
    gap,
    gap_between,
    mean_accuracy,
    percent,
)
from benchmarks.reproduce.records import CURVES, Record
from benchmarks.reproduce.rows import Row
from benchmarks.tables import markdown_table
from opsin.visualization.formatting import seconds

Records = Mapping[str, Sequence[Record]]
"""The records by name of the row; a row without records may be missing."""

GENERATED = "<!-- Made by `make reproduce ARGS=--write` from benchmarks/records: change neither by hand. -->"
COLUMNS = ("experiment", "lecture", "test accuracy", "n", "time", "machine")
NOT_RUN, NOT_HERE = "not run", "not run here"
QUIET = 0.5
"""Cores that other programs may use during a run whose time counts as that of a quiet machine."""

HEAD = f"""# Results

{GENERATED}

Figures of five lectures on convolutional networks, and the results of Opsin with the same recipes. `make reproduce`
runs the experiments and writes this page; [the mistakes of the lectures' code](mistakes.md) have a page of their own.

- **test accuracy** is the mean over n seeds with its 95 % interval by Student's t; for one run the interval is
  Wilson's, over its images. The epoch is selected on validation images, and the test images are read once.
- **Against a stated figure**: a figure of a lecture is compared with the 95 % prediction interval of one further run,
  because a lecture states one run. A figure covers all accuracies that round to it: 99 % is 98.5 % to 99.5 %. If the
  lecture has other test images, the interval covers their choice too.
- **Between two rows**: a difference is significant if the paired t test over seeds gives p < 0.05 and the paired
  bootstrap over the same images excludes 0. For one run each, McNemar's exact test decides. p is not adjusted for the
  number of comparisons, because each comparison was planned before the runs.
- **time** is the median wall time of a run. An asterisk means that the machine did other work at the same time.
- `DATA` is the folder of the images. `make reproduce ARGS="--only NAME --data-dir DATA"` runs all seeds of a row, and
  `--records FOLDER` keeps your records apart from those of this page.
"""

NOTES = {
    "CIFAR-10": "The images are a copy of CIFAR-10 as JPEG files. JPEG is lossy, so accuracies can be a little lower "
    "than on the original images.",
    "Cats and dogs from scratch": "The photographs were resized to 180x180 pixels beforehand. There are fewer than in "
    "the lecture, and the test images are split off the training images.",
    "Cats and dogs, 468 training images": "The lecture swaps training and test images by mistake, which leaves 468 for "
    "training and 18,728 for the test. Those 18,728 images are not available here, so the test set is smaller.\n\n"
    "All 468 images are one batch, so 20 epochs are 20 steps. After so few steps, the running statistics of BatchNorm "
    "lag behind the weights, and the strided network normalizes by them in evaluation mode. The lecture never calls "
    "`eval()`: BatchNorm normalizes each test batch by its own statistics, so the prediction for an image depends on "
    "the other images of its batch. In the second row all test images are one batch, with as many cats as dogs. In a "
    "batch of one class, BatchNorm would remove the difference between the classes.",
    "Cats and dogs, fine-tuned": "ImageNet weights of torchvision cannot be downloaded here. EfficientNet-Lite0, whose "
    "ImageNet weights are installed by pip, replaces these networks.",
}
"""Text above the table of a group."""


def results_page(rows: Sequence[Row], records: Records) -> str:
    """Return docs/results.md."""
    machines = _machines(rows, records)
    parts = [HEAD]
    for group in dict.fromkeys(row.group for row in rows):
        parts += _group(group, [row for row in rows if row.group == group], records, machines)
    if machines:
        parts += ["## Machines\n", "\n".join(f"- **{letter}**: {text}" for text, letter in machines.items()) + "\n"]
    return "\n".join(parts)


def readme_table(rows: Sequence[Row], records: Records) -> str:
    """Return the table of README.md: chosen rows that have records."""
    body = [
        (f"{row.group}: {row.title}", row.figure.text if row.figure else "", *_accuracy(row, records))
        for row in rows
        if row.in_readme and records.get(row.name)
    ]
    return "\n".join(markdown_table(("experiment", "lecture", "Opsin, test accuracy", "n"), body)) + "\n"


def _group(group: str, rows: Sequence[Row], records: Records, machines: Mapping[str, str]) -> list[str]:
    parts = [f"## {group}\n"]
    if note := NOTES.get(group):
        parts.append(f"{note}\n")
    if counts := _counts(rows, records):
        parts.append(f"Images: {counts}.\n")
    cells = [_cells(row, records, machines) for row in rows]
    parts.append("\n".join(markdown_table(COLUMNS, cells)) + "\n")
    parts.append("\n".join(_bullet(row, records) for row in rows) + "\n")
    parts += [_curves(row, records[row.name]) for row in rows if row.gap and records.get(row.name)]
    return parts


def _cells(row: Row, records: Records, machines: Mapping[str, str]) -> tuple[str, ...]:
    found = records.get(row.name, ())
    time = ""
    if found:
        quiet = all(record.load is not None and record.load <= QUIET for record in found)
        time = seconds(median(record.seconds["total"] for record in found)) + ("" if quiet else "\\*")
    letters = sorted({machines[machine_of(record)] for record in found})
    figure = row.figure.text if row.figure else "none"
    return (f"{row.title} (`{row.name}`)", figure, *_accuracy(row, records), time, ", ".join(letters))


def _accuracy(row: Row, records: Records) -> tuple[str, str]:
    """Return the cells of the accuracy and of the number of seeds."""
    found = records.get(row.name, ())
    if not found:
        return (NOT_HERE if row.downloads else NOT_RUN), ""
    interval = mean_accuracy(found)
    text = f"{percent(interval.estimate)} ({percent(interval.low)} to {percent(interval.high)})"
    return text, str(len(found)) if len(found) >= row.seeds else f"{len(found)} of {row.seeds}"


def _bullet(row: Row, records: Records) -> str:
    return f"- `{row.name}`: {' '.join(conclusions(row, records))} Command: `{row.command}`"


def conclusions(row: Row, records: Records) -> list[str]:
    """Return the sentences about a row."""
    found = records.get(row.name, ())
    if not found and row.downloads:
        return [f"Not run here, because its weights must be downloaded; `{row.counterpart}` replaces it."]
    if not found:
        return ["Not run."]
    sentences = [against_figure(found, row.figure)] if row.figure else []
    sentences += [between_rows(found, other, records.get(other, ())) for other in row.against]
    if row.gap:
        sentences.append(gap(found))
        sentences += [gap_between(found, other, records.get(other, ())) for other in row.against]
    if most := _most_predicted(found):
        sentences.append(most)
    sentences.append(divergence(found))
    kept = [sentence for sentence in sentences if sentence]
    return kept or ["No figure is stated."]


def _most_predicted(records: Sequence[Record]) -> str:
    """Return how often the most frequent prediction occurs, if a row is close to guessing."""
    chance = 1 / len(records[0].predicted)
    if mean_accuracy(records).estimate > 1.25 * chance:
        return ""
    share = sum(max(record.predicted) / sum(record.predicted) for record in records) / len(records)
    areas = [record.metrics["test/auroc"] for record in records if "test/auroc" in record.metrics]
    area = f"; the area under the ROC curve is {sum(areas) / len(areas):.3f}" if areas else ""
    return f"Chance is {100 * chance:g} %; {percent(share, 1)} of the predictions are the most frequent class{area}."


def _counts(rows: Sequence[Row], records: Records) -> str:
    """Return the numbers of images of a group; the rows of a group share them."""
    found = dict.fromkeys(
        ", ".join(f"{count:,} {split}" for split, count in record.counts.items())
        for row in rows
        for record in records.get(row.name, ())
    )
    return "; ".join(found)


def _curves(row: Row, records: Sequence[Record]) -> str:
    """Return the table of the epochs of a row, averaged over seeds: the first, every fifth, and the last."""
    epochs = min(len(record.curves[CURVES[0]]) for record in records)
    chosen = [epoch for epoch in range(1, epochs + 1) if epoch in (1, epochs) or epoch % 5 == 0]
    body = [(str(epoch), *(_mean(records, name, epoch - 1) for name in CURVES)) for epoch in chosen]
    titles = [f"{split} {'accuracy' if kind == 'acc' else kind}" for split, kind in (n.split("/") for n in CURVES)]
    table = "\n".join(markdown_table(("epoch", *titles), body))
    return f"Epochs of `{row.name}`, mean over {len(records)} seed{'s' if len(records) > 1 else ''}:\n\n{table}\n"


def _mean(records: Sequence[Record], name: str, position: int) -> str:
    values = [value for record in records if (value := record.curves[name][position]) is not None]
    if not values:
        return ""
    mean = sum(values) / len(values)
    return percent(mean, 1) if name.endswith("/acc") else f"{mean:.3f}"


def _machines(rows: Sequence[Row], records: Records) -> dict[str, str]:
    """Return a letter for each machine, in the order of the rows."""
    texts = dict.fromkeys(machine_of(record) for row in rows for record in records.get(row.name, ()))
    return {text: chr(ord("A") + i) for i, text in enumerate(texts)}


def machine_of(record: Record) -> str:
    """Return the machine and the software of a run as text."""
    hardware, versions = record.hardware, record.versions
    accelerators = ", ".join(hardware.gpus) or "no GPU"
    software = ", ".join(f"{name} {versions[name]}" for name in ("python", "torch", "lightning") if name in versions)
    return (
        f"{hardware.cpu}, {hardware.cores} cores ({', '.join(record.cpu_flags)}), {hardware.memory_gib} GiB, "
        f"{accelerators}; precision {record.settings.get('precision')}; {software}"
    )
