"""The command line as a user types it: each test starts a process."""

import ast
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from opsin.commands.command_table import COMMANDS
from opsin.config.suggestions import config_options

ROOT = Path(__file__).resolve().parents[2]
QUICK = ("model=mlp", "datamodule.train_fraction=0.2", "trainer.max_epochs=2", "trainer.accelerator=cpu")


def environment(folder: Path) -> dict[str, str]:
    return {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": f"{ROOT / 'src'}:{ROOT / 'tests' / 'helpers'}",
        "HOME": str(folder),
    }


def command(script: str, *words: str) -> list[str]:
    return [sys.executable, str(ROOT / script), *words]


def python(folder: Path, script: str, *words: str, code: int = 0) -> str:
    """Run a script in a folder; return everything that it prints."""
    done = subprocess.run(
        command(script, *words), cwd=folder, env=environment(folder), capture_output=True, text=True, timeout=300
    )
    printed = done.stdout + done.stderr
    assert done.returncode == code, printed
    return printed


def results(folder: Path) -> list[dict]:
    return [json.loads(path.read_text()) for path in sorted(folder.glob("outputs/2*/**/result.json"))]


def test_help_lists_all_options_without_slow_imports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPROFILEIMPORTTIME", "1")
    page = python(tmp_path, "train.py", "--help")
    assert re.search(r"\| +omegaconf$", page, re.MULTILINE)
    assert not re.search(r"\| +(torch|lightning|torchvision|hydra|numpy)$", page, re.MULTILINE)  # seconds to import
    for group, options in config_options().items():
        assert f"\n  {group}\n" in page
        for option in options:
            assert re.search(rf"^    {option} +\S.{{12}}", page, re.MULTILINE), f"{group}={option}"
    assert page.count(f"  python {ROOT}/train.py") == 6
    assert page.startswith(f"{COMMANDS['train'].summary}\n") or f"\n{COMMANDS['train'].summary}\n" in page


def test_help_takes_a_default_from_the_parser() -> None:
    """A number that the text repeats, as in `default=150, help="... (default: 150)"`, can become wrong."""
    calls = [
        (file.name, {keyword.arg: keyword.value for keyword in node.keywords})
        for file in (ROOT / "src" / "opsin" / "commands").rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "add_argument"
    ]
    assert len(calls) > 80
    stating = [(file, ast.unparse(given["help"])) for file, given in calls if {"default", "help"} <= given.keys()]
    shown = [(file, text) for file, text in stating if "(default: " in text]
    assert [(file, text) for file, text in shown if "%(default)s" not in text] == [
        ("__init__.py", "'files, folders (with subfolders), globs (default: validation images)'")  # of an empty list
    ]
    assert len(shown) > 4


@pytest.mark.slow
def test_cfg_and_info_are_printed_without_a_run(tmp_path: Path) -> None:
    assert "max_epochs:" in python(tmp_path, "train.py", "--cfg", "job")
    assert "Defaults List" in python(tmp_path, "train.py", "--info", "defaults")
    assert not (tmp_path / "outputs").exists()


@pytest.mark.slow
def test_a_run_and_its_evaluation(tmp_path: Path) -> None:
    printed = python(tmp_path, "train.py", *QUICK)
    assert re.search(r"test accuracy \d\d\.\d\d%", printed)
    assert f"python {ROOT}/scripts/evaluate.py outputs/" in printed
    (result,) = results(tmp_path)
    assert result["status"] == "finished"
    log = (tmp_path / "outputs" / "latest" / "train.log").read_text()
    assert "epoch 2/2" in log
    assert f"predict     python {ROOT}/scripts/predict.py outputs/latest FILE" in log
    assert re.search(r"digits: .* train, .* val, .* test \(split at random, seed 42\); 10 classes", log)
    assert "test accuracy" in log
    again = python(tmp_path, "scripts/evaluate.py", "outputs/latest", "--json")
    measured = json.loads(again)["metrics"]
    assert measured == {name: value for name, value in result["metrics"].items() if name.startswith("test/")}


@pytest.mark.slow
def test_a_typo_gives_one_message_and_no_run_directory(tmp_path: Path) -> None:
    printed = python(tmp_path, "train.py", "+trainer.max_epoch=3", code=1)
    assert "did you mean trainer.max_epochs?" in printed
    assert "Traceback" not in printed
    assert results(tmp_path) == []
    assert [path for path in tmp_path.glob("outputs/2*/*") if path.is_dir()] == []


@pytest.mark.slow
def test_resuming_a_path_without_a_run_names_the_newest_runs(tmp_path: Path) -> None:
    python(tmp_path, "train.py", *QUICK)
    printed = python(tmp_path, "train.py", "resume=outputs/nothing", code=1)
    assert "outputs/nothing is not a run directory" in printed
    assert "the newest runs with a model are: outputs/latest" in printed
    assert "Traceback" not in printed
    assert len(results(tmp_path)) == 1


@pytest.mark.slow
def test_a_directory_of_the_user_is_not_deleted(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "__init__.py").touch()
    python(tmp_path, "train.py", "hydra.run.dir=mine", "+trainer.max_epoch=3", code=1)
    assert (tmp_path / "mine" / "__init__.py").exists()


