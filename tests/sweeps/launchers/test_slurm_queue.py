import inspect
import os
import shlex
import signal
import stat
from pathlib import Path

import pytest

from opsin.config import CONFIGS
from opsin.config.run_config import read_yaml
from opsin.errors import UserError
from opsin.runs.directory import RunDirectory
from opsin.sweeps.launchers import Slurm, slurm, slurm_queue
from opsin.sweeps.launchers.base import Exit, Job
from opsin.sweeps.launchers.slurm_queue import Queue, end_of


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of commands that precedes those of the machine on PATH."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(slurm_queue, "REFRESH_S", -1.0)
    for name in ("sbatch", "squeue", "scancel", "scontrol", "srun"):
        say(tmp_path, name, "")
    return tmp_path


def say(folder: Path, name: str, text: str, code: int = 0) -> None:
    """Make a command print a text."""
    (folder / f"{name}.txt").write_text(text)
    (folder / name).write_text(
        f"#!/bin/sh\necho call >> {folder}/{name}.calls\ncat {folder}/{name}.txt >&{2 if code else 1}\nexit {code}\n"
    )
    (folder / name).chmod(stat.S_IRWXU)


@pytest.mark.parametrize(
    ("state", "code", "end"),
    [
        ("COMPLETED", 0, Exit(0)),
        ("FAILED", 1, Exit(1)),
        ("FAILED", 0, Exit(1)),
        ("FAILED", 137, Exit(-signal.SIGKILL)),
        ("FAILED", 139, Exit(-signal.SIGSEGV)),
        ("FAILED", -9, Exit(-signal.SIGKILL)),
        ("FAILED", 143, Exit(143, lost=True, reason="SLURM job 7 received a signal to save and end")),
        ("TIMEOUT", 0, Exit(-signal.SIGKILL, lost=True, reason="SLURM job 7: its time limit was reached")),
        ("PREEMPTED", 0, Exit(-signal.SIGKILL, lost=True, reason="SLURM job 7: it was preempted by another job")),
        ("CANCELLED", 0, Exit(-signal.SIGKILL, reason="SLURM job 7: canceled in SLURM (scancel)")),
    ],
)
def test_the_state_of_a_job_determines_its_exit(state: str, code: int, end: Exit) -> None:
    assert end_of("7", state, code) == end


def test_a_job_out_of_memory_names_the_setting_to_raise() -> None:
    end = end_of("7", "OUT_OF_MEMORY")
    assert not end.lost
    assert "launcher.memory_gb" in end.reason


def test_one_call_of_squeue_serves_all_jobs(commands: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm_queue, "REFRESH_S", 60.0)
    say(
        commands,
        "squeue",
        "".join(f"{number}|{'FAILED' if number == 3 else 'RUNNING'}|None|a|b\n" for number in range(9)),
    )
    queue = Queue()
    assert [queue.ended(str(number)) for number in range(9)] == [None] * 3 + ["FAILED"] + [None] * 5
    assert (commands / "squeue.calls").read_text().count("call") == 1
    assert queue.named("a|b") == {str(number): "RUNNING" for number in range(9) if number != 3}


def test_a_controller_that_does_not_answer_ends_no_job(commands: Path, caplog: pytest.LogCaptureFixture) -> None:
    queue = Queue()
    say(commands, "squeue", "1|RUNNING|None|a\n")
    assert queue.ended("1") is None
    say(commands, "squeue", "slurm_load_jobs error: Unable to contact slurm controller", code=1)
    assert queue.ended("1") is None
    assert queue.named("a") is None
    assert queue.exit_code("1") is None
    assert caplog.messages == [
        "SLURM does not answer (squeue --me: slurm_load_jobs error: Unable to contact slurm controller); trying again"
    ]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            "squeue: error: Unknown host\nsqueue: fatal: no configuration\nmore",
            "squeue: error: Unknown host; squeue: f",
        ),
        ("", "exit code 1"),
    ],
)
def test_a_cluster_that_never_answers_is_an_error(commands: Path, text: str, reason: str) -> None:
    say(commands, "squeue", text, code=1)
    with pytest.raises(UserError, match=rf"does not answer \(squeue --me: {reason}.*Run the same command once it does"):
        Queue().named("a")


