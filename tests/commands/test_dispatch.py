"""`opsin NAME`, `python -m opsin NAME` and `python scripts/NAME.py` start the same command; messages use that form."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from opsin import __version__
from opsin.commands import dispatch, interpret
from opsin.commands.command_line import command, command_parser
from opsin.commands.command_table import COMMANDS
from opsin.commands.completion import complete
from opsin.commands.convolve_image import ConvolveOptions
from opsin.commands.interpret.error_analysis import error_analysis
from opsin.commands.interpret.features import filter_pictures
from opsin.commands.interpret.interpretation import COUNT, KINDS
from opsin.config.signatures import defaults
from opsin.data.shard_writer import MAX_SHARD_BYTES, ShardOptions
from opsin.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
OF_THE_CLONE = ("reproduce",)
"""Scripts without a command: their code is beside the package."""
SCRIPTS = [
    ROOT / "train.py",
    *sorted(script for script in (ROOT / "scripts").glob("*.py") if script.stem not in OF_THE_CLONE),
]
HEAVY = {"torch", "lightning", "torchvision", "gradio", "sklearn", "tensorboard", "hydra"}


def name_of(script: Path) -> str:
    return script.stem.replace("_", "-")


def form_of(name: str, script: Path | None) -> str:
    return f"opsin {name}" if script is None else f"python {script}"


def test_every_command_has_a_script() -> None:
    assert {name_of(script) for script in SCRIPTS} == set(COMMANDS) - {"completion", "new"}
    for script in SCRIPTS:
        lines = script.read_text(encoding="utf-8").splitlines()
        assert "    sys.exit(run_script(__file__))" in lines
        assert len(lines) <= 10


@pytest.mark.slow
@pytest.mark.parametrize("script", [None, *SCRIPTS], ids=lambda path: path.stem if path else "opsin")
def test_help_loads_no_heavy_library_and_shows_the_form_that_was_started(script: Path | None, tmp_path: Path) -> None:
    """One process prints the help of all commands, as `opsin` or as a script."""
    names = list(COMMANDS) if script is None else [name_of(script)]
    start = "opsin.main_of(name)(['--help'])" if script is None else f"opsin.run_script({str(script)!r})"
    code = (
        "import contextlib, sys; from opsin.commands import dispatch as opsin; sys.argv = ['x', '--help']\n"
        f"for name in {names}:\n"
        f"    with contextlib.suppress(SystemExit): {start}\n"
        f"print('heavy:', *{HEAVY} & set(sys.modules))"
    )
    wide = {**os.environ, "COLUMNS": "300"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=wide, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "heavy:"
    for name in names:
        assert f"usage: {form_of(name, script)} " in done.stdout
        assert COMMANDS[name].summary.rstrip(".") in done.stdout
    other = "python" if script is None else "opsin "
    assert other not in done.stdout.replace("OPSIN_", "").replace("torchrun", "")


def texts(file: Path) -> list[str]:
    """Return the strings of a module, without docstrings."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    documentation = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    constants = (node for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in documentation)
    return [node.value for node in constants if isinstance(node.value, str)]


