"""Faults of files and of training itself: data, stores, checkpoints, NaN, memory, ranks and jobs."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from corpus.odd_runs import ANY_FILE
from opsin.runs.directory import RunDirectory
from tests.chaos.children import Child, kill_at_step, kill_on
from tests.chaos.kills import CPU, NO_PICTURES, completed, killed, places, resumed
from tests.chaos.outcomes import Outcome, Setting, fault
from tests.chaos.run_state import COMPARED, differences
from tests.chaos.surroundings import SHORT, folder_words, one_message, photos

ROOT = Path(__file__).resolve().parents[2]
PHOTOS = (*NO_PICTURES, *CPU, "trainer.max_epochs=3")


@fault("kill-store", "SIGKILL while decoded images are stored")
def kill_store(setting: Setting) -> Outcome:
    """Kill the process that builds a store; the same command finishes it."""
    photos(setting.folder / "photos", 40)
    words = (*folder_words(setting.folder, 20), *PHOTOS)
    whole = completed(words, setting.folder, "whole")
    outcome = Outcome(compared=f"{COMPARED}, no unfinished store")
    moments = {
        "pixels opened": kill_on("open", "*.building/pixels.npy"),
        "pixels half written": kill_on("open", "*.building/pixels.npy", delay=0.01),
        "description opened": kill_on("open", "*.building/meta.json"),
        "before the rename": kill_on("os.rename", "*.building"),
    }
    for number, (moment, hook) in enumerate(moments.items()):
        shutil.rmtree(setting.folder / "data", ignore_errors=True)
        happened = killed(words, setting.folder, f"run{number}", hook)
        problems = [] if happened else ["not killed"]
        problems += resumed(words, setting.folder, f"run{number}")
        problems += [f"left: {path.name}" for path in (setting.folder / "data").rglob("*.building")]
        outcome.add(problems or differences(setting.folder / f"run{number}", whole), moment)
    return outcome


@fault("data-deleted", "Dataset deleted or changed under a run")
def data_deleted(setting: Setting) -> Outcome:
    """Delete the images during a run and before a resume; change one image before a resume."""
    source = photos(setting.folder / "photos", 40)
    words = (*folder_words(setting.folder, 20), *PHOTOS)
    whole = completed(words, setting.folder, "whole")
    outcome = Outcome(compared=f"one message; {COMPARED}")
    child = Child(("train", *words, *places(setting.folder, "during")), setting.folder, [_delete_at_step(source, 4)])
    code = child.wait()
    shutil.move(setting.folder / "gone", source)
    outcome.add([f"exit code {code}"] if code else differences(setting.folder / "during", whole), "during the run")
    killed(words, setting.folder, "killed", kill_at_step(7))
    again = ("train", f"resume={setting.folder / 'killed'}")
    for name, change, undo in (
        (
            "deleted",
            lambda: shutil.move(source, setting.folder / "gone"),
            lambda: shutil.move(setting.folder / "gone", source),
        ),
        ("changed", lambda: _swap(source), lambda: _swap(source)),
    ):
        change()
        (setting.folder / name).mkdir()
        outcome.add(one_message(Child(again, setting.folder / name), "photos"), name)
        undo()
    problems = resumed(words, setting.folder, "killed", by_name=True)
    outcome.add(problems or differences(setting.folder / "killed", whole), "restored")
    return outcome


def _swap(source: Path) -> None:
    """Exchange one image of each class with another."""
    for a, b, c in (("dark/0.png", "light/0.png", "third.png"),):
        (source / a).rename(source.parent / c)
        (source / b).rename(source / a)
        (source.parent / c).rename(source / b)


def _delete_at_step(folder: Path, step: int) -> Callable[[], None]:
    def hook() -> None:
        from opsin.training.module import Classifier

        start, count = Classifier.on_train_batch_start, 0

        def counted(self: Classifier, *arguments: object) -> object:
            nonlocal count
            count += 1
            if count == step:
                shutil.move(folder, folder.parent / "gone")
            return start(self, *arguments)  # type: ignore[arg-type]

        Classifier.on_train_batch_start = counted  # type: ignore[method-assign,assignment]

    return hook


@fault("damaged-checkpoints", "Checkpoints that are missing, cut, zeroed, or have one flipped byte")
def damaged_checkpoints(setting: Setting) -> Outcome:
    """Damage each checkpoint of a killed run, which is resumed, and of a finished run, which is evaluated."""
    whole = completed(SHORT, setting.folder, "whole")
    killed(SHORT, setting.folder, "killed", kill_at_step(50))
    outcome = Outcome(compared="resume: identical result or one message; evaluate: same metrics or one message")
    for file in ("last.ckpt", "best.ckpt"):
        for name in ("missing", "empty", "cut in half", "zeroed", "one byte flipped"):
            where = f"{file} {name}"
            outcome.add(_resume_damaged(setting.folder, where, file, name, whole), f"resume, {where}")
            outcome.add(_evaluate_damaged(setting.folder, where, file, name, whole), f"evaluate, {where}")
    return outcome


def _damaged_copy(folder: Path, run: str, name: str, file: str, damage: str) -> RunDirectory:
    copy = RunDirectory(folder / name)
    shutil.copytree(folder / run, copy.path)
    target = copy.checkpoints / file
    content = target.read_bytes()
    target.unlink()
    target.write_bytes(content)  # best.ckpt and last.ckpt may be one file
    ANY_FILE[damage](target)
    return copy


def _resume_damaged(folder: Path, where: str, file: str, damage: str, whole: Path) -> list[str]:
    copy = _damaged_copy(folder, "killed", f"resume {where}", file, damage)
    (folder / f"output {where}").mkdir()
    child = Child(("train", f"resume='{copy.path}'"), folder / f"output {where}")
    code, text = child.wait(), child.printed()
    if code == 0:
        return differences(copy.path, whole)
    return one_message(child) if file in text else [*one_message(child), "the message does not name the file"]


def _evaluate_damaged(folder: Path, where: str, file: str, damage: str, whole: Path) -> list[str]:
    copy = _damaged_copy(folder, "whole", f"evaluate {where}", file, damage)
    child = Child(("evaluate", str(copy.path), "--json"), copy.path)
    code, text = child.wait(), child.printed()
    if code:
        return one_message(child)
    expected = RunDirectory(whole).read_result().metrics["test/acc"]
    return [] if f'"test/acc": {expected}' in text else ["other metrics, and exit code 0"]


@fault("damaged-store", "Decoded images whose bytes changed, at the right size")
def damaged_store(setting: Setting) -> Outcome:
    """Change bytes of a store; a new run detects this and builds the store again, or names it."""
    photos(setting.folder / "photos", 40)
    words = (*folder_words(setting.folder, 20), *PHOTOS)
    whole = completed(words, setting.folder, "whole")
    outcome = Outcome(compared=f"{COMPARED}, or one message")
    for number, share in enumerate((0.0, 0.5, 0.9)):
        (store,) = (setting.folder / "data").rglob("pixels.npy")
        content = bytearray(store.read_bytes())
        start = 128 + int(share * (len(content) - 200))
        content[start : start + 50] = bytes(50)
        store.write_bytes(content)
        (setting.folder / f"output{number}").mkdir()
        child = Child(("train", *words, *places(setting.folder, f"run{number}")), setting.folder / f"output{number}")
        problems = (
            differences(setting.folder / f"run{number}", whole) if child.wait() == 0 else one_message(child, "store")
        )
        outcome.add(problems, f"at {share:.0%}")
        shutil.rmtree(setting.folder / "data")
        completed(words, setting.folder, f"again{number}")
    return outcome


@fault("nan", "NaN in training")
def nan(setting: Setting) -> Outcome:
    """Make a loss diverge: one message is printed, and the last good checkpoint is kept."""
    outcome = Outcome(compared="one message with the step; last.ckpt is finite")
    words = (*SHORT, "+callbacks.fault={_target_: tests.chaos.callbacks.NaNAt, step: 30}")
    variables = {"OPSIN_TARGETS": "tests"}
    child = Child(("train", *words, *places(setting.folder, "run")), setting.folder, variables=variables)
    problems = one_message(child, "step")
    last = RunDirectory(setting.folder / "run").last
    state = torch.load(last, weights_only=True)["state_dict"] if last.is_file() else {}
    problems += [] if state and all(torch.isfinite(value).all() for value in state.values()) else ["no good checkpoint"]
    outcome.add(problems, "step 30")
    return outcome


@fault("out-of-memory", "Out of memory in training, with trainer.on_oom=halve")
def out_of_memory(setting: Setting) -> Outcome:
    """Make batches above a size fail; the run continues with smaller ones and the same effective batch."""
    outcome = Outcome(compared="the run finishes with as many optimizer steps")
    whole = completed(SHORT, setting.folder, "whole")
    words = (*SHORT, "trainer.on_oom=halve", "+callbacks.fault={_target_: tests.chaos.callbacks.MemoryFor, images: 8}")
    variables = {"OPSIN_TARGETS": "tests"}
    child = Child(("train", *words, *places(setting.folder, "run")), setting.folder, variables=variables)
    code = child.wait()
    steps = [
        torch.load(RunDirectory(run).last, weights_only=True)["global_step"]
        for run in (whole, setting.folder / "run")
        if RunDirectory(run).last.is_file()
    ]
    problems = [f"exit code {code}: {child.printed()[-150:]!r}"] if code else []
    outcome.add(problems or ([] if len(set(steps)) == 1 else [f"optimizer steps {steps}"]), "16 images")
    return outcome


def environment(folder: Path) -> dict[str, str]:
    """Return the environment of a run in several processes, each of which starts from the command line."""
    paths = f"{ROOT / 'src'}:{ROOT / 'tests' / 'helpers'}:{ROOT}"
    return {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": paths,
        "OPSIN_TARGETS": "dying_rank,tests",
        "HOME": str(folder),
    }


@fault("dying-rank", "One of two ranks dies")
def dying_rank(setting: Setting) -> Outcome:
    """Kill rank 1 of a run in two processes, and resume it."""
    words = (
        "model=mlp",
        "trainer=ddp_cpu",
        "datamodule.train_fraction=0.2",
        "trainer.max_epochs=2",
        "trainer.precision=32",
        *NO_PICTURES,
        "callbacks.progress.bar=false",
    )
    die = "+callbacks.die={_target_: dying_rank.Die, how: kill, rank: 1, step: 12, note: died}"

    def run(*more: str) -> int:
        with (setting.folder / "printed.txt").open("a") as file:
            command = [sys.executable, "-m", "opsin", "train", *more]
            return subprocess.run(
                command, cwd=setting.folder, env=environment(setting.folder), stdout=file, stderr=file, timeout=300
            ).returncode

    outcome = Outcome(compared=f"all ranks end; {COMPARED}")
    problems = (
        [f"exit code {code} of the undisturbed run"] if (code := run(*words, *places(setting.folder, "whole"))) else []
    )
    problems += [] if run(*words, die, *places(setting.folder, "run")) else ["the run went on"]
    problems += [f"exit code {code}"] if (code := run(f"resume={setting.folder / 'run'}", "callbacks.die=null")) else []
    outcome.add(problems or differences(setting.folder / "run", setting.folder / "whole"), "rank 1")
    return outcome


@fault("sweep-job", "A job of a sweep killed from outside, and the sweep itself killed")
def sweep_job(setting: Setting) -> Outcome:
    """Kill a job of a sweep, and in another the process of the sweep; the same command finishes both."""
    outcome = Outcome(compared="every job finished; results of an undisturbed sweep")
    words = ("-m", *SHORT, "seed=1,2", "launcher.jobs=1")

    def start(name: str) -> subprocess.Popen[bytes]:
        folder = setting.folder / name
        folder.mkdir(exist_ok=True)
        command = [sys.executable, "-m", "opsin", "train", *words, f"data_dir={setting.folder / 'data'}"]
        with (folder / "printed.txt").open("a") as file:
            return subprocess.Popen(
                command, cwd=folder, env=environment(folder), stdout=file, stderr=file, start_new_session=True
            )

    def results(name: str) -> list[tuple[str, dict[str, float]]]:
        runs = sorted(path.parent for path in (setting.folder / name).glob("outputs/sweeps/*/*/result.json"))
        return [(run.name, RunDirectory(run).read_result().metrics) for run in runs]

    if start("whole").wait(timeout=300):
        raise RuntimeError("the undisturbed sweep failed")
    for name in ("job", "sweep"):
        process = start(name)
        deadline = time.monotonic() + 120
        while not list((setting.folder / name).rglob("last.ckpt")) and time.monotonic() < deadline:
            time.sleep(0.005)
        for pid in [process.pid] if name == "sweep" else _jobs(setting.folder / name):
            os.kill(pid, signal.SIGKILL)
        process.wait(timeout=300)
        code = start(name).wait(timeout=300)
        problems = [f"exit code {code}"] if code else []
        outcome.add(problems or ([] if results(name) == results("whole") else ["other results"]), name)
    return outcome


def _jobs(folder: Path) -> list[int]:
    """Return the processes that have the log of a job of the sweep open."""
    found = []
    for place in Path("/proc").glob("[0-9]*/fd"):
        try:
            files = [str(link.readlink()) for link in place.iterdir()]
        except OSError:
            continue
        if any(str(folder) in file and file.endswith(".log") for file in files):
            found.append(int(place.parent.name))
    return found
