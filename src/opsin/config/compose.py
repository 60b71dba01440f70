"""From overrides and YAML files to the config of a run: every command and test composes here.

The steps, in order: find the config folders (`search_path`), check the syntax of the overrides (`overrides`), let Hydra
merge the files and overrides (`hydra_session`), resolve what depends on the process (`resolvers`) and paths, choose the
run directory.

A run, each job of a sweep, the study of the sweep, a resume, `opsin find-lr`, `opsin prepare-data`, the
benchmarks and the tests give overrides and a `ConfigSource`, and get the same config or the same error. A worker
process composes nothing: it reads the `config.yaml` that process 0 has saved.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from opsin.config.hydra_keys import (
    harmless_variables,
    refuse_saved_run_directory,
    refuse_saved_without_effect,
    refuse_sweep_directory,
    refuse_typed_without_effect,
    refuse_variables_in_files,
)
from opsin.config.hydra_session import listed_options, load
from opsin.config.overrides import check_overrides, find_value, key_of, task_overrides
from opsin.config.path_values import resolve_paths
from opsin.config.reference_limits import limited_references
from opsin.config.resolvers import resolve_process_values
from opsin.config.run_config import ConfigOrigin, RunConfig, plain, unresolvable, yaml_text
from opsin.config.run_names import run_names
from opsin.config.saved_config import find_unfinished, from_saved, resumed_run
from opsin.config.search_path import ConfigSource
from opsin.config.secrets import (
    refuse_literal_secrets,
    refuse_misplaced_secrets,
    refuse_missing_secrets,
    refuse_typed_secrets,
)
from opsin.config.sections import missing_section
from opsin.config.suggestions import config_options, explain_unknown_option, suggest, with_listing
from opsin.config.yaml_files import choosing_file, in_words, refuse_broken_files, refuse_own_group
from opsin.errors import UserError, did_you_mean
from opsin.runs.directory import RunDirectory, new_run_path
from opsin.runs.home import user_path
from opsin.runs.quoting import opsin_command, override

OF_A_SWEEP = ("sweep", "launcher")
"""Sections of the config that belong to a multirun, not to its runs."""


def compose(overrides: Sequence[str], run: Path | None = None, source: ConfigSource | None = None) -> RunConfig:
    """Compose the config of a run: a new one, or with `resume=RUN` or `resume=auto` that of an earlier run.

    Nothing is written. A resumed run keeps its saved config, changed by the overrides. No config file is read for
    it, so its recorded search path is not needed.

    Args:
        overrides: Overrides, such as `model=mlp` and `optimizer.lr=0.1`.
        run: Directory of a new run; None: `hydra.run.dir`, by default a fresh directory below `output_dir`.
        source: Search path and primary config; None for those of Opsin.

    Raises:
        UserError: The overrides cannot be composed, a secret is missing or written out, or there is no run to resume.
    """
    source = source or ConfigSource()
    refuse_typed_secrets(overrides)
    for text in overrides:
        if is_of_a_sweep(text):
            command = opsin_command("train", "--multirun", text)
            raise UserError(f"{text} needs a multirun: {command} ...")
    refuse_sweep_directory(overrides)
    if run_to_resume := _run_to_resume(overrides):
        composed = _resumed(resumed_run(run_to_resume, overrides), overrides)
    else:
        composed = _new(overrides, run, source)
        assert composed.settings is not None
        if composed.settings.get("resume") and (found := find_unfinished(composed)):
            composed = _resumed(found, [text for text in _of_hydra(overrides) if key_of(text) != "hydra.run.dir"])
    return _checked_secrets(composed)


def compose_trial(overrides: Sequence[str], source: ConfigSource | None = None) -> RunConfig:
    """Compose the config of a run of a sweep, to check it before the sweep starts. Nothing is written.

    Args:
        overrides: Overrides of the run, and of the sweep itself.
        source: Search path and primary config; None for those of Opsin.

    Raises:
        UserError: As for `compose`; or an override names a run to resume, or a config file the directory of the run.
    """
    if resumed := _run_to_resume(overrides):
        typed = override("resume", resumed)
        raise UserError(
            f"{typed} has no effect on a sweep, which starts new runs. {opsin_command('train', typed)} resumes "
            "that run; the command of a sweep resumes the sweep"
        )
    composed = _new(overrides, None, source or ConfigSource())
    assert composed.settings is not None
    refuse_saved_run_directory(composed.settings)
    return _checked_secrets(composed)


def _checked_secrets(composed: RunConfig) -> RunConfig:
    refuse_literal_secrets(composed.tree)
    refuse_missing_secrets(composed.tree)
    return composed


def compose_raw(overrides: Sequence[str], source: ConfigSource | None = None) -> DictConfig:
    """Return the config that Hydra composes from overrides: unresolved, with Hydra's own settings under `hydra`.

    Raises:
        UserError: The overrides cannot be composed, hold a secret, or set a key of Hydra that has no effect; or a
            section of a run holds no keys, or `output_dir` is no path.
    """
    source = source or ConfigSource()
    refuse_typed_secrets(overrides)
    refuse_typed_without_effect(overrides)
    refuse_broken_files(overrides, source)
    overrides = check_overrides(overrides, config_options(source))
    refuse_own_group(overrides, source)
    try:
        composed = load(overrides, source)
    except yaml.YAMLError as error:
        raise UserError(in_words(error)) from None
    except UserError:  # a module on the search path that is not permitted
        raise
    except RecursionError:
        raise UserError("The config cannot be composed: config files include each other in a circle") from None
    except Exception as error:  # exceptions of Hydra and OmegaConf share no base class
        reason = str(error) or f"Hydra fails with {type(error).__name__}: a section or a key has the wrong type"
        raise UserError(with_listing(suggest(overrides, source)) or _in_short(reason, overrides, source)) from None
    _refuse_odd_keys(composed)
    for group in ("experiment", "debug"):
        if group in composed and not any(key_of(text).startswith(f"{group}.") for text in overrides):
            raise UserError(f"{group}={find_value(overrides, group)}: {_without_package(group)}")
    refuse_saved_without_effect(composed)
    refuse_variables_in_files(composed, overrides)
    tree: Any = OmegaConf.to_container(composed, resolve=False)
    _refuse_missing_sections(tree, source)
    _refuse_no_folder(tree.get("output_dir"))  # of a sweep, too
    return composed


MAIN_KEYS = {"monitor": "metric", "loss": "function"}
"""The key that a value for the whole section, such as `monitor=val/acc`, is meant for."""

_TWICE = "{group} is chosen twice: "

_CHOICES = (
    (r"Could not find '\w+/(?P<group>\w+)/(?P<option>\w+)'", ""),
    (r"Could not override '\w+/(?P<group>\w+)@", ""),
    (r"Multiple values for (?P<group>\w+)\. To override a value use 'override \w+: (?P<option>\w+)'", _TWICE),
    (r"(?P<group>\w+) appears more than once", _TWICE),
)
"""Messages of Hydra on a wrong line in the list `defaults` of a file, and how Opsin's message on it begins."""


