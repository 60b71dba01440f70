"""What run directories say: finished runs with their numbers, others with their status."""

import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from opsin.config import RunConfig
from opsin.errors import UserError
from opsin.runs.directory import RunDirectory
from opsin.runs.epochs import EpochRow, read_epochs
from opsin.runs.predictions import Predictions, read_predictions
from opsin.runs.result import RunResult

REPEATS = ("seed", "datamodule.fold")
"""Keys that say which repetition of a recipe a run is."""

_ASIDE = (
    "data_dir",
    "output_dir",
    "report",
    "resume",
    "test",
    "logger.",
    "datamodule.data_dir",
    "datamodule.download",
    "trainer.log_every_n_steps",
    "trainer.profiler",
)
_ACTING = ("EarlyStopping", "EMA")  # of Opsin's own callbacks; the others only tell of the training


@dataclass(frozen=True)
class RunRecord:
    """One run directory, as it stands.

    Attributes:
        run: The directory.
        status: finished, failed, interrupted (which a run under way is too), no result, or unreadable.
        reason: Of a failure, in one line; else empty.
        result: `result.json`; empty where there is none.
        choices: Option of each part, such as `{"model": "cnn_gap"}`.
        words: Of the command line.
        config: Every value that has a say in what is learned, by its dotted key; without nulls and without REPEATS.
        repetition: Values of REPEATS.
    """

    run: RunDirectory
    status: str
    reason: str
    result: RunResult
    choices: Mapping[str, str]
    words: tuple[str, ...]
    config: Mapping[str, Any]
    repetition: tuple[Any, ...]

    @property
    def repeat(self) -> str:
        """Which repetition of its recipe it is, in words: `seed 0`, or `seed 0, fold 3`."""
        seed, fold = self.repetition
        return f"seed {seed}, fold {fold}" if "datamodule.num_folds" in self.config else f"seed {seed}"

    @property
    def metrics(self) -> dict[str, float]:
        """What was measured at the best epoch and by the test; empty unless the run has finished."""
        return dict(self.result.metrics) if self.status == "finished" else {}

    def predictions(self, split: str) -> Predictions | None:
        """What the best checkpoint says of the images of a split; None: it was not kept, or is damaged."""
        try:
            return read_predictions(self.run, split)
        except UserError:
            return None

    def images(self, split: str) -> str | None:
        """Digest of the very images of a split that were measured; None where no predictions were kept."""
        return self._measured(split)[0]

    def count(self, split: str) -> int:
        """How many these are."""
        return self._measured(split)[1]

    def _measured(self, split: str) -> tuple[str | None, int]:
        if split not in self._known:
            kept = self.predictions(split)
            digest = hashlib.blake2b(digest_size=16)
            if kept is not None:
                digest.update(kept.images.encode())
                digest.update(kept.positions.tobytes())
            self._known[split] = (None, 0) if kept is None else (digest.hexdigest(), len(kept))
        return self._known[split]

    @cached_property
    def _known(self) -> dict[str, tuple[str | None, int]]:
        return {}

    @cached_property
    def history(self) -> list[EpochRow]:
        """One row per epoch; empty if the run has no table of epochs, or a damaged one."""
        try:
            return read_epochs(self.run.metrics)
        except UserError:
            return []


def collect(places: Iterable[str | Path]) -> list[RunRecord]:
    """The runs that some words name, each once, in the order of the words.

    Args:
        places: Run directories, or folders of runs such as a sweep, at any depth; links inside are not followed.

    Raises:
        UserError: One is no folder, or holds no run.
    """
    found: dict[Path, RunRecord] = {}
    for place in places:
        folder = Path(place).expanduser().resolve()
        if not folder.is_dir():
            raise UserError(f"{place} is no folder: name run directories, a sweep, or a folder of runs such as outputs")
        runs = _runs(folder)
        if not runs:
            raise UserError(f"{place} holds no run: no folder in it has a config.yaml and a result.json")
        for run in runs:
            if run.path not in found:
                found[run.path] = read_record(run)
    return list(found.values())


def _runs(folder: Path) -> list[RunDirectory]:
    """A run itself, or all below a folder; a job of a sweep that failed before it began has only an `error.txt`."""
    runs = []
    for root, folders, files in os.walk(folder):
        folders.sort()
        if {"config.yaml", "result.json", "error.txt"} & set(files):
            runs.append(RunDirectory(Path(root)))
            folders.clear()  # whatever lies in a run is the run's
    return runs


def read_record(run: RunDirectory) -> RunRecord:
    """What a run directory says, whatever state it is in."""
    try:
        result = run.read_result()
        composed = RunConfig.load(run)
        tree, origin = composed.tree, composed.origin
        if result.status == "not begun":
            return _without(run, *_no_result(run, run.result))
    except FileNotFoundError as error:
        return _without(run, *_no_result(run, Path(error.filename)))
    except UserError as error:
        return _without(run, "unreadable", str(error))
    except Exception as error:  # whatever damaged files raise: one bad run must not hide the others
        return _without(run, "unreadable", f"{type(error).__name__}: {error}")
    values = flat(tree)
    return RunRecord(
        run,
        result.status,
        " ".join((result.error or "").split()),
        result,
        {name: option for name, option in origin.choices.items() if option},
        tuple(origin.overrides),
        {key: value for key, value in values.items() if key not in REPEATS and not _aside(key, values)},
        tuple(values.get(key) for key in REPEATS),
    )


def _no_result(run: RunDirectory, missing: Path) -> tuple[str, str]:
    try:
        lines = run.error.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError:
        return "no result", f"{missing.name} is missing"
    return "failed", next((line.strip() for line in reversed(lines) if line.strip()), "")


def _without(run: RunDirectory, status: str, reason: str) -> RunRecord:
    return RunRecord(run, status, " ".join(reason.split()), RunResult(), {}, (), {}, ())


def flat(tree: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """The values of nested sections by their dotted keys, lists as text, without nulls."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{above}{key}.")
        elif value is not None:
            found[f"{above}{key}"] = value if isinstance(value, (bool, int, float, str)) else str(value)
    return found


def _aside(key: str, values: Mapping[str, Any]) -> bool:
    """Whether a key only says where things lie, or what is told of the training."""
    if key.startswith("callbacks."):
        target = str(values.get(".".join(key.split(".")[:2]) + "._target_", ""))
        return (target.startswith("opsin.") and not target.endswith(_ACTING)) or target.endswith("Monitor")
    return key.startswith(_ASIDE)
