"""Types that the whole data package shares."""

from typing import Annotated, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

Indices = NDArray[np.int64]
"""Positions, rows or class indices, int64."""

Side = Annotated[int, Field(ge=1)]
"""Height or width of an image, in pixels."""

Split = Literal["train", "val", "test"]
"""The subsets of a dataset."""

SPLITS: tuple[Split, ...] = get_args(Split)
"""All subsets, in the order of a run."""

SplitOrigin = Literal["given", "carved"]
"""Whether a dataset provides a split (`given`), or it is split off the training images (`carved`)."""

Channels = Annotated[int, Field(ge=1)]
"""Channels of an image: 1 (gray), 3 (RGB), or another number for files that hold as many."""


class BadImage(Exception):  # noqa: N818 - names the image; it is always caught
    """An image cannot be decoded; the message is the reason in a few words."""
