"""The config of a run: compose it from files and overrides, resume it, and explain wrong overrides."""

from opsin.config.arguments import CommandLine, read_command_line, show
from opsin.config.compose import compose, compose_raw, is_of_a_sweep
from opsin.config.locations import CONFIGS
from opsin.config.run_config import ConfigOrigin, RunConfig
from opsin.config.saved_config import from_saved
from opsin.config.search_path import ConfigSource
from opsin.config.yaml_files import refuse_broken_files

__all__ = [
    "CONFIGS",
    "CommandLine",
    "ConfigOrigin",
    "ConfigSource",
    "RunConfig",
    "compose",
    "compose_raw",
    "from_saved",
    "is_of_a_sweep",
    "read_command_line",
    "refuse_broken_files",
    "show",
]