def _in_short(reason: str, overrides: Sequence[str], source: ConfigSource) -> str:
    """Return a message of Hydra without its lists of all options and folders."""
    short = re.split(r"\n+(?:Available options in|Config search path:)", reason)[0]
    if deleted := re.match(r"Could not delete from config\. The value of '([^']*)' is .{200}", short, re.DOTALL):
        short = (
            f"~{deleted[1]}=VALUE: the config has another value. Write ~{deleted[1]} to delete the key with any value"
        )
    if deleted := re.match(r"Could not delete from config\. '([^']*)' does not exist", short):
        return (
            f"~{deleted[1]} deletes nothing: the config has no such key, or its value is null. Leave ~{deleted[1]} out"
        )
    groups = config_options(source)
    if found := re.search(r"Could not override '\w+@(\w+)\.\w+'", short):
        return f"{short[: found.start()]}{_without_package(found[1])}"
    for pattern, problem in _CHOICES:
        found = re.search(pattern, short)
        if found and found["group"] in groups:
            option = found.groupdict().get("option") or "OPTION"
            way_out = f"a file chooses an option with the line `- override /{found['group']}: {option}`"
            return f"{short[: found.start()]}{problem.format(**found.groupdict())}{way_out}"
    if (found := re.search(r"Could not override '(\w+)'\. No match.*", short)) and found[1] not in groups:
        return f"{short[: found.start()]}there is no config group {found[1]}{did_you_mean(found[1], groups)}"
    if found := re.search(r"Could not (?:find|load) '(\w+)/([^'\n]+)'", short):
        file = choosing_file(found[1], found[2], overrides, source)
        place = f"In '{file}': " if file else short[: found.start()]
        short = with_listing(place + explain_unknown_option(found[1], found[2], groups.get(found[1], [])))
    return short


def _without_package(group: str) -> str:
    """Return the message on a file whose keys are in a section with the name of its group, such as `experiment`."""
    return f"a file of configs/{group} that sets keys of other sections begins with the line `# @package _global_`"


def _refuse_odd_keys(composed: DictConfig) -> None:
    """Refuse top-level keys that no override can name, such as the number 1 in `1: 2`."""
    for key in composed:
        if not isinstance(key, str) or not key:
            raise UserError(f"The config has the key {key!r}: a key is a name, such as seed")


def is_of_a_sweep(text: str) -> bool:
    """Return whether an override configures the multirun and not its runs."""
    return key_of(text).split(".")[0] in OF_A_SWEEP


def _run_to_resume(overrides: Sequence[str]) -> str | None:
    """Return the run directory in `resume=RUN`; None without it, and for `resume=auto`.

    Raises:
        UserError: The value is a truth value, as other frameworks have it.
    """
    value = find_value(overrides, "resume")
    if str(value).lower() in ("true", "false"):
        raise UserError(
            f"resume={value} is not a run: set resume=auto to resume the newest unfinished run of the same command, or "
            "resume=RUN"
        )
    return None if value == "auto" else value


