"""Hydra with Opsin's search path: the only module that uses Hydra's private names (written for Hydra 1.3)."""

import io
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from logging.config import DictConfigurator
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from opsin.config import locations
from opsin.config.logging_settings import checked_logging, checked_verbose, named_mistakes
from opsin.config.resolvers import register_resolvers, restored_resolvers
from opsin.config.search_path import PACKAGE, ConfigSource
from opsin.config.target_lookup import is_permitted
from opsin.config.target_refusal import TARGETS_VARIABLE
from opsin.errors import UserError
from opsin.runs.escaping import EscapeControls
from opsin.runs.secret_values import MaskSecrets

if TYPE_CHECKING:
    from hydra._internal.hydra import Hydra


def hydra_session(source: ConfigSource) -> "Hydra":
    """Return a fresh Hydra with the search path of a source; the last one is Hydra's global instance."""
    from hydra import version
    from hydra._internal.hydra import Hydra
    from hydra._internal.utils import create_config_search_path
    from hydra.core.global_hydra import GlobalHydra

    register_resolvers()
    GlobalHydra.instance().clear()
    version.setbase("1.3")
    _refuse_modules()
    search_path = create_config_search_path(str(locations.CONFIGS))
    for url in reversed(source.urls):
        search_path.prepend("command-line", url)
    return Hydra.create_main_hydra2(task_name="train", config_search_path=search_path)


def _refuse_modules() -> None:
    """Let entries of the search path import no module that the user has not permitted.

    Hydra imports the module of `pkg://MODULE` and `structured://MODULE`, and a config file may name such entries.
    """
    from hydra._internal.core_plugins import importlib_resources_config_source, structured_config_source
    from hydra._internal.sources_registry import SourcesRegistry
    from hydra.core.plugins import Plugins

    class ImportlibResourcesConfigSource(importlib_resources_config_source.ImportlibResourcesConfigSource):
        def __init__(self, provider: str, path: str) -> None:
            name = path.removeprefix(PACKAGE).replace("/", ".").strip(".")
            if not (f"{name}.".startswith(("hydra.conf.", "opsin.")) or is_permitted(name)):
                raise UserError(f"hydra.searchpath: {path} is not accepted: permit it with {TARGETS_VARIABLE}={name}")
            super().__init__(provider, path)

    class StructuredConfigSource(structured_config_source.StructuredConfigSource):  # Hydra compares the name
        def __init__(self, provider: str, path: str) -> None:
            if path.removeprefix("structured://"):
                raise UserError(f"hydra.searchpath: {path} is not accepted: name a folder, or pkg://PACKAGE")
            super().__init__(provider, path)

    Plugins.instance()  # registers Hydra's own sources, which these replace
    SourcesRegistry.instance().types |= {
        "pkg": ImportlibResourcesConfigSource,
        "structured": StructuredConfigSource,
    }


def load(overrides: Sequence[str], source: ConfigSource | None = None) -> DictConfig:
    """Return the unresolved config that Hydra composes, with its own settings under `hydra`.

    Raises:
        Exception: Hydra's, OmegaConf's and PyYAML's, which share no base class.
    """
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    source = source or ConfigSource()
    session = hydra_session(source)
    config = session.compose_config(source.config_name, list(overrides), RunMode.RUN, from_shell=False)
    HydraConfig.instance().set_config(config)  # for `${hydra:...}` in values
    return config


def listed_options(groups: Sequence[str], overrides: Sequence[str], source: ConfigSource) -> dict[str, list[str]]:
    """Return the options that lists choose, such as `callbacks=[default,ema]`, by group; Hydra does not record them.

    Args:
        groups: The config groups.
        overrides: Overrides that Hydra has composed.
        source: Search path and primary config.
    """
    if not groups:
        return {}
    from hydra.types import RunMode

    loader = hydra_session(source).config_loader
    found = loader.compute_defaults_list(source.config_name, list(overrides), RunMode.RUN).defaults
    options: dict[str, list[str]] = {group: [] for group in groups}
    for entry in found:
        group, _, option = (entry.config_path or "").partition("/")
        if group in options and not (entry.parent or "").startswith(f"{group}/"):  # such a file includes it: no choice
            options[group].append(option)
    return options


