"""Warn about image files that are in two splits: a network has seen the images that it is evaluated on."""

import logging
from collections.abc import Callable, Mapping
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from opsin.data.source import FileImages, Source
from opsin.data.subset import Subset
from opsin.data.types import SPLITS, Split

_LOG = logging.getLogger(__name__)


class _Files(NamedTuple):
    """The files of a split.

    Attributes:
        digests: Digest of the content of each file ``(N,)``, as text of 16 bytes.
        path: Function from the position of a file to its path.
    """

    digests: NDArray[np.bytes_]
    path: Callable[[int], str]


def warn_copied_files(source: Source, subsets: Mapping[Split, Subset]) -> None:
    """Log a warning for each pair of splits that have files with the same content, whatever their names and classes.

    The digests of all files are known, because they identify the dataset. Images in arrays, tables and shards have no
    files of their own and are not compared. `opsin interpret --what errors` finds copies with other bytes too.

    Args:
        source: The dataset.
        subsets: Its open splits; a split that is not open has all images of the dataset.
    """
    files = {split: found for split in SPLITS if (found := _files(source, subsets, split)) is not None}
    for first, second in combinations(files, 2):
        copied = np.flatnonzero(np.isin(files[second].digests, files[first].digests))
        if not len(copied):
            continue
        copy = int(copied[0])
        original = int(np.argmax(files[first].digests == files[second].digests[copy]))
        effect = "are too high" if first == "train" else "are too optimistic"
        _LOG.warning(
            "%s: %d of the %d %s images are copies of %s images, so their metrics %s. Delete the copies, "
            "such as %s of %s",
            *(source.name, len(copied), len(files[second].digests), second, first, effect),
            *(files[second].path(copy), files[first].path(original)),
        )


def _files(source: Source, subsets: Mapping[Split, Subset], split: Split) -> _Files | None:
    """Return the files of a split; None if its images are not files, or if the dataset has no such split."""
    if split in subsets:
        parts = [(store.images, store.kept[rows]) for store, rows in subsets[split].by_store()]
    elif split in source.splits:
        parts = [(source.splits[split], np.arange(len(source.splits[split])))]
    else:
        return None
    located: list[tuple[FileImages, NDArray[np.int64]]] = []
    for images, numbers in parts:
        if not isinstance(images, FileImages):
            return None
        located.append((images, numbers))
    digests = [images.contents.digests()[numbers].view("S16").ravel() for images, numbers in located]

    def path(position: int) -> str:
        for images, numbers in located:
            if position < len(numbers):
                return images.locate(int(numbers[position]))
            position -= len(numbers)
        raise IndexError(position)

    return _Files(np.concatenate(digests), path)
