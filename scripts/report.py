"""Write the report of a run again: python scripts/report.py outputs/latest."""

import sys

from opsin.commands.dispatch import run_script

if __name__ == "__main__":
    sys.exit(run_script(__file__))
