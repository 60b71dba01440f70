"""Text that every file and console can take, and `~` in paths."""

import io
import os
import sys
from pathlib import Path

import pytest

from opsin.runs.atomic import atomic_open, write_atomically
from opsin.runs.home import user_path
from opsin.runs.text import accept_any_text, valid_text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("K\u00e4fer \u732b", "K\u00e4fer \u732b"),
        (os.fsdecode(b"k\xe4fer"), r"k\xe4fer"),
        (os.fsdecode(b"\xff\xfe"), r"\xff\xfe"),
        ("\ud83d", r"\ud83d"),  # half of a pair
    ],
)
def test_text_can_be_encoded(text: str, shown: str, tmp_path: Path) -> None:
    assert valid_text(text) == shown
    write_atomically(tmp_path / "a", text)
    assert (tmp_path / "a").read_text(encoding="utf-8") == shown
    with atomic_open(tmp_path / "b", "w") as file:
        file.write(text)
    assert (tmp_path / "b").read_bytes().decode("utf-8").isprintable()


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1", "utf-8"])
def test_a_console_takes_any_text(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    console = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", console)
    accept_any_text()
    print("\u732b \u2502 \udce4")  # noqa: T201 - the console is the subject
    console.flush()
    assert "\\udce4" in console.buffer.getvalue().decode(encoding)


def test_a_home_folder_is_expanded_and_an_unknown_user_is_not(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert user_path("~/photos") == tmp_path / "photos"
    assert user_path(Path("~no such user/photos")) == Path("~no such user/photos")
