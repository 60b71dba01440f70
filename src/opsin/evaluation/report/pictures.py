"""Read the images of a report, which `opsin.commands.report_images` writes to `RUN/pictures`, to embed them."""

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from opsin.runs.directory import RunDirectory
from opsin.runs.regular_file import check_regular
from opsin.visualization import images

MAX_PNG = 12_000
"""Size in bytes above which an image, probably a photograph, is embedded as WebP instead of PNG."""

FORMATS = ("PNG", "WEBP")
"""Formats of the images in a run. Pillow has more: for EPS it starts Ghostscript, which runs the file as a program."""

FOLDER, INDEX_FILE = "pictures", "pictures.json"
"""Folder of the images in a run, and the file in it that lists them."""


@dataclass(frozen=True)
class EmbeddedImage:
    """An image embedded in a page.

    Attributes:
        source: A `data:` URI.
        width: Width in pixels.
        height: Height in pixels.
    """

    source: str
    width: int
    height: int


@dataclass(frozen=True)
class MisclassifiedImage:
    """A misclassified image.

    Attributes:
        image: The image as the network sees it.
        cam: The image with the class activation map of the predicted class as an overlay, or None.
        path: Origin of the image.
        true: Name of its class.
        predictions: The most probable classes with their probabilities, the predicted class first.
    """

    image: EmbeddedImage
    cam: EmbeddedImage | None
    path: str
    true: str
    predictions: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class MapCheck:
    """The comparison of class activation maps with random maps.

    Attributes:
        better: Whether the maps are better than random maps.
        statement: The result in one sentence, with its values.
    """

    better: bool
    statement: str


@dataclass(frozen=True)
class Pictures:
    """The images that `RUN/pictures/pictures.json` lists.

    Attributes:
        split: Split of the misclassified images.
        misclassified: Misclassified images, highest confidence first.
        stage: Stage of the class activation maps; None if there are no maps.
        note: The reason if there are no maps, else None.
        check: Comparison of the maps with random ones; None if there are no maps.
        augmentation: Training images, original and augmented; None if there are none.
        augmentation_text: Description of the augmentation.
        kernels: Kernels of the first layer; None if they cannot be shown.
        kernels_layer: Name of the first layer; None if its kernels cannot be shown.
    """

    split: str
    misclassified: tuple[MisclassifiedImage, ...]
    stage: str | None
    note: str | None
    check: MapCheck | None
    augmentation: EmbeddedImage | None
    augmentation_text: str
    kernels: EmbeddedImage | None
    kernels_layer: str | None


def pictures_folder(run: RunDirectory) -> Path:
    """Return the folder to which the images of a run are written."""
    return run.out / FOLDER


def index_file(run: RunDirectory) -> Path:
    """Return the path of the file that lists the images, next to them."""
    return run.find(f"{FOLDER}/{INDEX_FILE}")


def read_pictures(run: RunDirectory) -> Pictures | None:
    """Read the images of a run, without missing or damaged ones; None if no images were made or the list is damaged."""
    file = index_file(run)
    try:
        check_regular(file)
        index: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return _pictures(file.parent, index)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return None


def _pictures(folder: Path, index: Mapping[str, Any]) -> Pictures:
    misclassified = []
    for entry in index["misclassified"]:
        image = _embedded(folder, entry["image"])
        predictions = tuple((str(name), float(probability)) for name, probability in entry["predictions"])
        if image and predictions:
            cam = _embedded(folder, entry["cam"])
            misclassified.append(MisclassifiedImage(image, cam, str(entry["path"]), str(entry["true"]), predictions))
    return Pictures(
        index["split"],
        tuple(misclassified),
        index["stage"],
        index["note"],
        MapCheck(bool(check["better"]), str(check["statement"])) if (check := index.get("check")) else None,
        _embedded(folder, index["augmentation"]),
        index["augmentation_text"],
        _embedded(folder, index["kernels"]),
        index["kernels_layer"],
    )


def _embedded(folder: Path, name: str | None) -> EmbeddedImage | None:
    if name is None:
        return None
    file = folder / Path(name).name  # the file name only, so that the index cannot point outside the folder
    try:
        check_regular(file)
        content = file.read_bytes()
        with Image.open(io.BytesIO(content), formats=FORMATS) as opened:
            kind, pixels = opened.format, np.asarray(opened.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):  # Pillow's errors for damaged files
        return None
    small = len(content) <= MAX_PNG
    if small and kind == "PNG":  # as `report_images` wrote it
        uri = images.file_uri(content, kind)
    else:
        uri = images.data_uri(pixels, "PNG" if small else "WEBP")
    return EmbeddedImage(uri, pixels.shape[1], pixels.shape[0])