@pytest.mark.slow
def test_a_resume_keeps_the_network_and_directory_and_its_weights_can_be_loaded(tmp_path: Path) -> None:
    python(tmp_path, "train.py", *QUICK, "optimizer=sgd")
    printed = python(tmp_path, "train.py", "resume=outputs/latest", "trainer.max_epochs=3", "optimizer.momentum=0.5")
    assert "resumed at step" in printed
    assert len(results(tmp_path)) == 1
    for words, reason in (
        (["resume=outputs/latest", "model=cnn_gap"], "model=cnn_gap cannot be changed"),
        (["resume=outputs/latest", "hydra.run.dir=other"], "leave out hydra.run.dir"),
    ):
        refused = python(tmp_path, "train.py", *words, code=1)
        assert reason in refused
        assert "Traceback" not in refused
    python(tmp_path, "train.py", *QUICK, "model.weights=outputs/latest", "trainer.max_epochs=1")
    assert len(results(tmp_path)) == 2


@pytest.mark.slow
def test_missing_weights_end_in_one_message(tmp_path: Path) -> None:
    printed = python(tmp_path, "train.py", "model=resnet18_partial", code=1)
    for part in (
        "resnet18-f37072fd.pth",
        "model.weights=none",
        "model.weights=opsin",
        "model=efficientnet_lite0_feature_extract",
    ):
        assert part in printed
    assert "Traceback" not in printed
    assert results(tmp_path)[0]["status"] == "failed"


@pytest.mark.slow
def test_a_multirun_writes_one_directory_per_run_and_prints_a_table(tmp_path: Path) -> None:
    words = [word for word in QUICK if not word.startswith("model")]
    printed = python(tmp_path, "train.py", "-m", "model=mlp,cnn_gap", "optimizer.lr=0.001,0.01", *words)
    found = [json.loads(path.read_text()) for path in tmp_path.glob("outputs/sweeps/*/*/result.json")]
    assert [result["status"] for result in found] == ["finished"] * 4
    assert sum("test/acc" in result["metrics"] for result in found) == 1  # only the best run is tested
    table = printed[printed.rindex("sweep by val/loss") :]
    assert table.count("optimizer.lr=") == 4
    losses = [float(match) for match in re.findall(r"│ (\d\.\d+) +│ +\d\.\d{4} +│", table)]
    assert len(losses) == 4
    assert losses == sorted(losses)


@pytest.mark.slow
def test_a_failed_job_is_a_row_of_the_table(tmp_path: Path) -> None:
    printed = python(tmp_path, "train.py", "-m", "model=mlp,resnet18_full", *QUICK[1:], code=1)
    assert "failed: 001_digits_resnet18_full: " in printed
    assert "The ImageNet weights cannot be downloaded" in printed
    found = sorted(tmp_path.glob("outputs/sweeps/*/*/result.json"))
    assert [json.loads(path.read_text())["status"] for path in found] == ["finished", "failed"]
    assert len(list(tmp_path.glob("outputs/sweeps/*/*/error.txt"))) == 1


@pytest.mark.slow
def test_ctrl_c_saves_the_run_and_prints_the_command_to_resume(tmp_path: Path) -> None:
    words = ("model=mlp", "trainer.max_epochs=500", "callbacks=no_early_stopping")
    process = subprocess.Popen(
        command("train.py", *words), cwd=tmp_path, env=environment(tmp_path), stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    printed = ""
    for line in process.stdout:
        printed += line
        if line.startswith("epoch 2/"):
            process.send_signal(signal.SIGINT)
            break
    printed += process.communicate(timeout=60)[0]
    assert process.returncode == 130, printed
    assert re.search(rf"resume with: python {ROOT}/train.py resume=\S+", printed)
    assert results(tmp_path)[0]["status"] == "interrupted"
    done = python(tmp_path, "train.py", "resume=outputs/latest", "trainer.max_epochs=4")
    assert "resumed at step" in done
    (result,) = results(tmp_path)
    assert (result["status"], result["epochs"]) == ("finished", 4)


@pytest.mark.slow
def test_runs_killed_at_random_moments_resume_with_identical_metrics(tmp_path: Path) -> None:
    words = ("model=strided_cnn", "augmentation=digits", "scheduler=cosine", "trainer.max_epochs=6", "trainer=cpu")
    begun = time.perf_counter()
    python(tmp_path, "train.py", *words, "hydra.run.dir=outputs/2-whole")
    took = time.perf_counter() - begun
    whole = results(tmp_path)[0]["metrics"]
    moments = random.Random(0)
    for number in range(5):
        place = tmp_path / "outputs" / f"2-killed-{number}"
        process = subprocess.Popen(
            command("train.py", *words, f"hydra.run.dir={place}"), cwd=tmp_path, env=environment(tmp_path)
        )
        time.sleep(moments.uniform(0.3, 1.0) * took)
        process.send_signal(signal.SIGKILL)
        process.wait()
        if (place / "config.yaml").exists():
            python(tmp_path, "train.py", f"resume={place}")
        else:  # killed before it began
            python(tmp_path, "train.py", *words, f"hydra.run.dir={place}")
        result = json.loads((place / "result.json").read_text())
        assert result["status"] == "finished"
        assert result["metrics"] == whole, f"killed run {number}"


@pytest.mark.slow
def test_resume_auto_finds_the_unfinished_run_of_the_same_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("model=mlp", "trainer.max_epochs=4", "resume=auto", "trainer=cpu")
    stop = "+callbacks.stop={_target_: interruptions.StopAt, step: 200}"  # of 324: the second process ends before
    monkeypatch.setenv("OPSIN_TARGETS", "interruptions")
    python(tmp_path, "train.py", *words, stop, code=130)
    python(tmp_path, "train.py", *words)  # another command: a run of its own
    assert sorted(result["status"] for result in results(tmp_path)) == ["finished", "interrupted"]
    python(tmp_path, "train.py", *words, stop, code=0)
    assert [result["status"] for result in results(tmp_path)] == ["finished", "finished"]
