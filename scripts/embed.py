"""Write the embeddings of images: python scripts/embed.py outputs/latest [OVERRIDES | FOLDER]."""

import sys

from opsin.commands.dispatch import run_script

if __name__ == "__main__":
    sys.exit(run_script(__file__))
