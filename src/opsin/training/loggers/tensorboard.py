"""TensorBoard logger with one curve per run."""

import io
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from numpy.typing import NDArray
from PIL import Image
from tensorboard.compat.proto.summary_pb2 import Summary
from torch.utils.tensorboard.summary import hparams

from opsin.runs.directory import RunDirectory
from opsin.runs.rank import is_spawned
from opsin.training.loggers.base import RunFacts, RunLogger

__all__ = ["TensorBoard"]

EVENTS = "events.out.tfevents."
"""Begin of the name of an event file; the time in seconds follows."""


def keep_order(folder: Path) -> None:
    """Rename the event files of earlier processes if their time is not before now.

    TensorBoard reads the files in the order of their names, which begin with their time. After a resume in the same
    second, or with a clock that went back, it would read the new events first and show steps twice.
    """
    files = sorted(folder.glob(f"{EVENTS}*.*"))
    if files and files[-1].name >= f"{EVENTS}{int(time.time()):010d}":
        for number, file in enumerate(files):
            file.rename(file.with_name(f"{EVENTS}{number:010d}.{file.name.removeprefix(EVENTS).partition('.')[2]}"))


class TensorBoard(TensorBoardLogger, RunLogger):
    """Events in the run's `tensorboard` folder; a resumed run continues the curve.

    Args:
        run: The run directory.
        resume_step: Optimizer step of the resumed checkpoint; later events of the earlier process are hidden.
    """

    def __init__(self, run: RunDirectory, resume_step: int | None = None) -> None:
        if resume_step is not None and not is_spawned():
            keep_order(run.tensorboard)
        name = run.tensorboard.name
        super().__init__(run.path, name=name, version="", default_hp_metric=False, purge_step=resume_step)
        if threading.excepthook is not _hide_reported:
            _excepthook.append(threading.excepthook)
            threading.excepthook = _hide_reported

    @rank_zero_only
    def save(self) -> None:
        """Write the events that wait in memory.

        Lightning's own method also writes a file of hyperparameters, for which it imports the libraries of all clouds.
        """
        self.experiment.flush()

    def finalize(self, status: str) -> None:
        """Write the events that wait in memory, at the end of training and of the test.

        Lightning's own method also closes the file. Later events would be in a second file, which TensorBoard reads
        first if the clock went back. `log_outcome` closes it.
        """
        if self._experiment is not None:
            self.save()

    def log_start(self, facts: RunFacts) -> None:
        """Write the tags to the TEXT tab; the config follows with the outcome."""
        if facts.tags:
            self.experiment.add_text("tags", ", ".join(facts.tags))

    def log_outcome(self, facts: RunFacts, metrics: Mapping[str, float], step: int) -> None:
        """Fill the HPARAMS tab: config and tags, and final metrics as `final/<metric>`.

        Lightning's own method would add the final values to each curve as step 0.
        """
        final = {f"final/{name}": value for name, value in metrics.items()}
        self.log_metrics(final, step)
        for summary in hparams(facts.values, final):  # type: ignore[no-untyped-call]
            self._write(summary)
        self.experiment.close()

    def log_picture(self, tag: str, picture: NDArray[np.uint8], step: int) -> None:
        """Show an image, uint8 `(H, W, 3)` or `(H, W)`, in the IMAGES tab.

        `SummaryWriter.add_image` uses the slowest PNG compression, which takes several times as long as drawing the
        image; this method writes larger files quickly.
        """
        stream = io.BytesIO()
        flat = picture[..., 0] if picture.ndim == 3 and picture.shape[2] == 1 else picture
        Image.fromarray(flat).convert("RGB").save(stream, "PNG", compress_level=1)
        height, width = picture.shape[:2]
        image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=stream.getvalue())
        self._write(Summary(value=[Summary.Value(tag=tag, image=image)]), step)

    @rank_zero_only
    def _write(self, summary: Any, step: int | None = None) -> None:
        self.experiment._get_file_writer().add_summary(summary, step)


_excepthook: list[Any] = [threading.__excepthook__]
"""The hooks before `_hide_reported` took their place."""


def _hide_reported(arguments: threading.ExceptHookArgs) -> None:
    """Print the traceback of a thread, unless the thread of TensorBoard keeps its error for the next event.

    A full disk then ends the run with one message.
    """
    if arguments.exc_value is None or getattr(arguments.thread, "exception", None) is not arguments.exc_value:
        _excepthook[-1](arguments)
