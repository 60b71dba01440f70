"""The entries of requirements.lock."""

import re
from pathlib import Path
from typing import NamedTuple

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
LOCK = ROOT / "requirements.lock"


class Entry(NamedTuple):
    """One version of a package, for the environments that its marker selects."""

    requirement: Requirement
    version: str
    hashes: tuple[str, ...]


def locked() -> dict[str, list[Entry]]:
    """Return the entries by canonical name; a few packages have one entry for each of several environments."""
    found: dict[str, list[Entry]] = {}
    text = "\n".join(line for line in LOCK.read_text().splitlines() if not line.startswith("#"))
    for block in re.split(r"\n(?=\S)", text.replace("\\\n", "\n")):
        first, *rest = block.strip().splitlines()
        requirement = Requirement(first)
        (version,) = requirement.specifier
        assert version.operator == "==", first
        assert all(re.fullmatch(r" +--hash=sha256:[0-9a-f]{64} *", line) for line in rest), first
        hashes = tuple(line.strip().partition("=")[2] for line in rest)
        found.setdefault(canonicalize_name(requirement.name), []).append(Entry(requirement, version.version, hashes))
    return found
