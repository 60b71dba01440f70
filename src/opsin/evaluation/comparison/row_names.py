"""Names of leaderboard rows: the overrides and options that distinguish them."""

import string
from collections.abc import Sequence

from opsin.config.overrides import key_of
from opsin.evaluation.comparison.run_records import RunRecord

UNNAMED_GROUPS = ("callbacks", "logger", "feature_cache", "debug")
"""Config groups whose option is not part of a recipe's name."""

LONGEST = 60
"""Number of characters from which a word of a shortened name is cut in its middle."""


def row_names(runs: Sequence[RunRecord]) -> list[str]:
    """Return a name for each of several runs of different configs, written as on the command line."""
    names = [_name(run, runs) for run in runs]
    return [_unique(i, names, runs) for i in range(len(runs))]


def shortened_names(names: Sequence[str]) -> list[str]:
    """Return names without the words that all begin with, without sections of keys, and with long values cut.

    `cnn_gap optimizer.lr=0.1` and `cnn_gap optimizer.lr=0.2` become `lr=0.1` and `lr=0.2`.

    Args:
        names: Names that `row_names` returned.
    """
    words = [name.split() for name in names]
    columns = [len(set(column)) == 1 for column in zip(*words, strict=False)]  # as long as the shortest name
    common = [*columns, False].index(False) if len(words) > 1 else 0
    short = [" ".join(_shortened(word) for word in row[min(common, len(row) - 1) :]) for row in words]
    return short if len(set(short)) == len(short) else list(names)


def _shortened(word: str) -> str:
    key, sign, value = word.partition("=")
    word = f"{key.rpartition('.')[2]}{sign}{value}" if sign else word
    return word if len(word) <= LONGEST else f"{word[: LONGEST // 2]}…{word[-LONGEST // 2 :]}"


def letter(index: int) -> str:
    """Return A to Z, then AA, AB, ..."""
    letters = string.ascii_uppercase
    return letters[index] if index < 26 else letter(index // 26 - 1) + letters[index % 26]


def _name(run: RunRecord, runs: Sequence[RunRecord]) -> str:
    """Return the model, then the options and overrides that not all runs share."""
    options = [
        f"{key}={option}"
        for key, option in run.choices.items()
        if key not in ("model", *UNNAMED_GROUPS) and any(other.choices.get(key) != option for other in runs)
    ]
    shared = set.intersection(*(set(other.overrides) for other in runs))
    overrides = [override for override in run.overrides if override not in shared and key_of(override) in run.config]
    return " ".join([run.choices.get("model", "?"), *options, *overrides])


def _unique(i: int, names: Sequence[str], runs: Sequence[RunRecord]) -> str:
    """Return a name, followed by config values if another run has the same name."""
    own = runs[i].config
    same_name = [run.config for j, run in enumerate(runs) if j != i and names[j] == names[i]]
    keys = sorted({key for other in same_name for key in own.keys() | other.keys() if own.get(key) != other.get(key)})
    return " ".join([names[i], *(f"{key}={own.get(key, 'null')}" for key in keys[:3])])
