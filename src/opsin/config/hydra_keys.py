"""Hydra's own keys, `hydra.KEY`: those with an effect in Opsin, and a refusal of all others.

Hydra composes the config of a run, and Opsin runs it. A key that controls how Hydra runs a job has no effect.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from opsin.config.overrides import find_value, key_of
from opsin.errors import UserError

EFFECTIVE = (
    *("run.dir", "sweep.dir", "searchpath", "job.env_set", "job_logging", "verbose"),
    "hydra_help",
)
"""Keys below `hydra` with an effect, each with all keys below it."""

WITHOUT_EFFECT: Mapping[str, tuple[Any, str]] = {
    "job.name": ("train", "the log of a run is train.log in its directory, which hydra.run.dir names"),
    "job.chdir": (None, "the working directory never changes; name the run directory with hydra.run.dir"),
    "output_subdir": (None, "config.yaml and overrides.yaml are in the run directory"),
    "callbacks": ({}, "add a callback of Lightning: +callbacks.NAME._target_=my_package.MyCallback"),
    "mode": (None, "start a sweep with --multirun"),
    "sweep.subdir": ("${hydra.job.num}", "name the sweep with sweep.name, and its folder with hydra.sweep.dir"),
    "job.env_copy": ([], "set a variable with hydra.job.env_set"),
    "sweeper": (..., "choose a sweep with --multirun sweep=search (configs/sweep)"),
    "launcher": (..., "choose a launcher with --multirun launcher=local (configs/launcher)"),
}
"""Keys without an effect, with their default (`...` for any value) and the alternative for the user."""

OF_A_PROCESS = ("job.env_set", "job_logging", "verbose")
"""Keys of `EFFECTIVE` that hold for one process, so the resume of a run needs them again."""

HARMLESS_VARIABLES = (
    *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "CUBLAS_WORKSPACE_CONFIG"),
    *("NCCL_DEBUG", "NCCL_P2P_DISABLE", "NCCL_IB_DISABLE", "NCCL_SOCKET_IFNAME", "PYTORCH_ALLOC_CONF"),
    *("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "WANDB_MODE", "TOKENIZERS_PARALLELISM"),
)
"""Environment variables that a config file may set. Others can load code (`LD_PRELOAD`) or permit it."""


def has_effect(key: str) -> bool:
    """Return whether a dotted key can be set: every key outside `hydra`, and those of `EFFECTIVE`."""
    root, _, name = key.partition(".")
    return root != "hydra" or any(_is_below(name, effective) for effective in EFFECTIVE)


def refuse_typed_without_effect(overrides: Sequence[str]) -> None:
    """Refuse overrides that set a key of Hydra and would change nothing.

    Raises:
        UserError: Names the override and what to do about it.
    """
    for override in overrides:
        key = key_of(override).replace("/", ".")
        if not has_effect(key):
            raise UserError(_refusal(override, key.partition(".")[2]))


def refuse_saved_without_effect(composed: DictConfig) -> None:
    """Refuse keys of Hydra that a config file sets and that would change nothing.

    Args:
        composed: A config with Hydra's settings under `hydra`.

    Raises:
        UserError: Names the key and what to do about it.
    """
    settings = OmegaConf.to_container(composed.hydra, resolve=False)
    for key, (default, _) in WITHOUT_EFFECT.items():
        node: Any = settings
        for name in key.split("."):
            node = node.get(name) if isinstance(node, dict) else None
        if default is not ... and node != default and not (key == "job.chdir" and node is False):
            raise UserError(_refusal(f"hydra.{key} in a config file", key))


def refuse_variables_in_files(composed: DictConfig, overrides: Sequence[str]) -> None:
    """Refuse environment variables that a config file sets, except those that can do no harm.

    Args:
        composed: A config with Hydra's settings under `hydra`.
        overrides: Overrides of the command line, which may set any variable.

    Raises:
        UserError: Names the variable and the way out.
    """
    typed = {key_of(override).replace("/", ".") for override in overrides}
    for name in composed.hydra.job.env_set:
        is_typed = not typed.isdisjoint(("hydra.job.env_set", f"hydra.job.env_set.{name}"))
        if name not in HARMLESS_VARIABLES and not is_typed:
            raise UserError(
                f"hydra.job.env_set.{name} in a config file is not accepted, because it could load code: set "
                f"{name} in the shell, or on the command line with +hydra.job.env_set.{name}=VALUE"
            )


def harmless_variables(variables: Mapping[str, Any]) -> dict[str, str]:
    """Return the environment variables that a file may set: those that can do no harm, without references.

    Args:
        variables: Values of `hydra.job.env_set`, by name.
    """
    texts = {str(name): str(value) for name, value in variables.items()}
    return {name: text for name, text in texts.items() if name in HARMLESS_VARIABLES and "${" not in text}


def of_a_process(overrides: Sequence[str]) -> list[str]:
    """Return the overrides of a run that a resume of it needs again (`OF_A_PROCESS`)."""
    keys = [f"hydra.{key}" for key in OF_A_PROCESS]
    return [text for text in overrides if any(_is_below(key_of(text).replace("/", "."), key) for key in keys)]


def refuse_sweep_directory(overrides: Sequence[str]) -> None:
    """Refuse the directory of sweeps for a single run; a job of a sweep names its own directory.

    Raises:
        UserError: `hydra.sweep.dir` is set and `hydra.run.dir` is not.
    """
    if find_value(overrides, "hydra.sweep.dir") and not find_value(overrides, "hydra.run.dir"):
        raise UserError(
            "hydra.sweep.dir has no effect on a single run; set the directory of the run with hydra.run.dir"
        )


def refuse_run_directory(overrides: Sequence[str]) -> None:
    """Refuse the directory of a run for a sweep, which has one directory per run.

    Raises:
        UserError: `hydra.run.dir` is set.
    """
    if find_value(overrides, "hydra.run.dir"):
        raise UserError(_run_directory("hydra.run.dir"))


def refuse_saved_run_directory(composed: DictConfig) -> None:
    """Refuse the directory of a run that a config file sets for a sweep, as `refuse_run_directory` does.

    Args:
        composed: A config of a run of the sweep, with Hydra's settings under `hydra`.

    Raises:
        UserError: `hydra.run.dir` is set.
    """
    settings: Any = OmegaConf.to_container(composed.hydra.run, resolve=False)
    if settings["dir"]:
        raise UserError(_run_directory(f"hydra.run.dir={settings['dir']} in a config file"))


def _run_directory(place: str) -> str:
    return (
        f"{place} has no effect on a sweep, which has one directory per run: name the sweep with sweep.name, and its "
        "folder with hydra.sweep.dir"
    )


def _refusal(place: str, key: str) -> str:
    found = [way_out for known, (_, way_out) in WITHOUT_EFFECT.items() if _is_below(key, known)]
    way_out = found[0] if found else f"keys with an effect are hydra.{', hydra.'.join(EFFECTIVE)}"
    return f"{place} has no effect in Opsin: {way_out}"


def _is_below(key: str, above: str) -> bool:
    return key == above or key.startswith(f"{above}.")
