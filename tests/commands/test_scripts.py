"""Each file in scripts/ calls the `main` of the command of the same name."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from opsin.commands import interpret
from opsin.commands.command_line import command
from opsin.commands.interpret.interpretation import KINDS
from opsin.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted((ROOT / "scripts").glob("*.py"))
HEAVY = {"torch", "lightning", "torchvision", "gradio", "sklearn", "tensorboard", "hydra"}


def test_all_scripts_are_found() -> None:
    assert len(SCRIPTS) >= 12


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_only_calls_its_command(script: Path) -> None:
    lines = script.read_text(encoding="utf-8").splitlines()
    assert f"from opsin.commands.{script.stem} import main" in lines
    assert len(lines) <= 10


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_help_does_not_import_heavy_libraries(script: Path) -> None:
    code = (
        f"import runpy, sys; sys.argv = ['{script.name}', '--help']\n"
        f"try: runpy.run_path({str(script)!r}, run_name='__main__')\n"
        f"finally: print('heavy:', *{HEAVY} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: {script.name}")
    assert done.stdout.splitlines()[-1] == "heavy:"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_an_unknown_option_is_refused(script: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main = importlib.import_module(f"opsin.commands.{script.stem}").main
    if script.stem == "dashboard":  # passes unknown options on to TensorBoard
        assert main(["nowhere"]) == 1
        assert "nowhere is not a folder" in capsys.readouterr().err
        return
    if script.stem in ("find_lr", "prepare_data"):  # accept the flags of train.py
        assert main(["--no-such-option"]) == 1
        assert "Unrecognized arguments: --no-such-option" in capsys.readouterr().err
        return
    with pytest.raises(SystemExit) as ended:
        main(["--no-such-option"])
    assert ended.value.code == 2


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
