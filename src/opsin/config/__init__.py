"""The config of a run: composed from words and files, gone on with, and explained where a word is wrong."""

from opsin.config.composing import compose, compose_raw, discard_empty_run, from_hydra, is_of_a_sweep, multirun_words
from opsin.config.files import parse, refuse_broken_files
from opsin.config.hints import hint
from opsin.config.resuming import expand_resume, from_saved, register_resolvers
from opsin.config.values import CONFIGS, Composed, Origin, is_spawned, stand_alone

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
