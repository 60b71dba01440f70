"""Quoted values survive Hydra's grammar, OmegaConf and a shell unchanged."""

import json
import random
import subprocess
import sys
from pathlib import Path, PurePosixPath

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from opsin.runs.quoting import (
    CLONE_VARIABLE,
    opsin_command,
    override,
    printed_command,
    printed_override,
    quote,
    resume_command,
    torchrun_command,
)

PIECES = [
    *"aZe017_-+./:%@!?*|&;<>^ \t\n'\"`\\()[]{}=,#~$üé猫",
    *("  ", "\\\\", "${", "${a}", "\\${", "null", "true", "inf"),
]
HOSTILE = [
    *("", " ", " leading", "trailing ", "my photos (1)", "it's", 'a "b" c', "a\\", "\\", '\\"', "C:\\new", "a=b"),
    *("x,y", "#1", "~tilde", "${x}", "${oc.env:HOME}", "\\${x}", "$HOME", "[1,2]", "{a:1}", "(1)", "a:b", "Käfer"),
    *("写真", "é", "007", "1e3", "1E-3", "1_0", "2024", "-1", "+1", "1.", ".5", "0x10", "inf", "NaN", "true", "False"),
    *("null", "None", "range(3)", "choice(a,b)", "'quoted'", '"quoted"', "-m", "+a", "a b", "50%", "s3://bucket/x"),
]


def through_hydra(text: str) -> object:
    """Return the value of an override after parsing, composition, YAML and resolution."""
    config = OmegaConf.create({"key": None})
    OmegaConf.update(config, "key", OverridesParser.create().parse_override(text).value())
    again = OmegaConf.create(OmegaConf.to_yaml(config))
    assert isinstance(again, DictConfig)
    assert again.key == config.key
    return OmegaConf.to_container(again, resolve=True)["key"]  # type: ignore[index, call-overload]


@pytest.mark.parametrize("text", HOSTILE)
def test_text_stays_text(text: str) -> None:
    assert through_hydra(override("key", text)) == text


def test_random_text_stays_text() -> None:
    rng = random.Random(0)
    for _ in range(300):
        text = "".join(rng.choices(PIECES, k=rng.randint(0, 6)))
        assert through_hydra(override("key", text)) == text


def test_other_values_keep_their_type() -> None:
    for value in (None, True, False, 0, -3, 1e-5, 0.1, 1e20, [], [1, "1", [None, "a b"]], {"patience": 3, "x": "null"}):
        found = through_hydra(override("key", value))
        assert found == value
        assert type(found) is type(value)


def test_plain_text_needs_no_quotes() -> None:
    for text in ("mlp", "outputs/latest", "/data/run_1", "12-00-01_digits_46aa", "val/loss", "2024-01-02"):
        assert quote(text) == text
    assert quote(PurePosixPath("/my photos")) == '"/my photos"'
    assert printed_override("datamodule.path", "my photos (1)") == "'datamodule.path=\"my photos (1)\"'"


def test_random_commands_survive_a_shell() -> None:
    rng = random.Random(1)
    texts = ["".join(rng.choices(PIECES, k=rng.randint(0, 6))) for _ in range(300)]
    arguments = [override("resume", text) for text in texts] + texts
    show = "import json, sys; print(json.dumps(sys.argv[1:]))"
    command = printed_command([sys.executable, "-c", show, *arguments])
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == arguments


@pytest.mark.parametrize("folder", ["my runs (2)", "jürgen", 'it\'s "so"', "a=b,c #1", "~x [${y}]", "back\\slash"])
def test_a_resume_command_names_the_run(folder: str, tmp_path: Path) -> None:
    show = f"opsin() {{ {sys.executable} -c 'import json, sys; print(json.dumps(sys.argv[1:]))' \"$@\"; }}"
    command = resume_command(tmp_path / folder)
    done = subprocess.run(["bash", "-c", f"{show}; {command}"], capture_output=True, text=True, check=True)
    name, argument = json.loads(done.stdout)
    assert name == "train"
    assert through_hydra(argument) == str(tmp_path / folder)


def test_commands_have_the_form_that_was_started(in_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert opsin_command("find-lr", "a b") == "opsin find-lr 'a b'"
    assert torchrun_command("--nnodes=2") == "torchrun --nnodes=2 -m opsin train"
    monkeypatch.setenv(CLONE_VARIABLE, str(in_tmp))
    assert opsin_command("find-lr", "a b") == "python scripts/find_lr.py 'a b'"
    assert opsin_command("train", "seed=1") == "python train.py seed=1"
    assert torchrun_command("--nnodes=2") == "torchrun --nnodes=2 train.py"
    monkeypatch.setenv(CLONE_VARIABLE, "/my clone")  # seen from elsewhere: a command that works here
    assert opsin_command("predict", "run") == "python '/my clone/scripts/predict.py' run"
