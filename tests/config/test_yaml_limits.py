"""Limits of YAML text, and the files that are refused for them before they are loaded."""

from pathlib import Path

import pytest
import yaml

from opsin.config import ConfigSource, compose_raw
from opsin.config.sections import SECTIONS, SECTIONS_OF_MANY
from opsin.config.validation import ROOT
from opsin.config.yaml_limits import MAX_DEPTH, MAX_VALUES, ExcessiveYAML, check_yaml
from opsin.errors import UserError
from opsin.training.plan import SCHEMA


@pytest.mark.parametrize(
    "text",
    [
        "a: 1\nb: [1, 2, {c: d}]\n",
        "a: &x {b: 1}\nc: *x\nd: {<<: *x}\n",
        "[" * MAX_DEPTH + "]" * MAX_DEPTH,
        f"[{'1,' * (MAX_VALUES - 2)} 1]",
    ],
)
def test_text_up_to_the_limits_is_accepted(text: str) -> None:
    assert excess(text) is None


def excess(text: str) -> str | None:
    """Return the limit that a text exceeds."""
    try:
        check_yaml(text)
    except ExcessiveYAML as error:
        return str(error)
    return None


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), "levels deep"),
        (f"[{'1,' * (MAX_VALUES + 1)}]", "more than"),
        ("a: &x [*x]", "x contains itself"),
        ("a: &x {b: {c: *x}}", "x contains itself"),
        (
            "a: &a [1, 1, 1, 1, 1, 1]\n"
            + "".join(f"{b}: &{b} [{f'*{a}, ' * 9}]\n" for a, b in zip("abcdef", "bcdefg", strict=True)),
            "more than",
        ),
    ],
)
def test_text_beyond_a_limit_is_refused_with_its_line(text: str, problem: str) -> None:
    with pytest.raises(ExcessiveYAML, match=problem) as caught:
        check_yaml(text)
    assert caught.value.problem_mark is not None


def test_wrong_syntax_stays_an_error_of_yaml() -> None:
    with pytest.raises(yaml.YAMLError):
        check_yaml("a: [1")


def test_a_file_that_expands_is_refused_even_if_it_is_not_loaded(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    file = tmp_path / "experiment" / "bomb.yaml"
    file.write_text("a: &a [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1 if i else ''}, *a]\n" for i in range(3)))
    source = ConfigSource.of([str(tmp_path)])
    compose_raw(["model=mlp"], source)
    file.write_text("a: &x [*x]\n")
    with pytest.raises(UserError, match=r"bomb\.yaml, line 1: .* x contains itself"):
        compose_raw(["model=mlp"], source)


def test_sections_of_a_saved_config_are_those_of_the_plan() -> None:
    assert set(SECTIONS) == SCHEMA.keys() - {ROOT}
    assert set(SECTIONS_OF_MANY) == {key for key, section in SCHEMA.items() if section.many}
