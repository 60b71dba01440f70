"""Remove the guards of the source one at a time, and run their tests: `python tests/engines/guards.py [PART]`.

It takes about ten minutes. PART selects the guards whose file or tests contain this text. Each guard is removed in a
copy of `src`. The exit code is 0 if a test fails without each guard.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "helpers"))

from security_guards import GUARDS, Guard  # noqa: E402

TIME_LIMIT_S = 300
"""Seconds after which tests without a guard count as passed: a test must fail, not wait."""


def main(part: str = "") -> int:
    """Print a line for each guard, and return 1 if the tests pass without one."""
    missed = 0
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "configs").symlink_to(ROOT / "configs")
        for guard in GUARDS:
            if part in guard.file or part in guard.tests:
                caught, line = _tried(guard, Path(folder) / "src")
                missed += not caught
                sys.stdout.write(
                    f"{'caught' if caught else 'MISSED'}  {guard.file}: {guard.code.strip()[:60]!r}  {line}\n"
                )
                sys.stdout.flush()
    return int(missed > 0)


def _tried(guard: Guard, source: Path) -> tuple[bool, str]:
    """Return whether a test fails without the guard, and pytest's line about it."""
    shutil.rmtree(source, ignore_errors=True)
    shutil.copytree(ROOT / "src", source, ignore=shutil.ignore_patterns("__pycache__"))
    file = source / "opsin" / guard.file
    text = file.read_text(encoding="utf-8")
    assert text.count(guard.code) == 1, f"{guard.file} must contain this text once: {guard.code}"
    file.write_text(text.replace(guard.code, guard.without), encoding="utf-8")
    tests = [f"tests/{test}" for test in guard.tests.split()]
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(source), "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            check=False,
            timeout=TIME_LIMIT_S,
        )
    except subprocess.TimeoutExpired:
        return False, f"the tests did not end within {TIME_LIMIT_S} s"
    lines = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return done.returncode == 1 and bool(lines), (lines or done.stdout.splitlines()[-1:] or [""])[0][:160]


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2]))
