"""The project of the user: the nearest folder whose `pyproject.toml` has a table `[tool.opsin]`.

It is looked for where a command starts, in the working directory and above it. Its `configs/` comes before Opsin's own,
its packages are importable, and it may permit them as targets. A run directory may come from somebody else: neither it
nor a folder inside it is ever a project.
"""

import contextlib
import functools
import io
import os
import re
import sys
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from opsin.config.sections import SECTIONS
from opsin.config.yaml_limits import check_yaml
from opsin.errors import UserError, did_you_mean
from opsin.runs.directory import SWEEP_FILE, RunDirectory
from opsin.runs.rank import is_spawned
from opsin.runs.regular_file import read_text
from opsin.runs.result import WAY_OUT

PROJECT_FILE = "pyproject.toml"
"""File of the user's project."""

MAX_BYTES = 1_000_000
"""Part of a project file of somebody else that is searched for the table."""

ROOT_USER = 0
"""Number of the user that administers the machine."""

KEYS = ("targets", "experiment")
"""Keys of the table `[tool.opsin]`."""

SWEEP_KEYS = ("overrides",)
"""Keys that every `sweep.yaml` of Opsin has."""


@dataclass(frozen=True)
class Project:
    """A project of the user.

    Attributes:
        root: Its folder.
        targets: Packages whose constructors a config may name as `_target_`.
        experiment: Experiment of a train command that names none; None for Opsin's defaults.
    """

    root: Path
    targets: tuple[str, ...] = ()
    experiment: str | None = None

    @property
    def configs(self) -> Path | None:
        """The folder of its config files; None if it has none."""
        folder = self.root / "configs"
        return folder if folder.is_dir() else None

    def make_importable(self) -> None:
        """Append the folders of its packages to the search path of modules, where they hide no installed package."""
        sys.path += [str(folder) for folder in self._package_folders() if str(folder) not in sys.path]

    def refuse_other_copy(self, package: str) -> None:
        """Refuse an imported package of the project's name that is not the one in the project.

        Raises:
            UserError: An installed package or an earlier project has a package of this name.
        """
        top = package.partition(".")[0]
        own = self.places_of(top)
        found = [str(place) for place in getattr(sys.modules.get(top), "__path__", [])]
        found += [str(getattr(sys.modules.get(top), "__file__", None) or "")]
        if own and not any(Path(place).resolve() in [path.resolve() for path in own] for place in found if place):
            raise UserError(
                f"{top} is imported from {next(filter(None, found), 'elsewhere')}, not from {own[0]}: "
                f"uninstall that copy, or rename the package of the project"
            )

    def places_of(self, module: str) -> list[Path]:
        """Return the folders and files of the project that are a module; nothing is imported."""
        parts = module.split(".")
        if not all(part.isidentifier() for part in parts):
            return []
        folders = [folder.joinpath(*parts) for folder in self._package_folders()]
        places = [place for folder in folders for place in (folder, folder.with_suffix(".py"))]
        with contextlib.suppress(OSError):  # a name may be too long for a file
            return [place for place in places if place.is_file() or any(place.glob("*.py"))]
        return []

    def has_code_of(self, name: str) -> bool:
        """Return whether the package of a dotted name lies in the project, outside all runs and sweeps."""
        modules = accumulate(name.split(".")[:-1], "{}.{}".format)
        places = [place for module in modules for place in self.places_of(module)]
        folders = {folder for place in places for folder in (place, *place.parents) if self.root in folder.parents}
        return bool(places) and not any(map(_mark, folders))

    def _package_folders(self) -> list[Path]:
        return [folder for folder in (self.root / "src", self.root) if folder.is_dir()]


def find_project() -> Project | None:
    """Return the project of the working directory; None outside a project.

    Raises:
        UserError: A project file cannot be read, or its table has an unknown key or a wrong value.
    """
    here = Path.cwd()
    for folder in (here, *here.parents):
        file = folder / PROJECT_FILE
        if not file.is_file():
            continue
        if _is_of_others(folder, here):
            _announce_ignored(file, "it belongs to another user. To use it, start in its folder")
        elif mark := next(filter(None, map(_mark, (folder, *folder.parents))), None):
            _announce_ignored(
                file,
                f"{mark} marks a run or a sweep, which may come from somebody else. If it is neither, rename "
                f"{mark.name} or move it to another folder",
            )
        elif (table := _table(file)) is not None:
            return _project(file, table)
    return None


def _mark(folder: Path) -> Path | None:
    """Return the file that marks a folder as a run or a sweep; None if it is neither.

    Runs and sweeps may come from somebody else. A file of the same name in a project of the user has other keys.
    """
    run, sweep = RunDirectory(folder), folder / SWEEP_FILE
    if run.config.exists() and (run.result.exists() or run.overrides.exists() or _may_hold(run.config, SECTIONS)):
        return run.config
    return sweep if sweep.exists() and _may_hold(sweep, SWEEP_KEYS) else None


def _may_hold(file: Path, keys: Sequence[str]) -> bool:
    """Return whether a YAML file holds one of some keys at its top level, or cannot be read as keys."""
    try:
        text = read_text(file, WAY_OUT)
        check_yaml(text)
        tree = OmegaConf.to_container(OmegaConf.load(io.StringIO(text)))  # reads keys as a command does
    except Exception:  # damaged files raise anything
        return True
    return not isinstance(tree, dict) or not tree or not {*map(str, tree)}.isdisjoint(keys)


@functools.cache
def _announce_ignored(file: Path, reason: str) -> None:
    """Print once that a project file gives no permission, if it has the table. The file may be of somebody else."""
    with contextlib.suppress(OSError), file.open("rb") as content:
        if not is_spawned() and re.search(rb"^[ \t]*\[tool\.opsin\]", content.read(MAX_BYTES), re.MULTILINE):
            sys.stderr.write(f"{file} is ignored, because {reason}\n")


def _is_of_others(folder: Path, here: Path) -> bool:
    """Return whether a folder above the working directory has a project file of another user.

    A folder such as `/tmp` is open to all users of the machine.
    """
    owners = (ROOT_USER, os.getuid()) if hasattr(os, "getuid") else ()
    return folder != here and bool(owners) and (folder / PROJECT_FILE).stat().st_uid not in owners


def _table(file: Path) -> dict[str, Any] | None:
    try:
        settings = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {file}: {error}") from None
    table = settings.get("tool", {}).get("opsin")
    if table is not None and not isinstance(table, dict):
        raise UserError(f"{file}: [tool.opsin] must be a table")
    return table


def _project(file: Path, table: dict[str, Any]) -> Project:
    for key in table:
        if key not in KEYS:
            raise UserError(f"{file}: {key} under [tool.opsin] is not known{did_you_mean(key, KEYS) or '.'}")
    targets, experiment = table.get("targets", []), table.get("experiment")
    if not isinstance(targets, list) or not all(isinstance(name, str) for name in targets):
        raise UserError(f'{file}: targets under [tool.opsin] must be a list of package names, such as ["my_package"]')
    if experiment is not None and not isinstance(experiment, str):
        raise UserError(f'{file}: experiment under [tool.opsin] must be the name of an experiment, such as "first"')
    return Project(file.parent, tuple(targets), experiment)
