"""The arguments of a command: overrides, and the flags that select config files and output."""

import argparse
import os
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args

from omegaconf import Container, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from opsin import __version__
from opsin.config import hydra_session
from opsin.config.compose import OF_A_SWEEP, compose, compose_raw
from opsin.config.help_page import help_page
from opsin.config.overrides import find_value, is_override, is_word, key_of
from opsin.config.project import find_project
from opsin.config.run_config import unresolvable
from opsin.config.search_path import ConfigSource
from opsin.config.secrets import refuse_typed_secrets
from opsin.config.sections import SECTIONS
from opsin.config.suggestions import config_options, suggest, with_listing
from opsin.errors import UserError, nearest
from opsin.runs.home import expand_home
from opsin.runs.quoting import opsin_command, override

Shown = Literal["help", "hydra_help", "version", "config", "info", "completion"]
"""Kinds of output that flags can select."""

TOPICS = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")
"""Topics of `--info`."""

FLAG_CUTOFF = 0.85
"""Smallest similarity of a suggested flag; a flag that is less similar can be the name of a key, such as `--resume`."""


@dataclass(frozen=True)
class CommandLine:
    """A parsed command line; the flags may have any order.

    Attributes:
        overrides: Overrides, in the order in which they were typed.
        source: Search path and primary config, from `--config-dir` and `--config-name`.
        multirun: Whether `--multirun` asks for a sweep.
        shows: Output that a flag selects instead of a run; None for a run.
        part: For `config`: job, hydra or all; for `info`: the topic.
        package: For `config`: the section to print; None for everything.
        resolve: For `config`: whether to resolve interpolations.
        by_default: Experiment of the project that takes part although the command names none; None without one.
    """

    overrides: tuple[str, ...]
    source: ConfigSource = field(default_factory=ConfigSource)
    multirun: bool = False
    shows: Shown | None = None
    part: str = ""
    package: str | None = None
    resolve: bool = False
    by_default: str | None = None


def read_command_line(arguments: Sequence[str], command: str = "train", own_flags: Sequence[str] = ()) -> CommandLine:
    """Read the arguments of a command.

    Args:
        arguments: Overrides and flags.
        command: Name of the command, for messages.
        own_flags: Further flags of the command, for suggestions.

    Raises:
        UserError: A flag is unknown or contradicts another, an argument holds a secret, or a folder of config files
            does not exist.
    """
    refuse_typed_secrets(arguments)
    parser = _parser(command)
    known, flags = parser.parse_known_intermixed_args(_with_topic(arguments))
    typed = vars(known)
    if flags and (advice := _explain_flag(flags[0], arguments, [*map(_flag, typed), *own_flags])):
        raise UserError(advice)
    if flags:
        parser.error(f"unrecognized arguments: {' '.join(flags)}")
    shown: list[Shown] = [name for name in get_args(Shown) if typed[name]]
    if len(shown) > 1:
        raise UserError(f"{', '.join(_flag(name) for name in shown)}: use one at a time")
    if (typed["package"] or typed["resolve"]) and not typed["config"]:
        example = opsin_command(command, "--cfg", "job", "--package", "optimizer")
        raise UserError(f"--package and --resolve need --cfg, such as {example}")
    if typed["config_path"]:
        raise UserError("--config-path would replace Opsin's own config files: add a folder with --config-dir")
    if typed["rerun"]:
        raise UserError("--experimental-rerun is not supported: resume a run with resume=RUN")
    overrides = tuple(typed["overrides"])
    experiment = _of_project(overrides) if shown in ([], ["config"], ["info"]) else None
    by_default = None if any(map(is_word, overrides)) else experiment
    added = [] if experiment is None else [override("experiment", experiment) if by_default else "~experiment"]
    return CommandLine(
        (*overrides, *added),
        ConfigSource.of(typed["config_dir"], typed["config_name"]),
        typed["multirun"],
        shown[0] if shown else None,
        typed["config"] or typed["info"] or "",
        typed["package"],
        typed["resolve"],
        by_default,
    )


