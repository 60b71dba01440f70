"""The config of a run: composed from words and files, gone on with, and explained where a word is wrong."""

from opsin.config.compose import compose, compose_raw, discard_empty_run, from_hydra, is_of_a_sweep, multirun_words
from opsin.config.yaml_files import parse, refuse_broken_files
from opsin.config.suggestions import hint
from opsin.config.resume import expand_resume, from_saved, register_resolvers
from opsin.config.run_config import CONFIGS, Composed, Origin, is_spawned, stand_alone

__all__ = [
    "CONFIGS",
    "Composed",
    "Origin",
    "compose",
    "compose_raw",
    "discard_empty_run",
    "expand_resume",
    "from_hydra",
    "from_saved",
    "hint",
    "is_of_a_sweep",
    "is_spawned",
    "multirun_words",
    "parse",
    "refuse_broken_files",
    "register_resolvers",
    "stand_alone",
]
