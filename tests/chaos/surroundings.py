"""Faults of the machine: disks, folders, memory, clock, threads, and other processes."""

import time
from pathlib import Path

from disks import mounted

from tests.chaos.children import Child, clock_back, kill_at_step
from tests.chaos.kills import CPU, NO_PICTURES, completed, killed, places, resumed
from tests.chaos.outcomes import Outcome, Setting, fault
from tests.chaos.run_state import COMPARED, differences

SHORT = ("model=cnn_gap", "datamodule.train_fraction=0.2", "trainer.max_epochs=3", *NO_PICTURES, *CPU)


def one_message(child: Child, *parts: str) -> list[str]:
    """Return what is wrong with the end of a command that must fail with one message that contains some parts."""
    code, text = child.wait(), child.printed()
    found = [] if code == 1 else [f"exit code {code} instead of 1"]
    found += ["a traceback"] if "Traceback (most recent" in text else []
    return found + [f"the message lacks {part!r}" for part in parts if part not in text]


@fault("full-disk", "Full disk while a run writes, which is resumed once there is room")
def full_disk(setting: Setting) -> Outcome:
    """Fill the disk of the run at several moments."""
    whole = completed(SHORT, setting.folder, "whole")
    outcome = Outcome(compared=f"one message; {COMPARED}")
    for number, pause in enumerate((0.6, 1.0, 1.5)):
        with mounted(setting.folder / f"disk{number}", megabytes=12) as disk:
            (disk.path / "run").mkdir()
            name = f"disk{number}/run"
            child = Child(("train", *SHORT, *places(setting.folder, name)), setting.folder)
            deadline = time.monotonic() + 60 * pause
            while child.running() and time.monotonic() < deadline:
                if len(list(disk.path.rglob("*.ckpt"))) >= number:
                    disk.fill()
                    break
                time.sleep(0.002)
            problems = one_message(child, "disk")
            disk.free()
            problems += resumed(SHORT, setting.folder, name)
            outcome.add(problems or differences(disk.path / "run", whole), f"moment {number + 1}")
    return outcome


@fault("full-data-disk", "Full disk while decoded images are stored")
def full_data_disk(setting: Setting) -> Outcome:
    """Build a store on a disk that is too small, then on one that is large enough."""
    photos(setting.folder / "photos", 60, 64)
    words = (*folder_words(setting.folder, 512), *SHORT[2:])
    outcome = Outcome(compared="one message; no store is left; the same command works once there is room")
    with mounted(setting.folder / "disk", megabytes=16) as disk:
        first = (
            "train",
            *words,
            f"data_dir={disk.path}",
            f"output_dir={setting.folder}",
            f"hydra.run.dir={setting.folder / 'run'}",
        )
        problems = one_message(Child(first, setting.folder), "free")
        problems += [f"left: {path.name}" for path in disk.path.rglob("pixels.npy")]
        outcome.add(problems, "16 MB")
    return outcome


@fault("read-only", "Read-only disk: training is refused, a finished run can be evaluated and reported with --out")
def read_only(setting: Setting) -> Outcome:
    """Protect the disk of a finished run."""
    outcome = Outcome(compared="one message; evaluate, predict, report and compare work; no file changed")
    with mounted(setting.folder / "disk", megabytes=30) as disk:
        run = completed(SHORT, setting.folder, "disk/run")
        before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
        disk.protect()
        words = (
            "train",
            *SHORT,
            f"data_dir={setting.folder}",
            f"output_dir={disk.path}",
            f"hydra.run.dir={disk.path / 'new'}",
        )
        outcome.add(one_message(Child(words, setting.folder), str(disk.path)), "train")
        out = setting.folder / "out"
        for command in (
            ("evaluate", "--out", str(out)),
            ("report", "--out", str(out)),
            ("compare", "--out", str(out / "comparison.html")),
        ):
            child = Child((command[0], str(run), *command[1:]), setting.folder)
            code = child.wait()
            outcome.add([f"exit code {code}: {child.printed()[-150:]!r}"] if code else [], command[0])
        outcome.add([str(path) for path, time_ in before.items() if path.stat().st_mtime_ns != time_], "files")
        disk.protect(False)
    return outcome


@fault("tmpdir", "TMPDIR on another filesystem, and TMPDIR that does not exist")
def other_tmpdir(setting: Setting) -> Outcome:
    """Run with a temporary folder from which files cannot be renamed into the run directory."""
    whole = completed(SHORT, setting.folder, "whole")
    outcome = Outcome(compared=COMPARED)
    with mounted(setting.folder / "tmp", megabytes=4) as disk:
        for name, place in (("other", disk.path), ("gone", setting.folder / "nowhere")):
            child = Child(
                ("train", *SHORT, *places(setting.folder, name)), setting.folder, variables={"TMPDIR": str(place)}
            )
            code = child.wait()
            outcome.add([f"exit code {code}"] if code else differences(setting.folder / name, whole), name)
    return outcome


