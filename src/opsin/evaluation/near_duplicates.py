"""Near-duplicates: images of one split that are in another too, and so make its numbers too good."""

from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter

from opsin.errors import UserError

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]

COARSE, FINE = 16, 64
"""Sides in pixels: all images are compared in grey at the one, likely pairs in colour at the other at most."""

LIKELY = 0.85
"""Correlation of grey thumbnails from which on a pair is looked at closely."""

MOST_LIKELY = 50_000
"""Pairs that are looked at closely, of any two splits; there are more where images are simple, such as digits."""

BLOCK = 4096


class Duplicate(NamedTuple):
    """Two images that look the same.

    Attributes:
        split_a: Where the first one is.
        i: Its row there.
        split_b: Where the second one is.
        j: Its row there.
        similarity: Correlation of their details, at most 1: that of the same picture, brighter or darker.
    """

    split_a: str
    i: int
    split_b: str
    j: int
    similarity: float


def near_duplicates(
    splits: Mapping[str, Pixels], *, threshold: float = 0.8, count: int | None = 100
) -> list[Duplicate]:
    """Pairs of images of different splits that look the same, the most alike first.

    Two steps: the correlation of grey thumbnails of all pairs, in blocks; and of those that are likely the correlation
    of details in colour, which is what remains of a picture when a blurred one is taken from it. Without its second
    step two calm seas under two skies would be the same. It does not see brightness and contrast, and so passes over
    pictures of one colour; mirrored copies are not found, nor those shifted by more than a few per cent. Digits may be
    alike that are no copies.

    In CIFAR-10 (45,000 + 5,000 + 10,000) it finds 172 pairs at 0.8 and 329 at 0.7. Of 25 looked at above 0.8 one was no
    copy, nor were 4 of 23 below: white frames around different pictures.

    Args:
        splits: uint8 `(N, H, W, C)` or `(N, H, W)` of each, as they are or as `thumbnails`; memory-mapped will do.
        threshold: The least correlation of details, in (0, 1).
        count: At most so many pairs; None: all.

    Raises:
        UserError: The threshold is none, or the arrays are no images.
    """
    if not 0 < threshold < 1:
        raise UserError(f"threshold={threshold} lies outside (0, 1): 0.8 finds copies, 0.95 nearly exact ones only")
    for name, pixels in splits.items():
        if pixels.ndim not in (3, 4) or pixels.dtype != np.uint8:
            raise UserError(f"{name}: {pixels.dtype} {pixels.shape} are no images: uint8 (N, H, W, C) are needed")
    filled = {name: pixels for name, pixels in splits.items() if len(pixels)}
    coarse = {name: _directions(_grey(thumbnails(pixels, COARSE))) for name, pixels in filled.items()}
    found = []
    for a, b in combinations(filled, 2):
        side = min(FINE, *filled[a].shape[1:3], *filled[b].shape[1:3])
        likely = _likely(coarse[a], coarse[b], LIKELY)
        for start in range(0, len(likely), BLOCK):
            i, j = likely[start : start + BLOCK].T
            one, other = (_directions(_details(thumbnails(pixels, side))) for pixels in (filled[a][i], filled[b][j]))
            alike = np.einsum("nd,nd->n", one, other)
            found += [
                Duplicate(a, int(i[k]), b, int(j[k]), float(alike[k])) for k in np.flatnonzero(alike >= threshold)
            ]
    return sorted(found, key=lambda pair: -pair.similarity)[:count]


def thumbnails(pixels: Pixels, side: int) -> Pixels:
    """Images `(N, H, W, C)` or `(N, H, W)` at `side` x `side`, each pixel the mean of what it stands for."""
    if pixels.shape[1:3] == (side, side):
        return pixels
    flat = pixels[..., 0] if pixels.ndim == 4 and pixels.shape[3] == 1 else pixels
    small = np.empty((len(pixels), side, side, *flat.shape[3:]), np.uint8)
    for k, image in enumerate(flat):
        small[k] = Image.fromarray(image).resize((side, side), Image.Resampling.BOX)
    return small.reshape(len(pixels), side, side, *pixels.shape[3:])


def _grey(pixels: Pixels) -> Floats:
    mean: Floats = pixels.mean(axis=3, dtype=np.float32) if pixels.ndim == 4 else pixels.astype(np.float32)
    return mean


def _details(pixels: Pixels) -> Floats:
    """What is finer than a sixteenth of a picture, `(N, H, W, C)`."""
    values, blur = pixels.astype(np.float32), pixels.shape[1] / 16
    fine: Floats = values - gaussian_filter(values, (0, blur, blur, 0)[: values.ndim])
    return fine


def _directions(pixels: Floats) -> Floats:
    """What to multiply for correlations `(N, D)`: rows of mean 0 and length 1, or all zero for one colour."""
    rows = pixels.reshape(len(pixels), -1)
    rows = rows - rows.mean(axis=1, keepdims=True)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    directions: Floats = np.divide(rows, length, out=np.zeros_like(rows), where=length > 1e-3)
    return directions


def _likely(a: Floats, b: Floats, threshold: float) -> NDArray[np.int64]:
    """Rows `(K, 2)` of pairs that correlate by the threshold at least; the `MOST_LIKELY` where there are more."""
    kept, scores = np.empty((0, 2), np.int64), np.empty(0, np.float32)
    for pairs, values in _blocks(a, b, threshold):
        kept, scores = np.concatenate([kept, pairs]), np.concatenate([scores, values])
        if len(kept) > MOST_LIKELY:
            best = np.argpartition(-scores, MOST_LIKELY)[:MOST_LIKELY]
            kept, scores = kept[best], scores[best]
    return kept


def _blocks(a: Floats, b: Floats, threshold: float) -> Iterator[tuple[NDArray[np.int64], Floats]]:
    for top in range(0, len(a), BLOCK):
        for left in range(0, len(b), BLOCK):
            alike = a[top : top + BLOCK] @ b[left : left + BLOCK].T
            pairs = np.argwhere(alike >= threshold)
            yield pairs + np.array([top, left]), alike[pairs[:, 0], pairs[:, 1]].astype(np.float32)
