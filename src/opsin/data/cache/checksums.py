"""Checksums of the files of a store: damaged bytes are found once per state of a file, not at every start."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from opsin.data.file_contents import FileContents, digest
from opsin.runs.cpu_cores import available_cores

_BLOCK = 16 * 2**20


def digests(folder: Path, names: Sequence[str]) -> dict[str, str]:
    """Return the digest of each file in a folder, to record them."""
    return {name: _digest(folder / name).hex() for name in names}


def damaged_file(folder: Path, names: Sequence[str], recorded: Any, cache: Path) -> str | None:
    """Return the first file of a folder that is not as it was written, or None.

    A file is read only if its state (inode, size, times) differs from that of its last check.

    Args:
        folder: The folder.
        names: Names of the files.
        recorded: What `digests` returned when they were written; of any type, because it comes from a file too.
        cache: File of the states and digests of checked files, see `FileContents`.
    """
    if not isinstance(recorded, dict) or not all((folder / name).is_file() for name in names):
        return names[0]
    contents = FileContents([str(folder / name) for name in names])
    contents.use_cache(cache)
    for row in contents.unknown():
        contents.record_digest(row, _digest(folder / names[row]))
    found = contents.digests()
    return next((name for row, name in enumerate(names) if found[row].tobytes().hex() != recorded.get(name)), None)


def _digest(file: Path) -> bytes:
    """Return a digest of a file, computed by several threads."""
    size = file.stat().st_size

    def block(start: int) -> bytes:
        with file.open("rb") as stream:
            stream.seek(start)
            return digest(stream.read(_BLOCK))

    with ThreadPoolExecutor(available_cores(), thread_name_prefix="checksum") as pool:
        blocks = b"".join(pool.map(block, range(0, size, _BLOCK)))
    return digest(blocks)
