"""References that expand exponentially are refused; ordinary and circular ones keep their results and messages."""

from pathlib import Path

import pytest
import yaml
from omegaconf import Container, OmegaConf

from opsin.config import ConfigSource, RunConfig, compose, reference_limits
from opsin.config.run_config import plain
from opsin.errors import UserError
from opsin.runs.directory import RunDirectory


@pytest.fixture(autouse=True)
def small_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit that is reached in a tenth of a second."""
    monkeypatch.setattr(reference_limits, "MAX_VALUES", 2_000)


def doubling(text: str, last: str, lines: int = 40) -> str:
    """Return YAML in which every line refers twice to the next one."""
    return "".join(f"{text.format(i, i + 1)}\n" for i in range(lines)) + last.format(lines)


@pytest.mark.parametrize(
    "text",
    [
        doubling("x{0}: ${{x{1}}}${{x{1}}}", "x{0}: aaaaaaaaaa"),
        doubling("x{0}: {{a: '${{x{1}}}', b: ['${{x{1}}}']}}", "x{0}: {{a: 1}}"),
        doubling("x{0}: {{a: '${{..x{1}.a}}${{..x{1}.a}}'}}", "x{0}: {{a: 1}}"),
        doubling("x{0}: ${{oc.select:x{1}}}${{oc.select:x{1}}}", "x{0}: a"),
        doubling("k{0}: x{0}\nx{0}: ${{${{k{1}}}}}${{${{k{1}}}}}", "k{0}: x{0}\nx{0}: a"),
        doubling("x{0}: ${{x{1}}}${{x{1}}}", f"x{{0}}: {'a' * 200_000}"),
        f"x: {list(range(1500))}\ny: ${{x}}\nz: ${{x}}",
    ],
)
def test_references_that_expand_are_refused_with_the_file_and_the_key(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(
        UserError, match=r"config\.yaml is damaged \(references expand to more than 2,000 values \(at [xz]"
    ):
        RunConfig.load(RunDirectory(tmp_path))


@pytest.mark.slow
def test_a_value_of_the_process_is_limited_while_a_config_is_composed(in_tmp: Path) -> None:
    (in_tmp / "experiment").mkdir()
    text = doubling("x{0}: ${{x{1}}}${{x{1}}}", "x{0}: a")
    (in_tmp / "experiment" / "mine.yaml").write_text(f"# @package _global_\n{text}\noutput_dir: ${{now:${{x0}}}}\n")
    with pytest.raises(UserError, match=r"cannot be resolved: references expand to more than"):
        compose(["experiment=mine"], source=ConfigSource.of([str(in_tmp)]))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: ${b}\nb: ${a}", "Recursive interpolation detected"),
        ("a: {b: '${a}'}", "Interpolation to parent node detected"),
        ("a: ${b.c}", "Interpolation key 'b.c' not found"),
    ],
)
def test_wrong_references_keep_their_messages(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        plain(OmegaConf.create(text))
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(UserError, match=rf"config\.yaml is damaged \({message}"):
        RunConfig.load(RunDirectory(tmp_path))


def test_ordinary_references_are_resolved_and_the_limit_ends_with_the_block() -> None:
    resolve = Container.resolve_parse_tree
    config = OmegaConf.create({"a": 2, "b": [f"${{a}} {i}" for i in range(20)], "c": "${b}", "d": "${c}"})
    for _ in range(3):
        tree = plain(config)
    assert tree["d"] == tree["b"] == [f"2 {i}" for i in range(20)]
    with pytest.raises(UserError):
        plain(OmegaConf.create(yaml.safe_load(doubling("x{0}: ${{x{1}}}${{x{1}}}", "x{0}: a"))))
    assert Container.resolve_parse_tree is resolve
