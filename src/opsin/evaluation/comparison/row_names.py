"""What the rows of a leaderboard are called: by what sets them apart."""

import string
from collections.abc import Sequence

from opsin.evaluation.comparison.run_records import RunRecord

QUIET = ("callbacks", "logger", "feature_cache", "debug")
"""Parts whose choice names no recipe."""


def names(runs: Sequence[RunRecord]) -> list[str]:
    """A name for each of some runs of different configs, in words of the command line."""
    found = [_name(run, runs) for run in runs]
    return [_told_apart(i, found, runs) for i in range(len(runs))]


def letter(index: int) -> str:
    """A to Z, then AA, AB, ..."""
    letters = string.ascii_uppercase
    return letters[index] if index < 26 else letter(index // 26 - 1) + letters[index % 26]


def _name(run: RunRecord, runs: Sequence[RunRecord]) -> str:
    """Its network, then the parts and the words of the command line that not all runs share, itself among them."""
    apart = [
        f"{key}={option}"
        for key, option in run.choices.items()
        if key not in ("model", *QUIET) and any(other.choices.get(key) != option for other in runs)
    ]
    shared = set.intersection(*(set(other.words) for other in runs))
    words = [word for word in run.words if word not in shared and word.lstrip("+~").split("=")[0] in run.config]
    return " ".join([run.choices.get("model", "?"), *apart, *words])


def _told_apart(i: int, found: Sequence[str], runs: Sequence[RunRecord]) -> str:
    """A name, with values of the config behind it where another run would have the same."""
    own = runs[i].config
    twins = [run.config for j, run in enumerate(runs) if j != i and found[j] == found[i]]
    keys = sorted({key for twin in twins for key in own.keys() | twin.keys() if own.get(key) != twin.get(key)})
    return " ".join([found[i], *(f"{key}={own.get(key, 'null')}" for key in keys[:3])])
