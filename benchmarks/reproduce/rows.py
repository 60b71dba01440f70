"""A row of docs/results.md or docs/mistakes.md: an experiment, its commands, and the figure that a lecture states."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from opsin.errors import UserError, did_you_mean
from opsin.runs.quoting import override, printed_command

DataName = Literal["mnist", "cifar10", "cats_vs_dogs"]

ROOT = Path(__file__).resolve().parents[2]
OWN_CONFIGS = "benchmarks/mistakes/configs"
"""Folder of the experiments that make a mistake, relative to the clone."""

FOLDERS: dict[DataName, tuple[str, ...]] = {
    "mnist": (),  # found in the data directory
    "cifar10": ("cifar10_jpeg",),
    "cats_vs_dogs": ("cats_vs_dogs_180",),
}
"""Folders of images in the data directory, by dataset. Without them the datamodule looks for the data itself."""


@dataclass(frozen=True)
class Figure:
    """An accuracy that a lecture states.

    Attributes:
        text: The figure as stated.
        low: Lowest accuracy that rounds to it.
        high: Highest accuracy that rounds to it; 1 for "over 70 %".
        images: Number of test images of the lecture, `same` if they are the same as ours, or `unknown`.
    """

    text: str
    low: float
    high: float
    images: int | Literal["same", "unknown"] = "same"

    @property
    def is_minimum(self) -> bool:
        """Whether only a lower limit is stated."""
        return self.high == 1.0


@dataclass(frozen=True)
class Row:
    """An experiment that is run with several seeds.

    Attributes:
        name: Name for `--only`, and the folder of its records.
        title: Title in tables.
        group: Title of its table.
        data: Dataset.
        experiment: Option of `configs/experiment`; empty for `name`.
        overrides: Further overrides.
        figure: Figure of the lecture, if any.
        seeds: Number of seeds: 5 for runs of about a minute on two cores, else 3.
        against: Names of the rows with which its test predictions are compared, image by image.
        gap: Whether the gap between training and validation is tested.
        downloads: Whether its weights must be downloaded.
        counterpart: Name of the row that replaces it where nothing can be downloaded.
        in_readme: Whether it is in the table of README.md, once it has a record.
    """

    name: str
    title: str
    group: str
    data: DataName
    experiment: str = ""
    overrides: tuple[str, ...] = ()
    figure: Figure | None = None
    seeds: int = 3
    against: tuple[str, ...] = ()
    gap: bool = False
    downloads: bool = False
    counterpart: str | None = None
    in_readme: bool = False

    @property
    def option(self) -> str:
        """The option of `configs/experiment`."""
        return self.experiment or self.name

    @property
    def is_own(self) -> bool:
        """Whether its experiment is in `OWN_CONFIGS`, so that its code needs a permission."""
        return self.option.startswith("mistakes/")

    @property
    def flags(self) -> tuple[str, ...]:
        """Flags of the train command."""
        return ("--config-dir", OWN_CONFIGS) if self.is_own else ()

    def settings(self, seed: int, data_dir: Path) -> list[str]:
        """Return the overrides of a run.

        Args:
            seed: Seed of the run.
            data_dir: Folder of the images.
        """
        folders = [data_dir / name for name in FOLDERS[self.data] if (data_dir / name).is_dir()]
        path = [override("datamodule.path", folders[0])] if folders else []
        data = [override("data_dir", data_dir), *path]
        return [f"experiment={self.option}", *self.overrides, *data, f"seed={seed}"]

    @property
    def command(self) -> str:
        """The command of its first run as text, with `DATA` for the folder of the images."""
        path = [f"datamodule.path=DATA/{name}" for name in FOLDERS[self.data]]
        words = ["python", "train.py", *self.flags, f"experiment={self.option}", *self.overrides]
        prefix = "OPSIN_TARGETS=benchmarks " if self.is_own else ""
        return prefix + printed_command([*words, "data_dir=DATA", *path, "seed=0"])


def select(rows: Sequence[Row], names: Sequence[str] | None) -> list[Row]:
    """Return the rows with some names, or whose name begins with one, such as `mnist`; all rows for None.

    Raises:
        UserError: No row has one of the names.
    """
    if names is None:
        return list(rows)
    for name in names:
        if not any(_matches(row, name) for row in rows):
            known = [row.name for row in rows]
            near = did_you_mean(name, known) or f"; rows: {', '.join(known)}"
            raise UserError(f"--only {name}: there is no such row{near}")
    return [row for row in rows if any(_matches(row, name) for name in names)]


def _matches(row: Row, name: str) -> bool:
    return f"{row.name}_".startswith(f"{name}_")
