"""Write the embeddings of images: python scripts/embed.py outputs/latest [OVERRIDES | FOLDER]."""

import sys

from opsin.commands.embed import main

if __name__ == "__main__":
    sys.exit(main())
