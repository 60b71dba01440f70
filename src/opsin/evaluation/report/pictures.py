"""Pictures of a run, embedded in its report. `opsin.commands.report_pictures` writes them to `RUN/pictures`."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from opsin.runs.directory import RunDirectory
from opsin.visualization import images

SMALL = 12_000
"""Bytes up to which a PNG is carried as it is; larger ones, which are photographs, become WebP."""


@dataclass(frozen=True)
class EmbeddedImage:
    """A picture in a page.

    Attributes:
        source: A `data:` address.
        width: In pixels.
        height: Likewise.
    """

    source: str
    width: int
    height: int


@dataclass(frozen=True)
class Mistake:
    """An image that is told wrongly.

    Attributes:
        image: As the network sees it.
        cam: With the class activation map of the predicted class over it; None: there is none.
        path: Where it comes from.
        true: Its class.
        answers: The most probable classes with their probabilities, the predicted one first.
    """

    image: EmbeddedImage
    cam: EmbeddedImage | None
    path: str
    true: str
    answers: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Pictures:
    """What `RUN/pictures/pictures.json` names.

    Attributes:
        split: Where the mistakes come from.
        mistakes: Those of most confidence, worst first.
        stage: Whose maps the class activation maps are; None: there are none.
        note: Why there are no class activation maps.
        augmentation: Training images, plain and augmented; None: none were drawn.
        augmented: What the augmentation does.
        kernels: Of the first layer; None: it has none that can be shown.
        kernels_of: Its name.
    """

    split: str
    mistakes: tuple[Mistake, ...]
    stage: str | None
    note: str | None
    augmentation: EmbeddedImage | None
    augmented: str
    kernels: EmbeddedImage | None
    kernels_of: str | None


def pictures_folder(run: RunDirectory) -> Path:
    """Where the pictures of a run lie."""
    return run.path / "pictures"


def index_file(run: RunDirectory) -> Path:
    """What says which picture is what."""
    return pictures_folder(run) / "pictures.json"


def read_pictures(run: RunDirectory) -> Pictures | None:
    """The pictures of a run; None where none were made. Those whose file is gone or damaged are left out."""
    try:
        index: dict[str, Any] = json.loads(index_file(run).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    folder = pictures_folder(run)
    mistakes = []
    for entry in index["mistakes"]:
        image = _shown(folder, entry["image"])
        if image:
            answers = tuple((str(name), float(probability)) for name, probability in entry["answers"])
            mistakes.append(Mistake(image, _shown(folder, entry["cam"]), entry["path"], entry["true"], answers))
    return Pictures(
        index["split"],
        tuple(mistakes),
        index["stage"],
        index["note"],
        _shown(folder, index["augmentation"]),
        index["augmented"],
        _shown(folder, index["kernels"]),
        index["kernels_of"],
    )


def _shown(folder: Path, name: str | None) -> EmbeddedImage | None:
    if name is None:
        return None
    file = folder / Path(name).name  # an index leads nowhere else
    try:
        with Image.open(file) as opened:
            pixels = np.asarray(opened.convert("RGB"))
    except (OSError, UnidentifiedImageError):
        return None
    kind: Any = "PNG" if file.stat().st_size <= SMALL else "WEBP"
    return EmbeddedImage(images.data_uri(pixels, kind), pixels.shape[1], pixels.shape[0])
