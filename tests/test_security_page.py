"""docs/security.md: each promise names tests, and each of them exists."""

import ast
import re
from functools import cache

import pytest
from lock_file import ROOT
from security_guards import GUARDS, Guard

PAGE = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
ROWS = [line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith(("| promise", "| ---"))]


@pytest.mark.parametrize("row", ROWS, ids=[row[2:50] for row in ROWS])
def test_each_promise_has_tests_that_exist(row: str) -> None:
    promise, tests = row.removeprefix("| ").removesuffix(" |").split(" | ")
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", tests)
    assert promise.endswith(".")
    assert named
    assert re.sub(r"`[^`]+`|, ", "", tests) == ""
    for file, name in named:
        assert name in _functions(file), f"{file} has no test {name}"


@cache
def _functions(file: str) -> set[str]:
    """Return the names of the functions of a file of tests."""
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_the_page_is_in_the_site_and_has_all_parts() -> None:
    assert "\nsecurity\n" in (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    assert len(ROWS) > 20


@pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: f"{guard.file}-{guard.code.strip()[:40]}")
def test_each_guard_can_be_removed_and_has_tests_that_exist(guard: Guard) -> None:
    assert (ROOT / "src" / "opsin" / guard.file).read_text(encoding="utf-8").count(guard.code) == 1
    for test in guard.tests.split():
        file, _, name = test.partition("::")
        assert name in {"", *_functions(f"tests/{file}")}
