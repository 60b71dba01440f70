"""Evaluate the best checkpoint of a finished run again: python scripts/evaluate.py outputs/latest."""

import argparse
import json
from typing import Any, Literal

from opsin.commands.command_line import command
from opsin.runs.directory import RunDirectory


@command
def main(arguments: list[str] | None = None) -> int:
    """Print the metrics of the best checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", help="a run directory, such as outputs/latest")
    parser.add_argument("--split", choices=("test", "val"), default="test")
    parser.add_argument("--json", action="store_true", help="print everything, also per class, as JSON")
    options = parser.parse_intermixed_args(arguments)
    found = evaluate(RunDirectory.of(options.run), options.split)
    if options.json:
        print(json.dumps(found, indent=2))
    else:
        print("\n".join(f"{name:16} {value:.6f}" for name, value in sorted(found["metrics"].items())))
    return 0


def evaluate(run: RunDirectory, split: Literal["val", "test"] = "test") -> dict[str, Any]:
    """Evaluate the best checkpoint of a run, given its directory, and write the predictions there.

    Returns:
        `metrics` as in `result.json`, and `per_class`.
    """
    import lightning as L

    from opsin.config import RunConfig
    from opsin.training import build, recording
    from opsin.training.gather import collect
    from opsin.training.hardware import use_threads
    from opsin.training.module import load_network
    from opsin.training.plan import make_plan
    from opsin.training.quiet_logging import quieten

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
