"""The outcome of a fault, and the table of all outcomes."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest


@dataclass
class Outcome:
    """What happened after a fault, over all injections of the fault.

    Attributes:
        injected: Number of injections.
        identical: Number of injections after which the result was identical to that of an undisturbed run; or, where
            nothing can be resumed, after which Opsin did what its documentation promises.
        lost: What was lost or wrong, each once.
        compared: What was compared.
        skipped: Why the fault could not be injected; empty if it was.
    """

    injected: int = 0
    identical: int = 0
    lost: list[str] = field(default_factory=list)
    compared: str = ""
    skipped: str = ""

    def add(self, differences: Sequence[str], where: str = "") -> None:
        """Add one injection with the differences that it caused."""
        self.injected += 1
        self.identical += not differences
        text = f"{where}: {', '.join(differences[:4])}" if differences else ""
        if text and text not in self.lost:
            self.lost.append(text)

    @property
    def good(self) -> bool:
        """Whether nothing was lost."""
        return bool(self.skipped) or (self.injected > 0 and self.identical == self.injected)


@dataclass(frozen=True)
class Setting:
    """The setting of all faults.

    Attributes:
        folder: An empty folder for the files.
        kills: Number of kills in a row of random kills; None for the number of each row.
        seed: Seed of the random moments.
    """

    folder: Path
    kills: int | None = None
    seed: int = 0


Fault = Callable[[Setting], Outcome]

FAULTS: dict[str, tuple[str, Fault]] = {}
"""Description and function of each fault, by name."""


def fault(name: str, description: str) -> Callable[[Fault], Fault]:
    """Register a function as a row of the table."""

    def register(function: Fault) -> Fault:
        FAULTS[name] = (description, function)
        return function

    return register


def outcome_of(name: str, setting: Setting) -> Outcome:
    """Inject a fault; an error of the program becomes a loss."""
    folder = setting.folder / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        return FAULTS[name][1](Setting(folder, setting.kills, setting.seed))
    except pytest.skip.Exception as reason:
        return Outcome(skipped=str(reason))
    except Exception as error:
        return Outcome(1, 0, [f"{type(error).__name__}: {' '.join(str(error).split())[-300:]}"])


def table(outcomes: dict[str, Outcome]) -> str:
    """Return the table as Markdown."""
    lines = ["| fault | lost | identical | compared |", "| --- | --- | --- | --- |"]
    for name, outcome in outcomes.items():
        lost = (outcome.skipped and f"not injected: {outcome.skipped}") or "; ".join(outcome.lost) or "nothing"
        count = "-" if outcome.skipped else f"{outcome.identical} of {outcome.injected}"
        lines.append(f"| {FAULTS[name][0]} | {lost} | {count} | {outcome.compared} |")
    return "\n".join(lines)
