"""The check that repeats stretches of training."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from opsin.commands.verify.checkpoint_contents import differences, read_checkpoint
from opsin.commands.verify.checks import Check, compared, missing, shortened
from opsin.commands.verify.recomputed import other_machine
from opsin.commands.verify.replay import foreign_callbacks, replay
from opsin.commands.verify.stretches import Point, Stretch, choose, points, stretches
from opsin.errors import UserError
from opsin.inference.opened_run import OpenedRun
from opsin.runs.training_record import TrainingRecord

APART = 0.1
"""Largest distance of weights that another machine trains from the recorded ones, as a share of their movement."""


@dataclass(frozen=True)
class _Outcome:
    """The outcome of a repeated stretch.

    Attributes:
        different: Description of a difference; empty if there is none.
        unclear: Reason why the stretch is not verified; empty if it is.
        exact: Whether the weights are the same bit for bit.
    """

    different: str = ""
    unclear: str = ""
    exact: bool = True


def check_replay(opened: OpenedRun, full: bool, chance: random.Random) -> Check:
    """Repeat stretches of training: all with `full`, else the one before the best checkpoint and others at random.

    Args:
        opened: The run.
        full: Whether to repeat all stretches, also of a run without replay points.
        chance: Source of random numbers.
    """
    run = opened.directory
    kept, wanted = any(run.replay_points.glob("*.ckpt")), opened.plan.run.verify_checkpoints
    if not kept and not full:
        if wanted:
            return missing("replay", f"there are no replay points, although verify_checkpoints is {wanted}")
        return Check("replay", "none", "training is not repeated: the run was trained without verify_checkpoints")
    try:
        found = points(run)
        unequal = [*_unequal_records(found), *_unequal_files(found)]
    except FileNotFoundError as error:
        return missing("replay", f"{error.filename} is missing")
    except UserError as error:
        return missing("replay", error)
    except Exception as error:  # a damaged file raises anything
        return Check("replay", "differs", f"a checkpoint is damaged ({type(error).__name__})")
    if unequal:
        return compared("replay", unequal, "")
    every = stretches(found)
    if not every:
        return Check("replay", "differs", "all checkpoints are from before the first step of training")
    whole = [stretch for stretch in every if stretch.is_whole]
    chosen = whole if full else choose(whole, run.best, found[-1].step, chance)
    outcomes = [_outcome(stretch, opened) for stretch in chosen]
    return _summary(every, chosen, outcomes)


def _unequal_records(found: Sequence[Point]) -> list[str]:
    """Compare the records of the checkpoints of each process, which has one config, and of each step."""
    first: dict[int, tuple[Path, TrainingRecord]] = {}
    different = []
    for point in found:
        for file, record in zip(point.files, point.records, strict=True):
            process = first.setdefault(record.start, (file, record))
            for other, expected in (process, (point.files[0], point.records[0])):
                if record != expected:
                    different.append(f"{file.name} records another config, machine or start than {other.name}")
    return list(dict.fromkeys(different))


def _unequal_files(found: Sequence[Point]) -> list[str]:
    """Compare the checkpoints of the same step, such as best.ckpt and a replay point."""
    return [
        f"{text} from {point.files[0].name} of the same step"
        for point in found
        for other in point.files[1:]
        if not other.samefile(point.files[0])
        for text in differences(read_checkpoint(other), read_checkpoint(point.files[0]), other.name)
    ]


def _outcome(stretch: Stretch, opened: OpenedRun) -> _Outcome:
    record, settings = stretch.record, stretch.record.settings
    if settings.devices > 1:
        return _Outcome(unclear=f"{stretch}: trained by {settings.devices} processes, and verify has only one")
    try:
        replayed = replay(stretch, opened)
    except UserError as error:
        return _Outcome(unclear=f"{stretch}: {error}")
    except Exception as error:  # a checkpoint that does not fit raises anything
        if "state_dict" in str(error):
            return _Outcome(different=f"{stretch}: a checkpoint does not fit the network")
        return _Outcome(unclear=f"{stretch}: {type(error).__name__}: {error}")
    if not replayed.differences:
        return _Outcome()
    if foreign := foreign_callbacks(stretch, opened):
        names = ", ".join(foreign)
        return _Outcome(unclear=f"{stretch}: the weights differ, perhaps by callbacks that are not repeated: {names}")
    reason = other_machine(record.cpu, record.torch)
    if settings.accelerator != "cpu" or settings.compile:
        reason = reason or "the device rounds differently from run to run"
    if reason is None:
        return _Outcome(different=f"{stretch}: {replayed.differences[0]}")
    if replayed.apart <= APART:
        return _Outcome(exact=False)
    apart = f"the weights differ by {replayed.apart:.0%} of the distance that they moved, more than {APART:.0%}"
    return _Outcome(unclear=f"{stretch}: {apart} ({reason})")


def _summary(every: Sequence[Stretch], chosen: Sequence[Stretch], outcomes: Sequence[_Outcome]) -> Check:
    probability = len(chosen) / len(every)
    facts = {"stretches": len(every), "repeated": len(chosen), "probability": round(probability, 4)}
    if different := [outcome.different for outcome in outcomes if outcome.different]:
        return compared("replay", different, "", **facts)
    unclear = [outcome.unclear for outcome in outcomes if outcome.unclear]
    unclear += [f"{stretch}: the run was resumed in between" for stretch in every if not stretch.is_whole]
    if unclear:
        return Check("replay", "not verified", shortened(unclear), facts)
    exact = all(outcome.exact for outcome in outcomes)
    how = "bit for bit" if exact else f"within {APART:.0%} of the distance that they moved"
    detail = f"{len(chosen)} of {len(every)} stretches repeated: the same weights {how}"
    if len(chosen) < len(every):
        detail += f"; a change in one stretch is found with probability {probability:.0%} (--full: 100%)"
    return Check("replay", "verified", detail, facts)
