"""Directory of a sweep: the same for the same command, so that the command given again resumes the sweep."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from opsin.config import ConfigSource
from opsin.errors import UserError
from opsin.runs.atomic import check_writable, write_atomically
from opsin.sweeps.settings import Sweep

EXTENDED = ("name", "trials", "retry_failed")
"""Settings that may change when a sweep is resumed."""


def sweep_directory(
    sweeps: Path, option: str, settings: Sweep, words: Sequence[str], source: ConfigSource | None = None
) -> Path:
    """Return the directory of a sweep, created if necessary, with `sweep.yaml`, which identifies the sweep.

    Args:
        sweeps: Folder of all sweeps.
        option: Option of the config group `sweep`, which begins the name.
        settings: Settings of the sweep.
        words: Overrides of the runs, fixed and varying.
        source: Search path and primary config of the runs; None: Opsin's own.

    Raises:
        UserError: The directory holds another sweep, or cannot be written.
    """
    identity = _identity(settings, words, source or ConfigSource())
    digest = hashlib.blake2b(json.dumps(identity, sort_keys=True).encode(), digest_size=4).hexdigest()
    folder = (sweeps / (settings.name or f"{option}_{digest}")).absolute()
    check_writable(folder, "output_dir")
    file = folder / "sweep.yaml"
    if file.exists():
        if (before := yaml.safe_load(file.read_text(encoding="utf-8"))) != identity:
            raise UserError(
                f"{folder} holds another sweep: {_difference(before, identity)}. Choose another sweep.name, or leave "
                "it out to derive the name from the overrides."
            )
    else:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(file, yaml.safe_dump(identity, sort_keys=False))
    return folder


def _identity(settings: Sweep, words: Sequence[str], source: ConfigSource) -> dict[str, Any]:
    told = {key: value for key, value in asdict(settings).items() if key not in EXTENDED}
    return {"words": sorted([*words, *source.flags]), **told}


def _difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Return the first difference between two sweeps, as text."""
    key = next(key for key in {**before, **now} if before.get(key) != now.get(key))
    if key == "words":
        gone, new = sorted({*before[key]} - {*now[key]}), sorted({*now[key]} - {*before[key]})
        return f"its overrides were {' '.join(gone) or 'fewer'}, and now they are {' '.join(new) or 'fewer'}"
    return f"its sweep.{key} was {before.get(key)}, and now it is {now.get(key)}"
