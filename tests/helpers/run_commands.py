"""Run `opsin` commands one after the other in one process: `python run_commands.py < COMMANDS.json`."""

import importlib
import json
import sys
from collections.abc import Callable


def main_of(verb: str) -> Callable[[list[str]], int]:
    """Return the `main` function of a command."""
    module = {"train": "train_cli"}.get(verb, verb.replace("-", "_"))
    return importlib.import_module(f"opsin.commands.{module}").main  # type: ignore[no-any-return]


def _run(words: list[str]) -> object:
    try:
        return main_of(words[1])(words[2:])
    except (Exception, SystemExit) as error:
        return repr(error)


if __name__ == "__main__":
    failed = [(words, code) for words in json.load(sys.stdin) if (code := _run(words))]
    sys.exit("\n".join(f"{' '.join(words)}: {code}" for words, code in failed))
