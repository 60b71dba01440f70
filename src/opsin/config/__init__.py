"""The config of a run: composed from words and files, gone on with, and explained where a word is wrong."""

from opsin.config.compose import compose, compose_raw, discard_empty_run, from_hydra, is_of_a_sweep, multirun_words
from opsin.config.hydra_errors import HydraErrors
from opsin.config.overrides import check_overrides
from opsin.config.resume import expand_resume, from_saved, register_resolvers
from opsin.config.run_config import CONFIGS, ConfigOrigin, RunConfig
from opsin.config.suggestions import config_options, suggest
from opsin.config.yaml_files import parse, refuse_broken_files

__all__ = [
    "CONFIGS",
    "ConfigOrigin",
    "HydraErrors",
    "RunConfig",
    "check_overrides",
    "compose",
    "compose_raw",
    "config_options",
    "discard_empty_run",
    "expand_resume",
    "from_hydra",
    "from_saved",
    "is_of_a_sweep",
    "multirun_words",
    "parse",
    "refuse_broken_files",
    "register_resolvers",
    "suggest",
]
