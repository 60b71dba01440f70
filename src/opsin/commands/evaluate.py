"""Measure the best checkpoint of a finished run again."""

from typing import Any, Literal

import lightning as L

from opsin.config import RunConfig
from opsin.runs.directory import RunDirectory
from opsin.training import build, recording
from opsin.training.gather import collect
from opsin.training.hardware import use_threads
from opsin.training.module import load_network
from opsin.training.plan import make_plan
from opsin.training.quiet_logging import quieten


def evaluate(run: RunDirectory, split: Literal["val", "test"] = "test") -> dict[str, Any]:
    """Measure the best checkpoint of a run again, from its directory alone, and keep its predictions there.

    Returns:
        `metrics` as in `result.json`, and `per_class`.
    """
    plan = build.for_evaluation(make_plan(RunConfig.load(run)))
    quieten(True)
    use_threads(plan.trainer.threads)
    L.seed_everything(plan.run.seed, verbose=False)
    recorded = build.recorded_data(run)
    data = build.data(plan, facts=recorded)
    build.check_same_data(data, recorded)
    loss = build.loss(plan, data)
    network, _ = build.network(plan, data, loss.num_logits, pretrained=False)
    build.prepare(plan, network)
    classifier = build.classifier(plan, data, network, loss, record={})
    load_network(network, run.best)
    trainer = build.evaluator(plan, run)
    measure = trainer.test if split == "test" else trainer.validate
    measure(classifier, data, verbose=False)
    collect(classifier.outputs[split], data, split).write(run)
    return recording.measured(trainer, classifier, data)
