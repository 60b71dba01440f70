"""Run `opsin` commands one after the other in one process: `python run_commands.py < COMMANDS.json`."""

import json
import sys

from opsin.commands.dispatch import main_of


def _run(words: list[str]) -> object:
    try:
        return main_of(words[1])(words[2:])
    except (Exception, SystemExit) as error:
        return repr(error)


if __name__ == "__main__":
    failed = [(words, code) for words in json.load(sys.stdin) if (code := _run(words))]
    sys.exit("\n".join(f"{' '.join(words)}: {code}" for words, code in failed) or 0)
