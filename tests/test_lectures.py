"""docs/lectures.md: a row for each element of the lectures, with a command and a test that exist."""

import ast
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
from document_blocks import ROOT, commands
from document_commands import check_flags, check_overrides

from opsin.commands.command_table import COMMANDS
from opsin.config.locations import CONFIGS

PAGE = ROOT / "docs" / "lectures.md"
LIST = ROOT.parent / "shared" / "lectures.md"
ELEMENTS = 93


@dataclass(frozen=True)
class Row:
    """A row of the page: number, element, commands as words, and the names of its tests."""

    number: int
    element: str
    commands: tuple[tuple[str, ...], ...]
    tests: tuple[str, ...]


def rows() -> list[Row]:
    found = []
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if cells[0].isdigit():
            spans = [commands(span)[0] for span in re.findall(r"`([^`]*)`", cells[2])]
            tests = tuple(re.findall(r"`([^`]*)`", cells[3]))
            found.append(Row(int(cells[0]), cells[1], tuple(map(tuple, spans)), tests))
    return found


def trainings() -> list[tuple[str, ...]]:
    """Return the overrides of all commands with overrides, each once."""
    lines = {
        words for row in rows() for words in row.commands if words[:2] in (("opsin", "train"), ("opsin", "summary"))
    }
    found = set()
    for line in lines:
        overrides = [word for word in line if "=" in word and not word.startswith("--")]
        found.add(("-m", *overrides) if "-m" in line else tuple(overrides))
    return sorted(found)


def test_each_element_has_a_row_with_a_command_and_a_test() -> None:
    assert [row.number for row in rows()] == list(range(1, ELEMENTS + 1))
    assert len({row.element for row in rows()}) == ELEMENTS
    assert [row.number for row in rows() if not (row.commands and row.tests)] == []
    text = PAGE.read_text(encoding="utf-8")
    assert re.findall(r"\b(?:missing|partly|TODO)\b", text) == []


@pytest.mark.skipif(not LIST.exists(), reason="the list of elements is not on this machine")
def test_the_elements_are_those_of_the_list() -> None:
    listed = re.findall(r"^\| (\d+) \| (.*?) \| ", LIST.read_text(encoding="utf-8"), re.MULTILINE)
    assert [(str(row.number), row.element) for row in rows()] == listed


def test_each_test_exists() -> None:
    @cache
    def names(file: str) -> set[str]:
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}

    named = {test for row in rows() for test in row.tests}
    assert [test for test in sorted(named) if test.partition("::")[2] not in names(test.partition("::")[0])] == []


def test_the_command_of_each_row_exists() -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    groups = {path.name for path in CONFIGS.iterdir() if path.is_dir()}
    for program, name, *rest in (words for row in rows() for words in row.commands):
        if program == "opsin":
            assert name in COMMANDS
            for word in rest:
                group, _, options = word.partition("=")
                if group in groups:
                    assert [o for o in options.split(",") if not (CONFIGS / group / f"{o}.yaml").exists()] == [], word
        elif program == "make":
            assert name in targets
        else:
            assert (program, (ROOT / rest[0]).exists()) == ("jupyter", True)


def test_commands_have_their_flags() -> None:
    flags: dict[str, set[str]] = {}
    for program, name, *rest in (words for row in rows() for words in row.commands):
        if (program, name) != ("opsin", "train") and program == "opsin":
            flags.setdefault(name, set()).update(word for word in rest if word.startswith("--"))
    for name, used in flags.items():
        check_flags([name, *sorted(used)])


@pytest.mark.slow
@pytest.mark.parametrize("overrides", trainings(), ids=" ".join)
def test_overrides_of_the_commands_compose(overrides: tuple[str, ...], in_tmp: Path) -> None:
    (in_tmp / "PHOTOS").mkdir()
    check_overrides(list(overrides))
