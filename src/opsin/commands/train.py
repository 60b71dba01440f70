"""Train: check, build, fit on train, select on val, test the best checkpoint once, record."""

import contextlib
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import lightning as L

from opsin.config import RunConfig
from opsin.data import ImageDataModule
from opsin.data.copied_files import warn_copied_files
from opsin.errors import UserError
from opsin.inference import teacher
from opsin.models import Network, layers_text, summarize_layers, summary_text
from opsin.models.fine_tuning import FreezeSchedule
from opsin.models.freezing import fixed_message
from opsin.runs.directory import RunDirectory
from opsin.runs.disk_errors import explained_disk_errors
from opsin.runs.per_class import delete_scores
from opsin.runs.predictions import Predictions, predictions_file, read_predictions
from opsin.runs.quoting import opsin_command
from opsin.runs.rank import is_spawned
from opsin.runs.result import FrozenStages
from opsin.runs.train_log import drop_epochs_after
from opsin.training import build, recording
from opsin.training.accelerator import num_devices
from opsin.training.callbacks import Checkpoints
from opsin.training.callbacks.freeze_phases import FreezingCallback
from opsin.training.callbacks.latest_link import LatestLink
from opsin.training.distributed.processes import Processes, check_process_count
from opsin.training.gather import collect
from opsin.training.loggers.base import RunFacts, check_installed, log_outcome, log_start
from opsin.training.module import load_network
from opsin.training.monitored_metrics import check_measurable
from opsin.training.network_building import prepare
from opsin.training.out_of_memory import memory_errors
from opsin.training.plan import RunPlan, check_trainable, make_plan
from opsin.training.precision_timing import decide_precision, gradient_fault
from opsin.training.recorded_splits import warn_seen_images
from opsin.training.resume_check import ResumePoint, check_resume
from opsin.training.run_length import check_run_length, warn_unreached
from opsin.training.run_warnings import collect_warnings
from opsin.training.same_numerics import resume_warnings, resumed_options
from opsin.training.threads import use_threads
from opsin.training.trainer import check_hardware
from opsin.training.tuning import resolve_batch_size
from opsin.training.unused_options import warn_kept_values, warn_unused

log = logging.getLogger(__name__)