def override_parser(source: ConfigSource) -> Any:
    """Return Hydra's parser of overrides; it knows the options of the groups, which `model=glob(*)` needs."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    return OverridesParser.create(hydra_session(source).config_loader)


def configure_logging(settings: DictConfig) -> None:
    """Set up console and log file as `hydra.job_logging` and `hydra.verbose` describe.

    Args:
        settings: Hydra's settings of the run, with `hydra.runtime.output_dir`, under `hydra`.

    Raises:
        UserError: They have a wrong value.
    """
    from hydra.core.utils import configure_log

    checked, verbose = checked_logging(settings), checked_verbose(settings)
    with named_mistakes():
        configure_log(checked, verbose)
    for handler in logging.getLogger().handlers:
        handler.addFilter(MaskSecrets())
        handler.addFilter(EscapeControls())
        if isinstance(handler, logging.FileHandler):
            raise_disk_errors(handler)


@contextmanager
def opsin_logging(settings: DictConfig) -> Iterator[None]:
    """Log the messages of Opsin to stdout and to the log file of a run, and leave all other loggers as they are.

    The formats and the file are those of `hydra.job_logging`. A level that the caller has set for the logger `opsin`
    stays.

    Args:
        settings: Hydra's settings of the run, as for `configure_logging`.

    Raises:
        UserError: They have a wrong value.
    """
    logger = logging.getLogger("opsin")
    level, propagate = logger.level, logger.propagate
    with ExitStack() as closing:
        if isinstance(sys.stdout, io.TextIOWrapper):  # its encoding may lack the characters of a name
            closing.callback(sys.stdout.reconfigure, errors=sys.stdout.errors)
            sys.stdout.reconfigure(errors="backslashreplace")
        for handler in _handlers(settings):
            handler.addFilter(MaskSecrets())
            handler.addFilter(EscapeControls())
            logger.addHandler(handler)
            closing.callback(handler.close)
            closing.callback(logger.removeHandler, handler)
        closing.callback(setattr, logger, "propagate", propagate)
        closing.callback(logger.setLevel, level)
        logger.setLevel(level or logging.INFO)
        logger.propagate = False  # a handler of the caller would print each message again
        yield


def _handlers(settings: DictConfig) -> Iterator[logging.Handler]:
    console = logging.StreamHandler(sys.stdout)
    console.setFormatter(logging.Formatter("%(message)s"))
    yield console
    if file := _file_handler(checked_logging(settings)):
        raise_disk_errors(file)
        yield file


def _file_handler(described: DictConfig) -> logging.FileHandler | None:
    """Return the handler `file` of `hydra.job_logging` with all of its settings; None if there is no log file.

    Raises:
        UserError: They have a wrong value.
    """
    values: Any = OmegaConf.to_container(described, resolve=True)
    if "filename" not in values.get("handlers", {}).get("file", {}):
        return None
    maker = DictConfigurator(values)
    formatters = maker.config.get("formatters", {})
    with named_mistakes():
        formatters.update({name: maker.configure_formatter(entry) for name, entry in formatters.items()})
        handler = maker.configure_handler(maker.config["handlers"]["file"])
    assert isinstance(handler, logging.FileHandler)
    return handler


def raise_disk_errors(handler: logging.FileHandler) -> None:
    """End the run if its log file cannot be written: after a resume, no line may be missing.

    By default, `logging` prints a traceback for each line and continues.
    """
    default = handler.handleError

    def raise_error(record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if isinstance(error, OSError):
            error.filename = error.filename or handler.baseFilename
            raise error
        default(record)

    handler.handleError = raise_error  # type: ignore[method-assign]


@contextmanager
def hydra_state() -> Iterator[None]:
    """Restore the state of Hydra and OmegaConf in this process afterwards: the caller may use Hydra too."""
    from hydra._internal.sources_registry import SourcesRegistry
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.core.plugins import Plugins
    from hydra.version import VersionBase

    Plugins.instance()  # registers Hydra's own sources once per process, so they must be among the restored ones

    version, session, config = VersionBase.instance(), GlobalHydra.instance(), HydraConfig.instance()
    earlier = version.version_base, session.hydra, config.cfg
    sources = dict(SourcesRegistry.instance().types)
    try:
        with restored_resolvers():
            yield
    finally:
        version.version_base, session.hydra, config.cfg = earlier
        SourcesRegistry.instance().types = sources


def print_hydra_help(source: ConfigSource, overrides: Sequence[str]) -> None:
    """Print Hydra's own help page."""
    from hydra._internal.utils import get_args_parser

    parser = get_args_parser()
    arguments = parser.parse_args([])
    arguments.overrides = list(overrides)
    hydra_session(source).hydra_help(config_name=source.config_name, args_parser=parser, args=arguments)


def print_info(source: ConfigSource, topic: str, overrides: Sequence[str]) -> None:
    """Print Hydra's information on a topic of `--info`, such as `defaults` or `searchpath`."""
    hydra_session(source).show_info(topic, config_name=source.config_name, overrides=list(overrides))
    logging.getLogger().setLevel(logging.INFO)


def complete(source: ConfigSource, overrides: Sequence[str]) -> None:
    """Answer `--shell-completion`: install=SHELL, uninstall=SHELL or query=SHELL."""
    hydra_session(source).shell_completion(source.config_name, list(overrides))
