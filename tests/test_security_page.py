"""docs/security.md: each promise names tests, and each of them exists."""

import ast
import re

import pytest
from lock_file import ROOT

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
        functions = {
            node.name for node in ast.parse((ROOT / file).read_text(encoding="utf-8")).body if hasattr(node, "name")
        }
        assert name in functions, f"{file} has no test {name}"


def test_the_page_is_in_the_site_and_has_all_parts() -> None:
    assert "\nsecurity\n" in (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    assert len(ROWS) > 20
