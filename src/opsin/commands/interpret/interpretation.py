"""Make images that explain a trained network: kernels, activations, feature visualizations, attributions, errors."""

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from opsin.commands.interpret.attributions import attribution_maps
from opsin.commands.interpret.error_analysis import error_analysis
from opsin.commands.interpret.features import activation_pictures, filter_pictures, kernel_grid
from opsin.commands.interpret.model_and_images import ModelAndImages, Output, open_model_and_images
from opsin.errors import UserError, did_you_mean
from opsin.interpretability.attribution import METHODS
from opsin.runs.atomic import check_writable, write_atomically, write_errors
from opsin.runs.directory import OUTPUT_DIR, RunDirectory
from opsin.runs.escaping import CSVLines
from opsin.runs.home import real_path
from opsin.visualization.images import encode

KINDS: tuple[str, ...] = ("kernels", "activations", "filters", *METHODS, "errors")
"""Values of `--what`."""

KINDS_WITH_STAGE = ("activations", "filters", "gradcam")

KINDS_OF_OPTION: Mapping[str, Sequence[str]] = {
    "count": tuple(kind for kind in KINDS if kind != "kernels"),
    **dict.fromkeys(("images", "data"), tuple(kind for kind in KINDS if kind not in ("kernels", "filters"))),
    **dict.fromkeys(("channels", "steps", "upscalings", "size", "seed"), ("filters",)),
    **dict.fromkeys(("split", "train_images"), ("errors",)),
}
"""The kinds that an option has an effect on; all other options have one on every kind, or are checked elsewhere."""

COUNT = 8
"""Default number of images, errors or filters to show."""


def interpret(
    name: str,
    words: Sequence[str] = (),
    *,
    what: Sequence[str],
    images: Sequence[str] = (),
    stage: str | None = None,
    out: Path | None = None,
    tensorboard: bool = False,
    count: int | None = None,
    checkpoint: str = "best",
    ascent: Mapping[str, Any] = MappingProxyType({}),
    errors: Mapping[str, Any] = MappingProxyType({}),
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
        count: Number of images, errors or filters to show; None for `COUNT`.
        checkpoint: `best`, `last`, or the path of a checkpoint of the run.
        ascent: Options of `filter_pictures`.
        errors: Options of `error_analysis`.

    Yields:
        Lines to print, as soon as they are known: measured values and the written files.

    Raises:
        UserError: There is no such network, image or stage, a given option has no effect, or the folder is not
            writable.
    """
    options = {"count": count, "images": images or None, "data": words or None, **ascent, **errors}
    _check_options(what, options, stage, checkpoint)
    count = COUNT if count is None else count
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
        for output in _outputs(kind, source, stage, count, ascent, errors):
            yield from output.lines
            if output.picture is not None:
                yield from _written(output, folder)
                if writer:
                    writer.add_image(f"interpret/{output.name}", output.picture, 0, dataformats="HWC")
    if writer:
        writer.close()
        yield f"also in TensorBoard, in the tab IMAGES, as interpret/...: {writer.log_dir}"


def _check_options(what: Sequence[str], given: Mapping[str, Any], stage: str | None, checkpoint: str) -> None:
    """Check the kinds, and that each given option has an effect; the options of `given` are None if they are not given.

    Raises:
        UserError: A kind does not exist, no kind uses a given option, or a kind does not use the stage or checkpoint.
    """
    if unknown := [kind for kind in what if kind not in KINDS]:
        raise UserError(f"--what must be one of {', '.join(KINDS)}, got {unknown[0]}{did_you_mean(unknown[0], KINDS)}")
    for option, value in given.items():
        kinds = KINDS_OF_OPTION[option]
        if value is not None and not set(kinds) & set(what):
            flag = "" if option == "data" else f"--{option.replace('_', '-')} "
            text = value if isinstance(value, str | int) else " ".join(map(str, value))
            raise UserError(f"{flag}{text} cannot be used with --what {' '.join(what)}, only with {', '.join(kinds)}")
    if given["images"] and given["data"]:
        raise UserError(
            f"{given['data'][0]} cannot be used with --images {given['images'][0]}, which replaces the images"
        )
    if stage is not None and (without := [kind for kind in what if kind not in KINDS_WITH_STAGE]):
        raise UserError(
            f"--stage {stage} cannot be used with --what {without[0]}, only with {', '.join(KINDS_WITH_STAGE)}"
        )
    if given["count"] is not None and given.get("channels") and {*KINDS_OF_OPTION["count"]} & {*what} == {"filters"}:
        raise UserError(
            f"--count {given['count']} has no effect with --channels, which selects the filters: leave it out"
        )
    if given["count"] is not None and given["count"] < 1:
        raise UserError(f"--count must be at least 1, got {given['count']}")
    if "errors" in what and checkpoint != "best":
        raise UserError(
            f"--checkpoint {checkpoint}: --what errors reads the saved predictions, which are of the best epoch"
        )


def _outputs(
    kind: str,
    source: ModelAndImages,
    stage: str | None,
    count: int,
    ascent: Mapping[str, Any],
    errors: Mapping[str, Any],
) -> Iterator[Output]:
    makers: dict[str, Callable[[], Iterator[Output]]] = {
        "kernels": lambda: kernel_grid(source),
        "activations": lambda: activation_pictures(source, stage, count),
        "filters": lambda: filter_pictures(source, stage, count, **ascent),
        "errors": lambda: error_analysis(source, count, **errors),
        **{method: partial(attribution_maps, source, method, stage, count) for method in METHODS},
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
    writer = csv.DictWriter(CSVLines(text), list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(file, text.getvalue())
    return file


def _folder(name: str) -> Path:
    run = RunDirectory(real_path(name))
    return run.path / "interpretation" if run.config.is_file() else Path(OUTPUT_DIR, "interpretation", name)


def _writer(run: RunDirectory, folder: Path) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    place = run.tensorboard if run.config.is_file() else folder
    return SummaryWriter(str(place))
