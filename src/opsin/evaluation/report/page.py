"""Write the report of a run: one self-contained page made from the run directory.

The order of the sections is that of `templates/report.html`.
"""

from pathlib import Path

from opsin.config import RunConfig
from opsin.config.saved_config import start_command
from opsin.errors import UserError
from opsin.evaluation.confusion import class_table
from opsin.evaluation.report.confusion_and_calibration import (
    calibration_section,
    confused_pair_rows,
    confusion_matrix_chart,
    recall_bars,
)
from opsin.evaluation.report.learning_curves import best_epoch, learning_curves
from opsin.evaluation.report.pictures import read_pictures
from opsin.evaluation.report.result_summary import summarize_result
from opsin.evaluation.templating import render
from opsin.runs.atomic import write_atomically
from opsin.runs.directory import RunDirectory
from opsin.runs.metrics_csv import read_epochs
from opsin.runs.network_table import cells, title
from opsin.runs.predictions import Predictions, have_probabilities, read_predictions
from opsin.runs.quoting import opsin_command, resume_command
from opsin.runs.regular_file import read_text
from opsin.runs.result import WAY_OUT
from opsin.runs.train_log import first_time


def write_report(run: RunDirectory) -> Path:
    """Write `report.html` into the directory of a run that finished, failed, was interrupted or is still running.

    The report contains what the run directory contains: without predictions, for example, it has no confusion matrix
    and shows the command that makes them. Only the run directory is read. The file is replaced atomically.

    Returns:
        The path of the report.

    Raises:
        UserError: Config, result or metrics are damaged.
    """
    result = run.read_result()
    config = RunConfig.load(run)
    rows = read_epochs(run.metrics)
    best = best_epoch(rows, result, (config.tree.get("monitor") or {}).get("metric"))
    predictions, missing = _predictions(run)
    expected = "test" if result.tested else "val"
    evaluated = predictions.get("test", predictions.get("val"))
    name = result.choices.get("model") or "The network"
    page = render(
        "report.html",
        run=run,
        name=name,
        started=first_time(run.log),
        result=result,
        status=result.status,
        rows=rows,
        best=best,
        epochs=result.epochs or (rows[-1].epoch if rows else None),
        curves=learning_curves(rows, best) if rows else None,
        summary=summarize_result(name, result, evaluated) if evaluated else None,
        missing=missing.get(expected),
        evaluated=evaluated,
        classes=class_table(evaluated) if evaluated else [],
        recall_bars=recall_bars(evaluated) if evaluated else None,
        confusion_matrix=confusion_matrix_chart(evaluated) if evaluated else None,
        pairs=confused_pair_rows(evaluated) if evaluated else [],
        calibration=calibration_section(predictions, result.calibration) if evaluated else None,
        pictures=read_pictures(run),
        network=(title(result.network), cells(result.network)) if result.network else None,
        command=start_command(run),
        resume=resume_command(run.path),
        report=opsin_command("report", run.path),
        config=read_text(run.config, WAY_OUT),
    )
    write_atomically(run.report, page)
    return run.report


def _predictions(run: RunDirectory) -> tuple[dict[str, Predictions], dict[str, str]]:
    """Return the readable predictions of val and test, and the reasons why others cannot be read."""
    found, missing = {}, {}
    for split in ("val", "test"):
        try:
            predictions = read_predictions(run, split)
        except UserError as error:
            missing[split] = str(error)
        else:
            if not have_probabilities(predictions.logits):
                missing[split] = f"The logits of {split} images are not finite: training has diverged."
            elif len(predictions):
                found[split] = predictions
    return found, missing
