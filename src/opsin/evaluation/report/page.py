"""The report of a run: one self-contained page, made of what lies in its directory."""

from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from opsin.errors import UserError
from opsin.evaluation.confusion import class_table
from opsin.evaluation.report.learning_curves import best_epoch, curves
from opsin.evaluation.report.pictures import read_pictures
from opsin.evaluation.report.result_summary import verdict
from opsin.evaluation.report.sections import calibration, class_bars, confusion, pair_rows
from opsin.evaluation.templating import render
from opsin.runs.atomic import write_atomically
from opsin.runs.directory import RunDirectory
from opsin.runs.epochs import read_epochs
from opsin.runs.predictions import Predictions, read_predictions


def write_report(run: RunDirectory) -> Path:
    """Write `report.html` into a run directory: of a run that finished, failed, was interrupted or is still going.

    It tells what there is: without predictions there is no confusion matrix, and so on, and the page says how to make
    them. Nothing but the run directory is read.

    Returns:
        The file; whole at every moment.
    """
    result = run.read_result()
    config = _yaml(run.config)
    rows = read_epochs(run.metrics)
    best = best_epoch(rows, result, config.get("monitor") or {})
    predictions, missing = _predictions(run)
    wanted = "test" if result.status == "finished" else "val"  # the test images are read once, at the end
    judged = predictions.get("test", predictions.get("val"))
    name = result.choices.get("model") or "A network"
    page = render(
        "report.html",
        run=run,
        name=name,
        made=datetime.fromtimestamp(run.config.stat().st_mtime).strftime("%d %B %Y, %H:%M"),
        result=result,
        status=result.status,
        rows=rows,
        best=best,
        curves=curves(rows, best) if rows else None,
        verdict=verdict(name, result, judged) if judged else None,
        missing=missing.get(wanted),
        judged=judged,
        classes=class_table(judged) if judged else [],
        class_bars=class_bars(judged) if judged else None,
        confusion=confusion(judged) if judged else None,
        pairs=pair_rows(judged) if judged else [],
        calibration=calibration(predictions) if judged else None,
        pictures=read_pictures(run),
        network=result.network,
        words=(_yaml(run.overrides).get("overrides") or []),
        config=run.config.read_text(encoding="utf-8"),
    )
    write_atomically(run.report, page)
    return run.report


def _predictions(run: RunDirectory) -> tuple[dict[str, Predictions], dict[str, str]]:
    """The predictions of val and test, as far as they can be read, and why others cannot."""
    found, missing = {}, {}
    for split in ("val", "test"):
        try:
            predictions = read_predictions(run, split)
        except UserError as error:
            missing[split] = str(error)
        else:
            if not np.isfinite(predictions.logits).all():
                missing[split] = f"The answers to {split} images are not numbers: training has diverged."
            elif len(predictions):
                found[split] = predictions
    return found, missing


def _yaml(file: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, yaml.YAMLError):
        return {}
    return content if isinstance(content, dict) else {}
