"""Write a small project of your own: a network, a dataset, an augmentation, a callback, an experiment and a test."""

import keyword
import re
import sys
from importlib.util import find_spec
from pathlib import Path

from opsin.commands.command_line import command, command_parser
from opsin.errors import UserError
from opsin.runs.atomic import check_writable, write_errors
from opsin.runs.home import user_path
from opsin.runs.quoting import opsin_command, printed_command

TEMPLATE = Path(__file__).parent / "project_template"
"""The files of the project, each with the suffix `.template`."""

PLACEHOLDER = "my_project"
"""The name in the files and paths of the template."""


@command
def main(arguments: list[str] | None = None) -> int:
    """Write the project, and print the next commands."""
    parser = command_parser("new")
    parser.add_argument("folder", type=user_path, help="the folder to create; its last part is the name of the package")
    folder = parser.parse_args(arguments).folder
    write_project(folder)
    print(f"wrote {len(_files())} files to {folder}; next:")
    print(f"  {printed_command(['cd', folder])}")
    print(f"  {opsin_command('train')}")
    return 0


def write_project(folder: Path) -> None:
    """Write the template as a project; the name of the folder becomes the name of its package.

    Raises:
        UserError: The folder exists or cannot be written to, or its name is not that of a new Python package.
    """
    name = folder.absolute().name
    if folder.exists():
        raise UserError(f"{folder} exists already: choose another name, or delete it")
    _check_name(name)
    check_writable(folder.absolute().parent, "the folder")
    with write_errors(folder, "the folder"):
        for file in _files():
            target = folder / str(file.relative_to(TEMPLATE).with_suffix("")).replace(PLACEHOLDER, name)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(file.read_text(encoding="utf-8").replace(PLACEHOLDER, name), encoding="utf-8")


def _files() -> list[Path]:
    return sorted(TEMPLATE.rglob("*.template"))


def _check_name(name: str) -> None:
    usable = re.sub(r"\W+", "_", name, flags=re.ASCII).strip("_").lower()
    usable = f"my_{usable}" if not usable or usable[0].isdigit() or keyword.iskeyword(usable) else usable
    if _is_taken(usable):
        usable = f"my_{usable}"
    if name.startswith("_"):
        raise UserError(f"{name} cannot be the name of a Python package that configs name: use {usable}")
    if name != usable and (not name.isidentifier() or not name.isascii() or keyword.iskeyword(name)):
        raise UserError(f"{name} cannot be the name of a Python package: use {usable}")
    if _is_taken(name):
        raise UserError(f"{name} is the name of an installed Python package: use {usable}")


def _is_taken(name: str) -> bool:
    """Return whether a module of this name is part of Python or installed."""
    return name in sys.stdlib_module_names or find_spec(name) is not None
