"""One run in several processes: gloo on the CPU, as it would be on several GPUs."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from opsin.errors import UserError
from opsin.runs.directory import RunDirectory
from opsin.runs.per_class import read_scores
from opsin.runs.predictions import read_predictions
from opsin.training.accelerator import check_devices
from opsin.training.distributed.environment import Environment, launched, set_torchrun_variables
from opsin.training.distributed.processes import check_process_count, is_lost_connection

ROOT = Path(__file__).resolve().parents[3]
SHORT = ("datamodule.train_fraction=0.2", "trainer.max_epochs=2", "trainer.precision=32", "report=false")
CLIPPED = ("trainer.gradient_clip_norm=0.5",)
SAME = ("model=mlp", "optimizer=sgd", "optimizer.lr=0.1", "trainer.limit_train_batches=8", *CLIPPED, *SHORT)
TWO = {
    "one": ("trainer=cpu",),
    "two": ("trainer=ddp_cpu",),
    "auto": ("trainer=cpu", "trainer.devices=2"),
    "fsdp": ("trainer=ddp_cpu", "trainer.strategy=fsdp"),
    "ddp_recomputed": ("trainer=ddp_cpu", "trainer.gradient_checkpointing=true"),
    "fsdp_recomputed": ("trainer=ddp_cpu", "trainer.strategy=fsdp", "trainer.gradient_checkpointing=true"),
}
RECOMPUTED = ("ddp_recomputed", "fsdp_recomputed")
SLOW_S = 25
"""Within so many seconds a run whose process has died is over, on a busy machine; on an idle one it takes 6 at most."""


def environment() -> dict[str, str]:
    paths = f"{ROOT / 'src'}:{ROOT / 'tests' / 'helpers'}"
    targets = "observers,dying_rank,interruptions,tiny"
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths, "OPSIN_TARGETS": targets}


def torchrun(*words: object) -> list[str]:
    return [sys.executable, "-m", "torch.distributed.run", *map(str, words), str(ROOT / "train.py")]


ALONE = [sys.executable, str(ROOT / "train.py")]


def begin(folder: Path, *words: str, by: list[str] = ALONE, **variables: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*by, *words],
        cwd=folder,
        env=environment() | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen[str], code: int | None = 0) -> str:
    printed = process.communicate(timeout=400)[0]
    assert process.returncode == code or (code is None and process.returncode), printed
    return printed


def train(folder: Path, name: str, *words: str, by: list[str] = ALONE, code: int | None = 0) -> RunDirectory:
    run = RunDirectory(folder / name)
    printed = finish(begin(folder, *words, f"hydra.run.dir={run.path}", by=by), code)
    (folder / f"{name}.txt").write_text(printed)
    return run


@pytest.fixture(scope="session")
def alike(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], RunDirectory]:
    """Runs of one recipe that differ only in their processes; each is trained at its first use."""
    folder = tmp_path_factory.mktemp("alike")

    def run(name: str) -> RunDirectory:
        found = RunDirectory(folder / name)
        words = [*SAME, *TWO[name]]
        if name == "two":
            words += [f"+callbacks.watch={{_target_: observers.Watch, folder: {found.path / 'watch'}}}"]
        return found if found.result.exists() else train(folder, name, *words)

    return run


def weights(run: RunDirectory, which: str = "last") -> dict[str, torch.Tensor]:
    return torch.load(run.checkpoints / f"{which}.ckpt", weights_only=True)["state_dict"]


def assert_alike(one: RunDirectory, other: RunDirectory, splits: tuple[str, ...] = ("train", "val", "test")) -> None:
    for name, weight in weights(one).items():
        assert torch.allclose(weight, weights(other)[name], atol=1e-5), name
    expected, found = (
        {name: value for name, value in run.read_result().metrics.items() if name.split("/")[0] in splits}
        for run in (one, other)
    )
    assert found == pytest.approx(expected, abs=1e-4)


def evaluated(run: RunDirectory, split: str) -> dict:
    command = [sys.executable, str(ROOT / "scripts" / "evaluate.py"), str(run.path), "--json", "--split", split]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["two", "auto", "fsdp", *RECOMPUTED])
def test_two_processes_give_the_results_of_one_process(alike, name: str) -> None:
    one, other = alike("one"), alike(name)
    assert (one.read_result().settings.devices, other.read_result().settings.devices) == (1, 2)
    assert_alike(one, other)


@pytest.mark.slow
def test_both_processes_hold_the_same_weights(alike) -> None:
    states = [torch.load(alike("two").path / "watch" / f"{rank}.pt")["state"] for rank in (0, 1)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.slow
def test_only_one_process_writes_files_and_prints(alike) -> None:
    one, two = alike("one"), alike("two")

    def files(run: RunDirectory) -> list[str]:
        found = (path.relative_to(run.path) for path in run.path.rglob("*") if path.is_file())
        return sorted(str(path) for path in found if path.parts[0] not in ("watch", "tensorboard"))

    assert files(one) == files(two)
    assert len(list(one.path.glob("tensorboard/events*"))) == len(list(two.path.glob("tensorboard/events*")))
    place = two.path.parent
    assert sorted(path.name for path in (place / "outputs").iterdir()) == ["latest"]
    lines = [(place / f"{name}.txt").read_text().splitlines() for name in ("one", "two")]
    assert len(lines[0]) == len(lines[1])
    log = (two.path / "train.log").read_text()
    for once in ("epoch 1/2", "epoch 2/2", "test accuracy"):
        assert log.count(once) == 1
    assert len((two.path / "metrics.csv").read_text().splitlines()) == 3


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_every_image_is_measured_once_with_the_weights_that_are_saved(tmp_path: Path, strategy: str) -> None:
    # 144 images of val in batches of 50, 359 of test: the last batch and the shares of the processes have unequal sizes
    words = ("model=cnn_batchnorm", "datamodule.eval_batch_size=50", *SHORT)
    run = train(tmp_path, "run", *words, "trainer=ddp_cpu", f"trainer.strategy={strategy}")
    result = run.read_result()
    for split, count in (("val", 144), ("test", 359)):
        kept = read_predictions(run, split)
        assert kept.positions.tolist() == list(range(count))
        again = evaluated(run, split)
        confusion = read_scores(run, split).confusion.tolist()
        assert again["per_class"][split]["confusion"] == confusion
        for name, value in again["metrics"].items():
            assert result.metrics[name] == pytest.approx(value, abs=1e-6), name


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_a_resumed_run_is_bit_identical(alike, tmp_path: Path, strategy: str) -> None:
    whole = alike("two" if strategy == "ddp" else "fsdp")
    number = {"ddp": signal.SIGTERM, "fsdp": signal.SIGINT}[strategy]
    stop = f"+callbacks.stop={{_target_: dying_rank.Die, how: {number.name}, rank: 0, step: 11}}"
    words = (*SAME, "trainer=ddp_cpu", f"trainer.strategy={strategy}", stop)
    run = train(tmp_path, "cut", *words, code=128 + number)
    printed = (tmp_path / "cut.txt").read_text()
    assert printed.count(f"resume with: python {ROOT}/train.py resume=") == 1
    assert run.read_result().status == "interrupted"
    finish(begin(tmp_path, f"resume={run.path}", "callbacks.stop=null"))
    assert run.read_result().metrics == whole.read_result().metrics
    assert all(torch.equal(weight, weights(run)[name]) for name, weight in weights(whole).items())


@pytest.mark.slow
def test_a_sharded_run_resumes_in_one_process(alike, tmp_path: Path) -> None:
    stop = "+callbacks.stop={_target_: dying_rank.Die, how: SIGTERM, step: 11}"
    words = ("model=mlp", "trainer.limit_train_batches=8", *SHORT)  # Adam, which has a state
    fsdp = train(tmp_path, "fsdp", *words, "trainer=ddp_cpu", "trainer.strategy=fsdp", stop, code=143)
    finish(begin(tmp_path, f"resume={fsdp.path}", "callbacks.stop=null", "trainer.strategy=auto", "trainer.devices=1"))
    one = train(tmp_path, "one", *words, "trainer=cpu")
    # Train metrics of the interrupted epoch cover its remaining batches only.
    assert_alike(one, fsdp, splits=("val", "test"))


@pytest.mark.slow
def test_frozen_stages_of_a_sharded_network_do_not_change(tmp_path: Path) -> None:
    words = ("model=cnn_gap", "model.trainable=last:1", "feature_cache=off", *SHORT)
    run = train(tmp_path, "run", *words, "trainer=ddp_cpu", "trainer.strategy=fsdp")
    assert run.read_result().frozen.verified
    assert run.read_result().frozen.stages
    meddle = "+callbacks.meddle={_target_: observers.ChangeTensor, tensor: stages.block1.conv.weight, step: 3}"
    for word, reason in (
        ("callbacks=ema", "fsdp shards the network, but callbacks.ema averages"),
        ("model.unfreeze_every=1", "cannot unfreeze stages later"),
        (meddle, "Frozen parameters or buffers have changed"),
    ):
        printed = finish(begin(tmp_path, *words, "trainer=ddp_cpu", "trainer.strategy=fsdp", word), 1)
        assert reason in printed
        assert "Traceback" not in printed


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("", 0))
        return int(found.getsockname()[1])


@pytest.mark.slow
def test_torchrun_gives_equal_metrics_in_one_directory(alike, tmp_path: Path) -> None:
    words = (*SAME, "trainer=ddp_cpu")
    finish(begin(tmp_path, *words, by=torchrun("--nproc-per-node=2", f"--master-port={free_port()}")))
    (place,) = tmp_path.glob("outputs/2*/*")
    run = RunDirectory(place)
    assert run.read_result().metrics == alike("two").read_result().metrics
    assert not list(place.glob("train_ddp*"))


@pytest.mark.slow
def test_two_machines_train_and_resume_one_run(alike, tmp_path: Path) -> None:
    stop = "+callbacks.stop={_target_: dying_rank.Die, how: SIGTERM, step: 11}"
    words = (*SAME, "trainer=cpu", "trainer.num_nodes=2", "resume=auto")
    port = free_port()

    def both(*words: str, code: int | None) -> None:
        meet = ("--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d", f"--rdzv-endpoint=localhost:{port}")
        for process in [begin(tmp_path, *words, by=torchrun(*meet)) for _ in range(2)]:
            finish(process, code)

    both(*words, stop, code=None)
    (place,) = tmp_path.glob("outputs/2*/*")
    assert RunDirectory(place).read_result().status == "interrupted"
    both(f"resume={place}", "callbacks.stop=null", code=0)
    assert [*tmp_path.glob("outputs/2*/*")] == [place]
    assert RunDirectory(place).read_result().metrics == alike("two").read_result().metrics


@pytest.mark.slow
def test_srun_gives_equal_metrics_in_one_directory(alike, tmp_path: Path) -> None:
    job = {"SLURM_JOB_ID": str(free_port() - 15000), "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "2"}
    job |= {"SLURM_NODEID": "0", "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "2", "SLURM_JOB_NAME": "train"}
    words = (*SAME, "trainer=ddp_cpu")
    tasks = [begin(tmp_path, *words, **job, SLURM_PROCID=str(i), SLURM_LOCALID=str(i)) for i in range(2)]
    printed = [finish(task) for task in tasks]
    assert printed[1] == ""
    (place,) = tmp_path.glob("outputs/2*/*")
    assert RunDirectory(place).read_result().metrics == alike("two").read_result().metrics


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("how: kill", r"process 1 \(pid \d+\) was killed by SIGKILL"),
        ("how: kill, freeze: true", r"process 1 \(pid \d+\) was killed by SIGKILL"),
        ("how: error", r"process 1 \(pid \d+ on .+\) failed: RuntimeError: error of the test"),
        ("how: exit, step: 0", r"process 1 \(pid \d+\) ended with exit code 3"),
        (
            "how: error, step: 0",
            r"process 1 \(pid \d+ on .+\) failed: UserError: Die cannot be created: .+ of the test",
        ),
    ],
)
def test_a_process_that_dies_ends_the_run_and_is_named(tmp_path: Path, how: str, reason: str) -> None:
    died = tmp_path / "died"
    words = (*SAME, "trainer=ddp_cpu", f"+callbacks.die={{_target_: dying_rank.Die, note: {died}, {how}}}")
    run = train(tmp_path, "run", *words, code=1)
    assert time.time() - float(died.read_text()) < SLOW_S
    assert re.search(reason, (tmp_path / "run.txt").read_text())
    assert "Traceback" not in (tmp_path / "run.txt").read_text()
    result = run.read_result()
    assert result.status == "failed"
    assert re.match(f"LostProcess: {reason}", result.error)
    if "error" in how:
        assert "dying_rank.py" in run.error.read_text()
    assert not alive(tmp_path / "pid1")


@pytest.mark.slow
def test_all_processes_end_if_the_first_is_killed(tmp_path: Path) -> None:
    words = (*SAME, "trainer=ddp_cpu", f"hydra.run.dir={tmp_path / 'run'}")
    kill = f"+callbacks.die={{_target_: dying_rank.Die, how: kill, rank: 0, freeze: true, note: {tmp_path / 'died'}}}"
    finish(begin(tmp_path, *words, kill), -signal.SIGKILL)  # read to its end: the others have the pipe too
    assert time.time() - float((tmp_path / "died").read_text()) < SLOW_S
    assert not alive(tmp_path / "pid1")


@pytest.mark.slow
def test_a_process_that_dies_under_torchrun_is_named(tmp_path: Path) -> None:
    die = f"+callbacks.die={{_target_: dying_rank.Die, how: error, note: {tmp_path / 'died'}}}"
    by = torchrun("--nproc-per-node=2", f"--master-port={free_port()}")
    run = train(tmp_path, "run", *SAME, "trainer=ddp_cpu", die, by=by, code=1)
    assert time.time() - float((tmp_path / "died").read_text()) < SLOW_S
    assert run.read_result().status == "failed"
    assert "process 1 (pid" in run.read_result().error


def alive(note: Path) -> bool:
    if not note.exists():
        return False
    stat = Path("/proc") / note.read_text() / "stat"
    return stat.exists() and stat.read_text().split()[2] != "Z"


def test_the_launcher_of_a_process_is_detected() -> None:
    assert launched({}) is None
    found = launched({"RANK": "3", "WORLD_SIZE": "4", "MASTER_ADDR": "a"})
    assert found is not None
    assert (found.by, found.rank, found.world_size) == ("torchrun", 3, 4)
    task = {"SLURM_PROCID": "0", "SLURM_STEP_ID": "0", "SLURM_NTASKS": "8"}
    assert launched(task | {"SLURM_STEP_NUM_TASKS": "1"}) is None  # one task of srun is an ordinary process
    assert launched(task) is None  # a batch script, which has not called srun
    found = launched(task | {"SLURM_STEP_NUM_TASKS": "2"})
    assert found is not None
    assert (found.by, found.rank, found.world_size) == ("srun", 0, 2)


@pytest.mark.parametrize(
    ("rank", "world_size", "message"),
    [
        ("2", "2", r"variable RANK=2 must be below WORLD_SIZE=2\. Correct them, or unset both"),
        ("0", "two", r"variable WORLD_SIZE='two' must be a number that is not negative; or unset it"),
        ("-1", "2", r"variable RANK='-1' must be a number"),
    ],
)
def test_impossible_variables_of_a_launcher_are_refused(rank: str, world_size: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        launched({"RANK": rank, "WORLD_SIZE": world_size, "MASTER_ADDR": "a"})
    srun = {"SLURM_STEP_ID": "0", "SLURM_PROCID": rank, "SLURM_STEP_NUM_TASKS": world_size}
    in_srun = message.replace("RANK", "SLURM_PROCID").replace("WORLD_SIZE", "SLURM_STEP_NUM_TASKS")
    with pytest.raises(UserError, match=in_srun):
        launched(srun)


def test_srun_variables_are_translated_to_torchrun_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    told = {"SLURM_JOB_ID": "123456", "SLURM_STEP_ID": "1", "SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "3"}
    told |= {"SLURM_LOCALID": "1", "SLURM_NODEID": "1", "SLURM_STEP_NODELIST": "node[07-08]"}
    monkeypatch.setattr(os, "environ", dict(told))
    set_torchrun_variables()
    made = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "NODE_RANK": "1"}
    made |= {"MASTER_ADDR": "node07", "MASTER_PORT": "18457"}
    assert os.environ == told | made


LEFT_OVER = {"LOCAL_RANK": "0", "NODE_RANK": "1", "GROUP_RANK": "1", "MASTER_ADDR": "192.0.2.1", "MASTER_PORT": "1"}


@pytest.mark.parametrize("others", [{}, {"RANK": "0"}, {"WORLD_SIZE": "8"}, {"SLURM_PROCID": "0"}], ids=str)
def test_variables_of_no_launcher_are_deleted(monkeypatch: pytest.MonkeyPatch, others: dict[str, str]) -> None:
    monkeypatch.setattr(os, "environ", {"HOME": "/", **LEFT_OVER, **others})
    set_torchrun_variables()
    assert os.environ.keys() - {"SLURM_PROCID"} == {"HOME"}
    assert not Environment().creates_processes_externally  # or Lightning would start no processes
    assert (Environment().node_rank(), Environment().main_address) == (0, "127.0.0.1")


@pytest.mark.parametrize(
    "variables",
    [
        {"LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"},  # as Opsin starts a process
        {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "a", "MASTER_PORT": "1"},  # as torchrun does
    ],
    ids=["opsin", "torchrun"],
)
def test_variables_of_a_launcher_stay(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    monkeypatch.setattr(os, "environ", dict(variables))
    set_torchrun_variables()
    assert os.environ == variables


def test_a_run_starts_its_processes_despite_variables_of_no_launcher(tmp_path: Path) -> None:
    words = ("model=mlp", *TWO["two"], "datamodule.train_fraction=0.2", "trainer.max_epochs=1", "report=false")
    finish(begin(tmp_path, *words, f"hydra.run.dir={tmp_path / 'run'}", RANK="0", **LEFT_OVER))
    assert RunDirectory(tmp_path / "run").read_result().settings.devices == 2


@pytest.mark.parametrize("variable", ["JSM_NAMESPACE_RANK", "SLURM_PROCID"])
def test_a_rank_of_another_launcher_silences_no_logger(tmp_path: Path, variable: str) -> None:
    words = ("model=mlp", *TWO["one"], "datamodule.train_fraction=0.2", "trainer.max_epochs=1", "report=false")
    finish(begin(tmp_path, *words, f"hydra.run.dir={tmp_path / 'run'}", **{variable: "1"}))
    assert list((tmp_path / "run" / "tensorboard").glob("events.*"))


def test_settings_that_would_hang_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="the run was not started on 2 machines"):
        check_devices("cpu", 1, 2, False)
    with pytest.raises(UserError, match="sync_batchnorm=true: torch supports this on CUDA devices only"):
        check_devices("cpu", 1, 1, True)
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "2"), ("MASTER_ADDR", "localhost")):
        monkeypatch.setenv(name, value)
    check_devices("cpu", 1, 2, False)
    check_process_count(2)
    with pytest.raises(UserError, match=r"torchrun started 2 processes, but .* = 1; make them equal, or unset RANK"):
        check_process_count(1)


def test_connection_errors_are_distinguished_from_other_errors() -> None:
    gloo = "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.1.1]:4242"
    assert is_lost_connection(RuntimeError(gloo))
    assert is_lost_connection(torch.distributed.DistBackendError("watchdog"))
    assert not is_lost_connection(RuntimeError("error of the test"))
    assert not is_lost_connection(UserError("gloo"))
