"""Verify a finished run: compute its record again from its files, its data and its training: `opsin verify`."""

import functools
import json
import random
from collections.abc import Sequence

from opsin.commands.command_line import command, command_parser
from opsin.commands.verify.checks import EXIT_CODES, Verification, missing
from opsin.errors import UserError
from opsin.runs.directory import RunDirectory

DETAILS = """Exit codes: 0 verified, 1 a difference was found, 3 not verified because something is missing or an
error stopped the verification. Nothing is written in the run directory."""


@functools.partial(command, failure=EXIT_CODES["not verified"])
def main(arguments: list[str] | None = None) -> int:
    """Print a table of the checks, and return the exit code of their result."""
    parser = command_parser("verify", DETAILS)
    parser.add_argument("run", help="a run directory, such as outputs/latest")
    parser.add_argument(
        "overrides", nargs="*", default=[], help="overrides, such as datamodule.path=PHOTOS for moved images"
    )
    parser.add_argument("--full", action="store_true", help="repeat all stretches of training, not only some at random")
    parser.add_argument("--json", action="store_true", help="print the checks as JSON")
    options = parser.parse_intermixed_args(arguments)
    found = verify(RunDirectory.of(options.run), options.full, options.overrides)
    print(json.dumps(found.as_dict(), indent=2) if options.json else found.table())
    return found.exit_code


def verify(
    run: RunDirectory, full: bool = False, overrides: Sequence[str] = (), chance: random.Random | None = None
) -> Verification:
    """Verify a finished run; nothing is written in its directory.

    Args:
        run: The run directory.
        full: Whether to repeat all stretches of training.
        overrides: Overrides of its config, such as `datamodule.path=PHOTOS`.
        chance: Source of random numbers for the choice of stretches; None for the system's.
    """
    from opsin.commands.verify.recomputed import SPLITS, check_data, check_metrics, check_predictions
    from opsin.commands.verify.recorded import check_digests, check_records
    from opsin.commands.verify.replay_check import check_replay
    from opsin.inference.opened_run import open_run
    from opsin.training.run_warnings import known_warnings

    checks = check_digests(run)
    try:
        result = run.read_result()
        if result.status != "finished":
            return Verification(str(run.path), (missing("run", f"its status is {result.status}, not finished"),))
        saved = open_run(run)
        threads = [f"trainer.threads={result.settings.threads}"] if result.settings else []
        opened = open_run(run, [*overrides, *threads])
    except UserError as error:
        return Verification(str(run.path), (*checks, missing("run", error)))
    checks.append(check_records(saved, result))
    checks += [check_metrics(opened, result, split) for split in SPLITS]
    with known_warnings(result.warnings):
        checks.append(check_data(opened))
        checks += [check_predictions(opened, result, split) for split in SPLITS]
        checks.append(check_replay(opened, full, chance or random.SystemRandom()))
    return Verification(str(run.path), tuple(checks))
