"""Measure a finished run again, from its directory alone: python scripts/evaluate.py outputs/latest."""

import argparse
import json
import sys
from dataclasses import asdict

from opsin.errors import UserError
from opsin.runs.directory import RunDirectory


def main() -> int:
    """Print the metrics of the best checkpoint, or one line that says what is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", help="a run directory, such as outputs/latest")
    parser.add_argument("--split", choices=("test", "val"), default="test")
    parser.add_argument("--json", action="store_true", help="print everything, per class too, as JSON")
    arguments = parser.parse_args()
    try:
        run = RunDirectory.of(arguments.run)
        from opsin.commands.evaluate import evaluate

        found = evaluate(run, arguments.split)
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    if arguments.json:
        print(json.dumps(asdict(found), indent=2))
    else:
        print("\n".join(f"{name:16} {value:.6f}" for name, value in sorted(found.metrics.items())))
    return 0


if __name__ == "__main__":
    sys.exit(main())
