"""Logging settings: no callable is called, and no file outside the run directory is written."""

import io
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from opsin.config import ConfigSource, compose
from opsin.config.hydra_session import configure_logging, opsin_logging
from opsin.config.logging_settings import checked_logging
from opsin.errors import UserError

HOSTILE: dict[str, dict[str, Any]] = {
    "a factory of a handler": {"handlers": {"x": {"()": "subprocess.getoutput", "cmd": "touch victim"}}},
    "a factory of a formatter": {"formatters": {"x": {"()": "subprocess.getoutput", "cmd": "touch victim"}}},
    "a factory of a filter": {"filters": {"x": {"()": "subprocess.getoutput", "cmd": "touch victim"}}},
    "a class of a formatter": {"formatters": {"x": {"class": "subprocess.getoutput", "format": "touch victim"}}},
    "properties of a handler": {"handlers": {"x": {"class": "logging.StreamHandler", ".": {"emit": "os.system"}}}},
    "a handler that sends": {"handlers": {"x": {"class": "logging.handlers.HTTPHandler", "host": "h", "url": "/"}}},
    "a handler that deletes": {"handlers": {"x": {"class": "logging.handlers.RotatingFileHandler", "filename": "v"}}},
    "a module as stream": {"handlers": {"x": {"class": "logging.StreamHandler", "stream": "ext://antigravity.x"}}},
    "a module in a format": {"formatters": {"x": {"format": "ext://antigravity.webbrowser"}}},
    "a reference to a setting": {"handlers": {"console": {"level": "cfg://handlers.file"}}},
    "a file elsewhere": {"handlers": {"file": {"filename": "/tmp/opsin-hostile.log"}}},
    "a file above": {"handlers": {"file": {"filename": "run/../victim.log"}}},
    "a file of a shell": {"handlers": {"file": {"filename": "run/.bashrc"}}},
    "a braces format": {"formatters": {"full": {"style": "{", "format": "{record.__class__}"}}},
}


@pytest.mark.slow
@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE)
def test_settings_that_need_code_or_other_files_are_refused(change: dict[str, Any], in_tmp: Path) -> None:
    settings = compose(["hydra.run.dir=run"]).settings
    assert settings is not None
    OmegaConf.set_struct(settings, False)
    OmegaConf.set_readonly(settings.hydra, False)
    settings.hydra.job_logging = OmegaConf.merge(settings.hydra.job_logging, change)
    for use in (configure_logging, lambda found: opsin_logging(found).__enter__()):
        with pytest.raises(UserError, match=r"hydra\.job_logging\.\S+ is not a"):
            use(settings)
    assert not list(in_tmp.iterdir())


def test_a_config_file_cannot_name_a_callable(in_tmp: Path) -> None:
    text = "hydra:\n  job_logging:\n    handlers:\n      x: {'()': subprocess.getoutput, cmd: touch victim}\n"
    (in_tmp / "mine.yaml").write_text(f"defaults: [train, _self_]\n{text}")
    settings = compose([], source=ConfigSource.of([str(in_tmp)], "mine")).settings
    assert settings is not None
    with pytest.raises(UserError, match=r"handlers\.x\.\(\) is not accepted"):
        configure_logging(settings)


def test_a_log_that_is_a_link_out_of_the_run_is_refused(in_tmp: Path) -> None:
    (in_tmp / "run").mkdir()
    (in_tmp / "run" / "train.log").symlink_to(in_tmp / ".bashrc")
    settings = compose(["hydra.run.dir=run"]).settings
    assert settings is not None
    with pytest.raises(UserError, match="is not a log file in the run directory"):
        checked_logging(settings)


def test_a_log_that_is_no_regular_file_is_refused(in_tmp: Path) -> None:
    (in_tmp / "run").mkdir()
    settings, log = compose(["hydra.run.dir=run"]).settings, in_tmp / "run" / "train.log"
    assert settings is not None
    makers: tuple[Callable[[Path], object], ...] = (os.mkfifo, lambda path: path.symlink_to(path.name), Path.mkdir)
    for make in makers:
        make(log)
        with pytest.raises(UserError, match=r"train\.log is not a regular file \(delete it\)"):
            checked_logging(settings)
        log.rmdir() if log.is_dir() else log.unlink()


