"""Digests of the files of a finished run, `digests.json`: recorded when the run ends, compared by `opsin verify`."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from opsin.errors import UserError
from opsin.runs.atomic import write_atomically
from opsin.runs.file_identity import file_identity
from opsin.runs.regular_file import check_regular

DIGESTS = "digests.json"
"""Name of the file in a run directory."""

COVERED = (
    "config.yaml",
    "overrides.yaml",
    "metrics.csv",
    "model.txt",
    "checkpoints",
    "predictions",
    "per_class",
    "result.json",
)
"""Files and folders of a run whose content is recorded. `report.html` and `pictures` are not, because commands may
write them again."""


@dataclass(frozen=True)
class RunDigests:
    """The content of `digests.json`.

    Attributes:
        files: Digest of each file, by its path relative to the run directory.
        evaluated: Splits whose predictions were missing and that `opsin evaluate` has written after the end of the run.
    """

    files: dict[str, str] = field(default_factory=dict)
    evaluated: tuple[str, ...] = ()


def digest_of(content: Path | bytes) -> str:
    """Return the digest of a file or of bytes: BLAKE2b with 128 bits, in hexadecimal digits."""
    if isinstance(content, bytes):
        return hashlib.blake2b(content, digest_size=16).hexdigest()
    with content.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def record_digests(run: Path, unwritten: Mapping[str, bytes] | None = None) -> None:
    """Write `digests.json` for the files of a run; hard links of one file are read once.

    Args:
        run: The run directory.
        unwritten: Contents, by path, of files that the caller writes after `digests.json`. `result.json` is one, so no
            run has a result without digests.
    """
    known: dict[tuple[int, int] | Path, str] = {}
    files = {}
    for file in _covered_files(run):
        identity = file_identity(file)
        if identity not in known:
            known[identity] = digest_of(file)
        files[file.relative_to(run).as_posix()] = known[identity]
    files |= {name: digest_of(content) for name, content in (unwritten or {}).items()}
    _write(run, RunDigests(files))


def read_digests(run: Path) -> RunDigests | None:
    """Return the recorded digests; None if there are none.

    Raises:
        UserError: The file is damaged.
    """
    file = run / DIGESTS
    try:
        check_regular(file)
        content: Any = json.loads(file.read_text(encoding="utf-8"))
        files = {str(name): str(digest) for name, digest in content["files"].items()}
        if strange := [name for name in files if name.split("/")[0] not in COVERED or ".." in name.split("/")]:
            raise ValueError(strange[0])
        return RunDigests(files, tuple(map(str, content["evaluated"])))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{file} is damaged ({type(error).__name__}): restore it from a backup") from None


def changed_files(run: Path, digests: RunDigests) -> dict[str, str]:
    """Return the recorded files that are `missing`, `changed` or `unreadable`, by path."""
    found = {}
    for name, digest in digests.files.items():
        try:
            if not (run / name).is_file():
                found[name] = "missing"
            elif digest_of(run / name) != digest:
                found[name] = "changed"
        except OSError:  # such as a file without permission, or a name that is too long
            found[name] = "unreadable"
    return found


def is_as_recorded(run: Path, file: Path) -> bool:
    """Return whether a file of a run has the content that the run recorded at its end."""
    digests, name = read_digests(run), file.relative_to(run).as_posix()
    recorded = digests.files.get(name) if digests else None
    return recorded is not None and file.is_file() and digest_of(file) == recorded


def record_evaluation(run: Path, split: str, file: Path) -> None:
    """Record predictions that were written after the end of a run; nothing if the run has no digests."""
    if (digests := read_digests(run)) is not None:
        files = {**digests.files, file.relative_to(run).as_posix(): digest_of(file)}
        evaluated = tuple(dict.fromkeys((*digests.evaluated, split)))
        _write(run, replace(digests, files=files, evaluated=evaluated))


def _covered_files(run: Path) -> Iterator[Path]:
    for name in COVERED:
        place = run / name
        inside = sorted(place.rglob("*")) if place.is_dir() else [place]
        yield from (file for file in inside if file.is_file() and not file.name.startswith("."))


def _write(run: Path, digests: RunDigests) -> None:
    write_atomically(run / DIGESTS, json.dumps(asdict(digests), indent=2) + "\n")
