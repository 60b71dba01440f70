"""Overrides are read with Hydra's grammar, and invalid values give one message with the quoted form."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from opsin.config import CONFIGS, compose, from_saved
from opsin.config.overrides import check_overrides, find_value, is_override, is_word, key_of
from opsin.config.suggestions import config_options
from opsin.errors import UserError
from opsin.runs.directory import RunDirectory
from opsin.runs.quoting import override

ROOT = CONFIGS.parent
OPTIONS = config_options()

REFUSED = ["my photos (1)", "a=b", "Käfer", "写真", "[2024] cats", "~tilde", "new#1", "it's", "a{b", "日 x"]


def refusal(*arguments: str) -> str:
    with pytest.raises(UserError) as caught:
        check_overrides(arguments, OPTIONS)
    return str(caught.value)


@pytest.mark.parametrize("value", REFUSED)
def test_a_refused_value_is_shown_in_quotes(value: str) -> None:
    message = refusal(f"datamodule.path={value}")
    assert message.startswith(f"datamodule.path={value} cannot be read: as text it needs quotes")
    (shown,) = shlex.split(message.split("for the shell: ")[1].split("; anything else")[0])
    assert OverridesParser.create().parse_override(shown).value() == value
    assert check_overrides([shown], OPTIONS) == [shown]


@pytest.mark.parametrize("folder", ["photos", "my photos", "a/b", "1e3"])
@pytest.mark.parametrize(("options", "first"), [(OPTIONS, ["datamodule=image_folder"]), ({}, [])])
def test_a_folder_gets_the_overrides_that_name_it(folder: str, options: dict, first: list[str], in_tmp: Path) -> None:
    (in_tmp / folder).mkdir(parents=True)
    with pytest.raises(UserError, match=" is a folder, and the command takes overrides: write ") as caught:
        check_overrides([folder], options)
    *before, shown = shlex.split(str(caught.value).split(": write ")[1])
    assert before == first
    assert find_value(check_overrides([shown], options), "datamodule.path") == folder


@pytest.mark.slow
@pytest.mark.parametrize("flags", [[], ["-m"], ["resume=auto"]])
@pytest.mark.parametrize("script", ["train.py", "scripts/find_lr.py"])
def test_every_command_prints_that_message_alone(script: str, flags: list[str], tmp_path: Path) -> None:
    if script != "train.py" and flags == ["-m"]:
        pytest.skip("find_lr.py has no multirun")
    command = [sys.executable, str(ROOT / script), *flags, "datamodule.path=my photos (1)"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "'datamodule.path=\"my photos (1)\"'" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ['+logger.x.notes="%s see a/b"', "~/%s=a", "+logger.x.notes=a\\%s", "+tags=[%s/a]"])
def test_a_long_text_with_a_slash_is_an_override(text: str) -> None:
    assert not is_word(text % ("long " * 60))


@pytest.mark.parametrize(
    "argument", ["callbacks.progress={}", "++logger.tensorboard={}", "+callbacks.progresss=null", "+logger.x=null"]
)
def test_a_callback_or_logger_that_changes_nothing_is_refused(argument: str) -> None:
    key = key_of(argument)
    assert refusal(argument) == f"{argument} changes nothing: leave it out, or write {key}=null to remove {key}"
    others = [f"{key}=null", f"++{key}=null", f"+{key}={{}}", f"{key}={{bar:false}}", "datamodule.storage_options={}"]
    assert check_overrides(others, OPTIONS) == others


def test_brackets_that_do_not_close_are_named() -> None:
    assert "anything else needs its closing bracket" in refusal("-m", "optimizer.lr=tag(log,interval(1e-4,0.1)")


def test_several_values_need_a_multirun() -> None:
    message = refusal("datamodule.path=x,y")
    for part in ("add -m", "'datamodule.path=\"x,y\"'", "'datamodule.path=[x,y]'"):
        assert part in message
    assert refusal("seed=range(3)").endswith("add -m to the command opsin train")
    arguments = ["datamodule.path=x,y", "--multirun", "seed=range(3)"]
    assert check_overrides(arguments, OPTIONS) == arguments


@pytest.mark.parametrize("key", ["optimizer.lr", "seed", "callbacks.checkpoints.monitor", "output_dir"])
def test_an_interpolation_of_an_unknown_key_is_refused(key: str) -> None:
    with pytest.raises(UserError, match=r"nothing\.here"):
        compose([f"{key}=${{nothing.here}}"])


@pytest.mark.parametrize(
    "argument", ["debug=null", "logger=null", "optimizer=", "model=1", "model=true", "model={a:1}"]
)
def test_a_group_takes_the_name_of_an_option(argument: str) -> None:
    assert "takes the name of an option" in refusal(argument)


def test_invalid_overrides_and_keys_are_refused() -> None:
    assert "write KEY=VALUE" in refusal("mnist")
    assert "is not a key" in refusal("my key=1")


def test_flags_and_their_values_are_not_parsed_as_overrides() -> None:
    arguments = [
        "--config-dir",
        "my configs (1)=",
        "-cn",
        "a b",
        "--cfg",
        "job",
        "--info",
        "all",
        "--hydra-help",
        "~logger.tensorboard",
        "+a.b=1",
    ]
    assert check_overrides(arguments, OPTIONS) == arguments


@pytest.mark.parametrize("key", ["datamodule.path", "output_dir", "resume", "hydra.run.dir", "sweep.name", "data_dir"])
def test_text_that_reads_as_a_number_stays_text(key: str) -> None:
    for name in ("2024", "1e3", "1_0", "-1", "007", ".5", "inf"):
        (checked,) = check_overrides([f"{key}={name}"], OPTIONS)
        assert OverridesParser.create().parse_override(checked).value() == name
    for other in (f"{key}=null", f"{key}=", "optimizer.lr=1e3", "trainer.max_epochs=2", f"{key}=plain"):
        assert check_overrides([other], OPTIONS) == [other]


def test_a_folder_called_true_or_null_is_that_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("true", "null"):
        assert check_overrides([f"datamodule.path={name}"], OPTIONS) == [f"datamodule.path={name}"]
        Path(name).mkdir()
        assert check_overrides([f"datamodule.path={name}"], OPTIONS) == [f'datamodule.path="{name}"']
        found = compose(["datamodule=image_folder", f"datamodule.path={name}"])
        assert found.tree["datamodule"]["path"] == str(tmp_path / name)


def test_values_are_found_with_any_quotes_and_prefixes() -> None:
    for text in ("resume=my/run", "resume='my/run'", 'resume="my/run"', "+resume=my/run", "++resume='my/run'"):
        assert find_value(["model=mlp", text, "seed=1"], "resume") == "my/run"
    assert find_value(["resume=a", "resume='b c'"], "resume") == "b c"
    assert find_value(["resume=null", "--multirun"], "resume") is None
    assert find_value(["monitor.resume=1", "~resume"], "resume") is None
    assert [is_override(text) for text in ("a=1", "~a", "-m", "--x=1", "a")] == [True, True, False, False, False]
    assert [key_of(text) for text in ("a.b=c=d", "++a=1", "~a", "~a=1", "g@p.q=x")] == ["a.b", "a", "a", "a", "g"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["my runs (2)", "jürgen", "it's", "2024", "a=b"])
def test_a_run_in_any_folder_is_resumed(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).mkdir()
    composed = compose(["model=mlp"], Path(name))
    composed.save()
    for run in (Path(name), Path(name).absolute()):
        arguments = [override("resume", run), "trainer.max_epochs=7"]
        resumed = compose(arguments)
        assert (resumed.resumes, resumed.run.path) == (True, Path(name).absolute())
        assert resumed.tree["trainer"]["max_epochs"] == 7
        assert from_saved(RunDirectory(Path(name)), arguments).tree["trainer"]["max_epochs"] == 7