@pytest.mark.slow
def test_messages_leave_the_form_of_commands_to_one_function() -> None:
    """`opsin_command` writes `opsin train` or `python train.py`; no other message contains either form."""
    forms = re.compile(rf"\bopsin ({'|'.join(COMMANDS)})\b|\btrain\.py\b|\bscripts/")
    package = ROOT / "src" / "opsin"
    own = {
        "runs/quoting.py",
        "config/help_page.py",
        "commands/dispatch.py",
        "commands/completion.py",
        "commands/command_table.py",
        "models/summary/classic_networks.py",  # a page of the documentation
    }
    files = [file for file in package.rglob("*.py") if file.relative_to(package).as_posix() not in own]
    assert len(files) > 250
    assert [(file.name, text) for file in files for text in texts(file) if forms.search(text)] == []


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_opsin_lists_its_commands(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert dispatch.main(arguments) == 0
    page = capsys.readouterr().out
    for name, entry in COMMANDS.items():
        assert f"  {name} " in page
        assert entry.summary in page


@pytest.mark.parametrize("typed", ["evaluate", "verify", "export --format onnx", "embed", "interpret --what gradcam"])
def test_a_command_without_a_run_asks_only_for_the_run(typed: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        dispatch.main(typed.split())
    assert capsys.readouterr().err.endswith("error: the following arguments are required: run\n")


def test_python_m_opsin_is_opsin(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "opsin", "--version"], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (0, f"opsin {__version__}\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "opsin trian: there is no such command: did you mean opsin train?"),
        (["find_lr", "model=mlp"], "opsin find_lr: there is no such command: did you mean opsin find-lr?"),
        (["zzz"], "opsin zzz: there is no such command; opsin --help lists the commands"),
        (["z" * 300], f"opsin {'z' * 300}: there is no such command; opsin --help lists the commands"),
        (["model=mlp", "seed=1"], "opsin model=mlp: the command is missing, such as opsin train model=mlp seed=1"),
        (["my photos"], "opsin my photos: the command is missing, such as opsin train 'my photos'"),
        (["run"], "opsin run: the command is missing, such as opsin evaluate run"),
    ],
)
def test_an_unknown_command_names_the_nearest(
    arguments: list[str], message: str, in_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (in_tmp / "my photos").mkdir()
    (in_tmp / "run").mkdir()
    (in_tmp / "run" / "config.yaml").touch()
    assert dispatch.main(arguments) == 1
    assert capsys.readouterr().err == f"{message}\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_an_unknown_option_is_refused(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    main = dispatch.main_of(name)
    if name == "dashboard":  # passes unknown options on to TensorBoard
        assert main(["nowhere"]) == 1
        assert "nowhere is not a folder" in capsys.readouterr().err
        return
    if name in ("train", "find-lr", "summary", "prepare-data"):  # overrides and the flags of train
        assert main(["--no-such-option"]) == 1
        error = capsys.readouterr().err
        assert error == f"Unrecognized arguments: --no-such-option; opsin {name} --help shows how to use it\n"
        return
    with pytest.raises(SystemExit) as ended:
        main(["--no-such-option"])
    assert ended.value.code == 2


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("opsin pre", ["predict ", "prepare-data "]),
        ("opsin predict --to", ["--top "]),
        ("opsin find-lr --st", ["--steps "]),
        (
            "opsin train model=cnn_",
            [
                f"model=cnn_{name} "
                for name in ("batchnorm", "deep", "flatten", "gap", "kernels", "plain", "strided_stem", "whitened")
            ],
        ),
        ("opsin train PHOTOS optimizer=sgd optimizer.m", ["optimizer.momentum="]),
        ("opsin train -cd conf experiment=mi", ["experiment=mine "]),
        ("opsin predict phot", []),  # the shell completes files
        ("opsin nothing --t", []),
    ],
)
def test_completion_knows_commands_flags_and_overrides(line: str, expected: list[str], in_tmp: Path) -> None:
    (in_tmp / "conf" / "experiment").mkdir(parents=True)
    (in_tmp / "conf" / "experiment" / "mine.yaml").write_text("# @package _global_\nseed: 1\n")
    assert complete(line) == expected


def test_bash_completes_with_the_printed_script(tmp_path: Path) -> None:
    script = f"""opsin() {{ {sys.executable} -m opsin "$@"; }}
        eval "$(opsin completion bash)"
        COMP_LINE='opsin train model=cnn_g --junk'; COMP_POINT=23; _opsin; printf '%s|' "${{COMPREPLY[@]}}" """
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.stderr) == ("model=cnn_gap |", "")


@pytest.mark.parametrize(
    ("error", "code", "message"), [(UserError("no run"), 1, "no run\n"), (KeyboardInterrupt(), 130, "")]
)
def test_errors_become_exit_codes(
    error: BaseException, code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    @command
    def main(arguments: list[str] | None = None) -> int:
        raise error

    assert main([]) == code
    assert capsys.readouterr().err == message


def test_a_closed_pipe_is_not_an_error() -> None:
    code = (
        "import sys; from opsin.commands.command_line import command\n"
        "@command\ndef main(arguments=None):\n    raise BrokenPipeError\nsys.exit(main())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_interpret_lists_all_kinds() -> None:
    assert tuple(interpret.KINDS.split(", ")) == KINDS


@pytest.mark.parametrize("name", sorted(COMMANDS))
@pytest.mark.parametrize("details", ["", "Details."])
def test_the_example_ends_the_description_so_that_it_can_be_copied(name: str, details: str) -> None:
    description = command_parser(name, details).description or ""
    assert description.endswith(f" {COMMANDS[name].example}")
    assert "PHOTOS" not in description or name in ("train", "embed")  # which take a folder of class folders


SHARDS, OF_FILTERS, OF_ERRORS = ShardOptions(), defaults(filter_pictures), defaults(error_analysis)


@pytest.mark.parametrize(
    ("name", "stated"),
    [
        ("prepare-data", f"JPEG quality (default: {SHARDS.quality})"),
        ("prepare-data", f"at most {MAX_SHARD_BYTES // 10**6} (default: {SHARDS.shard_bytes // 10**6})"),
        ("prepare-data", f"resized at each read (default: {SHARDS.encoding})"),
        ("interpret", f"number of images, filters or errors (default: {COUNT})"),
        ("interpret", f"seed of the noise (default: {OF_FILTERS['seed']})"),
        ("interpret", f"to look for errors in (default: {OF_ERRORS['split']})"),
        ("interpret", f"0: none (default: all, up to {OF_ERRORS['train_images']})"),
        ("convolve", f"valid, same, or a number (default: {ConvolveOptions().padding})"),
        ("convolve", f"between the numbers of a kernel (default: {ConvolveOptions().dilation})"),
    ],
)
def test_help_states_the_defaults_of_modules_that_it_does_not_import(
    name: str, stated: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "500")
    with pytest.raises(SystemExit):
        dispatch.main_of(name)(["--help"])
    assert stated in " ".join(capsys.readouterr().out.split())
