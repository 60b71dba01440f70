"""The short form `opsin train FOLDER`, and the overrides that it stands for."""

import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import takewhile
from pathlib import Path

from opsin.config.arguments import CommandLine
from opsin.config.overrides import find_value, is_word, key_of
from opsin.config.project import PROJECT_FILE
from opsin.config.suggestions import EXPLANATIONS, config_options
from opsin.errors import UserError
from opsin.runs.directory import RunDirectory
from opsin.runs.home import split_path, user_path
from opsin.runs.image_root import suggested_folder
from opsin.runs.quoting import opsin_command, override, resume_command

RECIPE = ("model=efficientnet_lite0_feature_extract", "datamodule.image_size=224", "trainer.max_epochs=20")
"""A new head on frozen ImageNet features, which are computed once per image. Twenty epochs are enough for a hundred
images. With many images, early stopping ends the run earlier."""

REPLACE_RECIPE = {"model", "model._target_", "experiment"}
"""Keys of overrides that choose a network, and so replace the recipe."""


def expand_folder(line: CommandLine, quiet: bool = False) -> CommandLine:
    """Return the command line with a folder replaced by the overrides that it stands for, and print them to stderr.

    Overrides of the user win over those of the short form. The default experiment of a project applies only if the
    command names no folder. If it does not apply, a line on stderr names it.

    Args:
        line: The command line of the train command.
        quiet: Whether to print nothing.

    Raises:
        UserError: There is no such folder, or there are several.
    """
    if line.by_default and not quiet:
        sys.stderr.write(f"experiment {line.by_default} ({PROJECT_FILE}); '~experiment' leaves it out\n")
    words = [argument for argument in line.overrides if is_word(argument)]
    if not words or line.shows not in (None, "config", "info"):
        return line
    if advice := _split_by_the_shell(line.overrides):
        raise UserError(advice)
    if len(words) > 1:
        raise UserError(f"{' '.join(words)}: train takes one folder of images; other arguments are KEY=VALUE")
    others = [argument for argument in line.overrides if argument != words[0]]
    overrides = [*stands_for(words[0], others), *others]
    if not quiet:
        flags = (*line.source.flags, *(["-m"] if line.multirun else []))
        sys.stderr.write(f"{words[0]} stands for: {opsin_command('train', *flags, *overrides)}\n")
    return replace(line, overrides=tuple(overrides))


def stands_for(folder: str, others: Sequence[str] = ()) -> list[str]:
    """Return the overrides that a folder of images or a saved Hugging Face dataset stands for.

    Args:
        folder: The folder.
        others: Overrides of the user. A network, an experiment or a run to resume replaces the whole recipe.

    Raises:
        UserError: The path is empty, there is no such folder, or it is the directory of a run.
    """
    path = user_path(folder)
    if not path.is_dir():
        raise UserError(_no_folder(folder, path))
    if RunDirectory(path).config.is_file():
        raise UserError(f"{folder} is the directory of a run: resume it with {resume_command(path)}")
    keys = {key_of(argument) for argument in others if not argument.startswith("~")}
    data = [override("datamodule.path", folder)]
    if find_value(others, "resume") not in (None, "auto"):
        return data
    if "datamodule" not in keys:
        data.insert(0, f"datamodule={'hugging_face' if _is_saved_dataset(path) else 'image_folder'}")
    if "debug" in keys:  # sets the number of epochs
        keys.add("trainer.max_epochs")
    recipe = [] if keys & REPLACE_RECIPE else [text for text in RECIPE if key_of(text) not in keys]
    return data + recipe


def _is_saved_dataset(folder: Path) -> bool:
    """Return whether `save_to_disk` of Hugging Face datasets has written a folder."""
    return (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file()


def _split_by_the_shell(arguments: Sequence[str]) -> str:
    """Return the message for an argument that a space has split into several; empty if there is none."""
    for position, argument in enumerate(arguments):
        following = list(takewhile(is_word, arguments[position + 1 :]))
        key, value = ("", argument) if is_word(argument) else argument.split("=", 1) if "=" in argument else ("", "")
        if key and not value and following:
            return f"{argument} {following[0]}: write {argument}{following[0]}, without the space"
        if path := split_path([value, *following]) if value else None:
            whole = override(key, path) if key else path
            return f"{path} has a space, so quote it: {shlex.quote(whole)}"
    return ""


def _no_folder(word: str, path: Path) -> str:
    """Return the message for a word that is not a folder."""
    if path.suffix in (".yaml", ".yml") and path.exists():
        return f"{word} is a file: {EXPLANATIONS['config']}"
    if path.exists():
        return f"{word} is a file: train takes a folder of images with one folder per class; unpack an archive first"
    groups = [group for group, options in config_options().items() if word in options]
    if groups:
        return f"{word} is not an override: did you mean {groups[0]}={word}?"
    example = opsin_command("train", "model=cnn_gap", "optimizer.lr=0.1")
    return (
        f"{word}: there is no such folder{suggested_folder(path)} Train takes a folder of images, or overrides "
        f"KEY=VALUE, such as {example}"
    )
