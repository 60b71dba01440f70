"""Damage files of a run like defective disks and interrupted copies."""

import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path


def flip_bit(file: Path, entry: str = "data.pkl", byte: int = 20) -> None:
    """Flip a bit in an entry of a checkpoint; its size and time stay.

    Args:
        file: The checkpoint.
        entry: End of the name of the entry: `data.pkl` for the structure, `/data/0` for the first tensor.
        byte: Position in the entry.
    """
    content = bytearray(file.read_bytes())
    with zipfile.ZipFile(file) as archive:
        start = next(info for info in archive.infolist() if info.filename.endswith(entry)).header_offset
    lengths = (int.from_bytes(content[start + i : start + i + 2], "little") for i in (26, 28))
    content[start + 30 + sum(lengths) + byte] ^= 0x10
    replace_content(file, bytes(content))


def replace_content(file: Path, content: bytes) -> None:
    """Write a new file at a path; other hard links to the old file keep their content."""
    file.unlink()
    file.write_bytes(content)


def _directory(file: Path) -> None:
    file.unlink()
    file.mkdir()


DAMAGE: dict[str, Callable[[Path], None]] = {
    "bit of the structure": flip_bit,
    "bit of a tensor": lambda file: flip_bit(file, "/data/0", 3),
    "last byte gone": lambda file: replace_content(file, file.read_bytes()[:-1]),
    "first kilobyte": lambda file: replace_content(file, file.read_bytes()[:1024]),
    "text": lambda file: replace_content(file, b"<html>404 Not Found</html>"),
    "directory": _directory,
    "gone": Path.unlink,
}
"""Kinds of damage to a checkpoint."""


def copy_of(run: Path, target: Path) -> Path:
    """Copy a run directory; files that were one by hard links become separate."""
    return Path(shutil.copytree(run, target))
