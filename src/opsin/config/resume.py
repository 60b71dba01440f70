"""Going on with a run: its own config with new values in it, in its own directory."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from omegaconf import OmegaConf

from opsin.config.run_config import RunConfig
from opsin.errors import UserError
from opsin.runs.atomic import check_writable
from opsin.runs.directory import RunDirectory, find_runs, new_run_path

KEPT = ("model.", "distillation.", "datamodule.image_size", "datamodule.mean", "datamodule.std", "datamodule.resize")
"""Keys that decide what a run's weights mean: they stay as they were."""


def from_saved(run: RunDirectory, words: Sequence[str] = ()) -> RunConfig:
    """A run's own config to go on with, changed by some words such as `trainer.max_epochs=40`.

    Raises:
        UserError: a word chooses another part (`model=mlp`), which would be another run.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser

    saved = RunConfig.load(run)
    words = [word for word in words if not word.startswith("resume=")]
    _refuse_parts(saved, words)
    overrides = OverridesParser.create().parse_overrides(list(words))
    changed = saved.changed({override.key_or_group: override.value() for override in overrides})
    return replace(changed, origin=replace(saved.origin, overrides=[*saved.origin.overrides, *words]))


def expand_resume(words: Sequence[str]) -> list[str]:
    """A command line with `resume=RUN` in it, behind the words that RUN was begun with.

    So Hydra composes the parts of that run, and not the default ones, and knows their keys.

    Raises:
        UserError: a word chooses another part, or a directory that cannot be written to.
    """
    for key in ("hydra.run.dir", "hydra.sweep.dir"):
        for folder in (word.partition("=")[2] for word in words if word.startswith(f"{key}=")):
            if "$" not in folder:
                check_writable(Path(folder.strip("'\"")), key)
    place = next((word.removeprefix("resume=") for word in words if word.startswith("resume=")), "auto")
    run = RunDirectory(Path(place).expanduser())
    if place in ("auto", "null") or not run.config.exists():
        return list(words)
    saved = RunConfig.load(run)
    _refuse_parts(saved, words)
    return [*saved.origin.overrides, *words]


def _refuse_parts(saved: RunConfig, words: Sequence[str]) -> None:
    for word in words:
        key = word.lstrip("+~").split("=", 1)[0]
        if key.startswith(KEPT):
            raise UserError(
                f"{word} does not go with resume: {saved.run.path} goes on with the network and the images that it was "
                f"begun with. Start a new run, with model.weights={saved.run.path} if it shall build on this one."
            )
        if word.lstrip("+~").split("=", 1)[0] in saved.origin.choices or word.startswith("~"):
            raise UserError(
                f"{word} does not go with resume: {saved.run.path} goes on with the parts that it was begun with, and "
                "only values such as trainer.max_epochs=20 can be changed. Start a new run instead."
            )


def register_resolvers() -> None:
    """Teach OmegaConf `${run_dir:...}`, which names the directory of a run (used by `hydra.run.dir`)."""
    OmegaConf.register_new_resolver("run_dir", _run_dir, use_cache=True, replace=True)


def _run_dir(outputs: str, resume: str | None, words: Sequence[str], *names: str) -> str:
    """A fresh directory, or the one to go on in.

    `resume=auto` goes on with the newest run of the very same command that has not finished.
    """
    if resume == "auto":
        words = [word for word in words if word != "resume=auto"]
        for run in find_runs(Path(outputs)):
            same = run.overrides.exists() and words == [
                word for word in RunConfig.load(run).origin.overrides if word != "resume=auto"
            ]
            if same and run.read_result().status != "finished":
                return str(run.path.absolute())
    elif resume and RunDirectory(Path(resume).expanduser()).config.exists():
        return str(Path(resume).expanduser().resolve())
    try:
        check_writable(Path(outputs), "output_dir")
    except UserError as error:  # which OmegaConf would wrap, and Hydra end with a traceback
        raise SystemExit(str(error)) from None
    return str(new_run_path(outputs, *names))
