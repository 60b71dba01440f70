"""Write the report of a run again: python scripts/report.py outputs/latest."""

import sys

from opsin.commands.report import main

if __name__ == "__main__":
    sys.exit(main())
