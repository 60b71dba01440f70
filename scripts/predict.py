"""Classify images: python scripts/predict.py outputs/latest photo.jpg FOLDER --top 3."""

import sys

from opsin.commands.predict import main

if __name__ == "__main__":
    sys.exit(main())