def train(composed: RunConfig) -> float:
    """Train and test what a config describes, and record everything in its run directory.

    Args:
        composed: The config and its run directory; a run that is resumed continues from its last checkpoint.

    Returns:
        The best value of the monitored metric, the objective of a sweep.

    Raises:
        UserError: A mistake of the user, such as an unknown key, a wrong path or a missing download.
        Interrupted: A signal stopped the run, after everything was saved for a resume.
        RestartTraining: The run must be resumed with smaller batches, which its saved config has.
    """
    plan = checked_plan(composed)
    check_hardware(plan.trainer)  # before the trials of `batch_size=auto`, which use one device
    check_process_count(num_devices(plan.trainer.accelerator, plan.trainer.devices, plan.trainer.num_nodes))
    run, writes = composed.run, not is_spawned()
    earlier = run.read_result() if composed.resumes else None
    recorded = earlier.data if earlier else None
    with (
        run.locked(writes),
        # Under the lock, because another process may have resumed the run until now.
        contextlib.nullcontext(check_resume(composed) if composed.resumes else (None, [])) as (point, lines),
        run.recorded(writes) as result,
        recording.PhaseTimer(result) as timer,
        collect_warnings(result),
        Processes(run) as processes,
    ):
        if writes:
            _prepare_directory(composed, point)
            processes.send_run(composed.resumes)
        else:
            logging.getLogger("opsin").setLevel(logging.WARNING)
        is_auto = plan.trainer.precision == "auto"
        plan = replace(plan, trainer=resumed_options(plan.trainer, earlier.settings if earlier else None))
        use_threads(plan.trainer.threads, num_devices(plan.trainer.accelerator, plan.trainer.devices, 1))
        L.seed_everything(plan.run.seed, verbose=False)

        data = build.data(plan, image_format=recorded.image_format if recorded else None)
        data.setup("fit")
        if recorded:
            build.check_same_data(data, recorded)
        check_measurable(composed.tree, data)
        loss = build.loss(plan, data)
        composed, plan, found = resolve_batch_size(composed, plan, data, loss)
        if not point:
            check_run_length(plan, data)
        checkpoint, step = (run.last, point.state.step) if point else (None, 0 if composed.resumes else None)
        network, loaded = build.network(plan, data, loss.num_logits, pretrained=checkpoint is None)
        if checkpoint:
            load_network(network, checkpoint)  # features are cached with the weights of the checkpoint
        image_shape = (data.channels, *data.image_size)
        options, decided = decide_precision(plan.trainer, network, image_shape, data.base_batch_size)
        plan = replace(plan, trainer=options)
        result.precision_auto = (decided or result.precision_auto) if is_auto else None
        channels_last = prepare(plan, network)
        unfreezing = FreezingCallback(build.freeze_schedule(plan, network))
        fault = gradient_fault(options, network, image_shape, unfreezing.never_trained)
        if fault and not point:
            raise UserError(fault)
        _warn(composed, plan, data, unfreezing.schedule, resumes=point is not None)
        if network.fixed:
            log.info(fixed_message(network))
        recording.record_provenance(result, composed, data)
        if checkpoint is None:
            result.weights = str(loaded or "random")
        result.parameters = recording.parameter_counts(network, unfreezing.schedule)
        trainer = build.trainer(plan, run, step, unfreezing)
        processes.launch_for(trainer)
        distillation = teacher.distillation(plan, data, network, trainer)
        feature_cache = plan.feature_cache.apply(data, network, unfreezing.never_trained, trainer)
        result.settings = recording.settings(plan, trainer, channels_last, data, feature_cache, distillation)
        record = {"data": data.facts(), "training": recording.training_record(result, composed, step).as_dict()}
        classifier = build.classifier(plan, data, network, loss, record, distillation)
        result.batch_size_auto = found or result.batch_size_auto
        result.network, layers = summarize_layers(network, image_shape)
        if writes:
            run.write_result(result)
        tables = summary_text(result.network), layers_text(result.network, layers)
        recording.announce(result, tables, run, step, data.split_options.seed)
        warnings = resume_warnings(earlier, result) if earlier and point else []
        _announce_resume(lines, [*warnings, fault] if fault else warnings)
        if not composed.origin.choices.get("debug"):  # its model is of no use for predict or export
            latest = LatestLink(run, Path(composed.tree["output_dir"]))
            trainer.callbacks.append(latest)  # type: ignore[attr-defined]
        if point and trainer.max_epochs is not None:  # Lightning refuses a limit below the completed epochs
            trainer.fit_loop.max_epochs = max(trainer.max_epochs, int(point.state.epochs))

        facts = RunFacts(run, recording.hyperparameters(composed), result.tags)
        log_start(trainer.loggers if writes else (), facts)

        timer.enter("fit")
        with memory_errors(composed, plan, data, trainer, result):
            trainer.fit(classifier, data, ckpt_path=checkpoint, weights_only=True)

        checkpoints = next(c for c in trainer.callbacks if isinstance(c, Checkpoints))  # type: ignore[attr-defined]
        timer.enter("test")
        load_network(network, run.best)
        unfreezing.verify_tested(network)
        if plan.run.test:
            trainer.test(classifier, data, verbose=False)

        predictions = collect(outputs, data, "test") if (outputs := classifier.outputs["test"]) else None
        if predictions and writes:
            predictions.write(run)

        recording.record_outcome(result, plan, trainer, classifier, checkpoints, data)
        if writes:
            recording.record_calibration(result, run)
            recording.write_scores(run, classifier, checkpoints, data.source.classes)
        result.frozen = FrozenStages(tuple(unfreezing.untouched), unfreezing.verified)
        log_outcome(trainer.loggers if writes else (), facts, result.metrics, trainer.global_step)
    if writes:
        with explained_disk_errors(f"make the report with: {opsin_command('report', run.path)}", run.path):
            if plan.run.report:
                report(run, data, network, predictions)
            log.info(recording.closing_message(result, run))
    assert checkpoints.best_value is not None
    return checkpoints.best_value


def checked_plan(composed: RunConfig) -> RunPlan:
    """Return the plan of a run, checked as far as any machine can before anything is loaded or written.

    Raises:
        UserError: A key or a value is wrong, options exclude each other, or a library of a logger is not installed.
    """
    plan = make_plan(composed)
    check_trainable(plan)
    check_installed(plan.loggers)
    if not composed.resumes:
        teacher.check_options(plan)
    return plan


def _prepare_directory(composed: RunConfig, point: ResumePoint | None) -> None:
    """Save the config, and remove the records that are later than the point of the resume."""
    run = composed.run
    composed.save()
    if composed.resumes:
        drop_epochs_after(run.log, point.state.epochs if point else 0)
    if point:
        point.restore(run)
    predictions_file(run, "test").unlink(missing_ok=True)  # predictions of an earlier test
    delete_scores(run, "test")


def _warn(
    composed: RunConfig, plan: RunPlan, data: ImageDataModule, schedule: FreezeSchedule, *, resumes: bool
) -> None:
    """Warn about options without effect and about data that make metrics too high; a resume keeps its data."""
    warn_unreached(plan, data, schedule)
    warn_unused(plan, data, schedule, composed.origin.overrides)
    if not resumes:
        warn_kept_values(composed)
        warn_seen_images(plan.fine_tuning, plan.distillation, data)
        warn_copied_files(data.source, data.splits.subsets)


def _announce_resume(lines: Sequence[str], warnings: Sequence[str]) -> None:
    for line in lines:
        log.info("resume     %s", line)
    for line in warnings:
        log.warning("resume     %s", line)


def report(run: RunDirectory, data: ImageDataModule, network: Network, predictions: Predictions | None) -> None:
    """Write `report.html` and its pictures; a failure here does not fail the run, which has finished."""
    # Imported here, because only the end of a run needs them.
    from opsin.commands.report_images import make_images
    from opsin.evaluation.report.page import write_report

    try:
        make_images(run, data, network, predictions or read_predictions(run, "val"))
        write_report(run)
    except Exception as error:
        command = opsin_command("report", run.path)
        log.warning("the report failed (%s); try again with: %s", error, command)