def test_a_job_missing_from_the_queue_is_lost_after_a_time_limit(
    commands: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = Queue()
    say(commands, "squeue", "1|NODE_FAIL|None|a\n")
    assert (queue.ended("1"), queue.ended("2")) == (None, None)
    monkeypatch.setattr(slurm_queue, "FORGET_S", -1.0)
    assert (queue.ended("1"), queue.ended("2")) == ("NODE_FAIL", "FORGOTTEN")
    assert end_of("2", "FORGOTTEN").lost


def test_the_reason_of_a_waiting_job_is_logged_once(commands: Path, caplog: pytest.LogCaptureFixture) -> None:
    queue = Queue()
    say(commands, "squeue", "1|PENDING|Priority|a\n2|PENDING|PartitionTimeLimit|b\n")
    for number in ("1", "2", "1", "2"):
        assert queue.ended(number) is None
    assert caplog.messages == ["SLURM job 2 is waiting: PartitionTimeLimit (squeue --me)"]


def test_without_slurm_the_message_suggests_a_login_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"sbatch is not installed on this machine.*login node"):
        Slurm()


def test_without_submitit_the_message_names_the_install_command(
    commands: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'opsin\[slurm\]'"):
        Slurm()


def test_computed_options_are_refused(commands: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm.importlib.util, "find_spec", lambda name: name)
    with pytest.raises(UserError, match=r"launcher\.options\.signal is computed by Opsin"):
        Slurm(options={"signal": "USR1@10"})
    with pytest.raises(UserError, match=r"warning_s=120 is not shorter than launcher\.minutes=2"):
        Slurm(minutes=2)


def test_the_sbatch_script_requests_the_resources_of_the_job(commands: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("submitit", reason="submitit is not installed: pip install 'opsin[slurm]'")
    say(commands, "sbatch", "Submitted batch job 7\n")
    (commands / "sbatch").write_text((commands / "sbatch").read_text().replace("cat", f"env > {commands}/env; cat"))
    monkeypatch.setenv("SLURM_JOB_ID", "3")  # the sweep is itself a job
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "100")
    monkeypatch.setenv("SLURM_CONF", "/etc/slurm.conf")
    run, words = RunDirectory(commands / "run 1"), ("model=mlp", "data_dir='b c'")
    run.path.mkdir()
    launcher = Slurm(
        gpus=True, memory_gb=8, minutes=90, qos="low", options={"constraint": "a100"}, setup=["module load x"]
    )
    launcher.start(Job(0, words, run, devices=2))
    script = (run.path / "slurm" / "7_submission.sh").read_text().splitlines()
    for line in (
        *("--cpus-per-task=8", "--gpus-per-node=2", "--nodes=1", "--ntasks-per-node=1", "--mem=7630M", "--time=90"),
        *("--qos=low", "--constraint=a100", "--signal=TERM@120", "--no-requeue", "--dependency=singleton"),
    ):
        assert f"#SBATCH {line}" in script
    assert script.index("module load x") < next(i for i, line in enumerate(script) if line.startswith("srun"))
    assert not any("partition" in line or "wckey" in line for line in script)
    assert run.path.joinpath("console.txt").read_text() == f"job started: opsin train {shlex.join(words)}\n"
    environment = (commands / "env").read_text()
    assert "SLURM_CONF=/etc/slurm.conf" in environment
    assert "SLURM_MEM_PER_NODE" not in environment
    assert os.environ["SLURM_MEM_PER_NODE"] == "100"


def test_the_yaml_has_every_parameter_with_its_default() -> None:
    written = read_yaml(CONFIGS / "launcher" / "slurm.yaml")
    assert written.pop("_target_") == "opsin.sweeps.launchers.Slurm"
    parameters = inspect.signature(Slurm).parameters
    assert {name: value or None for name, value in written.items()} == {
        name: parameter.default or None for name, parameter in parameters.items()
    }