@pytest.mark.parametrize("override", ["hydra/job_logging=default", "hydra/job_logging=disabled", "hydra.verbose=true"])
def test_the_settings_of_hydra_are_accepted(override: str, in_tmp: Path) -> None:
    settings = compose([override, "hydra.run.dir=run"]).settings
    assert settings is not None
    assert checked_logging(settings).version == 1


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("root.level=VERBOSE", "root logger: Unknown level: 'VERBOSE'"),
        ("loggers.matplotlib.level=VERBOSE", "logger 'matplotlib': Unknown level: 'VERBOSE'"),
        ("root.handlers=[nope]", "root logger: Unable to add handler 'nope'"),
        ("handlers.console.formatter=nope", "handler 'console': Unable to set formatter 'nope'"),
        ("formatters.full.format='%(mess'", r"formatter 'full': Invalid format '%\(mess'"),
        ("version=2", "Unsupported version: 2"),
        ("formatters.full.format='%(message)d'", r"formatter 'full': %d format: .* not str \(format '%\(message\)d'\)"),
        ("formatters.full.format='%(user)s'", "formatter 'full': Formatting field not found in record: 'user'"),
        ("formatters.plain.format='%(lineno)c%(levelno)*d'", "formatter 'plain': "),
        ("formatters.full.format='%(thread)c'", "formatter 'full': %c arg not in range"),
        ("formatters.full.format=3", "formatters.full.format=3 is not text"),
        ("+formatters.full.datefmt=3", "formatters.full.datefmt=3 is not text"),
        ("handlers.console=5", "handlers.console=5 is not a section"),
        ("handlers=5", "handlers=5 is not a section"),
        ("root=5", "root=5 is not a section"),
        ("~root", "root is missing"),
        ("+handlers.file.mode=r", "handlers.file.mode=r is not accepted"),
        ("handlers.file.encoding=rot13", "handlers.file.encoding=rot13 is not known"),
        ("handlers.file.errors=nope", "handlers.file.errors=nope is not known"),
    ],
)
def test_a_wrong_value_gives_one_message(
    override: str, reason: str, in_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    mark = override[0] if override[0] in "+~" else ""
    settings = compose([f"{mark}hydra.job_logging.{override.removeprefix(mark)}", "hydra.run.dir=run"]).settings
    assert settings is not None
    with pytest.raises(UserError, match=rf"^hydra\.job_logging\W.*{reason}"):
        configure_logging(settings)
    assert not list(in_tmp.iterdir())


def test_a_deletion_of_all_settings_gives_one_message() -> None:
    settings = compose(["~hydra/job_logging"]).settings
    assert settings is not None
    with pytest.raises(UserError, match="write hydra/job_logging=disabled for no log"):
        configure_logging(settings)


@pytest.mark.parametrize("value", ["3", "null", "{a: 1}", "[PIL,3]"])
def test_a_wrong_kind_of_verbose_gives_one_message(value: str) -> None:
    settings = compose([f"hydra.verbose={value}"]).settings
    assert settings is not None
    with pytest.raises(UserError, match=r"^hydra\.verbose=.* true, false, or names of loggers"):
        configure_logging(settings)


LOG = "hydra.job_logging.handlers.file"


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], r"earlier\n\[\d.*\]\[opsin\.test\]\[INFO\] k\\udce4fer ä\n"),
        ([f"{LOG}.encoding=latin-1", f"{LOG}.errors=replace"], r"earlier\n\[\d.*\]\[INFO\] k\?fer ä\n"),
        ([f"+{LOG}.mode=w", "+hydra.job_logging.formatters.full.datefmt=%Y"], r"\[\d{4}\]\[opsin\.test\].*\n"),
        ([f"{LOG}.formatter=plain"], r"earlier\nk\\udce4fer ä\n"),
        ([f"+{LOG}.level=ERROR"], r"earlier\n"),
        (
            ["hydra/job_logging=default", f"+{LOG}.errors=ignore"],
            r"earlier\n\[\d.*\]\[opsin\.test\]\[INFO\] - kfer ä\n",
        ),
        (["hydra/job_logging=stdout"], r"earlier\n"),
    ],
)
def test_python_and_the_command_write_the_same_log_file(
    overrides: list[str],
    expected: str,
    in_tmp: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root, log = logging.getLogger(), in_tmp / "run" / "train.log"
    log.parent.mkdir()
    monkeypatch.setattr(root, "handlers", [])
    settings = compose([*overrides, "hydra.run.dir=run"]).settings
    assert settings is not None
    encoding = settings.hydra.job_logging.get("handlers", {}).get("file", {}).get("encoding", "utf-8")
    written = []
    for use in (opsin_logging, configured):
        log.write_text("earlier\n")
        with use(settings):
            logging.getLogger("opsin.test").info("k\udce4fer ä")
        written.append(log.read_text(encoding=encoding))
    assert all(re.fullmatch(expected, text) for text in written), written
    assert "Logging error" not in capsys.readouterr().err


def test_a_console_of_python_takes_any_text(
    in_tmp: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    console = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", console)
    settings = compose(["hydra/job_logging=stdout"]).settings
    assert settings is not None
    with opsin_logging(settings):
        logging.getLogger("opsin.test").info("k\udce4fer 猫")
    console.flush()
    assert console.buffer.getvalue() == rb"k\udce4fer \u732b" + b"\n"  # type: ignore[attr-defined]
    assert (console.errors, capsys.readouterr().err) == ("strict", "")


@contextmanager
def configured(settings: DictConfig) -> Iterator[None]:
    """Log as the command does, with the root logger and a console that takes any text."""
    assert isinstance(sys.stdout, io.TextIOWrapper)
    sys.stdout.reconfigure(errors="backslashreplace")
    configure_logging(settings)
    yield
    for handler in list(logging.getLogger().handlers):
        handler.close()


def test_a_log_file_of_python_with_a_wrong_format_is_refused(in_tmp: Path) -> None:
    for override in ("formatters.full.format='%(mess'", "handlers.file.formatter=nope"):
        settings = compose([f"hydra.job_logging.{override}", "hydra.run.dir=run"]).settings
        assert settings is not None
        with pytest.raises(UserError, match=r"^hydra\.job_logging: .*(Invalid format|Unable to set formatter)"):
            opsin_logging(settings).__enter__()
