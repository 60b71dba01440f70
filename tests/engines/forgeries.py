"""Verify 50 forgeries and 20 honest runs, and print a table: `python tests/engines/forgeries.py [forgery|honest]`.

It takes some minutes. The exit code is 0 if every forgery is found and no honest run raises a false alarm. A forgery
that the default misses is verified with `--full` too.
"""

import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

os.environ["OPSIN_TARGETS"] = "interruptions"
os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "helpers"))

from colored_folders import colored_folder
from forging import FORGERIES, VARIANTS
from honest_runs import HONEST, honest_run, start

from opsin.commands.verify import verify
from opsin.commands.verify.checks import Verification
from opsin.runs.directory import RunDirectory

WORDS = ("augmentation=flip",)


def forgeries(folder: Path) -> Iterator[tuple[str, bool, str]]:
    """Yield each forgery, whether it was found, and the checks that found it."""
    original = start(folder, colored_folder(folder / "images"), WORDS)
    for kind, pair in FORGERIES.items():
        for consistent, forge in enumerate(pair):
            for variant in range(VARIANTS):
                place = folder / "forged"
                shutil.rmtree(place, ignore_errors=True)
                run = RunDirectory(place / "run")
                shutil.copytree(original.path, run.path)
                images = shutil.copytree(folder / "images", place / "images")
                forge(run, images, variant)
                where = [f"datamodule.path={images}"]
                found, how = verify(run, overrides=where), "default"
                if found.status == "verified":
                    found, how = verify(run, full=True, overrides=where), "--full"
                name = f"{kind} {variant + 1}{', recomputed digests' if consistent else ''}"
                yield name, found.status == "differs", f"{how}: {named(found)}"


def honest(folder: Path) -> Iterator[tuple[str, bool, str]]:
    """Yield each honest run, and whether it is verified, by default and with --full."""
    for number, kind in enumerate(HONEST):
        place = folder / f"honest{number}"
        run, where = honest_run(place, colored_folder(place / "images", seed=number), kind)
        results = [verify(run, full, where) for full in (False, True)]
        yield kind, all(found.status == "verified" for found in results), "; ".join(map(named, results))


def named(found: Verification) -> str:
    """Return the checks that found a difference or could not be done."""
    wrong = [
        f"{check.name} ({check.detail[:90]})" for check in found.checks if check.status not in ("verified", "none")
    ]
    return ", ".join(wrong) or found.status


def say(line: str) -> None:
    """Write a line at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> int:
    """Print both tables, and return the exit code."""
    logging.disable(logging.ERROR)
    total = 0
    with tempfile.TemporaryDirectory() as folder:
        for title, rows, right in (("forgery", forgeries, "found"), ("honest", honest, "verified")):
            wrong = number = 0
            if title not in (sys.argv[1:] or (title,)):
                continue
            for number, (name, ok, how) in enumerate(rows(Path(folder) / title), start=1):
                wrong += not ok
                say(f"{number:3}  {title} {name:45} {right if ok else 'WRONG':9} {how}")
            say(f"{number - wrong} of {number} {right}\n")
            total += wrong
    return 1 if total else 0


if __name__ == "__main__":
    sys.exit(main())
