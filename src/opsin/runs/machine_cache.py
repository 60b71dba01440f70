"""Measurements of this machine, made once and kept in the user's cache folder."""

import contextlib
import hashlib
import json
import logging
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from opsin.runs.atomic import write_atomically
from opsin.runs.home import user_path

log = logging.getLogger(__name__)

PATIENCE_S = 30.0
"""Seconds to wait for another process that makes a measurement; afterwards this process makes its own."""


def machine_folder() -> Path:
    """Return the folder of the measurements: `opsin/machine` in XDG_CACHE_HOME, or in `~/.cache` if that is not set."""
    return user_path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "opsin" / "machine"


def measured_once(kind: str, facts: Mapping[str, Any], measure: Callable[[], float]) -> float:
    """Return a measured value, from the cache if it was measured before with the same facts.

    Processes that need the same value at the same time measure it once. If the folder cannot be written to, every
    process measures.

    Args:
        kind: What is measured; part of the file name.
        facts: Everything the value depends on, as plain values: the machine and the measured object.
        measure: Function that returns a positive finite value.
    """
    text = json.dumps(facts, sort_keys=True)
    file = machine_folder() / f"{kind}-{hashlib.blake2b(text.encode(), digest_size=12).hexdigest()}.json"
    if (known := _read(file, facts)) is not None:
        return known
    with _one_at_a_time(file):
        if (known := _read(file, facts)) is not None:
            return known
        value = measure()
        if math.isfinite(value) and value > 0:
            try:
                write_atomically(file, json.dumps({"value": value, "facts": facts}, indent=2) + "\n")
            except OSError as error:
                log.info("%s is measured again in the next run: %s cannot be written (%s)", kind, file, error)
        return value


def _read(file: Path, facts: Mapping[str, Any]) -> float | None:
    """Return the value in a file; None if it is absent, damaged, or about something else."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        value = float(content["value"])
        same = content["facts"] == json.loads(json.dumps(facts))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return value if same and math.isfinite(value) and value > 0 else None


@contextlib.contextmanager
def _one_at_a_time(file: Path) -> Any:
    """Wait for other processes that measure; without a writable folder, or after a while, do not wait."""
    lock = FileLock(file.parent / ".lock")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=PATIENCE_S)
    except (OSError, Timeout):
        pass
    try:
        yield
    finally:
        lock.release()
