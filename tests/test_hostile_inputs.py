"""Hostile inputs: each case of the corpus ends in a right answer or in one clear error, in time and in memory.

The corpus is made by the scripts in `tests/corpus`. A sample of it runs with the fast tests.
"""

import os
import tempfile
import zlib
from collections import Counter
from pathlib import Path

import pytest

from corpus.case import Case, command, fault_of, fault_of_message
from corpus.image_formats import format_cases
from corpus.odd_configs import odd_config_cases
from corpus.odd_folders import made_shards, odd_folder_cases, odd_shard_cases
from corpus.odd_images import odd_image_cases
from corpus.odd_runs import odd_run_cases
from opsin.data.decode import decode_image
from opsin.errors import UserError
from opsin.runs.directory import RunDirectory

KINDS = ("image", "config", "run", "folder", "shards")
"""First parts of the names of the cases."""

SAMPLE = 60
"""One case of so many runs with the fast tests."""


@pytest.fixture(scope="module")
def corpus(digits_run: RunDirectory, tmp_path_factory: pytest.TempPathFactory) -> list[Case]:
    """All cases."""
    shards = made_shards(tmp_path_factory.mktemp("corpus"))
    makers = (format_cases(), odd_image_cases(), odd_config_cases(), odd_run_cases(digits_run))
    return [case for maker in (*makers, odd_folder_cases(digits_run), odd_shard_cases(shards)) for case in maker]


def faults(cases: list[Case], root: Path) -> list[str]:
    """Run cases, each in a folder of its own, and return what is wrong with each."""
    found = []
    for case in cases:
        with tempfile.TemporaryDirectory(dir=root, ignore_cleanup_errors=True) as folder:
            found.append(fault_of(case, Path(folder)))
    return [fault for fault in found if fault]


def test_the_corpus_is_large_and_has_no_case_twice(corpus: list[Case]) -> None:
    kinds = Counter(case.name.split("/")[0] for case in corpus)
    assert set(kinds) == set(KINDS)
    assert kinds.total() > 1000
    assert max(Counter(case.name for case in corpus).values()) == 1


def test_a_sample_of_the_corpus_has_permitted_endings(corpus: list[Case], tmp_path: Path) -> None:
    sample = [case for case in corpus if zlib.crc32(case.name.encode()) % SAMPLE == 0]
    assert len(sample) > len(corpus) // (2 * SAMPLE)
    found = faults(sample, tmp_path)
    assert not found, "\n".join(found)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_whole_corpus_has_permitted_endings(corpus: list[Case], kind: str, tmp_path: Path) -> None:
    found = faults([case for case in corpus if case.name.startswith(f"{kind}/")], tmp_path)
    assert not found, "\n".join(found)


@pytest.mark.slow
def test_a_folder_of_odd_images_has_permitted_endings(tmp_path: Path) -> None:
    """Manual use: all images below `OPSIN_ODD_IMAGES`, such as those of Pillow's source archive."""
    root = os.environ.get("OPSIN_ODD_IMAGES")
    if not root:
        pytest.skip("OPSIN_ODD_IMAGES names no folder")
    files = sorted(path for path in Path(root).rglob("*") if path.is_file())
    assert len(files) > 100
    cases = [Case(str(file), lambda _, file=file, n=n: decode_image(file, n)) for file in files for n in (1, 3, 4)]
    assert faults(cases, tmp_path) == []


def test_the_checks_find_wrong_endings(tmp_path: Path) -> None:
    def refuses(message: str) -> None:
        raise UserError(message)

    def breaks(_: Path) -> None:
        raise KeyError("a")

    def takes_memory(_: Path) -> None:
        bytearray(3 * 2**29)[:: 2**12] = b"x" * (3 * 2**17)

    wrong = {
        "not refused": Case("a", lambda _: None, "refusal"),
        "refused": Case("b", lambda _: refuses("no"), "answer"),
        "internals": Case("c", lambda _: refuses("'NoneType' object is not subscriptable")),
        "KeyError": Case("d", breaks),
        "empty message": Case("e", lambda _: refuses("")),
        "MB": Case("f", takes_memory),
    }
    for text, case in wrong.items():
        assert text in (fault_of(case, tmp_path) or ""), case.name
    assert fault_of(Case("g", lambda _: refuses("seed must be a number")), tmp_path) is None
    assert fault_of_message("red \x1b[31m text") is not None
    with pytest.raises(UserError):
        command("evaluate", str(tmp_path))
