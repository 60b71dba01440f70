"""Text that every file and console can encode, and `~` in paths."""

import ast
import csv
import io
import logging
import os
import re
import sys
from pathlib import Path

import pytest
from rich.table import Table
from rich.text import Text

from opsin.data.progress import progress
from opsin.runs.atomic import atomic_open, write_atomically
from opsin.runs.escaping import CSVLines, EscapeControls, escape_output, valid_text
from opsin.runs.home import user_path
from opsin.runs.rich_console import TerminalConsole


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


def test_every_text_is_one_cell_of_a_csv_file() -> None:
    cells = ["Icon\r", "a\rb", "\r\n", "a\r\n", "new\nline", 'a,"b"', "", " space ", "\r"]
    text, table = io.StringIO(newline=""), io.StringIO(newline="")
    csv.writer(CSVLines(text)).writerows([cells, cells])
    assert list(csv.reader(text.getvalue().splitlines(keepends=True))) == [cells, cells]
    writer = csv.DictWriter(CSVLines(table), ["x", *cells])
    writer.writeheader()
    assert table.getvalue().startswith('x,"Icon\r","a\rb",')
    csv.writer(CSVLines(table)).writerow(["plain", 1, None])
    assert table.getvalue().endswith("\nplain,1,\n")


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1", "utf-8"])
def test_a_console_takes_any_text(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    console = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", console)
    escape_output()
    print("\u732b \u2502 \udce4")  # noqa: T201 - the console is the subject
    console.flush()
    assert "\\udce4" in console.buffer.getvalue().decode(encoding)


def test_a_home_folder_is_expanded_and_an_unknown_user_is_not(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert user_path("~/photos") == tmp_path / "photos"
    assert user_path(Path("~no such user/photos")) == Path("~no such user/photos")


HOSTILE = (
    "a\x1b[31mred",
    "\x1b]0;title\x07",
    "\x1b[2J",
    "back\x08space",
    "over\rwritten",
    "\x9b31m",
    "\x7f",
    "gpj.\u202eexe",
    "\u2066hidden\u2069",
    "next\u2028line",
)
"""Names that would change a terminal or hide other text."""


class Terminal(io.TextIOWrapper):
    """A terminal in memory."""

    def __init__(self) -> None:
        super().__init__(io.BytesIO(), encoding="utf-8", write_through=True)

    def isatty(self) -> bool:
        return True

    @property
    def shown(self) -> str:
        return self.buffer.getvalue().decode()


def open_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Replace stdout and stderr; in a fixture, pytest would replace them again before the test."""
    found = Terminal()
    monkeypatch.setattr(sys, "stdout", found)
    monkeypatch.setattr(sys, "stderr", found)
    monkeypatch.setenv("TERM", "xterm")
    return found


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_control_characters_are_escaped_in_each_output(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    terminal = open_terminal(monkeypatch)
    escape_output()
    escape_output()  # a command may start another one
    print(f"class {name}")  # noqa: T201 - the console is the subject
    sys.stderr.write(f"class {name}\n")
    log = logging.getLogger("opsin.test_text")
    log.propagate = False
    for handler in (logging.StreamHandler(sys.stdout), logging.FileHandler(tmp_path / "x.log", encoding="utf-8")):
        handler.addFilter(EscapeControls())
        log.addHandler(handler)
    try:
        raise ValueError(name)
    except ValueError:
        log.exception("class %s", name)
    for handler in list(log.handlers):
        handler.close()
        log.removeHandler(handler)
    for text in (terminal.shown, (tmp_path / "x.log").read_text(encoding="utf-8")):
        assert text.replace("\n", "").replace("\r\n", "").isprintable()
    assert len(terminal.shown.splitlines()) > 5  # line feeds stay
    assert "class " + name.encode("unicode_escape").decode() in terminal.shown


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_a_console_of_rich_escapes_names_and_keeps_its_own_colors(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = open_terminal(monkeypatch)
    escape_output()
    table = Table(name, title=name)
    table.add_row(Text(name))
    console = TerminalConsole(width=200, color_system="standard")
    console.print(table)
    console.print(name, style="bold red")
    written = terminal.shown
    assert "\x1b[1;31m" in written
    plain = re.sub(r"\x1b\[[\d;]*m", "", written)
    assert plain.replace("\n", "").isprintable()
    assert name.replace("\r", "").replace("\x08", "").replace("\x07", "").encode("unicode_escape").decode() in plain


@pytest.mark.parametrize("name", ["model.stages=[layer4]", "[/red]", "[bold]a[/]", ":cat:", "a\\\\[b]"])
def test_a_console_of_rich_shows_brackets_and_colons_as_they_are(name: str) -> None:
    console = TerminalConsole(file=io.StringIO(), width=80)
    table = Table("run", name, title=name, caption=name)
    table.add_row("0", name)
    console.print(table)
    console.print(name)
    assert console.file.getvalue().count(name) == 5  # type: ignore[attr-defined]


@pytest.mark.parametrize("work", ["[red] 0.5 [/]", ":cat:"])
def test_a_progress_bar_shows_its_work_as_it_is(work: str, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = open_terminal(monkeypatch)
    monkeypatch.setattr("opsin.data.progress._LONG_S", 0)
    with progress(2, work) as advance:
        advance(1)
    assert work in terminal.shown


def test_progress_bars_of_libraries_work(monkeypatch: pytest.MonkeyPatch) -> None:
    from tqdm import tqdm

    terminal = open_terminal(monkeypatch)
    escape_output()
    with tqdm(total=2) as outer, tqdm(total=1, position=1) as inner:
        inner.update()
        outer.update()
    assert "\\" not in terminal.shown
    assert "\r" in terminal.shown


def test_every_console_of_rich_is_an_escaping_one() -> None:
    made = [
        (f"{file.name}:{node.lineno}", getattr(node.func, "attr", getattr(node.func, "id", "")))
        for file in (Path(__file__).parents[2] / "src" / "opsin").rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
    ]
    assert [place for place, name in made if name in ("Console", "get_console")] == []  # use TerminalConsole
    assert len([place for place, name in made if name == "TerminalConsole"]) > 3
