"""Find the image files below a folder."""

import logging
import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePath

from opsin.data.decode import GRAY_OR_RGB
from opsin.data.split_names import composed
from opsin.data.types import Channels
from opsin.runs.file_identity import file_identity

_LOG = logging.getLogger(__name__)

# Files that systems and programs create next to images. Names with a leading dot are ignored too.
_CLUTTER = frozenset({"__macosx", "@eadir", "lost+found", "$recycle.bin", "system volume information"})
# Files that are clearly not images. All others are decoded, and reported if that fails.
_NOT_IMAGE = re.compile(
    r".*\.(txt|md|rtf|pdf|docx?|xlsx?|csv|tsv|json|jsonl|xml|ya?ml|toml|ini|cfg|html?|url|log|db|bak"
    r"|py|ipynb|js|sh|exe|npy|npz|mat|pkl|pickle|parquet|arrow|h5|hdf5|tfrecord|ckpt|pth?|onnx|safetensors"
    r"|zip|tar|tgz|gz|bz2|xz|7z|rar|iso|mp4|m4v|mov|avi|mkv|webm|mpe?g|wmv|mp3|wav|flac|m4a|ogg)",
    re.IGNORECASE | re.DOTALL,
)
_ARRAY = re.compile(r".*\.npy", re.IGNORECASE | re.DOTALL)  # an image if its channels are neither gray nor RGB


def image_files(root: Path, inside: str = ".", channels: Channels = 3) -> list[str]:
    """Return the files that may be images below a folder, sorted by name in its composed form.

    Other files are left out, and counted in the log by their suffix.

    Args:
        root: The folder that the paths are relative to; they have forward slashes.
        inside: The folder in it that is searched.
        channels: Channels that the images are read with; `.npy` files hold other numbers than 1 and 3.
    """
    skipped: Counter[str] = Counter()
    found = (file.removeprefix("./") for file in _walk(root, inside, channels, _above(root / inside), skipped))
    files = sorted(found, key=_by_name)
    if skipped:
        kinds = ", ".join(f"{count} {suffix}" for suffix, count in skipped.most_common())
        _LOG.info("files left out of %s, because they are not images: %s", root / inside, kinds)
    return files


def has_images(folder: Path, channels: Channels) -> bool:
    """Return whether there may be an image anywhere below a folder."""
    return next(_walk(folder, ".", channels, set(), Counter()), None) is not None


def images_directly_in(folder: Path, channels: Channels) -> bool:
    """Return whether there may be an image in a folder itself."""
    with os.scandir(folder) as entries:
        return any(
            not is_clutter(entry.name) and _may_be_image(entry.name, channels) and _may_be_file(entry)
            for entry in entries
            if not _is_folder(entry)
        )


def folders(folder: Path) -> list[Path]:
    """Return the folders in a folder, sorted by name in its composed form, without those of systems and programs."""
    found = [path for path in folder.iterdir() if path.is_dir() and not is_clutter(path.name)]
    return sorted(found, key=lambda path: _by_name(path.name))


def is_clutter(name: str) -> bool:
    """Return whether a system or a program creates files or folders of this name."""
    return name.startswith(".") or name.lower() in _CLUTTER


def _above(folder: Path) -> set[tuple[int, int] | Path]:
    """Return the folders that contain a folder; a link to one of them would lead to the images of other classes."""
    return {file_identity(parent) for parent in folder.resolve().parents}


def _walk(
    root: Path, folder: str, channels: Channels, seen: set[tuple[int, int] | Path], skipped: Counter[str]
) -> Iterator[str]:
    """Yield the files that may be images below a folder, relative to `root`.

    Links are followed, but no folder is entered twice: of several paths to it, the first by name is used. A link
    without a target is returned and later reported as an image that cannot be read; pipes and sockets are ignored.
    """
    identity = file_identity(root / folder)
    if identity in seen:
        return
    seen.add(identity)
    inner = []
    with os.scandir(root / folder) as entries:
        for entry in entries:
            inside = f"{folder}/{entry.name}"
            if is_clutter(entry.name):
                continue
            if _is_folder(entry):
                inner.append(inside)
            elif not _may_be_image(entry.name, channels):
                skipped[PurePath(entry.name).suffix.lower()] += 1
            elif _may_be_file(entry):
                yield inside
    for inside in sorted(inner, key=_by_name):
        yield from _walk(root, inside, channels, seen, skipped)


def _by_name(path: str) -> tuple[str, str]:
    return composed(path), path


def _may_be_image(name: str, channels: Channels) -> bool:
    return not _NOT_IMAGE.fullmatch(name) or (channels not in GRAY_OR_RGB and bool(_ARRAY.fullmatch(name)))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def _may_be_file(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry is a file or a link without a target, which is reported when it is read."""
    try:
        return entry.is_file() or not os.path.exists(entry.path)  # noqa: PTH110 - a Path costs more than the check
    except OSError:
        return True
