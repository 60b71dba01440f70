"""The table of the network, taken out of `model.txt`."""

import re
from dataclasses import dataclass

from opsin.runs.directory import RunDirectory


@dataclass(frozen=True)
class ModelTable:
    """The rows of `model.txt`.

    Attributes:
        title: Which network, for which images.
        header: Names of the columns.
        rows: One for each stage, the head and the total.
        text: The file as it is.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    text: str


def read_model_table(run: RunDirectory) -> ModelTable | None:
    """The table of a run's network; None before there is one, and without rows where the file looks otherwise."""
    try:
        text = (run.path / "model.txt").read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    cells = [
        tuple(cell.strip() for cell in re.split("[┃│]", line)[1:-1])
        for line in text.splitlines()
        if line.startswith(("┃", "│"))
    ]
    title = text.splitlines()[0] if text else ""
    if not cells or any(len(row) != len(cells[0]) for row in cells):
        return ModelTable(title, (), (), text)
    return ModelTable(title, cells[0], tuple(cells[1:]), text)
