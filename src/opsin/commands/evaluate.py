"""Measure the best checkpoint of a finished run again."""

from typing import Literal

import lightning as L

from opsin.inference.opened_run import open_run
from opsin.runs.directory import RunDirectory
from opsin.training import build, recording
from opsin.training.gather import collect
from opsin.training.hardware import use_threads
from opsin.training.quiet_logging import quieten


def evaluate(run: RunDirectory, split: Literal["val", "test"] = "test") -> recording.Measurement:
    """Measure the best checkpoint of a run again, from its directory alone, and write its predictions there.

    Raises:
        UserError: The run has no best checkpoint, its files are damaged, or its images have changed.
    """
    opened = open_run(run)
    quieten(True)
    use_threads(opened.plan["trainer"].arguments.get("threads", "auto"))
    L.seed_everything(opened.plan.seed, verbose=False)
    data, network = opened.data, opened.network
    build.layout(opened.plan, network)
    classifier = build.classifier(opened.plan, data, network, build.loss(opened.plan, data), record={})
    trainer = build.evaluator(opened.plan, run)
    measure = trainer.test if split == "test" else trainer.validate
    measure(classifier, data, verbose=False)
    collect(classifier.outputs[split], data, split).write(run)
    return recording.measured(trainer, classifier, data)
