"""Records of run directories: metrics and config of finished runs, the status of others."""

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from opsin.config import RunConfig
from opsin.errors import UserError, did_you_mean
from opsin.evaluation.comparison.recipes import recipe_values, repetition
from opsin.runs.directory import RunDirectory, why_no_run
from opsin.runs.flat_keys import flat_scalars
from opsin.runs.home import real_path
from opsin.runs.metrics_csv import EpochRow, read_epochs
from opsin.runs.predictions import Predictions, read_predictions
from opsin.runs.regular_file import NotRegularError, check_regular
from opsin.runs.result import RunResult


@dataclass(frozen=True)
class RunRecord:
    """The current content of one run directory.

    Attributes:
        run: The directory.
        status: finished, pruned (by its sweep), failed, interrupted (also while the run is in progress), no result, or
            unreadable.
        reason: The reason for a failure or for the pruning in one line, else empty.
        result: Content of `result.json`; empty without the file.
        choices: Option of each config group, such as `{"model": "cnn_gap"}`.
        overrides: The overrides of the command line.
        config: Every value that affects the trained network, by dotted key; without nulls (`recipes.recipe_values`).
        repetition: Values of `recipes.REPEATS`.
    """

    run: RunDirectory
    status: str
    reason: str
    result: RunResult
    choices: Mapping[str, str]
    overrides: tuple[str, ...]
    config: Mapping[str, Any]
    repetition: tuple[Any, ...]

    @property
    def repetition_text(self) -> str:
        """The repetition as text: `seed 0`, or `seed 0, fold 3`."""
        seed, fold = self.repetition
        return f"seed {seed}, fold {fold}" if "datamodule.num_folds" in self.config else f"seed {seed}"

    @property
    def metrics(self) -> dict[str, float]:
        """Metrics of the best epoch and of the test; empty unless the run has finished and was not pruned."""
        return dict(self.result.metrics) if self.status == "finished" else {}

    def predictions(self, split: str) -> Predictions | None:
        """Return the predictions of the best checkpoint on a split; None if they are missing or damaged."""
        try:
            return read_predictions(self.run, split)
        except UserError:
            return None

    def images_digest(self, split: str) -> str | None:
        """Return the digest of the images of a split that were predicted; None if there are no predictions."""
        return self._digest_and_count(split)[0]

    def image_count(self, split: str) -> int:
        """Return the number of images of a split that were predicted."""
        return self._digest_and_count(split)[1]

    def _digest_and_count(self, split: str) -> tuple[str | None, int]:
        if split not in self._digests:
            predictions = self.predictions(split)
            digest = hashlib.blake2b(digest_size=16)
            if predictions is not None:
                digest.update(predictions.images.encode())
                digest.update(predictions.positions.tobytes())
            self._digests[split] = (None, 0) if predictions is None else (digest.hexdigest(), len(predictions))
        return self._digests[split]

    @cached_property
    def _digests(self) -> dict[str, tuple[str | None, int]]:
        return {}

    @cached_property
    def history(self) -> list[EpochRow]:
        """One row per epoch; empty if the run has no metrics.csv, or a damaged one."""
        try:
            return read_epochs(self.run.metrics)
        except UserError:
            return []


def collect(paths: Iterable[str | Path]) -> list[RunRecord]:
    """Read the runs below some folders, each once, in the given order.

    Args:
        paths: Run directories, or folders of runs such as a sweep, at any depth; symbolic links are not followed.

    Raises:
        UserError: A path is not a folder, or contains no run.
    """
    found: dict[Path, RunRecord] = {}
    for path in paths:
        folder = real_path(path)
        if not folder.is_dir():
            reason = f": {why_no_run(path)}" if not folder.exists() else ""
            raise UserError(
                f"{path} is not a folder{reason}. Give run directories, a sweep, or a folder of runs such as outputs"
            )
        runs = _runs(folder)
        if not runs:
            raise UserError(f"{path} contains no run: no folder in it has a config.yaml, result.json or error.txt")
        for run in runs:
            if run.path not in found:
                found[run.path] = read_record(run)
    return list(found.values())


def with_tags(records: Sequence[RunRecord], tags: Sequence[str]) -> list[RunRecord]:
    """Return the runs that have all of some tags.

    Raises:
        UserError: No run has one of the tags; the message names the nearest tag, or the tags that occur.
    """
    for tag in tags:
        known = sorted({own for record in records for own in record.result.tags})
        if tag not in known:
            among = f" Tags of these runs: {', '.join(known)}." if known else " None of these runs has tags."
            raise UserError(f"--tag {tag}: no run has this tag{did_you_mean(tag, known) or '.'}{among}")
    found = [record for record in records if {*tags} <= {*record.result.tags}]
    if not found:
        raise UserError(f"--tag {' --tag '.join(tags)}: no run has all of these tags")
    return found


def _runs(folder: Path) -> list[RunDirectory]:
    """Return the runs in a folder, or the folder itself if it is a run.

    A job of a sweep that failed before its run began has only an `error.txt`.
    """
    runs = []
    for root, folders, files in os.walk(folder):
        folders.sort()
        run = RunDirectory(Path(root))
        if {run.config.name, run.result.name, run.error.name} & set(files):
            runs.append(run)
            folders.clear()  # folders inside a run belong to the run
    return runs


def read_record(run: RunDirectory) -> RunRecord:
    """Read a run directory in any state."""
    if missing := next((file for file in (run.config, run.result) if not file.exists()), None):
        return _without(run, *_no_result(run, missing))
    try:
        result = run.read_result()
        composed = RunConfig.load(run)
        tree, origin = composed.tree, composed.origin
    except UserError as error:
        return _without(run, "unreadable", str(error))
    except Exception as error:  # damaged files raise anything; one bad run must not hide the others
        return _without(run, "unreadable", f"{type(error).__name__}: {error}")
    values = flat_scalars(tree)
    return RunRecord(
        run,
        *_status(result),
        result,
        {name: option for name, option in origin.choices.items() if option},
        tuple(origin.overrides),
        recipe_values(values),
        repetition(values),
    )


def _status(result: RunResult) -> tuple[str, str]:
    """Return the status of a run and its reason. A pruned run is not finished: its sweep ended it early."""
    if result.status == "finished" and result.pruned:
        return "pruned", (result.stopped or "").removeprefix("pruned: ")
    return result.status, " ".join((result.error or "").split())


def _no_result(run: RunDirectory, missing: Path) -> tuple[str, str]:
    try:
        check_regular(run.error)
        lines = run.error.read_text(encoding="utf-8", errors="replace").split("\n")
    except (OSError, NotRegularError):
        return "no result", f"{missing.name} is missing"
    return "failed", next((line.strip() for line in reversed(lines) if line.strip()), "")


def _without(run: RunDirectory, status: str, reason: str) -> RunRecord:
    return RunRecord(run, status, " ".join(reason.split()), RunResult(), {}, (), {}, ())
