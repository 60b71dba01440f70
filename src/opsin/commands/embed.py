"""Write the embeddings of images: `opsin embed`."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from opsin.commands.command_line import add_checkpoint_option, command, command_parser
from opsin.errors import UserError
from opsin.runs.atomic import atomic_open, check_writable, write_atomically, write_errors
from opsin.runs.directory import RunDirectory
from opsin.runs.home import real_path, user_path

if TYPE_CHECKING:
    from opsin.data.types import Split
    from opsin.inference.embeddings import Embeddings, Format
    from opsin.inference.inputs import InputImages, Which
    from opsin.inference.linear_probe import HeadName
    from opsin.inference.trained_model import TrainedModel
    from opsin.training.feature_extraction import Extractor


@command
def main(arguments: list[str] | None = None) -> int:
    """Print the number of embeddings and the files written."""
    options = _parser().parse_intermixed_args(arguments)
    lines = embed(
        options.run,
        options.data,
        image_size=options.image_size,
        split=options.split,
        out=options.out,
        formats=options.format,
        head=options.head,
        checkpoint=options.checkpoint,
    )
    print("\n".join(lines))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("embed")
    parser.add_argument("run", help="a run directory, such as outputs/latest, or a network: efficientnet_lite0")
    parser.add_argument(
        "data",
        nargs="*",
        default=[],
        help="empty for the images of the run; a folder of images, with or without class folders; or overrides "
        "as for the command train, such as datamodule=cats_vs_dogs datamodule.path=PHOTOS data_dir=PATH",
    )
    parser.add_argument(
        "--out",
        type=user_path,
        help="the folder to write to (default: RUN/embeddings; for other images, a folder in it)",
    )
    parser.add_argument("--image-size", type=int, metavar="N", help="side in pixels (default: as in training)")
    parser.add_argument("--split", choices=("train", "val", "test", "all"), default="all")
    parser.add_argument("--format", nargs="+", choices=("npz", "parquet"), default=("npz", "parquet"))
    parser.add_argument(
        "--head",
        choices=("logistic_regression", "knn"),
        help="fit this classifier on train, select its hyperparameter on val, evaluate it on test",
    )
    add_checkpoint_option(parser)
    return parser


def embed(
    name: str,
    data: Sequence[str] = (),
    *,
    image_size: int | None = None,
    split: "Which" = "all",
    out: Path | None = None,
    formats: Sequence["Format"] = ("npz", "parquet"),
    head: "HeadName | None" = None,
    checkpoint: str = "best",
) -> list[str]:
    """Write the embeddings of some images, and fit a classifier on them on request.

    Args:
        name: A run directory, or a network with ImageNet weights.
        data: A folder of images or overrides, see `open_images`; empty for the images of the run.
        image_size: Side of the images in pixels; None for the size used in training.
        split: The split to embed.
        out: The folder to write to; None for `embeddings` in the run directory, or in `outputs`.
        formats: The formats to write.
        head: Classifier to fit on train, tune on val and evaluate once on test, independent of `split`.
        checkpoint: `best`, `last`, or the path of a checkpoint of the run.

    Returns:
        Lines to print: the files written and the accuracies.

    Raises:
        UserError: The network or the images do not exist, or `out` cannot be written to.
    """
    from opsin.data.types import SPLITS
    from opsin.inference.embeddings import embeddings, joined
    from opsin.inference.inputs import open_images
    from opsin.inference.trained_model import load_trained_model

    if image_size is not None and image_size < 1:
        raise UserError(f"--image-size must be at least 1, got {image_size}")
    model = load_trained_model(name, image_size, checkpoint=checkpoint)
    images = open_images(model, data)
    extractor = model.extractor(images.trainer)
    out = out or images.out
    check_writable(out, "--out")
    RunDirectory(real_path(name)).check_links(out)
    if head and not images.classes:
        raise UserError(f"{images.name} has no class folders, but --head {head} needs labels")
    found = {which: embeddings(model, images, extractor, which) for which in images.splits(split)}
    with write_errors(out, "--out"):
        files = joined(list(found.values())).write(out, formats)
    counts = ", ".join(f"{len(part):,} {which}" for which, part in found.items())
    size = next(iter(found.values())).dimension
    lines = [f"{images.name}: {counts}; {size} features each", *map(str, files)]
    if head:
        every = {which: found.get(which) or embeddings(model, images, extractor, which) for which in SPLITS}
        lines += _fit(head, every, out, model, images, extractor)
    return lines


def _fit(
    name: "HeadName",
    found: dict["Split", "Embeddings"],
    out: Path,
    model: "TrainedModel",
    images: "InputImages",
    extractor: "Extractor",
) -> list[str]:
    """Fit a head, write `head.json` (and `head.npz`), and return lines with its accuracies."""
    from opsin.data.types import SPLITS
    from opsin.inference.linear_probe import fit_head

    train, val, test = ((found[split].vectors, found[split].targets) for split in SPLITS)
    head = fit_head(name, train, val)
    metrics = {"val/acc": head.accuracy(*val), "test/acc": head.accuracy(*test)}
    record = {
        "head": name,
        "parameters": head.parameters,
        "tried": head.tried,
        "metrics": metrics,
        "counts": {split: len(part) for split, part in found.items()},
        "network": model.name,
        "weights_digest": extractor.facts["weights"],
        "precision": extractor.precision,
        "image_size": list(model.size),
        "data": images.name,
        "classes": list(images.classes),
    }
    with write_errors(out, "--out"):
        _write_head(out, record, head.coefficients())
    chosen = ", ".join(f"{key}={value:g}" for key, value in head.parameters.items())
    return [
        str(out / "head.json"),
        f"{name} ({chosen}, by val): val accuracy {metrics['val/acc']:.2%}, test accuracy {metrics['test/acc']:.2%}",
    ]


def _write_head(folder: Path, record: dict[str, Any], coefficients: dict[str, Any]) -> None:
    """Write `head.json`, and `head.npz` if the head has coefficients."""
    write_atomically(folder / "head.json", json.dumps(record, indent=2) + "\n")
    (folder / "head.npz").unlink(missing_ok=True)
    if coefficients:
        arrays: dict[str, Any] = {**coefficients, "classes": np.array(record["classes"], np.str_)}
        with atomic_open(folder / "head.npz") as stream:
            np.savez(stream, **arrays)