def _of_project(overrides: Sequence[str]) -> str | None:
    """Return the project's default experiment, or None, also if the command names one or resumes a run."""
    project = find_project()
    names_one = any(key_of(text) == "experiment" for text in overrides)
    if project is None or project.experiment is None or names_one:
        return None
    return None if find_value(overrides, "resume") not in (None, "auto") else project.experiment


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message[:1].upper()}{message[1:]}; {self.prog} --help shows how to use it")


def _parser(command: str) -> argparse.ArgumentParser:
    """Return the parser of Hydra's flags; `--config-dir` may be repeated."""
    name = opsin_command(command)
    usage = f"{name} [FOLDER] [GROUP=OPTION ...] [KEY=VALUE ...] [FLAG ...]"
    parser = _Parser(name, usage, add_help=False, allow_abbrev=False)
    parser.add_argument("overrides", nargs="*", help=argparse.SUPPRESS)
    flag = parser.add_argument_group("flags, in any order").add_argument
    flag("--help", "-h", action="store_true", help="print this page")
    flag("--version", action="store_true", help="print the version of Opsin")
    flag("--multirun", "-m", action="store_true", help="run a sweep over the values listed in overrides")
    flag("--cfg", "-c", choices=["job", "hydra", "all"], dest="config", help="print the config instead of training")
    flag("--resolve", action="store_true", help="with --cfg: replace references by values")
    flag("--package", "-p", metavar="SECTION", help="with --cfg: print one section, such as optimizer")
    flag("--config-dir", "-cd", action="append", default=[], metavar="FOLDER", help="add a folder of config files")
    flag("--config-name", "-cn", metavar="NAME", help="compose NAME.yaml instead of train.yaml")
    flag("--info", "-i", choices=TOPICS, metavar="TOPIC", help=f"print how the config is composed: {', '.join(TOPICS)}")
    flag("--hydra-help", action="store_true", help="print the help of Hydra")
    flag("--shell-completion", "-sc", action="store_true", dest="completion", help=argparse.SUPPRESS)
    flag("--run", "-r", action="store_true", help=argparse.SUPPRESS)
    flag("--config-path", "-cp", help=argparse.SUPPRESS)
    flag("--experimental-rerun", dest="rerun", help=argparse.SUPPRESS)
    return parser


def _explain_flag(flag: str, arguments: Sequence[str], known: Sequence[str]) -> str:
    """Return a message with the known flag, or the override, that a flag such as `--epochs 2` stands for; else ""."""
    if near := nearest(flag.partition("=")[0].replace("_", "-"), known, cutoff=FLAG_CUTOFF):
        return f"{flag.partition('=')[0]} is not a flag: did you mean {near[0]}?"
    name, equals, value = flag.lstrip("-").partition("=")
    follows = next(iter(arguments[arguments.index(flag) + 1 :]), "-") if flag in arguments else "-"
    shown = flag if equals or follows.startswith("-") or is_override(follows) else f"{flag} {follows}"
    value = value if equals else shown.removeprefix(flag).strip() or "VALUE"
    typed = f"{name.replace('-', '_')}={value}"
    advice = suggest([typed])
    advice = advice[len(typed) :].removeprefix(" is not known") if advice else f": did you mean {shlex.quote(typed)}?"
    return f"{shown} is not a flag{advice}" if ": " in advice else ""


def _with_topic(arguments: Sequence[str]) -> list[str]:
    """Return the arguments; an `--info` without a topic gets the topic `all`."""
    found = []
    for place, argument in enumerate(arguments):
        follows = arguments[place + 1] if place + 1 < len(arguments) else ""
        named = "=" not in follows and follows and not follows.startswith("-")
        found.append("--info=all" if argument in ("--info", "-i") and not named else argument)
    return found


