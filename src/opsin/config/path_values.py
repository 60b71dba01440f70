"""Paths in a config: expand `~`, and make the paths absolute that a later process must find."""

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from opsin.config.overrides import PATHS
from opsin.errors import UserError
from opsin.runs.directory import RunDirectory
from opsin.runs.home import EMPTY, expand_home, real_path, user_path

WEIGHT_NAMES = ("imagenet", "opsin", "none")
"""Values of `model.weights` that are names, even if a file or folder of that name exists."""


def resolve_paths(config: DictConfig) -> None:
    """Expand `~` in every path, and make the paths absolute that a later process must find.

    Raises:
        UserError: A path is empty text.
    """
    for key in (*PATHS, "output_dir"):
        value = OmegaConf.select(config, key, throw_on_missing=False)
        if isinstance(value, str) and not value.strip():
            raise UserError(f"{key} is empty, {EMPTY}: set it to a path, or leave it out")
        if not isinstance(value, str) or _is_name(key, value):
            continue
        path = expand_home(value)
        if key == "data_dir" or (key != "output_dir" and Path(path).exists()):
            path = str(real_path(path))
        if path != value:  # an unchanged value is not written, so a reference to another key stays a reference
            OmegaConf.update(config, key, path)


def _is_name(key: str, value: str) -> bool:
    """Return whether a value names weights or a network although a file or folder has the same name."""
    if key == "model.weights":
        return value in WEIGHT_NAMES
    return key == "model.teacher" and not RunDirectory(user_path(value)).config.is_file()
