"""The configuration reference: it describes every key of every config file."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from document_blocks import ROOT

from opsin.config import CONFIGS
from opsin.config.help_page import describe
from opsin.config.hydra_keys import refuse_typed_without_effect

EXTENSIONS = ROOT / "docs" / "extensions"


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    """The pages of the reference by file name."""
    pytest.importorskip("sphinx")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(EXTENSIONS), *sys.path])
        import config_reference

        found: dict[str, str] = config_reference.pages()
    return found


@pytest.mark.slow
def test_every_key_of_every_config_file_is_in_the_reference(pages: dict[str, str]) -> None:
    rows = [row for text in pages.values() for row in re.findall(r"^\| `([\w.]+)` \|", text, re.MULTILINE)]
    known, groups = set(rows), {name.removesuffix(".md") for name in pages}
    files = [file for file in CONFIGS.rglob("*.yaml") if "hydra" not in file.parts]
    assert len(files) > 90
    missing = {f"{file.name}: {key}" for file in files for key in _keys(file, groups) if not _is_known(key, known)}
    assert missing == {"train.yaml: hydra.job.name", "train.yaml: hydra.output_subdir"}  # always refused


def test_no_key_of_the_reference_is_always_refused(pages: dict[str, str]) -> None:
    rows = re.findall(r"^\| `(hydra[\w.]+)` \|", pages["run.md"], re.MULTILINE)
    assert "hydra.run.dir" in rows
    refuse_typed_without_effect([f"{key}=x" for key in rows])


def test_every_option_has_a_heading(pages: dict[str, str]) -> None:
    files = [file for file in CONFIGS.glob("*/*.yaml") if file.parent.name != "hydra"]
    assert [file for file in files if f"\n## {file.stem}\n" not in pages[f"{file.parent.name}.md"]] == []


def test_options_have_their_command_and_all_lines_of_their_description(pages: dict[str, str]) -> None:
    text = pages["experiment.md"]
    for file in (CONFIGS / "experiment").glob("*.yaml"):
        assert f"```bash\nopsin train experiment={file.stem}\n```" in text
    assert "56.6 % on 18,728 test images. PHOTOS has 6,000 images" in text


def test_the_first_line_of_a_description_is_complete() -> None:
    """The help page shows only this line."""
    files = [file for file in CONFIGS.glob("*/*.yaml") if file.parent.name not in ("hydra", "logger")]
    assert [file.name for file in files if not describe(file).endswith(".")] == []


def test_every_key_and_group_has_a_description(pages: dict[str, str]) -> None:
    bare = [line for text in pages.values() for line in text.splitlines() if re.search(r"\|\s*\|$", line)]
    assert bare == []


def test_ranges_choices_and_defaults(pages: dict[str, str]) -> None:
    assert "| `optimizer.lr` | number > 0 | `0.002` |" in pages["optimizer.md"]
    assert "| `trainer.deterministic` | `off`, `warn`, `strict` | `off` |" in pages["trainer.md"]
    assert "| `datamodule.path` | text | required |" in pages["datamodule.md"]
    assert "| `callbacks.early_stopping.patience` | integer ≥ 1 | `10` |" in pages["callbacks.md"]


def _keys(file: Path, groups: set[str]) -> Iterator[str]:
    """Return the dotted keys of a config file as on the command line."""
    text = file.read_text(encoding="utf-8")
    group = file.parent.name
    above = f"{group}." if group in groups and "@package _global_" not in text else ""
    yield from _leaves(yaml.safe_load(text) or {}, above)


def _leaves(values: dict[str, Any], above: str) -> Iterator[str]:
    for name, value in values.items():
        if name in ("_target_", "defaults"):
            continue
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{above}{name}.")
        elif not (value is None and above == "callbacks."):  # a callback that is removed
            yield f"{above}{name}"


def _is_known(key: str, known: set[str]) -> bool:
    """Return whether a key, or the mapping that it is in, is described."""
    parts = key.split(".")
    return any(".".join(parts[:count]) in known for count in range(1, len(parts) + 1))