def _flag(name: str) -> str:
    special = {"config": "--cfg", "completion": "--shell-completion", "rerun": "--experimental-rerun"}
    return special.get(name, f"--{name.replace('_', '-')}")


def show(line: CommandLine) -> None:
    """Print the output that a flag selects: a config, information on the composition, a page of help, or completions.

    Raises:
        UserError: The overrides cannot be composed, or there is no such section.
    """
    if line.shows == "config":
        sys.stdout.write(_shown_config(line))
    elif line.shows == "version":
        sys.stdout.write(f"opsin {__version__}\n")
    elif line.shows == "help":
        sys.stdout.write(help_page(_parser("train"), line.source))
    elif line.shows == "completion":
        hydra_session.complete(_completed_source(line.source), line.overrides)
    else:
        compose_raw(line.overrides, line.source)  # Hydra would print a traceback
        if line.shows == "info":
            hydra_session.print_info(line.source, line.part, line.overrides)
        else:
            hydra_session.print_hydra_help(line.source, line.overrides)


def _shown_config(line: CommandLine) -> str:
    """Return the config as YAML; secrets stay references, even if it is resolved."""
    _refuse_new_sections(line)
    config: Any = _composed(line)
    try:
        if line.resolve:  # Hydra's settings hold values that only a job has
            for key in (str(key) for key in config if key != "hydra"):
                if OmegaConf.is_config(config[key]):
                    config[key] = OmegaConf.to_container(config[key], resolve=True)
                else:
                    config[key] = config[key]
        if line.part != "all":
            keys = [str(key) for key in config if (key == "hydra") == (line.part == "hydra")]
            config = OmegaConf.masked_copy(config, keys)
        header = ""
        if line.package not in (None, "_global_"):
            config = OmegaConf.select(config, str(line.package))
            header = f"# @package {line.package}\n"
    except OmegaConfBaseException as error:
        raise unresolvable(error) from None
    if config is None:
        raise UserError(f"--package {line.package}: the config has no such section")
    return header + OmegaConf.to_yaml(config) if isinstance(config, Container) else f"{config}\n"


def _refuse_new_sections(line: CommandLine) -> None:
    """Refuse `+KEY=VALUE` for a key outside of all sections, which Hydra accepts and a run refuses."""
    sections = {*SECTIONS, *OF_A_SWEEP, *config_options(line.source), "hydra"}
    added = [text.lstrip("+") for text in line.overrides if text.startswith("+")]
    unknown = [text for text in added if re.split(r"[./]", key_of(text))[0] not in sections]
    if advice := suggest(unknown, line.source) if unknown else "":
        raise UserError(with_listing(advice))


def _composed(line: CommandLine) -> DictConfig:
    """Return the config of the command with Hydra's settings; for a resume, the config of the resumed run."""
    if find_value(line.overrides, "resume") is not None:
        composed = compose(line.overrides, source=line.source)
        if composed.resumes and composed.settings is not None:
            tree = OmegaConf.create(composed.text)
            assert isinstance(tree, DictConfig)
            tree.hydra = composed.settings.hydra
            return tree
    return compose_raw(line.overrides, line.source)


def _completed_source(source: ConfigSource) -> ConfigSource:
    """Return the source of the command line that a shell completes; its flags may add folders."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--config-name", "-cn", default=source.config_name)
    parser.add_argument("--config-dir", "-cd", action="append", default=[])
    try:
        typed, rest = parser.parse_known_args(_split(os.environ.get("COMP_LINE", "")))
    except argparse.ArgumentError:  # the flag that is being typed has no value yet
        return source
    os.environ["COMP_LINE"] = " ".join(rest)  # Hydra splits it at every space
    folders = [folder for folder in typed.config_dir if Path(expand_home(folder)).is_dir()]
    return ConfigSource.of([*source.search_path, *folders], typed.config_name)


def _split(line: str) -> list[str]:
    try:
        return shlex.split(line)
    except ValueError:  # an open quote
        return line.split()