def _refuse_run_in_file(resume: Any) -> None:
    """Refuse a config file that names a run to resume: the config of that run counts, and not that of the file.

    Args:
        resume: Composed value of `resume`, without one that is typed.
    """
    if resume not in (None, "auto"):
        command = opsin_command("train", override("resume", resume))
        raise UserError(
            f"resume={resume} in a config file has no effect; a file can set only resume: auto. Type {command}"
        )


def _of_hydra(overrides: Sequence[str]) -> list[str]:
    """Return the overrides of Hydra's own settings, such as `hydra.verbose=true` and `hydra/job_logging=disabled`."""
    return [text for text in overrides if re.split(r"[./]", key_of(text))[0] == "hydra"]


def _resumed(run: RunDirectory, overrides: Sequence[str]) -> RunConfig:
    of_hydra = _of_hydra(overrides)
    saved = from_saved(run, [text for text in overrides if text not in of_hydra])
    of_hydra += _kept_variables(saved.origin.variables, of_hydra)
    return replace(saved, settings=_settings(compose_raw(of_hydra), run))


def _kept_variables(variables: Mapping[str, str], of_hydra: Sequence[str]) -> list[str]:
    """Return the overrides that set the environment variables with which a run was started.

    Args:
        variables: The variables that the run recorded.
        of_hydra: Overrides of Hydra's settings that are typed with the resume, which take precedence.
    """
    place = "hydra.job.env_set"
    typed = {key_of(text).replace("/", ".") for text in of_hydra}
    names = [name for name in variables if typed.isdisjoint((place, f"{place}.{name}"))]
    return [override(f"++{place}.{name}", variables[name]) for name in names]


def _new(overrides: Sequence[str], run: Path | None, source: ConfigSource) -> RunConfig:
    composed = compose_raw(overrides, source)
    choices = {
        group: option
        for group, option in composed.hydra.runtime.choices.items()
        if not group.startswith("hydra/") and group not in OF_A_SWEEP
    }
    sections = [str(key) for key in composed if key not in ("hydra", *OF_A_SWEEP)]
    config = OmegaConf.masked_copy(composed, sections)
    _refuse_run_in_file(config.get("resume"))
    with open_dict(config):
        config.resume = None
    try:
        with limited_references():
            resolve_process_values(config)
            resolve_paths(config)
            _refuse_no_folder(config.get("output_dir"))  # the value of a reference
            directory = RunDirectory(run.absolute() if run else _run_path(composed, config))
            settings = _settings(composed, directory)
            variables = harmless_variables(composed.hydra.job.env_set)
    except OmegaConfBaseException as error:
        raise unresolvable(error) from None
    source = source.extended(composed.hydra.searchpath)
    # Deleted, not used, or with a list of options, which can be empty.
    unrecorded = [group for group in config_options(source) if group not in composed.hydra.runtime.choices]
    for group, options in listed_options(unrecorded, overrides, source).items():
        if options or OmegaConf.is_dict(config.get(group)):
            choices[group] = f"[{','.join(options)}]"
    origin = ConfigOrigin(source, choices, task_overrides(composed.hydra), source.folders, variables)
    tree = plain(config)
    _refuse_missing_sections(tree, source)
    text = yaml_text(config)
    refuse_misplaced_secrets(tree)
    return RunConfig(tree, text, origin, directory, settings=settings)


def _refuse_missing_sections(tree: Any, source: ConfigSource) -> None:
    """Refuse a section that holds no keys, such as `logger: csv` in a file.

    Args:
        tree: Plain values, resolved or not.
        source: The search path, for the options of the section.
    """
    if not (found := missing_section(tree)):
        return
    key, value = found
    known = config_options(source).get(key, [])
    way_out = f"Write the keys of the section, such as {key}: {{NAME: VALUE}}"
    if isinstance(value, str) and (name := MAIN_KEYS.get(key)):
        way_out = f"Did you mean {override(f'{key}.{name}', value)}, or in a file {key}: {{{name}: {value}}}?"
    if known:
        option = value if value in known else "OPTION"
        way_out = f"A file chooses an option in its list `defaults`, with the line `- override /{key}: {option}`"
    raise UserError(f"{key} is {value!r:.40} instead of a section. {way_out}")


def _refuse_no_folder(output_dir: Any) -> None:
    """Refuse an `output_dir` that is no path: runs and sweeps are named before the types of all values are checked."""
    if not isinstance(output_dir, str):
        raise UserError(f"output_dir must be a path, not {output_dir!r}. Name a folder, such as output_dir=outputs")


def _run_path(composed: DictConfig, config: DictConfig) -> Path:
    """Return `hydra.run.dir`, or a fresh directory below `output_dir`."""
    if folder := composed.hydra.run.dir:
        return user_path(str(folder)).absolute()
    names = run_names(composed, task_overrides(composed.hydra))
    return new_run_path(config.output_dir, *names).absolute()


def _settings(composed: DictConfig, run: RunDirectory) -> DictConfig:
    """Return Hydra's settings for this process and run, under `hydra`."""
    with read_write(composed.hydra.runtime), open_dict(composed.hydra.runtime):
        composed.hydra.runtime.output_dir = str(run.path)
    return composed
