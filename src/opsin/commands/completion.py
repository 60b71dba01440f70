"""Complete commands, flags and overrides in a shell: `opsin completion`."""

import contextlib
import io
import os
import re
from collections.abc import Mapping
from itertools import pairwise

from opsin.commands.command_line import command, command_parser
from opsin.commands.command_table import COMMANDS

WITH_OVERRIDES = ("train", "find-lr", "summary", "prepare-data")
"""Commands whose arguments are overrides, which Hydra completes."""

SCRIPTS: Mapping[str, str] = {
    # By default bash divides words at `=`; the completion of an override is the whole `key=value`.
    "bash": """\
_opsin() {
    local IFS=$'\\n'
    COMPREPLY=($(COMP_LINE="${COMP_LINE:0:COMP_POINT}" opsin completion query 2>/dev/null))
}
COMP_WORDBREAKS=${COMP_WORDBREAKS//=}
complete -o nospace -o default -F _opsin opsin
""",
    "zsh": """\
(( $+functions[compdef] )) || { autoload -Uz compinit && compinit }
_opsin() {
    local -a found
    found=("${(@f)$(COMP_LINE="${(j: :)words[1,CURRENT]}" opsin completion query 2>/dev/null)}")
    if [[ -n "$found" ]]; then compadd -Q -S '' -- "${found[@]}"; else _files; fi
}
compdef _opsin opsin
""",
    "fish": """\
function __opsin
    COMP_LINE=(commandline -cp | string collect) opsin completion query 2>/dev/null | string trim --right
end
complete -c opsin -a '(__opsin)'
""",
}
"""For each shell, the script that makes it ask `opsin completion query`."""


@command
def main(arguments: list[str] | None = None) -> int:
    """Print the script of a shell, or the completions of the line in `COMP_LINE`."""
    parser = command_parser("completion")
    parser.add_argument(
        "shell", choices=(*SCRIPTS, "query"), help="your shell; query: print the completions of the line in COMP_LINE"
    )
    shell = parser.parse_args(arguments).shell
    print("\n".join(complete(os.environ.get("COMP_LINE", ""))) if shell == "query" else SCRIPTS[shell])
    return 0


def complete(line: str) -> list[str]:
    """Return the possible values of the last word of a line; none means the name of a file.

    A complete word ends with a space; after `=` or `.` no space follows.

    Args:
        line: The line up to the cursor, such as `opsin train model=cnn`.
    """
    *before, word = [part for part in line.split() if part] + ([""] if line.endswith(" ") or not line.strip() else [])
    if len(before) <= 1:
        found = [*COMMANDS, "--help", "--version"]
    elif before[1] not in COMMANDS:
        found = []
    elif word.startswith("-"):
        found = _flags(before[1])
    elif before[1] in WITH_OVERRIDES:
        found = _overrides([text for last, text in pairwise(before) if "=" in text or "-" in (last[0], text[0])], word)
    else:
        found = []
    return [text if text[-1] in "=./" else f"{text} " for text in found if text.startswith(word)]


def _flags(name: str) -> list[str]:
    """Return the flags that the help page of a command names."""
    from opsin.commands.dispatch import main_of

    with contextlib.redirect_stdout(io.StringIO()) as page, contextlib.suppress(SystemExit):
        main_of(name)(["--help"])
    return sorted(set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", page.getvalue())))


def _overrides(before: list[str], word: str) -> list[str]:
    """Return the groups, options and keys that Hydra proposes after some overrides."""
    from opsin.commands.train_cli import main as train

    os.environ["COMP_LINE"] = " ".join(["opsin", *before, word])
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        train(["--shell-completion", "query=bash"])
    return printed.getvalue().split()
