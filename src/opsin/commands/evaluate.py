"""Evaluate a checkpoint of a run again: `opsin evaluate`."""

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Literal

from opsin.commands.command_line import add_checkpoint_option, command, command_parser
from opsin.errors import UserError
from opsin.runs.atomic import write_errors
from opsin.runs.digests import is_as_recorded, record_evaluation
from opsin.runs.directory import RunDirectory
from opsin.runs.home import user_path

if TYPE_CHECKING:
    from opsin.inference.opened_run import OpenedRun
    from opsin.runs.predictions import Predictions
    from opsin.training.recording import Measurement

log = logging.getLogger(__name__)


@command
def main(arguments: list[str] | None = None) -> int:
    """Print the metrics of the checkpoint."""
    parser = command_parser("evaluate", "Metrics are measured without the temperature that predictions apply.")
    parser.add_argument("run", help="a run directory, such as outputs/latest")
    parser.add_argument(
        "overrides", nargs="*", default=[], help="overrides, such as datamodule.path=PHOTOS for moved images"
    )
    parser.add_argument("--split", choices=("test", "val"), default="test")
    parser.add_argument("--json", action="store_true", help="print everything, also per class, as JSON")
    add_checkpoint_option(parser)
    parser.add_argument(
        "--out", type=user_path, metavar="FOLDER", help="write predictions/SPLIT.npz there (default: RUN)"
    )
    options = parser.parse_intermixed_args(arguments)
    run = RunDirectory.of(options.run, options.out)
    writes = options.checkpoint == "best" or options.out  # the predictions of a run are those of its best checkpoint
    if writes:
        run.check_links(run.out)
    found, predictions = measure(run, options.split, options.overrides, options.checkpoint)
    from opsin.training.metrics import undefined_metrics

    metrics = {**found.metrics, **dict.fromkeys(undefined_metrics(found.metrics))}
    if options.json:
        tables = {
            name: {"classes": [asdict(row) for row in scores.classes], "confusion": scores.confusion.tolist()}
            for name, scores in found.per_class.items()
        }
        print(json.dumps({"metrics": metrics, "per_class": tables}, indent=2))
    else:
        for name, value in sorted(metrics.items()):
            print(f"{name:16} {'undefined' if value is None else format(value, '.6f')}", flush=True)
    if writes:
        with write_errors(run.out, "--out"):
            write_predictions(run, predictions)
    return 0


def evaluate(run: RunDirectory, split: Literal["val", "test"] = "test") -> "Measurement":
    """Evaluate the best checkpoint of a run and write the predictions; see `measure` and `write_predictions`."""
    found, predictions = measure(run, split)
    write_predictions(run, predictions)
    return found


def write_predictions(run: RunDirectory, predictions: "Predictions") -> None:
    """Write predictions, unless the run has recorded those of this split, or needs them: they belong to its result."""
    from opsin.runs.predictions import predictions_file

    file = predictions_file(run, predictions.split)
    if run.out != run.path:
        predictions.write(run)
    elif _is_needed(run, predictions.split):
        log.warning("%s is not replaced, because the unfinished run needs it: use --out for the new predictions", file)
    elif not is_as_recorded(run.path, file):
        predictions.write(run)
        record_evaluation(run.path, predictions.split, file)


def _is_needed(run: RunDirectory, split: str) -> bool:
    """Return whether a resume needs the predictions of a split: it fits the temperature on those of val."""
    from opsin.runs.predictions import read_predictions

    if split != "val" or run.read_result().status == "finished":
        return False
    try:
        read_predictions(run, split)
    except UserError:  # missing or damaged
        return False
    return True


def measure(
    run: RunDirectory,
    split: Literal["val", "test"] = "test",
    overrides: Sequence[str] = (),
    checkpoint: str = "best",
) -> "tuple[Measurement, Predictions]":
    """Evaluate a checkpoint of a run; nothing is written.

    Args:
        run: The run directory.
        split: The split to evaluate.
        overrides: Overrides of the config of the run, such as `datamodule.path=PHOTOS`.
        checkpoint: `best`, `last`, or the path of a checkpoint.

    Returns:
        The metrics, and the predictions for each image.

    Raises:
        UserError: The checkpoint is missing or damaged, its files are damaged, its images have changed, or the config
            leaves out all images of the split.
    """
    from opsin.inference.opened_run import open_run

    return measure_opened(open_run(run, overrides, checkpoint), split)


def measure_opened(opened: "OpenedRun", split: Literal["val", "test"]) -> "tuple[Measurement, Predictions]":
    """Evaluate the checkpoint of an opened run, see `measure`."""
    import lightning as L

    from opsin.training import build, recording
    from opsin.training.gather import collect
    from opsin.training.network_building import for_evaluation, prepare
    from opsin.training.precision_timing import evaluation_precision
    from opsin.training.threads import use_threads

    key = f"limit_{split}_batches"
    if getattr(opened.plan.trainer, key) == 0:
        raise UserError(f"trainer.{key}=0 leaves no {split} image to evaluate: set trainer.{key}=1.0 for all images")
    opened.warn_if_emulated()
    plan = for_evaluation(opened.plan)
    use_threads(plan.trainer.threads)
    L.seed_everything(plan.run.seed, verbose=False)
    data, network = opened.data, opened.network
    plan = replace(plan, trainer=evaluation_precision(plan.trainer, network, (data.channels, *data.image_size)))
    prepare(plan, network)
    classifier = build.classifier(plan, data, network, build.loss(plan, data), record={})
    trainer = build.evaluator(plan, opened.directory)
    loop = trainer.test if split == "test" else trainer.validate
    loop(classifier, data, verbose=False)
    return recording.measured(trainer, classifier, data), collect(classifier.outputs[split], data, split)
