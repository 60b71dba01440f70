"""The directory of a sweep: the same for the same command, so that the command given again goes on."""

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
"""Settings that may change from one call to the next, the sweep staying the same."""


def sweep_directory(
    sweeps: Path, option: str, settings: Sweep, words: Sequence[str], source: ConfigSource | None = None
) -> Path:
    """The directory of a sweep, made if need be, with `sweep.yaml` in it, which says what it is.

    Args:
        sweeps: folder of all sweeps.
        option: of the config group `sweep`, which begins the name.
        settings: of the sweep.
        words: that the runs have or vary.
        source: Search path and primary config of the runs; None: Opsin's own.

    Raises:
        UserError: the directory holds another sweep, or cannot be written.
    """
    identity = _identity(settings, words, source or ConfigSource())
    digest = hashlib.blake2b(json.dumps(identity, sort_keys=True).encode(), digest_size=4).hexdigest()
    folder = (sweeps / (settings.name or f"{option}_{digest}")).absolute()
    check_writable(folder, "output_dir")
    file = folder / "sweep.yaml"
    if file.exists():
        if (before := yaml.safe_load(file.read_text(encoding="utf-8"))) != identity:
            raise UserError(
                f"{folder} holds another sweep: {_difference(before, identity)}. Take another sweep.name, or leave it "
                "out: then the words make the name."
            )
    else:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(file, yaml.safe_dump(identity, sort_keys=False))
    return folder


def _identity(settings: Sweep, words: Sequence[str], source: ConfigSource) -> dict[str, Any]:
    told = {key: value for key, value in asdict(settings).items() if key not in EXTENDED}
    return {"words": sorted([*words, *source.flags]), **told}


def _difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The first thing that is not the same."""
    key = next(key for key in {**before, **now} if before.get(key) != now.get(key))
    if key == "words":
        gone, new = sorted({*before[key]} - {*now[key]}), sorted({*now[key]} - {*before[key]})
        return f"it was begun with {' '.join(gone) or 'less'}, and now it is {' '.join(new) or 'less'}"
    return f"its sweep.{key} is {before.get(key)}, and now it is {now.get(key)}"
