"""Directory of a sweep. The same command always uses the same directory, so repeating the command resumes the sweep."""

import hashlib
import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from opsin.config import ConfigSource
from opsin.errors import UserError
from opsin.runs.atomic import check_writable, write_atomically
from opsin.runs.directory import SWEEP_FILE
from opsin.runs.disk_lock import DiskLock
from opsin.sweeps.settings import Sweep

CHANGEABLE = ("name", "trials", "retry_failed")
"""Settings that may change when a sweep is resumed."""

STUDY = "study"
"""Key of `sweep.yaml` with the name of the Optuna study. It is not part of the identity."""

VALUES = "values"
"""Key of `sweep.yaml` with the values of each key that has a list, in their order. It is not part of the identity."""


def sweep_directory(
    sweeps: Path,
    option: str,
    settings: Sweep,
    overrides: Sequence[str],
    objectives: Sequence[str],
    values: Mapping[str, Sequence[str]],
    source: ConfigSource | None = None,
) -> Path:
    """Return the directory of a sweep, created if necessary, with `sweep.yaml`, which identifies the sweep.

    Args:
        sweeps: Folder of all sweeps.
        option: Option of the config group `sweep`, which begins the name.
        settings: Settings of the sweep.
        overrides: Overrides of the runs, fixed and varying.
        objectives: The objectives, also those of the config files. The default name does not depend on them.
        values: Values of each key that has a list, recorded when the sweep begins. A list such as `glob(my_*)` may have
            other values later.
        source: Search path and primary config of the runs; None for those of Opsin.

    Raises:
        UserError: The directory holds another sweep or one with other values, or cannot be written.
    """
    identity = _identity(settings, overrides, source or ConfigSource())
    digest = hashlib.blake2b(json.dumps(identity, sort_keys=True).encode(), digest_size=4).hexdigest()
    folder = (sweeps / (settings.name or f"{option}_{digest}")).absolute()
    check_writable(folder, "output_dir")
    folder.mkdir(parents=True, exist_ok=True)
    identity["objectives"] = [*objectives]
    before = _recorded(folder, identity, values, chosen=settings.objectives is not None)
    if before != identity:
        way_out = "Set sweep.name to begin a new sweep, or restore monitor.metric"
        if settings.name:
            way_out = "Choose another sweep.name, or leave it out to derive the name from the overrides"
        raise UserError(f"{folder} holds another sweep: {_difference(before, identity)}. {way_out}.")
    begun = recorded_values(folder)
    if begun is not None and (changes := _changes(begun, values)):
        way_out = f"Set {'another' if settings.name else 'a'} sweep.name to begin a new sweep, or restore the values"
        raise UserError(f"{folder} holds a sweep over other values ({changes}). {way_out}.")
    return folder


def study_name(folder: Path) -> str:
    """Return the name of the Optuna study of a sweep.

    The name ends with a random id, so that sweeps of one name, such as a deleted one, can share a database. Without a
    recorded name, which earlier versions did not record, it is that of the folder.
    """
    return str(_read(folder / SWEEP_FILE).get(STUDY, folder.name))


def recorded_values(folder: Path) -> dict[str, list[str]] | None:
    """Return the values of each key that has a list, in the order of the process that began the sweep.

    None if an earlier version began it, which recorded no values.
    """
    values: dict[str, list[str]] | None = _read(folder / SWEEP_FILE).get(VALUES)
    return values


def _changes(before: Mapping[str, Sequence[str]], now: Mapping[str, Sequence[str]]) -> str:
    """Return the values that were added to lists and removed from them, as text; empty if there are none."""
    removed, added = (
        [f"{key}={value}" for key in one for value in one[key] if value not in other.get(key, ())]
        for one, other in ((before, now), (now, before))
    )
    return "; ".join(f"{kind} {' '.join(found)}" for kind, found in (("new:", added), ("missing:", removed)) if found)


def _recorded(
    folder: Path, identity: Mapping[str, Any], values: Mapping[str, Sequence[str]], chosen: bool
) -> dict[str, Any]:
    """Return the identity that `sweep.yaml` records. The first process writes it, with the study and the values.

    Earlier versions recorded no objectives of config files: the first process that resumes such a sweep adds them.

    Args:
        folder: Directory of the sweep.
        identity: Identity of the sweep of this process.
        values: Values of each key that has a list.
        chosen: Whether `sweep.objectives` chooses the objectives, which every version recorded.
    """
    file = folder / SWEEP_FILE
    with DiskLock(folder / ".lock"):
        if not file.exists():
            study = f"{folder.name}_{secrets.token_hex(4)}"
            lists = {key: list(texts) for key, texts in values.items()}
            _write(file, {**identity, STUDY: study, VALUES: lists})
        recorded = _read(file)
        if recorded.get("objectives") is None and not chosen:
            recorded["objectives"] = identity["objectives"]
            if _identity_in(recorded) == identity:
                _write(file, recorded)
    return _identity_in(recorded)


def _identity_in(recorded: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in recorded.items() if key not in (STUDY, VALUES)}


def _write(file: Path, recorded: Mapping[str, Any]) -> None:
    write_atomically(file, yaml.safe_dump(dict(recorded), sort_keys=False))


def _identity(settings: Sweep, overrides: Sequence[str], source: ConfigSource) -> dict[str, Any]:
    """Return the values that identify a sweep: its overrides, and the settings that must not change."""
    recorded = {key: value for key, value in asdict(settings).items() if key not in CHANGEABLE}
    return {"overrides": sorted([*overrides, *source.flags]), **recorded}


def _read(file: Path) -> dict[str, Any]:
    """Return the identity that `sweep.yaml` records.

    Raises:
        UserError: The file is damaged, or an earlier version of Opsin wrote it.
    """
    try:
        recorded = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, OSError):
        recorded = None
    if (
        not isinstance(recorded, dict)
        or not isinstance(recorded.get("overrides"), list)
        or not isinstance(recorded.get(VALUES, {}), dict)
    ):
        raise UserError(
            f"{file} is damaged, or an earlier version of Opsin wrote it. Move the directory away, or choose another "
            "sweep.name."
        )
    return recorded


def _difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Return the first difference between two sweeps, as text."""
    key = next(key for key in {**before, **now} if before.get(key) != now.get(key))
    if key == "overrides":
        removed, added = sorted({*before[key]} - {*now[key]}), sorted({*now[key]} - {*before[key]})
        return f"its overrides were {' '.join(removed) or 'fewer'}, and now they are {' '.join(added) or 'fewer'}"
    if key == "objectives":
        was, now_is = (", ".join(identity.get(key) or ["monitor.metric"]) for identity in (before, now))
        return f"it optimized {was}, and now sweep.objectives or monitor.metric is {now_is}"
    return f"its sweep.{key} was {before.get(key)}, and now it is {now.get(key)}"
