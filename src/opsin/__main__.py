"""The command `opsin`, also as `python -m opsin`; every job of a sweep and every process of a run starts here."""

import sys

from opsin.commands.dispatch import main

if __name__ == "__main__":
    sys.exit(main())
