"""Code blocks of the documents, and the commands in them."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted(
    path
    for path in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    if not {"_build", "config"} & set(path.relative_to(ROOT).parts)
)
"""The documents that are part of the repository."""

BLOCK = re.compile(r"(?:<!-- (checked): [^\n]*-->\n)?^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A code block.

    Attributes:
        language: `bash`, `python`, `text`, ...
        text: Its lines.
        runs: Whether it runs in tests; a block after a comment `<!-- checked: REASON -->` is only checked.
    """

    language: str
    text: str
    runs: bool


def blocks(document: Path, language: str) -> list[Block]:
    """Return the code blocks of a document in one language."""
    found = [Block(m[2], m[3], not m[1]) for m in BLOCK.finditer(document.read_text(encoding="utf-8"))]
    return [block for block in found if block.language == language]


def commands(text: str) -> list[list[str]]:
    """Return the commands of a shell block as words, with `opsin NAME` for the scripts of a clone."""
    words = [shlex.split(line, comments=True) for line in text.replace("\\\n", " ").splitlines()]
    return [_as_opsin(line) for line in words if line]


def indented(document: Path) -> list[list[str]]:
    """Return the commands in the indented blocks of a document."""
    text = document.read_text(encoding="utf-8")
    lines = re.findall(r"^ {4}((?:opsin|python) (?:.*\\\n)*.*)", text, re.MULTILINE)
    return [command for line in lines for command in commands(line)]


def command_lines(document: Path) -> list[str]:
    """Return the lines of the shell blocks and the indented commands of a document, without the quoted parts."""
    text = document.read_text(encoding="utf-8")
    shell = "\n".join(block.text for language in ("bash", "sh") for block in blocks(document, language))
    lines = [*shell.splitlines(), *re.findall(r"^ {4}((?:opsin|python|torchrun|srun) .*)", text, re.MULTILINE)]
    return [re.sub(r"\s#.*", "", re.sub(r"'[^']*'|\"[^\"]*\"", "", line)) for line in lines]


def _as_opsin(words: list[str]) -> list[str]:
    if words[0] == "python" and words[1] == "train.py":
        return ["opsin", "train", *words[2:]]
    if words[0] == "python" and words[1].startswith("scripts/"):
        return ["opsin", Path(words[1]).stem.replace("_", "-"), *words[2:]]
    return words
