"""The result of a verification: its checks, its status and its table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Status = Literal["verified", "differs", "not verified", "none"]
"""`none`: the run has nothing to check, such as test metrics of a run that was not tested."""

EXIT_CODES: Mapping[Status, int] = {"verified": 0, "differs": 1, "not verified": 3}
"""Exit code by status; argparse uses 2."""

MOST_NAMED = 3
"""Differences that a row of the table names."""


@dataclass(frozen=True)
class Check:
    """The result of one check.

    Attributes:
        name: Name of the check.
        status: Its result.
        detail: What was compared, what differs, or why it could not be compared.
        facts: Further plain values, for `--json`.
    """

    name: str
    status: Status
    detail: str
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Verification:
    """The checks of a run.

    Attributes:
        run: Path of the run directory.
        checks: The checks, in the order in which they ran.
    """

    run: str
    checks: tuple[Check, ...]

    @property
    def status(self) -> Status:
        """`differs` if any check found a difference; else `not verified` if any check could not be done."""
        found = {check.status for check in self.checks}
        return next((status for status in ("differs", "not verified") if status in found), "verified")

    @property
    def exit_code(self) -> int:
        """The exit code of the command."""
        return EXIT_CODES[self.status]

    def table(self) -> str:
        """Return one line per check, and the status of the run."""
        width = max(len(check.name) for check in self.checks)
        lines = [
            f"{check.name:{width}}  {'-' if check.status == 'none' else check.status:12}  {check.detail}"
            for check in self.checks
        ]
        return "\n".join([*lines, "", f"{self.run}: {self.status}"])

    def as_dict(self) -> dict[str, Any]:
        """Return the verification as plain values."""
        rows = [
            {"check": check.name, "status": check.status, "detail": check.detail, **check.facts}
            for check in self.checks
        ]
        return {"run": self.run, "status": self.status, "checks": rows}


def compared(name: str, differences: Sequence[str], agreement: str, **facts: Any) -> Check:
    """Return a check that differs if there is any difference.

    Args:
        name: Name of the check.
        differences: The differences; the first are named.
        agreement: Detail if there is no difference.
        facts: Further plain values.
    """
    if differences:
        return Check(name, "differs", shortened(differences), {**facts, "differences": list(differences)})
    return Check(name, "verified", agreement, facts)


def shortened(items: Sequence[str]) -> str:
    """Return the first items in one line, and the number of the others."""
    more = len(items) - MOST_NAMED
    return "; ".join(items[:MOST_NAMED]) + (f"; and {more} more" if more > 0 else "")


def missing(name: str, reason: object) -> Check:
    """Return a check that could not be done."""
    return Check(name, "not verified", " ".join(str(reason).split()))
