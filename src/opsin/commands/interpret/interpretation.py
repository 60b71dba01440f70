"""Make images that explain a trained network: kernels, activations, feature visualizations, attributions, errors."""

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from opsin.commands.interpret.attributions import attribution_maps
from opsin.commands.interpret.error_analysis import error_analysis
from opsin.commands.interpret.features import activation_pictures, filter_pictures, kernel_grid
from opsin.commands.interpret.model_and_images import ModelAndImages, Output, open_model_and_images
from opsin.errors import UserError, did_you_mean
from opsin.interpretability.attribution import METHODS
from opsin.runs.atomic import check_writable, write_atomically, write_errors
from opsin.runs.directory import OUTPUT_DIR, RunDirectory
from opsin.runs.home import real_path
from opsin.visualization.images import encode

KINDS: tuple[str, ...] = ("kernels", "activations", "filters", *METHODS, "errors")
"""Values of `--what`."""


def interpret(
    name: str,
    words: Sequence[str] = (),
    *,
    what: Sequence[str],
    images: Sequence[str] = (),
    stage: str | None = None,
    out: Path | None = None,
    tensorboard: bool = False,
    count: int = 8,
    checkpoint: str = "best",
    **options: Any,
) -> Iterator[str]:
    """Make images that explain a trained network, and describe them.

    Args:
        name: A run directory, or a network with ImageNet weights, which predicts ImageNet's classes.
        words: Images to use instead of the run's own, see `opsin.inference.inputs.open_images`.
        what: Kinds of images, from `KINDS`.
        images: Files and folders of images; if empty, validation images of all classes in turn.
        stage: A stage of the network, or a layer in it; None takes all stages (activations, filters) or the last
            spatial one (gradcam).
        out: The folder to write to; None takes `interpretation` in the run directory, or in `outputs`.
        tensorboard: Whether to write the images to the run's TensorBoard too.
        count: Number of images, errors or filters to show.
        checkpoint: `best`, `last`, or the path of a checkpoint of the run.
        options: Options of `filter_pictures` and `error_analysis`.

    Yields:
        Lines to print, as soon as they are known: measured values and the written files.

    Raises:
        UserError: There is no such network, image or stage, the kind does not support it, or the folder is not
            writable.
    """
    if unknown := [kind for kind in what if kind not in KINDS]:
        raise UserError(f"--what must be one of {', '.join(KINDS)}, got {unknown[0]}{did_you_mean(unknown[0], KINDS)}")
    if count < 1:
        raise UserError(f"--count must be at least 1, got {count}")
    if "errors" in what and checkpoint != "best":
        raise UserError(
            f"--checkpoint {checkpoint}: --what errors reads the saved predictions, which are of the best epoch"
        )
    source = open_model_and_images(name, words, images, checkpoint)
    if (given := len(source.files)) > count:
        yield f"--images: the first {count} of {given:,} images are used; --count {given} uses all of them"
        source = replace(source, files=source.files[:count])
    folder = out or _folder(name)
    check_writable(folder, "--out")
    run = RunDirectory(real_path(name))
    run.check_links(run.path if tensorboard else folder)
    writer = _writer(run, folder) if tensorboard else None
    for kind in what:
        for output in _outputs(kind, source, stage, count, options):
            yield from output.lines
            if output.picture is not None:
                yield from _written(output, folder)
                if writer:
                    writer.add_image(f"interpret/{output.name}", output.picture, 0, dataformats="HWC")
    if writer:
        writer.close()
        yield f"also in TensorBoard, in the tab IMAGES, as interpret/...: {writer.log_dir}"


def _outputs(
    kind: str, source: ModelAndImages, stage: str | None, count: int, options: dict[str, Any]
) -> Iterator[Output]:
    if kind in METHODS:
        return attribution_maps(source, kind, stage, count)
    if stage is not None and kind in ("kernels", "errors"):
        raise UserError(f"--stage {stage} cannot be used with --what {kind}")
    makers: dict[str, Callable[[], Iterator[Output]]] = {
        "kernels": lambda: kernel_grid(source),
        "activations": lambda: activation_pictures(source, stage, count),
        "filters": lambda: filter_pictures(source, stage, count, **options.get("ascent", {})),
        "errors": lambda: error_analysis(source, count, **options.get("errors", {})),
    }
    return makers[kind]()


def _written(output: Output, folder: Path) -> list[str]:
    """Write the files of an output and return their paths."""
    assert output.picture is not None
    with write_errors(folder, "--out"):
        files = [folder / f"{output.name}.png"]
        write_atomically(files[0], encode(output.picture))
        if output.rows:
            files.append(_write_csv(output.rows, folder / f"{output.name}.csv"))
    return [str(file) for file in files]


def _write_csv(rows: Sequence[Mapping[str, object]], file: Path) -> Path:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(file, text.getvalue())
    return file


def _folder(name: str) -> Path:
    run = RunDirectory(real_path(name))
    return run.path / "interpretation" if run.config.is_file() else Path(OUTPUT_DIR, "interpretation", name)


def _writer(run: RunDirectory, folder: Path) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    place = run.path / "tensorboard" if run.config.is_file() else folder
    return SummaryWriter(str(place))
