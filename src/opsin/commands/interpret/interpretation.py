"""Pictures of what a network has learned, made by one command: into files, and into TensorBoard on request."""

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from opsin.commands.interpret.attributions import explained
from opsin.commands.interpret.error_analysis import failures
from opsin.commands.interpret.features import activation_pictures, filter_pictures, kernel_grid
from opsin.commands.interpret.subject import Finding, Subjects, find_subject
from opsin.errors import UserError
from opsin.interpretability.attribution import METHODS
from opsin.runs.atomic import check_writable, write_atomically
from opsin.runs.directory import RunDirectory
from opsin.training.quiet_logging import quieten
from opsin.visualization.images import encoded

KINDS: tuple[str, ...] = ("kernels", "activations", "filters", *METHODS, "errors")
"""What `--what` takes."""


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
    **options: Any,
) -> Iterator[str]:
    """Make pictures of a network that has learned, and say what they show.

    Args:
        name: A run directory, or a network with ImageNet weights, which is then asked for ImageNet's classes.
        words: Name other images than the run's own, see `opsin.inference.inputs.open_images`.
        what: Some of `KINDS`.
        images: Files and folders of images to look at; none: validation images of all classes in turn.
        stage: Of the network, or a layer in it; None: each (activations, filters) or the last with maps (gradcam).
        out: The folder to write to; None: `interpretation` in the run directory, or in `outputs`.
        tensorboard: Whether the pictures go into the run's TensorBoard too.
        count: How many images, mistakes, or filters are shown.
        options: Of `filter_pictures` and `failures`.

    Yields:
        Lines for a person, each as soon as it is known: measured values, and the files.

    Raises:
        UserError: There is no such network, image or stage, it does not fit what is asked for, or the folder cannot
            be written to.
    """
    if unknown := [kind for kind in what if kind not in KINDS]:
        raise UserError(f"--what {unknown[0]}: take {', '.join(KINDS)}")
    if count < 1:
        raise UserError(f"--count {count}: show at least one")
    quieten(True)
    subject = find_subject(name, words, images)
    folder = out or _folder(name)
    check_writable(folder, "--out")
    writer = _writer(name, folder) if tensorboard else None
    for kind in what:
        for finding in _made(kind, subject, stage, count, options):
            yield from finding.lines
            if finding.picture is not None:
                yield from _kept(finding, folder)
                if writer:
                    writer.add_image(f"interpret/{finding.name}", finding.picture, 0, dataformats="HWC")
    if writer:
        writer.close()
        yield f"in TensorBoard's IMAGES tab too, as interpret/...: {writer.log_dir}"


def _made(kind: str, subject: Subjects, stage: str | None, count: int, options: dict[str, Any]) -> Iterator[Finding]:
    if kind in METHODS:
        return explained(subject, kind, stage, count)
    if stage is not None and kind in ("kernels", "errors"):
        raise UserError(f"--stage {stage}: --what {kind} has no choice of stage")
    makers: dict[str, Callable[[], Iterator[Finding]]] = {
        "kernels": lambda: kernel_grid(subject),
        "activations": lambda: activation_pictures(subject, stage, count),
        "filters": lambda: filter_pictures(subject, stage, count, **options.get("ascent", {})),
        "errors": lambda: failures(subject, count, **options.get("errors", {})),
    }
    return makers[kind]()


def _kept(finding: Finding, folder: Path) -> list[str]:
    """The files of a finding, written."""
    assert finding.picture is not None
    try:
        files = [folder / f"{finding.name}.png"]
        write_atomically(files[0], encoded(finding.picture))
        if finding.rows:
            files.append(_write_csv(finding.rows, folder / f"{finding.name}.csv"))
    except OSError as error:
        raise UserError(f"--out {folder} cannot be written to ({error.strerror or error}): name another") from None
    return [str(file) for file in files]


def _write_csv(rows: Sequence[Mapping[str, object]], file: Path) -> Path:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    # A file name need not be valid text; what is written here is.
    write_atomically(file, text.getvalue().encode(errors="backslashreplace").decode())
    return file


def _folder(name: str) -> Path:
    run = RunDirectory(Path(name).expanduser().resolve())
    return run.path / "interpretation" if run.config.is_file() else Path("outputs", "interpretation", name)


def _writer(name: str, folder: Path) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    run = RunDirectory(Path(name).expanduser().resolve())
    place = run.path / "tensorboard" if run.config.is_file() else folder
    return SummaryWriter(str(place))