@fault("clock", "Clock that goes back by a day during a run")
def clock(setting: Setting) -> Outcome:
    """Set the clock back in a run, and in a run that is killed afterwards."""
    whole = completed(SHORT, setting.folder, "whole")
    outcome = Outcome(compared=COMPARED)
    child = Child(("train", *SHORT, *places(setting.folder, "back")), setting.folder, [clock_back(20)])
    code = child.wait()
    outcome.add([f"exit code {code}"] if code else differences(setting.folder / "back", whole), "whole run")
    killed(SHORT, setting.folder, "killed", clock_back(20), kill_at_step(40))
    problems = resumed(SHORT, setting.folder, "killed")
    outcome.add(problems or differences(setting.folder / "killed", whole), "killed run")
    return outcome


@fault("threads", "Resume with another number of threads")
def threads(setting: Setting) -> Outcome:
    """Resume a run of one thread on a machine that would use two."""
    words = tuple(word for word in SHORT if not word.startswith("trainer.threads"))
    first, other = ({"OMP_NUM_THREADS": count} for count in ("1", "2"))
    child = Child(("train", *words, *places(setting.folder, "whole")), setting.folder, variables=first)
    if child.wait():
        raise RuntimeError(child.printed()[-300:])
    outcome = Outcome(compared=f"{COMPARED}, or a warning that the result is not identical")
    Child(("train", *words, *places(setting.folder, "run")), setting.folder, [kill_at_step(20)], first).wait()
    before = len(child.printed())
    again = Child(("train", f"resume={setting.folder / 'run'}"), setting.folder, variables=other)
    code = again.wait()
    warned = "thread" in again.printed()[before:]
    problems = [f"exit code {code}"] if code else differences(setting.folder / "run", setting.folder / "whole")
    outcome.add([] if warned and not code else problems, "2 threads")
    return outcome


@fault("same-second", "Two runs that are started in the same second")
def same_second(setting: Setting) -> Outcome:
    """Start one command twice at once, without the name of a directory."""
    words = ("train", *SHORT, f"data_dir={setting.folder / 'data'}", f"output_dir={setting.folder / 'outputs'}")
    children = [Child(words, setting.folder) for _ in range(2)]
    codes = [child.wait() for child in children]
    runs = sorted(path.parent for path in (setting.folder / "outputs").glob("*/*/result.json"))
    outcome = Outcome(compared=f"two directories; {COMPARED}")
    problems = [f"exit codes {codes}"] if any(codes) else []
    problems += [f"{len(runs)} directories"] if len(runs) != 2 else []
    outcome.add(problems or differences(*runs))
    return outcome


@fault("two-resumes", "Two processes that resume one run: the second is refused, and a kill releases the lock")
def two_resumes(setting: Setting) -> Outcome:
    """Resume a killed run twice at once, kill the first process, and resume again."""
    whole = completed(SHORT, setting.folder, "whole")
    killed(SHORT, setting.folder, "run", kill_at_step(20))
    outcome = Outcome(compared=f"one message; {COMPARED}")
    words = ("train", f"resume={setting.folder / 'run'}")
    first = Child(words, setting.folder, [_slow_steps])
    while first.running() and not _is_locked(setting.folder / "run"):
        time.sleep(0.01)
    (setting.folder / "second").mkdir()
    outcome.add(one_message(Child(words, setting.folder / "second"), "another process"), "second process")
    first.kill()
    problems = resumed(SHORT, setting.folder, "run", by_name=True)
    outcome.add(problems or differences(setting.folder / "run", whole), "after the kill")
    return outcome


def _slow_steps() -> None:
    from opsin.training.module import Classifier

    start = Classifier.on_train_batch_start

    def slow(self: Classifier, *arguments: object) -> object:
        time.sleep(1.0)
        return start(self, *arguments)  # type: ignore[arg-type]

    Classifier.on_train_batch_start = slow  # type: ignore[method-assign,assignment]


def _is_locked(run: Path) -> bool:
    from filelock import FileLock, Timeout

    try:
        with FileLock(run / ".lock", timeout=0):
            return False
    except (Timeout, FileNotFoundError):
        return (run / ".lock").exists()


def photos(folder: Path, count: int, side: int = 16) -> Path:
    """Make a folder of two classes of noise, one darker than the other."""
    import numpy as np
    from PIL import Image

    draw = np.random.default_rng(0)
    for shade, name in enumerate(("dark", "light")):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = draw.integers(0, 100, (side, side, 3)) + 120 * shade
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{number}.png")
    return folder


def folder_words(folder: Path, side: int = 16) -> tuple[str, ...]:
    """Return the overrides of a run on the photos in a folder."""
    return (
        "model=cnn_gap",
        "datamodule=image_folder",
        f"datamodule.path={folder / 'photos'}",
        f"datamodule.image_size={side}",
        "datamodule.base_batch_size=16",
    )
