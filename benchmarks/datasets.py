"""Images of the workloads: real ones if present, else synthetic ones in the published formats."""

import pickle
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from opsin.data.datasets import cifar10

Kind = Literal["mnist", "cifar10", "photos"]
Counts = tuple[int, int, int]
CIFAR_FOLDER = "cifar-10-batches-py"


def prepare(kind: Kind, data_dir: Path, work: Path, counts: Counts) -> tuple[Path, bool]:
    """Return a folder that both Opsin and torchvision's dataset of this name can read.

    Args:
        kind: Kind of images.
        data_dir: Folder of real images: `MNIST/raw`, `cifar10` or `cifar10_jpeg`, `cats_vs_dogs_original`.
        work: Folder for synthetic images.
        counts: Number of images of train, val and test. MNIST and CIFAR-10 have no val split.

    Returns:
        The folder, and whether the images are real.
    """
    if kind == "mnist":
        real = data_dir / "MNIST" / "raw"
        if (real / "train-images-idx3-ubyte").exists():
            return data_dir, True
        return _synthetic_mnist(work / "mnist", counts), False
    if kind == "cifar10":
        for name in ("cifar10_jpeg", "cifar10"):
            if (data_dir / name / "train").is_dir():
                return _pickled(data_dir / name, work / "cifar10", counts), True
        return _synthetic_cifar(work / "cifar10", counts), False
    return photos(data_dir, work / f"photos{sum(counts)}", counts)


def photos(data_dir: Path, folder: Path, counts: Counts) -> tuple[Path, bool]:
    """Make `train`, `val` and `test`, each with `cats` and `dogs`: links to real photographs, or synthetic ones."""
    real = data_dir / "cats_vs_dogs_original" / "train"
    found = {name: sorted((real / name).glob("*.jpg")) for name in ("cats", "dogs")}
    enough = min(map(len, found.values())) >= sum(counts) // 2
    taken = {name: iter(files) for name, files in found.items()}
    made = _structured(np.random.default_rng(0), 375, 500)
    for split, count in zip(("train", "val", "test"), counts, strict=True):
        for i in range(count):
            name = ("cats", "dogs")[i % 2]
            file = folder / split / name / f"{i}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            if file.exists():
                continue
            if enough:
                file.symlink_to(next(taken[name]).resolve())
            else:
                Image.fromarray(next(made)).save(file, quality=90)
    return folder, enough


def many_photos(folder: Path, count: int, size: int, distinct: int = 200) -> Path:
    """Make `count` JPEGs of `size` x `size` pixels in two classes, as links to `distinct` files to save time."""
    made = _structured(np.random.default_rng(1), size, size)
    originals = []
    (folder / "originals").mkdir(parents=True, exist_ok=True)
    for i in range(min(distinct, count)):
        originals.append(folder / "originals" / f"{i}.jpg")
        Image.fromarray(next(made)).save(originals[-1], quality=90)
    for i in range(count):
        place = folder / "train" / f"class{i % 2}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{i}.jpg").symlink_to(originals[i % len(originals)])
    return folder / "train"


def large_photos(data_dir: Path, folder: Path, count: int, shape: tuple[int, int]) -> tuple[Path, bool]:
    """Make `count` large JPEGs in one folder, as links to a quarter of them: real photographs enlarged, or synthetic.

    Noise as of a camera is added, because the time to decode a JPEG depends on its bytes.

    Args:
        data_dir: Folder of real images.
        folder: Folder for the images.
        count: Number of images.
        shape: Height and width of the images.

    Returns:
        The folder, and whether the photographs are real.
    """
    random, height, width = np.random.default_rng(5), *shape
    real = sorted((data_dir / "cats_vs_dogs_original" / "train").glob("*/*.jpg"))
    distinct = max(1, count // 4)
    noise = random.normal(0, 4, (height, width, 1)).astype(np.float32)
    made, originals = _structured(random, 375, 500), folder.with_name(f"{folder.name}_originals")
    for place in (folder, originals):
        place.mkdir(parents=True, exist_ok=True)
    for i in range(distinct):
        image = Image.open(real[i * len(real) // distinct]) if real else Image.fromarray(next(made))
        pixels = np.asarray(image.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)) + noise
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(originals / f"{i}.jpg", quality=90)
    for i in range(count):
        (folder / f"{i:02}.jpg").symlink_to((originals / f"{i % distinct}.jpg").resolve())
    return folder, bool(real)


def _structured(random: np.random.Generator, height: int, width: int) -> Iterator[NDArray[np.uint8]]:
    """Yield images `(H, W, 3)` with coarse and fine detail that compress about as well as photographs."""
    while True:
        coarse = random.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        image = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC), np.int16)
        noise = random.integers(-12, 13, (height, width, 1), dtype=np.int16)
        yield np.clip(image + noise, 0, 255).astype(np.uint8)


def _synthetic_mnist(root: Path, counts: Counts) -> Path:
    folder = root / "MNIST" / "raw"
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(2)
    for prefix, count in (("train", counts[0] + counts[1]), ("t10k", counts[2])):
        labels = (np.arange(count) % 10).astype(np.uint8)
        pixels = random.integers(0, 256, (count, 28, 28), dtype=np.uint8) // 4 + labels[:, None, None] * 16
        images = struct.pack(">4i", 0x803, count, 28, 28) + pixels.astype(np.uint8).tobytes()
        (folder / f"{prefix}-images-idx3-ubyte").write_bytes(images)
        (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 0x801, count) + labels.tobytes())
    return root


def _synthetic_cifar(root: Path, counts: Counts) -> Path:
    random = np.random.default_rng(3)
    for split, count in (("train", counts[0] + counts[1]), ("test", counts[2])):
        labels = np.arange(count) % 10
        pixels = random.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8) // 4 + labels[:, None, None, None] * 16
        _write_cifar(root, split, pixels.astype(np.uint8), labels)
    return root


def _pickled(jpegs: Path, root: Path, counts: Counts) -> Path:
    """Convert real CIFAR-10 stored as JPEGs to the format that torchvision's CIFAR10 reads."""
    source = cifar10(path=str(jpegs))
    for split, count in (("train", counts[0] + counts[1]), ("test", counts[2])):
        images = source.splits["train" if split == "train" else "test"]
        chosen = np.random.default_rng(4).permutation(len(images))[:count]
        pixels = np.stack([images.read(int(i)) for i in chosen])
        _write_cifar(root, split, pixels, images.targets[chosen])
    return root


def _write_cifar(root: Path, split: str, pixels: NDArray[np.uint8], labels: NDArray[np.int64]) -> None:
    folder = root / CIFAR_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    rows = pixels.transpose(0, 3, 1, 2).reshape(len(pixels), -1)
    names = [f"data_batch_{i}" for i in range(1, 6)] if split == "train" else ["test_batch"]
    for i, name in enumerate(names):
        batch = {"data": rows[i :: len(names)], "labels": labels[i :: len(names)].tolist()}
        (folder / name).write_bytes(pickle.dumps(batch))
    classes = {"label_names": [str(i) for i in range(10)]}
    (folder / "batches.meta").write_bytes(pickle.dumps(classes))
