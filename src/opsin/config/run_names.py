"""Names of run directories: the options that distinguish a run."""

from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from opsin.config.overrides import is_override, key_of


def run_names(composed: DictConfig, overrides: Sequence[str]) -> list[str]:
    """Return the parts of the name of a run: its experiment, or its datamodule and its model.

    A datamodule or a model that the command line chooses besides an experiment follows it. A model with a key `name`,
    such as that of timm, is named by it too.

    Args:
        composed: A composed config with Hydra's settings under `hydra`.
        overrides: Overrides of the run; the options that they choose take precedence.
    """
    typed = {key_of(text): text.partition("=")[2] for text in overrides if is_override(text) and text[0] != "~"}
    chosen = {**composed.hydra.runtime.choices, **typed}
    data, model = str(chosen.get("datamodule") or ""), _model(chosen, typed, composed)
    if (experiment := chosen.get("experiment")) is None:
        return [data, model]
    typed_data, typed_model = "datamodule" in typed, not {"model", "model.name"}.isdisjoint(typed)
    return [str(experiment), *([data] if typed_data else []), *([model] if typed_model else [])]


def _model(chosen: Mapping[str, Any], typed: Mapping[str, str], composed: DictConfig) -> str:
    option = str(chosen.get("model") or "")
    name = typed.get("model.name") or OmegaConf.select(composed, "model.name", throw_on_missing=False)
    return f"{option}_{name}" if isinstance(name, str) and name != option else option
