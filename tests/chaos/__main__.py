"""Inject real faults into runs and print a table: `make chaos`, or `python -m tests.chaos [FAULT ...]`."""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests"), str(ROOT / "tests" / "helpers")]

from tests.chaos import damages, kills, surroundings  # noqa: E402, F401 - they register the faults
from tests.chaos.outcomes import FAULTS, Setting, outcome_of, table  # noqa: E402


def main(arguments: list[str] | None = None) -> int:
    """Inject the faults that the arguments name, print the table, and return 1 if anything was lost."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument(
        "faults", nargs="*", metavar="FAULT", help=f"faults to inject (default: all): {', '.join(FAULTS)}"
    )
    parser.add_argument("--kills", type=int, help="number of injections in a row of kills (default: that of each row)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random moments")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep all files in this folder")
    options = parser.parse_args(arguments)
    if unknown := set(options.faults) - set(FAULTS):
        parser.error(f"no fault {', '.join(sorted(unknown))}; the faults are {', '.join(FAULTS)}")
    import opsin.commands.evaluate  # imported once, before children are forked
    import opsin.commands.train
    import opsin.commands.train_cli  # noqa: F401

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        setting = Setting((options.keep or Path(folder)).absolute(), options.kills, options.seed)
        outcomes = {}
        for name in options.faults or FAULTS:
            begun = time.monotonic()
            outcomes[name] = outcome = outcome_of(name, setting)
            state = "not injected" if outcome.skipped else f"{outcome.identical} of {outcome.injected}"
            lines = [f"{name:20} {state:14} {time.monotonic() - begun:6.1f} s", *outcome.lost]
            sys.stdout.write("\n    ".join(lines) + "\n")
            sys.stdout.flush()
    sys.stdout.write(f"\n{table(outcomes)}\n")
    return 0 if all(outcome.good for outcome in outcomes.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
