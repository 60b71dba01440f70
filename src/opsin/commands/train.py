"""The story of a run: check, build, fit on train, select on val, test the best checkpoint once, record."""

import logging
from pathlib import Path

import lightning as L

from opsin.config import RunConfig
from opsin.data import ImageDataModule
from opsin.inference import teacher
from opsin.models import Network, summarize, summary_text
from opsin.runs.directory import RunDirectory
from opsin.runs.predictions import Predictions, predictions_file, read_predictions
from opsin.runs.quoting import printed_command
from opsin.runs.rank import is_spawned
from opsin.training import build, recording
from opsin.training.callbacks import Checkpoints
from opsin.training.distributed.processes import Processes
from opsin.training.freezing import FreezingCallback
from opsin.training.gather import collect
from opsin.training.hardware import use_threads
from opsin.training.module import load_network
from opsin.training.plan import make_plan
from opsin.training.quiet_logging import quieten
from opsin.training.tensorboard import TensorBoard
from opsin.training.tuning import settle_batch_size

log = logging.getLogger(__name__)


def train(composed: RunConfig) -> float:
    """Train and test what a config describes, and record everything in its run directory.

    Args:
        composed: the config, and the run directory, which is gone on with where it holds a checkpoint.

    Returns:
        The best value of the monitored metric: what a sweep optimises.

    Raises:
        UserError: something that a person can put right, such as a key, a path or a missing download.
        Interrupted: a signal asked to stop; all is saved to go on.
    """
    plan = make_plan(composed)
    run, writes = composed.run, not is_spawned()
    recorded = run.read_result().get("data") if composed.resumes else None
    with (
        run.claimed(writes),
        run.record(writes, forget=recording.OUTCOME) as record,
        recording.PhaseTimer(record) as clock,
        Processes(run) as processes,
    ):
        if writes:
            composed.save()
            predictions_file(run, "test").unlink(missing_ok=True)  # of an earlier end of a run that goes on
            processes.tell(composed.resumes)
        quieten(writes)
        use_threads(plan.trainer.threads, plan.trainer.devices)
        L.seed_everything(plan.run.seed, verbose=False)

        data = build.data(plan, facts=recorded)
        data.setup("fit")
        if recorded:
            build.check_same_data(data, recorded)
        loss = build.loss(plan, data)
        composed, plan, found = settle_batch_size(composed, plan, data, loss)
        checkpoint = run.last if composed.resumes and run.last.exists() else None
        step = recording.step_of(checkpoint) if checkpoint else None
        network, loaded = build.network(plan, data, loss.num_logits, pretrained=checkpoint is None)
        if checkpoint:
            load_network(network, checkpoint)  # what is cached is what is gone on with
        channels_last = build.prepare(plan, network)
        unfreezing = FreezingCallback(build.freeze_schedule(plan, network))
        record |= recording.provenance(composed, data, network)
        record["weights"] = record.get("weights", "random") if checkpoint else str(loaded or "random")
        record["parameters"] |= recording.by_phase(network, unfreezing.schedule)
        trainer = build.trainer(plan, run, step, unfreezing)
        processes.launch_for(trainer)
        distillation = teacher.distillation(plan, data, network, trainer)
        feature_cache = plan.feature_cache.serve(data, network, unfreezing.never_trained, trainer)
        classifier = build.classifier(plan, data, network, loss, {"data": data.facts()}, distillation)
        record["settings"] = recording.settings(plan, trainer, channels_last, data, feature_cache, distillation)
        record |= {"batch_size_auto": found.facts()} if found else {}
        summary = summarize(network, (data.channels, *data.image_size))
        if writes:
            run.write_result(record)
            run.become_latest(Path(composed.tree["output_dir"]))
        recording.announce(record, summary_text(summary), run, step)

        clock.enter("fit")
        trainer.fit(classifier, data, ckpt_path=checkpoint, weights_only=True)

        checkpoints = next(c for c in trainer.callbacks if isinstance(c, Checkpoints))  # type: ignore[attr-defined]
        clock.enter("test")
        load_network(network, run.best)
        unfreezing.verify_tested(network)
        if plan.run.test:
            trainer.test(classifier, data, verbose=False)

        predictions = collect(outputs, data, "test") if (outputs := classifier.outputs["test"]) else None
        if predictions and writes:
            predictions.write(run)

        record |= recording.outcome(trainer, classifier, checkpoints, data)
        record["frozen"] = {"stages": list(unfreezing.untouched), "verified": unfreezing.verified}
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoard):
                logger.log_outcome(recording.hyperparameters(composed), record["metrics"], trainer.global_step)
    if writes:
        if plan.run.report:
            report(run, data, network, predictions)
        log.info(recording.closing_words(record, run))
    assert checkpoints.best_value is not None
    return checkpoints.best_value


def report(run: RunDirectory, data: ImageDataModule, network: Network, predictions: Predictions | None) -> None:
    """Write `report.html` and its pictures; the run is finished, and does not fail for want of them."""
    # Imported here: captum and what comes with it are a second that the start of a run is spared.
    from opsin.commands.report_images import make_images
    from opsin.evaluation.report.page import write_report

    try:
        make_images(run, data, network, predictions or read_predictions(run, "val"))
        write_report(run)
    except Exception as error:
        command = printed_command(["python", "scripts/report.py", run.path])
        log.warning("the report failed (%s); try again with: %s", error, command)
