"""The config files that a command may use: Opsin's own and those in folders of the user."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from opsin.config import locations
from opsin.config.project import Project, find_project
from opsin.errors import UserError
from opsin.runs.home import expand_home

PRIMARY = "train"
"""The primary config: `configs/train.yaml`."""

FILE, PACKAGE = "file://", "pkg://"


@dataclass(frozen=True)
class ConfigSource:
    """The search path and the primary config of a composition.

    The folders of the user come first, then `configs/` of the project in which the command starts, then Opsin's own.
    The first file of a name counts.

    Attributes:
        search_path: Further folders (absolute paths) and packages (`pkg://...`), in the order of the search.
        config_name: Name of the primary config, without `.yaml`.
        project: Folder of the project; None without one.
    """

    search_path: tuple[str, ...] = ()
    config_name: str = PRIMARY
    project: str | None = field(default_factory=lambda: _project_root())

    @classmethod
    def of(cls, folders: Iterable[str], config_name: str | None = None) -> "ConfigSource":
        """Return the source that `--config-dir` and `--config-name` describe.

        Raises:
            UserError: A folder does not exist.
        """
        found = tuple(dict.fromkeys(map(_absolute, folders)))
        for folder in found:
            if not folder.startswith(PACKAGE) and not Path(folder).is_dir():
                raise UserError(f"--config-dir {folder}: there is no such folder")
        return cls(found, (config_name or PRIMARY).removesuffix(".yaml"))

    @classmethod
    def recorded(cls, record: Mapping[str, Any]) -> "ConfigSource":
        """Return the source that a run recorded in `overrides.yaml`; for display and comparison only."""
        return cls(tuple(record.get("search_path", ())), record.get("config_name", PRIMARY), record.get("project"))

    @property
    def folders(self) -> tuple[Path, ...]:
        """All folders with config files, in the order of the search."""
        own = (Path(entry) for entry in self._before_opsin if not entry.startswith(PACKAGE))
        return (*own, locations.CONFIGS)

    @property
    def urls(self) -> tuple[str, ...]:
        """The entries of the search path before Opsin's own, in Hydra's notation."""
        return tuple(entry if entry.startswith(PACKAGE) else FILE + entry for entry in self._before_opsin)

    @property
    def _before_opsin(self) -> tuple[str, ...]:
        configs = Project(Path(self.project)).configs if self.project else None
        return (*self.search_path, *([str(configs)] if configs else []))

    @property
    def flags(self) -> tuple[str, ...]:
        """The command-line arguments that describe this source."""
        name = () if self.config_name == PRIMARY else ("--config-name", self.config_name)
        return (*name, *(argument for entry in self.search_path for argument in ("--config-dir", entry)))

    def extended(self, entries: Iterable[str]) -> "ConfigSource":
        """Return the source with further entries, such as those of `hydra.searchpath`."""
        return replace(self, search_path=tuple(dict.fromkeys([*self.search_path, *map(_absolute, entries)])))


def _project_root() -> str | None:
    project = find_project()
    return str(project.root) if project else None


def _absolute(entry: str) -> str:
    return entry if entry.startswith(PACKAGE) else os.path.abspath(expand_home(entry.removeprefix(FILE)))  # noqa: PTH100
