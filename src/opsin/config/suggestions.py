"""The nearest right word for a wrong one."""

from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import OmegaConf

from opsin.config import run_config
from opsin.config.yaml_files import load
from opsin.errors import did_you_mean


def hint(words: Sequence[str]) -> str:
    """The nearest right word for each word of a command line that names no part, option or key; empty if all do."""
    groups = {
        folder.name: [file.stem for file in folder.glob("*.yaml")]
        for folder in run_config.CONFIGS.iterdir()
        if folder.is_dir()
    }
    pairs = [tuple(word.split("=", 1)) for word in words if "=" in word and word[0] not in "+~-"]
    lines, chosen = [], []
    for key, value in pairs:
        if key in groups:
            wrong = [option for option in value.split(",") if option not in groups[key]]
            lines += [_nearest(f"{key}=", option, groups[key]) for option in wrong]
            chosen += [f"{key}={value.split(',')[0]}"] if not wrong else []
    try:
        keys = _keys(OmegaConf.to_container(load(chosen)))
    except Exception:  # a config file of their own is broken: Hydra has said what is wrong with it
        return "\n".join(lines)
    known = [*keys, *groups, "hydra"]
    for key, _ in pairs:
        if key not in known and key.split(".")[0] != "hydra":
            lines.append(_nearest("", key, known))
    return "\n".join(lines)


def _nearest(prefix: str, word: str, known: Sequence[str]) -> str:
    return f"{prefix}{word} is not known{did_you_mean(word, known, prefix)}"


def _keys(tree: Any, above: str = "") -> list[str]:
    """Every dotted key of a tree, sections and values."""
    found = []
    for key, value in tree.items():
        found += [f"{above}{key}", *(_keys(value, f"{above}{key}.") if isinstance(value, Mapping) else [])]
    return found
